from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.abi.io import xs_wire
from pyxen.xenstore.errors import ProtocolViolationError
from pyxen.xenstore.wire import HEADER, Message, Reassembler, pack, pack_event

messages = st.lists(
    st.builds(
        Message,
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0xFFFFFFFF),
        st.one_of(st.binary(max_size=60), st.binary(min_size=4000, max_size=4096)),
    ),
    max_size=8,
)


@given(messages, st.lists(st.integers(1, 700), min_size=1))
def test_any_cut_of_the_stream_gives_the_same_messages(sent: list[Message], cuts: list[int]) -> None:
    stream = b"".join(pack(*message) for message in sent)
    assembler = Reassembler()
    received = []
    position = cut = 0
    while position < len(stream):
        size = cuts[cut % len(cuts)]
        cut += 1
        assembler.feed(stream[position : position + size])
        position += size
        while (message := assembler.next()) is not None:
            received.append(message)
    assert received == sent
    assert len(assembler) == 0


def test_too_long_a_payload() -> None:
    assembler = Reassembler()
    assembler.feed(HEADER.pack(xs_wire.XS_READ, 1, 0, 4097))
    with pytest.raises(ProtocolViolationError):
        assembler.next()


def test_clear() -> None:
    assembler = Reassembler()
    assembler.feed(b"half a header")
    assembler.clear()
    assembler.feed(pack(1, 2, 3, b"x"))
    assert assembler.next() == Message(1, 2, 3, b"x")


def test_event() -> None:
    event = pack_event("/a/b", b"token")
    assert event is not None
    assert HEADER.unpack_from(event) == (xs_wire.XS_WATCH_EVENT, 0, 0, 11)
    assert event[HEADER.size :] == b"/a/b\0token\0"
    assert pack_event("/" + "p" * 3000, b"t" * 1093) is not None
    assert pack_event("/" + "p" * 3000, b"t" * 1094) is None
