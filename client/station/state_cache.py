"""The states that a station holds, so that a coordinator need not send them again: by hash, in memory, the latest ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping

from common.types import Arrays

LIMIT = 1 << 30
"""Bytes: EfficientNet-B3 of 20 training sets. What is dropped is sent anew (W03)."""


class Held(MutableMapping[str, Arrays]):
    """SHA-256 -> arrays. Empty again when the station is restarted."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[str, Arrays] = OrderedDict()

    def __getitem__(self, sha: str) -> Arrays:
        return self._kept[sha]

    def __setitem__(self, sha: str, arrays: Arrays) -> None:
        if sha not in self._kept:
            # its own copy: a view would keep the whole message in memory
            self._kept[sha] = {k: v.copy() for k, v in arrays.items()}
            self._size += _size(arrays)
        self._kept.move_to_end(sha)
        while self._size > self._limit and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._size -= _size(oldest)

    def __delitem__(self, sha: str) -> None:
        self._size -= _size(self._kept.pop(sha))

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def _size(arrays: Arrays) -> int:
    return sum(v.nbytes for v in arrays.values())
