"""What releases cost: costs are exact sums, and epsilon is never below what the exact law, or an
independent accountant, says, and never above what Renyi divergences allow."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from common.privacy import renyi
from common.privacy.limits import BOUND, NOISE, RATE, STEPS
from common.privacy.mechanism import (
    Cost,
    Privacy,
    Sampled,
    curve,
    epsilon,
    gaussian,
    least_upper,
    release,
    subsampled,
)
from common.privacy.renyi import ORDERS

HOSTILE = [
    *(0.0, -0.0, -1.0, 5e-324, 1e-308, 1e-160, 1e-154, 9.9e-7, 1.1e6, 1e154, 1e308),
    *(math.nan, math.inf, -math.inf),
    *(1, 0, -1, 10**400, True, False, "2", None, [1.0], np.float64(2.0)),
]
RELEASES = st.one_of(
    st.floats(0.3, 100).map(gaussian),
    st.builds(
        lambda noise, rate, steps: subsampled(noise, Sampled(rate, steps)),
        st.sampled_from([0.6, 1.0, 3.0]),
        st.sampled_from([0.01, 0.3, 1.0]),
        st.integers(1, 50),
    ),
)


def together(costs: list[Cost]) -> Cost:
    return sum(costs, Cost())


def exact_delta(eps: float, noise: float) -> float:
    """Of one Gaussian sum (Balle & Wang 2018, arXiv 1805.06530, theorem 8); many at n_i are one at
    1 / sqrt(sum 1 / n_i^2)."""
    first, second = norm.cdf(0.5 / noise - eps * noise), norm.logcdf(-0.5 / noise - eps * noise)
    return float(first - math.exp(eps + second))


@given(st.floats(0.5, 50), st.integers(1, 500), st.sampled_from([1e-3, 1e-5, 1e-7]))
def test_epsilon_of_gaussian_sums_is_the_exact_one(
    noise: float, releases: int, delta: float
) -> None:
    found = epsilon(releases * gaussian(noise), delta)
    alone = noise / math.sqrt(releases)
    assert exact_delta(found, alone) <= delta * (1 + 1e-7)
    if found > 1e-3:
        assert exact_delta(found * (1 - 1e-6), alone) > delta


@given(st.floats(0.05, 1e6), st.integers(1, 10**6), st.floats(1e-12, 0.1))
def test_gaussian_sums_never_cost_more_than_their_divergences_allow(
    noise: float, releases: int, delta: float
) -> None:
    cost = releases * gaussian(noise)
    assert 0 <= epsilon(cost, delta) <= renyi.epsilon(cost.rdp, delta) < math.inf


@pytest.mark.parametrize("noise", [0.7, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("releases", [1, 1000])
def test_divergences_of_sums_are_those_of_opacus(noise: float, releases: int) -> None:
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order may be the largest or the smallest
        theirs = rdp.compute_rdp(q=1.0, noise_multiplier=noise, steps=releases, orders=list(ORDERS))
        want, _ = rdp.get_privacy_spent(orders=list(ORDERS), rdp=theirs, delta=1e-5)
    cost = releases * gaussian(noise)
    assert cost.rdp == pytest.approx(theirs, rel=1e-12)
    assert renyi.epsilon(cost.rdp, 1e-5) == pytest.approx(max(want, 0), rel=1e-9)


@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("noise", [0.15, 0.8, 2.0])
def test_divergences_of_dp_sgd_are_those_of_opacus(noise: float, rate: float) -> None:
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    theirs = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=7, orders=list(ORDERS))
    ours = subsampled(noise, Sampled(rate, 7)).rdp
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_with_next_to_no_noise_divergences_are_not_too_small() -> None:
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    theirs = rdp.compute_rdp(q=0.2, noise_multiplier=0.02, steps=1, orders=list(ORDERS))
    assert (renyi.subsampled(0.02, 0.2) >= theirs * (1 - 1e-9)).all()


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.05, 2000), (0.8, 0.1, 90)])
def test_rounds_of_dp_sgd_cost_what_one_uninterrupted_run_does(
    noise: float, rate: float, steps: int
) -> None:
    thirds = (steps // 3, steps // 3, steps - 2 * (steps // 3))
    rounds = together([subsampled(noise, Sampled(rate, n)) for n in thirds])
    assert rounds == subsampled(noise, Sampled(rate, steps))


def test_a_rate_of_one_is_the_whole_sum() -> None:
    assert subsampled(2.0, Sampled(1.0, 7)) == 7 * gaussian(2.0)


@settings(deadline=None, max_examples=15)
@given(st.lists(RELEASES, min_size=2, max_size=4), st.sampled_from([1e-3, 1e-5]))
def test_in_which_order_releases_are_added_does_not_matter(costs: list[Cost], delta: float) -> None:
    """To the last bit."""
    totals = {together(list(order)) for order in permutations(costs)}
    assert len(totals) == 1
    assert len({epsilon(total, delta) for total in totals}) == 1
    assert totals.pop() - costs[0] == together(costs[1:])


@settings(deadline=None, max_examples=25)
@given(st.lists(RELEASES, max_size=3), RELEASES, st.sampled_from([1e-3, 1e-5]))
def test_more_releases_never_cost_less(costs: list[Cost], more: Cost, delta: float) -> None:
    """But for what sharing between the points of a grid adds, which differs by grid."""
    before, after = together(costs), together([*costs, more])
    assert before <= after
    assert not after <= before
    assert epsilon(after, delta) >= epsilon(before, delta) * (1 - 1e-3)
    assert epsilon(after, delta) <= renyi.epsilon(after.rdp, delta)


@given(st.lists(RELEASES, min_size=2, max_size=4))
def test_the_least_that_none_exceeds(costs: list[Cost]) -> None:
    bound = costs[0]
    for cost in costs[1:]:
        bound = least_upper(bound, cost)
    assert all(cost <= bound for cost in costs)
    assert all((bound.rdp >= cost.rdp * (1 - 1e-12)).all() for cost in costs)


def test_where_only_divergences_are_known_they_decide() -> None:
    """One release of which no law is known takes the exact figure from all others, too."""
    half = curve(0.5 * gaussian(10.0).rdp)
    for others in (3 * gaussian(10.0), subsampled(1.0, Sampled(0.1, 30)) + gaussian(5.0)):
        cost = others + half
        assert epsilon(cost, 1e-5) == renyi.epsilon(others.rdp + half.rdp, 1e-5)
        assert epsilon(cost, 1e-5) > epsilon(others, 1e-5)
    assert half + half == 2 * half
    for bad in (ORDERS[:3], -ORDERS, ORDERS * math.nan, ORDERS * math.inf):
        with pytest.raises(ValueError, match="finite, at least 0"):
            curve(bad)


def test_what_has_no_figure_is_not_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN of the exact law is passed over, NaN of the divergences handed on."""
    cost = 3 * gaussian(7.001)
    monkeypatch.setattr("common.privacy.gaussian_law.epsilon", lambda *_: math.nan)
    epsilon.cache_clear()
    assert epsilon(cost, 1e-5) == renyi.epsilon(cost.rdp, 1e-5)
    monkeypatch.setattr("common.privacy.renyi.epsilon", lambda *_: math.nan)
    epsilon.cache_clear()
    assert not epsilon(cost, 1e-5) <= 1e308
    epsilon.cache_clear()


