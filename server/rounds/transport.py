"""Transport, messages out and replies back, over whichever of Flower's Grids a run has.

Flower's SuperNode (our courier does not) takes a message, waits until some reply is there, sends what is there, and takes the
next message; where none comes, it sends nothing. So when a process of an earlier message has died,
and Flower puts an error in its place, that goes out in place of the reply that was waited for, and
every reply from then on waits for the message after it. A site that says nothing for a while is
therefore sent an empty message, which brings out what lies there; one that needed it gets one
behind every message of this run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.errors import CODES, FederationError
from common.wire.flower_records import NUDGE, OUTLIVES

PATIENCE = 30.0
"""Seconds of silence after which a node is nudged."""
PROMPT = 20.0
"""Seconds after a nudge within which a reply came because of it, or else by chance: then the nudges
that follow cost little."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Stray:
    """A message that was not answered in time."""

    node: int
    group: str
    until: float


class Post:
    """Remembers the messages that nobody answered: what still comes is not used, and told by
    name."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._strays: dict[str, _Stray] = {}
        self._behind: set[int] = set()
        """Nodes whose replies wait for the next message."""

    def ask(
        self,
        messages: Mapping[int, Message],
        timeout: float,
        take: Callable[[int, Message], T],
        *,
        at_once: int = 10_000,
    ) -> dict[int, T]:
        """Push and poll, faster than `Grid.send_and_receive` does. Returns what `take` made of what
        came back in time, by node.

        at_once: most replies that are asked for in one go, for they are in memory together until
        `take` has had them.
        """
        if not messages:
            return {}
        ids = list(self.grid.push_messages(messages.values()))
        if len(ids) != len(messages):
            raise FederationError(
                "W02",
                f"Flower took {len(ids)} of {len(messages)} messages; they may be too large for "
                "its transport",
            )
        node_of = dict(zip(ids, messages, strict=True))
        replies: dict[int, T] = {}
        self._nudge(self._behind & set(messages), timeout)
        begun, nudged = time.monotonic(), float("inf")
        end = begun + timeout
        wait = 0.001
        while node_of:
            waiting = len(node_of)
            open_ids = list(node_of)
            for batch in (open_ids[i : i + at_once] for i in range(0, waiting, at_once)):
                for reply in self.grid.pull_messages(batch):
                    # an error reply may come from the SuperLink itself: it is told by the message
                    # that it answers, not by its sender
                    node = node_of.pop(reply.metadata.reply_to_message_id, None)
                    if node is not None:
                        replies[node] = take(node, reply)
                        if 0 <= time.monotonic() - nudged < PROMPT:
                            self._behind.add(node)
            if not node_of or time.monotonic() > end:
                break
            if nudged == float("inf") and time.monotonic() > begun + PATIENCE:
                self._nudge(node_of.values(), timeout)
                nudged = time.monotonic()
            if len(node_of) < waiting:
                wait = 0.001
            else:
                time.sleep(wait)
                wait = min(wait * 1.5, 0.25)
        until = end + (OUTLIVES - 1) * timeout
        self._strays |= {
            i: _Stray(node, messages[node].metadata.group_id, until) for i, node in node_of.items()
        }
        return replies

    def _nudge(self, nodes: Iterable[int], ttl: float) -> None:
        """Nobody waits for the answers."""
        if messages := [Message(RecordDict(), node, NUDGE, ttl=ttl) for node in nodes]:
            list(self.grid.push_messages(messages))

    def late(self) -> list[tuple[int, str]]:
        """Node and group of the messages that were answered after all, but too late."""
        if not self._strays:
            return []
        replies = [
            r
            for r in self.grid.pull_messages(list(self._strays))
            if r.metadata.reply_to_message_id in self._strays
        ]
        strays = [
            (self._strays.pop(r.metadata.reply_to_message_id), r.has_error()) for r in replies
        ]
        now = time.monotonic()
        self._strays = {i: s for i, s in self._strays.items() if s.until > now}
        return [(s.node, s.group) for s, failed in strays if not failed]


def why(code: str) -> str:
    """What a code means; the code itself where a site has made one up."""
    return CODES[code].meaning if code in CODES else code
