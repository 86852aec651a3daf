"""Noise that sites share: shares are drawn exactly, and what is charged is no less than what their
sum tells."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import chisquare, kstest

from common.data.schema import Floats
from common.privacy import random as system_random
from common.privacy import renyi, shared_noise
from common.privacy.limits import SHARES
from common.privacy.mechanism import Privacy, Sampled, epsilon, gaussian, release
from common.privacy.random import discrete_normal, repeatable

REACH = 700
WHOLE = np.arange(-REACH, REACH + 1)


def log_probabilities(spread: float) -> Floats:
    """Of a discrete Gaussian, at `WHOLE`."""
    exponents = -(WHOLE**2) / (2 * spread**2)
    return np.asarray(exponents - logsumexp(exponents))


@pytest.mark.parametrize("spread", [0.5, 0.8, 4.0, 7.7])
def test_a_share_has_the_probabilities_of_a_discrete_gaussian(spread: float) -> None:
    with repeatable(5, f"share {spread}"):
        drawn = discrete_normal(60_000, spread)
    expected = np.exp(log_probabilities(spread)) * len(drawn)
    counted = np.array([(drawn == k).sum() for k in WHOLE])
    kept = expected > 5
    counted = np.append(counted[kept], counted[~kept].sum())
    expected = np.append(expected[kept], expected[~kept].sum())
    assert chisquare(counted, expected * (counted.sum() / expected.sum())).pvalue > 1e-4


def test_a_fine_share_is_normal_and_none_is_repeated() -> None:
    with repeatable(7, "fine"):
        assert kstest(discrete_normal(100_000, 2.0**19.5) / 2.0**19.5, "norm").pvalue > 1e-4
    assert not (discrete_normal(100, 1e9) == discrete_normal(100, 1e9)).any()


@settings(max_examples=60, deadline=None)
@given(
    k=st.integers(0, 40),
    spread=st.floats(0.5, 8.0) | st.just(2.0**20),
    value=st.integers(0, 2**64 - 1) | st.integers(0, 2**40),
)
def test_what_is_refused_slowly_is_what_many_digits_say(k: int, spread: float, value: int) -> None:
    """By an integral that the code does not use: I(0) / I(k)."""
    with mpmath.workdps(60):

        def integral(at: int) -> mpmath.mpf:
            def f(u: mpmath.mpf) -> mpmath.mpf:
                s2 = mpmath.mpf(spread) ** 2
                return mpmath.cosh(at * u / s2) * mpmath.exp(-(u**2) / (2 * s2))

            return mpmath.quad(f, [0, 0.5])

        chance = 1 - integral(0) / integral(k)
        edge = mpmath.ldexp(chance, 64)
        assert chance <= (k / spread / spread) ** 2 / 8 + mpmath.mpf(10) ** -50
    if value + 1 < edge:
        assert system_random._refused(value, k, spread)
    elif value > edge:
        assert not system_random._refused(value, k, spread)


def sum_of(shares: int, spread: float) -> Floats:
    """log P of a sum of shares, at `WHOLE`."""
    one = log_probabilities(spread)
    total = one
    padded = np.full(3 * len(one), -np.inf)
    padded[len(one) : 2 * len(one)] = one
    back = np.lib.stride_tricks.sliding_window_view(padded, len(one))[:, ::-1]
    rows = back[len(one) // 2 + 1 : len(one) // 2 + 1 + len(one)]
    for _ in range(shares - 1):
        total = logsumexp(rows + total[None], axis=1)
    return total


@pytest.mark.parametrize("spread", [0.5, 0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("shares", [1, 2, 3])
def test_what_is_charged_is_no_less_than_the_divergence_of_the_sum(
    spread: float, shares: int
) -> None:
    """In both directions, by the exact probabilities, for one number and for several that change
    together."""
    own = sum_of(shares, spread)
    orders = renyi.ORDERS[(renyi.ORDERS <= 40)]
    for shift in (1, 2, 5):
        one, two = own[shift:], own[:-shift]
        for p, q in ((one, two), (two, one)):
            true = np.array([logsumexp(a * p + (1 - a) * q) / (a - 1) for a in orders])
            for numbers in (1, 3):
                charged = shared_noise.divergence(
                    shift * math.sqrt(numbers), spread, shares, numbers
                )
                # what is beyond the probabilities' reach is missing from `true`
                assert (charged[: len(orders)] >= numbers * true - 1e-9).all()


def test_without_the_extra_term_too_little_would_be_charged() -> None:
    spread, shares, orders = 0.5, 2, renyi.ORDERS[renyi.ORDERS <= 40]
    own = sum_of(shares, spread)
    true = np.array([logsumexp(a * own[1:] + (1 - a) * own[:-1]) / (a - 1) for a in orders])
    plain = orders / 2 / (shares * spread**2)
    assert (true > plain * 1.001).any()


@given(noise=st.floats(0.01, 1e4), shares=st.integers(1, 1000))
def test_a_release_costs_at_least_what_whole_noise_does_and_hardly_more(
    noise: float, shares: int
) -> None:
    mine, whole = release(Privacy(noise, shares), 1.0), gaussian(noise)
    assert (mine.rdp >= whole.rdp * (1 - 1e-12)).all()
    assert (mine.rdp <= whole.rdp * (1 + 1e-9)).all()
    # with one such release the divergences decide for all of the account
    assert epsilon(mine + whole, 1e-5) == renyi.epsilon((mine + whole).rdp, 1e-5)


def test_steps_of_a_training_are_nobodys_to_share() -> None:
    bound = Sampled(0.1, 20)
    assert release(Privacy(1.1, 4), bound) == release(Privacy(1.1), bound)


def test_a_share_is_of_the_noise_and_the_total_of_the_shares() -> None:
    whole, shared = Privacy(3.0), Privacy(3.0, 4)
    assert whole.share == whole.spread == shared.spread
    assert shared.share == pytest.approx(shared.spread / 2)
    assert whole.total(5) == pytest.approx(whole.spread * math.sqrt(5))
    assert shared.total(5) == pytest.approx(whole.spread * math.sqrt(5 / 4))


@pytest.mark.parametrize("shares", [-1, 0.0, 1.0, True, 1001, "1", None])
def test_shares_are_within_their_limits(shares: object) -> None:
    with pytest.raises(ValueError, match="shares"):
        Privacy(1.0, shares)  # type: ignore[arg-type]
    assert SHARES.holds(1)


def test_the_theorem_says_nothing_of_shares_below_half_a_step() -> None:
    with pytest.raises(ValueError, match=r"below 0\.5"):
        shared_noise.divergence(1.0, 0.49, 3, 1)
