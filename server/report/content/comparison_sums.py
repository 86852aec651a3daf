"""Comparison of models between hospitals, out of the sums that the learner `comparison` ended with;
no patient's prediction is at hand.

What hangs on a threshold is resampled from the sites' confusion counts by site and class, which is
what resampling patients within site and class comes to. Average precision and calibration are those
of the score histograms: each patient stands in the middle of a bin of 1000, and resampling is by
class; of a site alone they are not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats
from common.learners.comparison import FINAL, LEFT_OUT, WITHIN
from common.metrics.calibration import logit
from common.metrics.definitions import METRICS, Draws, ScoreTable, from_draws
from common.metrics.delong import Estimate, Z, pooled_auc
from common.metrics.estimability import judged
from common.metrics.resampling import percentiles, resampled_counts
from common.metrics.score_histogram import middles
from common.metrics.site_aucs import SiteSums
from common.types import Arrays
from server.report.content.model_metrics import ALL, Model, Paired

EVALUATIONS = {WITHIN: "within_site", LEFT_OUT: "leave_one_site_out", FINAL: FINAL}
INTERVAL = (
    "95 %: AUC and its differences by DeLong's method within sites; calibration, average "
    "precision and what hangs on a "
    "threshold by resampling the sites' counts within class; models fixed"
)
REPEATS = 1000
_BY_SITE = frozenset(metric.name for metric in METRICS if metric.source != "scores")


def models(arrays: Mapping[str, NDArray[Any]], sites: Sequence[str], seed: int) -> list[Model]:
    """Those that scored anybody, in the order of names. `sites`: those of the sums, in their order;
    one slot where they are masked."""
    by_model: dict[tuple[str, str, str], Arrays] = {}
    for name, value in arrays.items():
        if not name.startswith(("difference/", "subgroups/")):
            evaluation, arm, head, leaf = name.split("/")
            by_model.setdefault((evaluation, arm, head), {})[leaf] = value
    return [
        _model(*key, model_arrays, sites, seed)
        for key, model_arrays in sorted(by_model.items())
        if model_arrays["counts"].any()
    ]


def _model(
    evaluation: str, arm: str, name: str, arrays: Arrays, sites: Sequence[str], seed: int
) -> Model:
    return Model(
        EVALUATIONS[evaluation],
        arm,
        name,
        SiteSums.from_sites(
            arrays["counts"], arrays["concordant"][:, None], arrays["pairs"], arrays["spread"]
        ),
        tuple(sites) if len(arrays["counts"]) == len(sites) > 1 else (),
        lambda at: _figures(arrays, at, seed),
        arrays["confusion"].sum(0),
        arrays["histogram"],
    )


def _figures(arrays: Arrays, chosen: slice, seed: int) -> dict[str, Estimate]:
    confusion, counts = arrays["confusion"][chosen], arrays["counts"][chosen]
    classes = judged(counts.sum(0))
    scores: dict[int, ScoreTable] = {}
    if chosen == ALL:
        x = logit(middles(arrays["histogram"].shape[1]))
        for k in classes:
            resampled = resampled_counts(
                arrays["histogram"][k].T, np.random.default_rng([seed, k]), REPEATS
            )
            scores[k] = ScoreTable(x, [resampled.swapaxes(1, 2)])
    resampled = resampled_counts(
        confusion.reshape(-1, confusion.shape[2]), np.random.default_rng(seed), REPEATS
    )
    calls = resampled.reshape(-1, *confusion.shape).sum(1)
    figures = {
        name: percentiles(values)
        for name, values in from_draws(Draws(calls, scores)).items()
        if chosen == ALL or name in _BY_SITE
    }
    if chosen == ALL and classes and "pooled" in arrays:
        figures["auc_pooled"] = pooled_auc(arrays["pooled"], classes)
    return figures | (_losses(arrays["losses"][chosen], counts) if counts.any() else {})


def _losses(sums: Floats, counts: Floats) -> dict[str, Estimate]:
    """sums (sites, classes, 2, 2), counts (sites, classes) -> mean Brier score and log loss, their
    variance that within site and class."""
    n, several = counts.sum(), counts > 1
    estimates = {}
    for i, name in enumerate(("brier", "log_loss")):
        total, squares = sums[:, :, i, 0], sums[:, :, i, 1]
        variances = (
            np.maximum(squares - total**2 / np.maximum(counts, 1), 0)
            * counts
            / np.maximum(counts - 1, 1)
        )
        value, half = float(total.sum() / n), float(Z * variances[several].sum() ** 0.5 / n)
        estimates[name] = Estimate(value, max(value - half, 0.0), value + half)
    return estimates


def paired(arrays: Mapping[str, NDArray[Any]]) -> list[Paired]:
    """Models on the patients that both score, over all sites; those that nobody was scored by are
    left out."""
    by_pair: dict[tuple[str, str], Arrays] = {}
    for name, value in arrays.items():
        if name.startswith("difference/"):
            _, evaluation, pair, leaf = name.split("/")
            by_pair.setdefault((evaluation, pair), {})[leaf] = value
    pairs = []
    for (evaluation, pair), pair_arrays in by_pair.items():
        a, b = pair.split("|")
        if pair_arrays["counts"].any():
            sums = SiteSums.from_sites(
                *(pair_arrays[k][None] for k in ("counts", "concordant", "pairs", "spread"))
            )
            pairs.append(Paired(EVALUATIONS[evaluation], a, b, sums, int(pair_arrays["sites"])))
    return pairs
