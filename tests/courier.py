"""Flower's Grid in memory, for tests: each node is a function from message to reply (None: it never
answers)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1

Node = Callable[[Message], Message | None]


def message(content: RecordDict, node: int = 1, kind: str = "train") -> Message:
    return Message(content, node, kind)


class MemoryGrid(Grid):
    """`asked` holds every message pushed. Replies are handed out in the order that `order` gives
    them, `late` pulls later."""

    def __init__(
        self,
        nodes: Mapping[int, Node],
        *,
        order: Callable[[list[Message]], list[Message]] = list,
        late: int = 0,
    ) -> None:
        self.nodes, self.order, self.late = dict(nodes), order, late
        self.asked: list[Message] = []
        self._ids = itertools.count(1)
        self._waiting: list[Message] = []
        self._pulls = 0

    def set_run(self, run: FlowerRun) -> None: ...

    @property
    def run(self) -> FlowerRun:
        return FlowerRun.create_empty(run_id=1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for m in messages:
            m.metadata.__dict__["_message_id"] = f"m{next(self._ids)}"
            ids.append(m.metadata.message_id)
            self.asked.append(m)
            reply = self.nodes[m.metadata.dst_node_id](m)
            if reply is not None:
                self._waiting.append(reply)
        self._pulls = 0
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """One reply a pull, so that the order is the test's."""
        self._pulls += 1
        if self._pulls <= self.late:
            return []
        wanted = set(message_ids)
        mine = self.order([r for r in self._waiting if r.metadata.reply_to_message_id in wanted])[
            :1
        ]
        self._waiting = [r for r in self._waiting if r not in mine]
        return mine

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return list(self.pull_messages(self.push_messages(messages)))
