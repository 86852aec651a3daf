"""How the models did, from the sums that sites compared them by: the rows of `report.json` where no patient's prediction is at hand.

AUCs within sites and their paired differences have DeLong intervals (`common.metrics.delong`). What hangs on a threshold is resampled from
the sites' confusion counts by site and class, which is what resampling patients within site and class comes to. Average precision,
calibration and curves are those of the score histograms: each patient stands in the middle of a bin of 1000, and resampling is by class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import ESTIMABLE
from common.data.schema import Floats
from common.learners.comparison import FINAL, LEFT_OUT, WITHIN
from common.metrics import score_histogram
from common.metrics.calibration import calibration_sums, logit, solve_calibration
from common.metrics.delong import (
    Concordance,
    Estimate,
    Z,
    against,
    aucs,
    difference,
    limits,
    pooled_auc,
)
from common.metrics.meta_analysis import across_sites
from common.types import Arrays

EVALUATIONS = {WITHIN: "within_site", LEFT_OUT: "leave_one_site_out"}
INTERVAL = (
    "95 %: AUC and its differences by DeLong's method within sites; calibration, average precision and what hangs on a threshold by "
    "resampling the sites' counts within class; models fixed"
)
REPEATS = 1000
_LOST = 0.01
"""An interval is given only if at most this share of the resamples is undefined."""
Row = dict[str, Any]


class Model(NamedTuple):
    """One model's arrays, out of those of the comparison."""

    evaluation: str
    arm: str
    name: str
    arrays: Arrays

    @property
    def head(self) -> Row:
        return {"model": self.name, "arm": self.arm, "evaluation": EVALUATIONS.get(self.evaluation, self.evaluation)}

    @property
    def classes(self) -> int:
        return int(self.arrays["counts"].shape[1])

    def counts(self, at: slice) -> Floats:
        """(classes,): patients that were scored."""
        return np.asarray(self.arrays["counts"][at].sum(0))

    def concordance(self, at: slice) -> Concordance:
        a = self.arrays
        return Concordance(a["concordant"][at].sum(0)[None, :], a["pairs"][at].sum(0), a["spread"][at].sum(0))


def models(arrays: Mapping[str, NDArray[Any]]) -> list[Model]:
    """Those that scored anybody, in the order of names."""
    found: dict[tuple[str, str, str], Arrays] = {}
    for name, value in arrays.items():
        if not name.startswith(("difference/", "subgroups/")):
            evaluation, arm, head, leaf = name.split("/")
            found.setdefault((evaluation, arm, head), {})[leaf] = value
    return [Model(*key, mine) for key, mine in sorted(found.items()) if mine["counts"].any()]


def results(arrays: Arrays, sites: Sequence[str], seed: int) -> list[Row]:
    """One row for each model, arm, evaluation, site (or "all") and metric. `sites`: those of the sums, in their order; one where masked."""
    return [row for m in models(arrays) if m.evaluation in EVALUATIONS for row in _rows(m, sites, seed)]


def final(arrays: Arrays, sites: Sequence[str], seed: int) -> list[Row]:
    """The same of the final models, on patients of whom they have seen most."""
    return [row for m in models(arrays) if m.evaluation == FINAL for row in _rows(m, sites, seed)]


def _rows(m: Model, sites: Sequence[str], seed: int) -> Iterator[Row]:
    slots = len(m.arrays["counts"])
    where = {"all": slice(None)} | ({s: slice(i, i + 1) for i, s in enumerate(sites)} if slots == len(sites) > 1 else {})
    for site, at in where.items():
        counts = m.counts(at)
        n, events = int(counts.sum()), int(counts[1:].sum())
        found = _metrics(m, at, seed) if n else dict.fromkeys(_BY_SITE, Estimate(None))
        if site == "all":
            found |= _of_histogram(m, seed)
        for metric in (k for k in _ORDER if k in found):
            one = found[metric]
            can = one.value is not None and one.low is not None and int((counts >= ESTIMABLE).sum()) >= 2
            shown = one if can or metric == "no_information_rate" else Estimate(None)
            yield {
                **m.head, "site": site, "metric": metric, "value": shown.value, "low": shown.low, "high": shown.high, "n": n,
                "events": events, "estimable": can,
            }  # fmt: skip


