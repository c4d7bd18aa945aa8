# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo train`: texts in, a masked-diffusion denoiser out, with its tokenizer and its curves."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haloweave.cli import ctrl_c
from haloweave.cli.options import Json
from haloweave.cli.tools import Tools, tools_of

if TYPE_CHECKING:
    from haloweave.cli.denoiser_run import Started
    from haloweave.diffusion.train import Report, Trained
    from haloweave.diffusion.training.settings import Settings
    from haloweave.diffusion.training.validation import Valid
    from haloweave.progress import Progress

_EVERY = 50
"""Steps between two lines, where there is no terminal; the first and the last have one too."""


def _number(name: str, help: str, least: int = 1) -> Any:
    return typer.Option(name, metavar="N", min=least, help=help)


Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in TOML or YAML; options given here win."),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="transformer, eco_hybrid, hierarchical, encoder, editor, eco_editor. (transformer)",
    ),
]
DataDir = Annotated[
    list[Path] | None,
    typer.Option("--data-dir", metavar="PATH", help="A file or folder of texts; may be given again."),
]
OutputDir = Annotated[
    Path | None, typer.Option("--output-dir", metavar="DIR", help="Where everything goes. (denoiser)")
]
SeqLen = Annotated[int | None, _number("--seq-len", "Tokens a block. (256)", 2)]
BatchSize = Annotated[int | None, _number("--batch-size", "Blocks read at once, by each process. (16)")]
GradAccum = Annotated[int | None, _number("--grad-accum", "Batches before the weights change. (1)")]
DModel = Annotated[int | None, _number("--d-model", "Width. (256; encoder 384)")]
NLayers = Annotated[int | None, _number("--n-layers", "Blocks; of one pass, in hierarchical. (6; 2)")]
NHeads = Annotated[int | None, _number("--n-heads", "Heads of attention. (4; encoder 12)")]
DFf = Annotated[int | None, _number("--d-ff", "Width inside the feed-forward networks. (1024; encoder 1536)")]
MemorySlots = Annotated[int | None, _number("--memory-slots", "Slots of memory; eco_hybrid. (16)")]
ConvKernel = Annotated[
    int | None, _number("--conv-kernel", "Tokens that a convolution sees, odd; eco_hybrid. (7)")
]
Timesteps = Annotated[
    int | None, _number("--timesteps", "Noise levels; 0: any level between none and all. (0)", 0)
]
SampleSteps = Annotated[
    int | None, _number("--sample-steps", "Steps that halo sample will take by default. (12)")
]
MaxSteps = Annotated[int | None, _number("--max-steps", "Times that the weights change. (5000)")]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Use torch.compile: slow to start, for long runs. (no)"),
]
Schedule = Annotated[
    str | None, typer.Option("--schedule", metavar="NAME", help="cosine, linear or log_linear. (cosine)")
]
CorruptionName = Annotated[
    str | None,
    typer.Option(
        "--corruption",
        metavar="NAME",
        help="absorb, hybrid, frequency, clusters, spans, or scars (for a repairer). (absorb)",
    ),
]
Rate = Annotated[float | None, typer.Option("--lr", metavar="LR", help="The highest learning rate. (0.001)")]
Seed = Annotated[int | None, _number("--seed", "The same seed gives the same weights. (0)", 0)]
Ema = Annotated[
    float | None,
    typer.Option("--ema", metavar="D", help="Decay of the weights' average, which is kept; 0: none. (0.999)"),
]
DType = Annotated[
    str | None,
    typer.Option("--dtype", help="auto, float32 or bfloat16; auto takes what is quick here. (auto)"),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda. (auto)")]
Threads = Annotated[int | None, _number("--threads", "CPU threads; 0 leaves the choice to torch. (0)", 0)]
VocabSize = Annotated[
    int | None, _number("--vocab-size", "Tokens of a tokenizer trained on the texts. (8192)", 2)
]
TokenizerPath = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer", metavar="PATH", help="A tokenizer that is there: a folder, or a tokenizer.json."
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        "--host", metavar="NAME|FOLDER", help="Borrow tokenizer and frozen embeddings of this language model."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Leave out files whose name, or end of path, matches."),
]
HeldOut = Annotated[
    list[Path] | None,
    typer.Option("--held-out", metavar="FILE", help="Never train on this file, and measure on it."),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Where the texts' tokens are kept. (data, in the output)"),
]
More = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, as a config file has it."),
]


