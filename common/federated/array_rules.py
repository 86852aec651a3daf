"""Rules of a learner's arrays: names, dtypes, shapes and bounds, held against a state before
anything is computed from it.

A coordinator chooses states. One that is none which `start` and `apply` make could fail, or
overflow, at the very patients that somebody wants to know of. A size that a schema does not settle
(units of a layer, trees) is a word: the same in all arrays of the learner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np

from common.errors import RefusedError
from common.types import Array, Arrays

PARAMETER = 1e6
"""The most of a number that patients' values are multiplied with, by its absolute value."""
COUNT = 1e9
"""The most patients, exchanges or seeds' steps that an array counts; noise may take counts below 0."""
SUM = 1e18
"""The most of a sum over patients, or of an objective."""
MOST = 2**26
"""Numbers of one array."""
Size = int | str


@dataclass(frozen=True)
class ArrayRule:
    """What one array must be."""

    kind: type[Any]
    """Its dtype, or a family of them, by numpy's type."""
    shape: tuple[Size, ...] = ()
    low: float | Array = -PARAMETER
    high: float | Array = PARAMETER
    unless: tuple[float, ...] = ()
    """What may stand there although it is outside, or no finite number."""
    row: float = inf
    """The most that the last axis adds up to."""

    def fault(self, array: Array, sizes: dict[str, int]) -> str:
        """What is wrong with an array; '' where nothing is. `sizes` is filled with the words."""
        if not np.issubdtype(array.dtype, self.kind):
            return f"is {array.dtype}, not {self.kind.__name__}"
        if array.ndim != len(self.shape) or any(
            have != (sizes.setdefault(size, have) if isinstance(size, str) else size)
            for have, size in zip(array.shape, self.shape, strict=True)
        ):
            return f"has the shape {array.shape}, not {self.shape} with {sizes}"
        if prod(array.shape) > MOST:
            return f"has {prod(array.shape)} numbers, {MOST} are the most"
        if array.dtype.kind == "b":
            return ""
        excused = np.zeros(array.shape, np.bool_)
        for value in self.unless:
            excused |= np.isnan(array) if np.isnan(value) else array == value
        with np.errstate(invalid="ignore"):
            # what is no number lies nowhere
            inside = (array >= self.low) & (array <= self.high)
        if not (inside | excused).all():
            wrong = array[~(inside | excused)]
            return f"has a value outside of its bounds, or none: {wrong.min()} to {wrong.max()}"
        if self.row < inf and not (array.sum(axis=-1, dtype=np.float64) <= self.row).all():
            return f"has a row that adds up to more than {self.row:g}"
        return ""


ArrayRules = Mapping[str, ArrayRule]


def parameters(*shape: Size) -> ArrayRule:
    return ArrayRule(np.float64, shape)


def counts(*shape: Size) -> ArrayRule:
    """Patients, or what is counted of them; as numbers, for they may have noise."""
    return ArrayRule(np.float64, shape, 0.0, COUNT)


def sums(*shape: Size, unless: tuple[float, ...] = ()) -> ArrayRule:
    return ArrayRule(np.float64, shape, -SUM, SUM, unless)


def whole(*shape: Size, low: float = 0, high: float = COUNT) -> ArrayRule:
    return ArrayRule(np.integer, shape, low, high)


def flags(*shape: Size) -> ArrayRule:
    return ArrayRule(np.bool_, shape)


def exactly(array: Array) -> ArrayRule:
    """What follows from the schema."""
    return ArrayRule(array.dtype.type, array.shape, array, array)


def demand_arrays(learner: str, rules: Callable[[], ArrayRules], arrays: Arrays) -> None:
    """RefusedError P02 where arrays are not those that `rules` name, each as it must be.

    rules: worked out of the arrays' own sizes, which may be anything, too.
    """
    try:
        declared = rules()
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise RefusedError(
            "P02",
            f"state of '{learner}': its sizes cannot be read of its arrays "
            f"({type(error).__name__}: {error})",
        ) from error
    faults, sizes = [], dict[str, int]()
    if set(arrays) != set(declared):
        faults.append(
            f"arrays {sorted(set(arrays) ^ set(declared))} are missing, or none of the learner's"
        )
    for name in sorted(set(arrays) & set(declared)):
        if fault := declared[name].fault(arrays[name], sizes):
            faults.append(f"'{name}' {fault}")
    if faults:
        raise RefusedError("P02", *(f"state of '{learner}': {fault}" for fault in faults))
