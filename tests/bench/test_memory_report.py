# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Records to a report: means, paired intervals, verdicts, pictures, and texts that stay text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haloweave.bench.memory import blocks, curves, doubt, pictures, tables, verdict
from haloweave.bench.memory.glossary import EVICTION, METRICS
from haloweave.bench.memory.record import Record, head
from haloweave.bench.memory.report import of_files, write
from haloweave.bench.memory.sections import Cannot
from haloweave.bench.memory.tables import Numbers
from haloweave.bench.provenance import commit, provenance
from haloweave.diffusion.judging.intervals import Interval
from haloweave.errors import InvalidInput

HOSTILE = "<script>alert(1)</script> ![x](http://x.invalid/p.png) | `a` **b** $\\frac$ \ud800"
PNG = b"\x89PNG\r\n\x1a\n"


def loss(arm: str, document: int, chunk: int, value: float, rows: int = 64, weight: float = 1.0) -> Record:
    name = f"book {document}"
    return Record("books", arm, rows, name, name, "nats", value, weight, 16.0 * chunk)


def stream(arm: str, above: float, *, documents: int = 8, rows: int = 64, seed: int = 0) -> list[Record]:
    """Losses of an arm that is `above` the others; what they share differs from document to document."""
    rng = np.random.default_rng(seed)
    found = []
    for document in range(documents):
        level, odd = 2 + rng.random(), np.random.default_rng([hash_of(arm), document, rows])
        found += [loss(arm, document, n, level + above + 0.05 * odd.normal(), rows) for n in range(1, 9)]
    return found


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()[:7], "big")


def asked(
    arm: str, share: float, *, rows: int = 64, documents: int = 7, task: str = "needles"
) -> list[Record]:
    """Answers that win `share` of what full context gains; evidence alive as often."""
    rng = np.random.default_rng([hash_of(arm), rows])
    found = []
    for document in range(documents):
        for octave in range(4):
            place = (f"case {document}", f"document {document}")
            x, gain = 40.0 * 2**octave, 10.0 + document
            kind = ("code", "name")[octave % 2]
            sure = share in (0.0, 1.0)
            for metric, value in (
                ("answer", share * gain - 12 - document),
                ("exact", float(share if sure else rng.random() < share)),
                ("alive", share if sure else float(np.clip(share + 0.05 * rng.normal(), 0, 1))),
            ):
                found.append(Record(task, arm, rows, *place, metric, value, 1.0, x, kind))
    return found


