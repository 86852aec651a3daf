"""What a message costs at a site: Flower starts a fresh process for each, and the station behind
the socket stays warm.

    python -m bench.station [--rounds 7] [--megabytes 48]

Each figure is a whole process, A B C A B C, medians with minimum and maximum: an empty ClientApp
that answers an empty message; our courier, which hands a greeting to a warm station and brings the
signed answer back; one that imports torch and reads the table itself, as a ClientApp without a
station would. Goals: courier at most 0.5 s above the empty one; at most a fifth of what the third
one takes above it. Then the socket alone: a packet of so many megabytes there and back, against a
file in a shared folder that is written, read and hashed, and against the SHA-256 of the bytes, the
floor.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from client.site.site_file import Site
from client.station.socket_client import Link
from client.station.socket_server import Gate
from client.station.station import Station, open_station
from common.wire.envelope import Packet
from tests import hospital

ROOT = Path(__file__).resolve().parent.parent
EMPTY = """
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def nothing(message, context):
    return Message(RecordDict(), reply_to=message)
asked = Message(RecordDict(), 1, "query"); asked.metadata.__dict__["_message_id"] = "1"
app(asked, Context(1, 1, {}, RecordDict(), {}))
"""
OURS = """
import sys
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
from flwr.app import Context, Message, RecordDict
from client.app import app
from common.wire.envelope import Packet
from common.wire.flower_records import content
text, signature = open(sys.argv[1], "rb").read(), sys.argv[2]
asked = Message(content(Packet("greeting", text, signature)), 1, "query.hello", ttl=600); asked.metadata.__dict__["_message_id"] = "1"
reply = app(asked, Context(1, 1, {sys.argv[3]: sys.argv[4]}, RecordDict(), {}))
assert b'"code":""' in reply.content["hello"]["json"], reply.content["hello"]["json"]
"""


class Echo(Station):
    """Sends back what it got: the socket without any work."""

    def answer(self, packet: Packet, seconds: float | None = None) -> Packet:
        return packet


def told(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def processes(folder: Path, rounds: int) -> None:
    site, socket = hospital.site(folder / "north", rows=600), folder / "s" / "s.sock"
    asked = hospital.greeting(site.parent, 3600)
    (folder / "asked").write_bytes(asked.text)
    words = [str(folder / "asked"), asked.signature]
    scripts = {
        "empty": [EMPTY],
        "courier": [OURS, *words, "socket", str(socket)],
        "alone": ["import torch" + OURS, *words, "site", str(site)],
    }
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0"}
    seconds: dict[str, list[float]] = {"empty": [], "courier": [], "alone": []}
    with Gate(open_station(str(site)), socket):
        Link(socket, 60).answer(asked)
        for _ in range(rounds + 1):
            for name, script in scripts.items():
                seconds[name].append(
                    timed(
                        partial(
                            subprocess.run, [sys.executable, "-c", *script], env=env, check=True
                        )
                    )
                )
    median = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name}: {told(values[1:])}")
    above = {name: median[name] - median["empty"] for name in ("courier", "alone")}
    print(f"courier above an empty ClientApp: {above['courier']:.3f} s (goal at most 0.5)")
    ratio = above["alone"] / above["courier"]
    print(
        f"loading torch and the table instead: {above['alone']:.3f} s above it, {ratio:.1f} times "
        "the courier's (goal 5)"
    )


def transport(folder: Path, rounds: int, megabytes: int) -> None:
    blob = os.urandom(megabytes * 1_000_000)
    packet = Packet("request", b"{}", "", blob)
    socket = folder / "e" / "s.sock"
    shared = folder / "shared"

    def by_file() -> None:
        for _ in range(2):  # there and back
            shared.write_bytes(blob)
            hashlib.sha256(shared.read_bytes()).digest()

    seconds: dict[str, list[float]] = {"socket": [], "file": [], "sha256": []}
    with Gate(Echo(Site("echo", folder, ("none",), log=folder / "echo.log")), socket):
        for _ in range(rounds + 1):
            seconds["socket"].append(timed(lambda: Link(socket, 60).answer(packet)))
            seconds["file"].append(timed(by_file))
            seconds["sha256"].append(
                timed(lambda: [hashlib.sha256(blob).digest() for _ in range(2)])
            )
    for name, values in seconds.items():
        print(f"{megabytes} MB there and back, {name}: {told(values[1:])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=48)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fm") as name:
        processes(Path(name), given.rounds)
        transport(Path(name), given.rounds, given.megabytes)


if __name__ == "__main__":
    main()
