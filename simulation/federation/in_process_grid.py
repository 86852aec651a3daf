"""In-process Grid of Flower: the same two apps, without Ray and without sockets.

Messages wait in a queue that one daemon thread works off in order, so a deadline holds even against
a site that hangs; more workers pay only where sites spend their time outside Python's lock. Uses
three internals of flwr 1.41 (TaskIdentity, Run.create_empty, the private message id), which is why
flwr is pinned and why a contract test compares this Grid with Flower's.
"""

from __future__ import annotations

import itertools
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

CRASHED = 2
"""Flower's error code for an app that raised."""


class InProcessGrid(Grid):
    """`sites`: node id -> path of its `site.toml`."""

    def __init__(self, client: ClientApp, sites: Mapping[int, Path], *, workers: int = 1) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self._run = FlowerRun.create_empty(run_id=1)
        self._client = client
        self._contexts = {
            n: Context(1, n, {"site": str(path)}, RecordDict(), {}) for n, path in sites.items()
        }
        self._ids = itertools.count(1)
        self._todo: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._replies: dict[str, Message] = {}
        self._arrived = threading.Condition()
        for _ in range(workers):
            threading.Thread(target=self._work, daemon=True, name="sites").start()

    def set_run(self, run: FlowerRun) -> None:
        self._run = run

    @property
    def run(self) -> FlowerRun:
        return self._run

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
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{next(self._ids)}"
            ids.append(message.metadata.message_id)
            self._todo.put(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there; waits a moment for all of them rather than let the caller sleep.

        One wake-up an exchange, not one a site: each would take Python's lock from the sites at
        work.
        """
        wanted = list(message_ids)
        with self._arrived:
            self._arrived.wait_for(lambda: all(i in self._replies for i in wanted), timeout=0.2)
            return [self._replies.pop(i) for i in wanted if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        open_ids = set(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        out: list[Message] = []
        while open_ids and (end is None or time.monotonic() < end):
            replies = list(self.pull_messages(open_ids))
            open_ids -= {m.metadata.reply_to_message_id for m in replies}
            out += replies
        return out

    def _work(self) -> None:
        while True:
            message = self._todo.get()
            try:
                reply = self._client(message, self._contexts[message.metadata.dst_node_id])
            except Exception:
                # what a SuperNode does with an app that crashes: the text stays on its console, the
                # coordinator learns that it failed
                traceback.print_exc(file=sys.stderr)
                reply = Message(Error(CRASHED), reply_to=message)
            with self._arrived:
                self._replies[message.metadata.message_id] = reply
                if self._todo.empty():
                    self._arrived.notify_all()