_ORDER = (
    "auc", "auc_pooled", "macro_auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity",
    "brier", "log_loss", "calibration_slope", "calibration_intercept", "no_information_rate",
)  # fmt: skip


_BY_SITE = tuple(m for m in _ORDER if m not in ("auc_pooled", "average_precision", "calibration_slope", "calibration_intercept"))
"""What is told of a site: the others look at scores across sites."""


def judged(counts: Floats) -> list[int]:
    """The classes with enough cases, and enough others: guard E01."""
    return [k for k in against(len(counts)) if min(counts[k], counts.sum() - counts[k]) >= ESTIMABLE]


def _auc(m: Model, at: slice) -> tuple[Estimate, float]:
    """With its variance; not estimable unless enough patients have a partner at their own site."""
    counts = m.arrays["counts"][at]
    classes = judged(counts.sum(0))
    for k in classes:
        partnered = counts[m.arrays["pairs"][at][:, against(m.classes).index(k)] > 0]
        if min(partnered[:, k].sum(), partnered.sum() - partnered[:, k].sum()) < ESTIMABLE:
            return Estimate(None), np.nan
    values, covariance = aucs(m.concordance(at), classes, m.classes)
    smaller = min((min(counts.sum(0)[k], counts.sum() - counts.sum(0)[k]) for k in classes), default=0)
    return limits(float(values[0]), float(covariance[0, 0]), smaller), float(covariance[0, 0])


def _metrics(m: Model, at: slice, seed: int) -> dict[str, Estimate]:
    auc, _ = _auc(m, at)
    counts = m.counts(at)
    n = counts.sum()
    return {
        "auc": auc,
        "macro_auc": auc,
        **_called(m.arrays["confusion"][at], judged(counts), seed),
        **_losses(m.arrays["losses"][at], m.arrays["counts"][at]),
        "no_information_rate": Estimate(*[float(counts.max() / n)] * 3),
    }


def _called(confusion: Floats, classes: Sequence[int], seed: int) -> dict[str, Estimate]:
    """(sites, classes, classes) counts at the thresholds -> what follows from them, resampled by site and true class."""
    rng, k = np.random.default_rng(seed), confusion.shape[1]
    drawn = np.zeros((1 + REPEATS, k, k))
    drawn[0] = confusion.sum(0)
    for site in confusion:
        for true, row in enumerate(site):
            if row.any():
                drawn[1:, true] += rng.multinomial(int(row.sum()), row / row.sum(), REPEATS)
    n = drawn.sum((1, 2))
    actual, called, hit = drawn.sum(2), drawn.sum(1), np.diagonal(drawn, axis1=1, axis2=2)
    # a class that nobody has, or that nobody is called: 0 / 0, undefined
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, f1 = hit / actual, 2 * hit / (actual + called)
        specificity = (n[:, None] - actual - called + hit) / (n[:, None] - actual)
        found = {
            "accuracy": hit.sum(1) / n,
            "balanced_accuracy": _mean(recall, [0, 1] if k == 2 else classes),
            "f1": _mean(f1, classes),
            "sensitivity": _mean(recall, classes),
            "specificity": _mean(specificity, classes),
        }
    return {name: _resampled(values) for name, values in found.items()}


def _mean(values: Floats, classes: Sequence[int]) -> Floats:
    return np.asarray(values[:, list(classes)].mean(1)) if classes else np.full(len(values), np.nan)


def _resampled(values: Floats) -> Estimate:
    """The first is the sample's own."""
    defined = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(defined) < (1 - _LOST) * (len(values) - 1):
        return Estimate(None)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))


