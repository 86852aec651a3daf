"""Coverage of a sum: how many of a site's patients are behind each of its rows, and the site's
minimum, which holds for each row by itself.

`Contribution.cases` counts the patients whom a learner looks at. A sum, or a row of it, may be over
fewer: those with an image, those whom the folds that a plan reads have scored, those of all parts
but one. A learner with such sums says over how many (`Covering`), from folds, labels and what
patients hold, and computes nothing from their values: no state that fails at somebody changes it.
What covers fewer than the minimum leaves as zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort
from common.errors import RefusedError
from common.federated.learner import Contribution, Federated, Plan
from common.federated.states import States
from common.types import Array, Arrays


@dataclass(frozen=True)
class Cover:
    """How many patients are behind the rows of a sum. A row is an entry of its first axes, as many
    as `rows` has; () for a sum as a whole."""

    rows: NDArray[np.int64]
    most: NDArray[np.int64]
    """Of the same shape: how many would be, whichever parts the plan's folds leave out or read; 0
    where its states have no model for anybody, so that the row is zero at every site."""

    @staticmethod
    def of(marks: NDArray[np.bool_], most: NDArray[np.bool_]) -> Cover:
        """Of a sum as a whole, by (cases,) marks of those behind it."""
        return Cover(np.array(marks.sum()), np.array(most.sum()))

    @staticmethod
    def stack(covers: Sequence[Cover]) -> Cover:
        """A row for each."""
        rows = np.array([c.rows for c in covers], np.int64)
        return Cover(rows, np.array([c.most for c in covers], np.int64))


Covers = Mapping[str, Cover]
"""Beginning of sums' names, up to a `/` or whole -> their cover."""


@runtime_checkable
class Covering(Federated, Protocol):
    """A learner that has sums over fewer patients than its `cases`."""

    def covers(self, states: States, cohort: Cohort, plan: Plan) -> Covers:
        """Of what `contribute` sends with the same arguments; sums that are not named cover all
        cases. No patient's values are computed with."""
        ...


def enough(
    contribution: Contribution, covers: Covers, minimum: int, plan: Plan, instead: Arrays
) -> Contribution:
    """With zeros in place of the rows that cover fewer than `minimum` patients; of the sums in
    `instead`, which are parameters times cases, with these times cases: nothing was learnt.

    RefusedError M04 under masks where a row falls short by the choice of folds alone: whoever
    chooses them would choose those that leave the sum over all sites to one. Zeros then stand only
    for what a site has too few patients for in every fold.
    """
    sums = dict(contribution.sums)
    for name, cover in _by_sum(sums, covers):
        few = cover.rows < minimum
        if plan.secure and (few & (cover.most >= minimum)).any():
            raise RefusedError(
                "M04",
                f"{plan.learner}, fold '{plan.fold.key}': '{name}' covers fewer patients than the "
                f"site's minimum {minimum} by the folds that are read, and would not without. Under "
                "masks a site is in the sums of all folds or of none: fewer folds, a lower minimum, "
                "or a run without this site",
            )
        if few.any():
            nothing = instead[name] * contribution.cases if name in instead else 0
            sums[name] = _without(sums[name], few, nothing)
    return replace(contribution, sums=sums)


def _by_sum(sums: Arrays, covers: Covers) -> Iterator[tuple[str, Cover]]:
    for name in sums:
        for beginning, cover in covers.items():
            if name == beginning or name.startswith(f"{beginning}/"):
                yield name, cover


def _without(values: Array, few: NDArray[np.bool_], nothing: Array | int) -> Array:
    wide = few.reshape(few.shape + (1,) * (values.ndim - few.ndim))
    return np.where(wide, nothing, values).astype(values.dtype)
