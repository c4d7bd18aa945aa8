# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Text that streams: whole characters only, and never the beginning of a stop text."""

from __future__ import annotations

import pytest
from fakes import ByteCodec
from hypothesis import example, given
from hypothesis import strategies as st

from haloweave.memory.tokens import Source
from haloweave.text import ChatFrame, Speech, spell

HARD = "e\u0301 नमस्ते क्षि 👩‍👩‍👧‍👦 🏳️‍🌈 \u202eabc\u202c \u200f שלום \ufeff \x00 \U0010ffff"


def _shown(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """What a speech shows, byte by byte, until it stops."""
    speech, parts = Speech(ByteCodec(), stop), []
    for byte in text.encode():
        parts.append(speech.push(byte))
        if speech.stopped:
            break
    parts.append(speech.flush())
    return parts, speech.stopped


def test_split_characters_stream_whole() -> None:
    parts, _ = _shown(HARD)
    assert "".join(parts) == HARD
    assert not any("\ufffd" in part for part in parts)
    assert max(len(part) for part in parts) == 1


@given(st.text())
@example(HARD)
def test_any_text_streams_to_itself(text: str) -> None:
    parts, stopped = _shown(text.encode("utf-8", "replace").decode())
    assert "".join(parts) == text.encode("utf-8", "replace").decode()
    assert not stopped


@given(st.binary(max_size=30))
def test_any_bytes_stream_as_they_spell(data: bytes) -> None:
    speech = Speech(ByteCodec())
    shown = "".join(speech.push(b) for b in data) + speech.flush()
    assert shown == data.decode("utf-8", "replace") == spell(ByteCodec(), list(data))


@given(
    text=st.text("ab\n<>", max_size=30),
    stop=st.lists(st.text("ab\n<>", min_size=1, max_size=4), max_size=3),
)
@example(text="aab", stop=["ab"])
@example(text="<<<>", stop=["<<>"])
@example(text="abab>", stop=["abab>", "b>"])
def test_stop_texts_and_what_follows_are_never_shown(text: str, stop: list[str]) -> None:
    """Against the obvious: the shortest beginning of the text that holds a stop text decides."""
    parts, stopped = _shown(text, tuple(stop))
    ends = next((n for n in range(len(text) + 1) if any(s in text[:n] for s in stop)), None)
    if ends is None:
        assert "".join(parts) == text
        assert not stopped
    else:
        first = min(at for s in stop if (at := text[:ends].find(s)) >= 0)
        assert "".join(parts) == text[:first]
        assert stopped
    for n in range(len(parts)):  # nothing shown is ever taken back
        assert text.startswith("".join(parts[:n]))


def test_a_stop_text_within_one_token_hides_the_rest_of_the_token() -> None:
    class Words(ByteCodec):
        def piece(self, token_id: int) -> bytes:
            return (b"all is well", b" STOP and more", b"hidden")[token_id]

    speech = Speech(Words(), ("STOP",))
    assert speech.push(0) == "all is well"
    assert speech.push(1) == " "
    assert speech.stopped
    assert speech.flush() == ""


def test_a_stop_text_of_many_bytes_is_met_whole() -> None:
    parts, stopped = _shown("ok 👩‍👧 no", ("👩‍👧",))
    assert "".join(parts) == "ok "
    assert stopped


def test_what_looked_like_a_stop_text_is_shown_in_the_end() -> None:
    parts, stopped = _shown("a<|im", ("<|im_end|>",))
    assert parts[:-1] == ["a", "", "", "", ""]
    assert parts[-1] == "<|im"
    assert not stopped


def test_an_unfinished_character_ends_as_a_replacement() -> None:
    speech = Speech(ByteCodec())
    assert [speech.push(b) for b in "👍".encode()[:3]] == ["", "", ""]
    assert speech.flush() == "\ufffd"


@pytest.mark.parametrize("source", list(Source))
def test_every_source_has_a_role(source: Source) -> None:
    bare = ChatFrame(opening=(), headers={"user": (1,)}, footers={"user": (2,)})
    assert bare.role(source) == "user"
    frame = ByteCodec().frame
    assert frame is not None
    assert frame.role(source) in frame.headers
    assert frame.role(Source.MODEL) == "assistant"
    assert frame.role(Source.TOOL) == frame.role(Source.LOG) == frame.role(Source.MEMORY) == "user"
