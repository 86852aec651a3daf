"""The noise that an epsilon affords, and what a fit then costs: the most that a site will be
charged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UsageError
from common.federated.accounting import accountable, calibrate, charge, cost
from common.federated.learner import load, names
from common.privacy.mechanism import epsilon, gaussian
from tests.synthetic import schema


def test_a_fit_costs_its_exchanges() -> None:
    assert cost([load("private_logistic", {"rounds": 4})], schema(), 7.0) == 4 * gaussian(7.0)
    both = [load("preprocessing"), load("boosting", {"trees": 3, "depth": 2, "early_stopping": 2})]
    assert cost(both, schema(), 7.0) == (2 + 6 + 1) * gaussian(7.0)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.2, 50), st.sampled_from([1e-3, 1e-5]), st.integers(1, 30))
def test_the_noise_is_the_least_that_is_enough(most: float, delta: float, rounds: int) -> None:
    fits = [load("private_logistic", {"rounds": rounds})]
    noise = calibrate(fits, schema(), most, delta)
    assert epsilon(cost(fits, schema(), noise), delta) <= most
    assert epsilon(cost(fits, schema(), noise * 0.985), delta) > most


def test_an_epsilon_that_affords_nothing_and_a_learner_without_a_bound_are_refused() -> None:
    with pytest.raises(UsageError, match="affords no noise"):
        calibrate([load("private_logistic")], schema(), 1e-9, 1e-9)
    with pytest.raises(UsageError, match="'fusion' has no bound"):
        cost([load("fusion")], schema(), 1.0)


@pytest.mark.parametrize("name", names())
def test_a_phase_without_a_bound_is_never_charged_in_silence(name: str) -> None:
    learner = load(name)
    for phase in learner.phases:
        if learner.phases[phase].bound is None:
            with pytest.raises(UsageError, match=f"'{name}' has no bound"):
                charge(learner, phase, schema(), 1.0)
        else:
            assert charge(learner, phase, schema(), 1.0).rdp.min() > 0
    if not accountable(learner):
        with pytest.raises(UsageError, match=f"'{name}' has no bound"):
            cost([learner], schema(), 1.0)
