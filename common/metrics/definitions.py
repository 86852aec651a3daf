"""Metrics, each defined once: its name and title, what it is, which value is better, and how it
follows from sums over patients.

What follows from pairs of patients within sites is in `common.metrics.site_aucs`; the rest is
computed here from calls, losses and score tables, for the sample and all its resamples at once. A
simulation makes these tables of patients, a coordinator of what sites have added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats
from common.metrics.calibration import CalibrationSums, calibration_sums, solve_calibration
from common.metrics.estimability import estimable, judged
from common.metrics.score_histogram import average_precision, pair_counts


class Metric(NamedTuple):
    name: str
    title: str
    """As a table of the report heads it; empty: it stands in none."""
    best: str
    """high | low | one | zero: which value is better; empty: none is."""
    source: str
    """What it follows from: pairs within sites, scores (which a coordinator has over all sites
    alone), calls, losses, or counts."""
    definition: str


METRICS = (
    Metric(
        "auc", "AUC, patient pairs within sites", "high", "pairs",
        "the headline: share of concordant pairs among all pairs of an event and a non-event of "
        "the same site; for more than two "
        "classes the mean over the classes with at least 10 cases, each against the rest",
    ),
    Metric("auc_pooled", "AUC of pooled scores", "high", "scores", "the same over pairs of "
                                                                   "patients of any sites"),
    Metric("macro_auc", "", "high", "pairs", "`auc` under the name used with many classes"),
    Metric(
        "average_precision", "Average precision", "high", "scores",
        "mean precision over the recalls of a ranking by score (no interpolation); a coin gets "
        "the prevalence",
    ),
    Metric(
        "brier", "Brier score", "low", "losses", "mean squared distance between predicted "
                                                 "probabilities and what happened",
    ),
    Metric(
        "log_loss", "Log loss", "low", "losses", "mean of minus the logarithm of the probability "
                                                 "given to what happened",
    ),
    Metric(
        "calibration_slope", "Calibration slope", "one", "scores",
        "slope of the log-odds in a logistic regression of what happened on them; 1: neither "
        "over- nor underconfident",
    ),
    Metric(
        "calibration_intercept", "Calibration intercept", "zero", "scores",
        "intercept of the same with the slope held at 1, for two classes; 0: neither too many nor "
        "too few events are predicted",
    ),
    Metric(
        "sensitivity", "Sensitivity", "high", "calls",
        "share of events that are called events, at Youden's threshold on out-of-fold predictions "
        "of training rows",
    ),
    Metric("specificity", "Specificity", "high", "calls", "share of non-events that are called "
                                                          "so, at the same threshold"),
    Metric(
        "balanced_accuracy", "Balanced accuracy", "high", "calls",
        "mean over the classes of the share of their cases that are called right",
    ),
    Metric("f1", "F1", "high", "calls", "harmonic mean of precision and sensitivity at the "
                                        "threshold"),
    Metric(
        "accuracy", "Accuracy", "high", "calls",
        "share of right calls at the threshold; means nothing without `no_information_rate`",
    ),
    Metric(
        "no_information_rate", "No-information rate", "", "counts",
        "accuracy of always calling the most frequent class; estimates nothing, and always stands "
        "beside the others",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class ScoreTable:
    """How often each score was given to the others and to those of a class."""

    logits: Floats
    """(levels,): log-odds, rising."""
    blocks: Iterable[Floats]
    """Counts (draws, levels, 2), some draws at a time: as they are, then of each resample. Gone
    through more than once."""


@dataclass(frozen=True)
class Draws:
    """One model's sums over some patients: along the first axis as they are, then of each
    resample."""

    calls: Floats
    """(draws, classes, classes): true class, called class."""
    scores: Mapping[int, ScoreTable]
    """By class; empty where they are not known."""
    losses: Floats | None = None
    """(draws, 2): sums of Brier score and log loss."""


def calls(probs: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """(n,) classes: two are parted at each patient's own threshold, of more the most probable is
    called."""
    if probs.shape[1] > 2:
        return np.asarray(probs.argmax(1), np.int64)
    return np.asarray(probs[:, 1] >= thresholds, np.int64)


def from_draws(draws: Draws) -> dict[str, Floats]:
    """Metric -> (draws,) values; NaN where it is not estimable, or undefined in a resample.

    For more than two classes every figure but accuracy, Brier score and log loss is the mean over
    the classes that are judged."""
    counts = draws.calls[0].sum(1)
    classes = judged(counts) if estimable(counts) else []
    values = {
        metric.name: np.full(len(draws.calls), np.nan)
        for metric in METRICS
        if metric.source in ("scores", "calls", "losses")
    }
    if not classes:
        return values
    # a resample of a subgroup may miss a class altogether: 0 / 0, undefined
    with np.errstate(divide="ignore", invalid="ignore"):
        values |= _from_calls(draws.calls, classes)
        if draws.losses is not None:
            n = draws.calls.sum((1, 2))
            values |= {"brier": draws.losses[:, 0] / n, "log_loss": draws.losses[:, 1] / n}
        if draws.scores:
            values |= _from_scores([draws.scores[k] for k in classes], len(counts))
    return values


def _from_calls(confusion: Floats, classes: Sequence[int]) -> dict[str, Floats]:
    n, several = confusion.sum((1, 2)), list(classes)
    actual, called, hit = (
        confusion.sum(2),
        confusion.sum(1),
        np.diagonal(confusion, axis1=1, axis2=2),
    )
    recall, f1 = hit / actual, 2 * hit / (actual + called)
    specificity = (n[:, None] - actual - called + hit) / (n[:, None] - actual)
    return {
        "accuracy": hit.sum(1) / n,
        "balanced_accuracy": recall[:, [0, 1] if confusion.shape[1] == 2 else several].mean(1),
        "f1": f1[:, several].mean(1),
        "sensitivity": recall[:, several].mean(1),
        "specificity": specificity[:, several].mean(1),
    }


def _from_scores(tables: Sequence[ScoreTable], classes: int) -> dict[str, Floats]:
    figures: dict[str, list[Floats]] = {
        "auc_pooled": [],
        "average_precision": [],
        "calibration_slope": [],
    }
    for table in tables:
        aucs, precisions = [], []
        for counts in table.blocks:
            pairs = pair_counts(counts)
            aucs.append(pairs[:, 0] / pairs[:, 1])
            precisions.append(average_precision(counts))
        figures["auc_pooled"].append(np.concatenate(aucs))
        figures["average_precision"].append(np.concatenate(precisions))
        figures["calibration_slope"].append(recalibrated(table, slope=True))
    if (
        classes == 2
    ):  # one class's intercept up is another's down: their mean over many classes says nothing
        figures["calibration_intercept"] = [recalibrated(tables[0], slope=False)]
    return {name: np.mean(values, 0) for name, values in figures.items()}


def recalibrated(table: ScoreTable, *, slope: bool) -> Floats:
    """(draws,): calibration slope, or the intercept with the slope held at 1; NaN where there is
    none."""
    first = next(iter(table.blocks))
    cells = [first[0, :, c] > 0 for c in (0, 1)]
    x = np.concatenate([table.logits[c] for c in cells])
    truth = np.repeat([False, True], [int(c.sum()) for c in cells])

    def weights(counts: Floats) -> Floats:
        return np.concatenate([counts[:, cell, c] for c, cell in enumerate(cells)], 1)

    def sums(beta: Floats, drawn: NDArray[np.bool_] | None = None) -> CalibrationSums:
        """Of the draws that are marked, or of all, one block after the other."""
        blocks, draw, fit = [], 0, 0
        for counts in table.blocks:
            block = weights(counts)
            if drawn is not None:
                block = block[drawn[draw : draw + len(counts)]]
            own = beta if beta.ndim == 1 else beta[fit : fit + len(block)]
            blocks.append(calibration_sums(x, truth, own, block))
            draw, fit = draw + len(counts), fit + len(block)
        gradient, hessian = zip(*blocks, strict=True)
        return CalibrationSums(np.concatenate(gradient), np.concatenate(hessian))

    # a replicate's fit is near the sample's, so it starts there
    sample = weights(first)[0]
    start = solve_calibration(lambda beta: calibration_sums(x, truth, beta, sample), slope=slope)
    start = np.where(np.isnan(start), (0.0, 1.0), start)
    beta = solve_calibration(sums, start, slope=slope, rounds=8)
    failed = np.isnan(beta[:, 0])
    if failed.any():
        beta[failed] = solve_calibration(lambda beta: sums(beta, failed), start, slope=slope)
    return np.asarray(beta[:, 1] if slope else beta[:, 0])
