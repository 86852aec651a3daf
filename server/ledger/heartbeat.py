"""Heartbeat of a run, in `status.json`: who is at work, who was heard of when, how far each is.

For whoever watches; a run never reads it back.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from common.errors import RunError
from server.ledger import state_store

NAME = "status.json"
STOPPED = "stopped.json"
"""Left beside it by whoever stopped the run; it counts until the run is resumed."""
BEAT_SECONDS = 5.0
"""Seconds after which the file is written although nothing has happened: the coordinator is
there."""
_LEAST_SECONDS = 0.5
"""Seconds between writings for sites that are heard of."""


class Heartbeat:
    """A context: while it is open the file is kept fresh. Without a path nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._now: dict[str, object] = {}
        self._sites: dict[str, str] = {}
        self._heard: dict[str, float] = {}
        self._asked: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._written = 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Heartbeat:
        if self._path:
            threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()

    def note(self, **facts: object) -> None:
        """Facts of the run: what it waits for, jobs, jobs done."""
        with self._lock:
            self._now |= facts
        self._write(0)

    def registered(self, sites: Mapping[str, str]) -> None:
        """Who has come to take part so far."""
        if sites != self._sites:
            with self._lock:
                self._sites = dict(sites)
                self._heard |= {s: time.time() for s in sites if s not in self._heard}
            self._write(0)

    def step(
        self, step: int, sites: Mapping[str, str], asked: Mapping[str, int] | None = None
    ) -> None:
        """Each site's state in a step; `asked`: how many plans each has got, where the step
        begins."""
        with self._lock:
            self._now |= {"step": step}
            self._sites = dict(sites)
            if asked is not None:
                self._asked, self._done = dict(asked), dict.fromkeys(asked, 0)
        self._write(0)

    def contact(self, site: str) -> None:
        """Something came from a site, if only that it is still at work."""
        with self._lock:
            self._heard[site] = time.time()
        self._write(_LEAST_SECONDS)

    def last_heard(self, site: str) -> str:
        """When something last came from a site: UTC, to the second; `the start` where nothing
        has."""
        at = self._heard.get(site)
        return "the start" if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))

    def open(self, site: str, plans: int) -> None:
        """How many of a site's plans are still without an answer."""
        with self._lock:
            self._done[site] = self._asked.get(site, plans) - plans

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(RunError):  # a full disk ends the run where something is lost by it
                self._write(0)

    def _write(self, least: float) -> None:
        if self._path is None or time.monotonic() - self._written < least:
            return
        with self._lock:
            self._written = time.monotonic()
            plans = {s: [self._done.get(s, 0), n] for s, n in self._asked.items()}
            now = {
                "time": time.time(),
                **self._now,
                "sites": self._sites,
                "heard": self._heard,
                "plans": plans,
            }
            state_store.replace(self._path, json.dumps(now).encode())
