"""What releases cost: against the exact law of one Gaussian sum, and against Opacus."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from common.privacy.mechanism import ORDERS, Privacy, Sampled, epsilon, gaussian, subsampled


def exact_delta(eps: float, noise: float) -> float:
    """Of one Gaussian sum (Balle & Wang 2018, arXiv 1805.06530, theorem 8); many at n_i are one at
    1 / sqrt(sum 1 / n_i^2)."""
    first, second = norm.cdf(0.5 / noise - eps * noise), norm.logcdf(-0.5 / noise - eps * noise)
    return float(first - math.exp(eps + second))


@given(st.floats(0.5, 50), st.integers(1, 500), st.sampled_from([1e-3, 1e-5, 1e-7]))
def test_epsilon_is_never_below_the_exact_one_and_not_far_above_it(
    noise: float, releases: int, delta: float
) -> None:
    found = epsilon(releases * gaussian(noise), delta)
    together = noise / math.sqrt(releases)
    assert exact_delta(found, together) <= delta
    if 0.3 < found < 30:
        assert exact_delta(found / 1.4, together) > delta


@pytest.mark.parametrize("noise", [0.7, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("releases", [1, 30, 1000])
def test_epsilon_is_that_of_opacus(noise: float, releases: int) -> None:
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order may be the largest or the smallest
        theirs = rdp.compute_rdp(q=1.0, noise_multiplier=noise, steps=releases, orders=list(ORDERS))
        want, _ = rdp.get_privacy_spent(orders=list(ORDERS), rdp=theirs, delta=1e-5)
    assert releases * gaussian(noise) == pytest.approx(theirs, rel=1e-12)
    assert epsilon(releases * gaussian(noise), 1e-5) == pytest.approx(max(want, 0), rel=1e-9)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(1.0, 0.05, 2000), (0.8, 0.1, 90), (2.0, 0.5, 30)]
)
def test_rounds_of_dp_sgd_cost_what_one_uninterrupted_run_of_opacus_does(
    noise: float, rate: float, steps: int
) -> None:
    accountants = pytest.importorskip("opacus.accountants")
    theirs = accountants.RDPAccountant()
    for _ in range(steps):
        theirs.step(noise_multiplier=noise, sample_rate=rate)
    rounds = sum(
        subsampled(noise, Sampled(rate, n))
        for n in (steps // 3, steps // 3, steps - 2 * (steps // 3))
    )
    assert epsilon(np.asarray(rounds), 1e-5) == pytest.approx(
        theirs.get_epsilon(1e-5, alphas=list(ORDERS)), rel=1e-9
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tighter = accountants.PRVAccountant()
        for _ in range(steps):
            tighter.step(noise_multiplier=noise, sample_rate=rate)
        assert 0.7 < tighter.get_epsilon(1e-5) / epsilon(np.asarray(rounds), 1e-5) < 1.0


@pytest.mark.parametrize(("rate", "steps"), [(0.0, 1), (1.1, 1), (math.nan, 1), (0.5, 0)])
def test_sampling_is_in_range(rate: float, steps: int) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        Sampled(rate, steps)


def test_nothing_costs_nothing() -> None:
    assert epsilon(np.zeros(len(ORDERS)), 1e-5) == 0


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf, 1, "2", None])
def test_noise_is_a_number_above_zero(noise: object) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Privacy(noise)  # type: ignore[arg-type]
