"""The courier as a process at a real SuperLink: what it answers, what it never fetches, what it does
when the line, the SuperLink or the run is gone, and how it ends."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from client.station.socket_server import Gate
from common.wire.envelope import Packet
from deploy import enroll, kit, pki, provision
from server.coordinator.superlink import SuperLink, environment
from tests.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent
SITE = "North"

PROJECT = """
[project]
name = "hostile"
version = "1.0"
[tool.flwr.app]
publisher = "rogue"
[tool.flwr.app.components]
serverapp = "evil_server:app"
clientapp = "evil_client:app"
[tool.flwr.app.config]
folder = ""
"""
CLIENT = """
from pathlib import Path
from flwr.clientapp import ClientApp
Path({trace!r}).write_text("this ran at the hospital")
app = ClientApp()
"""
SERVER = """
import hashlib, json, time, traceback
from pathlib import Path
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from common.wire.envelope import Packet
from common.wire.flower_records import HELLO, NUDGE, SECURE, WORK, content

app = ServerApp()

def told(reply):
    if reply.has_error():
        return None  # the SuperLink's own: it has no reply under this name, or none any more
    texts = [json.loads(r["json"]) for r in reply.content.config_records.values() if "json" in r]
    blobs = [r["blob"].data for r in reply.content.array_records.values()]
    return {
        "kind": reply.metadata.message_type, "to": reply.metadata.reply_to_message_id,
        "keys": sorted(reply.content), "text": texts,
        "blob": [hashlib.sha256(b).hexdigest() for b in blobs],
    }

@app.main()
def main(grid, context):
    folder = Path(context.run_config["folder"])
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.1)
    node = nodes[0]
    def say(name, what):
        (folder / f"{name}.part").write_text(json.dumps(what))
        (folder / f"{name}.part").rename(folder / name)
    def await_file(name):
        while not (folder / name).exists():
            time.sleep(0.05)
    def replies(ids, count, seconds=200):
        found, end = [], time.monotonic() + seconds
        while len(found) < count and time.monotonic() < end:
            found += filter(None, map(told, grid.pull_messages(ids)))
            time.sleep(0.05)
        return found
    def push(*messages):
        return list(grid.push_messages(messages))
    try:
        exec((folder / "script.py").read_text())
    except BaseException:
        (folder / "failure").write_text(traceback.format_exc())
        raise
