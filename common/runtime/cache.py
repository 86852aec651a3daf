"""Bounded cache, least recently used first out: cachetools' behind a lock, by number of entries or
by the bytes that they hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import TypeVar

import cachetools

from common.types import Array, Arrays

K = TypeVar("K")
V = TypeVar("V")

ENTRY = 256
"""Bytes that an entry takes beside its arrays."""


def _one(_: object) -> int:
    return 1


def array_bytes(array: Array) -> int:
    """What an entry that is an array takes."""
    return int(array.nbytes) + ENTRY


def arrays_bytes(arrays: Arrays) -> int:
    """What an entry that is a learner's arrays takes."""
    return sum(array.nbytes for array in arrays.values())


class Cache(MutableMapping[K, V]):
    """For several threads. The latest entry stays, whatever its size: then it is alone."""

    def __init__(self, limit: int, size: Callable[[V], int] = _one) -> None:
        """`limit` in what `size` counts: entries, where none is given."""
        self._items: cachetools.LRUCache[K, V] = cachetools.LRUCache(
            limit, getsizeof=lambda value: min(size(value), limit)
        )
        self._lock = threading.RLock()

    def __getitem__(self, key: K) -> V:
        with self._lock:
            return self._items[key]

    def __setitem__(self, key: K, value: V) -> None:
        with self._lock:
            self._items[key] = value

    def __delitem__(self, key: K) -> None:
        with self._lock:
            del self._items[key]

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._items

    def __iter__(self) -> Iterator[K]:
        with self._lock:
            return iter(list(self._items))

    def __len__(self) -> int:
        return len(self._items)
