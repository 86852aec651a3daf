"""Flower records that hold a packet: one text, one signature, one blob. The only file that knows
how they lie in Flower's records."""

from __future__ import annotations

import time
from functools import lru_cache

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from common.errors import WireError
from common.wire.envelope import Kind, Packet

WORK = "train.work"
HELLO = "query.hello"
SECURE = "query.secure"
NUDGE = "query.nudge"
"""Empty, and so is its answer: see `server.rounds.transport`."""
OUTLIVES = 2.0
"""How many times as long a message lives as its answer is waited for: what comes late is then told
by name, not dropped by Flower."""
_STYPE = "fedmets.arrays"
LIFETIME = 4 * 3600.0
"""Seconds for which what a coordinator signs is accepted at least: for a busy machine, and clocks
that differ by minutes. A question that comes again gets the answer that is stored, so that its age
tells nobody anything."""


def content(packet: Packet) -> RecordDict:
    """The content of a message. The blob is not copied, and one record of it serves all sites of an
    exchange."""
    text = ConfigRecord({"json": packet.text, "signature": packet.signature})
    return RecordDict({packet.kind: text, "arrays": _arrays(packet.blob)})


@lru_cache(maxsize=1)
def _arrays(blob: bytes) -> ArrayRecord:
    return ArrayRecord({"blob": Array(dtype="uint8", shape=(len(blob),), stype=_STYPE, data=blob)})


def packet(message: Message, *kinds: Kind) -> Packet:
    """The packet in a message that holds exactly one, of these kinds. A Flower error (the node
    crashed or vanished) is a WireError R02."""
    if message.has_error():
        raise WireError("R02", f"Flower reports error {message.error.code}")
    kind = next((k for k in kinds if k in message.content), kinds[0])
    told, arrays = message.content.get(kind), message.content.get("arrays")
    if (
        set(message.content.keys()) != {kind, "arrays"}
        or not isinstance(told, ConfigRecord)
        or set(told.keys()) != {"json", "signature"}
    ):
        raise WireError(
            "W02", f"a message must hold exactly a {kind}, with 'json' and 'signature', and arrays"
        )
    if (
        not isinstance(arrays, ArrayRecord)
        or set(arrays.keys()) != {"blob"}
        or arrays["blob"].stype != _STYPE
    ):
        raise WireError("W02", "a message lacks the packed arrays")
    text, signature = told["json"], told["signature"]
    if type(text) is not bytes or type(signature) is not str:
        raise WireError("W02", f"a {kind} has a field of the wrong type")
    return Packet(kind, text, signature, bytes(arrays["blob"].data))


def expiry(deadline: float) -> float:
    """Until when (Unix time) a message is accepted that is to be answered within `deadline`
    seconds."""
    return time.time() + max(LIFETIME, OUTLIVES * deadline)
