"""Exact statistics on per-patient predictions, with bootstrap intervals: for simulation, where all predictions lie in one place.

Guard E03: patients are resampled within (site, class) and the models stay fixed, so an interval says how much the figure depends on
*who was tested*, not on who was trained on. A replicate is a row of whole-number weights, and every metric is a weighted sum, so
all replicates are computed together. The same weights serve every model, which makes differences paired.

Guard E01: with fewer than 10 patients of either class nothing but the no-information rate is estimable; value and limits are None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN
from common.data.schema import Floats
from common.errors import DataError, UsageError
from common.metrics import score_histogram
from common.metrics.calibration import calibration_sums, logit, solve_calibration
from common.types import Probs

MINIMUM = 10
DEFINITIONS = {
    "auc": "the headline: share of concordant pairs among all pairs of an event and a non-event of the same site; for more than two "
    "classes the mean over the classes with at least 10 cases, each against the rest",
    "auc_pooled": "the same over pairs of patients of any sites",
    "macro_auc": "`auc` under the name used with many classes",
    "average_precision": "mean precision over the recalls of a ranking by score (no interpolation); a coin gets the prevalence",
    "accuracy": "share of right calls at the threshold; means nothing without `no_information_rate`",
    "balanced_accuracy": "mean over the classes of the share of their cases that are called right",
    "f1": "harmonic mean of precision and sensitivity at the threshold",
    "sensitivity": "share of events that are called events, at Youden's threshold on out-of-fold predictions of training rows",
    "specificity": "share of non-events that are called so, at the same threshold",
    "brier": "mean squared distance between predicted probabilities and what happened",
    "log_loss": "mean of minus the logarithm of the probability given to what happened",
    "calibration_slope": "slope of the log-odds in a logistic regression of what happened on them; 1: neither over- nor underconfident",
    "calibration_intercept": "intercept of the same with the slope held at 1; 0: neither too many nor too few events are predicted",
    "no_information_rate": "accuracy of always calling the most frequent class; estimates nothing, and always stands beside the others",
}
"""Metric -> how it is defined: what the report and the reference say of it."""
METRICS = tuple(DEFINITIONS)
_CELLS = 1_000_000
"""Replicates are taken in blocks of about this many weights, so that memory does not grow with their number."""
_LOST = 0.01
"""An interval is given only if at most this share of the replicates is undefined (a calibration slope under separation)."""


@dataclass(frozen=True)
class Predictions:
    """One model's out-of-fold predictions, each patient once."""

    probs: Probs
    """(n, classes); rows sum to 1."""
    labels: NDArray[np.int64]
    """(n,): class index, or UNKNOWN (only `unknown_label_bounds` accepts those; see `known`)."""
    sites: NDArray[Any]
    """(n,): a code a patient."""
    thresholds: Floats
    """(n,): two classes: a patient is called positive when p >= this, set on other patients' out-of-fold predictions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "probs", score_histogram.checked(self.probs, self.labels))
        if not len(self.labels) == len(self.sites) == len(self.thresholds):
            counts = f"{len(self.labels)} labels, {len(self.sites)} sites, {len(self.thresholds)} thresholds"
            raise DataError("D05", f"predictions that do not belong together: {counts}; pass one of each a patient")
        if self.classes == 2 and np.isnan(self.thresholds).any():
            missing = f"{np.isnan(self.thresholds).sum()} of {len(self.labels)} patients have no threshold (NaN)"
            raise DataError("D05", f"{missing}; they would all be called negative, so give each the one of its training folds")

    @property
    def classes(self) -> int:
        return int(self.probs.shape[1])

    def where(self, mask: NDArray[np.bool_]) -> Predictions:
        """The patients that `mask` marks: a site, a subgroup."""
        return Predictions(self.probs[mask], self.labels[mask], self.sites[mask], self.thresholds[mask])

    @property
    def known(self) -> Predictions:
        """The patients with a known label."""
        return self.where(self.labels != UNKNOWN)

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """(n,): sites as 0 .. sites - 1."""
        return np.unique(self.sites, return_inverse=True)[1].astype(np.int64)


def bootstrap_weights(labels: NDArray[np.int64], sites: NDArray[Any], repeats: int, seed: int) -> NDArray[np.float32]:
    """(repeats, n): how often each patient is drawn, with replacement, among those of the same site and class."""
    rng = np.random.default_rng(seed)
    out = np.zeros((repeats, len(labels)), np.float32)
    strata = np.unique(np.stack([np.unique(sites, return_inverse=True)[1], labels], 1), axis=0, return_inverse=True)[1].ravel()
    for stratum in range(strata.max(initial=-1) + 1):
        rows = np.flatnonzero(strata == stratum)
        drawn = rng.integers(0, len(rows), (repeats, len(rows))) + len(rows) * np.arange(repeats)[:, None]
        out[:, rows] = np.bincount(drawn.ravel(), minlength=repeats * len(rows)).reshape(repeats, len(rows))
    return out


def estimable(labels: NDArray[np.int64], minimum: int = MINIMUM) -> bool:
    """Guard E01: at least `minimum` patients of each of two classes."""
    return int((np.bincount(labels[labels != UNKNOWN]) >= minimum).sum()) >= 2


class Interval(NamedTuple):
    """All None: not estimable. Limits None beside a value: too many replicates were undefined."""

    value: float | None
    low: float | None
    high: float | None


def interval(value: float | None, replicates: Floats, level: float = 0.95) -> Interval:
    """Percentile interval of the bootstrap replicates (Efron & Tibshirani 1993, section 13.3)."""
    defined = replicates[np.isfinite(replicates)]
    if value is None or len(defined) < max(1, (1 - _LOST) * len(replicates)):
        return Interval(value, None, None)
    low, high = np.quantile(defined, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, float(low), float(high))


def standard_error(replicates: Floats) -> float | None:
    """Standard deviation of the defined replicates; None where an interval would not be given either."""
    defined = replicates[np.isfinite(replicates)]
    return float(defined.std(ddof=1)) if len(defined) >= max(2, (1 - _LOST) * len(replicates)) else None


def evaluate(
    p: Predictions, weights: NDArray[np.float32], metrics: Sequence[str] = METRICS, minimum: int = MINIMUM
) -> dict[str, tuple[float | None, Floats]]:
    """Each metric's value and its replicates (B,) under `weights` (B, n); (None, all NaN) where it is not estimable.

    auc: share of concordant pairs of patients of one site, over all sites' pairs; more than two classes: mean over the estimable
    classes against the rest, as for every figure but accuracy, Brier score and log loss. macro_auc is the same figure under the name
    used with many classes. auc_pooled: pairs across sites too. Thresholded metrics: each patient's own threshold; more than two
    classes: the most probable class. calibration_intercept: with the slope held at 1; two classes only. Errors: C01 for an unknown metric.
    """
    if unknown := sorted(set(metrics) - set(METRICS)):
        raise UsageError("C01", f"metrics {', '.join(unknown)} are unknown; there are {', '.join(METRICS)}")
    n = len(p.labels)
    if (p.labels == UNKNOWN).any() or weights.shape[1:] != (n,):
        raise DataError(
            "D05",
            f"{(p.labels == UNKNOWN).sum()} of {n} labels are unknown, weights have shape {weights.shape}; expected none and (B, {n})",
        )
    counts = np.bincount(p.labels, minlength=p.classes)
    classes = [k for k in range(p.classes) if counts[k] >= minimum and n - counts[k] >= minimum]
    if p.classes == 2:
        classes = classes[1:]
    rows = 1 + len(weights)
    out = {m: np.full(rows, np.nan) for m in metrics}
    out |= {m: np.full(rows, counts.max() / n) for m in metrics if m == "no_information_rate" and n}
    if estimable(p.labels, minimum):
        size = max(1, _CELLS // n)
        for at in range(0, rows, size):
            # row 0 is the sample itself: every patient once
            block = weights[max(at - 1, 0) : at + size - 1].astype(np.float64)
            block = np.concatenate([np.ones((1, n)), block]) if at == 0 else block
            # a resample of a subgroup may miss a class altogether: 0 / 0, an undefined replicate
            with np.errstate(divide="ignore", invalid="ignore"):
                for m, values in _block(p, block, classes, frozenset(metrics), minimum).items():
                    out[m][at : at + size] = values
    return {m: (None if np.isnan(v[0]) else float(v[0]), v[1:]) for m, v in out.items()}


def _block(p: Predictions, w: Floats, classes: list[int], metrics: frozenset[str], minimum: int) -> dict[str, Floats]:
    one_site = np.zeros(len(p.labels), np.int64)
    per_class: dict[str, list[Floats]] = {m: [] for m in METRICS}
    for k in classes:
        positive, score = p.labels == k, p.probs[:, k]
        if metrics & {"auc", "macro_auc"}:
            within = _Ranked(score, positive, p.codes, w)
            if within.enough(minimum):
                per_class["auc"].append(within.auc())
        if metrics & {"auc_pooled", "average_precision"}:
            ranked = _Ranked(score, positive, one_site, w)
            per_class["auc_pooled"].append(ranked.auc())
            per_class["average_precision"].append(ranked.average_precision())
        for m, slope in (("calibration_slope", True), ("calibration_intercept", False)):
            # one class's intercept up is another's down: their mean over many classes says nothing
            if m in metrics and (slope or p.classes == 2):
                per_class[m].append(_recalibrated(score, positive, w, slope))
    per_class["macro_auc"] = per_class["auc"]
    found = {m: np.mean(v, 0) for m, v in per_class.items() if v} | _summed(p, w, classes)
    return {m: v for m, v in found.items() if m in metrics}


class _Ranked:
    """Positives' ranks among the negatives of their group, for many weightings at once by cumulative sums over sorted scores."""

    def __init__(self, score: Floats, positive: NDArray[np.bool_], groups: NDArray[np.int64], w: Floats) -> None:
        order = np.lexsort((score, groups))
        group, truth, score = groups[order], positive[order], score[order]
        # equal keys: same group, same score
        key = np.cumsum((np.diff(group, prepend=-1) != 0) | (np.diff(score, prepend=-1.0) != 0))
        self._start, self._end = (np.searchsorted(group[~truth], group[truth], side) for side in ("left", "right"))
        self._below, self._upto = (np.searchsorted(key[~truth], key[truth], side) for side in ("left", "right"))
        self._tie = np.searchsorted(key[truth], key[truth], "left")
        self._w = w[:, order[truth]]
        self._negatives = _cumulative(w[:, order[~truth]])

    def enough(self, minimum: int) -> bool:
        """Guard E01 for pairs within groups: at least `minimum` positives and negatives that have a partner."""
        paired = self._end > self._start
        partners = np.unique(np.stack([self._start, self._end], 1)[paired], axis=0)
        return bool(paired.sum() >= minimum and (partners[:, 1] - partners[:, 0]).sum() >= minimum)

    def auc(self) -> Floats:
        c = self._negatives
        start = c[:, self._start]
        concordant = (self._w * ((c[:, self._below] + c[:, self._upto]) / 2 - start)).sum(1)
        return np.asarray(concordant / (self._w * (c[:, self._end] - start)).sum(1))

    def average_precision(self) -> Floats:
        """Of all scores as one group."""
        false = self._negatives[:, -1:] - self._negatives[:, self._below]
        positives = _cumulative(self._w)
        true = positives[:, -1:] - positives[:, self._tie]
        return np.asarray((self._w * (true / np.maximum(true + false, 1))).sum(1) / positives[:, -1])


