# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What the names in records mean, in one line each: tasks, arms, metrics and which way a metric is better.

Knows words. Must not know numbers. A name that is not here is reported all the same, without a direction.
"""

from __future__ import annotations

from dataclasses import dataclass

FULL, NONE, HALO, RECALL = "full", "none", "halo", "halo+recall"
LOSS, KL, TOP1, ANSWER, EXACT, ALIVE, PACE = (
    "nats", "kl", "top1", "answer", "exact", "alive", "tokens_per_s",
)  # fmt: skip
BOOKS, SPEED, COMPARE, SCALE = "books", "speed", "compare", "scale"


@dataclass(frozen=True)
class Metric:
    """How a number is to be read."""

    name: str
    what: str
    unit: str = ""
    better: int = 0
    """1 where more is better, -1 where less is, 0 where neither is."""
    digits: int = 3
    chance: bool = False
    """Of zeros and ones."""
    brief: str = ""

    @property
    def short(self) -> str:
        """For a sentence."""
        return self.brief or self.what

    @property
    def label(self) -> str:
        """For an axis or a column."""
        return f"{self.what}, {self.unit}" if self.unit else self.what


_METRICS = (
    Metric(LOSS, "loss of what follows", "nats per token", -1, brief="loss"),
    Metric(
        KL,
        "divergence of the next token's distribution from full context's",
        "nats",
        -1,
        brief="divergence from full context",
    ),
    Metric(
        TOP1,
        "likeliest next token is full context's",
        "share",
        1,
        3,
        True,
        brief="agreement with full context",
    ),
    Metric(
        ANSWER,
        "log-probability of the answer's tokens together",
        "nats",
        1,
        2,
        brief="answers' log-probability",
    ),
    Metric(EXACT, "greedy reply contains the answer", "share", 1, 3, True, brief="answers given"),
    Metric(
        ALIVE,
        "tokens of the evidence still in the context when asked",
        "share",
        1,
        brief="evidence that survives",
    ),
    Metric(PACE, "pace of reading along a stream; without a place, of speaking after it", "tokens/s", 1, 1),
    Metric("said_per_s", "pace of speaking, room made for each token", "tokens/s", 1, 1),
    Metric("p50_ms", "median latency of a decoded token", "ms", -1, 1),
    Metric("p95_ms", "95th percentile of it", "ms", -1, 1),
    Metric("p99_ms", "99th percentile of it", "ms", -1, 1),
    Metric("rss_mb", "resident memory of the process", "MB", -1, 0),
    Metric("kv_mb", "keys and values held", "MB", -1, 2),
    Metric("diverges", "tokens said alike before compact and full first differ", "tokens", 1, 1),
    Metric("repeats", "4-grams said before", "share", -1),
    Metric("distinct1", "distinct tokens among all written", "share", 1),
    Metric("distinct2", "distinct pairs among all written", "share", 1),
    Metric("distinct3", "distinct triples among all written", "share", 1),
    Metric(
        "judge",
        "how unlikely what was said is: to the model itself, nats per token; else bits per byte",
        "",
        -1,
    ),
)
METRICS = {one.name: one for one in _METRICS}

ASKED = {
    "needles": "Sentences planted in long text, and asked for at growing distances",
    "lines": "Numbered lines, and questions about earlier ones while the stream goes on",
    "logs": "Server logs with rare important lines, and questions about those",
    "talks": "Dialogues of many turns, and questions about what was said in them",
}
TASKS = {
    BOOKS: "Whole books read as one stream: loss of every next token",
    **ASKED,
    SPEED: "How fast a stream is continued, and what that holds in memory",
    COMPARE: "The same long generation from the same seed, compact and with full context",
    SCALE: "Cost measured over growing histories and numbers of minds",
}

EVICTION = {
    "truncate": "the last N tokens, read again from nothing each time",
    "window": "attention sinks and the most recent rows (StreamingLLM, arXiv 2309.17453)",
    "h2o": "most attention summed over the past (H2O, arXiv 2306.14048)",
    "tova": "most attention of the last query (TOVA, arXiv 2401.06104)",
    "snapkv": "most attention in a window of late queries (SnapKV, arXiv 2404.14469)",
    "random": "rows drawn at random, and the most recent ones",
}
"""Baselines that only let go."""
ARMS = {
    FULL: "everything that was read, where it fits: nothing is culled",
    NONE: "the system turn and the question alone",
    **EVICTION,
    "redact": "old text shortened by self-information, and read again",
    "summary": "old text replaced by the model's own summary, and read again",
    HALO: "the default: brightness decides, rows leave the live cache (DROP), markers where logs had holes",
    "cull": "halo without markers",
    "halo+random": "halo, and other words, drawn at random, where repair would change some",
    "halo+repair": "halo, and a masked language model mends the joints",
    RECALL: "halo, and culled text comes back where a question is like it; it takes rows of the same budget",
    "halo+both": "halo with repair and recall",
}
PEERS = {
    "kvpress": "another package's presses; they see the whole context before anything is left out, so what "
    "they know at the start no stream can know",
    "attention_sinks": "another package's sinks and recent window",
    "generate": "plain transformers, cache unbounded",
}


def metric(name: str) -> Metric:
    return METRICS.get(name, Metric(name, name))


def arm(name: str) -> str:
    """One line about an arm; what stands behind a colon are its settings, or a peer's method."""
    base, _, more = name.partition(":")
    told = ARMS.get(base) or PEERS.get(base, "")
    return f"{told}; with {more}" if more and base in ARMS else told


def is_peer(name: str) -> bool:
    return name.partition(":")[0] not in ARMS


def order(name: str) -> tuple[int, str]:
    """Known arms as they stand above, then the others by name."""
    names, base = list(ARMS), name.partition(":")[0]
    return (names.index(base) if base in ARMS else len(names), name)
