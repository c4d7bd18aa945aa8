# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Text files to dialogues of two: who speaks is told by the lines, or by turns.

    User: Is there a train on Sunday?        the one called User, or who speaks first, is the person
    System: At nine.
    (blank line)                             another dialogue

Knows files. Must not know tokens. What stands beside marked dialogues is no talk and left out (the
personas of a table of chats); where no line is marked at all, lines alternate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from haloweave.corpus import documents, files
from haloweave.errors import InvalidInput

_MARKED = re.compile(r"([A-Z]\w{0,15}(?: \d{1,2})?)\s*:\s+(\S.*)")
_PERSONS = ("User", "Human", "Customer")
_LONGEST = 24
"""Exchanges; what is longer is cut, so that a long chat does not fill a talk alone."""
_BLANK = re.compile(r"\n\s*\n")
_COMMENT = "#"
_TABLES = (".csv", ".jsonl")


@dataclass(frozen=True)
class Exchange:
    """What the person says, and the answer."""

    person: str
    model: str


def dialogues(data: Sequence[Path]) -> list[tuple[Exchange, ...]]:
    """All of them, in the order of the files. Raises InvalidInput if there is none."""
    found = [talk for path in files(data) for text in _texts(path) for talk in _dialogues(text)]
    if not found:
        raise InvalidInput(
            f"no dialogue in {', '.join(map(str, data))}: expected lines such as `User: ...` and "
            "`System: ...`, or lines that alternate"
        )
    return found


def _texts(path: Path) -> Iterator[str]:
    """Lines as they are: to `documents`, those of a talk in sentences of one length look wrapped."""
    if path.suffix.lower() in _TABLES:
        yield from (document.text for document in documents([path]))
        return
    try:
        yield path.read_text("utf-8-sig", "replace")
    except OSError as err:
        raise InvalidInput(f"{path}: cannot be read ({err.strerror}): leave it out or mend it") from err


def _dialogues(text: str) -> Iterator[tuple[Exchange, ...]]:
    blocks = [[line for line in block.splitlines() if _speaks(line)] for block in _BLANK.split(text)]
    marked = [turns for block in blocks if (turns := _marked(block))]
    for turns in marked or _alternating(blocks):
        exchanges = _paired(turns)
        for start in range(0, len(exchanges), _LONGEST):
            yield exchanges[start : start + _LONGEST]


def _speaks(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(_COMMENT)


def _marked(block: Sequence[str]) -> list[tuple[bool, str]]:
    """Turns of a dialogue whose lines say who speaks: whether it is the person, and what; of others none."""
    turns: list[tuple[str, str]] = []
    for line in block:
        found = _MARKED.fullmatch(line.strip())
        if found is None and not turns:
            return []
        turns.append((found[1], found[2]) if found else (turns[-1][0], line.strip()))
    speakers = list(dict.fromkeys(name for name, _ in turns))
    if len(speakers) != 2:
        return []
    person = next((name for name in speakers if name in _PERSONS), speakers[0])
    return [(name == person, said) for name, said in turns]


def _alternating(blocks: Sequence[Sequence[str]]) -> list[list[tuple[bool, str]]]:
    """Every second line is the person's; where each line stands alone, all of them are one talk."""
    alone = all(len(block) < 2 for block in blocks)
    talks = [[line for block in blocks for line in block]] if alone else blocks
    return [[(n % 2 == 0, line.strip()) for n, line in enumerate(talk)] for talk in talks]


def _paired(turns: Sequence[tuple[bool, str]]) -> tuple[Exchange, ...]:
    """From the person's first turn to the last answer; what one says in several lines is one turn."""
    said: list[tuple[bool, str]] = []
    for person, text in turns:
        if said and said[-1][0] == person:
            said[-1] = (person, f"{said[-1][1]} {text}")
        elif said or person:
            said.append((person, text))
    return tuple(Exchange(a[1], b[1]) for a, b in zip(said[::2], said[1::2], strict=False))
