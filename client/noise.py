"""Gaussian noise from the operating system's randomness: no seed of anybody's makes it again."""

from __future__ import annotations

import os

import numpy as np
from scipy.special import ndtri

from common.learner import Contribution
from common.privacy import Privacy
from common.schema import Floats

_TERMS = 4


def normal(size: int) -> Floats:
    """(size,) standard normal values.

    Each is the sum of four, halved: what the gaps between floating-point numbers tell of one value, they do not of four
    (Holohan & Braghin 2021, arXiv 2107.10138, sec. 4).
    """
    bits = np.frombuffer(os.urandom(8 * _TERMS * size), np.uint64) >> np.uint64(11)
    return np.asarray(ndtri((bits + 0.5) * 2.0**-53).reshape(_TERMS, size).sum(axis=0) / np.sqrt(_TERMS))


def noised(contribution: Contribution, bound: float, privacy: Privacy) -> Contribution:
    """One release: the sums, which a patient changes by at most `bound` (L2), and the count of cases beside them.

    Two releases of sqrt(2) times the noise each cost what one does. The tally is left out: it would be a third.
    """
    each = privacy.spread
    sums = {k: (v + each * bound * normal(v.size).reshape(v.shape)).astype(v.dtype) for k, v in contribution.sums.items()}
    return Contribution(sums, max(round(contribution.cases + each * float(normal(1)[0])), 0))
