"""Losses composed on a grid: never below numbers that are worked out in other ways, in both
directions, and close above them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from common.privacy import gaussian_law, loss_distribution, renyi
from common.privacy.limits import NOISE, RATE
from common.privacy.loss_distribution import Steps

DELTAS = [1e-3, 1e-5, 1e-7]


def deltas_by_integration(work: list[Steps], eps: float) -> tuple[float, float]:
    """delta at `eps` of at most two steps, for a patient removed and one added: the hockey stick,
    integrated over x."""
    grids, plain, mixed = [], [], []
    for noise, rate, _ in work:
        x = np.linspace(-9 * noise, 1 + 9 * noise, 1501)
        weight = x[1] - x[0]
        grids.append(x)
        plain.append(norm.pdf(x, 0, noise) * weight)
        mixed.append(((1 - rate) * norm.pdf(x, 0, noise) + rate * norm.pdf(x, 1, noise)) * weight)
    q, p = plain[0], mixed[0]
    if len(work) == 2:
        q, p = np.outer(q, plain[1]).ravel(), np.outer(p, mixed[1]).ravel()
    return (
        float(np.maximum(p - math.exp(eps) * q, 0).sum()),
        float(np.maximum(q - math.exp(eps) * p, 0).sum()),
    )


def by_direction(work: list[Steps], delta: float) -> tuple[float, float]:
    """Epsilon of a patient removed, and of one added."""
    figures = {}
    composed = loss_distribution._composed

    def kept(*given: Any) -> float:
        figures[given[-1]] = composed(*given)
        return figures[given[-1]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_distribution, "_composed", kept)
        assert loss_distribution.epsilon(work, delta) == max(figures.values())
    return figures[False], figures[True]


@settings(deadline=None, max_examples=15)
@given(
    st.lists(
        st.builds(
            Steps,
            st.floats(0.5, 4),
            st.sampled_from([0.01, 0.1, 0.5, 0.9, 1.0]),
            st.just(1),
        ),
        min_size=1,
        max_size=2,
    ),
    st.sampled_from([1e-2, 1e-3, 1e-4]),
)
def test_one_and_two_steps_are_their_integrals_in_either_direction(
    work: list[Steps], delta: float
) -> None:
    for way, found in enumerate(by_direction(work, delta)):
        assert deltas_by_integration(work, found)[way] <= delta * (1 + 1e-3)
        if found > 0.01:
            assert deltas_by_integration(work, found * 0.99)[way] > delta


def test_a_patient_who_is_added_is_another_matter() -> None:
    removed, added = by_direction([Steps(1.0, 0.2, 10)], 1e-5)
    assert added < removed / 1.05


@settings(deadline=None, max_examples=30)
@given(st.floats(0.3, 30), st.integers(1, 40), st.sampled_from(DELTAS))
def test_at_a_rate_of_one_it_is_the_gaussian_law(noise: float, steps: int, delta: float) -> None:
    spread = math.sqrt(steps) / noise
    ceiling = renyi.epsilon(steps * renyi.ORDERS / (2 * noise**2), delta)
    exact = gaussian_law.epsilon(spread, delta, ceiling)
    for work in ([Steps(noise, 1.0, steps)], [Steps(noise, 1.0, 1), Steps(noise, 1.0, steps - 1)]):
        if work[-1].steps:
            found = loss_distribution.epsilon(work, delta)
            assert exact * (1 - 1e-9) <= found <= exact * 1.002 + 1e-4 or found == math.inf


@pytest.mark.parametrize(
    "work",
    [
        [Steps(1.0, 0.1, 100)],
        [Steps(2.0, 0.1, 100)],
        [Steps(0.7, 0.1, 10)],
        [Steps(5.0, 0.5, 30)],
        [Steps(1.0, 0.01, 2000)],
        [Steps(1.0, 0.1, 50), Steps(2.0, 0.3, 40)],
        [Steps(0.5, 1e-4, 1000)],
    ],
)
@pytest.mark.parametrize("delta", [1e-5, 1e-6])
def test_a_patient_who_is_removed_costs_what_opacus_says(work: list[Steps], delta: float) -> None:
    """Opacus's PRV is of that direction alone: its loss ends at log(1 - rate) below."""
    accountants = pytest.importorskip("opacus.accountants")
    theirs = accountants.PRVAccountant()
    theirs.history = [tuple(w) for w in work]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        law = theirs._get_dprv(eps_error=0.01, delta_error=delta / 1000)
    lower, about, upper = law.compute_epsilon(delta, delta / 1000, 0.01)
    found = loss_distribution.epsilon(work, delta)
    assert lower <= found <= upper
    assert found == pytest.approx(about, rel=1e-3, abs=1e-3)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.builds(
            Steps,
            st.floats(NOISE.least, NOISE.most) | st.floats(0.05, 5),
            st.floats(RATE.least, RATE.most),
            st.integers(1, 10**6) | st.integers(1, 20),
        ),
        min_size=1,
        max_size=3,
    ),
    st.floats(1e-15, 0.5),
)
def test_whatever_is_asked_within_the_limits_ends_in_a_number_or_none(
    work: list[Steps], delta: float
) -> None:
    """Never NaN, never below 0, never an error or a warning."""
    found = loss_distribution.epsilon(work, delta)
    assert found >= 0


def test_what_cannot_be_worked_out_is_infinite() -> None:
    for work, delta in (
        ([Steps(1e-3, 0.5, 1)], 1e-5),
        ([Steps(1.0, 0.1, 10)], 1e-13),
        ([Steps(1.0, 0.1, 10**6)], 1e-5),
        ([Steps(1.0 + n / 100, 0.1, 1) for n in range(loss_distribution.KINDS + 1)], 1e-5),
    ):
        assert loss_distribution.epsilon(work, delta) == math.inf
