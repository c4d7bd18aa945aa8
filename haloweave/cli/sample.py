# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo sample`: text out of a denoiser: from nothing, behind a prompt, or in the holes of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haloweave import denoising
from haloweave.cli import denoisers, unmasking
from haloweave.cli.options import Json
from haloweave.cli.tools import Tools, safe, tools_of
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.diffusion.checkpoint import Loaded
    from haloweave.diffusion.denoisers.base import Predict
    from haloweave.diffusion.unmask import Step, Unmasked

_LENGTH = 64

Watcher = Callable[["Step"], None]


@dataclass(frozen=True)
class Task:
    """Tokens with masks in them."""

    ids: tuple[int, ...]
    holes: tuple[tuple[int, int], ...]
    infill: bool
    """Fill and keep all; else generate, and stop where the text ends."""
    never: tuple[int, ...]
    """What is not written."""


def sample(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that `halo train` wrote.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Go on from this text.")
    ] = None,
    infill: Annotated[
        str | None,
        typer.Option("--infill", "-i", metavar="TEXT", help="Fill its holes: ___ or [MASK] or [MASK*5]."),
    ] = None,
    length: denoisers.Length = None,
    steps: denoisers.Steps = None,
    order: denoisers.OrderName = "confidence",
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="How freely tokens are chosen; 0 takes the best.")
    ] = 1.0,
    top_p: denoisers.TopP = 1.0,
    threshold: denoisers.Threshold = None,
    confidence_stop: unmasking.ConfidenceStop = None,
    schedule: unmasking.ScheduleName = "cosine",
    ancestral: unmasking.Ancestral = False,
    sets: unmasking.Sets = None,
    remask: Annotated[
        float,
        typer.Option("--remask", metavar="SHARE", help="Take so much back in each round, to think again."),
    ] = 0.0,
    guidance: Annotated[
        float,
        typer.Option("--guidance", metavar="W", help="Weigh what is given more: 0 as it is, 1 twice."),
    ] = 0.0,
    device: denoisers.Device = "auto",
    seed: denoisers.Seed = 0,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many texts.")] = 1,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show the text as it emerges, on stderr.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Generate text with a masked-diffusion denoiser, or fill the holes of one.

    Text comes out all over at once: the denoiser is called a few times, and each time what it is surest of
    is kept. Nothing is written that would break the text: half a character, a vowel sign behind a space.
    A text longer than it can read is written block by block. A denoiser that was trained on spans or
    scars may leave a part of a hole empty. Afterwards you are told how many calls and milliseconds it took.
    """
    tools = tools_of(context)
    if prompt is not None and infill is not None:
        raise InvalidInput("--prompt and --infill: give one of the two; an infill may begin with a prompt")
    from haloweave.cli.waiting import reporting

    with reporting(tools, "loading") as progress:
        loaded = denoisers.placed(denoising.load(model, progress), device)
    asked = unmasking.Asked(
        steps=steps,
        order=order,
        temperature=temperature,
        top_p=top_p,
        threshold=threshold,
        confidence_stop=confidence_stop,
        schedule=schedule,
        ancestral=ancestral,
        remask=remask,
        sets=sets or (),
    )
    plan = unmasking.plan_of(loaded, asked)
    task = _task(loaded, prompt, infill, length, may_shrink=denoisers.may_say_nothing(model))
    _warn(tools, loaded, task)
    for number in range(count):
        predict = _predict(loaded, task, guidance)  # one for each text: it may remember what it said
        with _watching(tools, loaded, watch) as watcher:
            done = _unmask(predict, loaded, task, plan, seed + number, watcher)
        _tell(tools, loaded, task, done, seed + number, as_json)


def _task(
    loaded: Loaded, prompt: str | None, infill: str | None, length: int | None, *, may_shrink: bool
) -> Task:
    """What is asked for. Where nothing may belong into a part of a hole, the pad may be written there: it
    spells nothing, so the hole becomes shorter."""
    from haloweave.cli.holes import template

    tokenizer = loaded.tokenizer
    if infill is not None:
        if length is not None:
            raise InvalidInput("--length: the holes of an --infill tell how long they are; leave it out")
        made = template(infill, tokenizer.encode, tokenizer.mask_id, denoisers.MOST)
        allowed = {tokenizer.pad_id} if may_shrink else set()
        return Task(made.ids, made.holes, True, tuple(i for i in tokenizer.special_ids if i not in allowed))
    ids = tokenizer.encode(prompt or "")
    if len(ids) > denoisers.MOST:
        raise InvalidInput(
            f"--prompt: {len(ids):,} tokens, expected at most {denoisers.MOST:,}; give less text"
        )
    size = length or _LENGTH
    never = tuple(i for i in tokenizer.special_ids if i != tokenizer.eos_id)
    return Task((*ids, *[tokenizer.mask_id] * size), ((len(ids), size),), False, never)


def _warn(tools: Tools, loaded: Loaded, task: Task) -> None:
    most = loaded.denoiser.config.max_len
    if len(task.ids) > most:
        tools.say(f"{len(task.ids):,} tokens, of which the denoiser reads {most:,} at once: block by block")


def _predict(loaded: Loaded, task: Task, guidance: float) -> Predict:
    """The denoiser, or one that weighs what is given, prompt or text around the holes, more."""
    if not guidance:
        return loaded.denoiser
    import torch

    from haloweave.diffusion.guidance import Guided, seeing_itself

    if len(task.ids) > loaded.denoiser.config.max_len:
        raise InvalidInput(
            f"--guidance: expected a text of at most {loaded.denoiser.config.max_len} tokens, got "
            f"{len(task.ids):,}; give less, or leave it out"
        )
    mask_id = loaded.tokenizer.mask_id
    return Guided(seeing_itself(loaded.denoiser), torch.tensor(task.ids) != mask_id, guidance, mask_id)


def _unmask(
    predict: Predict,
    loaded: Loaded,
    task: Task,
    plan: unmasking.Planned,
    seed: int,
    watcher: Watcher | None,
) -> Unmasked:
    import torch

    from haloweave.diffusion.sampling.blockwise import unmask_long
    from haloweave.diffusion.sampling.reader import device_of

    return unmask_long(
        predict,
        torch.tensor([task.ids], device=device_of(predict)),
        max_len=loaded.denoiser.config.max_len,
        mask_id=loaded.tokenizer.mask_id,
        generator=torch.Generator().manual_seed(seed),
        plan=plan.unmasking,
        block=plan.block,
        never=task.never,
        progress=watcher,
    )


def _tell(tools: Tools, loaded: Loaded, task: Task, done: Unmasked, seed: int, as_json: bool) -> None:
    """The text on stdout; what it took on stderr, or all in one object."""
    ids = done.tokens[0].tolist()
    filled = [loaded.tokenizer.decode(ids[start : start + n]) for start, n in task.holes]
    text = loaded.tokenizer.decode(ids if task.infill else _until_end(ids, loaded.tokenizer.eos_id, task))
    tokens = sum(i != loaded.tokenizer.pad_id for start, n in task.holes for i in ids[start : start + n])
    if as_json:
        from haloweave.cli.report import emit

        took: dict[str, Any] = {"calls": done.calls, "row_calls": done.row_calls, "steps": done.steps}
        took |= {"milliseconds": round(1000 * done.seconds, 2)}
        more: dict[str, Any] = {"filled": filled} if task.infill else {}
        emit(tools, {"text": text, **more, "tokens": tokens, **took, "seed": seed})
        return
    tools.out.print(safe(text), soft_wrap=not tools.out.is_terminal)
    twice = "" if done.row_calls == done.calls else f" of {done.row_calls:,} rows"
    tools.say(
        f"{tokens:,} tokens in {done.calls:,} calls{twice}, {done.steps:,} steps, "
        f"{1000 * done.seconds:,.0f} ms ({tokens / max(done.seconds, 1e-9):,.0f} tok/s; seed {seed})"
    )


def _until_end(ids: list[int], eos_id: int, task: Task) -> list[int]:
    """Up to the end of the document, if the denoiser wrote one: what follows is another."""
    start = task.holes[0][0]
    return ids[: ids.index(eos_id, start)] if eos_id in ids[start:] else ids


def _line(tools: Tools, step: Step, text: str) -> None:
    """A round in which nothing happened is not worth one."""
    if bool((step.revealed | step.remasked).any()):
        tools.say(f"call {step.calls}, {step.left} left: {' '.join(text.split())}")


@contextmanager
def _watching(tools: Tools, loaded: Loaded, wanted: bool) -> Iterator[Watcher | None]:
    """Whoever looks on: a text that changes in place on a terminal, elsewhere a line a step."""
    from haloweave.cli.holes import spelt

    if not wanted:
        yield None
        return

    def shown(step: Step) -> str:
        ids = step.tokens[0].tolist()
        return safe(spelt(ids, loaded.tokenizer.mask_id, loaded.tokenizer.decode))

    if not tools.err.is_terminal:
        yield lambda step: _line(tools, step, shown(step))
        return
    from rich.live import Live
    from rich.text import Text

    with Live(console=tools.err, transient=True, auto_refresh=False) as live:
        yield lambda step: live.update(Text(shown(step)), refresh=True)
