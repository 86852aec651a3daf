"""The station behind its socket: a real process without a network, a real gRPC client, and
everybody who must not get through."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.station import socket_client, socket_server
from client.station.socket_client import METHOD, OPTIONS, Link
from client.station.station import Station, open_station
from common.errors import RunError, UsageError, WireError
from common.runtime import network
from common.wire.envelope import Packet
from common.wire.messages import unpack_hello, unpack_updates
from tests import hospital, ring
from tests.paths import ROOT

ENROLLED = {"North": ring.signer("North").public}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    hospital.site(tmp_path / "north")
    return tmp_path / "north"


@pytest.fixture
def at() -> Iterator[Path]:
    """A socket's path is short."""
    with tempfile.TemporaryDirectory(prefix="fm") as name:
        yield Path(name) / "s" / "station.sock"


@pytest.fixture
def gate(home: Path, at: Path) -> Iterator[Path]:
    """The station of `home` behind a socket, in this process."""
    with socket_server.Gate(open_station(str(home / "site.toml")), at):
        yield at


def code(caught: pytest.ExceptionInfo[Exception]) -> str:
    return str(getattr(caught.value, "code", ""))


def test_it_answers_over_the_socket_as_it_does_in_process(home: Path, gate: Path) -> None:
    asked = hospital.greeting(home)
    hello = unpack_hello(Link(gate, 60).answer(asked), ENROLLED, asked)
    assert (hello.site, hello.code, hello.cases) == ("North", "", 60)
    asked = hospital.request(home, [hospital.plan(home)])
    answer = Link(gate, 60).answer(asked)
    (update,) = unpack_updates(answer, ENROLLED["North"], asked)
    assert update.contribution is not None
    assert update.contribution.cases == 60
    # another station on the same table signs the same bytes
    assert Station(open_station(str(home / "site.toml")).site).answer(asked) == answer


def test_large_packets_pass_in_pieces(gate: Path) -> None:
    asked = Packet("request", b"x" * 100, "00", bytes(5_000_001))
    (update,) = unpack_updates(Link(gate, 60).answer(asked), ENROLLED["North"], asked)
    assert update.code == "P05"


def test_its_health_can_be_asked(gate: Path) -> None:
    with grpc.insecure_channel(f"unix:{gate}", OPTIONS) as channel:
        told = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=socket_server.SERVICE), timeout=20
        )
    assert told.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "pieces",
    [[], [b"garbage"], [b"x" * 100_000], [b"x" * 5_000_000]],
    ids=["none", "garbage", "long", "too long"],
)
def test_what_is_no_packet_is_not_answered(gate: Path, home: Path, pieces: list[bytes]) -> None:
    with grpc.insecure_channel(f"unix:{gate}", (("grpc.max_send_message_length", -1),)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(METHOD)(iter(pieces), timeout=20))
        assert caught.value.code() in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream("/fedmets.Station/Shell")(iter([b"id"]), timeout=20))
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    asked = hospital.greeting(home)
    assert unpack_hello(Link(gate, 60).answer(asked), ENROLLED, asked).code == ""


def test_the_socket_is_its_users_alone(gate: Path) -> None:
    assert gate.parent.stat().st_mode & 0o777 == 0o700
    assert gate.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root can connect as another user")
