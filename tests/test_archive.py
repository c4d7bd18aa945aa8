# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The archive follows the journal: before the cull, once, whatever is undone, aborted, reopened, redacted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import apsw
import numpy as np
import pytest
from archived import Hashing, said, tables, texts, uids_of
from hypothesis import given, settings
from hypothesis import strategies as st
from journalled import Life

from haloweave.errors import InvalidInput, JournalFailed
from haloweave.journal.archive import Archive
from haloweave.journal.base import Aborted, Committed, Record
from haloweave.journal.fold import fold
from haloweave.journal.log import Log
from haloweave.journal.runs import NOBODY, Run, leaving, packed_runs, unpacked_runs
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import delete
from haloweave.memory.tokens import NO_UNIT, Source, Tokens, View

FACT = "My sister Tamsin keeps bees in Lerwick."
OTHER = "The weather was fine all week long, and nobody complained about anything at all."


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "mind.db")
    yield log
    log.close()


@pytest.fixture
def archive(log: Log) -> Archive:
    return Archive(log, Hashing())


@pytest.fixture
def life(log: Log, archive: Archive) -> Life:
    return Life(log)


def found(archive: Archive, query: str) -> list[str]:
    return [f.passage.text for f in archive.search(query)]


# -- before, once, and never again --------------------------------------------------------------------


def test_what_lives_is_not_archived_and_what_leaves_is(archive: Archive, life: Life) -> None:
    uids = life.feed(FACT)
    assert found(archive, "Tamsin") == []
    life.cull(uids[2:4])
    assert found(archive, "Tamsin") == [FACT], "whole, though only part of it has left"
    assert archive.counts().archived == 1


def test_it_is_archived_in_the_transaction_of_the_cull(log: Log, life: Life) -> None:
    """Law: archive before cull. Whoever sees the record sees the passage."""
    uids = life.feed(FACT)
    seen: list[int] = []

    class Witness:
        def follow(self, db: apsw.Connection, seq: int, record: object) -> None:
            seen.append(db.execute("SELECT count(*) FROM words WHERE words MATCH 'Tamsin'").get)
            assert db.in_transaction

        def scrubbed(self, db: apsw.Connection, uids: set[int]) -> None: ...

        def cut(self, db: apsw.Connection, seq: int) -> None: ...

    log.followers.append(Witness())
    life.cull(uids)
    assert seen == [1]


def test_a_passage_is_archived_once(archive: Archive, life: Life, log: Log) -> None:
    uids = life.feed(FACT)
    edit = life.cull(uids[:3])
    life.undo(edit)
    again = life.cull(uids[:3])
    life.undo(again)
    life.cull(uids)
    assert found(archive, "Tamsin bees") == [FACT]
    assert archive.counts() == replace(archive.counts(), passages=1, archived=1)
    why = archive.why(archive.search("Tamsin")[0].passage)
    assert [(c.run.first_uid, c.run.last_uid) for c in why.culls] == [
        (uids[0], uids[2]),
        (uids[0], uids[2]),
        (uids[0], uids[-1]),
    ]


def test_what_is_recalled_is_never_archived_as_new(archive: Archive, life: Life) -> None:
    said(life, archive, FACT)
    (hit,) = archive.search("Tamsin")
    for source in (Source.MEMORY, Source.USER):
        born = life.born([b"My", b" sister", b" Tamsin"], source)
        uids = life.take(replace(born, origin=hit.passage.id))
        life.cull(uids)
    assert found(archive, "Tamsin") == [FACT]
    recalls = archive.recalls(hit.passage)
    assert [(r.first_uid, r.last_uid) for r in recalls] == [(uids[0] - 3, uids[0] - 1), (uids[0], uids[-1])]
    assert [r.tick for r in recalls] == sorted(r.tick for r in recalls)


