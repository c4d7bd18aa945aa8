# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A page for each command, written from the code: `python -m haloweave.cli.document [--check]`.

Knows the table of commands as Typer builds it. A test fails where a page is missing or out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from haloweave.cli import bench
from haloweave.cli.slash import COMMANDS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "commands"
_NOTE = "<!-- Written by `python -m haloweave.cli.document` from the code; change the code, then run it. -->"

_AFTER = """Exit codes: 0 done, 1 a check failed, 2 what was asked for cannot be done, 130 ended by Ctrl-C.

All of these take `--help`. A setting without an option can be given in the environment as `HALO_<NAME>`;
`haloweave/settings.py` lists them all."""


def pages() -> dict[str, str]:
    """File name to text."""
    from haloweave.cli.app import app

    bench.load()
    root = get_command(app)
    made = {"README.md": _index(root)}
    for path, command in _leaves(root, ()):
        made["-".join(path) + ".md"] = _page(path, command)
    return made


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its words."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name in sorted(below):
        yield from _leaves(below[name], (*path, name))


def _index(root: Any) -> str:
    lines = [_NOTE, "", "# Commands", "", _paragraphs(root.help), ""]
    for path, command in _leaves(root, ()):
        words, page = " ".join(path), "-".join(path)
        lines.append(f"- [`halo {words}`]({page}.md): {_paragraphs(command.help).split(chr(10))[0]}")
    return "\n".join([*lines, "", _AFTER, ""])


def _page(path: tuple[str, ...], command: Any) -> str:
    parts = [_NOTE, "", f"# halo {' '.join(path)}", "", _paragraphs(command.help), ""]
    parts += ["```text", _usage(path, command), "```", ""]
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        rows = [p for p in command.params if p.param_type_name == kind and not getattr(p, "hidden", False)]
        if rows:
            parts += [f"## {title}", "", f"| {kind} | meaning |", "|---|---|", *map(_row, rows), ""]
    return "\n".join(parts + (_slashes() if path == ("chat",) else []))


def _usage(path: tuple[str, ...], command: Any) -> str:
    words = ["halo", *path, "[OPTIONS]"]
    for p in command.params:
        if p.param_type_name == "argument":
            name = p.metavar or p.name.upper()
            words.append(f"{name if p.required else f'[{name}]'}{'...' if p.nargs == -1 else ''}")
    return " ".join(words)


def _row(p: Any) -> str:
    if p.param_type_name == "argument":
        names = p.metavar or p.name.upper()
    else:
        names = ", ".join([*p.opts, *p.secondary_opts])
    default = "" if p.default in (None, False, (), "") or p.required else f" Default: {_shown(p.default)}."
    return f"| `{names}` | {_cell(p.help or '')}{default} |"


def _shown(default: Any) -> str:
    values = default if isinstance(default, list | tuple) else [default]
    return " ".join(f"`{getattr(v, 'value', v)}`" for v in values)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _slashes() -> list[str]:
    """The slash commands of the chat."""
    rows = [f"| `{f'/{name} {c.takes}'.strip()}` | {_cell(c.tells)} |" for name, c in COMMANDS.items()]
    return ["## In the chat", "", "| line | what it does |", "|---|---|", *rows, "| `/quit` | leave |", ""]


def _paragraphs(text: str | None) -> str:
    """A docstring, one line a paragraph."""
    blocks = re.split(r"\n\s*\n", (text or "").strip())
    return "\n\n".join(" ".join(b.split()) for b in blocks)


def stale(folder: Path = FOLDER) -> list[str]:
    """Pages that are missing, out of date, or of commands that are gone."""
    wanted = pages()
    there = {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.md")} if folder.is_dir() else {}
    return sorted(n for n in wanted.keys() | there.keys() if wanted.get(n) != there.get(n))


def write(folder: Path = FOLDER) -> list[str]:
    """Bring the folder up to date; the pages that changed."""
    wanted, changed = pages(), stale(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        found = stale()
        print("\n".join(f"out of date: {name}" for name in found) or "up to date")
        sys.exit(1 if found else 0)
    print("\n".join(f"wrote {name}" for name in write()) or "up to date")
