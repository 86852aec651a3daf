"""Score histograms, metrics that add: what a site sums over its patients, and the ratios that are
taken once from the total.

A score histogram counts patients by bin of predicted probability and by truth. Histograms of sites
add, and AUC, average precision, ROC, sensitivity, decision curve follow from the sum. Scores that
fall into one bin become ties, so a binned AUC lies within `auc_bound` of the AUC of the raw scores,
exactly. The bins are uniform in asin(sqrt(p)), the angle that gives a proportion a constant
variance (Fisher 1922): of 1000 bins the first ends at 2.5e-6, those at p = 0.05 are 0.0007 and
those at 0.5 are 0.0016 wide, so rare events and saturated models keep their order where a grid
uniform in p would tie them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN
from common.data.schema import Floats
from common.errors import RefusedError
from common.types import Array, Arrays, Probs

BINS = 1000
ROUNDING = 1e-9
"""How far a probability may lie outside [0, 1] before it is an error; a row's sum may be off by
1e-6 (float32 models)."""
_WAY_OUT = "check the learner's predict"


@cache
def edges(bins: int = BINS) -> Floats:
    """(bins + 1,): bin k holds scores in [edges[k], edges[k + 1]), the last one also 1. Symmetric:
    0.5 is an edge of an even grid."""
    half = np.sin(np.pi / 2 * np.arange(bins // 2 + 1) / bins) ** 2
    # rounded, so that the last bit of a machine's sine does not decide where a score falls
    half = np.round(half, 12)
    if bins % 2 == 0:
        half[-1] = 0.5
    bounds = np.concatenate([half, (1 - half[::-1])[1 if bins % 2 == 0 else 0 :]])
    bounds.flags.writeable = False
    return bounds


def middles(bins: int = BINS) -> Floats:
    """(bins,): the probability in the middle of each bin, by the angle that the bins are uniform
    in."""
    return np.asarray(np.sin(np.pi / 2 * (np.arange(bins) + 0.5) / bins) ** 2)


def score_histogram(
    scores: Floats, positive: NDArray[np.bool_], bins: int = BINS
) -> NDArray[np.int64]:
    """(n,) probabilities and truths -> (bins, 2) counts: column 0 negatives, column 1 positives.
    P02 for a score outside [0, 1]."""
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, np.bool_)
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise RefusedError(
            "P02",
            f"scores of shape {scores.shape} with truths of shape {positive.shape}; both must be "
            "(cases,)",
        )
    _probabilities(scores)
    bin_of = np.clip(np.searchsorted(edges(bins), scores, "right") - 1, 0, bins - 1)
    return np.bincount(2 * bin_of + positive, minlength=2 * bins).astype(np.int64).reshape(bins, 2)


def _probabilities(scores: Floats) -> None:
    bad = ~((scores >= -ROUNDING) & (scores <= 1 + ROUNDING))
    if bad.any():
        first_bad, rows = np.argwhere(bad)[0], bad.reshape(len(bad), -1).any(1).sum()
        where = f"{float(scores[tuple(first_bad)])!r} in row {first_bad[0]}"
        raise RefusedError(
            "P02",
            f"{rows} of {len(bad)} rows hold no probability in [0, 1] (first: {where}); {_WAY_OUT}",
        )


# ---- pairs ---------------------------------------------------------------------------------------


def pair_counts(histogram: Array) -> Floats:
    """(..., bins, 2) -> (..., 3): concordant pairs (a tie counts half), pairs, tied pairs. They add
    over sites."""
    negative, positive = (
        np.asarray(histogram[..., 0], np.float64),
        np.asarray(histogram[..., 1], np.float64),
    )
    tied = (negative * positive).sum(-1)
    concordant = (positive * (np.cumsum(negative, -1) - negative)).sum(-1) + tied / 2
    return np.stack([concordant, negative.sum(-1) * positive.sum(-1), tied], -1)


def auc(histogram: Array) -> float | None:
    """Area under the ROC curve = share of (positive, negative) pairs in order, ties half (Mann &
    Whitney). None for one class."""
    concordant, pairs, _ = pair_counts(histogram)
    return _ratio(concordant, pairs)


def auc_bound(histogram: Array) -> float | None:
    """The most by which `auc` can differ from the AUC of the raw pooled scores: half the share of
    pairs in one bin."""
    _, pairs, tied = pair_counts(histogram)
    return _ratio(tied / 2, pairs)


# ---- thresholds ----------------------------------------------------------------------------------


def _at_or_above(histogram: Array) -> Floats:
    """(bins, 2): negatives (false positives) and positives (true positives) with a score of at
    least edges[k]."""
    return np.asarray(histogram, np.float64)[::-1].cumsum(0)[::-1]


def cells(histogram: Array, least: int) -> NDArray[np.intp]:
    """(bins,): which bins a curve keeps together, so that no step of it is fewer than `least`
    patients: neighbours, numbered upwards.

    Made from the highest score down; what is left over at the end goes with the last.
    """
    called = np.asarray(histogram).sum(1)[::-1].cumsum()[::-1]
    levels = [0.0]
    for n in np.unique(called):
        if n >= levels[-1] + least:
            levels.append(float(n))
    levels[max(len(levels) - 1, 1) :] = [float(called[0])]
    return np.asarray(len(levels) - 1 - np.searchsorted(levels, called), np.intp)


def _between_cells(histogram: Array, least: int) -> NDArray[np.bool_]:
    """(bins,): the edges at which a cell is called whole or not at all."""
    of = cells(histogram, least)
    called = np.asarray(histogram).sum(1)[::-1].cumsum()[::-1]
    return np.asarray(called == called[np.searchsorted(of, of)])


class Curve(NamedTuple):
    """Points in order of falling threshold; a case is called positive when its score is at least
    the threshold."""

    x: Floats
    y: Floats
    thresholds: Floats


def roc(histogram: Array, least: int = 1) -> Curve | None:
    """x: 1 - specificity, y: sensitivity, from (0, 0) to (1, 1); at least so many patients between
    two points (`cells`). None for one class."""
    above, cuts = _at_or_above(histogram), edges(len(histogram))[:-1]
    if not above[0].all():
        return None
    drawn = _between_cells(histogram, least)
    points = np.concatenate([np.zeros((1, 2)), above[drawn][::-1] / above[0]])
    return Curve(points[:, 0], points[:, 1], np.concatenate([[np.inf], cuts[drawn][::-1]]))


def precision_recall(histogram: Array, least: int = 1) -> Curve | None:
    """x: recall, y: precision, at the thresholds with at least one case called positive, and so many
    between two of them (`cells`). None without positives."""
    above, cuts = _at_or_above(histogram)[::-1], edges(len(histogram))[-2::-1]
    called = (above.sum(1) > 0) & _between_cells(histogram, least)[::-1]
    if not above[-1, 1]:
        return None
    above = above[called]
    return Curve(above[:, 1] / above[-1, 1], above[:, 1] / above.sum(1), cuts[called])


def average_precision(histogram: Array) -> Floats:
    """(..., bins, 2) -> (...): sum over thresholds of (rise of recall) * precision, without
    interpolation. NaN without positives."""
    falling = np.asarray(histogram, np.float64)[..., ::-1, :]
    above = falling.cumsum(-2)
    precision = above[..., 1] / np.maximum(above.sum(-1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((falling[..., 1] * precision).sum(-1) / above[..., -1, 1])


@dataclass(frozen=True)
class Operating:
    """Confusion counts at one threshold: a case is called positive when its score is at least
    `threshold`."""

    threshold: float
    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def sensitivity(self) -> float | None:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float | None:
        return _ratio(self.tn, self.tn + self.fp)


def youden(histogram: Array) -> Operating | None:
    """The edge with the largest sensitivity + specificity - 1 (Youden 1950); of equals the lowest,
    the most sensitive. None: one class."""
    above = _at_or_above(histogram)
    if not above[0].all():
        return None
    # tp / P - fp / N over a common denominator: whole numbers, so that equals are equal
    k = int((above[:, 1] * above[0, 0] - above[:, 0] * above[0, 1]).argmax())
    (fp, tp), (negatives, positives) = above[k], above[0]
    return Operating(
        float(edges(len(histogram))[k]), int(tp), int(fp), int(negatives - fp), int(positives - tp)
    )


class DecisionCurve(NamedTuple):
    """Net benefit per patient of acting on the model, on everybody, on nobody (Vickers & Elkin
    2006)."""

    thresholds: Floats
    model: Floats
    treat_all: Floats
    treat_none: Floats


def decision_curve(
    histogram: Array, low: float = 0.01, high: float = 0.99, every: int = 5, least: int = 1
) -> DecisionCurve | None:
    """tp / n - fp / n * t / (1 - t) at an edge in each `every` bins within [low, high], where the
    counts are exact, with at least so many patients between two (`cells`). None for nobody."""
    above, cuts = _at_or_above(histogram), edges(len(histogram))[:-1]
    keep = np.flatnonzero((cuts >= low) & (cuts <= high))
    drawn = np.flatnonzero(_between_cells(histogram, least)[keep])
    keep = keep[drawn[np.unique(drawn // every, return_index=True)[1]]]
    n = above[0].sum()
    if not n:
        return None
    t, odds = cuts[keep], cuts[keep] / (1 - cuts[keep])
    negative, positive = above[0] / n
    return DecisionCurve(
        t,
        (above[keep, 1] - above[keep, 0] * odds) / n,
        positive - negative * odds,
        np.zeros(len(t)),
    )


def _ratio(a: float, b: float) -> float | None:
    return float(a / b) if b else None


# ---- all of a site's sums for one set of predictions ---------------------------------------------


@dataclass(frozen=True)
class Tally:
    """Sums over the labelled cases of one prediction; `+` joins sites and folds."""

    histogram: NDArray[np.int64]
    """(classes, bins, 2): of the probability of each class against the rest."""
    confusion: NDArray[np.int64]
    """(classes, classes): true class, most probable class (the first of equals)."""
    brier: Floats
    """(): sum of (p - y)^2, over the event for two classes, over all classes for more (as
    scikit-learn does)."""
    log_loss: Floats
    """(): sum of -log p(true class), p not below the float64 epsilon."""
    n: NDArray[np.int64]
    """(): cases counted."""

    @classmethod
    def of(cls, probs: Probs, labels: NDArray[np.int64], bins: int = BINS) -> Tally:
        """From (n, classes) probabilities and (n,) labels; cases labelled UNKNOWN are not scored.
        P02 for rows that are no distribution."""
        labelled = labels != UNKNOWN
        probs, labels = checked(probs, labels)[labelled], labels[labelled]
        classes = probs.shape[1]
        truth = np.eye(classes)[labels]
        return cls(
            np.stack([score_histogram(probs[:, k], labels == k, bins) for k in range(classes)]),
            np.bincount(classes * labels + probs.argmax(1), minlength=classes**2)
            .astype(np.int64)
            .reshape(classes, classes),
            np.array(brier_terms(probs, truth).sum()),
            np.array(log_loss_terms(probs, truth).sum()),
            np.array(len(labels), np.int64),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Tally:
        """The inverse of `arrays`. P02 when a name, a shape or a value is not what a tally
        holds."""
        names = {f.name for f in fields(cls)}
        if set(arrays) != names:
            raise RefusedError("P02", f"a tally holds {sorted(names)}, got {sorted(arrays)}")
        classes, bins = len(arrays["confusion"]), np.shape(arrays["histogram"])[1:2]
        expected_shapes = {
            "histogram": (classes, *bins, 2),
            "confusion": (classes, classes),
            "brier": (),
            "log_loss": (),
            "n": (),
        }
        faults = [
            f"tally array '{k}' has shape {np.shape(arrays[k])}, expected {s}"
            for k, s in expected_shapes.items()
            if np.shape(arrays[k]) != s
        ]
        faults += [
            f"tally array '{k}' holds a value that is not finite"
            for k in expected_shapes
            if not np.isfinite(arrays[k]).all()
        ]
        if faults:
            raise RefusedError("P02", *faults)
        return cls(**arrays)

    def arrays(self) -> Arrays:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __add__(self, other: Tally) -> Tally:
        if self.histogram.shape != other.histogram.shape:
            raise RefusedError(
                "P02",
                f"tallies of shapes {self.histogram.shape} and {other.histogram.shape} cannot be "
                "added",
            )
        own_arrays, other_arrays = self.arrays(), other.arrays()
        return Tally(**{k: np.asarray(own_arrays[k] + other_arrays[k]) for k in own_arrays})

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """(classes,)."""
        return np.asarray(self.confusion.sum(1))

    @property
    def mean_brier(self) -> float | None:
        return _ratio(float(self.brier), float(self.n))

    @property
    def mean_log_loss(self) -> float | None:
        return _ratio(float(self.log_loss), float(self.n))


def checked(probs: Probs, labels: NDArray[np.int64]) -> Probs:
    """`probs`, clipped to [0, 1] within rounding. P02 unless (n, classes >= 2), rows summing to 1,
    labels of (n,) in range or UNKNOWN."""
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or probs.shape[1] < 2 or np.shape(labels) != probs.shape[:1]:
        raise RefusedError(
            "P02",
            f"probabilities of shape {probs.shape} with labels of shape {np.shape(labels)}; "
            "expected (n, classes) and (n,)",
        )
    _probabilities(probs)
    off = np.abs(probs.sum(1) - 1) > 1e-6
    if off.any():
        first = f"row {int(off.argmax())}: {float(probs[off][0].sum())!r}"
        raise RefusedError(
            "P02",
            f"{off.sum()} of {len(probs)} rows of probabilities do not sum to 1 (first: {first}); "
            f"{_WAY_OUT}",
        )
    odd = (labels != UNKNOWN) & ((labels < 0) | (labels >= probs.shape[1]))
    if odd.any():
        fault = (
            f"{odd.sum()} of {len(labels)} labels are none of {probs.shape[1]} classes (first: "
            f"{labels[odd][0]})"
        )
        raise RefusedError("P02", f"{fault}; check the label's mapping")
    return np.clip(probs, 0.0, 1.0)


def brier_terms(probs: Probs, truth: Floats) -> Floats:
    """(n,): each case's Brier score; `truth` (n, classes) is 0/1."""
    squares = (probs - truth) ** 2
    return np.asarray(squares[:, 1] if probs.shape[1] == 2 else squares.sum(1))


def log_loss_terms(probs: Probs, truth: Floats) -> Floats:
    """(n,): minus the log of each case's probability of its own class."""
    return np.asarray(-np.log(np.maximum((probs * truth).sum(1), np.finfo(np.float64).eps)))