def test_a_mended_word_belongs_to_no_passage(archive: Archive, life: Life) -> None:
    before = life.feed("Well", Source.MODEL)
    life.feed(FACT)
    new = life.repair(before[0], " wasps")
    life.feed(" It is said.")
    (keeps,) = uids_of(life.log, " keeps")
    life.cull([*new, keeps])
    whole = FACT + " It is said."
    assert found(archive, "Tamsin") == [whole]
    assert found(archive, "wasps") == []
    assert archive.of_uid(new[0]) is None
    (passage,) = [f.passage for f in archive.search("Tamsin")]
    assert passage.holes == ((new[0], new[-1]),)
    (cull,) = archive.why(passage).culls
    assert (cull.run.first_uid, cull.run.last_uid) == (keeps, keeps)
    ((seq, runs),) = life.log.db.execute("SELECT seq, runs FROM runs WHERE id = ?", (new[0] + 1,))
    (left,) = unpacked_runs(runs, new[0])
    assert (seq, left.first_uid, left.last_uid) == (cull.seq, new[0], new[-1]), "noted all the same"


def test_units_of_a_log_die_and_are_found_as_lines(archive: Archive, life: Life) -> None:
    lines = [
        f"Jun {n} combo sshd[{19937 + n}]: authentication failure; rhost=218.188.{n}.4 user=root\n"
        for n in range(9)
    ]
    uids = [life.feed(line, Source.LOG, unit=n) for n, line in enumerate(lines)]
    life.cull([u for some in uids for u in some])
    (hit, *_) = archive.search("19940 sshd rhost=218.188.3.4")
    assert lines[3] in hit.passage.text
    assert hit.passage.source is Source.LOG
    assert "".join(p.text for p in (*archive.neighbours(hit.passage, 9), hit.passage)).count("\n") == 9


def test_columns_that_change_take_nobody_away(archive: Archive, life: Life, log: Log) -> None:
    uids = life.feed(FACT)
    life.pin(uids)
    assert archive.counts().archived == 0
    assert log.db.execute("SELECT count(*) FROM runs").get == 0


# -- runs, provenance -----------------------------------------------------------------------------------


def test_who_left_from_between_whom(archive: Archive, life: Life, log: Log) -> None:
    a = life.feed("a b c d e f", Source.USER)
    b = life.feed("g h i", Source.MODEL)
    life.cull([a[1], a[2], a[5], b[0], b[2]])
    assert all_runs(log) == [
        Run(a[1], a[2], a[0], a[3]),
        Run(a[5], a[5], a[4], b[1]),
        Run(b[0], b[0], a[4], b[1]),
        Run(b[2], b[2], b[1], NOBODY),
    ]
    life.cull(life.mirror.view.tokens.uid.tolist())
    assert [r for r in all_runs(log) if r.first_uid == a[0]] == [Run(a[0], a[0], NOBODY, NOBODY)]


def all_runs(log: Log) -> list[Run]:
    rows = log.db.execute("SELECT id, runs FROM runs ORDER BY id, seq")
    return [run for number, runs in rows for run in unpacked_runs(runs, number - 1)]


UIDS = st.lists(st.integers(0, 200), unique=True, max_size=40)


@given(UIDS, st.data())
def test_runs_against_a_slow_reference(uids: list[int], data: st.DataObject) -> None:
    tokens = Tokens.concat([Tokens.make([1], first_uid=u, source=Source.USER) for u in uids])
    gone = data.draw(st.sets(st.sampled_from(uids))) if uids else set()
    view = View(tokens, revision=0, tick=0, next_uid=1000)
    runs = list(leaving(tokens.uid, delete(view, sorted(gone))))
    assert [u for r in runs for u in range(r.first_uid, r.last_uid + 1)] == [u for u in uids if u in gone]
    for run in runs:
        at = uids.index(run.first_uid)
        before = [u for u in uids[:at] if u not in gone]
        after = [u for u in uids[at:] if u not in gone]
        assert run.left_uid == (before[-1] if before else NOBODY)
        assert run.right_uid == (after[0] if after else NOBODY)
    assert all(b.first_uid != a.last_uid + 1 or b.left_uid != a.left_uid for a, b in pairwise(runs)), "joined"
    assert unpacked_runs(packed_runs(runs, 7), 7) == tuple(runs)


