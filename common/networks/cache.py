"""The last results of a costly function, up to so many bytes: networks score the same patients for evaluation, thresholds and fusion."""

from __future__ import annotations

import threading
from collections import OrderedDict

from common.types import Array

ENTRY = 256
"""Bytes that an entry takes beside its array."""


class Remembered:
    """Arrays by key; the one used longest ago goes first. Keys must tell all that an array depends on."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        self._limit, self._bytes, self._lock = limit, 0, threading.Lock()
        self._items: OrderedDict[tuple[str, ...], Array] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> Array | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: tuple[str, ...], value: Array) -> None:
        with self._lock:
            old = self._items.pop(key, None)
            self._items[key] = value
            self._bytes += value.nbytes + ENTRY - (0 if old is None else old.nbytes + ENTRY)
            while self._bytes > self._limit and len(self._items) > 1:
                self._bytes -= self._items.popitem(last=False)[1].nbytes + ENTRY

    def __len__(self) -> int:
        return len(self._items)