"""


class Station:
    """Behind the real gate: answers a packet by itself, once `work` lets it. In memory as a station
    is on disk: the same question has the same answer."""

    def __init__(self) -> None:
        self.work = threading.Event()
        self.asked: list[str] = []
        self.notes: list[str] = []

    def answer(self, packet: Packet, seconds: float | None = None) -> Packet:
        self.asked.append(packet.text.decode())
        if b"slow" in packet.text:
            assert self.work.wait(600)
        return Packet("updates", packet.text, "", packet.blob)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Line:
    """A TCP line that can be cut: connections in use break off, new ones are refused."""

    def __init__(self, to: int) -> None:
        self.to, self.open = to, True
        self.port = free()
        self._ends: list[socket.socket] = []
        self._listen()

    def _listen(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                if not self.open:
                    return
                near.close()
                continue
            self._ends += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                target.sendall(piece)
        except OSError:
            pass
        for end in (source, target):
            end.close()

    def cut(self) -> None:
        self.open = False
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for end in self._ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def mend(self) -> None:
        self.open = True
        self._listen()


def free() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def until(what: Callable[[], Any], seconds: float = 240, say: Callable[[], Any] = str) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, say()
        time.sleep(0.05)
    return found


class Place:
    """A SuperLink with one enrolled site, a line to it, a station behind its gate."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free()
        self.line = Line(self.port)
        (folder / "federation.toml").write_text(
            f'name = "town"\nhosts = ["127.0.0.1"]\nport = {self.line.port}\n'
            f'studies = ["colorectal_metastasis"]\nsites = ["{SITE}"]\n'
        )
        now = datetime.now(UTC)
        said = provision.provision(folder / "federation.toml", folder / "kits", now)
        self.coordinator = folder / "kits" / "coordinator" / "door"
        self.kit = folder / "kits" / "sites" / "north"
        enroll.enroll(self.kit, said)
        self.trace = folder / "trace"
        self.flower = SuperLink(
            folder / "flwr", self.coordinator / "ca.pem", f"127.0.0.1:{self.port}"
        )
        self.station = Station()
        self.socket = folder / "s" / "s.sock"
        self.runs = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start()
        public = folder / "north.pub"
        public.write_bytes(pki.node_public(self.kit / "courier.key"))
        self.flower.register(public, "north")

    def _spawn(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        env = {**environment(self.folder / "flwr"), "PYTHONPATH": str(ROOT)}
        env["FEDMETS_TEST"] = str(self.folder)
        with open(self.folder / log, "ab") as file:
            process = subprocess.Popen(
                words, env=env, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
            )
        self.processes.append(process)
        return process

    def start(self) -> None:
        home = self.coordinator
        words = (
            "flower-superlink", "--ssl-certfile", str(home / "server.pem"),
            "--ssl-keyfile", str(home / "server.key"), "--ssl-ca-certfile", str(home / "ca.pem"),
            "--host", "127.0.0.1", "--port", str(self.port),
            "--database", str(self.folder / "superlink.db"), "--enable-supernode-auth",
        )  # fmt: skip
        self.superlink = self._spawn("superlink.log", *words)
        until(self._listens, 240, lambda: self.log("superlink.log"))

    def _listens(self) -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def courier(self, log: str = "courier.log", patience: float = 75) -> subprocess.Popen[bytes]:
        code = (
            "import sys; from client.courier import courier; from deploy.__main__ import main; "
            f"courier.PATIENCE = {patience}; sys.exit(main(sys.argv[1:]))"
        )
        words = ("deploy", "courier", str(self.kit), "--socket", str(self.socket))
        return self._spawn(log, sys.executable, "-c", code, *words[1:])

    def signed_in(self, log: str = "courier.log") -> None:
        until(lambda: "signed in" in self.log(log), 240, lambda: self.log(log))

    def run(self, script: str) -> tuple[int, Path]:
        """Start a run of the hostile bundle whose ServerApp does what the script says; its id, and
        the folder for its files."""
        self.runs += 1
        app = self.folder / f"app{self.runs}"
        out = self.folder / f"run{self.runs}"
        for path in (app, out):
            path.mkdir()
        (out / "script.py").write_text(script)
        (app / "pyproject.toml").write_text(PROJECT)
        (app / "evil_client.py").write_text(CLIENT.format(trace=str(self.trace)))
        (app / "evil_server.py").write_text(SERVER)
        return self.flower.start(app, f'folder = "{out}"\n'), out

    def said(self, out: Path, name: str) -> Any:
        until((out / name).exists, 240, lambda: self.log("superlink.log") + self.log("courier.log"))
        return json.loads((out / name).read_text())

    def log(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self) -> None:
        """Every process that was started here, and what Flower has started for them."""
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if f"FEDMETS_TEST={self.folder}".encode() in (proc / "environ").read_bytes():
                    os.kill(int(proc.name), signal.SIGKILL)
            except OSError:
                continue
        for process in self.processes:
            process.wait()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    there = Place(tmp_path)
    try:
        with Gate(there.station, there.socket):  # type: ignore[arg-type]
            yield there
    finally:
        there.station.work.set()
        there.kill()
        there.line.cut()


EVERY_TYPE = """
ask = lambda kind, text, blob=b"": content(Packet(kind, text, "", blob))
messages = [
    Message(ask("greeting", b'"hello"'), node, HELLO, ttl=6000),
    Message(ask("request", b'"work"', bytes(range(256)) * 120_000), node, WORK, ttl=6000),
    Message(ask("secure", b'"secure"'), node, SECURE, ttl=6000),
    Message(RecordDict(), node, NUDGE, ttl=6000),
    Message(RecordDict({"anything": ConfigRecord({"run": "this"})}), node, "query", ttl=6000),
    Message(ask("request", b'"work"'), node, "train.other", ttl=6000),
    Message(RecordDict(), node, HELLO, ttl=6000),
    Message(ask("request", b'"again"'), node, WORK, ttl=6000),
    Message(ask("request", b'"again"'), node, WORK, ttl=6000),
]
ids = push(*messages)
say("replies", [ids, replies(ids, len(ids))])
"""


def test_it_answers_every_message_and_fetches_no_code(place: Place) -> None:
    """Thirty megabytes go up and come back in pieces; what is of no known type, or no packet, is
    answered by a code. The bundle's ClientApp is never asked for."""
    courier = place.courier()
    place.signed_in()
    _, out = place.run(EVERY_TYPE)
    ids, replies = place.said(out, "replies")
    by_id = {r["to"]: r for r in replies}
    assert len(replies) == len(ids) == len(by_id)
    hello, work, secure, nudge, query, other, malformed, first, second = (by_id[i] for i in ids)
    assert [hello["text"], work["text"], secure["text"]] == [["hello"], ["work"], ["secure"]]
    assert work["blob"] == [hashlib.sha256(bytes(range(256)) * 120_000).hexdigest()]
    assert nudge["keys"] == []
    for reply in (query, other):
        assert reply["text"][0]["updates"] == [
            {"plan": "0" * 64, "cases": 0, "code": "W02", "budget": ""}
        ]
    assert malformed["text"][0]["site"]["code"] == "W02"
    assert first["text"] == second["text"] == ["again"]
    assert sorted(place.station.asked) == sorted(
        ['"hello"', '"work"', '"secure"', '"again"', '"again"']
    )
    assert courier.poll() is None
    assert not place.trace.exists()
    fetched = place.log("superlink.log")
    assert "Fleet.PushMessages" in fetched
    assert "Fleet.GetFab" not in fetched
    assert "Fleet.GetRun" not in fetched
    # the processes at the hospital: one
    children = Path(f"/proc/{courier.pid}/task/{courier.pid}/children").read_text()
    assert children.strip() == ""


def test_the_same_bundle_does_run_where_flower_s_own_node_stands(place: Place) -> None:
    """So the test above would see it."""
    place._spawn(
        "node.log", "flower-supernode", "--superlink", f"127.0.0.1:{place.port}",
        "--root-certificates", str(place.kit / "ca.pem"),
        "--auth-supernode-private-key", str(place.kit / "courier.key"),
        "--host", "127.0.0.1", "--port", str(free()),
    )  # fmt: skip
    place.run("push(Message(RecordDict(), node, 'query', ttl=600))\nawait_file('never')")
    until(place.trace.exists, 240, lambda: place.log("node.log"))


SLOW = """
slow = push(Message(content(Packet("request", b'"slow"', "", b"")), node, WORK, ttl=6000))
"""


def test_other_messages_and_an_answer_survive_a_cut_line_while_the_station_works(
    place: Place,
) -> None:
    """One reply, once, although it was ready while nobody could be reached."""
    courier = place.courier()
    place.signed_in()
    script = SLOW + (
        "nudge = push(Message(RecordDict(), node, NUDGE, ttl=600))\n"
        "say('nudged', replies(nudge, 1))\n"
        "say('replies', replies(slow, 1) + replies(slow, 2, 3))\n"
    )
    _, out = place.run(script)
    assert len(place.said(out, "nudged")) == 1, "while the station works"
    assert place.station.asked == ['"slow"']
    place.line.cut()
    until(lambda: "out of reach" in place.log("courier.log"), 240)
    place.station.work.set()
    time.sleep(8)
    place.line.mend()
    replies = place.said(out, "replies")
    assert [r["text"] for r in replies] == [["slow"]]
    assert place.station.asked == ['"slow"']
    log = place.log("courier.log")
    told = [line for line in log.splitlines() if "out of reach" in line]
    assert all(a != b for a, b in itertools.pairwise(told)), "once a change"
    assert log.count("reached again") == 1, log
    assert courier.poll() is None


def test_a_superlink_that_comes_back_finds_the_courier_there(place: Place) -> None:
    courier = place.courier()
    place.signed_in()
    place.superlink.kill()
    place.superlink.wait()
    until(lambda: "out of reach" in place.log("courier.log"), 240)
    place.start()
    _, out = place.run(
        'ids = push(Message(content(Packet("request", b\'"work"\', "", b"")), node, WORK, ttl=600))\n'
        "say('replies', replies(ids, 1))\n"
    )
    assert [r["text"] for r in place.said(out, "replies")] == [["work"]]
    assert courier.poll() is None
    assert place.log("courier.log").count("signed in") == 1


def test_a_run_that_is_stopped_while_the_station_works(place: Place) -> None:
    courier = place.courier()
    place.signed_in()
    run, out = place.run(SLOW + "say('sent', 1)\nawait_file('never')\n")
    place.said(out, "sent")
    until(lambda: place.station.asked)
    place.flower.stop(run)
    place.station.work.set()
    until(lambda: f"run {run}: it is over" in place.log("courier.log"), 240)
    assert courier.poll() is None


def test_sigterm_ends_it_at_once_and_it_may_come_back_at_once(place: Place) -> None:
    courier = place.courier()
    place.signed_in()
    _, out = place.run(SLOW + "say('sent', 1)\nawait_file('never')\n")
    place.said(out, "sent")
    until(lambda: place.station.asked)
    courier.terminate()
    assert courier.wait(60) == 0, "although the station has not answered"
    assert "courier stops" in place.log("courier.log")
    place.courier("second.log")
    place.signed_in("second.log")
    assert "not let in" not in place.log("second.log")


def test_one_that_was_killed_is_let_in_again_when_the_superlink_has_noticed(place: Place) -> None:
    courier = place.courier()
    place.signed_in()
    courier.kill()
    courier.wait()
    place.courier("second.log")
    until(lambda: "signed in" in place.log("second.log"), 240)
    assert place.log("second.log").count("not let in yet") == 1


def test_a_key_that_is_not_registered_ends_it_with_its_code(place: Place) -> None:
    (place.kit / "courier.key").unlink()
    pki.private(place.kit / "courier.key", pki.ec.SECP384R1())
    courier = place.courier(patience=4)
    assert courier.wait(240) == 5
    log = place.log("courier.log")
    assert "error [R10]" in log
    assert log.count("not let in yet") == 1


def test_a_node_that_is_revoked_while_it_is_there_ends_with_its_code(place: Place) -> None:
    courier = place.courier(patience=4)
    place.signed_in()
    for node in place.flower.nodes():
        place.flower.unregister(node)
    assert courier.wait(240) == 5
    assert "error [R10]" in place.log("courier.log")


# ---- no SuperLink ----------------------------------------------------------------------------------


class Alone:
    """A kit whose coordinator listens, if it does, as the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free()
        (folder / "federation.toml").write_text(
            f'name = "town"\nhosts = ["127.0.0.1"]\nport = {self.port}\n'
            f'studies = ["colorectal_metastasis"]\nsites = ["{SITE}"]\n'
        )
        said = provision.provision(folder / "federation.toml", folder / "kits", datetime.now(UTC))
        self.coordinator = folder / "kits" / "coordinator" / "door"
        self.kit = folder / "kits" / "sites" / "north"
        enroll.enroll(self.kit, said)

    def courier(self, **env: str) -> subprocess.Popen[str]:
        words = ("-m", "deploy", "courier", str(self.kit), "--socket", str(self.folder / "s.sock"))
        return subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **env},
        )  # fmt: skip

    @contextmanager
    def https(self, status: int) -> Iterator[None]:
        """A server with the kit's certificate that answers with this status."""
        import ssl

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"\xff not protobuf")

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", self.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.coordinator / "server.pem", self.coordinator / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def alone(tmp_path: Path) -> Alone:
    return Alone(tmp_path)