def everything() -> list[Record]:
    """All sections have something to show."""
    found = [r for rows in (64, 32) for r in stream("halo", 0.1, rows=rows)]
    for number, arm in enumerate((*EVICTION, "cull", "halo+repair", "halo+random", "halo+recall")):
        found += [r for rows in (64, 32) for r in stream(arm, 0.2 + 0.05 * number, rows=rows)]
        found += [r for rows in (64, 32) for r in asked(arm, 0.3 + 0.02 * number, rows=rows)]
    found += [r for rows in (64, 32) for r in asked("halo", 0.6, rows=rows)]
    found += asked("full", 1.0, rows=0) + asked("none", 0.0, rows=0) + stream("full", 0.0, rows=0)
    found += [replace(r, metric="kl", value=abs(r.value - 2) / 9) for r in stream("halo", 0.1)]
    for x in (128.0, 512.0):
        at = ("one", "one")
        found.append(Record("speed", "halo", 64, *at, "tokens_per_s", 20.0, x=x))
        found.append(Record("speed", "full", 0, *at, "tokens_per_s", 20 - x / 50, x=x))
        found += [
            Record("compare", "halo", 64, *at, "kl", x / 1000, x=x, group=whose) for whose in ("own", "full")
        ]
    for x in (1e3, 1e4, 1e5):
        found.append(Record("scale", "wake", 0, "history", "history", "open_ms", 1 + x / 1e4, x=x))
    found.append(Record("compare", "halo", 64, "one", "one", "repeats", 0.25))
    found += [replace(r, arm="kvpress:snapkv") for r in stream("tova", 0.15)]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two files, with hostile texts wherever a record or a fact may hold one."""
    made = tmp_path_factory.mktemp("report")
    ours = {**provenance({"measuring": 0}), "budgets": {"64": "1/4"}, "seconds": {"books": 12.5}}
    theirs = {
        "command": HOSTILE,
        "note": HOSTILE,
        "cannot": [{"arm": "x", "task": "needles", "why": HOSTILE}],
    }
    odd = [Record("needles", HOSTILE, 64, HOSTILE, HOSTILE, "alive", 0.5, x=80.0, group=HOSTILE)]
    odd.append(Record(HOSTILE, "halo", 64, "a", "a", HOSTILE, 0.5))
    (made / "ours.jsonl").write_text("\n".join([head(ours), *(r.line() for r in everything())]), "utf-8")
    plain = "\n".join([head(theirs), *(r.line() for r in odd)])
    (made / "theirs.jsonl").write_bytes(plain.encode("utf-8", "backslashreplace"))
    of_files(made / "out", [made / "ours.jsonl", made / "theirs.jsonl"], [HOSTILE])
    return made / "out"


# -- means and intervals --


def test_a_mean_is_weighted_and_counts_what_it_was_drawn_from() -> None:
    given = [loss("halo", 0, 1, 1.0, weight=3), loss("halo", 1, 1, 2.0), loss("halo", 1, 2, 4.0, weight=4)]
    (line,) = tables.lines(Numbers(given), "books", "nats")
    assert line.mean.value == pytest.approx((3 + 2 + 16) / 8)
    assert (line.count.numbers, line.count.cases, line.count.documents) == (3, 2, 2)
    assert line.gap is None


def test_paired_differences_are_far_surer_than_means_and_find_the_true_one() -> None:
    lines = tables.lines(Numbers(stream("halo", 0.0) + stream("window", 0.1)), "books", "nats")
    assert [line.arm for line in lines] == ["halo", "window"]  # the best first
    to = lines[1].gap
    assert to is not None
    assert to.value.low < 0.1 < to.value.high
    assert to.value.high - to.value.low < 0.2 * (lines[1].mean.high - lines[1].mean.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Over documents: chunks of one document share its level, which a bootstrap of chunks would not see."""
    rng, within = np.random.default_rng(3), 0
    for _ in range(300):
        level = 0.5 + rng.normal(size=8)
        given = [loss("halo", d, n, level[d] + 0.1 * rng.normal()) for d in range(8) for n in range(1, 6)]
        found = tables.mean(given)
        within += found.low <= 0.5 <= found.high
    assert 0.92 <= within / 300 <= 0.98  # percentiles alone have 0.89


@pytest.mark.parametrize(("documents", "student"), [(6, 2.571), (8, 2.365), (20, 2.093), (1000, 1.962)])
def test_over_few_documents_intervals_are_wider(documents: int, student: float) -> None:
    wanted = student / 1.960 * math.sqrt(documents / (documents - 1))
    assert doubt.widening(documents) == pytest.approx(wanted, rel=2e-3)


def test_a_share_stays_a_share() -> None:
    given = [
        replace(r, value=float(r.document[-1] != "0")) for r in asked("halo", 0.9) if r.metric == "alive"
    ]
    (line,) = tables.lines(Numbers(given), "needles", "alive")
    assert line.mean.high == 1.0


def test_a_heavier_document_weighs_more() -> None:
    given = [loss("halo", d, 1, float(d == 0), weight=9.0 if d == 0 else 1.0) for d in range(10)]
    assert tables.mean(given).value == pytest.approx(0.5)


def test_the_same_records_give_the_same_intervals() -> None:
    given = stream("halo", 0.0)
    assert tables.mean(given) == tables.mean(given)


