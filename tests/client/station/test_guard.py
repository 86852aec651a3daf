"""Who pays for what leaves: nothing leaves under noise without a bound, and only patients whom a
learner does not look at are spared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.site.privacy_policy import Policy
from client.site.site_file import Site
from client.station import guard
from client.station.charge import Charge
from client.station.privacy_budget import Budget
from common.data.cohort import Fold
from common.errors import RefusedError
from common.federated.learner import (
    Contribution,
    Federated,
    Plan,
    fit,
    hyper_of,
    load,
    local_plan,
    names,
)
from common.federated.states import States
from common.learners.boosting import Boosting
from common.learners.preprocessing import LEARNER as PREPARE
from common.privacy.mechanism import Privacy
from common.types import State
from tests import hospital
from tests.pictures import imaging, sites

(COHORT,) = sites(40, 1, imaging(crops=1), seed=3)
SITE = Site(COHORT.site, Path(), ())
PHASES = [(name, phase) for name in names() for phase in load(name).phases]


def asked(learner: Federated, phase: str, fold: Fold, noise: float) -> Plan:
    plan = replace(
        local_plan(fold, 0, 5), site=SITE.name, schema=COHORT.schema.hash, privacy=Privacy(noise)
    )
    return replace(plan, learner=learner.name, phase=phase, hyper=hyper_of(learner))


@pytest.fixture
def budget(tmp_path: Path) -> Iterator[Budget]:
    with closing(hospital.account(tmp_path, Policy(3.0, 1e-5))) as there:
        yield there


@pytest.fixture
def any_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes are another test's."""
    monkeypatch.setattr(guard, "identity", lambda *_: None)
    monkeypatch.setattr(guard, "check", lambda *_: None)


@pytest.mark.parametrize(
    ("name", "phase"), [(n, p) for n, p in PHASES if load(n).phases[p].bound is None]
)
@pytest.mark.usefixtures("any_sums")
def test_a_phase_without_a_bound_is_refused_at_both_doors_and_costs_nothing(
    name: str, phase: str, budget: Budget
) -> None:
    learner = load(name)
    plan, before = asked(learner, phase, Fold(), 3.0), budget.spent
    with pytest.raises(RefusedError, match="no bound") as caught:
        guard.admit(plan, SITE, COHORT, budget)
    assert caught.value.code == "P08"
    for account in (budget, None):
        with pytest.raises(RefusedError, match="no bound") as caught:
            guard.release(Contribution({}, 40), learner, {}, plan, COHORT, 1, account)
        assert caught.value.code == "P08"
    assert budget.spent == before


@pytest.mark.usefixtures("any_sums")
@settings(max_examples=80, deadline=None)
@given(
    which=st.sampled_from([(n, p) for n, p in PHASES if load(n).phases[p].bound is not None]),
    parts=st.sets(st.integers(0, 4), max_size=3).map(lambda chosen: tuple(sorted(chosen))),
    noise=st.floats(0.5, 50),
)
def test_whoever_releases_pays_and_only_parts_it_does_not_look_at_are_spared(
    which: tuple[str, str], parts: tuple[int, ...], noise: float
) -> None:
    learner = load(which[0])
    plan = asked(learner, which[1], Fold(parts=parts), noise)
    charges: list[Charge] = []

    class Account:
        policy = Policy()

        def reserve(self, charge: Charge) -> None:
            charges.append(charge)

    account: Any = Account()
    guard.release(Contribution({}, 10_000), learner, {}, plan, COHORT, 1, account)
    (charge,) = charges
    assert charge.noise == noise
    assert charge.spared == (parts if learner.traits.trains else ())


def test_a_learner_gets_the_folds_that_its_plan_reads_and_no_other() -> None:
    folds = (Fold(parts=(0,)), Fold(parts=(1,)), Fold(("A",)))
    states: States = {fold: {"image": {}} for fold in folds}
    plan = replace(local_plan(folds[0], 0, 5), reads=folds[:2])
    assert guard.states_for(plan, states) == {fold: states[fold] for fold in folds[:2]}
    with pytest.raises(RefusedError, match=r"fold\(s\) part:1 did not come") as caught:
        guard.states_for(plan, {fold: states[fold] for fold in (folds[0], folds[2])})
    assert caught.value.code == "P04"


def test_a_signed_plan_whose_trees_are_none_is_refused() -> None:
    """A column out of range ended the station by xgboost's own code, whoever asked for it."""
    plan, state = local_plan(Fold(), 0, 5), cast(State, {})
    for learner in (PREPARE, Boosting(trees=1)):
        state = fit(learner, state, [COHORT], plan)
    column = state["boosting"]["column"].copy()
    column[0, 0, 0] = 10_000
    altered = {**state, "boosting": {**state["boosting"], "column": column}}
    guard.sound(plan, {Fold(): state}, COHORT.schema)
    for name in ("importance", "evaluation", "boosting"):
        for bad in (altered, {**state, "boosting": {"booster": np.frombuffer(b"{}", np.uint8)}}):
            with pytest.raises(RefusedError) as caught:
                guard.sound(replace(plan, learner=name), {Fold(): bad}, COHORT.schema)
            assert caught.value.code == "P02"


@pytest.mark.parametrize("parts", [10**12, 1001, 1, 0, -1, True, 5.0])
def test_a_number_of_parts_outside_of_its_limits_is_refused_before_any_work(
    parts: Any, budget: Budget
) -> None:
    plan = replace(asked(load("private_logistic"), "newton", Fold(), 3.0), parts=parts)
    with pytest.raises(RefusedError, match="is not one of") as caught:
        guard.admit(plan, SITE, COHORT, budget)
    assert caught.value.code == "P03"


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("mlp", {"epochs": 10**9}),
        ("mlp", {"epochs": 101, "rate": 1e-4}),
        ("mlp", {"rate": 5e-324}),
        ("mlp", {"clip": 1e-320}),
        ("logistic", {"clip": 1e-320}),
        ("preprocessing", {"clip": 1e308}),
        ("importance", {"clip": 5e-324}),
        ("private_logistic", {"norm": 1e300}),
    ],
)
def test_a_hyperparameter_outside_of_its_limits_is_refused_before_any_work(
    name: str, hyper: dict[str, object], budget: Budget
) -> None:
    learner = load(name)
    plan = asked(learner, next(iter(learner.phases)), Fold(), 3.0)
    plan = replace(plan, hyper={**plan.hyper, **hyper})
    with pytest.raises(RefusedError, match=r"<=|is the most") as caught:
        guard.admit(plan, SITE, COHORT, budget)
    assert caught.value.code == "P03"
