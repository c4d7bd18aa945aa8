# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Folders of text to a corpus by language, with an evaluation set that nothing trained on it has seen.

    gather     files to documents of whole lines, none twice, each with its language and its sources
    hold_out   those whose own hash says so are kept apart; lines that share a passage with them are dropped
    portion    of what is left, so many bytes per language, by lot

A document is held out by its own text alone: another's run over other folders holds out the same ones. Knows
files and languages. Must not know screens, tokens or models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from haloweave.corpus import documents, files
from haloweave.diffusion.judging.broken import broken
from haloweave.diffusion.judging.languages import Language, language
from haloweave.diffusion.judging.overlap import Passages, spoken
from haloweave.diffusion.text.clusters import canonical
from haloweave.errors import InvalidInput
from haloweave.progress import Progress, silent

LONGEST = 2000
"""Characters of a document, about: whole lines are joined up to it, longer ones cut between words."""
SHORTEST = 200
"""Characters below which a document says too little, of its language too, and is left out."""
_APPARATUS = re.compile(r"=== |.*://|\[.*licen[cs]e.*\]$", re.I)
"""A line that is no text but about it: the name of what follows, addresses, a licence in brackets."""


@dataclass(frozen=True)
class Piece:
    """A document of one language, its lines, and the file that it is of."""

    path: Path
    language: Language
    lines: tuple[str, ...] = field(repr=False)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def digest(self) -> bytes:
        return sha256(self.text.encode()).digest()


@dataclass(frozen=True)
class Gathered:
    """What some folders hold, and what of it was passed over."""

    pieces: tuple[Piece, ...]
    unreadable: tuple[str, ...]
    """Files that are not what they are called, each with its error."""
    broken: int
    """Lines that are not proper UTF-8, or hold a cluster that nobody writes on purpose."""
    foreign: int
    """Documents in none of the languages."""


@dataclass(frozen=True)
class Parted:
    """Evaluation and training, which share no passage."""

    held: tuple[Piece, ...]
    train: tuple[Piece, ...]
    dropped: int
    """Lines of training that shared a passage with the evaluation set, or stood in another file too."""


def readable(roots: Sequence[Path], leave_out: Sequence[str] = ()) -> list[Path]:
    """Every text and table (.tsv) below some roots, sorted, without those that match a glob.

    Raises InvalidInput if a root is missing, a glob matches nothing, or nothing is left.
    """
    missing = next((root for root in roots if not root.exists()), None)
    if missing is not None:
        raise InvalidInput(f"no such file or folder: {missing}")
    found = {path.resolve(): path for root in roots for path in (*_texts(root), *_tables(root))}
    for glob in leave_out:
        if not glob or not any(path.match(glob) for path in found.values()):
            raise InvalidInput(f"nothing to leave out matches {glob!r}; expected a name or the end of a path")
    kept = [path for path in found.values() if not any(path.match(glob) for glob in leave_out)]
    if not kept:
        raise InvalidInput(f"nothing to read in {', '.join(map(str, roots))}; give folders of texts")
    return sorted(kept)


def _texts(root: Path) -> list[Path]:
    try:
        return files([root])
    except InvalidInput:  # a folder without any is no fault while another has some
        return []


def _tables(root: Path) -> list[Path]:
    found = [root] if root.is_file() else root.rglob("*")
    below = root.parent if root.is_file() else root
    tables = [p for p in found if p.suffix.lower() == ".tsv" and p.is_file()]
    return [p for p in tables if not any(part[0] == "." for part in p.relative_to(below).parts)]


def gather(paths: Sequence[Path], progress: Progress = silent) -> Gathered:
    """The documents of some files. Within a file no line stands twice."""
    pieces: list[Piece] = []
    unreadable: list[str] = []
    odd = foreign = 0
    for done, path in enumerate(paths):
        progress("reading text", done, len(paths))
        try:
            streams = list(_streams(path))
        except InvalidInput as error:
            unreadable.append(str(error))
            continue
        seen: set[str] = set()
        for lines in streams:
            whole = [line for line in lines if not broken(line)]
            odd += len(lines) - len(whole)
            for part in _joined(_once(whole, seen)):
                name = language("\n".join(part))
                foreign += name is None
                pieces += [Piece(path, name, part)] if name else []
    return Gathered(tuple(pieces), tuple(unreadable), odd, foreign)