def _cumulative(w: Floats) -> Floats:
    """(B, m) -> (B, m + 1): column j is the sum of the first j."""
    return np.concatenate([np.zeros((len(w), 1)), np.cumsum(w, 1)], 1)


def _recalibrated(score: Floats, positive: NDArray[np.bool_], w: Floats, slope: bool) -> Floats:
    """(B,): calibration slope, or the intercept with the slope held at 1; NaN where there is none."""
    x = logit(score)
    # a replicate's fit is near the sample's, so it starts there
    start = solve_calibration(lambda beta: calibration_sums(x, positive, beta), slope=slope)
    start = np.where(np.isnan(start), (0.0, 1.0), start)
    beta = solve_calibration(lambda beta: calibration_sums(x, positive, beta, w), start, slope=slope, rounds=8)
    lost = np.isnan(beta[:, 0])
    if lost.any():
        beta[lost] = solve_calibration(lambda beta: calibration_sums(x, positive, beta, w[lost]), start, slope=slope)
    return np.asarray(beta[:, 1] if slope else beta[:, 0])


def _summed(p: Predictions, w: Floats, classes: list[int]) -> dict[str, Floats]:
    """What follows from confusion counts and sums over patients: one matrix product."""
    k, truth = p.classes, np.eye(p.classes)[p.labels]
    called = p.probs.argmax(1) if k > 2 else (p.probs[:, 1] >= p.thresholds).astype(np.int64)
    losses = np.stack([score_histogram.brier_terms(p.probs, truth), score_histogram.log_loss_terms(p.probs, truth)], 1)
    sums = w @ np.concatenate([np.eye(k * k)[k * p.labels + called], losses], 1)
    n = w.sum(1)
    confusion = sums[:, : k * k].reshape(-1, k, k)
    actual, predicted, hit = confusion.sum(2), confusion.sum(1), np.diagonal(confusion, axis1=1, axis2=2)
    recall = hit / actual
    specificity = (n[:, None] - actual - predicted + hit) / (n[:, None] - actual)
    f1 = 2 * hit / (actual + predicted)
    return {
        "accuracy": hit.sum(1) / n,
        "balanced_accuracy": recall[:, [0, 1] if k == 2 else classes].mean(1),
        "f1": f1[:, classes].mean(1),
        "sensitivity": recall[:, classes].mean(1),
        "specificity": specificity[:, classes].mean(1),
        "brier": sums[:, -2] / n,
        "log_loss": sums[:, -1] / n,
    }


