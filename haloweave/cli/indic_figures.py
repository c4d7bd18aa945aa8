# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What was measured by language, as tables for people and as plain values for JSON.

Knows results and rich. Must not know how anything is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from haloweave.cli.figures import plain
from haloweave.cli.tabular import interval, percent, table

if TYPE_CHECKING:
    from haloweave.cli.indic import Judged
    from haloweave.diffusion.indic import Scripts, Suite
    from haloweave.diffusion.judging.intervals import Interval

_MANY = 1.5
"""Tokens per character above which a tokenizer lacks a script."""


def judged_plain(j: Judged) -> dict[str, Any]:
    """One object."""
    checked = {"evaluation_set": j.digest, "missing": list(j.missing), "not_found_in": list(j.checked)}
    return {**checked, **plain(j.suite)}


def judged_tables(j: Judged) -> Iterator[Table | str]:
    """What a person should see, top to bottom."""
    yield _about(j)
    yield _bits(j.suite)
    yield _words(j.suite)
    yield _edits(j.suite)
    yield _off(j.suite)
    yield _mixing(j.suite)
    if j.suite.renderings:
        yield _renderings(j.suite)
    yield _tokens(j.suite)


def _about(j: Judged) -> str:
    gone = f"; no text in {', '.join(j.missing)}" if j.missing else ""
    where = ", ".join(j.checked)
    looked = f"no passage of it is in {where}" if j.checked else "NOT looked for in training text"
    return f"evaluation set {j.digest}{gone}; {looked}"


def _bits(s: Suite) -> Table:
    found = table("bits per byte, at most", "", "95 %", "rows", "documents")
    for name, tongue in s.languages.items():
        found.add_row(name, *interval(tongue.bits_per_byte, 3), f"{tongue.rows}", f"{tongue.documents}")
    for name, bits in s.bits_by_script.items():
        found.add_row(f"script: {name}", *interval(bits, 3), "", "")
    return found


def _words(s: Suite) -> Table:
    found = table("words in two scripts at once", "written", "95 %", "real", "95 %")
    for name, own in _by_name(s):
        found.add_row(name, *_share(own.made_words.mixing), *_share(own.real_words.mixing))
    return found


def _off(s: Suite) -> Table:
    found = table("texts off their prompt's mix", "written", "95 %", "real", "95 %")
    for name, own in _by_name(s):
        found.add_row(f"{name} ({own.texts})", *_share(own.made_off), *_share(own.real_off))
    return found


def _edits(s: Suite) -> Table:
    found = table("words written anew", "another script", "95 %", "the same", "no letter")
    for name, own in _by_name(s):
        greedy = f"{name} ({own.edits.count}), greedy"
        for how, e in ((greedy, own.edits), ("  sampled", own.sampled_edits)):
            found.add_row(how, *_share(e.other_script), _share(e.exact)[0], f"{e.wordless}")
    return found


def _by_name(s: Suite) -> Iterator[tuple[str, Scripts]]:
    return ((name, tongue.scripts) for name, tongue in s.languages.items())


def _mixing(s: Suite) -> Table:
    found = table("texts written on", "broken clusters", "per 1,000", "real", "CMI", "real", "drift", "95 %")
    for name, tongue in s.languages.items():
        own = tongue.scripts
        broken = f"{own.made_broken.broken} of {own.made_broken.clusters:,}"
        rates = (_rate(own, made) for made in (True, False))
        if own.mixing is None:
            cmi = ("", "", "", "")
        else:
            m = own.mixing
            drift = interval(m.drift, 1)
            cmi = (f"{m.made:.1f}", f"{m.true:.1f}", f"{m.drift.value:+.1f}", drift[1])
        found.add_row(f"{name} ({own.texts})", broken, *rates, *cmi)
    return found


def _rate(own: Scripts, made: bool) -> str:
    found = (own.made_broken if made else own.real_broken).per_thousand
    return "no text" if found is None else f"{found.value:.2f}"


def _renderings(s: Suite) -> Table:
    found = table("one word in two scripts", "right", "95 %", "of", "chance")
    for name, r in s.renderings.items():
        found.add_row(f"{name} words, by the text alone", *percent(r.alone), f"{r.count}", f"{r.chance:.0%}")
        found.add_row("  with the other script beside", *percent(r.told), "", "")
        found.add_row("  gain", *percent(r.gain), "", "")
    return found


def _tokens(s: Suite) -> str:
    told = ", ".join(f"{name} {n:.2f}" for name, n in sorted(s.tokens_per_character.items()))
    lacking = [name for name, n in s.tokens_per_character.items() if n > _MANY]
    spelt = f"; the tokenizer lacks {', '.join(lacking)}: it is spelt in bytes" if lacking else ""
    return f"tokens per character: {told}{spelt}"


def _share(x: Interval | None) -> tuple[str, str]:
    return ("none", "") if x is None else percent(x)