def train_denoiser(
    context: typer.Context,
    config: Config = None,
    arch: Arch = None,
    data_dir: DataDir = None,
    output_dir: OutputDir = None,
    seq_len: SeqLen = None,
    batch_size: BatchSize = None,
    grad_accum: GradAccum = None,
    d_model: DModel = None,
    n_layers: NLayers = None,
    n_heads: NHeads = None,
    d_ff: DFf = None,
    memory_slots: MemorySlots = None,
    conv_kernel: ConvKernel = None,
    timesteps: Timesteps = None,
    sample_steps: SampleSteps = None,
    max_steps: MaxSteps = None,
    compile: Compile = None,
    schedule: Schedule = None,
    corruption: CorruptionName = None,
    lr: Rate = None,
    seed: Seed = None,
    ema: Ema = None,
    dtype: DType = None,
    device: Device = None,
    threads: Threads = None,
    vocab_size: VocabSize = None,
    tokenizer: TokenizerPath = None,
    host: Host = None,
    exclude: Exclude = None,
    held_out: HeldOut = None,
    cache: Cache = None,
    more: More = None,
    as_json: Json = False,
) -> None:
    """Train a masked-diffusion language model on texts.

    Reads .txt, .md, .jsonl and .csv; documents held out are measured on the way (the likelihood bound). The
    output folder holds the model, its tokenizer, and curves.csv and curves.png, which grow meanwhile.

    A run that was stopped, by Ctrl-C or by a power cut, goes on when the same command is given again, and
    ends with the same weights on the same machine with as many threads. Several processes, on CPUs or GPUs:
    torchrun --nproc_per_node 2 $(which halo) train ...
    """
    given = {n: v for n, v in locals().items() if n not in ("context", "config", "more", "as_json")}
    tools = tools_of(context)
    with ctrl_c.leaving_at_once():
        from haloweave.cli.denoiser_run import train
        from haloweave.diffusion.errors import Stopped

        settings = _settings(given, config, more or ())
    with ExitStack() as stack:
        pressed = stack.enter_context(ctrl_c.noticed())
        talks = False  # of several processes one does

        def watch_of(leads: bool) -> Watch | Unseen:
            nonlocal talks
            talks = leads
            return _watch(stack, tools, as_json, leads, pressed)

        try:
            trained = train(settings, watch_of)
        except Stopped as stop:
            if talks:
                tools.say(f"{stop}; the same command goes on from there")
            raise typer.Exit(130) from None
    if talks:
        _tell(tools, trained, as_json)


def _settings(given: dict[str, Any], config: Path | None, more: Sequence[str]) -> Settings:
    """What was given, over what the file says. Raises BadInput."""
    from haloweave.diffusion.training import config_file
    from haloweave.diffusion.training.settings import known, settled

    names = known()
    of_file = {} if config is None else config_file.read(config)
    plain = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    merged = config_file.merged(plain, of_file, names, str(config))
    return settled(merged | config_file.merged({}, config_file.assigned(more), names, "--set"))


