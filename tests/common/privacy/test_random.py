"""Noise: exactly distributed whole numbers from the operating system's randomness."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, norm

from common.privacy import random as system_random
from common.privacy.random import repeatable, rounded_normal


@pytest.mark.parametrize("spread", [0.3, 1.0, 7.7])
def test_whole_numbers_have_the_probabilities_of_a_rounded_normal(spread: float) -> None:
    with repeatable(5, f"spread {spread}"):
        drawn = rounded_normal(400_000, spread)
    last = int(4 * spread)
    numbers = np.arange(-last, last + 1)
    expected = norm.cdf((numbers + 0.5) / spread) - norm.cdf((numbers - 0.5) / spread)
    counted = np.array([(drawn == k).sum() for k in numbers])
    rest = max(1 - expected.sum(), 0.0)
    if rest * len(drawn) > 5:
        counted, expected = (
            np.append(counted, len(drawn) - counted.sum()),
            np.append(expected, rest),
        )
    kept = expected * len(drawn) > 5
    counted, expected = counted[kept], expected[kept] / expected[kept].sum()
    assert chisquare(counted, expected * counted.sum()).pvalue > 1e-4


@pytest.mark.parametrize("spread", [2.0**20, 2.0**32 + 0.5])
def test_fine_noise_is_normal(spread: float) -> None:
    with repeatable(7, f"spread {spread}"):
        assert kstest(rounded_normal(200_000, spread) / spread, "norm").pvalue > 1e-4


def test_every_bit_of_fine_noise_is_used() -> None:
    with repeatable(9, "bits"):
        drawn = rounded_normal(100_000, 2.0**32)
    for bit in range(28):
        ones = float(((drawn >> bit) & 1).mean())
        assert abs(ones - 0.5) < 0.01, f"bit {bit}: {ones}"


@settings(max_examples=60, deadline=None)
@given(
    tail=st.integers(0, 2**63 - 1) | st.integers(0, 64) | st.integers(2**63 - 64, 2**63 - 1),
    spread=st.floats(1e-3, 2.0**32),
    off=st.integers(-3, 3),
)
def test_what_is_decided_slowly_is_what_many_digits_say(tail: int, spread: float, off: int) -> None:
    near = max(int(norm.isf((tail + 0.5) * 2.0**-64) * spread + 0.5) + off, 0)
    with repeatable(3, "more bits"):
        k = system_random._decided(tail, near, spread)
    with mpmath.workdps(60):
        low, high = (
            mpmath.erfc((k + side) / (spread * mpmath.sqrt(2))) / 2 * mpmath.mpf(2) ** 64
            for side in (mpmath.mpf("0.5"), mpmath.mpf("-0.5"))
        )
        # the tail's bits stand for [tail, tail + 1)
        assert low <= tail + 1
        assert k == 0 or tail <= high


def test_the_fast_way_and_the_slow_one_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    for spread in (0.4, 3.0, 1e6, 2.0**32):
        with repeatable(11, f"spread {spread}"):
            bits = system_random._bits(3000)
        monkeypatch.setattr(system_random, "_bits", lambda size, bits=bits: bits[:size])
        fast = rounded_normal(300, spread)
        monkeypatch.undo()
        slow = [
            system_random._decided(int(b & np.uint64(2**63 - 1)), abs(int(f)), spread)
            for b, f in zip(bits[:300], fast, strict=True)
        ]
        assert np.abs(fast).tolist() == slow


def test_a_seed_repeats_and_the_system_does_not() -> None:
    with repeatable(1, "a"):
        one = rounded_normal(50, 1e9)
    with repeatable(1, "a"):
        again = rounded_normal(50, 1e9)
    assert (one == again).all()
    assert (rounded_normal(50, 1e9) != rounded_normal(50, 1e9)).any()


@pytest.mark.parametrize("spread", [0.0, -1.0, float("nan"), float("inf"), 2.0**41])
def test_no_noise_of_a_size_that_is_none(spread: float) -> None:
    with pytest.raises(ValueError, match="spread"):
        rounded_normal(3, spread)
