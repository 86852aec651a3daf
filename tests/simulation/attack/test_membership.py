"""Membership: a model that learns its patients by heart is found out, one that never looked at them
is not."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest

from common.data.cohort import Cohort, Fold
from common.federated.learner import Head, fit, load, local_plan
from common.federated.states import States
from common.metrics.resampling import bootstrap_weights
from common.types import Probs, State
from simulation.attack.membership import LEAST_NONMEMBERS, Target, membership, trials
from tests.synthetic import sites

SEED, PARTS = 3, 5
FOLDS = [
    *(Fold(parts=(p,)) for p in range(PARTS)),
    *(Fold(parts=pair) for pair in itertools.combinations(range(PARTS), 2)),
]


@dataclass(frozen=True)
class Fixed:
    """Whoever it was trained on, it says of a patient what it says of that patient's hash."""

    name: str = "fixed"
    needs: tuple[str, ...] = ()
    modality: frozenset[str] = frozenset({"table"})

    def predict(self, state: State, cohort: Cohort) -> Probs:
        p = np.array([hashlib.sha256(i.encode()).digest()[0] for i in cohort.ids]) / 256
        return np.stack([1 - p, p], 1)


@cache
def cohorts() -> tuple[Cohort, ...]:
    return tuple(sites(240, 3, seed=2))


@cache
def trained(name: str, hyper: str = "{}") -> States:
    import json

    prepare, head = load("preprocessing"), load(name, json.loads(hyper))
    out: dict[Fold, State] = {}
    for fold in FOLDS:
        plan = local_plan(fold, SEED, PARTS)
        state = fit(prepare, {}, cohorts(), plan) if head.needs else {}
        out[fold] = fit(head, state, cohorts(), plan)
    return out


def attacked(head: Any, states: States, **how: Any) -> dict[str, dict[str, Any]]:
    asked = {"seed": SEED, "parts": PARTS, "minimum": 10, "repeats": 200, **how}
    return {
        r["attack"]: r
        for r in membership([Target(cast(Head, head), None, states)], cohorts(), **asked)
    }


def test_trees_that_know_their_patients_by_heart_are_found_out() -> None:
    deep = '{"trees": 12, "depth": 6, "eta": 0.5, "lambda_": 0.01, "min_child_weight": 0.0}'
    found = attacked(load("boosting"), trained("boosting", deep))
    for row in found.values():
        assert row["estimable"]
        assert 0.5 < row["low"] < row["auc"] < row["high"]
    assert found["loss"]["auc"] > 0.65
    assert found["calibrated"]["auc"] > 0.65
    assert found["calibrated"]["tpr_low"] > 0.05


def test_a_model_that_never_looked_is_at_chance_to_the_last_digit() -> None:
    found = attacked(Fixed(), {f: {"fixed": {"x": np.zeros(1)}} for f in FOLDS})
    for row in found.values():
        assert row["low"] <= row["auc"] == 0.5 <= row["high"]
        assert row["tpr_low"] <= row["tpr"] <= 0.01
        assert row["members"] == row["nonmembers"] == sum(len(c) for c in cohorts())


def test_a_model_of_other_patients_is_at_chance() -> None:
    """A real learner, fitted each time on strangers: nothing of our patients can be in it."""
    states: dict[Fold, State] = {}
    for n, fold in enumerate(FOLDS):
        strangers = sites(240, 3, seed=100 + n)
        states[fold] = fit(load("private_logistic"), {}, strangers, local_plan(fold, SEED, PARTS))
    for row in attacked(load("private_logistic"), states).values():
        assert row["low"] <= 0.5 <= row["high"]


def test_without_models_that_left_two_parts_out_only_the_loss_is_attacked() -> None:
    states = {f: s for f, s in trained("private_logistic").items() if len(f.parts) < 2}
    assert set(attacked(load("private_logistic"), states)) == {"loss"}
    assert set(attacked(load("private_logistic"), trained("private_logistic"))) == {
        "loss",
        "calibrated",
    }


def test_few_patients_are_not_estimable_and_a_site_that_did_not_take_part_is_not_judged() -> None:
    states, head = trained("private_logistic"), load("private_logistic")
    few = [c.where(np.arange(len(c)) < LEAST_NONMEMBERS // 4) for c in cohorts()]
    (row, *_) = membership(
        [Target(cast(Head, head), 3.0, states)], few, seed=SEED, parts=PARTS, minimum=1, repeats=100
    )
    assert not row["estimable"]
    assert row["auc"] is row["tpr_high"] is None
    assert row["nonmembers"] == 3 * (LEAST_NONMEMBERS // 4)
    uneven = [few[0], *cohorts()[1:]]
    found = trials(Target(cast(Head, head), None, states), uneven, SEED, PARTS, minimum=30)["loss"]
    assert np.isnan(found.scores[:, : len(few[0])]).all()
    assert found.nonmembers == sum(len(c) for c in uneven[1:])


def test_figures_are_those_of_counting() -> None:
    from simulation.attack.membership import _auc, _rate

    found = trials(
        Target(cast(Head, load("private_logistic")), None, trained("private_logistic")),
        cohorts(),
        SEED,
        PARTS,
        10,
    )["loss"]
    part = np.concatenate([c.parts(SEED, PARTS) for c in cohorts()])
    rounded = replace(found, scores=np.round(found.scores, 1))  # with ties
    weights = bootstrap_weights(part, np.zeros(len(part)), 3, 0).astype(float)
    for w, auc, rate in zip(weights, _auc(rounded, weights), _rate(rounded, weights), strict=True):
        concordant = pairs = 0.0
        inside: list[float] = []
        outside: list[float] = []
        for scores, member in zip(rounded.scores, rounded.member, strict=True):
            a, b = (np.repeat(scores[m], w[m].astype(int)) for m in (member, ~member))
            concordant += float((a[:, None] > b).sum() + (a[:, None] == b).sum() / 2)
            pairs += len(a) * len(b)
            inside += a.tolist()
            outside += b.tolist()
        assert auc == pytest.approx(concordant / pairs)
        allowed = [
            t for t in {*inside, *outside, np.inf} if (np.array(outside) >= t).mean() <= 0.01
        ]
        assert rate == pytest.approx((np.array(inside) >= min(allowed)).mean())
