"""Carrier of packets: a message of the coordinator's, the station's answer, the reply. No torch, no
learners, no data.

Nothing that goes wrong here may travel as text: every reply that is not the station's is a code.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Protocol

from flwr.app import Message, RecordDict

from common.errors import FedmetsError
from common.wire.envelope import Kind, Packet
from common.wire.flower_records import HELLO, NUDGE, OUTLIVES, SECURE, WORK, content, packet
from common.wire.messages import refusal

KINDS: Mapping[str, Kind] = {HELLO: "greeting", WORK: "request", SECURE: "secure"}
"""What each type of message carries. `NUDGE` carries nothing."""


class Station(Protocol):
    """A station, in this process or behind a socket."""

    def answer(self, packet: Packet) -> Packet: ...


def answered(message: Message, station: Callable[[float], Station]) -> Message:
    """The reply to a message, whatever it is.

    station: opens the site's, given the seconds for which its answer is waited for.
    """
    kind = KINDS.get(message.metadata.message_type)
    if message.metadata.message_type == NUDGE:
        return Message(RecordDict(), reply_to=message)
    if kind is None:
        return refused(message, "W02")
    request = Packet(kind, b"")
    try:
        request = packet(message, kind)
        answer = station(message.metadata.ttl / OUTLIVES).answer(request)
    except Exception as error:
        answer = refusal(request, _code_of(error))
    return Message(content(answer), reply_to=message)


def refused(message: Message, code: str) -> Message:
    """A code in reply to a message that nobody has looked into."""
    kind = KINDS.get(message.metadata.message_type, "request")
    return Message(content(refusal(Packet(kind, b""), code)), reply_to=message)


def _code_of(error: Exception) -> str:
    """The text goes to the process's own console; the code is what may leave."""
    if isinstance(error, FedmetsError):
        print(error, file=sys.stderr, flush=True)
        return error.code
    traceback.print_exception(error)
    return "X01"