def _losses(sums: Floats, counts: Floats) -> dict[str, Estimate]:
    """sums (sites, classes, 2, 2), counts (sites, classes) -> mean Brier score and log loss, their variance that within site and class."""
    n = counts.sum()
    out = {}
    for i, name in enumerate(("brier", "log_loss")):
        total, squares = sums[:, :, i, 0], sums[:, :, i, 1]
        several = counts > 1
        each = np.maximum(squares - total**2 / np.maximum(counts, 1), 0) * counts / np.maximum(counts - 1, 1)
        value, half = float(total.sum() / n), float(Z * each[several].sum() ** 0.5 / n)
        out[name] = Estimate(value, max(value - half, 0.0), value + half)
    return out


# ---- from histograms --------------------------------------------------------------------------------------------------------


def _of_histogram(m: Model, seed: int) -> dict[str, Estimate]:
    histogram, classes = m.arrays["histogram"], judged(m.counts(slice(None)))
    if not classes:
        return {}
    drawn = [_draws(histogram[k], np.random.default_rng([seed, k])) for k in classes]
    out = {"average_precision": _resampled(np.mean([_average_precision(d) for d in drawn], 0))}
    if "pooled" in m.arrays:
        out["auc_pooled"] = pooled_auc(m.arrays["pooled"], classes)
    else:
        pairs = [score_histogram.pair_counts(d) for d in drawn]
        out["auc_pooled"] = _resampled(np.mean([p[:, 0] / p[:, 1] for p in pairs], 0))
    x = logit(middles(histogram.shape[1]))
    out["calibration_slope"] = _resampled(np.mean([_recalibrated(x, d, True) for d in drawn], 0))
    if m.classes == 2:
        out["calibration_intercept"] = _resampled(_recalibrated(x, drawn[0], False))
    return out


def middles(bins: int) -> Floats:
    """(bins,): the probability in the middle of each bin, by the angle that the bins are uniform in."""
    return np.asarray(np.sin(np.pi / 2 * (np.arange(bins) + 0.5) / bins) ** 2)


def _draws(histogram: Floats, rng: np.random.Generator) -> Floats:
    """(1 + repeats, bins, 2): the histogram itself, then with patients resampled within class."""
    out = np.empty((1 + REPEATS, *histogram.shape))
    out[0] = histogram
    for c in (0, 1):
        n = histogram[:, c].sum()
        out[1:, :, c] = rng.multinomial(int(n), histogram[:, c] / n, REPEATS)
    return out


def _average_precision(drawn: Floats) -> Floats:
    """(draws,): sum over falling thresholds of the rise of recall times precision."""
    above = drawn[:, ::-1].cumsum(1)
    precision = above[..., 1] / np.maximum(above.sum(2), 1)
    return np.asarray((drawn[:, ::-1, 1] * precision).sum(1) / above[:, -1, 1])


def _recalibrated(x: Floats, drawn: Floats, slope: bool) -> Floats:
    """(draws,): calibration slope, or the intercept with the slope held at 1; NaN where there is none."""
    held = drawn[0].any(1)
    at, truth = np.concatenate([x[held], x[held]]), np.repeat([False, True], held.sum())
    weights = np.concatenate([drawn[:, held, 0], drawn[:, held, 1]], 1)
    start = np.tile((0.0, 0.0 if slope else 1.0), (len(drawn), 1))
    beta = solve_calibration(lambda b: calibration_sums(at, truth, b, weights), start, slope=slope)
    return np.asarray(beta[:, 1] if slope else beta[:, 0])


def curves(arrays: Arrays) -> list[Row]:
    """ROC, precision-recall, decision and calibration curves for two classes; and the confusion counts."""
    rows = []
    for m in models(arrays):
        counts = m.counts(slice(None))
        if m.evaluation not in EVALUATIONS or int((counts >= ESTIMABLE).sum()) < 2:
            continue
        row: Row = {**m.head, "confusion": m.arrays["confusion"].sum(0).astype(int).tolist()}
        if m.classes == 2:
            histogram = m.arrays["histogram"][1]
            decision = score_histogram.decision_curve(histogram)
            row |= {"roc": points(score_histogram.roc(histogram)), "precision_recall": points(score_histogram.precision_recall(histogram))}
            if decision is not None:
                row["decision"] = {k: rounded(v) for k, v in decision._asdict().items()}
            row["calibration"] = _calibration(histogram)
        rows.append(row)
    return rows


