"""Run watcher: a run's folder, followed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.ledger import heartbeat, ledger
from server.ledger.heartbeat import STOPPED
from server.monitor.ledger_follower import Follower, Line
from server.monitor.ledger_summary import LedgerSummary
from server.monitor.ledger_wording import sentence
from server.monitor.view import LineView, View, view


class RunWatcher:
    """One for all who look at a run: what it holds does not grow with their number, nor with the
    run."""

    def __init__(self, folder: Path, heard: Callable[[Line], None] = lambda line: None) -> None:
        """heard: told each verified line once, those that are there already too."""
        self.folder, self._heard = folder, heard
        self._told = LedgerSummary()
        self._ledger = Follower(folder / ledger.NAME, self._take, self._again)

    def _take(self, line: Line) -> None:
        self._told.take(line)
        self._heard(line)

    def _again(self) -> None:
        self._told = LedgerSummary()

    def look(self, now: float | None = None) -> View:
        """What is to be seen now."""
        self._ledger.read()
        status, stopped = _read(self.folder / heartbeat.NAME), _read(self.folder / STOPPED)
        seen_view = view(
            str(self.folder),
            self._ledger,
            self._told,
            status,
            stopped,
            time.time() if now is None else now,
        )
        return replace(seen_view, lines=self.lines()) if self._ledger.fault else seen_view

    def lines(self, before: int | None = None, count: int = 40) -> tuple[LineView, ...]:
        """`count` lines before line `before` (from 1; None: the newest), from disk; those behind a
        fault are marked as not verified."""
        self._ledger.read()
        last = self._ledger.lines if before is None else before - 1
        return tuple(_line_view(*found) for found in self._ledger.texts(last - count + 1, last))


def _line_view(number: int, text: bytes, verified: bool) -> LineView:
    try:
        line = json.loads(text)
        kind, when, words = str(line["kind"]), line.get("time"), sentence(line)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return LineView(number, None, "?", text[:200].decode("utf-8", "replace"), verified)
    return LineView(
        number, float(when) if isinstance(when, int | float) else None, kind, words, verified
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        status = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
