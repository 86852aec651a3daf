"""Curve thinning: any number of points go in and a few are held. Every second one goes whenever
there are too many."""

from __future__ import annotations

Point = tuple[int, float]


class ThinnedCurve:
    """At most `most` points (and the newest) of a curve that goes on."""

    def __init__(self, most: int) -> None:
        self._most = max(most, 4)
        self._every = 1
        self._kept: list[Point] = []
        self._last: Point | None = None
        self._count = 0

    def add(self, x: int, y: float) -> None:
        self._last = (x, y)
        if self._count % self._every == 0:
            self._kept.append(self._last)
            if len(self._kept) > self._most:
                self._kept = self._kept[::2]
                self._every *= 2
        self._count += 1

    @property
    def points(self) -> tuple[Point, ...]:
        """In order; the newest one is always there."""
        kept = tuple(self._kept)
        return (
            kept if self._last is None or (kept and kept[-1] == self._last) else (*kept, self._last)
        )
