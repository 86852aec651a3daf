"""Messages and replies over a Grid whose nodes fall behind, as Flower's SuperNode does when one of
its processes has died."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from flwr.app import Context, Message, RecordDict

from client.app import app
from common.wire.flower_records import NUDGE, WORK
from server.rounds import transport
from server.rounds.transport import Post
from tests.courier import MemoryGrid


class Behind:
    """Sends, for each message that it takes, the reply to the one before."""

    def __init__(self) -> None:
        self.kept: Message | None = None
        self.took: Counter[str] = Counter()

    def __call__(self, message: Message) -> Message | None:
        self.took[message.metadata.message_type] += 1
        out, self.kept = self.kept, Message(RecordDict(), reply_to=message)
        return out


def prompt(message: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


def work(*nodes: int) -> dict[int, Message]:
    return {n: Message(RecordDict(), n, WORK) for n in nodes}


def test_a_node_that_is_a_message_behind_is_nudged_once_and_then_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "PATIENCE", 0.2)
    lagging = Behind()
    there = Post(MemoryGrid({1: lagging, 2: prompt}))
    took: list[float] = []
    for _ in range(4):
        started = time.monotonic()
        assert there.ask(work(1, 2), 20, lambda node, reply: node) == {1: 1, 2: 2}
        took.append(time.monotonic() - started)
    assert took[0] >= 0.2
    # from then on the reply comes at once
    assert max(took[1:]) < 0.2
    assert lagging.took == {WORK: 4, NUDGE: 4}


def test_nobody_is_nudged_who_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PATIENCE", 0.05)
    grid = MemoryGrid({1: prompt, 2: lambda message: None})
    assert Post(grid).ask(work(1, 2), 0.3, lambda node, reply: node) == {1: 1}
    nudged = [m for m in grid.asked if m.metadata.message_type == NUDGE]
    assert [m.metadata.dst_node_id for m in nudged] == [2]


def test_a_nudge_never_reaches_a_station() -> None:
    """The node has none: any other message would be answered with a code."""
    asked = Message(RecordDict(), 1, NUDGE)
    asked.metadata.__dict__["_message_id"] = "1"
    assert app(asked, Context(1, 1, {}, RecordDict(), {})).content == RecordDict()
