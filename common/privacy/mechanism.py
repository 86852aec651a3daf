"""Differential privacy: the Gaussian mechanism's cost, subsampling, composition to (epsilon,
delta).

The unit is the patient; neighbouring cohorts differ by one patient added or removed, with all rows,
images and crops. What leaves is a sum over patients with Gaussian noise of `noise` times its
sensitivity (an L2 norm), so one release is Renyi-private with rdp(alpha) = alpha / (2 noise^2)
(Mironov 2017, arXiv 1702.07476, prop. 7), and releases add (prop. 1). Sums over a random share of
the patients, as in DP-SGD, cost what Opacus's accountant says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from common.data.schema import Floats

ORDERS = np.array(
    [*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 80, 96, 128, 192, 256, 384, 512, 1024]
)
"""Orders alpha: Opacus's, and larger ones, which small epsilons need."""
_INVERSE_ORDER = 1 / (ORDERS - 1)
_ORDER_TERM = np.log1p(-1 / ORDERS) - np.log(ORDERS) * _INVERSE_ORDER
COUNTS = 20.0
"""Noise of counts that are told beside what has noise of its own: about 28 patients, at an epsilon
of a fifth."""


@dataclass(frozen=True)
class Privacy:
    """What a plan says of it."""

    noise: float
    """Standard deviation of the noise in units of the sum's sensitivity; above 0."""

    @property
    def spread(self) -> float:
        """The same for each of the two that a release is: sums and their count."""
        return self.noise * math.sqrt(2)

    def __post_init__(self) -> None:
        if type(self.noise) is not float or not 0 < self.noise < math.inf:
            raise ValueError(f"noise = {self.noise!r} must be a number above 0")


@dataclass(frozen=True)
class Sampled:
    """What a learner declares that adds its noise itself, in each of `steps` sums over a random
    share `rate` of the patients (DP-SGD)."""

    rate: float
    """Each patient is in a step by chance, for itself (Poisson sampling); in (0, 1]."""
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1 or self.steps < 1:
            raise ValueError(
                f"rate = {self.rate!r} must lie in (0, 1], steps = {self.steps!r} be at least 1"
            )


Bound = float | Sampled | None
"""By how much (L2) one patient can change a learner's sums, or how it has drawn its own noise;
None: it cannot account."""


def gaussian(noise: float) -> Floats:
    """Renyi divergence at `ORDERS` of one sum with Gaussian noise."""
    return ORDERS / (2 * noise**2)


def release(noise: float, bound: float | Sampled) -> Floats:
    """Renyi divergence at `ORDERS` of what one plan's answer tells: one sum, or steps of DP-SGD and
    the count beside them."""
    return (
        subsampled(noise, bound) + gaussian(COUNTS)
        if isinstance(bound, Sampled)
        else gaussian(noise)
    )


@lru_cache(maxsize=64)
def subsampled(noise: float, sampled: Sampled) -> Floats:
    """Renyi divergence at `ORDERS` of all steps of one training (Mironov, Talwar, Zhang 2019, arXiv
    1908.10530, by Opacus)."""
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(
        compute_rdp(
            q=sampled.rate, noise_multiplier=noise, steps=sampled.steps, orders=list(ORDERS)
        )
    )


def epsilon(rdp: Floats, delta: float) -> float:
    """The least epsilon at `delta` that Renyi divergences at `ORDERS` allow (Canonne, Kamath,
    Steinke 2020, arXiv 2004.00010, prop. 12)."""
    if not rdp.any():
        return 0.0
    return max(float((rdp + _ORDER_TERM - math.log(delta) * _INVERSE_ORDER).min()), 0.0)
