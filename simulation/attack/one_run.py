"""One-run privacy audit: a lower bound on epsilon from many canaries in a single fit (Steinke, Nasr,
Jagielski 2023, arXiv 2305.08846, algorithm 1).

Each of m canaries is in the data or not by a fair coin of its own. Whoever sees what was released
guesses the coins of those that look most and least as if they were there, and abstains on the
others. Under (epsilon, delta)-privacy (the paper's equation 1: one patient added or removed) right
guesses are stochastically at most as many as of randomised response, but for a term in delta
(theorem 5.2): were more guessed, epsilon is larger. Canaries need not be independent of each other
in what they do, only their coins are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, expit

from common.data.schema import Floats
from common.privacy.random import uniform

CONFIDENCE = 0.95
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of the canaries, those that are guessed on; each is a test of its own, and all of them together
have the confidence (Bonferroni)."""
_MOST = 50.0


@dataclass(frozen=True)
class Found:
    """What one audit shows: epsilon is at least `lower`, at `CONFIDENCE`."""

    lower: float
    canaries: int
    guesses: int
    """Of the share that showed most."""
    right: int


def coins(count: int) -> NDArray[np.bool_]:
    """(count,): who is in, each by a fair coin of its own."""
    return uniform(count) < 0.5


def audit(
    included: NDArray[np.bool_],
    scores: Floats,
    delta: float,
    *,
    shares: Sequence[float] = SHARES,
    both: bool = True,
) -> Found:
    """The best of all `shares`.

    scores: (canaries,), the higher the likelier to be in; equal ones stand in random order. both:
    half of the guesses say that the highest are in, half that the lowest are out; else all are of
    the lowest.
    """
    m = len(included)
    order = np.lexsort((uniform(m), scores))
    best = Found(0.0, m, 0, 0)
    for share in shares:
        high = int(m * share / 2) if both else 0
        low = high if both else int(m * share)
        right = int((~included[order[:low]]).sum() + included[order[m - high :]].sum())
        level = (1 - CONFIDENCE) / len(shares)
        lower = lower_bound(m, low + high, right, delta, level)
        if not best.guesses or lower > best.lower:
            best = Found(lower, m, low + high, right)
    return best


def lower_bound(canaries: int, guesses: int, right: int, delta: float, level: float) -> float:
    """The largest epsilon that so many right guesses refute at `level`, or a little less; 0 where
    they refute none."""
    low, high = 0.0, _MOST
    if p_value(canaries, guesses, right, low, delta) >= level:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if p_value(canaries, guesses, right, middle, delta) < level:
            low = middle
        else:
            high = middle
    return low


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """How likely, at the most, so many right guesses are under (epsilon, delta)-privacy: theorem
    5.2, all guesses of weight 1 (appendix D).

    beta + 2 m delta alpha, where W ~ Binomial(guesses, e^epsilon / (1 + e^epsilon)), beta = P[W >=
    right], alpha = max over i >= 1 of P[right > W >= right - i] / i.
    """
    if not 0 <= right <= guesses <= canaries or epsilon < 0 or not 0 <= delta < 1:
        raise ValueError(
            f"{right} right of {guesses} guesses on {canaries} canaries at ({epsilon}, {delta})"
        )
    q = float(expit(epsilon))
    beta = float(bdtrc(right - 1, guesses, q)) if right else 1.0
    if not right or not delta:
        return beta
    # P[W < right - i] for i = 1 ... right
    below = np.append(bdtr(np.arange(right - 2, -1, -1), guesses, q), 0.0)
    within = float(bdtr(right - 1, guesses, q)) - below
    alpha = float((within / np.arange(1, right + 1)).max())
    return min(beta + 2 * canaries * delta * alpha, 1.0)
