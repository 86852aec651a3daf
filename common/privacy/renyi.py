"""Renyi divergence of Gaussian noise, whole and subsampled, and what epsilon it allows.

One sum is private with rdp(alpha) = alpha / (2 noise^2) (Mironov 2017, arXiv 1702.07476, prop. 7),
and releases add (prop. 1). For sums over a random share of the patients, as in DP-SGD, a patient
who is removed is the worse case (Mironov, Talwar, Zhang 2019, arXiv 1908.10530, thm 5).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, logsumexp

from common.data.schema import Floats

ORDERS = np.array(
    [*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 80, 96, 128, 192, 256, 384, 512, 1024]
)
"""Orders alpha: Opacus's, and larger ones, which small epsilons need."""
_INVERSE_ORDER = 1 / (ORDERS - 1)
_ORDER_TERM = np.log1p(-1 / ORDERS) - np.log(ORDERS) * _INVERSE_ORDER
_WHOLE = [*range(2, 64), 80, 96, 128, 192, 256, 384, 512, 1024]
_BROKEN = ORDERS[ORDERS < 11]
_POINTS = 20_000
"""Of an integral, the most."""
_ROUNDING = 1e-14
"""In the logarithm of a sum."""


@lru_cache(maxsize=8192)
def subsampled(noise: float, rate: float) -> Floats:
    """Renyi divergence at `ORDERS` of one step of DP-SGD at a rate below 1 (arXiv 1908.10530).

    At whole orders a sum of binomial terms (sec. 3.3); at others an integral. Where noise is so
    small that it takes too many points, a chord: (alpha - 1) times the divergence is a cumulant
    generating function, which is convex. (Opacus's series for broken orders takes up to 20 s, at a
    rate of 0.5 and much noise, and a coordinator chooses both.)
    """
    whole = np.array([_whole(order, noise, rate) for order in _WHOLE])
    cumulants = np.interp(ORDERS - 1, [0, *(a - 1 for a in _WHOLE)], [0, *whole])
    step = min(noise, noise**2) / 2
    ends = -10 * noise, float(_BROKEN[-1]) + 10 * noise
    if (ends[1] - ends[0]) / step <= _POINTS:
        cumulants[: len(_BROKEN)] = _integrals(np.arange(*ends, step), step, noise, rate)
    return np.asarray((np.maximum(cumulants, 0) + _ROUNDING) * _INVERSE_ORDER)


def _whole(order: int, noise: float, rate: float) -> float:
    """log E (P / Q)^order, x drawn from Q = N(0, noise^2), P the mixture."""
    k = np.arange(order + 1)
    terms = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    terms += k * math.log(rate) + (order - k) * math.log1p(-rate)
    return float(logsumexp(terms + k * (k - 1) / (2 * noise**2)))


def _integrals(x: Floats, step: float, noise: float, rate: float) -> Floats:
    """The same at the broken orders, by equal steps: what they miss falls exponentially in the
    distance of the next pole, pi noise^2 off the real line."""
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    density = math.log(step / (noise * math.sqrt(2 * math.pi))) - x**2 / (2 * noise**2)
    return np.asarray(logsumexp(_BROKEN[:, None] * ratio + density, axis=1))


def epsilon(rdp: Floats, delta: float) -> float:
    """The least epsilon at `delta` that Renyi divergences at `ORDERS` allow (Canonne, Kamath,
    Steinke 2020, arXiv 2004.00010, prop. 12)."""
    if not rdp.any():
        return 0.0
    return max(float((rdp + _ORDER_TERM - math.log(delta) * _INVERSE_ORDER).min()), 0.0)
