# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Records to rows and back: exact for every field, small, and nothing but a whole row is ever read."""

from __future__ import annotations

import zlib
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_strategies import any_views, edits, same_bits, text, tokens_of, view_of

from haloweave.errors import InvalidInput, JournalCorrupt
from haloweave.journal.base import (
    Aborted,
    Born,
    Checkpoint,
    Committed,
    Pieces,
    Rebuilt,
    Record,
    Reread,
    Totals,
    Turn,
)
from haloweave.journal.packing import MOST, Packer, Unpacker, deflated, inflated
from haloweave.journal.records import VERSION, Kind, Row, pack, thinned, unpack
from haloweave.journal.scrub import REDACTED, forgotten, redacted
from haloweave.memory.edit import Edit, Splice, Surgery
from haloweave.memory.plan import delete
from haloweave.memory.tokens import COLUMNS, Source, Tokens

int64s = st.integers(-(1 << 63), (1 << 63) - 1)
sizes = st.integers(0, 1 << 40)
ids = st.integers(-1, (1 << 31) - 1)
turns = st.builds(
    Turn,
    role=st.one_of(st.sampled_from(["", "system", "user", "assistant", "tool"]), st.text(max_size=5)),
    unit=st.integers(-1, (1 << 31) - 1),
    begun=st.booleans(),
    next_unit=st.integers(0, (1 << 31) - 1),
)


def any_column(dtype: type, n: int) -> st.SearchStrategy[np.ndarray]:
    """Constant, counting, or anything at all, NaN and infinity included."""
    if dtype is np.float32:
        bits = st.lists(st.integers(0, (1 << 32) - 1), min_size=n, max_size=n)
        anything = bits.map(lambda b: np.array(b, np.uint32).view(np.float32))
        return st.one_of(anything, st.floats(0, 255, width=32).map(lambda b: np.full(n, b, np.float32)))
    if dtype is np.bool_:
        return st.lists(st.booleans(), min_size=n, max_size=n).map(lambda b: np.array(b, np.bool_))
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    one = st.integers(low, high)
    return st.one_of(
        st.lists(one, min_size=n, max_size=n).map(lambda v: np.array(v, dtype)),
        one.map(lambda v: np.full(n, v, dtype)),
        st.integers(0, high - n).map(lambda v: np.arange(v, v + n).astype(dtype)),
    )


@st.composite
def any_tokens(draw: st.DrawFn) -> Tokens:
    n = draw(st.integers(0, 9))
    return Tokens(**{name: draw(any_column(dtype, n)) for name, dtype in COLUMNS.items()})


def pieces_for(count: int) -> st.SearchStrategy[Pieces]:
    spelt = st.lists(st.binary(max_size=5), min_size=count, max_size=count).map(tuple)
    return st.one_of(st.just(()), spelt)


@st.composite
def births(draw: st.DrawFn) -> Born:
    tokens = draw(any_tokens())
    return Born(
        tokens=tokens,
        pieces=draw(pieces_for(len(tokens))),
        turn=draw(st.none() | turns),
        sampled=draw(st.booleans()),
        scored=draw(st.booleans()),
        origin=draw(int64s),
    )


@st.composite
def commits(draw: st.DrawFn) -> Committed:
    edit = draw(edits(draw(any_views()), most=5))
    edit = replace(edit, reason=draw(st.text(max_size=9)), base=draw(sizes), tick=draw(sizes))
    return Committed(
        edit=edit,
        pieces=draw(pieces_for(len(edit.born_uids))),
        takes_back=draw(st.none() | int64s),
        redacts=tuple(draw(st.lists(int64s, max_size=5))),
        goal=draw(int64s),
        rows=draw(int64s),
    )


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    view = view_of([], revision=draw(sizes), tick=draw(sizes), next_uid=draw(sizes))
    totals = Totals(draw(sizes), draw(sizes), draw(sizes), draw(sizes))
    return Checkpoint(replace(view, tokens=draw(any_tokens())), draw(turns), totals)


