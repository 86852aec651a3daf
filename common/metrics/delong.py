"""DeLong's variance of AUCs, and of differences between them, from sums that sites can add,
stratified by site.

A patient's *placement* is the share of the patients of the other class, at the same site, whom the
score orders rightly (a tie counts half). The AUC is the placements' mean, and its covariance over
models that of the placements (DeLong, DeLong & Clarke-Pearson 1988, eq. 5-7). Pairs are counted
within sites, so each site's covariance is its own, and those of sites add when they are in units of
pairs: var(sum of concordant) = sum of var(concordant). For more than two classes each class is held
against the rest, and placements are centred within the patient's true class, which for two classes
is DeLong's own variance.

The pooled AUC looks at pairs across sites. A first exchange adds the score histograms; in a second
one each site places its patients in the sum, and gives the placements' moments by class.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats
from common.metrics.score_histogram import edges
from common.types import Array

UNIT = 1000.0
"""Pairs are sent in thousands where they are squared, so that their size fits whatever they are
sent in."""
Z = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""


class Concordance(NamedTuple):
    """Of one site, or of the sum over sites, for some models on the same patients; classes: those
    held against the rest."""

    concordant: Floats
    """(models, classes)"""
    pairs: Floats
    """(classes,)"""
    spread: Floats
    """(models * classes, models * classes): covariance of `concordant`, in units of UNIT
    squared."""


def concordance(probs: Floats, labels: NDArray[np.int64]) -> Concordance:
    """probs (n, models, classes): of n patients of one site, labelled (n,). Two classes: class 1
    against class 0 alone.

    A class of a single patient has no variance to be seen: it is taken as a quarter, the largest
    that a placement can have.
    """
    models, held = probs.shape[1], against(probs.shape[2])
    placed, partners = (
        np.zeros((len(labels), models, len(held))),
        np.zeros((len(labels), 1, len(held))),
    )
    pairs = np.zeros(len(held))
    for j, k in enumerate(held):
        positive = labels == k
        count = int(positive.sum())
        pairs[j] = count * (len(labels) - count)
        partners[:, 0, j] = np.where(positive, len(labels) - count, count)
        for m in range(models):
            placed[:, m, j] = placements(probs[:, m, k], positive)
    ordered = placed * partners
    concordant = np.stack([ordered[labels == k, :, j].sum(0) for j, k in enumerate(held)], -1)
    flat = ordered.reshape(len(labels), models * len(held)) / UNIT
    spread = np.zeros((flat.shape[1], flat.shape[1]))
    for c in range(probs.shape[2]) if pairs.any() else ():
        rows = flat[labels == c]
        if len(rows) == 1:
            most = np.broadcast_to(partners, placed.shape)[labels == c].ravel() / UNIT
            spread += np.diag(most**2 / 4)
        elif len(rows):
            off = rows - rows.mean(0)
            spread += len(rows) / (len(rows) - 1) * (off.T @ off)
    return Concordance(concordant, pairs, spread)


def against(classes: int) -> list[int]:
    """The classes that are held against the rest."""
    return [1] if classes == 2 else list(range(classes))


def placements(scores: Floats, positive: NDArray[np.bool_]) -> Floats:
    """(n,): for each patient the share of the other class ordered rightly, ties half; 0 where the
    other class is empty."""
    shares = np.zeros(len(scores))
    for is_positive in (True, False):
        others = np.sort(scores[positive != is_positive])
        if len(others):
            here = scores[positive == is_positive]
            below = (
                np.searchsorted(others, here, "left") + np.searchsorted(others, here, "right")
            ) / (2 * len(others))
            shares[positive == is_positive] = below if is_positive else 1 - below
    return shares


class Estimate(NamedTuple):
    """None where nothing can be said."""

    value: float | None
    low: float | None = None
    high: float | None = None


def aucs(sums: Concordance, judged: list[int], classes: int) -> tuple[Floats, Floats]:
    """(models,) AUCs, the mean over the classes `judged`, and (models, models) their covariance;
    NaN where there are no pairs."""
    models, held = len(sums.concordant), against(classes)
    columns = [held.index(k) for k in judged if k in held]
    if not columns or not (sums.pairs[columns] > 0).all():
        return np.full(models, np.nan), np.full((models, models), np.nan)
    share = np.zeros(len(held))
    share[columns] = 1 / (sums.pairs[columns] * len(columns))
    values = sums.concordant @ share
    scale = np.kron(np.eye(models), share * UNIT)
    return values, scale @ sums.spread @ scale.T


def limits(value: float, variance: float, smaller: float = 0) -> Estimate:
    """95 % interval of an AUC, on the logit scale (Qin & Hotilovac 2008): it stays within 0 and 1.

    At 0 and 1 the method has no interval: there it is that of so many successes out of `smaller`,
    the patients of the smaller class (Clopper & Pearson 1934).
    """
    if not np.isfinite(value):
        return Estimate(None)
    if value in (0.0, 1.0):
        if smaller < 1:
            return Estimate(value)
        reached = float(0.025 ** (1 / smaller))
        return Estimate(value, reached if value else 0.0, 1.0 if value else 1 - reached)
    half = Z * max(variance, 0.0) ** 0.5 / (value * (1 - value))
    middle = np.log(value / (1 - value))
    return Estimate(
        value, float(1 / (1 + np.exp(half - middle))), float(1 / (1 + np.exp(-half - middle)))
    )


def difference(values: Floats, covariance: Floats) -> Estimate:
    """Of the first of two models minus the second, with a 95 % interval. None without pairs."""
    value = float(values[0] - values[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not np.isfinite(value):
        return Estimate(None)
    half = Z * max(variance, 0.0) ** 0.5
    return Estimate(value, value - half, value + half)


# ---- pairs across sites --------------------------------------------------------------------------


def pooled_moments(probs: Floats, labels: NDArray[np.int64], histogram: Array) -> Floats:
    """One site's summand of the second exchange: (classes, 1 + held + held^2), by true class the
    count, the sums and the products of the placements of its patients. probs (n, classes);
    histogram (classes, bins, 2): of everybody's scores."""
    held = against(probs.shape[1])
    cuts = edges(histogram.shape[1])
    placed = np.zeros((len(labels), len(held)))
    for j, k in enumerate(held):
        bins = np.clip(np.searchsorted(cuts, probs[:, k], "right") - 1, 0, histogram.shape[1] - 1)
        for positive in (True, False):
            others = np.asarray(histogram[k, :, 0 if positive else 1], np.float64)
            below = (np.cumsum(others) - others / 2) / max(others.sum(), 1.0)
            members = (labels == k) == positive
            placed[members, j] = (below if positive else 1 - below)[bins[members]]
    moments = np.zeros((probs.shape[1], 1 + len(held) + len(held) ** 2))
    for c in range(probs.shape[1]):
        rows = placed[labels == c]
        moments[c] = np.concatenate([[len(rows)], rows.sum(0), (rows.T @ rows).ravel()])
    return moments


