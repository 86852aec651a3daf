"""Event stream: one follower a run, shared by all who look at it. What changed is made once, and
every browser gets the same bytes."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from server.monitor import run_folders
from server.monitor.run_watcher import RunWatcher
from server.monitor.view import View

LOOK_SECONDS = 1.0
"""Seconds between looks while anybody watches."""
QUIET_SECONDS = 15.0
"""Seconds after which a connection on which nothing happens gets a comment, so that nobody in
between closes it."""
SECTIONS = ("sites", "curves", "round_times", "lines", "refusals", "evaluation", "configuration")
"""Keys of a view that are sent by themselves when they change; the rest goes together."""
MOST_FEEDS = 24
"""Most runs that are followed at a time."""
_PROCESS_ID = secrets.token_hex(4)


class Feed:
    """Of one run."""

    def __init__(self, folder: Path) -> None:
        self._watched = RunWatcher(folder)
        self._one = asyncio.Lock()
        self._news = asyncio.Condition()
        self._texts: dict[str, str] = {}
        self._version = 0
        self._full = self._patch = b""
        self._looked = 0.0
        self.view: View | None = None
        self.watchers = 0

    async def look(self) -> View:
        """The view of now; not looked up more often than twice between two events."""
        async with self._one:
            if self.view is None or time.monotonic() - self._looked > LOOK_SECONDS / 2:
                self.view = await asyncio.to_thread(self._watched.look)
                self._looked = time.monotonic()
                await self._compare(self.view)
            return self.view

    async def lines(self, before: int | None) -> Any:
        async with self._one:
            return await asyncio.to_thread(self._watched.lines, before)

    async def _compare(self, view: View) -> None:
        texts = {
            name: json.dumps(part, separators=(",", ":")) for name, part in sections(view).items()
        }
        changed = {name: text for name, text in texts.items() if self._texts.get(name) != text}
        if not changed:
            return
        self._texts, self._version = texts, self._version + 1
        self._full, self._patch = self._event("full", texts), self._event("patch", changed)
        async with self._news:
            self._news.notify_all()

    def _event(self, kind: str, texts: dict[str, str]) -> bytes:
        body = ",".join(f'"{name}":{text}' for name, text in texts.items())
        return (
            f'id: {self._id}\nevent: {kind}\ndata: {{"now":{time.time():.3f},{body}}}\n\n'.encode()
        )

    @property
    def _id(self) -> str:
        return f"{_PROCESS_ID}-{self._version}"

    async def events(self, last: str) -> AsyncIterator[bytes]:
        """Everything first, unless the browser has it (`last`: its Last-Event-ID), then what
        changes."""
        self.watchers += 1
        try:
            await self.look()
            sent = self._version
            yield b"retry: 2000\n\n"
            yield self._full if last != self._id else b": nothing new\n\n"
            last_sent = time.monotonic()
            while True:
                async with self._news:
                    # in this very task: one that is cancelled must give back the lock it holds
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await self._news.wait()
                if self._version != sent:
                    event = self._patch if self._version == sent + 1 else self._full
                    sent, last_sent = self._version, time.monotonic()
                    yield event
                elif time.monotonic() - last_sent > QUIET_SECONDS:
                    last_sent = time.monotonic()
                    yield b": still here\n\n"
                await self.look()
        finally:
            self.watchers -= 1


def sections(view: View) -> dict[str, Any]:
    """A view in the parts that are sent."""
    whole = view.json()
    parts = {name: whole.pop(name) for name in SECTIONS}
    return {"run": whole, **parts}


class Feeds:
    """Of the runs of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, Feed] = {}

    def names(self) -> list[str]:
        """The newest first."""
        return [p.name for p in run_folders.listed(self.folder)]

    async def read(self, most: int) -> None:
        """The newest runs, one after the other."""
        for name in self.names()[:most]:
            if feed := self.get(name):
                await feed.look()

    def get(self, name: str) -> Feed | None:
        """None for a name that is no run's."""
        if name not in self.names():
            self._held.pop(name, None)
            return None
        feed = self._held.pop(name, None) or Feed(self.folder / name)
        self._held[name] = feed  # the last one used stands last
        for old in [n for n, f in self._held.items() if not f.watchers and n != name][
            : max(len(self._held) - MOST_FEEDS, 0)
        ]:
            del self._held[old]
        return feed
