"""Random-effects meta-analysis of the sites' AUCs: their mean, and where that of a new, similar
site is expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.data.schema import Floats
from common.metrics.calibration import logit


class AcrossSites(NamedTuple):
    """A random-effects summary of the sites' AUCs, on the AUC scale."""

    mean: float
    low: float
    high: float
    predicted_low: float
    """Limits of the prediction interval: where the AUC of a new, similar site is expected."""
    predicted_high: float
    tau: float
    """Standard deviation between sites, on the logit scale."""
    sites: int


def across_sites(
    values: Sequence[float | None], standard_errors: Sequence[float | None], level: float = 0.95
) -> AcrossSites | None:
    """DerSimonian-Laird mean of per-site AUCs on the logit scale; None where fewer than 3 sites are
    estimable.

    A site counts when its AUC lies strictly between 0 and 1 and its standard error (of the
    bootstrap replicates) is positive: the delta method has nothing to say at the ends. `sites` says
    how many did.
    """
    pairs = [
        (v, s)
        for v, s in zip(values, standard_errors, strict=True)
        if v is not None and s is not None and 0 < v < 1 and s > 0
    ]
    if len(pairs) < 3:
        return None
    v, s = np.array(pairs).T
    fit = random_effects(logit(v), s / (v * (1 - v)), level)
    mean, low, high, predicted_low, predicted_high = (1 / (1 + np.exp(-np.array(fit[:5])))).tolist()
    return AcrossSites(mean, low, high, predicted_low, predicted_high, fit.tau, len(pairs))


def random_effects(effects: Floats, standard_errors: Floats, level: float = 0.95) -> AcrossSites:
    """Of k >= 3 effects: DerSimonian & Laird (1986), eq. 8; prediction interval with t of k - 2
    degrees of freedom (Higgins, Thompson & Spiegelhalter 2009, eq. 12). On the effects' own scale.
    """
    from scipy.special import ndtri, stdtrit

    k, w = len(effects), standard_errors**-2.0
    q = float((w * (effects - (w * effects).sum() / w.sum()) ** 2).sum())
    tau2 = max(0.0, (q - (k - 1)) / float(w.sum() - (w**2).sum() / w.sum()))
    w = 1 / (standard_errors**2 + tau2)
    mean, variance = float((w * effects).sum() / w.sum()), float(1 / w.sum())
    half, wide = (
        ndtri(0.5 + level / 2) * variance**0.5,
        stdtrit(k - 2, 0.5 + level / 2) * (tau2 + variance) ** 0.5,
    )
    return AcrossSites(
        mean,
        float(mean - half),
        float(mean + half),
        float(mean - wide),
        float(mean + wide),
        tau2**0.5,
        k,
    )