def pooled_auc(moments: Floats, judged: list[int]) -> Estimate:
    """The AUC of all scores together, the mean over the classes `judged`, from the sums of
    `pooled_moments`."""
    classes, held = len(moments), against(len(moments))
    columns = [held.index(k) for k in judged if k in held]
    counts = moments[:, 0]
    n = counts.sum()
    inside = counts[held]
    if not columns or not (inside[columns] > 0).all() or not (n - inside[columns] > 0).all():
        return Estimate(None)
    value, variance = 0.0, 0.0
    for c in range(classes):
        if not counts[c]:
            continue
        weight = np.zeros(len(held))
        weight[columns] = [1 / counts[c] if held[j] == c else 1 / (n - inside[j]) for j in columns]
        weight /= len(columns)
        mean = moments[c, 1 : 1 + len(held)]
        products = moments[c, 1 + len(held) :].reshape(len(held), len(held))
        value += sum(weight[j] * mean[j] for j in columns if held[j] == c)
        off = products - np.outer(mean, mean) / counts[c]
        class_variance = (
            weight @ off @ weight * counts[c] / (counts[c] - 1)
            if counts[c] > 1
            else float((weight**2).sum()) / 4
        )
        variance += float(class_variance)
    return limits(float(value), variance, min(min(inside[j], n - inside[j]) for j in columns))