reasons = st.one_of(st.text(), st.just("a lone \udc80 surrogate"), st.just("\x00"))
records = st.one_of(
    births(),
    commits(),
    checkpoints(),
    st.builds(Aborted, reason=reasons),
    st.just(Reread()),
    st.just(Rebuilt()),
)


def row_of(record: Record, *, seq: int = 7, tick: int = 3, next_uid: int = 5) -> Row:
    return pack(record, seq=seq, tick=tick, next_uid=next_uid)


def parts(record: Record) -> list[Tokens]:
    """Every run of tokens in a record."""
    if isinstance(record, Born):
        return [record.tokens]
    if isinstance(record, Committed):
        return [run for s in record.edit.splices for run in (s.old, s.new)]
    return [record.view.tokens] if isinstance(record, Checkpoint) else []


def bare(record: Record) -> Record:
    """The record with its tokens taken out, so that all else can be compared by `==` (NaN is not NaN)."""
    nothing = Tokens.empty()
    if isinstance(record, Born):
        return replace(record, tokens=nothing)
    if isinstance(record, Committed):
        return replace(
            record, edit=Edit(record.edit.base, record.edit.tick, record.edit.reason, Surgery.DROP, ())
        )
    if isinstance(record, Checkpoint):
        return replace(record, view=replace(record.view, tokens=nothing))
    return record


def assert_same(a: Record, b: Record) -> None:
    assert type(a) is type(b)
    assert bare(a) == bare(b)
    assert len(parts(a)) == len(parts(b))
    assert all(same_bits(x, y) for x, y in zip(parts(a), parts(b), strict=True))
    if isinstance(a, Committed) and isinstance(b, Committed):
        assert a.edit.surgery is b.edit.surgery
        assert [s.start for s in a.edit.splices] == [s.start for s in b.edit.splices]


# ---- exact -------------------------------------------------------------------------------------------


@given(records, st.integers(1, 1 << 40), sizes, sizes)
def test_a_record_comes_back_exactly(record: Record, seq: int, tick: int, next_uid: int) -> None:
    row = pack(record, seq=seq, tick=tick, next_uid=next_uid)
    assert (row.seq, Kind(row.kind).name.lower()) == (seq, type(record).__name__.lower())
    assert_same(unpack(row), record)


def test_every_field_of_every_record_is_tried() -> None:
    """Add a field to a record, and the encoding has to learn it: these lists are the strategies above."""
    told = {
        t.__name__: [f.name for f in fields(t)] for t in (Born, Committed, Checkpoint, Turn, Totals, Aborted)
    }
    assert told == {
        "Born": ["tokens", "pieces", "turn", "sampled", "scored", "origin"],
        "Committed": ["edit", "pieces", "takes_back", "redacts", "goal", "rows"],
        "Checkpoint": ["view", "turn", "totals"],
        "Turn": ["role", "unit", "begun", "next_unit"],
        "Totals": ["fed", "spoken", "culled", "edits"],
        "Aborted": ["reason"],
    }
    assert fields(Reread) == fields(Rebuilt) == ()


@pytest.mark.parametrize("surgery", Surgery)
def test_every_surgery_has_a_number(surgery: Surgery) -> None:
    record = Committed(Edit(0, 0, "r", surgery, ()))
    assert unpack(row_of(record)) == record


@pytest.mark.parametrize("first", [-(1 << 63), (1 << 63) - 2])
def test_uids_at_the_ends_of_their_type(first: int) -> None:
    """What counts up past the end wraps around, as numpy's integers do, without a warning."""
    with np.errstate(all="raise"):
        uid = np.arange(4, dtype=np.int64) + first
    tokens = Tokens.make([1, 2, 3, 4], first_uid=0, source=Source.USER).replace(uid=uid)
    assert_same(unpack(row_of(Born(tokens))), Born(tokens))


