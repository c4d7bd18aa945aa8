# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A model card: what a masked LM was made from, how well it does, and what it is not for.

Knows the facts of a run and Markdown. Must not know models or files, but for the front matter of a card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from haloweave.corpus import Credit
from haloweave.repair.mlm.recipe import Recipe
from haloweave.repair.mlm.score import Score
from haloweave.repair.mlm.texts import Volume

UNKNOWN = "not stated"


@dataclass(frozen=True)
class Origin:
    """The model a run started from, as its own card tells."""

    name: str
    licence: str
    language: str


@dataclass(frozen=True)
class Measured:
    """Scores by name: what was scored, to how well."""

    before: Mapping[str, Score]
    after: Mapping[str, Score]
    packed: Mapping[str, Score] | None = None


@dataclass(frozen=True)
class Facts:
    """All that a card tells."""

    title: str
    origin: Origin
    recipe: Recipe
    dtype: str
    parameters: int
    positions: int
    uncased: bool
    tokens: int
    """Tokens of the training text, once over."""
    hours: float
    data: Sequence[tuple[Credit, Volume]]
    measured: Measured


def front_matter(card: str) -> dict[str, str]:
    """The one-line fields at the top of somebody's card."""
    head, fence, rest = card.partition("---\n")
    body, end, _ = rest.partition("\n---")
    if head.strip() or not fence or not end:
        return {}
    pairs = [line.partition(":") for line in body.splitlines() if not line.startswith((" ", "-"))]
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}


def origin(name: str, card: str) -> Origin:
    """What a base's card tells of it."""
    told = front_matter(card)
    return Origin(name, told.get("license", UNKNOWN), told.get("language", UNKNOWN))


def card(facts: Facts) -> str:
    """The card, in Markdown."""
    parts = (_top, _what, _use, _scores, _data, _how, _limits, _licences)
    return "\n\n".join(part(facts).strip() for part in parts) + "\n"


def _top(facts: Facts) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: fill-mask"]
    if facts.origin.language != UNKNOWN:
        lines.append(f"language: {facts.origin.language}")
    return "\n".join([*lines, f"base_model: {facts.origin.name}", "---"])


def _what(facts: Facts) -> str:
    return f"""# {facts.title}

A masked language model of {facts.parameters / 1e6:.1f} million parameters, trained by `halo train-mlm` from
{facts.origin.name}. It reads up to {facts.positions} tokens and says what may stand where some are masked.

Meant for repairing texts out of which tokens were dropped: it proposes words for the places where the text
no longer holds together, and another model or a person decides. It also takes *soft* masks, a mixture of a
word's embedding and the mask's, and has seen wrong words in training, so that it does not merely copy."""


def _use(_: Facts) -> str:
    return """## Use

As a folder: `AutoModelForMaskedLM.from_pretrained` and `AutoTokenizer.from_pretrained` of transformers. As a
parcel (8 bits a weight, `weights.safetensors`): `haloweave.repair.mlm.parcel.load_parcel(folder)`."""


def _scores(facts: Facts) -> str:
    found = facts.measured
    rows = ["| text | model | top-1 | top-5 | nats | pieces predicted |", "|---|---|---|---|---|---|"]
    kinds = (("start", found.before), ("trained", found.after), ("trained, 8 bits", found.packed or {}))
    for text in found.after:
        rows += [_row(text, kind, scores[text]) for kind, scores in kinds if text in scores]
    return f"""## How well it does

15 % of the words masked, every piece of each; never trained on here; scored in fp32. Top-1 and top-5: how
often the right piece was the first or among the first five. Nats: mean cross-entropy. Held-out pages are of
the same books and collections as the training text, named files are not. An encoder starts with a head drawn
at random, and so at chance. What those who made {facts.origin.name} trained it on may
hold some of these texts.

{chr(10).join(rows)}"""


def _row(text: str, kind: str, s: Score) -> str:
    return f"| {_cell(text)} | {kind} | {s.top1:.1%} | {s.top5:.1%} | {s.nats:.3f} | {s.predicted:,} |"


def _data(facts: Facts) -> str:
    rows = ["| data | what | licence | source | documents | characters |", "|---|---|---|---|---|---|"]
    for credit, volume in facts.data:
        words = (credit.name, credit.what, credit.licence, credit.source)
        told = " | ".join(_cell(word) for word in words)
        rows.append(f"| {told} | {volume.documents:,} | {volume.characters:,} |")
    return f"""## What it was trained on

{facts.tokens:,} tokens, read {facts.recipe.steps * facts.recipe.batch_tokens / facts.tokens:.1f} times.

{chr(10).join(rows)}"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _how(facts: Facts) -> str:
    r, m = facts.recipe, facts.recipe.masking
    phases = ", then ".join(f"{share:.0%} in blocks of {length}" for share, length in r.phases)
    return f"""## How it was trained

{r.steps:,} steps of {r.batch_tokens:,} tokens: {phases}.
Of the words {m.rate:.0%} were hidden whole; of those {m.random:.0%} by random tokens,
{m.soft:.0%} by soft masks, the rest by the mask.
AdamW, rate {r.rate:g} after {r.warmup:.0%} of warm-up and then linearly to zero, decay {r.decay:g},
no dropout, seed {r.seed}, products in {facts.dtype}, {facts.hours:.1f} hours."""


def _limits(facts: Facts) -> str:
    case = "\n- It is uncased: it cannot say whether a word is written large." if facts.uncased else ""
    return f"""## What it is not for

- It is small. What it puts in is likely, not true: never let it fill in numbers, names or negations.
- It knows the language of the texts above, their age and their prejudices, and hardly anything else.{case}
- Each masked piece is predicted by itself, so neighbouring holes may get words that do not go together.
- It was trained on blocks of up to {max(facts.recipe.lengths)} tokens; longer windows were not practised.
- It is no judge of people and no source of facts; it does not chat."""


def _licences(facts: Facts) -> str:
    start = facts.origin
    return f"""## Licences

The model it started from ({start.name}): {start.licence}.
The texts: see the table, with thanks to those who wrote and gave them; none is part of this folder."""
