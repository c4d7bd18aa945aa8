# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo pack`: a trained denoiser in a quarter of its size, to give away."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from haloweave.cli.tools import tools_of
from haloweave.errors import InvalidInput


def pack(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that `halo train` wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
) -> None:
    """Pack a denoiser in 8 bits, without what only training needs.

    It is used like the folder it was packed from. Borrowed embeddings stay with their host.
    """
    from haloweave import denoising
    from haloweave.diffusion import checkpoint

    if out.exists():
        raise InvalidInput(f"{out}: is there already; choose a new folder")
    denoising.calibration(model)  # a damaged one is told before anything is written
    checkpoint.pack(model, out)
    for name in (denoising.CALIBRATION, "README.md"):
        if (model / name).is_file():
            shutil.copyfile(model / name, out / name)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    tools_of(context).tell(f"packed: {out}, {size / 1e6:.1f} MB")