def test_a_row_can_be_read_without_this_program() -> None:
    tokens = Tokens.make([5, 6], first_uid=40, source=Source.LOG, tick=9)
    row = row_of(Born(tokens, ("ä".encode()[:1], "ä".encode()[1:] + b"!")))
    assert (row.tick, row.first_uid, row.tokens, row.source) == (9, 40, 2, Source.LOG)
    assert row.text.decode() == "ä!"
    assert (row.next_uid, row.next_tick) == (42, 10)


def test_an_edit_takes_only_uids_that_were_never_given() -> None:
    """An undo brings old uids back: its row takes none, and its successor begins where it began."""
    view = view_of(text(6))
    culled = delete(view, [1, 2])
    assert row_of(Committed(culled), next_uid=6).tokens == 0
    back = row_of(Committed(culled.inverse(), (b"a", b"b")), next_uid=6)
    assert (back.first_uid, back.tokens, back.text) == (6, 0, b"ab")
    new = Tokens.make([1, 2], first_uid=6, source=Source.MARKER)
    marked = Edit(0, 0, "r", Surgery.PATCH, (Splice(0, Tokens.empty(), new),))
    assert row_of(Committed(marked, (b"x", b"y")), next_uid=6)[2:7] == (3, 6, 2, Source.MARKER, b"xy")


@given(births(), st.integers(1, 3))
def test_pieces_that_are_not_one_for_each_token_are_refused(record: Born, more: int) -> None:
    pieces = (b"",) * (len(record.tokens) + more)
    with pytest.raises(InvalidInput, match="one for each"):
        row_of(replace(record, pieces=pieces))


def test_numbers_beyond_64_bits_are_refused() -> None:
    with pytest.raises(InvalidInput, match="64-bit"):
        row_of(Committed(Edit(1 << 63, 0, "r", Surgery.DROP, ())))


# ---- nothing but a whole row -------------------------------------------------------------------------

_SAMPLES: list[Record] = [
    Born(
        Tokens.make(range(300, 364), first_uid=9, source=Source.LOG, unit=4), (b"abcd",) * 64, Turn("user", 1)
    ),
    Born(Tokens.make([7], first_uid=9, source=Source.MODEL), (b"x",), sampled=True),
    Committed(delete(view_of(text(40)), [3, 4, 9, 20, 30]), redacts=(3, 4)),
    Checkpoint(view_of(text(30)), Turn("assistant", 3, True, 4), Totals(1, 2, 3, 4)),
    Aborted("EngineFault: no"),
    Reread(),
]


@pytest.mark.parametrize("record", _SAMPLES, ids=lambda r: type(r).__name__)
def test_every_flipped_bit_is_noticed(record: Record) -> None:
    row = row_of(record)
    for name in ("text", "body"):
        data = getattr(row, name)
        for bit in range(len(data) * 8):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(JournalCorrupt, match="record 7"):
                unpack(row._replace(**{name: bytes(flipped)}))


@pytest.mark.parametrize("record", _SAMPLES, ids=lambda r: type(r).__name__)
def test_every_truncation_and_trailing_byte_is_noticed(record: Record) -> None:
    row = row_of(record)
    for end in range(len(row.body)):
        with pytest.raises(JournalCorrupt):
            unpack(row._replace(body=row.body[:end]))
    for more in (b"\0", row.body[-4:], row.body):
        with pytest.raises(JournalCorrupt):
            unpack(row._replace(body=row.body + more))
    if row.text:
        with pytest.raises(JournalCorrupt):
            unpack(row._replace(text=row.text[1:]))


@given(records, st.sampled_from(["seq", "kind", "tick", "first_uid", "tokens", "source"]), st.integers(-9, 9))
def test_a_row_in_the_wrong_place_is_noticed(record: Record, column: str, off: int) -> None:
    row = row_of(record)
    there = getattr(row, column)
    other = off if there is None else there + off
    if other != there:
        with pytest.raises(JournalCorrupt):
            unpack(row._replace(**{column: other}))


