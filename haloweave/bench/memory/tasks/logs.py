# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Server logs, in which one line in a hundred matters: does it survive, and can it be asked about?

Knows log files. Must not know models. An important line bears the time stamp of the line before it, and its
level in that line's style; service, host and ticket are invented and stand nowhere else in the case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haloweave.bench.memory.cases import Case, Piece, Question
from haloweave.bench.memory.tasks.names import HOSTS, SERVICES
from haloweave.bench.memory.tasks.script import Script, checked, distinct, drawn, named, numbers, tells
from haloweave.errors import InvalidInput
from haloweave.memory.tokens import Source

TASK = "logs"
RARE = 100
"""Lines for each that matters."""
HOST, SERVICE, TICKET = "host", "service", "ticket"
"""Kinds of question."""
_TURN = 8
"""Lines of one piece."""
_SKIP = 0.1
"""Share of a log that may be skipped before the first case."""
_STAMP = re.compile(
    r".{0,24}?(?:\d{1,2}[:.]\d{1,2}[:.]\d{1,2}(?:[.,:]\d+)?(?:Z|[+-]\d\d:?\d\d)?|\b\d{6} \d{6}\b|\b1\d{9}\b)"
    r"(?:(?: \d{4})?\]|[|,])?"
)
"""Time of day, or seconds since 1970, and all before it."""
_LEVEL = re.compile(
    r".{0,8}?(\[?)\b(debug|info|notice|warn|warning|error|fatal|severe)\b(\]?)", re.IGNORECASE
)
_EVENTS = (
    "write queue stalled",
    "certificate expired",
    "replica lost its leader",
    "checksum mismatch in a segment",
    "out of file handles",
    "volume went read-only",
    "backup never finished",
    "clock drifted too far",
)


@dataclass(frozen=True)
class _Failure:
    """What an important line tells."""

    service: str
    host: str
    ticket: str
    event: str

    def line(self, before: str) -> str:
        told = f"{self.service}: {self.event} on host {self.host}, ticket {self.ticket}"
        return head(before) + told

    def questions(self) -> Iterator[tuple[str, str, str]]:
        """Kind, question, answer."""
        yield HOST, f"On which host did the service {self.service} fail?", self.host
        yield SERVICE, f"Which service failed on host {self.host}?", self.service
        yield TICKET, f"What is the ticket number of the failure of {self.service}?", self.ticket


def cases(
    data: Sequence[Path],
    size: Callable[[Piece], int],
    *,
    tokens: int,
    count: int,
    seed: int,
    rare: int = RARE,
) -> list[Case]:
    """Stretches of about `tokens` tokens, from one log after another and then round again, none read twice.
    One line in `rare` matters, in a short stretch one all the same; everything is asked at the end. `data`:
    logs (*.log), and folders of them.

    Raises InvalidInput if there is too little of them.
    """
    checked(tokens, count, seed)
    if rare < 1:
        raise InvalidInput(f"expected an important line in 1 or more lines, got {rare}")
    rng = np.random.default_rng(seed)
    open_ = [_Log.of(path, rng) for path in _shuffled(_logs(data), rng)]
    found: list[Case] = []
    while open_ and len(found) < count:
        for log in list(open_)[: count - len(found)]:
            lines = log.stretch(tokens, size)
            if lines is None:
                open_.remove(log)
                continue
            found.append(_case(log, lines, size, rare, tokens, seed))
    if len(found) < count:
        raise InvalidInput(
            f"expected logs for {count} stretches of {tokens} tokens, got enough for {len(found)}: give more "
            "logs, or ask for fewer or shorter stretches"
        )
    return found


def head(before: str) -> str:
    """How a line begins that follows another: its stamp and a level, in its style."""
    stamp = _STAMP.match(before)
    start = stamp[0] if stamp else next(iter(before.split()), "")
    level = _LEVEL.match(before, len(start))
    if level is None:
        return f"{start}CRITICAL|" if start.endswith("|") else f"{start} CRITICAL "
    word = "critical" if level[2].islower() else "CRITICAL" if level[2].isupper() else "Critical"
    return f"{before[: level.start(1)]}{level[1]}{word}{level[3]} "


