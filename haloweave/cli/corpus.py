# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo corpus`: folders of text to one of training and evaluation text in English, Hindi, Hinglish and both
scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haloweave.cli.tools import Tools, tools_of
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.language_corpus import Gathered, Parted, Piece

MANIFEST = "manifest.json"
_MOST_HELD = 0.5


def corpus(
    context: typer.Context,
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Texts, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write, which is new.")],
    per_language: Annotated[
        int, typer.Option("--per-language", metavar="BYTES", min=1, help="Training text, at most.")
    ] = 4_000_000,
    held_share: Annotated[
        float, typer.Option("--held-share", metavar="P", help="Kept for evaluation.")
    ] = 0.08,
    leave_out: Annotated[
        list[str] | None, typer.Option("--leave-out", metavar="GLOB", help="Files not to read.")
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Chooses and orders training text only.")
    ] = 0,
) -> None:
    """Gather text in English, Hindi, Hinglish and mixed script, for training and for evaluation.

    Languages are told by content. DIR/held holds documents chosen by their own hash, the same whoever runs
    this; DIR/train shares no line with them, nor any eight words in a row. DIR/manifest.json says how much of
    what came from where, under which licence.
    """
    tools = tools_of(context)
    from haloweave.cli.waiting import reporting
    from haloweave.language_corpus import gather, hold_out, portion, readable

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out}: expected a new or empty folder; give another --out or remove it")
    if not 0 <= held_share <= _MOST_HELD:
        raise InvalidInput(f"--held-share {held_share}: expected 0 to {_MOST_HELD}")
    with reporting(tools, "reading") as progress:
        found = gather(readable(data, leave_out or ()), progress)
        if not found.pieces:
            raise InvalidInput(_nothing(data, found))
        parted = hold_out(found.pieces, held_share, progress)
        train = {name: portion(own, per_language, seed) for name, own in _by_language(parted.train).items()}
    written = _write(out, train, _by_language(parted.held), data)
    _tell(tools, out, written, found, parted)


def _nothing(data: Sequence[Path], found: Gathered) -> str:
    odd = "; ".join(found.unreadable[:3])
    where = ", ".join(map(str, data))
    return f"{where}: nothing in English, Hindi or Hinglish; give folders of texts{odd and f' ({odd})'}"


def _by_language(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    from haloweave.diffusion.judging.languages import LANGUAGES

    found: dict[str, list[Piece]] = {name: [] for name in LANGUAGES}
    for piece in pieces:
        found[piece.language].append(piece)
    return found


def _write(
    out: Path, train: Mapping[str, list[Piece]], held: Mapping[str, list[Piece]], roots: Sequence[Path]
) -> dict[str, Any]:
    """The files, the manifest last: what it says is there, is there."""
    from haloweave.language_suite import digest

    told: dict[str, Any] = {}
    for name in train:
        parts = {side: _file(out, side, name, own[name]) for side, own in (("train", train), ("held", held))}
        told[name] = {**parts, "sources": _sources([*train[name], *held[name]], roots)}
    manifest = {"evaluation_set": digest(out / "held"), "languages": told}
    _put(out / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    return manifest


def _file(out: Path, side: str, name: str, pieces: Sequence[Piece]) -> dict[str, Any] | None:
    """What was written of one language; nothing for nothing."""
    if not pieces:
        return None
    text = "".join(json.dumps({"text": piece.text}, ensure_ascii=False) + "\n" for piece in pieces)
    path = out / side / f"{name}.jsonl"
    _put(path, text)
    size = sum(len(piece.text.encode()) for piece in pieces)
    told = {"file": f"{side}/{path.name}", "documents": len(pieces), "bytes": size}
    return {**told, "sha256": sha256(text.encode()).hexdigest()}


def _put(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written ({error.strerror}); give another --out") from error


def _sources(pieces: Iterable[Piece], roots: Sequence[Path]) -> list[dict[str, Any]]:
    """Whom the documents of a language come from, most first."""
    from haloweave.corpus import credit, home

    homes = {path: home(path, roots) for path in {piece.path for piece in pieces}}
    counts = Counter(homes[piece.path] for piece in pieces)
    found: list[dict[str, Any]] = []
    for folder, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0].name)):
        own = credit(folder)
        told: dict[str, Any] = {
            "name": own.name,
            "licence": own.licence,
            "source": own.source,
            "documents": count,
        }
        if "not stated" in (own.licence, own.source):
            told["note"] = _note(folder)
        found.append(told)
    return found


def _note(folder: Path) -> str:
    """What a note says that has no line for source or licence alone: one of several files, say."""
    from haloweave.corpus import NOTE

    path = folder / NOTE
    return path.read_text("utf-8-sig", errors="replace")[:4000] if path.is_file() else ""


def _tell(tools: Tools, out: Path, written: Mapping[str, Any], found: Gathered, parted: Parted) -> None:
    for name, told in written["languages"].items():
        sizes = (f"{told[side]['bytes'] if told[side] else 0:,} bytes" for side in ("train", "held"))
        if told["train"] or told["held"]:
            tools.tell(f"{name}: {' to train on, '.join(sizes)} held out")
        else:
            tools.tell(f"{name}: none found")
    tools.tell(
        f"left out: {parted.dropped:,} lines that stand twice or share a passage with what is held out, "
        f"{found.broken:,} in a broken encoding, {found.foreign:,} documents in other languages"
    )
    for error in found.unreadable:
        tools.tell(f"skipped: {error}")
    tools.tell(f"wrote {out}; evaluation set {written['evaluation_set'][:16]}")
