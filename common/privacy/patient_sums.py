"""Sums over patients for noise and masks: each patient's values cut to the declared bound, rounded
to whole numbers of a public grid, and added as such.

Whole numbers add up alike in any order and in any company, so a cohort's sum is the sum of its
patients' own, to the last bit: a patient more or less changes it by that patient's rounded values
and by nothing else. What cannot be computed for a patient, or has no finite length, counts as
zero for that patient alone. A patient's rounded values are at most `sensitivity` long, whatever
the state, the schema or the hyperparameters are: the bound is enforced here, not believed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats
from common.privacy.mechanism import Privacy
from common.types import Array

FINEST = -30
"""The finest grid is 2^-30, that of the masks (`common.secure_aggregation.fixed_point`)."""
STEPS = 32
"""A grid is at most so fine that the noise's standard deviation is 2^32 of its steps."""
SHARED_STEPS = 20
"""The same for a share of a noise that sites share: 2^20 of its steps."""
_LARGEST = 2.0**62
"""A patient's value in steps is cut here; a sum beyond 2^63 wraps, which tells no more than the
sum."""

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Whole numbers of `step`, a power of two."""

    exponent: int

    @property
    def step(self) -> float:
        return 2.0**self.exponent

    def sensitivity(self, bound: float, values: int) -> float:
        """By how much (L2) a patient's rounded values can change their sum: each of `values` is off
        by at most half a step."""
        return bound + self.step * math.sqrt(values) / 2

    def rounded(self, values: Floats) -> Whole:
        """Of finite values."""
        steps = np.rint(np.clip(values / self.step, -_LARGEST, _LARGEST))
        return np.asarray(steps).astype(np.int64)

    def values(self, whole: Whole) -> Floats:
        return np.asarray(whole * self.step)


def grid(bound: float, noise: float, steps: int = STEPS) -> Grid:
    """From what is public: the noise's standard deviation is between half of and all of 2^steps
    steps, or the grid is the finest."""
    size = bound * noise
    return Grid(max(math.ceil(math.log2(size)) - steps, FINEST) if size else FINEST)


def grid_of(bound: float, privacy: Privacy | None) -> Grid:
    """By what a site adds of a plan's noise; the finest where there is none."""
    if privacy is None:
        return Grid(FINEST)
    return grid(bound, privacy.share, SHARED_STEPS if privacy.shared else STEPS)


@dataclass(frozen=True)
class Cells:
    """A histogram's share of each patient: it adds to at most one cell in each of some groups of
    cells, which lie one after another."""

    widths: NDArray[np.int64]
    """(groups,): the cells of each."""
    cell: NDArray[np.int64]
    """(patients, groups): within its group; one outside is none."""
    value: Floats
    """(patients, groups)"""
    places: NDArray[np.int64] | None = None
    """Where each cell, of all groups one after another, lies in the array; None: there."""

    def __len__(self) -> int:
        return len(self.value)


Block = Mapping[str, Floats | Cells]
"""Some patients' values by name: (patients, ...), a row each."""


def patient_sums(
    blocks: Iterable[Block], shapes: Mapping[str, tuple[int, ...]], bound: float, on: Grid
) -> dict[str, Whole]:
    """The sums of all blocks, in steps of the grid, in the declared shapes.

    bound: the L2 norm to which all of a patient's values together are cut.
    """
    out = {name: np.zeros(math.prod(shape), np.int64) for name, shape in shapes.items()}
    for block in blocks:
        if set(block) != set(shapes):
            raise AssertionError(f"summands {sorted(block)}, declared {sorted(shapes)}")
        squares = sum(_square(values) for values in block.values())
        length = np.sqrt(np.asarray(squares, np.float64))
        # a patient without a finite length adds zero; nothing is longer than a bound of 0
        longest = np.maximum(np.maximum(length, bound), np.finfo(np.float64).tiny)
        share = np.where(np.isfinite(length), bound / longest, 0.0)
        for name, values in block.items():
            _add(out[name], values, share, on)
    return {name: total.reshape(shapes[name]) for name, total in out.items()}


def _square(values: Floats | Cells) -> Floats:
    """(patients,): the squared length; NaN or infinite where a value is, or where it is beyond
    float64."""
    held = _inside(values) if isinstance(values, Cells) else _rows(values)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((held * held).sum(axis=1))


def _inside(cells: Cells) -> Floats:
    inside = (cells.cell >= 0) & (cells.cell < cells.widths)
    return np.where(inside, cells.value, 0.0)


def _add(total: Whole, values: Floats | Cells, share: Floats, on: Grid) -> None:
    if isinstance(values, Cells):
        steps = on.rounded(_cut(_inside(values), share))
        first = np.concatenate([[0], np.cumsum(values.widths)[:-1]])
        at = np.where(steps != 0, values.cell + first, 0).ravel()
        np.add.at(total, at if values.places is None else values.places[at], steps.ravel())
    else:
        total += on.rounded(_cut(_rows(values), share)).sum(axis=0)


def _rows(values: Floats) -> Floats:
    """(patients, values), of nobody too."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _cut(values: Floats, share: Floats) -> Floats:
    """By a product only where there is something to keep: 0 times infinity is no number."""
    kept = np.where(share[:, None] > 0, values, 0.0)
    return np.asarray(kept * share[:, None])


def only_finite(values: Array) -> Floats:
    """Values that are no number as 0."""
    return np.where(np.isfinite(values), values, 0.0)
