"""Protected sums: whatever goes wrong with a patient, in whatever fold, is that patient's alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.cohort import Cohort, Fold
from common.federated.learner import Contribution, Plan, load, local_plan
from common.federated.protected_sums import Summands, bounded, protected
from common.federated.states import States
from common.learners.preprocessing import Preprocessing
from common.privacy.mechanism import Privacy
from tests.synthetic import cohort

FAULTS = ("raises", "shape", "name", "not finite")
PATIENTS = 9


@dataclass(frozen=True)
class Faulty(Preprocessing):
    """Preprocessing that fails at some patients, as a state that is made for it can have it."""

    faults: dict[str, str] = field(default_factory=dict, hash=False)
    """Patient -> how."""

    def summands(self, states: States, cohort: Cohort, plan: Plan) -> Iterator[Summands]:
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        faults = {self.faults[i] for i in rows.ids if i in self.faults}
        if "raises" in faults:
            raise ValueError("no sum")
        for each in super().summands(states, cohort, plan):
            wrong = np.array([self.faults.get(i) == "not finite" for i in rows.ids], np.bool_)
            moments = np.where(wrong[:, None, None], np.inf, np.asarray(each.sums["moments"]))
            sums: dict[str, Any] = {**each.sums, "moments": moments}
            if "shape" in faults:
                sums["moments"] = moments[:, :, :1]
            if "name" in faults:
                sums["more"] = moments
            yield dataclasses.replace(each, sums=sums)


@dataclass(frozen=True)
class Plain(Faulty):
    """The same, that says what all of a site's rows add and nothing of each."""

    summands = None  # type: ignore[assignment]

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        own = super().contribute(states, cohort, plan)
        for each in Faulty(faults=self.faults).summands(states, cohort, plan):
            arrays = {k: v.sum(axis=0) for k, v in each.sums.items() if isinstance(v, np.ndarray)}
            own = dataclasses.replace(own, sums={**own.sums, **arrays})
        return own


def whole(learner: Preprocessing, rows: Cohort, plan: Plan) -> Contribution:
    states = {plan.fold: {"preprocessing": learner.start(rows.schema, 0)}}
    bound = bounded(learner, plan, rows)
    assert bound is not None
    return protected(learner, states, rows, plan, bound, lambda _: None)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_leaves_of_a_patient_who_fails_and_all_of_the_others_does(
    data: st.DataObject,
) -> None:
    """No exception leaves either: that there is no sum would be an answer about a patient, and
    nothing is charged for it."""
    fold = data.draw(st.sampled_from([Fold(), Fold(parts=(0,)), Fold(parts=(0, 1, 2))]))
    c = cohort(PATIENTS, seed=data.draw(st.integers(0, 99)), unknown=0.2)
    faults = data.draw(st.dictionaries(st.sampled_from(c.ids), st.sampled_from(FAULTS)))
    kind = data.draw(st.sampled_from([Faulty, Plain]))
    how: dict[str, Any] = data.draw(st.sampled_from([{"privacy": Privacy(1.0)}, {"secure": True}]))
    plan = dataclasses.replace(
        local_plan(fold, data.draw(st.integers(0, 9)), 3),
        learner="preprocessing", phase="coarse", **how,
    )  # fmt: skip
    able = c.where(np.array([i not in faults for i in c.ids]))
    mine = whole(kind(faults=faults), c, plan)
    theirs = whole(kind(), able, plan)
    trained = c.train(fold, plan.seed, 3).ids
    assert mine.cases == len(trained), "a count of those at whom nothing fails would tell of them"
    assert set(mine.sums) == set(theirs.sums)
    assert all((mine.sums[k] == theirs.sums[k]).all() for k in mine.sums)


@pytest.mark.parametrize("patients", [0, 1, 2])
def test_a_fold_of_nobody_is_answered_as_any_other(patients: int) -> None:
    """Else whoever has a patient's id asks for a fold of that patient alone."""
    c = cohort(patients, classes=2) if patients > 1 else cohort(2).where(np.arange(2) < patients)
    plan = dataclasses.replace(
        local_plan(Fold(parts=(0, 1)), 0, 2),
        learner="preprocessing", phase="coarse", privacy=Privacy(1.0),
    )  # fmt: skip
    out = whole(load("preprocessing"), c, plan)  # type: ignore[arg-type]
    assert out.cases == 0
    assert not any(v.any() for v in out.sums.values())
