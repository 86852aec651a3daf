"""Protected sums: what a learner with a declared bound sends under noise or masks, patient by
patient.

Each patient's values are cut to the bound, rounded to a public grid and added as whole numbers
(`common.privacy.patient_sums`). A learner need do nothing for it: each patient's contribution is
asked for alone. One that is asked often says what all patients add at once (`Summing`), where a
patient's own values must not depend on the others, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from common.data.cohort import Cohort
from common.federated.learner import Contribution, Federated, Plan, identity
from common.federated.states import States
from common.privacy.mechanism import Sampled
from common.privacy.patient_sums import FINEST, Block, Grid, grid_of, patient_sums
from common.runtime import time_limit
from common.types import Arrays

_AT_ONCE = 1 << 22
"""Numbers of a block of patients: 32 MB."""
_TALLIED = 1e6
"""The most that a patient adds to what is watched."""


@dataclass(frozen=True)
class Summands:
    """What some patients add: a row each."""

    cases: int
    sums: Block
    tally: Block = field(default_factory=dict)


@runtime_checkable
class Summing(Protocol):
    """A learner that says what each patient adds, for many at once."""

    def summands(self, states: States, cohort: Cohort, plan: Plan) -> Iterator[Summands]: ...


def bounded(learner: Federated, plan: Plan, cohort: Cohort) -> float | None:
    """The bound of what a plan under noise or masks asks for; None where patients are not added
    one by one."""
    bound = learner.phases[plan.phase].sensitivity(cohort.schema)
    return None if bound is None or isinstance(bound, Sampled) or not plan.protected else bound


def protected(
    learner: Federated,
    states: States,
    cohort: Cohort,
    plan: Plan,
    bound: float,
    note: Callable[[str], None],
    one_by_one: bool = False,
) -> Contribution:
    """The contribution; its sums in steps of the grid (int64) where noise is to follow, else as
    numbers.

    What cannot be computed is judged patient by patient, each by itself: that patient adds nothing
    to the sums, and is counted like the others, for `cases` say whom the plan looks at and not at
    whom its states fail. `note` is told, at the site. So it is with those whose own is not done
    when the work's time has passed (`common.runtime.time_limit`). `one_by_one`: as where something
    fails, which takes the longest.
    """
    zero = identity(learner, states, cohort.schema, plan)
    if isinstance(learner, Summing) and not one_by_one:
        try:
            # what a state makes of a patient's values may be no number
            with np.errstate(all="ignore"):
                return _sum(learner.summands(states, cohort, plan), zero, plan, bound)
        except Exception as error:
            note(f"{plan.learner}, fold '{plan.fold.key}': {error}; patient by patient")

    def add(summands: Summands) -> Contribution:
        return _sum([summands], zero, plan, bound)

    with np.errstate(all="ignore"):
        return _sum(_one_by_one(learner, states, cohort, plan, zero, note, add), zero, plan, bound)


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Rows of `width` numbers each, some at a time."""
    many = max(_AT_ONCE // max(width, 1), 1)
    return (slice(i, min(i + many, rows)) for i in range(0, rows, many))


def _one_by_one(
    learner: Federated,
    states: States,
    cohort: Cohort,
    plan: Plan,
    zero: Contribution,
    note: Callable[[str], None],
    add: Callable[[Summands], object],
) -> Iterator[Summands]:
    """Of each patient; zeros where that patient's own could not be computed, or added: that is tried
    here, where a failure is that patient's alone. Who fails is one whom the learner looks at."""
    failed, nothing = 0, Summands(1, _row(zero.sums), _row(zero.tally))
    for i in range(len(cohort)):
        if time_limit.passed():
            yield nothing
            continue
        patient = cohort.only(i)
        try:
            own = list(_own(learner, states, patient, plan))
            for summands in own:
                add(summands)
        except Exception:
            failed += 1
            yield nothing
        else:
            yield from own
    if failed:
        note(f"{plan.learner}, fold '{plan.fold.key}': {failed} patients add nothing")


def _own(learner: Federated, states: States, patient: Cohort, plan: Plan) -> Iterator[Summands]:
    if isinstance(learner, Summing):
        yield from learner.summands(states, patient, plan)
        return
    own = learner.contribute(states, patient, plan)
    if own.cases:
        yield Summands(own.cases, _row(own.sums), _row(own.tally))


def _row(arrays: Arrays) -> Block:
    return {k: v[None].astype(np.float64) for k, v in arrays.items()}


def _sum(each: Iterable[Summands], zero: Contribution, plan: Plan, bound: float) -> Contribution:
    on = grid_of(bound, plan.privacy)
    cases, tallies = 0, []

    def sums() -> Iterator[Block]:
        nonlocal cases
        for summands in each:
            cases += summands.cases
            if time_limit.passed():
                continue
            tallies.append(summands.tally)
            yield summands.sums

    whole = patient_sums(sums(), {k: v.shape for k, v in zero.sums.items()}, bound, on)
    if plan.privacy is not None:
        return Contribution(dict(whole), cases)
    finest = Grid(FINEST)
    tally = patient_sums(tallies, {k: v.shape for k, v in zero.tally.items()}, _TALLIED, finest)
    return Contribution(
        {k: on.values(v) for k, v in whole.items()},
        cases,
        {k: finest.values(v) for k, v in tally.items()},
    )
