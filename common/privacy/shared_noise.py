"""Distributed discrete Gaussian: noise that several sites share, each adding a part of it to sums
that only their total leaves.

A sum of n discrete Gaussians is not one, and comes near: with shares of standard deviation sigma
(in steps of the grid) it is off by tau = 10 * sum over k < n of exp(-2 pi^2 sigma^2 k / (k + 1)),
and its Renyi divergence of order alpha for a shift of L2 norm D in d numbers is at most
alpha / 2 * (D / (sqrt(n) sigma) + tau sqrt(d))^2 (Kairouz, Liu, Steinke 2021, arXiv 2102.06387,
prop. 14; its third bound). What else is in the sum, more shares among it, changes nothing for the
worse: it is added to both sides. Sites add modulo 2^64, which is applied to what is private.
"""

from __future__ import annotations

import math

import numpy as np

from common.data.schema import Floats
from common.privacy import renyi

LEAST_SHARE = 4.0
"""Steps of the grid in a share's standard deviation, the least: tau is then below 1e-65 a share."""
MOST_NUMBERS = 2**40
"""Of one sum, the most: no message holds as many."""
_ROUNDING = 1 + 1e-12
"""Of the arithmetic here."""


def beyond_gaussian(share: float, shares: int) -> float:
    """tau, of so many shares of standard deviation `share` in steps."""
    k = np.arange(1, shares)
    return float(10 * np.exp(-2 * math.pi**2 * share**2 * k / (k + 1)).sum())


def divergence(shift: float, share: float, shares: int, numbers: int) -> Floats:
    """Renyi divergence at `renyi.ORDERS`, at the most, of `numbers` sums that a patient changes by
    `shift` (L2) in all. `shift` and `share` are in steps. ValueError for a share below half a step,
    of which the theorem does not speak."""
    if not share >= 0.5:
        raise ValueError(f"a share of {share!r} steps is below 0.5")
    off = beyond_gaussian(share, shares) * math.sqrt(numbers)
    whole = shift / (math.sqrt(shares) * share) + off
    return np.asarray(renyi.ORDERS / 2 * whole**2 * _ROUNDING)


def release(noise: float, shares: int) -> Floats:
    """The same of one release, sums and their count, each with noise of sqrt(2) * `noise` times what
    a patient changes it by, in `shares` shares; whatever the grid, with the least share that leaves,
    and however many numbers there are."""
    off = beyond_gaussian(LEAST_SHARE, shares) * math.sqrt(MOST_NUMBERS)
    each = renyi.ORDERS / 2 * (1 / (math.sqrt(2) * noise) + off) ** 2
    return np.asarray(2 * each * _ROUNDING)