def test_another_user_gets_nothing_even_where_the_folder_is_open(gate: Path, home: Path) -> None:
    """The kernel says who connects: permissions of a mounted volume may lie."""
    for path, mode in ((gate.parent.parent, 0o755), (gate.parent, 0o755), (gate, 0o666)):
        path.chmod(mode)
    script = f"""
import os, socket
os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect({str(gate)!r}); s.settimeout(10)
try:
    s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'); print(len(s.recv(100)))
except OSError:
    print(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "0"
    assert "user 65534 was refused" in (home / "station.log").read_text()


def test_a_folder_that_others_may_enter_is_refused_by_both_ends(
    gate: Path, home: Path, at: Path
) -> None:
    gate.parent.chmod(0o750)
    with pytest.raises(WireError, match="open to others") as caught:
        Link(gate, 60).answer(hospital.greeting(home))
    assert code(caught) == "R05"
    with pytest.raises(RunError, match="chmod 700") as refused:
        socket_server.own(gate.parent)
    assert code(refused) == "C05"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("which", ["folder", "socket"])
def test_a_socket_of_somebody_else_is_not_spoken_to(gate: Path, home: Path, which: str) -> None:
    os.chown(gate.parent if which == "folder" else gate, 65534, 65534)
    with pytest.raises(WireError, match="belongs to user 65534") as caught:
        Link(gate, 60).answer(hospital.greeting(home))
    assert code(caught) == "R05"


def test_nobody_there(at: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_client, "PATIENCE", 0.2)
    with pytest.raises(WireError, match="no station listens") as caught:
        Link(at, 60).answer(hospital.greeting(home))
    assert code(caught) == "R05"


def test_a_station_that_takes_too_long_is_not_waited_for(
    gate: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Station.answer
    monkeypatch.setattr(
        Station, "answer", lambda self, packet, seconds: time.sleep(1.5) or answer(self, packet)
    )
    with pytest.raises(WireError, match="keeps its answer") as caught:
        Link(gate, 0.5).answer(hospital.greeting(home))
    assert code(caught) == "R02"


def test_a_socket_at_which_another_station_listens_is_not_taken_from_it(
    gate: Path, home: Path
) -> None:
    other = hospital.site(home.parent / "other")
    with (
        pytest.raises(RunError, match="another station listens") as caught,
        socket_server.Gate(open_station(str(other)), gate),
    ):
        pass
    assert code(caught) == "C05"
    asked = hospital.greeting(home)
    assert unpack_hello(Link(gate, 60).answer(asked), ENROLLED, asked).code == ""


def test_the_path_of_a_socket_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="107") as caught:
        socket_server.check_path(tmp_path / ("x" * 108))
    assert code(caught) == "C01"


# ---- a process of its own ------------------------------------------------------------------------


def isolated(*command: str) -> list[str]:
    return ["unshare", "--net", "--map-root-user", *command]


def can_isolate() -> bool:
    try:
        return subprocess.run(isolated("true"), capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


alone = pytest.mark.skipif(
    not can_isolate(), reason="this machine lets nobody make a network namespace (unshare --net)"
)


def started(home: Path, at: Path) -> subprocess.Popen[str]:
    command = isolated(
        sys.executable,
        "-m",
        "client",
        "serve",
        "--site",
        str(home / "site.toml"),
        "--socket",
        str(at),
    )
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def listening(process: subprocess.Popen[str], at: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as s:
            if s.connect_ex(str(at)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(process.communicate(timeout=5))


def test_a_process_with_a_network_does_not_start(home: Path, at: Path) -> None:
    """The command as somebody would type it by mistake: on the host's network."""
    if not [n for _, n in socket.if_nameindex() if n != "lo" and network.is_up(n)]:
        pytest.skip("this machine has no network to be refused for")
    command = [
        sys.executable,
        "-m",
        "client",
        "serve",
        "--site",
        str(home / "site.toml"),
        "--socket",
        str(at),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 6
    assert "[C05]" in done.stderr
    assert "network_mode 'none'" in done.stderr
    assert not at.exists()


@alone
def test_a_station_killed_and_started_again_gives_its_old_answer(home: Path, at: Path) -> None:
    first = started(home, at)
    try:
        listening(first, at)
        asked = hospital.request(home, [hospital.plan(home)])
        answer = Link(at, 60).answer(asked)
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        assert at.exists(), "a killed station leaves its socket behind"
        # the table has changed since: a second computation would give other sums
        lines = (home / "table.csv").read_text().splitlines()
        (home / "table.csv").write_text("\n".join(lines[:40]) + "\n")
        second = started(home, at)
        try:
            listening(second, at)
            assert Link(at, 60).answer(asked) == answer
            other = hospital.request(home, [hospital.plan(home, hyper={"unheard": 1})])
            (update,) = unpack_updates(Link(at, 60).answer(other), ENROLLED["North"], other)
            assert update.code == "P06"
            second.send_signal(signal.SIGTERM)
            _, err = second.communicate(timeout=30)
            assert second.returncode == 0, err
            assert "station stops" in err
            assert not at.exists()
        finally:
            second.kill()
            second.communicate()
    finally:
        first.kill()
        first.communicate()


@alone
def test_two_stations_on_one_state_are_refused(home: Path, at: Path) -> None:
    first = started(home, at)
    try:
        listening(first, at)
        done = started(home, at.with_name("other.sock"))
        _, err = done.communicate(timeout=60)
        assert done.returncode == 6
        assert "[C05]" in err
        assert "another station" in err
        asked = hospital.greeting(home)
        assert unpack_hello(Link(at, 60).answer(asked), ENROLLED, asked).code == ""
    finally:
        first.kill()
        first.communicate()


@alone
@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"coordinator": ""}, "64 hex digits"),
        ({"key": "none.key"}, "none.key"),
        ({"unheard": 1}, "unheard"),
    ],
)
def test_a_station_that_could_not_answer_does_not_start(
    home: Path, at: Path, keys: dict[str, object], told: str
) -> None:
    hospital.site(home, **keys)
    process = started(home, at)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told in err
    assert not at.exists()
