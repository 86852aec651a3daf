"""A packet in pieces: whole it comes through unchanged, otherwise it is a WireError, whatever the
pieces claim."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WireError
from common.wire.envelope import Kind, Packet
from common.wire.framing import CHUNK, assemble, frames

KINDS: tuple[Kind, ...] = ("greeting", "hello", "request", "updates")
PACKETS = st.builds(
    Packet,
    st.sampled_from(KINDS),
    st.binary(max_size=50),
    st.text(max_size=5),
    st.binary(max_size=50),
)


def refused(pieces: Sequence[bytes], limit: int = 1000) -> str:
    with pytest.raises(WireError) as caught:
        assemble(pieces, limit)
    assert caught.value.code == "W02"
    return str(caught.value)


@given(PACKETS)
def test_a_packet_comes_through_unchanged(packet: Packet) -> None:
    assert assemble(frames(packet)) == packet


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_pieces_are_bounded(size: int) -> None:
    packet = Packet("request", bytes(size), "", b"\1" * size)
    pieces = list(frames(packet))
    assert max(map(len, pieces)) <= CHUNK
    assert assemble(pieces) == packet


@given(PACKETS, st.data())
def test_what_lacks_or_gains_a_byte_is_refused(packet: Packet, data: st.DataObject) -> None:
    pieces = list(frames(packet))
    whole = b"".join(pieces[1:])
    if whole:
        cut = data.draw(st.integers(0, len(whole) - 1))
        refused([pieces[0], *([whole[:cut]] if cut else [])])
    refused([*pieces, b"x"])
    refused([*pieces, b""])


def test_a_piece_that_holds_both_text_and_blob_is_refused() -> None:
    head, text, blob = frames(Packet("request", b"text", "", b"blob"))
    refused([head, text + blob])
    refused([head, blob + text, b""])


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_garbage_is_refused(pieces: list[bytes]) -> None:
    refused(pieces)


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from([*KINDS, "other", None, 3]),
            "signature": st.none() | st.text(max_size=3) | st.integers(),
            "sizes": st.none()
            | st.lists(
                st.none() | st.booleans() | st.floats() | st.integers(-3, 10**12), max_size=3
            ),
        }
    )
)
def test_no_head_makes_more_than_a_wire_error(head: dict[str, object]) -> None:
    try:
        packet = assemble([json.dumps(head).encode()], 1000)
    except WireError as error:
        assert error.code == "W02"  # noqa: PT017 (an empty packet is one)
    else:
        assert (packet.text, packet.blob) == (b"", b"")


def test_what_is_too_large_is_refused_before_it_is_taken() -> None:
    def endless() -> object:
        yield json.dumps({"kind": "request", "signature": "", "sizes": [0, 10**12]}).encode()
        raise AssertionError("a second piece was asked for")

    assert "at most 1000 bytes" in refused(endless())  # type: ignore[arg-type]
    refused([b"[" * 5000])
