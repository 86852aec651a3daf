"""Courier: Flower's ClientApp, which carries packets between the coordinator and the site's
station, and sees no data.

It imports neither torch nor the learners: Flower starts a fresh process for every message. Nothing
that goes wrong here may travel as text: Flower would send a traceback, so every answer that is not
the station's is a code.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Protocol

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common.errors import FedmetsError, UsageError
from common.wire.envelope import Kind, Packet
from common.wire.flower_records import HELLO, NUDGE, OUTLIVES, SECURE, WORK, content, packet
from common.wire.messages import refusal

app = ClientApp()


class Station(Protocol):
    """A station, in this process or behind a socket."""

    def answer(self, packet: Packet) -> Packet: ...


@app.query(HELLO.partition(".")[2])
def hello(message: Message, context: Context) -> Message:
    """Can this site take part, and what can it do?"""
    return _carried(message, "greeting", context)


@app.train(WORK.partition(".")[2])
def work(message: Message, context: Context) -> Message:
    """The plans of one exchange."""
    return _carried(message, "request", context)


@app.query(SECURE.partition(".")[2])
def secure(message: Message, context: Context) -> Message:
    """Keys, and shares of masks."""
    return _carried(message, "secure", context)


@app.query(NUDGE.partition(".")[2])
def nudge(message: Message, context: Context) -> Message:
    """Nothing: that a message came is enough (`server.rounds.transport`)."""
    return Message(RecordDict(), reply_to=message)


def _carried(message: Message, kind: Kind, context: Context) -> Message:
    request = Packet(kind, b"")
    try:
        request = packet(message, kind)
        answer = door(context, message.metadata.ttl / OUTLIVES).answer(request)
    except Exception as error:
        answer = refusal(request, _code_of(error))
    return Message(content(answer), reply_to=message)


def _code_of(error: Exception) -> str:
    """The text goes to the node's own console; the code is what may leave."""
    if isinstance(error, FedmetsError):
        print(error, file=sys.stderr, flush=True)
        return error.code
    traceback.print_exception(error)
    return "X01"


def door(context: Context, seconds: float) -> Station:
    """The station of a node; `seconds`: how long its answer is waited for.

    Behind a socket (`--node-config 'socket="/run/fedmets/station.sock"'`), as at a hospital; in
    this process for a virtual site, by its site file (`site="..."`) or, on Flower's simulation
    engine, as the n-th one of the run's folder.
    """
    if "socket" in context.node_config:
        from client.station.socket_client import Link

        return Link(Path(str(context.node_config["socket"])), seconds)
    from client.station.station import open_station

    if "site" in context.node_config:
        return open_station(str(context.node_config["site"]))
    folder = Path(str(context.run_config.get("sites", "")))
    files = sorted(folder.glob("*/site.toml")) if str(folder) != "." else []
    index = int(context.node_config.get("partition-id", -1))
    if not 0 <= index < len(files):
        raise UsageError(
            "C01",
            f"node {index} has no site file: {len(files)} found in '{folder}'; set node-config "
            "site=... or run-config sites=FOLDER",
        )
    return open_station(str(files[index]))
