# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The options that several commands share, and how they become settings.

Knows names and help texts. Defaults live in `haloweave.settings` alone: an option not given is None, and
leaves the choice to the environment (HALO_...) and the settings.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Annotated, Any, get_args

import typer

from haloweave.errors import InvalidInput
from haloweave.settings import PolicyName, RecallName, RepairName, Settings, settings


class Speaker(StrEnum):
    """Whose text a stream is."""

    LOG = "log"
    TEXT = "text"
    USER = "user"
    TOOL = "tool"


Policy = Enum("Policy", {name.upper(): name for name in get_args(PolicyName)}, type=str)  # type: ignore[misc]
"""The brightness policies that the settings know."""

RepairBy = Enum("RepairBy", {name.upper(): name for name in get_args(RepairName)}, type=str)  # type: ignore[misc]
"""Who may repair, as the settings know them."""

RecallBy = Enum("RecallBy", {name.upper(): name for name in get_args(RecallName)}, type=str)  # type: ignore[misc]
"""When culled text comes back, as the settings know it."""


def _option(field: str, *names: str, help: str) -> Any:
    """An option for one field of the settings; the help tells its default and its variable."""
    default = Settings.model_fields[field].default
    return typer.Option(*names, help=f"{help} ({default}; HALO_{field.upper()})", show_default=False)


Model = Annotated[
    str | None,
    _option("model", "--model", "-m", help="A known name, a folder, a .gguf file or a hub id."),
]
Budget = Annotated[
    int | None,
    _option("budget", "--budget", "-b", help="Tokens the context may hold: rows of the KV cache."),
]
Seed = Annotated[int | None, _option("seed", "--seed", help="The same seed gives the same tokens.")]
Temperature = Annotated[
    float | None,
    _option("temperature", "--temperature", "-t", help="How freely tokens are chosen; 0 takes the best."),
]
PolicyOption = Annotated[
    Policy | None,
    _option("policy", "--policy", help="What makes a token bright."),
]
Repair = Annotated[
    RepairBy | None,
    _option(
        "repair",
        "--repair",
        help="Who mends the text around what was culled: mlm (a small masked LM), self (the model), "
        "denoiser (over the model's tokens; needs --repair-model) or off.",
    ),
]
RepairModel = Annotated[
    str | None,
    typer.Option(
        "--repair-model",
        metavar="FOLDER|NAME",
        help="What repairs: a masked LM, or the folder of a denoiser trained on scars. "
        "(the masked LM that comes along; HALO_REPAIR_MODEL)",
        show_default=False,
    ),
]
Recall = Annotated[
    RecallBy | None,
    _option("recall", "--recall", help="Whether culled text of a kept mind comes back: auto, ask, off."),
]
Mind = Annotated[
    str | None,
    typer.Option("--mind", metavar="NAME", help="Keep this mind on disk under a name, or go on with it."),
]
Limit = Annotated[int | None, _option("limit", "--limit", help="Tokens the model may say in one turn.")]
Threads = Annotated[
    int | None, _option("threads", "--threads", help="CPU threads; 0 leaves the choice to torch.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on stdout; messages go to stderr.")]
Source = Annotated[
    Speaker | None,
    typer.Option(
        "--source",
        "-s",
        help="Whose text it is. Lines of logs and tools live and die whole, the person's words fade most "
        "slowly. (by name: .log, .csv, .tsv, .jsonl and a pipe are logs, all else is text)",
    ),
]


def plain(**given: Any) -> dict[str, Any]:
    """What was given on the command line, as fields of the settings have it."""
    return {k: v.value if isinstance(v, Enum) else v for k, v in given.items()}


def settings_of(**given: Any) -> Settings:
    """Settings from what was given on the command line; names are fields."""
    return settings(**plain(**given))


def whole_number(text: str, what: str) -> int:
    """A count that a person typed. Raises InvalidInput."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise InvalidInput(f"{what}: expected a whole number from 0 on, got {text!r}")
    return number
