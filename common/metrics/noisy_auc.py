"""AUC from a score histogram whose counts have noise, and how sure it is of itself.

Counts with Gaussian noise may be negative; numbers of pairs are taken from them as they are, so
that noise does not favour one side. The interval comes from a parametric bootstrap: patients are
drawn again from the histogram (its negative counts cut to 0), and the noise on top of them, whose
size everybody knows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from common.data.cohort import ESTIMABLE
from common.data.schema import Floats
from common.metrics.score_histogram import auc, pair_counts
from common.types import Array

REPEATS = 2000


class NoisyAuc(NamedTuple):
    """`value`, `low`, `high`: None where fewer than `ESTIMABLE` cases of a class may stand behind
    it. `positives`: as told, noisy."""

    value: float | None
    low: float | None
    high: float | None
    cases: int
    positives: int


def noisy_auc(histogram: Array, spread: float, seed: int) -> NoisyAuc:
    """`histogram` (bins, 2): told counts; `spread`: standard deviation of the noise in each.
    `seed`: of the bootstrap."""
    noisy_counts = np.asarray(histogram, np.float64)
    totals = noisy_counts.sum(0)
    counts = NoisyAuc(
        None, None, None, max(round(float(totals.sum())), 0), max(round(float(totals[1])), 0)
    )
    # a class whose true count may be below the least is not judged
    if (totals - 2 * spread * np.sqrt(len(noisy_counts)) < ESTIMABLE).any():
        return counts
    concordant, pairs, _ = pair_counts(noisy_counts)
    resampled_aucs = _resampled(
        np.maximum(noisy_counts, 0), totals, spread, np.random.default_rng(seed)
    )
    value = float(np.clip(concordant / pairs, 0, 1))
    if spread == 0:
        value = float(auc(noisy_counts) or 0.0)
    low, high = (
        float(v)
        for v in np.clip(
            np.quantile(resampled_aucs, [0.025, 0.975]) - np.median(resampled_aucs) + value, 0, 1
        )
    )
    return counts._replace(value=value, low=low, high=high)


def _resampled(positive: Floats, totals: Floats, spread: float, rng: np.random.Generator) -> Floats:
    """(REPEATS,) AUCs of histograms like this one."""
    shape = (REPEATS, len(positive), 2)
    resampled = np.empty(shape)
    for k in (0, 1):
        resampled[:, :, k] = rng.multinomial(
            round(float(totals[k])), positive[:, k] / positive[:, k].sum(), size=REPEATS
        )
    concordant, pairs, _ = pair_counts(resampled + spread * rng.normal(size=shape)).T
    return np.asarray(concordant / np.where(np.abs(pairs) < 1, 1, pairs))
