"""Site probe (guard L07): can the features, or the mere pattern of what is missing, tell which
hospital a patient was treated at?

Where they can, a model may recognise the site instead of the disease, and a figure over pooled
patients rewards it for that; the within-site AUC does not. The probe is a multinomial logistic
regression, cross-validated over 5 folds. Simulation only: it needs the rows of all sites in one
place.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats

FOLDS = 5
MINIMUM = 10
PERMUTATIONS = 1000


class SiteProbe(NamedTuple):
    """Balanced accuracy of naming the site out of fold; `limit` is the 95th percentile under
    permuted site names."""

    features: float
    features_limit: float
    missingness: float
    missingness_limit: float
    chance: float
    """1 / sites."""
    sites: int
    """Sites with at least 10 cases; the others are left out."""
    cases: int


def site_probe(design: Floats, sites: NDArray[Any], seed: int) -> SiteProbe | None:
    """design (n, columns), NaN where missing; sites (n,). None with fewer than two sites of 10
    cases.

    `features`: standardised values, the mean where missing, beside missing-indicators;
    `missingness`: the indicators alone (chance where nothing is missing).
    """
    codes = np.unique(sites, return_inverse=True)[1]
    keep = np.bincount(codes)[codes] >= MINIMUM
    if np.unique(codes[keep]).size < 2:
        return None
    x, y = design[keep], np.unique(codes[keep], return_inverse=True)[1]
    gaps = np.isnan(x).astype(np.float64)
    rng = np.random.default_rng(seed)
    fold = _stratified(y, rng)
    features = _judge(y, _named(np.concatenate([_filled(x), gaps], 1), y, fold), rng)
    missingness = _judge(y, _named(gaps, y, fold), rng)
    return SiteProbe(*features, *missingness, 1 / (int(y.max()) + 1), int(y.max()) + 1, len(y))


def _filled(x: Floats) -> Floats:
    """Column means (unsupervised, over all rows) for what is missing; a column without values
    becomes 0."""
    measured = ~np.isnan(x)
    mean = np.where(measured, x, 0).sum(0) / np.maximum(measured.sum(0), 1)
    return np.where(measured, x, mean)


def _stratified(y: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    fold = np.empty(len(y), np.int64)
    for k in range(y.max() + 1):
        rows = np.flatnonzero(y == k)
        fold[rng.permutation(rows)] = np.arange(len(rows)) % FOLDS
    return fold


def _named(x: Floats, y: NDArray[np.int64], fold: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,): the site that a model of the other folds names."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    spread = x.std(0)
    x = (x[:, spread > 0] - x[:, spread > 0].mean(0)) / spread[spread > 0]
    if x.shape[1] == 0:
        return np.zeros(len(y), np.int64)
    called = np.empty(len(y), np.int64)
    for f in range(FOLDS):
        train = fold != f
        with warnings.catch_warnings():
            # a probe that has not fully converged still probes
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=200).fit(
                x[train], y[train]
            )
        called[~train] = model.predict(x[~train])
    return called


def _judge(
    y: NDArray[np.int64], called: NDArray[np.int64], rng: np.random.Generator
) -> tuple[float, float]:
    """Balanced accuracy, and its 95th percentile when the true sites are permuted against the
    predictions."""
    share = 1 / np.bincount(y)
    k = len(share)

    def balanced(truth: NDArray[np.int64]) -> float:
        return float(np.where(truth == called, share[truth], 0.0).sum() / k)

    chance = [balanced(rng.permutation(y)) for _ in range(PERMUTATIONS)]
    return balanced(y), float(np.quantile(chance, 0.95))