def test_why(archive: Archive, life: Life) -> None:
    life.feed("Before that we spoke of nothing.", Source.MODEL)
    uids = life.feed(FACT)
    life.feed("After that, too.", Source.MODEL)
    life.feed("x")
    tick = life.mirror.view.tick
    life.cull(uids)
    passage = archive.search("Tamsin")[0].passage
    why = archive.why(passage)
    assert (why.passage, why.source, why.ticks) == (passage, Source.USER, (1, 1))
    assert (why.before, why.after) == ("Before that we spoke of nothing.", "After that, too.")
    (cull,) = why.culls
    assert (cull.tick, cull.reason) == (tick, delete(life.mirror.view, []).reason)
    assert (cull.run.first_uid, cull.run.last_uid) == (uids[0], uids[-1])
    assert why.recalls == ()
    assert archive.passage(passage.id) == archive.of_uid(uids[2]) == passage


def test_looking_up_what_is_not_there(archive: Archive, life: Life) -> None:
    uids = life.feed(FACT)
    assert archive.of_uid(uids[0]) is None, "still open"
    assert archive.of_uid(10**9) is None
    assert archive.of_uid(-5) is None
    for number in (0, -1, 10**9):
        with pytest.raises(InvalidInput, match="no passage"):
            archive.passage(number)
    life.cull(uids)
    with pytest.raises(InvalidInput, match="neighbours"):
        archive.neighbours(archive.passage(uids[0] + 1), -1)
    assert archive.neighbours(archive.passage(uids[0] + 1)) == ()


def test_peek_is_for_logs_that_are_only_looked_at(archive: Archive, life: Life, log: Log) -> None:
    assert Archive.peek(log) == {}
    followers = list(log.followers)
    said(life, archive, FACT, "Another one.")
    archive.embed_pending(1)
    assert Archive.peek(log) == {"passages": 1, "vectors": 1, "recalls": 0}
    assert log.followers == followers


# -- aborts ---------------------------------------------------------------------------------------------


def test_an_aborted_birth_leaves_no_passage(archive: Archive, life: Life, log: Log) -> None:
    life.feed("Well, ")
    before = tables(log)
    life.abort("a secret was never told. " * 20)
    assert tables(log) == before
    uids = life.feed(FACT)
    life.cull(uids)
    assert texts(log) == ["Well, " + FACT], "the same uids, other words"


def test_an_aborted_cull_archives_nothing(archive: Archive, life: Life, log: Log) -> None:
    a, b = life.feed(FACT), life.feed(OTHER, Source.MODEL)
    life.cull(b[:1])
    before = tables(log)
    life.write(Committed(delete(life.mirror.view, [*a, *b[1:]])))
    assert found(archive, "Tamsin") == [FACT]
    archive.embed_pending(8)
    life.write(Aborted("EngineFault"))
    after = tables(log)
    assert {t: after[t] for t in ("passages", "runs", "words", "words_docsize")} == {
        t: before[t] for t in ("passages", "runs", "words", "words_docsize")
    }
    assert found(archive, "Tamsin") == []
    assert archive.search("sister Tamsin bees Lerwick") == (), "its vector is gone too"
    life.cull(a)
    assert found(archive, "Tamsin") == [FACT]


def test_an_aborted_recall_is_none(archive: Archive, life: Life) -> None:
    said(life, archive, FACT)
    passage = archive.search("Tamsin")[0].passage
    life.write(replace(life.born([b"bees"], Source.MEMORY), origin=passage.id))
    assert len(archive.recalls(passage)) == 1
    life.write(Aborted("EngineFault"))
    assert archive.recalls(passage) == ()


# -- reopened -------------------------------------------------------------------------------------------

