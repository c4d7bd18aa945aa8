# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What is measured by language, on disk: an evaluation set of one file of JSON lines a language, a lexicon of
transliterations, and the texts of a training that an evaluation must not share.

Knows files. Must not know screens, tokens or models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import regex

from haloweave.corpus import documents, files
from haloweave.diffusion.judging.languages import LANGUAGES, Language
from haloweave.diffusion.judging.overlap import RUN, overlap
from haloweave.diffusion.judging.rendering import Lexicon
from haloweave.diffusion.text.clusters import canonical
from haloweave.errors import InvalidInput
from haloweave.progress import Progress, silent

HELD = "held"
"""In a corpus: the folder of its evaluation set."""
_DEVANAGARI, _LATIN = regex.compile(r"[\p{Devanagari}\u200c\u200d]+"), regex.compile(r"[a-z]+", regex.I)


@dataclass(frozen=True)
class EvaluationSet:
    """The documents of each language that there are, and the digest of every byte of them."""

    documents: Mapping[Language, tuple[str, ...]] = field(repr=False)
    missing: tuple[str, ...]
    """Languages of which there is no document."""
    digest: str


def digest(folder: Path) -> str:
    """Stands for a whole set: of which languages there are, and every byte of them."""
    mark = sha256()
    for name in LANGUAGES:
        path = folder / f"{name}.jsonl"
        if path.is_file():
            mark.update(f"{name}:{sha256(path.read_bytes()).hexdigest()}\n".encode())
    return mark.hexdigest()


def evaluation_set(folder: Path) -> EvaluationSet:
    """The set in a folder that `halo corpus` wrote, or in that folder's `held`.

    Raises InvalidInput where there is none, or a file is no JSON lines.
    """
    where = folder / HELD if (folder / HELD).is_dir() else folder
    there = {name: where / f"{name}.jsonl" for name in LANGUAGES}
    found = {name: tuple(_documents(path)) for name, path in there.items() if path.is_file()}
    found = {name: texts for name, texts in found.items() if texts}
    if not found:
        names = ", ".join(f"{name}.jsonl" for name in LANGUAGES)
        raise InvalidInput(f"{folder}: expected one of {names} with texts; make them with halo corpus")
    missing = tuple(name for name in LANGUAGES if name not in found)
    return EvaluationSet(found, missing, digest(where))


def _documents(path: Path) -> Iterator[str]:
    for document in documents([path]):
        text = canonical(document.text).strip()
        if text:
            yield text


def lexicon(path: Path) -> Lexicon:
    """A .tsv of word, transliteration and, if it is told, how often attested; or a folder of such. Which of
    the two is Devanagari is seen by its letters.

    Raises InvalidInput where there is no pair.
    """
    paths = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    found = Counter[tuple[str, str]]()
    for one in paths:
        for native, latin, count in _pairs(one):
            found[native, latin] += count
    if not found:
        raise InvalidInput(f"{path}: expected lines of a Devanagari word, a tab and a Latin one, got none")
    return Lexicon(found)


def _pairs(path: Path) -> Iterator[tuple[str, str, int]]:
    """Devanagari, Latin, count; lines that are no such pair are passed over."""
    try:
        lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); give another lexicon") from error
    for line in lines:
        cells = [canonical(cell).strip() for cell in line.split("\t")]
        native = next((cell for cell in cells[:2] if _DEVANAGARI.fullmatch(cell)), None)
        latin = next((cell.lower() for cell in cells[:2] if _LATIN.fullmatch(cell)), None)
        if native and latin:
            count = cells[2] if len(cells) > 2 else ""
            yield native, latin, int(count) if count.isascii() and count.isdecimal() and len(count) < 9 else 1


def refuse_overlap(found: EvaluationSet, trained_on: Sequence[Path], progress: Progress = silent) -> None:
    """Raise InvalidInput if training text holds passages of the evaluation set, or cannot be read."""
    own = [text for texts in found.documents.values() for text in texts]
    seen = overlap(own, _training(trained_on, progress))
    if seen.seen:
        raise InvalidInput(
            f"{seen.seen} of {seen.documents} evaluation documents ({seen.seen / seen.documents:.1%}) were "
            f"trained on: {seen.most:.0%} of the words of the worst stand in runs of {RUN} words that "
            f"training text has too. Measure on other text; if the model was trained on less than "
            f"{', '.join(map(str, trained_on))}, say so with --trained-on"
        )


def _training(roots: Sequence[Path], progress: Progress) -> Iterator[str]:
    paths = files(roots)
    for done, path in enumerate(paths):
        progress("looking for evaluation text in training text", done, len(paths))
        yield from (document.text for document in documents([path]))