def test_what_only_one_arm_has_is_left_out_and_counted() -> None:
    halo, window = stream("halo", 0.0), stream("window", 0.1)
    window = [r for r in window if r.case != "book 3"] + [loss("window", 99, 1, 1e6)]
    line = next(x for x in tables.lines(Numbers(halo + window), "books", "nats") if x.arm == "window")
    assert line.gap is not None
    assert line.gap.value.value == pytest.approx(0.1, abs=0.05)  # the million is in no pair
    assert (line.gap.count.documents, line.gap.alone) == (7, 8 + 1)


def test_numbers_of_another_weight_are_no_pair() -> None:
    """A chunk of other tokens is another chunk, wherever it ends."""
    given = [loss("halo", 0, 1, 1.0, weight=64), loss("window", 0, 1, 2.0, weight=256)]
    line = next(x for x in tables.lines(Numbers(given), "books", "nats") if x.arm == "window")
    assert line.gap is not None
    assert line.gap.count.numbers == 0
    assert math.isnan(line.gap.value.value)


def test_questions_alike_in_every_way_are_paired_in_order() -> None:
    def two(arm: str, *values: float) -> list[Record]:
        return [Record("talks", arm, 64, "c", "d", "answer", v, x=10.0) for v in values]

    numbers = Numbers(two("halo", -1, -5) + two("window", -2, -6))
    line = next(x for x in tables.lines(numbers, "talks", "answer") if x.arm == "window")
    assert line.gap is not None
    assert (line.gap.value.value, line.gap.count.numbers) == (-1.0, 2)


def test_one_document_has_no_interval() -> None:
    numbers = Numbers(stream("halo", 0.0, documents=1) + stream("window", 0.1, documents=1))
    for line in tables.lines(numbers, "books", "nats"):
        assert math.isnan(line.mean.low)
    (bout,) = verdict.bouts(numbers, "books", "nats", "halo", ["window"])
    assert bout.outcome == verdict.UNKNOWN


def test_an_unbounded_arm_stands_beside_every_budget_and_a_bounded_run_goes_first() -> None:
    given = stream("halo", 0.1) + stream("halo", 0.2, rows=32) + stream("full", 0.0, rows=0)
    numbers = Numbers(given + stream("full", 0.5, rows=32))
    at = {(line.budget, line.arm): line.rows for line in tables.lines(numbers, "books", "nats")}
    assert at == {(64, "halo"): 64, (64, "full"): 0, (32, "halo"): 32, (32, "full"): 32}


def test_where_all_are_right_doubt_is_left() -> None:
    given = [r for r in asked("full", 1.0) if r.metric == "exact"]
    told = tables.mean(given, METRICS["exact"])
    assert told.value == told.high == 1
    assert 0.8 < told.low < 0.95  # Wilson, 28 of 28


def test_share_of_the_gain_is_a_ratio_of_means() -> None:
    numbers = Numbers(asked("full", 1.0, rows=0) + asked("none", 0.0, rows=0) + asked("halo", 0.25))
    told = tables.shares(numbers, "needles", 64)["halo"]
    assert told.value.value == pytest.approx(0.25)
    assert told.count.documents == 7


def test_a_share_of_nothing_is_not_told() -> None:
    full = [replace(r, arm="full") for r in asked("none", 0.0, rows=0)]
    numbers = Numbers(full + asked("none", 0.0, rows=0) + asked("halo", 0.25))
    assert tables.shares(numbers, "needles", 64) == {}
    assert tables.shares(Numbers(asked("halo", 0.5)), "needles", 64) == {}


@pytest.mark.parametrize("change", [
    {"value": math.nan}, {"value": math.inf}, {"weight": 0.0}, {"weight": math.nan}, {"x": math.nan},
    {"value": "3"}, {"rows": -1}, {"rows": 1.5},
])  # fmt: skip
def test_what_no_mean_can_be_made_of_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    bad = replace(loss("halo", 0, 1, 1.0), **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"books book 0, halo"):
        write(tmp_path, [*stream("halo", 0.0), bad], [])
    assert not list(tmp_path.iterdir())


# -- verdicts --


