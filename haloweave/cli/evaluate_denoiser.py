# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo eval`: how good a denoiser is, on text that it never saw, with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haloweave import denoising
from haloweave.cli import denoisers, indic, unmasking
from haloweave.cli.options import Json
from haloweave.cli.tools import Tools, tools_of
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from haloweave.diffusion.evaluate import Evaluation


def evaluate(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that `halo train` wrote.")],
    data: denoisers.Data = None,
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="NAME", help="By language and script instead: indic.")
    ] = None,
    lexicon: Annotated[
        Path | None,
        typer.Option("--lexicon", metavar="PATH", help="Transliterations, .tsv: ask for words in both."),
    ] = None,
    trained_on: Annotated[
        list[Path] | None,
        typer.Option("--trained-on", metavar="PATH", help="Training text, if its model does not tell."),
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Measure without looking for the texts in training text.")
    ] = False,
    draws: denoisers.Draws = 4,
    blocks: denoisers.BlockCount = 256,
    infills: denoisers.Infills = 32,
    samples: denoisers.Samples = 16,
    length: denoisers.Length = None,
    steps: denoisers.Steps = None,
    order: denoisers.OrderName = "confidence",
    top_p: denoisers.TopP = 1.0,
    threshold: denoisers.Threshold = None,
    confidence_stop: unmasking.ConfidenceStop = None,
    schedule: unmasking.ScheduleName = "cosine",
    ancestral: unmasking.Ancestral = False,
    sets: unmasking.Sets = None,
    judge: denoisers.Judge = "smollm2-135m",
    device: denoisers.Device = "auto",
    seed: denoisers.Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a masked-diffusion denoiser.

    The bound of its likelihood (perplexity and bits per byte, at most), how often it fills holes with what
    stood there, how far its confidence can be trusted, how fast it is. Its samples are judged by a language
    model, with their entropy and the same of real text beside: a low perplexity of texts that repeat
    themselves is worth nothing. Words that mix Devanagari and Latin letters are counted beside real text's.

    Holes are filled greedily; texts are sampled at temperature 1.

    --suite indic measures by language on the folder that `halo corpus` wrote (--data): bits per byte, whether
    words, edits and texts keep to their scripts, broken grapheme clusters, code mixing, transliteration. Text
    that was trained on is refused. Words are written anew both ways, greedily and sampled.
    """
    tools = tools_of(context)
    if suite not in (None, indic.NAME):
        raise InvalidInput(f"--suite {suite}: expected {indic.NAME}")
    if suite is None and (lexicon or trained_on or unchecked):
        raise InvalidInput(f"--lexicon, --trained-on and --unchecked are for --suite {indic.NAME}")
    from haloweave.cli.ar_judge import load_judge
    from haloweave.cli.waiting import reporting
    from haloweave.diffusion import evaluate as measure

    with reporting(tools, "loading") as progress:
        loaded = denoisers.placed(denoising.load(model, progress), device)
        asked = unmasking.Asked(
            steps=steps,
            order=order,
            top_p=top_p,
            threshold=threshold,
            confidence_stop=confidence_stop,
            schedule=schedule,
            ancestral=ancestral,
            sets=sets or (),
        )
        how = unmasking.plan_of(loaded, asked)
        plan = measure.Measures(
            draws=draws,
            infills=infills,
            samples=samples,
            length=length,
            filling=replace(how.unmasking, temperature=0.0),
            sampling=how.unmasking,
            block=how.block,
            nothing=denoisers.may_say_nothing(model),
            seed=seed,
        )
        if suite is None:
            held = denoisers.held_text(loaded, model, data, blocks, seed, progress)
            reader = load_judge(judge, progress) if samples else None
            found = measure.evaluate(loaded.denoiser, held, loaded.tokenizer.decode, plan, reader, progress)
        else:
            wanted = indic.Wanted(data or (), lexicon, trained_on or (), unchecked, blocks)
            judged = indic.judged(loaded, wanted, plan, progress)
    if suite is None:
        _tell(tools, model, judge, found, as_json)
    else:
        _tell_suite(tools, model, judged, as_json)


def _tell(tools: Tools, model: Path, judge: str, found: Evaluation, as_json: bool) -> None:
    from haloweave.cli.figures import evaluation_plain, evaluation_tables

    if as_json:
        from haloweave.cli.report import emit

        emit(tools, {"model": str(model), "judge": judge, **evaluation_plain(found)})
        return
    _show(tools, evaluation_tables(found))


def _tell_suite(tools: Tools, model: Path, found: indic.Judged, as_json: bool) -> None:
    from haloweave.cli.indic_figures import judged_plain, judged_tables

    if as_json:
        from haloweave.cli.report import emit

        emit(tools, {"model": str(model), "suite": indic.NAME, **judged_plain(found)})
        return
    _show(tools, judged_tables(found))


def _show(tools: Tools, parts: Iterable[Table | str]) -> None:
    for part in parts:
        if isinstance(part, str):
            tools.tell(part)
            tools.out.print()
        else:
            tools.out.print(part)