def test_nobody_there_is_told_once_and_sigterm_ends_it(alone: Alone) -> None:
    courier = alone.courier()
    assert courier.stderr is not None
    lines = [courier.stderr.readline(), courier.stderr.readline()]
    assert "connects to" in lines[0]
    assert "out of reach: no connection" in lines[1]
    time.sleep(4)
    courier.terminate()
    assert courier.wait(60) == 0
    assert courier.stderr.read().splitlines() == [
        "courier stops: what is under way at the station is finished and kept there"
    ]
    courier.stderr.close()


@pytest.mark.parametrize("status", [200, 404])
def test_another_protocol_ends_it_with_its_code(alone: Alone, status: int) -> None:
    with alone.https(status):
        courier = alone.courier()
        _, told = courier.communicate(timeout=240)
    assert (courier.returncode, "error [R11]" in told) == (5, True), told


def test_a_certificate_that_has_expired_ends_it_with_its_code(alone: Alone) -> None:
    for name in ("server.key", "server.pem"):
        (alone.coordinator / name).unlink()
    key = alone.coordinator.parents[1] / "authority" / "ca.key"
    then = datetime.now(UTC) - timedelta(days=500)
    pki.server(alone.coordinator, ["127.0.0.1"], then, authority_key=key)
    with alone.https(404):
        courier = alone.courier()
        _, told = courier.communicate(timeout=240)
    assert (courier.returncode, "error [R08]" in told) == (5, True), told
    assert "certificate has expired" in told


def test_a_kit_that_was_exchanged_ends_it_before_it_connects(alone: Alone) -> None:
    (alone.kit / kit.PINNED).unlink()
    courier = alone.courier()
    _, told = courier.communicate(timeout=240)
    assert (courier.returncode, "error [C04]" in told) == (2, True), told