def _case(
    log: _Log, lines: Sequence[str], size: Callable[[Piece], int], rare: int, tokens: int, seed: int
) -> Case:
    number = max(len(lines) // rare, 1)
    rng = np.random.default_rng([seed, log.told, *log.name.encode()])
    failures = _failures(rng, number, "\n".join(lines))
    places = [int((n + rng.random()) / number * len(lines)) for n in range(number)]
    said = dict(zip(places, failures, strict=True))
    script, evidence = _written(lines, said, size)
    questions: list[Question] = []
    for failure in failures:
        line, piece = evidence[failure]
        questions += [
            script.question(piece, line, asked, answer, kind) for kind, asked, answer in failure.questions()
        ]
    return script.case(TASK, log.name, named(log.name, log.told, tokens, seed), questions)


def _failures(rng: np.random.Generator, count: int, text: str) -> list[_Failure]:
    services = drawn(rng, [name for name in SERVICES if not tells(text, name)], count, "services")
    hosts = drawn(rng, [name for name in HOSTS if not tells(text, name)], count, "hosts")
    tickets = numbers(rng, count, text)
    events = [_EVENTS[n] for n in rng.integers(len(_EVENTS), size=count).tolist()]
    return [_Failure(*told) for told in zip(services, hosts, tickets, events, strict=True)]


def _written(
    lines: Sequence[str], said: dict[int, _Failure], size: Callable[[Piece], int]
) -> tuple[Script, dict[_Failure, tuple[str, int]]]:
    """The pieces, and of each failure its line and the number of its piece."""
    written: list[str] = []
    evidence: dict[_Failure, tuple[str, int]] = {}
    for number, line in enumerate(lines):
        written.append(line)
        if failure := said.get(number):
            evidence[failure] = (failure.line(line), len(written) // _TURN)
            written.append(evidence[failure][0])
    return Script.of(_turns(written), size), evidence


def _turns(lines: Sequence[str]) -> Iterator[Piece]:
    for start in range(0, len(lines), _TURN):
        yield Piece("\n".join(lines[start : start + _TURN]), Source.LOG)


# ---- files -------------------------------------------------------------------------------------------


@dataclass
class _Log:
    """What is left of one."""

    name: str
    lines: list[str]
    at: int
    told: int = 0

    @staticmethod
    def of(path: Path, rng: np.random.Generator) -> _Log:
        try:
            text = path.read_text("utf-8-sig", "replace")
        except OSError as err:
            raise InvalidInput(f"{path}: cannot be read ({err.strerror}): leave it out or mend it") from err
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return _Log(path.stem, lines, int(_SKIP * rng.random() * len(lines)))

    def stretch(self, tokens: int, size: Callable[[Piece], int]) -> list[str] | None:
        """The next lines, of at least so many tokens; None: there are fewer."""
        count = self.at
        for piece in _turns(self.lines[self.at :]):
            count += piece.text.count("\n") + 1
            tokens -= size(piece)
            if tokens <= 0:
                taken, self.at = self.lines[self.at : count], count
                self.told += 1
                return taken
        return None


def _logs(data: Sequence[Path]) -> list[Path]:
    for path in data:
        if not path.exists():
            raise InvalidInput(f"no such file or folder: {path}")
    within = (sorted(path.rglob("*.log")) if path.is_dir() else [path] for path in data)
    found = list(dict.fromkeys(p for paths in within for p in paths if p.suffix == ".log" and p.is_file()))
    if not found:
        raise InvalidInput(f"no log in {', '.join(map(str, data))}: expected files that end in .log")
    distinct(path.stem for path in found)
    return found


def _shuffled(paths: Sequence[Path], rng: np.random.Generator) -> list[Path]:
    return [paths[n] for n in rng.permutation(len(paths)).tolist()]