def test_words_are_read_off_intervals() -> None:
    even = [replace(r, arm="h2o", value=r.value + 0.1 * (-1) ** int(r.case[-1])) for r in stream("halo", 0.0)]
    numbers = Numbers(stream("halo", 0.0) + stream("window", 0.2) + stream("tova", -0.2) + even)
    told = {
        b.other: b.outcome for b in verdict.bouts(numbers, "books", "nats", "halo", ["window", "tova", "h2o"])
    }
    assert told == {"window": verdict.WINS, "tova": verdict.LOSES, "h2o": verdict.TIES}


def test_more_is_better_where_it_is() -> None:
    numbers = Numbers(asked("halo", 0.8) + asked("window", 0.4))
    (bout,) = verdict.bouts(numbers, "needles", "alive", "halo", ["window"])
    assert bout.outcome == verdict.WINS
    assert bout.gap.value.value == pytest.approx(0.4, abs=0.05)


def test_the_target_holds_only_against_all_and_over_enough_documents() -> None:
    def told(documents: int, *arms: str) -> verdict.Standing:
        given = [r for arm in arms for r in stream(arm, 0.2, documents=documents)]
        (one,) = verdict.standings(Numbers(stream("halo", 0.0, documents=documents) + given))
        return one

    assert told(8, *EVICTION).holds
    assert not told(5, *EVICTION).holds
    assert told(5, *EVICTION).few
    fewer = told(8, *list(EVICTION)[:-1])
    assert not fewer.holds
    assert fewer.missing == (list(EVICTION)[-1],)


def test_what_a_part_adds_may_be_nothing_or_less() -> None:
    same = [replace(r, arm="cull") for r in stream("halo", 0.0)]
    given = stream("halo", 0.0) + same + stream("halo+repair", 0.3) + stream("halo+recall", -0.3)
    told = {(bout.arm, bout.other): bout.effect for bout in verdict.parts(Numbers(given))}
    assert told == {
        ("halo", "cull"): "no effect seen",
        ("halo+repair", "halo"): "harms",
        ("halo+recall", "halo"): "helps",
    }


# -- curves --


def test_distances_are_put_together_by_octaves_of_the_budget() -> None:
    (curve,) = curves.recall(Numbers(asked("halo", 1.0)), "needles", "alive", 64)
    assert [spot.x / 2**0.5 for spot in curve.spots] == [0.5, 1.0, 2.0, 4.0]  # 40, 80, 160, 320 tokens
    assert all(spot.value.value == 1 and spot.count.documents == 7 for spot in curve.spots)
    assert curves.by_distance(64)(0.0) == curves.by_distance(64)(1.0)


def test_many_places_become_half_octaves_and_few_stay() -> None:
    few = [loss("halo", d, n, 1.0) for d in range(2) for n in range(1, 5)]
    many = [loss("halo", d, n, 1.0) for d in range(2) for n in range(1, 100)]
    assert [s.x for s in curves.along(Numbers(few), "books", "nats", 64)[0].spots] == [16, 32, 48, 64]
    spots = curves.along(Numbers(many), "books", "nats", 64)[0].spots
    assert len(spots) == 13  # nothing lies between 23 and 32
    assert sum(spot.count.numbers for spot in spots) == len(many)


def test_quality_is_what_is_lost_to_full_context() -> None:
    given = stream("full", 0.0, rows=0) + stream("halo", 0.1) + stream("halo", 0.4, rows=32)
    (curve,) = curves.quality(Numbers(given))
    assert [spot.x for spot in curve.spots] == [32, 64]
    assert [spot.value.value for spot in curve.spots] == pytest.approx([0.4, 0.1], abs=0.03)


def test_an_arm_that_met_fewer_documents_is_not_in_the_curve_of_quality() -> None:
    """It would stand elsewhere for that alone."""
    given = [
        Record("books", arm, 0 if arm == "full" else 256, document, document, "nats", value)
        for arm, value, documents in (("full", 3.0, "abc"), ("halo", 3.2, "abc"), ("halo+repair", 3.1, "ab"))
        for document in documents
    ]
    assert [curve.arm for curve in curves.quality(Numbers(given))] == ["halo"]


