# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A report as one page of HTML that needs nothing else: pictures within, no script, nothing from elsewhere.

Knows blocks and PNG files; jinja2 escapes every text. Must not know what was measured.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from haloweave.bench.memory.blocks import Block, Heading, Picture

_TEMPLATE = "page.html"


def page(title: str, blocks: Iterable[Block], folder: Path) -> str:
    """`folder` holds the pictures. Raises OSError where one is missing."""
    told = list(blocks)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files(__package__).joinpath(_TEMPLATE).read_text("utf-8"))
    headings = [block.text for block in told if isinstance(block, Heading) and block.level == 2]
    anchors = {text: f"part-{number}" for number, text in enumerate(headings)}
    embedded = {block.name: _within(folder / block.name) for block in told if isinstance(block, Picture)}
    shown = [(type(block).__name__, block) for block in told]
    return template.render(title=title, blocks=shown, anchors=anchors, embedded=embedded)


def _within(picture: Path) -> str:
    return f"data:image/png;base64,{b64encode(picture.read_bytes()).decode()}"