@pytest.mark.parametrize("wrong", [None, "text", 1.5])
def test_columns_of_the_wrong_type_are_noticed(wrong: object) -> None:
    row = row_of(_SAMPLES[0])
    for column in ("seq", "kind", "tick", "first_uid", "tokens", "text", "body"):
        with pytest.raises(JournalCorrupt):
            unpack(row._replace(**{column: wrong}))


def resealed(row: Row, payload: bytes, *, head: int = VERSION) -> Row:
    """A row with a valid checksum over whatever is in it: what an attacker, not an accident, would write."""
    body = bytes([head]) + payload
    told = repr((*row[:6], len(row.text))).encode()
    return row._replace(
        body=body + zlib.crc32(body, zlib.crc32(row.text, zlib.crc32(told))).to_bytes(4, "little")
    )


def test_the_forged_seal_of_these_tests_is_the_real_one() -> None:
    row = row_of(Reread())
    assert resealed(row, b"") == row


@given(st.sampled_from(_SAMPLES), st.binary(max_size=60), st.booleans())
def test_forged_bodies_are_read_or_refused_and_nothing_else(
    record: Record, payload: bytes, packed: bool
) -> None:
    row = resealed(row_of(record), payload, head=VERSION | 0x80 * packed)
    try:
        unpack(row)
    except JournalCorrupt:
        return


@given(st.sampled_from(_SAMPLES[:4]), st.data())
def test_damaged_bodies_with_a_forged_seal_are_read_or_refused(record: Record, data: st.DataObject) -> None:
    row = row_of(record)
    raw = row.body[1:-4]
    payload = bytearray(inflated(raw) if row.body[0] & 0x80 else raw)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(
            st.sampled_from([0, 1, 0x7F, 0xF0, 0xFF])
        )
    try:
        unpack(resealed(row, bytes(payload)))
    except JournalCorrupt:
        return


@pytest.mark.parametrize("count", [0xFFFFFFF0, 1 << 40, (1 << 63) - 1, -1])
def test_absurd_lengths_allocate_nothing(count: int) -> None:
    huge = Packer()
    huge.number(count)
    with pytest.raises(JournalCorrupt):
        inflated(huge.written() + b"x" * 40)
    with pytest.raises(JournalCorrupt):
        Unpacker(huge.written()).size()
    with pytest.raises(JournalCorrupt):
        Unpacker(b"\0\0").column(count)
    with pytest.raises(JournalCorrupt):
        Unpacker(huge.written()).text()
    row = row_of(_SAMPLES[0])._replace(tokens=count)
    with pytest.raises(JournalCorrupt):
        unpack(resealed(row, b"\0\0\0\0"))
    edit = Packer()
    for number in (0, 0, 0, 0, 0):  # flags, base, tick, reason, surgery
        edit.number(number)
    edit.number(count)
    with pytest.raises(JournalCorrupt):
        unpack(resealed(row_of(_SAMPLES[2]), edit.written()))


def test_a_later_version_says_so() -> None:
    row = row_of(Reread())
    with pytest.raises(JournalCorrupt, match="version 2, this release reads version 1"):
        unpack(resealed(row, b"", head=2))


def test_a_thinned_row_keeps_its_number_and_no_content() -> None:
    row = thinned(row_of(_SAMPLES[3]))
    assert (row.seq, row.kind, len(row.body)) == (7, Kind.THINNED, 5)
    with pytest.raises(JournalCorrupt):
        unpack(row)


# ---- packing -----------------------------------------------------------------------------------------


@given(st.one_of(*[any_column(np.int64, n) for n in (0, 1, 2, 3, 30)]))
def test_columns_come_back(values: np.ndarray) -> None:
    out = Packer()
    out.column(values)
    src = Unpacker(out.written())
    assert src.column(len(values)).tolist() == values.tolist()
    src.end()


@pytest.mark.parametrize("count", [1, 2, 64, 4096])
def test_counting_up_costs_the_same_at_any_length(count: int) -> None:
    out = Packer()
    out.column(np.arange(10**6, 10**6 + count))
    assert len(out.written()) <= 6


