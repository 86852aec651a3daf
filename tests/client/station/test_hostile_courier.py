"""A courier that hangs, lies, or connects too often: the station goes on answering, in bounded
memory, and its log says what happened."""

from __future__ import annotations

import json
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.station import socket_server
from client.station.socket_client import METHOD, OPTIONS, Link
from client.station.station import open_station
from common.errors import WireError
from common.runtime import relay
from common.wire.envelope import Packet
from common.wire.framing import CHUNK, assemble
from common.wire.messages import unpack_hello
from tests import hospital, ring

ENROLLED = {"North": ring.signer("North").public}
OWN = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
"""A connection of its own for each channel."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    hospital.site(tmp_path / "north")
    return tmp_path / "north"


@pytest.fixture
def gate(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The station of `home` behind a socket, in this process, with little patience."""
    monkeypatch.setattr(socket_server, "HANDOVER", 1.0)
    station = open_station(str(home / "site.toml"))
    with tempfile.TemporaryDirectory(prefix="fm") as name:
        at = Path(name) / "s" / "station.sock"
        with socket_server.Gate(station, at):
            yield at


def demand_answered(gate: Path, home: Path) -> None:
    asked = hospital.greeting(home)
    assert unpack_hello(Link(gate, 30).answer(asked), ENROLLED, asked).code == ""


def connected(gate: Path) -> socket.socket:
    for _ in range(500):
        s = socket.socket(socket.AF_UNIX)
        try:
            s.settimeout(5)
            s.connect(str(gate))
        except OSError:
            s.close()
            time.sleep(0.01)
        else:
            return s
    raise AssertionError("nobody accepts")


def head(text: int, blob: int) -> bytes:
    return json.dumps({"kind": "request", "signature": "", "sizes": [text, blob]}).encode()


@pytest.mark.parametrize("pieces", [[], [head(10, 0)], [head(10, 3 * CHUNK), b"x" * 10]])
def test_packets_that_stop_half_way_hold_up_nobody_for_long(
    gate: Path, home: Path, pieces: list[bytes]
) -> None:
    """As many as there are threads, each from a connection of its own, none with an end."""
    over, channels = threading.Event(), [grpc.insecure_channel(f"unix:{gate}", OWN) for _ in "1234"]

    def halves() -> Iterator[bytes]:
        yield from pieces
        over.wait()

    hung = [c.stream_stream(METHOD)(halves(), timeout=60) for c in channels]
    try:
        time.sleep(0.3)
        demand_answered(gate, home)
        for call in hung:
            assert call.code() == grpc.StatusCode.CANCELLED
        assert "Does the courier hang?" in (home / "station.log").read_text()
    finally:
        over.set()
        for channel in channels:
            channel.close()


def test_an_answer_that_nobody_takes_holds_up_nobody_for_long(
    gate: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    station = open_station(str(home / "site.toml"))
    with monkeypatch.context() as large, grpc.insecure_channel(f"unix:{gate}", OWN) as channel:
        packet = Packet("updates", b"", "", bytes(40 * CHUNK))
        large.setattr(station, "answer", lambda *_: packet)
        hung = [channel.stream_stream(METHOD)(iter([head(1, 0), b"x"]), timeout=60) for _ in "1234"]
        time.sleep(0.5)
        large.undo()
        demand_answered(gate, home)
        for call in hung:
            call.cancel()


def test_a_call_without_a_deadline_does_not_wait_for_ever(
    gate: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    station, patience = open_station(str(home / "site.toml")), list[float]()

    def answer(packet: Packet, seconds: float) -> Packet:
        patience.append(seconds)
        return packet

    monkeypatch.setattr(station, "answer", answer)
    with grpc.insecure_channel(f"unix:{gate}", OPTIONS) as channel:
        assert len(list(channel.stream_stream(METHOD)(iter([head(1, 0), b"x"])))) == 2
    assert patience == [socket_server.LEASE * socket_server.MOST_PATIENCE]


def test_many_connections_are_bounded_and_do_not_shut_it(gate: Path, home: Path) -> None:
    before = threading.active_count()
    sockets = [connected(gate) for _ in range(2 * relay.MOST)]
    assert threading.active_count() <= before + 2 * relay.MOST + 8
    for s in sockets[: relay.MOST]:
        s.close()
    demand_answered(gate, home)
    for s in sockets:
        s.close()


def test_it_goes_on_when_descriptors_were_short(gate: Path, home: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare[-1].fileno() + 1, limits[1]))
    try:
        for s in spare:
            s.settimeout(1)
            s.connect(str(gate))
        time.sleep(0.3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for s in spare:
        s.close()
    demand_answered(gate, home)


@given(st.integers(1, 3 * CHUNK), st.data())
def test_a_packet_comes_in_full_pieces_or_not_at_all(size: int, data: st.DataObject) -> None:
    """A gigabyte in pieces of two bytes would take twenty."""
    piece = data.draw(st.integers(1, CHUNK))
    pieces = [bytes(min(piece, size - at)) for at in range(0, min(size, 8 * piece), piece)]
    if piece == CHUNK or piece >= size:
        assert len(assemble([head(size, 0), *pieces]).text) == size
    else:
        with pytest.raises(WireError, match="a piece of"):
            assemble([head(size, 0), *pieces])
