"""Differential privacy as everybody here speaks of it: what a plan asks for, what a release costs, what releases cost together.

The unit is the patient; neighbouring cohorts differ by one patient added or removed, with all rows, images and crops. What leaves is a
sum over patients with Gaussian noise of `noise` times its sensitivity (an L2 norm), so one release is Renyi-private with
rdp(alpha) = alpha / (2 noise^2) (Mironov 2017, arXiv 1702.07476, prop. 7), and releases add (prop. 1). Sums over a random share of the
patients, as in DP-SGD, cost what Opacus's accountant says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from common.schema import Floats

ORDERS = np.array([*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 80, 96, 128, 192, 256, 384, 512, 1024])
"""Orders alpha: Opacus's, and larger ones, which small epsilons need."""


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


def gaussian(noise: float) -> Floats:
    """Renyi divergence at `ORDERS` of one sum with Gaussian noise."""
    return ORDERS / (2 * noise**2)


def epsilon(rdp: Floats, delta: float) -> float:
    """The least epsilon at `delta` that Renyi divergences at `ORDERS` allow (Canonne, Kamath, Steinke 2020, arXiv 2004.00010, prop. 12)."""
    if not rdp.any():
        return 0.0
    found = rdp + np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(float(found.min()), 0.0)