def test_a_column_longer_than_any_context_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most"):
        Packer().column(np.zeros(MOST + 1, np.int64))


@given(st.binary(max_size=300), st.integers(1, 40))
def test_deflated_bytes_come_back(data: bytes, times: int) -> None:
    packed = deflated(data * times)
    assert packed is None or (inflated(packed) == data * times and len(packed) < len(data) * times)


def test_a_deflate_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(b"\0" * 10**7, 9, wbits=-15)
    out = Packer()
    out.number(1000)
    with pytest.raises(JournalCorrupt, match="expected 1000"):
        inflated(out.written() + bomb)


# ---- redaction ---------------------------------------------------------------------------------------


@given(records, st.data())
def test_redaction_takes_ids_and_text_and_nothing_else(record: Record, data: st.DataObject) -> None:
    uids = sorted({int(u) for run in parts(record) for u in run.uid})
    gone = np.array(sorted(data.draw(st.sets(st.sampled_from(uids) if uids else int64s))), np.int64)
    after = redacted(record, gone)
    assert len(parts(after)) == len(parts(record))
    for old, new in zip(parts(record), parts(after), strict=True):
        hit = np.isin(old.uid, gone)
        assert np.all(new.token_id[hit] == REDACTED)
        assert same_bits(new, old.replace(token_id=np.where(hit, np.int32(REDACTED), old.token_id)))
    if isinstance(record, Born | Committed) and record.pieces:
        born = record.tokens.uid if isinstance(record, Born) else record.edit.born_uids
        assert isinstance(after, Born | Committed)
        expected = tuple(b"" if u in gone else p for u, p in zip(born.tolist(), record.pieces, strict=True))
        assert after.pieces == expected
    if not len(gone):
        assert after is record
    assert_same(unpack(row_of(after)), after)
    assert row_of(after)[:6] == row_of(record)[:6]


@given(records)
def test_what_is_forgotten_says_nothing(record: Record) -> None:
    after = forgotten(record)
    if isinstance(record, Born | Committed):
        assert all(np.all(run.token_id == REDACTED) for run in parts(after))
        assert not row_of(after).text
    else:
        assert after is record


# ---- sizes -------------------------------------------------------------------------------------------


def _speech(count: int, rng: np.random.Generator) -> tuple[Tokens, Pieces]:
    token_ids = np.minimum(rng.zipf(1.3, count), 49151)
    tokens = Tokens.make(token_ids, first_uid=900_000, source=Source.MODEL, brightness=180.0, tick=12_000)
    return tokens, tuple(b"x" * int(n) for n in rng.integers(1, 8, count))


def test_bytes_per_token_stay_small() -> None:
    rng = np.random.default_rng(0)
    turn = Turn("assistant", 70_000, True, 70_001)
    tokens, pieces = _speech(64, rng)
    fed = row_of(Born(tokens, pieces, turn))
    assert len(fed.body) <= 64 * 3.5
    one, piece = _speech(1, rng)
    assert len(row_of(Born(one, piece, turn, sampled=True)).body) <= 32
    held, _ = _speech(512, rng)
    held = held.replace(
        uid=np.sort(rng.choice(900_000, 512, replace=False)),
        brightness=rng.uniform(0, 255, 512).astype(np.float32),
    )
    view = replace(view_of([], tick=12_000, revision=13_000, next_uid=900_000), tokens=held)
    assert len(row_of(Checkpoint(view, turn, Totals())).body) <= 512 * 11
    culled = delete(view, held.uid[np.sort(rng.choice(512, 64, replace=False))].tolist())
    assert len(row_of(Committed(culled)).body) <= 64 * 14


def test_the_smallest_rows_need_few_bytes() -> None:
    assert len(row_of(Reread()).body) == 5
    plain = tokens_of(text(1, first_uid=5, source=Source.USER))
    assert len(row_of(Born(plain), seq=1, tick=0).body) <= 16