class Watch:
    """Shows a run: a bar or lines on stderr; with `as_json`, lines of figures on stdout."""

    def __init__(
        self, tools: Tools, progress: Progress, as_json: bool, pressed: threading.Event | None = None
    ) -> None:
        self._tools, self._as_json, self._first = tools, as_json, True
        self._pressed = pressed or threading.Event()
        self.progress: Progress = progress

    def say(self, text: str) -> None:
        self._tools.say(text)

    def started(self, started: Started) -> None:
        self._emit("started", **asdict(started))
        many = f", {started.processes} processes" if started.processes > 1 else ""
        self._tools.say(
            f"{started.tokens:,} tokens, {started.parameters / 1e6:.2f} M parameters ({started.arch}), "
            f"on {started.device} in {started.dtype}{many}"
        )
        self._tools.say(_held_out(started))
        if started.step:
            self._tools.say(f"going on after step {started.step:,} of {started.steps:,}")

    def asked(self) -> Any:
        return ctrl_c.asked(self._pressed)

    def stepped(self, report: Report) -> None:
        at = f"step {report.step:,} of {report.steps:,}"
        due = self._first or report.step % _EVERY == 0 or report.step == report.steps
        self._first = False
        if due or self._tools.err.is_terminal:
            self.progress(f"{at} · {_pace(report)}", report.step, report.steps)
        if due:
            figures = {"loss": round(report.loss, 5), "lr": report.lr, "gradient": round(report.gradient, 5)}
            pace = {"tokens_per_second": round(report.tokens_per_second, 1)}
            self._emit("step", step=report.step, steps=report.steps, **figures, **pace)
        if report.valid is not None:
            self._emit("valid", step=report.step, **asdict(report.valid))
            if report.step < report.steps:  # the last is told with the result
                self._tools.say(f"{at}: held out: {_line(report.valid)}")

    def _emit(self, event: str, **told: Any) -> None:
        if self._as_json:
            from haloweave.cli.report import emit

            emit(self._tools, {"event": event, **told})


class Unseen:
    """A Watch of a process that does not talk."""

    def __init__(self, pressed: threading.Event | None = None) -> None:
        self._pressed = pressed or threading.Event()

    def progress(self, description: str, done: int, total: int | None, /) -> None: ...
    def say(self, text: str) -> None: ...
    def started(self, started: Started) -> None: ...
    def stepped(self, report: Report) -> None: ...
    def asked(self) -> Any:
        return ctrl_c.asked(self._pressed)


def _watch(
    stack: ExitStack, tools: Tools, as_json: bool, leads: bool, pressed: threading.Event
) -> Watch | Unseen:
    from haloweave.cli.waiting import reporting

    if not leads:
        return Unseen(pressed)
    return Watch(tools, stack.enter_context(reporting(tools, "looking at the texts")), as_json, pressed)


def _held_out(started: Started) -> str:
    """How much is held out, and how."""
    if not started.held_out:
        return "nothing is held out: give more documents, or --held-out FILE, to measure"
    if started.held_out_by == "files":
        return f"held out: {started.held_out_tokens:,} tokens, in files of their own"
    how = "in whole documents" if started.held_out_by == "documents" else "the end of the largest document"
    share = started.held_out_tokens / started.tokens
    return f"held out: {started.held_out_tokens:,} of the tokens ({share:.1%}), {how}"


def _pace(report: Report) -> str:
    left = str(timedelta(seconds=round(report.seconds_left)))
    return f"loss {report.loss:.3f} · {report.tokens_per_second:,.0f} tok/s · {left} left"


def _line(valid: Valid) -> str:
    bits = "" if valid.bits_per_byte is None else f", {valid.bits_per_byte:.3f} bits per byte"
    return f"at most {valid.nats:.3f} nats per token{bits} ({valid.tokens:,} tokens)"


def _tell(tools: Tools, trained: Trained, as_json: bool) -> None:
    """Where the model is, and what to do next."""
    if as_json:
        from haloweave.cli.report import emit

        valid = None if trained.valid is None else asdict(trained.valid)
        line = {"event": "done", "folder": str(trained.folder), "steps": trained.steps, "valid": valid}
        emit(tools, {**line, "seconds": round(trained.seconds, 1)})
        return
    if trained.valid is not None:
        tools.tell(f"held out: {_line(trained.valid)}")
    tools.tell(f"the model: {trained.folder} (checkpoint and data there may be removed)")
    tools.tell(f"try it: halo sample {trained.folder}")