def points(curve: score_histogram.Curve | None) -> list[list[float]] | None:
    """The corners of a step curve, for drawing."""
    if curve is None:
        return None
    corners = np.flatnonzero(np.r_[True, (np.diff(curve.x) != 0) | (np.diff(curve.y) != 0)])
    return [rounded(curve.x[corners]), rounded(curve.y[corners])]


def _calibration(histogram: Floats, groups: int = 8) -> list[dict[str, float]]:
    """Groups of about equal size by predicted risk; a bin is never split."""
    n, middle = histogram.sum(1), middles(len(histogram))
    groups = min(groups, max(1, int(n.sum()) // 10))
    of = np.minimum((np.cumsum(n) - n / 2) * groups / n.sum(), groups - 1).astype(int)
    masks = [of == g for g in range(groups) if n[of == g].any()]
    return [
        {"predicted": float(n[g] @ middle[g] / n[g].sum()), "observed": float(histogram[g, 1].sum() / n[g].sum()), "n": int(n[g].sum())}
        for g in masks
    ]


def rounded(values: Floats) -> list[float]:
    return [round(float(v), 6) for v in values]


# ---- side by side -----------------------------------------------------------------------------------------------------------


def differences(arrays: Arrays) -> list[Row]:
    """Paired differences in the AUC within sites, on the same patients."""
    found: dict[tuple[str, str], Arrays] = {}
    for name, value in arrays.items():
        if name.startswith("difference/"):
            _, evaluation, pair, leaf = name.split("/")
            found.setdefault((evaluation, pair), {})[leaf] = value
    rows = []
    for (evaluation, pair), mine in found.items():
        a, b = pair.split("|")
        counts = mine["counts"]
        if not counts.any():
            continue
        sums = Concordance(mine["concordant"], mine["pairs"], mine["spread"])
        one = difference(*aucs(sums, judged(counts), len(counts)))
        rows.append(
            {
                "a": a, "b": b, "evaluation": EVALUATIONS[evaluation], "metric": "auc", "difference": one.value, "low": one.low,
                "high": one.high, "n": int(counts.sum()), "events": int(counts[1:].sum()), "sites": int(mine["sites"]),
                "estimable": one.value is not None,
            }
        )  # fmt: skip
    return rows


def between_sites(arrays: Arrays, sites: Sequence[str], name: str) -> list[Row]:
    """Random-effects mean and prediction interval of the sites' AUCs; none where masks hide the sites."""
    rows = []
    for m in models(arrays):
        if m.name != name or m.evaluation not in EVALUATIONS or len(m.arrays["counts"]) != len(sites) or len(sites) < 2:
            continue
        found = {s: _auc(m, slice(i, i + 1)) for i, s in enumerate(sites) if int((m.arrays["counts"][i] >= ESTIMABLE).sum()) >= 2}
        known = {s: (one.value, variance**0.5) for s, (one, variance) in found.items() if one.value is not None}
        summary = across_sites([v for v, _ in known.values()], [e for _, e in known.values()])
        worst = min(known, key=lambda s: known[s][0]) if known else None
        rows.append(
            {
                **m.head, "estimable_sites": len(known), "worst_site": worst, "worst_auc": known[worst][0] if worst else None,
                "random_effects": summary._asdict() if summary else None,
            }
        )  # fmt: skip
    return rows


def pairs(arrays: Arrays, sites: Sequence[str], name: str) -> list[Row]:
    """How much each site counts in the headline: its share of the patient pairs."""
    mine = next((m for m in models(arrays) if (m.evaluation, m.arm, m.name) == (WITHIN, "federated", name)), None)
    if mine is None or len(mine.arrays["pairs"]) != len(sites):
        return []
    each = mine.arrays["pairs"].sum(1)
    return [{"site": s, "share": round(float(p / each.sum()), 4) if each.any() else 0.0} for s, p in zip(sites, each, strict=True)]
