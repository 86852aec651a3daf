"""Gaussian sums, exactly: of many the privacy loss is that of one whose 1 / noise^2 is the sum of
theirs (Dong, Roth, Su 2022, arXiv 1905.02383, cor. 3.3), also where each is chosen by what the
earlier ones have told (Smith, Thakurta 2022, arXiv 2210.17520)."""

from __future__ import annotations

import math

from scipy.special import erfcx, ndtr

ROUNDING = 1e-9
"""Share of delta that is given to rounding in the law."""
_HALVINGS = 60


def delta(epsilon: float, spread: float) -> float:
    """The least delta of a Gaussian sum at `epsilon` >= 0, where `spread` = 1 / noise > 0 (Balle,
    Wang 2018, arXiv 1805.06530, eq. 6).

    e^epsilon times a far tail is written by the scaled complementary error function: nothing
    overflows, and no small number is a difference of large ones.
    """
    near, far = spread / 2 - epsilon / spread, spread / 2 + epsilon / spread
    density = math.exp(-near * near / 2) / 2
    below = density * float(erfcx(far / math.sqrt(2)))
    if near > 0:
        return float(ndtr(near)) - below
    return density * float(erfcx(-near / math.sqrt(2))) - below


def epsilon(spread: float, most: float, ceiling: float) -> float:
    """The least epsilon at a delta of `most`, from above; infinite where it is not below
    `ceiling`."""
    allowed = most * (1 - ROUNDING)
    low, high = 0.0, ceiling
    if delta(low, spread) <= allowed:
        return 0.0
    if not delta(high, spread) <= allowed:
        return math.inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if delta(middle, spread) <= allowed:
            high = middle
        else:
            low = middle
    return high
