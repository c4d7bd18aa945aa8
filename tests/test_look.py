# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Looking at a context: found by bytes, coloured by brightness, explained by the laws."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from fakes import END, START, ByteCodec, fake_mind
from hypothesis import given
from hypothesis import strategies as st

from haloweave import look
from haloweave.errors import InvalidInput
from haloweave.memory.laws import Laws
from haloweave.memory.plan import boost, pin
from haloweave.memory.tokens import NO_UNIT, Source, Tokens, View

CODEC = ByteCodec()


class ChunkCodec(ByteCodec):
    """Token n stands for `pieces[n]`: words, halves of characters, nothing at all."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._chunks = pieces

    def piece(self, token_id: int) -> bytes:
        return self._chunks[token_id]


def view_of(*parts: Tokens) -> View:
    tokens = Tokens.concat(parts)
    return View(tokens, revision=1, tick=1, next_uid=int(tokens.uid.max()) + 1 if len(tokens) else 0)


def said(ids: list[int], first_uid: int = 0, source: Source = Source.USER, **more: object) -> Tokens:
    return Tokens.make(ids, first_uid=first_uid, source=source, **more)  # type: ignore[arg-type]


def chunked(*pieces: bytes) -> tuple[View, ChunkCodec]:
    return view_of(said(list(range(len(pieces))))), ChunkCodec(list(pieces))


def test_a_text_is_found_within_and_across_tokens() -> None:
    view, codec = chunked(b"My na", b"me is", b" Ada", b"", b" Love", b"lace. Ad", b"a!")
    name, again = look.find(view, codec, "Ada")
    assert (name.start, name.uids, name.text) == (2, (2,), " Ada")
    assert (again.uids, again.text) == ((5, 6), "lace. Ada!")
    assert look.find(view, codec, "name is Ada Love")[0].uids == (0, 1, 2, 3, 4)
    assert look.find(view, codec, "Adam") == ()


def test_occurrences_that_share_a_token_make_one_run() -> None:
    view, codec = chunked(b"aa", b"aba", b"a")
    assert [r.uids for r in look.find(view, codec, "a")] == [(0,), (1,), (2,)]
    assert [r.uids for r in look.find(view, codec, "aa")] == [(0,), (1, 2)]
    view, codec = chunked(b"x a", b"b a", b"b")
    assert [r.uids for r in look.find(view, codec, "ab")] == [(0, 1, 2)]


def test_case_is_ignored_only_where_asked_for() -> None:
    view = view_of(said(list(b"Miso and MISO")))
    assert len(look.find(view, CODEC, "miso")) == 0
    assert [r.text for r in look.find(view, CODEC, "miso", any_case=True)] == ["Miso", "MISO"]


def test_control_tokens_are_no_text() -> None:
    frame = said([START, *b"user\n"], source=Source.CONTROL, unit=1)
    view = view_of(frame, said(list(b"the user"), first_uid=6))
    assert [r.start for r in look.find(view, CODEC, "user")] == [10]
    assert look.find(view, CODEC, "\nthe") == ()
    assert look.find(view_of(said([END], source=Source.CONTROL)), CODEC, "<|im_end|>") == ()


def test_nothing_is_not_looked_for() -> None:
    with pytest.raises(InvalidInput, match="some text"):
        look.find(view_of(said([1])), CODEC, "")
    assert look.find(View(Tokens.empty(), 0, 0, 0), CODEC, "x") == ()


def test_a_lone_surrogate_is_looked_for_as_codecs_read_it() -> None:
    view = view_of(said(list("a\ufffdb?".encode())))
    assert [r.start for r in look.find(view, CODEC, "\udcff")] == [1]


@given(st.lists(st.binary(max_size=4), max_size=12), st.text(min_size=1, max_size=3))
def test_find_agrees_with_a_slow_search(pieces: list[bytes], text: str) -> None:
    view, codec = (chunked(*pieces)) if pieces else (View(Tokens.empty(), 0, 0, 0), ChunkCodec([]))
    owner = [n for n, piece in enumerate(pieces) for _ in piece]
    whole, wanted = b"".join(pieces), text.encode()
    expected: set[int] = set()
    at = 0
    while at + len(wanted) <= len(whole):
        if whole[at : at + len(wanted)] == wanted:
            expected |= set(range(owner[at], owner[at + len(wanted) - 1] + 1))
            at += len(wanted)
        else:
            at += 1
    runs = look.find(view, codec, text)
    slots = [s for r in runs for s in r.uids]
    assert slots == sorted(expected)
    assert all(a.start + len(a.uids) <= b.start for a, b in pairwise(runs))


def test_a_character_cut_in_two_is_shown_by_the_token_that_completes_it() -> None:
    view, codec = chunked(b"caf\xc3", b"\xa9 ", b"\xf0\x9f", b"\x98\x80", b"\xff!")
    glyphs = look.glyphs(codec, view.tokens.token_id.tolist())
    assert glyphs == ["caf", "é ", "", "😀", "\ufffd!"]
    assert "".join(t.text for t in look.tokens(view, codec)) == "café 😀\ufffd!"
    assert look.glyphs(ChunkCodec([b"x", b"\xe2\x82"]), [0, 1]) == ["x", "\ufffd"]
    assert look.glyphs(codec, []) == []


def test_spans_hold_the_whole_context_by_source_and_pin() -> None:
    parts = (
        said(list(b"Be kind."), source=Source.SYSTEM, pinned=True, brightness=100.0),
        said(list(b"hello "), first_uid=8, brightness=200.0),
        said(list(b"you"), first_uid=14, brightness=20.0, pinned=True),
    )
    spans = look.spans(view_of(*parts), CODEC)
    assert [(s.source, s.pinned, s.text) for s in spans] == [
        ("SYSTEM", True, "Be kind."),
        ("USER", False, "hello "),
        ("USER", True, "you"),
    ]
    assert [(s.start, s.stop, s.brightness) for s in spans] == [(0, 8, 100.0), (8, 14, 200.0), (14, 17, 20.0)]
    json.dumps([asdict(s) for s in spans])


def test_a_token_tells_its_age_in_tokens_and_no_unit_is_none() -> None:
    tokens = look.tokens(view_of(said(list(b"ab")), said(list(b"c"), first_uid=2, unit=7)), CODEC)
    assert [(t.age, t.unit) for t in tokens] == [(2, None), (1, None), (0, 7)]
    json.dumps([asdict(t) for t in tokens])


def test_the_strip_averages_slots_into_cells() -> None:
    tokens = said([1] * 6).replace(brightness=np.array([0, 10, 100, 110, 200, 210], np.float32))
    view = view_of(tokens)
    assert look.strip(view, 3) == [5.0, 105.0, 205.0]
    assert look.strip(view, 100) == [0.0, 10.0, 100.0, 110.0, 200.0, 210.0]
    assert look.strip(View(Tokens.empty(), 0, 0, 0), 10) == []
    assert len(look.strip(view, 4)) == 4
    with pytest.raises(InvalidInput, match="width"):
        look.strip(view, 0)


def test_the_brightest_are_never_control_tokens() -> None:
    view = view_of(
        said([START], source=Source.CONTROL, brightness=255.0),
        said([1, 2, 3], first_uid=1).replace(brightness=np.array([5, 9, 9], np.float32)),
    )
    assert look.brightest(view, 2) == [2, 3]
    assert look.brightest(view, 0) == []
    assert look.brightest(view, 99) == [2, 3, 1]


@pytest.mark.parametrize(
    ("brightness", "expected"), [(0, 0), (-3, 0), (31, 0), (128, 4), (254.9, 7), (255, 7)]
)
def test_levels(brightness: float, expected: int) -> None:
    assert look.level(brightness, 8) == expected


LAWS = Laws(sinks=1, tail=2, lock=250.0)


def explained() -> View:
    """Sink, plain, pinned, rock, two of a log line, one hollow and one framing control token, tail."""
    return view_of(
        said([65], brightness=10.0),
        said([66, 67], first_uid=1).replace(brightness=np.array([10, 90], np.float32)),
        said([68], first_uid=3, pinned=True, brightness=1.0),
        said([69], first_uid=4, brightness=251.0),
        said([70, 71], first_uid=5, source=Source.LOG, unit=1, brightness=30.0),
        said([START], first_uid=7, source=Source.CONTROL, unit=2, brightness=255.0),
        said([72], first_uid=8, brightness=60.0),
        said([END], first_uid=9, source=Source.CONTROL, unit=2, brightness=255.0),
        said([73, 74], first_uid=10, brightness=40.0),
    )


def test_why_gives_every_reason_the_laws_know() -> None:
    view = explained()
    whys = look.why(view, CODEC, LAWS, range(len(view.tokens)))
    told = ["; ".join(w.reasons) for w in whys]
    assert [slot for slot, w in enumerate(whys) if not w.protected] == [1, 2, 5, 6, 8]
    expected = {
        0: "sink",
        1: "may be culled: brighter than 0%",
        2: "brighter than 80%",
        3: "pinned",
        4: "rock",
        5: "2 tokens of a line that dies whole, as bright as its brightest (30)",
        7: "control token",
        9: "control token",
        10: "recent",
    }
    assert {slot: text in told[slot] for slot, text in expected.items()} == dict.fromkeys(expected, True)
    assert whys[4].rank == pytest.approx(100 * 9 / 12, abs=0.1)
    json.dumps([asdict(w) for w in whys])


def test_what_why_calls_protected_is_what_the_laws_protect() -> None:
    view = explained()
    safe = [w.protected for w in look.why(view, CODEC, LAWS, range(len(view.tokens)))]
    control = view.tokens.source == Source.CONTROL
    assert np.array_equal(np.array(safe)[~control], LAWS.untouchable(view.tokens)[~control])


def test_a_unit_is_explained_by_its_protected_token() -> None:
    line = said([1, 2], source=Source.LOG, unit=3, brightness=9.0)
    view = view_of(line.replace(pinned=np.array([True, False])), said([9], first_uid=2))
    other = look.why(view, CODEC, Laws(sinks=0, tail=0), [1])[0]
    assert other.protected
    assert "its unit holds a protected token" in other.reasons


def test_a_slot_that_is_not_there() -> None:
    with pytest.raises(InvalidInput, match=r"0\.\.11, got 12"):
        look.why(explained(), CODEC, LAWS, [12])


def test_a_pin_takes_the_whole_unit() -> None:
    view = explained()
    for uid, held in ((5, [5, 6]), (1, [1])):
        edit = pin(view, [uid])
        assert [int(u) for s in edit.splices for u in s.new.uid] == held


def test_looking_at_a_living_mind() -> None:
    mind = fake_mind(system="Be kind.", budget=128)
    for _ in mind.listen("my name is Ada, and " + "so on and so forth " * 20):
        pass
    view = mind.view
    assert "".join(s.text for s in look.spans(view, mind.codec)) == mind.text()
    pinned = look.find(view, mind.codec, "Be kind")[0]
    assert all(w.protected for w in look.why(view, mind.codec, mind.laws, [pinned.start]))
    runs = look.find(view, mind.codec, "so on")
    mind.commit(pin(mind.view, runs[-1].uids))
    mind.commit(boost(mind.view, runs[-1].uids, 7.0))
    assert [s.text for s in look.spans(mind.view, mind.codec) if s.pinned][-1] == "so on"
    assert mind.view.tokens.unit[-1] == NO_UNIT
