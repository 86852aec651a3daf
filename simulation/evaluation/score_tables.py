"""Score tables of resampled patients, how often each score was drawn, some resamples at a time: what
is held at once is bounded, whatever the number of patients and of resamples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats

MOST = 2**21
"""Cells of a block, resamples times patients: 16 MB."""
FEWEST = 16
"""Resamples in a block, however many patients there are."""


@dataclass(frozen=True)
class Blocks:
    """How often some patients were drawn, in blocks of nearly equally many resamples."""

    weights: NDArray[np.float32]
    """(draws, labelled patients)"""
    columns: NDArray[np.intp]
    """(patients,): those that count, in their order."""

    @cached_property
    def bounds(self) -> list[int]:
        """Where each block begins, and the end."""
        draws = len(self.weights)
        size = max(FEWEST, MOST // max(len(self.columns), 1))
        count = -(-draws // size)
        return [draws * i // count for i in range(count + 1)]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, i: int) -> Floats:
        """(draws of the block, patients)"""
        rows = self.weights[self.bounds[i] : self.bounds[i + 1]]
        return np.asarray(rows[:, self.columns].astype(np.float64))

    def __iter__(self) -> Iterator[Floats]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True)
class Levels:
    """Blocks of counts (draws, levels, 2): the others and those of a class that have each score."""

    drawn: Blocks
    """Of the patients in the order of their scores."""
    starts: NDArray[np.intp]
    """(levels,): the first patient of each score."""
    positive: NDArray[np.bool_]
    """(patients,): who is of the class."""

    def __iter__(self) -> Iterator[Floats]:
        return map(self._block, range(len(self.drawn)))

    @cached_property
    def _block(self) -> Callable[[int], Floats]:
        """The last one stays: where one holds all, it is counted once."""
        return lru_cache(maxsize=1)(self._counted)

    def _counted(self, i: int) -> Floats:
        weights = self.drawn[i]
        sides = [
            np.add.reduceat(weights * side, self.starts, axis=1)
            for side in (~self.positive, self.positive)
        ]
        return np.stack(sides, -1)
