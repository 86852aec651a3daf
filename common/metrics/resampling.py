"""Bootstrap within site and class, models fixed (guard E03): resamples of patients, or of their
counts, and percentile intervals.

Along the first axis of what is resampled the sample itself comes first. An interval says how much a
figure depends on *who was tested*, not on who was trained on. The same resamples serve every model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats
from common.metrics.delong import Estimate

LOST = 0.01
"""An interval is given only if at most this share of the resamples is undefined (a calibration
slope under separation)."""


def bootstrap_weights(
    labels: NDArray[np.int64], sites: NDArray[Any], repeats: int, seed: int
) -> NDArray[np.float32]:
    """(repeats, n): how often each patient is drawn, with replacement, among those of the same site
    and class."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((repeats, len(labels)), np.float32)
    strata = np.unique(
        np.stack([np.unique(sites, return_inverse=True)[1], labels], 1), axis=0, return_inverse=True
    )[1].ravel()
    for stratum in range(strata.max(initial=-1) + 1):
        rows = np.flatnonzero(strata == stratum)
        picks = (
            rng.integers(0, len(rows), (repeats, len(rows)))
            + len(rows) * np.arange(repeats)[:, None]
        )
        weights[:, rows] = np.bincount(picks.ravel(), minlength=repeats * len(rows)).reshape(
            repeats, len(rows)
        )
    return weights


def resampled_counts(counts: Floats, rng: np.random.Generator, repeats: int) -> Floats:
    """(strata, cells) patients by what they got -> (1 + repeats, strata, cells): redrawn within
    each stratum."""
    resampled = np.zeros((1 + repeats, *counts.shape))
    resampled[0] = counts
    for stratum, row in enumerate(counts):
        if row.any():
            resampled[1:, stratum] = rng.multinomial(int(row.sum()), row / row.sum(), repeats)
    return resampled


def variance(values: Floats) -> float:
    """(1 + repeats,): of the defined replicates; NaN where `percentiles` has no interval."""
    replicates = values[1:][np.isfinite(values[1:])]
    return (
        float(replicates.var(ddof=1))
        if len(replicates) >= max(2, (1 - LOST) * (len(values) - 1))
        else np.nan
    )


def percentiles(values: Floats) -> Estimate:
    """(1 + repeats,): the sample's own figure, with the 95 % percentile interval of the others
    (Efron & Tibshirani 1993, section 13.3).

    None where the figure is undefined, or too many of its replicates are."""
    replicates = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(replicates) < max(1, (1 - LOST) * (len(values) - 1)):
        return Estimate(None)
    low, high = np.quantile(replicates, [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))