# ---- comparisons ---------------------------------------------------------------------------------------------------------


def paired_difference(a: Predictions, b: Predictions, weights: NDArray[np.float32], metric: str = "auc", level: float = 0.95) -> Interval:
    """a - b on the same patients and the same resamples. D05 unless labels and sites of the two agree row by row."""
    if not (np.array_equal(a.labels, b.labels) and np.array_equal(a.sites, b.sites)):
        raise DataError(
            "D05",
            f"a paired difference needs the same patients in the same order, got {len(a.labels)} and {len(b.labels)}; align them by id",
        )
    (x, xs), (y, ys) = (evaluate(p, weights, (metric,))[metric] for p in (a, b))
    return interval(None if x is None or y is None else x - y, xs - ys, level)


def by_site(p: Predictions, weights: NDArray[np.float32], metric: str = "auc") -> dict[str, tuple[float | None, Floats]]:
    """Value and replicates of each site on its own, (None, NaN) where it is not estimable."""
    return {str(s): evaluate(p.where(p.sites == s), weights[:, p.sites == s], (metric,))[metric] for s in np.unique(p.sites)}


# ---- what else is said about a set of predictions ------------------------------------------------------------------------


def prior_correct(probs: Probs, train_share: Floats, true_share: Floats) -> Probs:
    """(n, classes): probabilities of a model trained with class weights, returned to the true shares (Saerens et al. 2002, eq. 4).

    train_share (classes,): each class's share of the weight in training; true_share (classes,): its share of the patients. A class
    without weight in training has no odds to correct: C01.
    """
    if not (np.asarray(train_share) > 0).all():
        raise UsageError("C01", f"prior correction needs a positive training share of every class, got {np.asarray(train_share).tolist()}")
    odds = probs * (np.asarray(true_share) / np.asarray(train_share))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def decision_curve(p: Predictions) -> score_histogram.DecisionCurve | None:
    """Guard E05, for two classes."""
    return score_histogram.decision_curve(score_histogram.score_histogram(p.known.probs[:, 1], p.known.labels == 1))


class UnknownLabels(NamedTuple):
    """Guard D04: the headline AUC with the unknown labels left out, all counted negative, all counted positive."""

    unknown: int
    excluded: float | None
    negative: float | None
    positive: float | None


def unknown_label_bounds(p: Predictions) -> UnknownLabels:
    """`p` with the unlabelled cases, predicted as those they stand beside. More than two classes: only `excluded` is defined."""
    unknown = p.labels == UNKNOWN

    def headline(q: Predictions) -> float | None:
        return evaluate(q, np.empty((0, len(q.labels)), np.float32), ("auc",))["auc"][0]

    def counted(k: int) -> float | None:
        return headline(replace(p, labels=np.where(unknown, k, p.labels))) if p.classes == 2 else None

    return UnknownLabels(int(unknown.sum()), headline(p.known), counted(0), counted(1))