FED = ("user", "model", "log", "control", "memory", "abort")
DONE = ("cull", "cull all", "undo", "abort cull", "repair", "checkpoint")
STEP = st.sampled_from([*FED, *DONE])


def live(script: list[tuple[str, int]], path: Path, between: Callable[[Log], Log]) -> Log:
    """A life by a script; `between` is called after each record."""
    log = Log(path)
    Archive(log)
    life = Life(log)
    undoable = None

    def write(record: Record) -> int:
        seq = Life.write(life, record)
        life.log = between(life.log)
        return seq

    life.write = write  # type: ignore[method-assign]
    for what, n in script:
        alive = life.mirror.view.tokens.uid.tolist()
        some = alive[n % 3 :: 2 + n % 3]
        if what in ("user", "model"):
            life.feed(f"Well {n}. " + "so it goes on and on, " * (n % 5), Source[what.upper()])
        elif what == "log":
            life.feed(f"{n} error in line {n}\n" * (n % 4 + 1), Source.LOG, unit=n)
        elif what in ("control", "memory"):
            life.feed("system note", Source[what.upper()])
        elif what == "abort":
            life.abort("never said. " * (1 + n % 40))
        elif what == "checkpoint":
            life.checkpoint()
        elif what == "undo" and undoable is not None:
            life.undo(undoable)
        elif what == "abort cull" and some:
            life.write(Committed(delete(life.mirror.view, some)))
            life.write(Aborted("told to"))
        elif what == "repair" and alive:
            life.repair(alive[n % len(alive)], "mended words")
        elif what in ("cull", "cull all") and some:
            undoable = life.cull(some if what == "cull" else alive)
            continue
        undoable = None
    return life.log


def reopened(log: Log) -> Log:
    log.close()
    log = Log(log.path)
    Archive(log)
    return log


@settings(max_examples=40)
@given(st.lists(st.tuples(STEP, st.integers(0, 100)), max_size=14))
def test_reopening_after_every_record_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("lives")
    whole = live(script, folder / "whole.db", lambda log: log)
    split = live(script, folder / "split.db", reopened)
    assert tables(split) == tables(whole)
    rebuilt = Archive(split)
    rebuilt.rebuild()
    assert tables(split) == tables(whole), "and so does making it anew from the records"
    whole.close()
    split.close()


@settings(max_examples=40)
@given(st.lists(st.tuples(STEP, st.integers(0, 100)), max_size=14), st.data())
def test_a_log_that_is_cut_short_is_as_if_it_had_ended_there(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, int]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cuts")
    log = live(script, folder / "whole.db", lambda log: log)
    records = [record for _, record in log.records()]
    ends = [n for n in range(len(records) + 1) if not isinstance((*records, None)[n], Aborted)]
    end = data.draw(st.sampled_from(ends))
    log.cut(end)
    short = Log(folder / "short.db")
    Archive(short)
    for record in records[:end]:
        short.write(record)
    assert tables(log) == tables(short)
    for each in (log, short):
        tell_more = Life(each, mirror=Mirror(fold(None, (r for _, r in each.records())).view))
        tell_more.cull(tell_more.feed(FACT, Source.MODEL))
    assert tables(log) == tables(short), "and goes on alike"
    log.close()
    short.close()


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_log_that_was_written_without_an_archive_gets_one(tmp_path: Path, times: int) -> None:
    log = Log(tmp_path / "mind.db")
    life = Life(log)
    life.cull(life.feed(f"{FACT} {OTHER * times}"))
    life.feed("<|end|>", Source.CONTROL)
    archive = Archive(log)
    life.feed("And now?", Source.MODEL)
    assert texts(log) == [f"{FACT} {OTHER * times}"]
    assert found(archive, "Tamsin bees") == texts(log)
    log.close()


# -- vectors --------------------------------------------------------------------------------------------