def _streams(path: Path) -> Iterator[list[str]]:
    """The lines of a file; those of a table by column, where a column holds sentences. Short documents of one
    file follow each other in one stream."""
    if path.suffix.lower() == ".tsv":
        yield from _columns(path)
        return
    stream: list[str] = []
    for document in documents([path]):
        stream += _lines(document.text)
        if sum(map(len, stream)) >= LONGEST // 2:
            yield stream
            stream = []
    yield stream


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in canonical(text).replace("\0", "").split("\n"))
    return [line for line in lines if line and not _APPARATUS.match(line)]


def _columns(path: Path) -> Iterator[list[str]]:
    try:
        rows = [line.split("\t") for line in path.read_text("utf-8-sig", errors="replace").split("\n")]
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); leave it out or mend it") from error
    for i in range(max(map(len, rows))):
        cells = [line for row in rows if len(row) > i for line in _lines(row[i])]
        if sum(_sentence(cell) for cell in cells) > 0.5 * len(cells):
            yield [cell for cell in cells if _sentence(cell)]


def _sentence(cell: str) -> bool:
    """No single word of a lexicon, no label, no bracketed parse."""
    return len(cell.split()) > 2 and not cell.startswith(("[", "("))


def _once(lines: Iterable[str], seen: set[str]) -> Iterator[str]:
    for line in lines:
        if line not in seen:
            seen.add(line)
            yield line


def _joined(lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Lines one after another up to LONGEST; a rest that is too short to be a document is dropped."""
    part: list[str] = []
    for line in (bit for whole in lines for bit in _cut(whole)):
        if part and sum(map(len, part)) + len(line) > LONGEST:
            yield tuple(part)
            part = []
        part.append(line)
    if sum(map(len, part)) >= SHORTEST:
        yield tuple(part)


def _cut(line: str) -> Iterator[str]:
    """A line, or one that is too long in parts that end with a word, if it has any."""
    while len(line) > LONGEST:
        at = line.rfind(" ", LONGEST // 2, LONGEST) + 1 or LONGEST
        yield line[:at].strip()
        line = line[at:]
    yield line.strip()


def hold_out(pieces: Iterable[Piece], share: float, progress: Progress = silent) -> Parted:
    """`share` of the documents apart; from the others what they have in common with those."""
    held: dict[bytes, Piece] = {}
    rest: list[Piece] = []
    for piece in pieces:
        if int.from_bytes(piece.digest[:8], "big") < share * 2**64:
            held.setdefault(piece.digest, piece)
        else:
            rest.append(piece)
    apart = Passages(piece.text for piece in held.values())
    kept, seen = [], {line for piece in held.values() for line in piece.lines}
    for done, piece in enumerate(rest):
        progress("looking for shared passages", done, len(rest))
        part = Piece(piece.path, piece.language, _unshared(tuple(_once(piece.lines, seen)), apart))
        if len(part.text) >= SHORTEST and not apart.shared(spoken(part.text)).any():
            kept.append(part)
    lines = sum(len(p.lines) for p in rest) - sum(len(p.lines) for p in kept)
    in_order = tuple(sorted(held.values(), key=lambda piece: piece.digest))
    return Parted(in_order, tuple(kept), lines)


def _unshared(lines: tuple[str, ...], apart: Passages) -> tuple[str, ...]:
    """Lines without those that have a part in a shared passage."""
    words = [spoken(line) for line in lines]
    shared = apart.shared([word for line in words for word in line])
    kept, at = [], 0
    for line, own in zip(lines, words, strict=True):
        if not shared[at : at + len(own)].any():
            kept.append(line)
        at += len(own)
    return tuple(kept)


def portion(pieces: Iterable[Piece], most: int, seed: int) -> list[Piece]:
    """Documents by lot until they have `most` bytes, an end of line for each included, in that order."""
    chosen: list[Piece] = []
    total = 0
    for piece in sorted(pieces, key=lambda p: sha256(b"%d:" % seed + p.digest).digest()):
        size = len(piece.text.encode()) + 1
        if total + size > most:
            break
        chosen.append(piece)
        total += size
    return chosen