def test_a_series_looks_the_same_in_every_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the legend, which names each once, would be wrong wherever a panel lacks the first."""
    axes = pytest.importorskip("matplotlib.axes")
    errorbar, seen = axes.Axes.errorbar, []

    def watched(self: Any, *values: Any, **look: Any) -> Any:
        seen.append((look["label"], look["color"], look["marker"]))
        return errorbar(self, *values, **look)

    monkeypatch.setattr(axes.Axes, "errorbar", watched)
    one = {"a": Interval(0.1, 0.0, 0.2)}
    both = pictures.Differences("both", "x", ["a"], {"512 rows": one, "256 rows": one})
    pictures.forest(tmp_path / "x.png", [both, replace(both, series={"256 rows": one})])
    assert [name for name, *_ in seen] == ["512 rows", "256 rows", "256 rows"]
    assert len(set(seen)) == 2


# -- the report --


def test_no_records_no_report(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="got none"):
        write(tmp_path, [], [])


def test_the_same_numbers_in_two_files_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("\n".join(r.line() for r in stream("halo", 0.0)))
    with pytest.raises(InvalidInput, match="give one file"):
        of_files(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])


def test_facts_that_are_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not finite"):
        write(tmp_path, stream("halo", 0.0), [{"seconds": math.nan}])


def test_every_section_is_there_and_missing_tasks_are_named(folder: Path) -> None:
    text = (folder / "README.md").read_text("utf-8")
    headings = headings_of(text, 2)
    for wanted in (
        "What was found", "How it was made", "Against baselines that only let go", "books", "needles",
        "What each part adds", "Other packages", "Speed and memory", "Compact against full", "Scale",
        "Not run", "Words",
    ):  # fmt: skip
        assert wanted in headings
    assert re.search(r"^\* talks: ", text[text.index("## Not run") :], re.M)
    assert "64 rows (1/4 of the context)" in text
    assert "beats truncate, window, h2o, tova, snapkv and random" in text
    assert "books 12.5" in text
    assert "compare: kl, own" in headings_of(text, 3)
    assert "| wake | open_ms | 1.1 | 2 | 11 |" in text
    words = text[text.index("## Words") :]
    assert "| kvpress:snapkv | another package" in words
    assert "| wake |" not in words  # what scale measures are no arms


def headings_of(text: str, level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} (.+)$", text, re.M)


def test_an_arm_with_settings_of_its_own_is_still_ours(tmp_path: Path) -> None:
    tuned = [replace(r, arm="halo:half_life=64") for r in stream("halo", 0.1)]
    write(tmp_path, stream("halo", 0.0) + tuned, [])
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "with half_life=64" in text
    assert "## Other packages" not in text


def test_a_single_task_makes_a_report_too(tmp_path: Path) -> None:
    write(tmp_path, stream("halo", 0.0, documents=1), [], [Cannot("generate", "logs", "too long")])
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "one document, no interval" in text
    assert "## What each part adds" not in text
    assert "too long" in text
    assert not list(tmp_path.glob("*.png"))  # there is nothing to compare with


def test_the_summary_is_json_and_says_what_the_tables_say(folder: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    told = json.loads((folder / "summary.json").read_text("utf-8"), parse_constant=refuse)
    halo = next(x for x in told["tasks"]["books"]["nats"]["arms"] if x["arm"] == "halo" and x["budget"] == 64)
    assert f"{halo['mean'][0]:.3f}" in (folder / "README.md").read_text("utf-8")
    assert halo["documents"] == 8
    assert next(one for one in told["target"] if one["task"] == "books")["holds"]
    assert {part["effect"] for part in told["parts"] if part["metric"] == "nats"} <= {
        "harms",
        "helps",
        "no effect seen",
    }


def test_the_records_come_back_as_they_were(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text("utf-8").split("\n") if line]
    assert [set(line) for line in lines[:2]] == [{"facts"}, {"facts"}]
    assert [Record(**line) for line in lines[2:-2]] == everything()
    assert lines[-2]["arm"] == HOSTILE  # the lone surrogate too


class Seen(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else_and_runs_nothing(folder: Path) -> None:
    seen = Seen()
    seen.feed((folder / "index.html").read_text("utf-8"))
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in seen.tags}
    images = [attributes["src"] for tag, attributes in seen.tags if tag == "img"]
    assert len(images) == len(list(folder.glob("*.png"))) > 5
    assert all(src is not None and src.startswith("data:image/png;base64,") for src in images)
    assert all(not name.startswith("on") for _, attributes in seen.tags for name in attributes)
    links = {attributes["href"] for tag, attributes in seen.tags if tag == "a"}
    assert links <= {f"#{attributes['id']}" for _, attributes in seen.tags if "id" in attributes}
    assert "<script>alert(1)</script>" in seen.text  # as text
    assert "prefers-color-scheme: dark" in seen.text


def test_markdown_takes_what_is_quoted_for_text(folder: Path) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    text = (folder / "README.md").read_text("utf-8")
    seen = Seen()
    seen.feed(markdown.render(text))
    assert "script" not in {tag for tag, _ in seen.tags}
    assert {a["src"] for tag, a in seen.tags if tag == "img"} == {p.name for p in folder.glob("*.png")}
    assert not {"strong", "em", "a"} & {tag for tag, _ in seen.tags}
    assert "**b**" in seen.text


@pytest.mark.parametrize(
    "text", ["# no heading", "- no item", "12. no item", "a_b_c", "`", "a|b", "\\", "x\n\n# y"]
)
def test_any_text_is_one_paragraph_of_that_text(text: str) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt()
    seen = Seen()
    seen.feed(markdown.render(blocks.plain(text)))
    assert [tag for tag, _ in seen.tags] == ["p"]
    assert seen.text.strip() == " ".join(text.split())


def test_a_fence_is_not_left_and_a_cell_not_either() -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt().enable("table")
    table = blocks.Table(("a", "b"), (("x|y\\|z", "1"),))
    told = "\n\n".join(blocks.as_markdown([blocks.Code("```\n# out"), table]))
    seen = Seen()
    seen.feed(markdown.render(told))
    assert [tag for tag, _ in seen.tags].count("td") == 2
    assert "h1" not in {tag for tag, _ in seen.tags}
    assert "x|y\\|z" in seen.text


# -- pictures --


def test_pictures_are_png_and_not_blank(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    drawn = sorted(folder.glob("*.png"))
    names = {path.name for path in drawn}
    assert {
        "quality.png",
        "pace.png",
        "recall-needles.png",
        "verdict.png",
        "parts.png",
        "drift-books.png",
    } <= names
    for path in drawn:
        assert path.read_bytes().startswith(PNG)
        with image.open(path) as opened:
            colours = opened.convert("RGB").getcolors(1 << 24)
        assert sum(count for count, colour in colours if max(colour) - min(colour) > 60) > 50, path.name


def test_an_arm_looks_the_same_whoever_else_is_there() -> None:
    alone, among = pictures.arms_looks(["halo"]), pictures.arms_looks(["x", "halo", "kvpress:knorm"])
    assert all(among[name] == look for name, look in alone.items())
    told = {(look["color"], look["marker"], look["linestyle"]) for look in among.values()}
    assert len(told) == len(among)


def test_the_same_curves_give_the_same_bytes(tmp_path: Path) -> None:
    spots = tuple(curves.Spot(x, Interval(x, x / 2, 2 * x), tables.Count(1, 1, 1)) for x in (1.0, 2.0))
    panel = pictures.Panel("t", "x", "y", [curves.Curve("halo", spots)])
    draw: Callable[[str], None] = lambda name: pictures.curves(  # noqa: E731
        tmp_path / name, [[panel]], pictures.arms_looks(["halo"])
    )
    draw("a.png")
    draw("b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# -- where it was made --


def test_the_commit_is_told_in_a_checkout_and_nowhere_else(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    assert commit(tmp_path / "absent") is None
    told = commit()
    assert told is None or re.fullmatch(r"[0-9a-f]{12,40}\+?", told)
    assert provenance({})["commit"] == told