def test_vectors_are_made_later_and_kept(log: Log, archive: Archive, life: Life, tmp_path: Path) -> None:
    said(life, archive, FACT)
    said(life, archive, OTHER)
    assert archive.waiting
    assert [text for _, text in archive.pending(5)] == [FACT, OTHER]
    assert archive.embed_pending(1) == 1
    assert archive.embed_pending(9) == 1
    assert not archive.waiting
    assert archive.embed_pending(9) == 0
    embedder = archive.embedder
    assert isinstance(embedder, Hashing)
    assert embedder.asked == [FACT, OTHER], "nothing to do costs no embedding"
    first = archive.search("which sibling is an apiarist")
    assert first[0].passage.text == FACT
    log.close()
    again = Log(log.path)
    assert Archive(again, Hashing()).search("which sibling is an apiarist") == first
    assert Archive(again).counts().embedded == 2, "no embedder: kept, and not used"
    again.close()


def test_vectors_of_another_embedder_are_made_anew(log: Log, archive: Archive, life: Life) -> None:
    said(life, archive, FACT)
    archive.embed_pending(9)
    for other in (Hashing("another"), Hashing("another", 32)):
        anew = Archive(log, other)
        assert anew.counts().waiting == 1
        assert anew.search("sibling") == ()
        assert anew.embed_pending(9) == 1
        assert found(anew, "sibling") == [FACT]


def test_a_vector_comes_too_late(log: Log, archive: Archive, life: Life) -> None:
    """A text that was redacted while somebody embedded it must not come back as a vector."""
    uids = life.feed(FACT)
    life.cull(uids)
    ((number, text),) = archive.pending(9)
    vector = Hashing().embed([text])[0]
    life.redact(uids[2:3])
    log.scrub()
    archive.store({number: vector})
    assert archive.counts().embedded == 0
    assert archive.embed_pending(9) == 1
    archive.store({number: vector})
    assert archive.counts().embedded == 1, "nor twice"


@pytest.mark.parametrize(
    "bad", [np.ones(63, np.float32), np.full(64, np.nan, np.float32), np.ones((1, 64), np.float32)]
)
def test_what_is_no_vector_is_refused(archive: Archive, life: Life, log: Log, bad: np.ndarray) -> None:
    said(life, archive, FACT)
    ((number, _),) = archive.pending(9)
    before = tables(log)
    with pytest.raises(InvalidInput, match="vector"):
        archive.store({number: bad})
    assert tables(log) == before
    assert not log.failed


def test_without_an_embedder_there_is_nothing_to_embed(log: Log) -> None:
    archive, life = Archive(log), Life(log)
    said(life, archive, FACT)
    assert (archive.waiting, archive.embed_pending(9), archive.embedder) == (False, 0, None)
    assert found(archive, "Tamsin") == [FACT]
    with pytest.raises(InvalidInput, match="without an embedder"):
        archive.store({1: np.ones(64, np.float32)})


def test_a_closed_log_is_told(log: Log, archive: Archive) -> None:
    log.close()
    for ask in (lambda: archive.search("x"), archive.counts, lambda: archive.pending(1)):
        with pytest.raises(JournalFailed):
            ask()


# -- redaction ------------------------------------------------------------------------------------------


def test_a_redaction_reaches_passages_words_and_vectors(log: Log, archive: Archive, life: Life) -> None:
    uids = life.feed(FACT)
    life.cull([*uids, *life.feed(OTHER, Source.MODEL)])
    archive.embed_pending(9)
    archive.search("warm the cache")
    life.redact(uids_of(log, " Tamsin"))
    log.scrub()
    left = FACT.replace(" Tamsin", "")
    assert found(archive, "Tamsin") == []
    assert found(archive, "sister bees") == [left]
    assert archive.passage(uids[0] + 1).text == left
    assert archive.counts() == replace(archive.counts(), archived=2, embedded=1, waiting=1)
    assert all(f.cosine is None for f in archive.search("sister bees"))
    archive.embed_pending(9)
    assert archive.search("apiarist")[0].passage.text == left


