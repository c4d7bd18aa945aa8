# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Text from files and pipes, as it arrives: bytes in, whole lines (or words) out, bad bytes counted.

Knows files and UTF-8. Must not know minds. What is there is handed on at once: nobody waits for the end of
a growing log.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from haloweave.cli.options import Speaker
from haloweave.errors import InvalidInput

PIPE = "-"
_LOGS = (".log", ".csv", ".tsv", ".jsonl")
_LINED = (Speaker.LOG, Speaker.TOOL)
"""Whose lines mean something one by one."""
_READ = 1 << 16
_LONGEST = 1 << 20  # characters held back while waiting for the end of a line
_BAD = re.compile("[\udc80-\udcff]")


class Decoder:
    """UTF-8 to text, piece by piece. A bad byte becomes U+FFFD, and is counted."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.bad = 0

    def push(self, data: bytes, *, last: bool = False) -> str:
        """More bytes; a character cut in two waits for its rest."""
        text, bad = _BAD.subn("\ufffd", self._utf8.decode(data, final=last))
        self.bad += bad
        return text


class Whole:
    """Holds back a line (or word) until it is whole, so that no token is cut where a read happened to end."""

    def __init__(self, *, lines: bool) -> None:
        self._lines = lines
        self._held = ""

    def push(self, text: str) -> str:
        """More text; what is whole of it."""
        self._held += text
        cut = self._held.rfind("\n") + 1 if self._lines else _last_gap(self._held)
        if not cut and len(self._held) >= _LONGEST:
            cut = len(self._held)
        whole, self._held = self._held[:cut], self._held[cut:]
        return whole

    def flush(self) -> str:
        """The rest, whole or not."""
        whole, self._held = self._held, ""
        return whole


def _last_gap(text: str) -> int:
    """Where the last run of white space begins; what follows may still grow."""
    last = next((n for n in range(len(text) - 1, -1, -1) if text[n].isspace()), -1)
    return len(text[: last + 1].rstrip())


class Reader:
    """Iterate to get the text of one file, or of stdin for `-`, as it arrives; then see `bad`."""

    def __init__(self, name: str, *, lines: bool) -> None:
        self.name = "standard input" if name == PIPE else name
        self._path = None if name == PIPE else Path(name)
        self._lines = lines
        self.bad = 0
        """Bytes that were not UTF-8."""
        self.size = 0
        """Bytes read."""
        self.interrupted = False
        """Ctrl-C ended the reading."""

    def __iter__(self) -> Iterator[str]:
        if self._path is None:
            yield from self._texts(_stdin())
            return
        try:
            with self._path.open("rb") as file:
                yield from self._texts(file)
        except OSError as err:
            raise InvalidInput(f"{self.name}: cannot be read ({err.strerror}); check its path") from err

    def _texts(self, file: BinaryIO) -> Iterator[str]:
        decoder, whole = Decoder(), Whole(lines=self._lines)
        for data in self._pieces(file):
            self.size += len(data)
            text = whole.push(decoder.push(data))
            self.bad = decoder.bad
            if text:
                yield text
        rest = whole.push(decoder.push(b"", last=True)) + whole.flush()
        self.bad = decoder.bad
        if rest:
            yield rest

    def _pieces(self, file: BinaryIO) -> Iterator[bytes]:
        """What is there, as soon as it is there. Ctrl-C while waiting ends the file."""
        read = getattr(file, "read1", file.read)
        try:
            while data := read(_READ):
                yield data
        except KeyboardInterrupt:
            self.interrupted = True


class Said:
    """A text at hand, read like a file."""

    interrupted = False
    bad = 0

    def __init__(self, name: str, text: str) -> None:
        self.name, self._text = name, text
        self.size = len(text.encode("utf-8", "replace"))

    def __iter__(self) -> Iterator[str]:
        yield self._text


def _stdin() -> BinaryIO:
    return sys.stdin.buffer


def turns(names: Sequence[str], source: Speaker | None = None) -> list[tuple[Reader, Speaker]]:
    """Files, and whose text each is: what was said, or what its name tells (a pipe is a log).

    Raises InvalidInput where something cannot be read, before anything is loaded.
    """
    _readable(names)
    whose = [source or _by_name(name) for name in names]
    return [(Reader(n, lines=w in _LINED), w) for n, w in zip(names, whose, strict=True)]


def _by_name(name: str) -> Speaker:
    return Speaker.LOG if name == PIPE or name.lower().endswith(_LOGS) else Speaker.TEXT


def _readable(names: Sequence[str]) -> None:
    for name in names:
        if name != PIPE:
            _check(Path(name))
    if sum(name == PIPE for name in names) > 1:
        raise InvalidInput("standard input (-) can be read only once; name it once")


def _check(path: Path) -> None:
    try:
        there, folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as err:  # too long, or a NUL in it
        raise InvalidInput(f"{path}: not a path ({err}); name a file, or - for standard input") from err
    if folder:
        raise InvalidInput(f"{path}: is a directory; name the files in it, as in {path}/*")
    if not there:
        raise InvalidInput(f"{path}: no such file; check the path, or use - for standard input")
    if not os.access(path, os.R_OK):
        raise InvalidInput(f"{path}: may not be read; check its permissions")
