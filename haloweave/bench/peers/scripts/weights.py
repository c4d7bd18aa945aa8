# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A model folder that transformers 5 wrote, for whichever transformers is here.

Before version 5 `rope_parameters` and `dtype` mean nothing: the rotary base would silently be 10,000,
whatever the model was trained with. For those a copy of the folder is made, with a config in their words and
links to all else.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

_NEW = int(transformers.__version__.split(".")[0]) >= 5


def load(job: dict[str, Any], cls: Any = None, **how: Any) -> Any:
    """The model of a job, on the CPU; `cls`: a class of the peer's own."""
    torch.set_num_threads(int(job["threads"]))
    number = getattr(torch, job["dtype"])
    path = Path(job["model"])
    folder = path if _NEW else translated(path, Path(tempfile.mkdtemp(prefix="halo-peer-")))
    how["dtype" if _NEW else "torch_dtype"] = number
    model = (cls or transformers.AutoModelForCausalLM).from_pretrained(folder, **how)
    return model.eval().requires_grad_(False)


def translated(path: Path, target: Path) -> Path:
    """The folder `path` in the words of transformers 4."""
    for file in path.iterdir():
        if file.name != "config.json":
            (target / file.name).symlink_to(file)
    config = json.loads((path / "config.json").read_text("utf-8"))
    (target / "config.json").write_text(json.dumps(older(config)), "utf-8")
    return target


def older(config: dict[str, Any]) -> dict[str, Any]:
    """A config of transformers 5 in the words of transformers 4."""
    told = dict(config)
    rope = dict(told.pop("rope_parameters", None) or {})
    if "rope_theta" in rope:
        told["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type", "default")
    if kind != "default":
        told["rope_scaling"] = {"type": kind, "rope_type": kind, **rope}
    if "dtype" in told:
        told["torch_dtype"] = told.pop("dtype")
    return told