def test_nothing_costs_nothing_and_a_delta_of_nothing_allows_nothing() -> None:
    assert epsilon(Cost(), 1e-5) == epsilon(Cost(), 0.0) == 0
    assert epsilon(0 * gaussian(3.0), 1e-5) == 0
    for delta in (0.0, -1.0, 1.0, math.nan, math.inf):
        assert epsilon(gaussian(3.0), delta) == math.inf


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
@pytest.mark.parametrize(
    "make",
    [
        lambda v: Privacy(v),
        lambda v: gaussian(v),
        lambda v: subsampled(v, Sampled(0.1, 3)),
        lambda v: subsampled(v, Sampled(1.0, 3)),
        lambda v: release(Privacy(v), 1.0),
    ],
)
def test_noise_outside_of_its_limits_makes_nothing(
    make: Callable[[object], object], value: object
) -> None:
    with pytest.raises(ValueError, match="noise"):
        make(value)


@pytest.mark.parametrize(
    ("rate", "steps"),
    [
        *((rate, 3) for rate in (0.0, 1.1, math.nan, math.inf, -0.5, 5e-324, 9e-5, 1, True, "1")),
        *((0.5, steps) for steps in (0, -1, 1_000_001, 10**400, 3.0, True, math.nan, None)),
    ],
)
def test_sampling_is_within_its_limits(rate: object, steps: object) -> None:
    with pytest.raises(ValueError, match=r"(rate|steps) = .* must be"):
        Sampled(rate, steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [5e-324, 1e-10, 1e19, math.inf, math.nan, -1.0])
def test_a_bound_beside_which_noise_is_none_has_no_cost(bound: float) -> None:
    with pytest.raises(ValueError, match="bound"):
        release(Privacy(3.0), bound)


@pytest.mark.parametrize("noise", [NOISE.least, 0.05, 1.0, NOISE.most])
@pytest.mark.parametrize("rate", [RATE.least, 0.5, 0.999, RATE.most])
def test_at_the_ends_of_the_limits_a_cost_is_a_number(noise: float, rate: float) -> None:
    """Each in bounded time."""
    costs = [epsilon(subsampled(noise, Sampled(rate, n)), 1e-5) for n in (1, int(STEPS.most))]
    assert 0 <= costs[0] <= costs[1] < math.inf
    least, most = (release(Privacy(noise), bound) for bound in (BOUND.least, BOUND.most))
    assert epsilon(least, 1e-5) == epsilon(most, 1e-5)