def test_a_passage_of_which_nothing_is_left_is_gone(log: Log, archive: Archive, life: Life) -> None:
    uids = life.feed(FACT)
    life.feed(OTHER, Source.MODEL)
    life.cull(uids)
    archive.embed_pending(9)
    life.redact(uids)
    log.scrub()
    assert archive.counts() == replace(archive.counts(), archived=0, embedded=0, waiting=0)
    with pytest.raises(InvalidInput, match="redacted"):
        archive.passage(uids[0] + 1)
    life.feed("It goes on.", Source.MODEL)
    log = reopened(log)
    assert texts(log) == [""]
    Life(log, mirror=life.mirror).cull(life.mirror.view.tokens.uid.tolist())
    assert len(texts(log)) == 2


def test_the_living_are_redacted_too(log: Log, archive: Archive, life: Life) -> None:
    """The rest of a passage that was open, and lives on."""
    life.feed(FACT)
    life.redact(uids_of(log, " Tamsin keeps"))
    log.scrub()
    life.feed(" And more.")
    life.cull(life.mirror.view.tokens.uid.tolist())
    assert texts(log) == ["My sister bees in Lerwick.", " And more."]


SECRET = "xylophant quagglewort brindlemere"


@pytest.mark.parametrize("crowd", [0, 400])
def test_no_byte_of_it_is_left(tmp_path: Path, crowd: int) -> None:
    path = tmp_path / "mind.db"
    log = Log(path)
    archive, life = Archive(log, Hashing()), Life(log)
    rng = np.random.default_rng(3)

    def word() -> str:
        return "".join(rng.choice(list("bcdfghklmnpqrstvwz"), 7))

    for _ in range(crowd):
        said(life, archive, " ".join(word() for _ in range(12)) + ".")
    uids = said(life, archive, f"The code is {SECRET} for good.")
    life.feed("And on it goes.", Source.MODEL)
    while archive.embed_pending(64):
        pass
    assert any(w.encode()[:5] in raw(path) for w in SECRET.split())
    life.redact(uids)
    log.scrub()
    assert not [w for w in SECRET.split() if w.encode()[:5] in raw(path)]
    assert not [f for f in archive.search(SECRET) if f.matched]
    log.close()
    assert not [w for w in SECRET.split() if w.encode()[:5] in raw(path)]


def raw(path: Path) -> bytes:
    files = (path.with_name(path.name + end) for end in ("", "-wal", "-shm"))
    return b"".join(f.read_bytes() for f in files if f.exists())


def test_inner_pages_of_the_index_forget_too(tmp_path: Path) -> None:
    """FTS5 parts its pages by beginnings of words, and its own deletions leave those where they are."""
    log = Log(tmp_path / "mind.db")
    archive, life = Archive(log), Life(log)
    rng = np.random.default_rng(5)
    words = sorted({"".join(rng.choice(list("bcdfghklmnpqrstvwz"), 8)) for _ in range(6000)})
    for n in range(0, len(words), 60):
        said(life, archive, " ".join(words[n : n + 60]))
    log.db.execute("INSERT INTO words (words) VALUES ('optimize')")

    def separators() -> list[str]:
        return [bytes(t)[1:].decode() for _, t, _ in log.db.execute("SELECT * FROM words_idx") if len(t) > 4]

    parting = separators()[len(separators()) // 2]
    passage = archive.search(next(w for w in words if w.startswith(parting)))[0].passage
    assert any(w.startswith(parting) for w in passage.text.split())
    life.redact(passage.uids)
    log.scrub()
    assert not [w for w in passage.text.split() for s in separators() if w.startswith(s)]
    log.close()


def test_blank_passages_are_never_found(archive: Archive, life: Life, log: Log) -> None:
    life.cull(life.feed(" \n\n "))
    assert archive.counts() == replace(archive.counts(), passages=1, archived=0, waiting=0)
    assert log.db.execute("SELECT unit FROM passages").get == NO_UNIT
