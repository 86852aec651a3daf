"""Logistic regression made for noise: what it loses without any, what noise costs it, and that a
large federation still learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from client.station.gaussian_noise import noised
from common.data.cohort import Cohort, Fold
from common.errors import UsageError
from common.federated.learner import load, local_plan, total
from common.federated.protected_sums import protected
from common.learners.private_logistic import PrivateLogistic
from common.privacy.mechanism import Privacy, epsilon, gaussian
from common.types import State
from tests.synthetic import sites


def noise_for(limit: float, releases: int) -> float:
    low, high = 0.1, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if epsilon(releases * gaussian(middle), 1e-5) > limit else (low, middle)
        )
    return high


def trained(cohorts: list[Cohort], noise: float, learner: PrivateLogistic) -> State:
    privacy = Privacy(noise) if noise else None
    plan = dataclasses.replace(
        local_plan(Fold(), 0, 5),
        participants=tuple(c.site for c in cohorts),
        privacy=privacy,
        phase="newton",
    )
    state: State = {learner.name: learner.start(cohorts[0].schema, 0)}
    bound = learner.phases["newton"].sensitivity(cohorts[0].schema)
    assert isinstance(bound, float)
    while True:
        states = {Fold(): state}
        if privacy:
            each = [protected(learner, states, c, plan, bound, print) for c in cohorts]
            sums = [noised(s, bound, privacy) for s in each]
        else:
            sums = [learner.contribute(states, c, plan) for c in cohorts]
        step = learner.apply({Fold(): state}, total(sums), plan)
        state = {learner.name: step.arrays}
        if step.done:
            return state


def auc(learner: PrivateLogistic, state: State) -> float:
    there = sites(3000, 1, seed=77)[0]
    known = there.labels >= 0
    return float(roc_auc_score(there.labels[known], learner.predict(state, there)[known, 1]))


def test_three_steps_without_noise_are_nearly_the_fit() -> None:
    cohorts = sites(900, 3, seed=5)
    few, many = (
        trained(cohorts, 0.0, PrivateLogistic(rounds=n))["private_logistic"]["coefficients"]
        for n in (3, 12)
    )
    assert np.abs(few - many).max() < 0.05


def test_a_large_federation_learns_at_an_epsilon_of_three() -> None:
    learner, cohorts = PrivateLogistic(), sites(6000, 3, seed=5)
    noise = noise_for(3.0, learner.rounds)
    assert epsilon(learner.rounds * gaussian(noise), 1e-5) == pytest.approx(3.0, rel=1e-3)
    plain = auc(learner, trained(cohorts, 0.0, learner))
    found = [auc(learner, trained(cohorts, noise, learner)) for _ in range(5)]
    assert plain > 0.78
    assert np.median(found) > 0.72
    # and what noise there is must cost something: a model as good as without it would have had none
    assert np.mean(found) < plain
    assert np.std(found) > 0


def test_noise_that_drowns_everything_still_gives_a_small_and_finite_model() -> None:
    learner, cohorts = PrivateLogistic(), sites(90, 3, seed=5)
    for _ in range(20):
        beta = trained(cohorts, 500.0, learner)["private_logistic"]["coefficients"]
        assert np.isfinite(beta).all()
        assert np.abs(beta).max() < 10


@pytest.mark.parametrize("hyper", [{"norm": 1.0}, {"l2": 0.0}, {"rounds": 0}])
def test_hyperparameters_out_of_range_are_refused(hyper: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="needs"):
        load("private_logistic", hyper)


def test_no_row_is_longer_than_the_norm() -> None:
    from common.learners.private_logistic import _rows

    for norm in (1.5, 3.0):
        assert np.linalg.norm(_rows(sites(300, 1, seed=3)[0], norm), axis=1).max() <= norm * (
            1 + 1e-12
        )
