"""Metrics of the models: the rows of `report.json` out of each model's sums over patients, whoever
has added them.

Between hospitals they are those that the sites compared the models by
(`server.report.content.comparison_sums`); a simulation makes the same of its patients, for pooled
and foreign models too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.schema import Floats
from common.metrics import score_histogram
from common.metrics.definitions import METRICS
from common.metrics.delong import Estimate
from common.metrics.estimability import estimable
from common.metrics.meta_analysis import across_sites
from common.metrics.site_aucs import SiteSums

EVALUATIONS = ("within_site", "leave_one_site_out")
FINAL = "final"
"""The models that leave, on patients of whom they have seen most."""
ALL = slice(None)
STEP = 10
"""The fewest patients between two points of a drawn curve, and in a group of its calibration."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """One model of one arm (`local`, `federated`, `pooled`) in one evaluation."""

    evaluation: str
    arm: str
    name: str
    sums: SiteSums
    sites: tuple[str, ...]
    """In the order of the sums; empty where a figure by site is not known."""
    figures: Callable[[slice], Mapping[str, Estimate]]
    """Metrics that do not follow from `sums`, of the sites that the slice marks."""
    calls: Floats | None
    """(classes, classes) over all sites: true class, called class. None where it stands for several
    models."""
    histogram: Floats | None
    """(classes, bins, 2) over all sites."""

    @property
    def head(self) -> Row:
        return {"model": self.name, "arm": self.arm, "evaluation": self.evaluation}

    @property
    def counts(self) -> Floats:
        """(classes,): patients that were scored."""
        return self.sums.total


@dataclass(frozen=True)
class Paired:
    """Two models on the patients that both score: the sums of the first, then of the second
    (`SiteSums.difference`)."""

    evaluation: str
    a: str
    b: str
    sums: SiteSums
    sites: int


def results(models: Sequence[Model], evaluations: Sequence[str] = EVALUATIONS) -> list[Row]:
    """One row for each model, arm, evaluation, site (or "all") and metric. Not estimable: value,
    low and high are None."""
    return [row for m in models if m.evaluation in evaluations for row in _rows(m)]


def _rows(m: Model) -> Iterator[Row]:
    for site, chosen in {"all": ALL, **{s: slice(i, i + 1) for i, s in enumerate(m.sites)}}.items():
        sums = m.sums.at(chosen)
        auc, _ = sums.auc()
        figures = {
            "auc": auc,
            "macro_auc": auc,
            "no_information_rate": _largest_class(sums),
            **m.figures(chosen),
        }
        n, events, enough = int(sums.total.sum()), int(sums.total[1:].sum()), estimable(sums.total)
        for metric in METRICS:
            if metric.name not in figures:
                continue
            estimate = figures[metric.name]
            can = enough and estimate.value is not None and estimate.low is not None
            value, low, high = estimate if can or metric.source == "counts" else Estimate(None)
            yield {
                **m.head, "site": site, "metric": metric.name, "value": value, "low": low,
                "high": high, "n": n, "events": events,
                "estimable": can,
            }  # fmt: skip


def _largest_class(sums: SiteSums) -> Estimate:
    """The no-information rate; of several models, the mean of theirs."""
    counts = sums.counts.sum(0)
    counts = counts[counts.any(1)]
    if not len(counts):
        return Estimate(None)
    rate = float((counts.max(1) / counts.sum(1)).mean())
    return Estimate(rate, rate, rate)


def differences(pairs: Sequence[Paired]) -> list[Row]:
    """Paired differences in the AUC within sites, on the same patients."""
    rows = []
    for pair in pairs:
        difference, counts = pair.sums.difference(), pair.sums.total
        rows.append(
            {
                "a": pair.a, "b": pair.b, "evaluation": pair.evaluation, "metric": "auc",
                "difference": difference.value, "low": difference.low,
                "high": difference.high, "n": int(counts.sum()), "events": int(counts[1:].sum()),
                "sites": pair.sites,
                "estimable": difference.value is not None,
            }
        )  # fmt: skip
    return rows


def between_sites(models: Sequence[Model], pooled_site: str = "") -> list[Row]:
    """Random-effects mean and prediction interval of the sites' AUCs, and the worst estimable site;
    none where masks hide the sites.

    `pooled_site` stands for several small institutions: it is no site that could be the worst."""
    rows = []
    for m in (m for name in ("clinical", "fusion") for m in models if m.name == name):
        if m.evaluation not in EVALUATIONS or not m.sites or m.sums.counts.shape[1] > 1:
            continue
        aucs: dict[str, float] = {}
        errors: list[float] = []
        for i, site in enumerate(m.sites):
            site_sums = m.sums.at(slice(i, i + 1))
            estimate, variance = site_sums.auc()
            if site != pooled_site and estimable(site_sums.total) and estimate.value is not None:
                aucs[site] = estimate.value
                errors.append(variance**0.5)
        summary = across_sites(list(aucs.values()), errors)
        worst = min(aucs, key=lambda s: aucs[s]) if aucs else None
        rows.append(
            {
                **m.head, "estimable_sites": len(aucs), "worst_site": worst,
                "worst_auc": aucs[worst] if worst else None,
                "random_effects": summary._asdict() if summary else None,
            }
        )  # fmt: skip
    return rows


def pairs(sites: Sequence[str], counts: Floats) -> list[Row]:
    """How much each site counts in the headline: its share of all pairs of patients of one site and
    different classes. counts (sites, classes)."""
    site_pairs = (counts.sum(1) ** 2 - (counts**2).sum(1)) / 2
    return [
        {"site": s, "share": round(float(p / site_pairs.sum()), 4) if site_pairs.any() else 0.0}
        for s, p in zip(sites, site_pairs, strict=True)
    ]


# ---- curves --------------------------------------------------------------------------------------


def curves(models: Sequence[Model]) -> list[Row]:
    """ROC, precision-recall, decision and calibration curves for two classes, all from the same
    groups of at least `STEP` patients; and the confusion counts."""
    rows = []
    for m in models:
        if (
            m.evaluation not in EVALUATIONS
            or m.calls is None
            or m.histogram is None
            or not estimable(m.counts)
        ):
            continue
        row: Row = {**m.head, "confusion": m.calls.astype(int).tolist()}
        if len(m.calls) == 2:
            histogram = m.histogram[1]
            decision = score_histogram.decision_curve(histogram, least=STEP)
            row |= {
                "roc": _points(score_histogram.roc(histogram, STEP)),
                "precision_recall": _points(score_histogram.precision_recall(histogram, STEP)),
            }
            if decision is not None:
                row["decision"] = {k: _rounded(v) for k, v in decision._asdict().items()}
            row["calibration"] = _calibration(histogram)
        rows.append(row)
    return rows


def _points(curve: score_histogram.Curve | None) -> list[list[float]] | None:
    """The corners of a step curve, for drawing."""
    if curve is None:
        return None
    corners = np.flatnonzero(np.r_[True, (np.diff(curve.x) != 0) | (np.diff(curve.y) != 0)])
    return [_rounded(curve.x[corners]), _rounded(curve.y[corners])]


def _calibration(histogram: Floats, groups: int = 8) -> list[dict[str, float]]:
    """Groups of about equal size by predicted risk; what the curves keep together is never
    split."""
    n, middle = histogram.sum(1), score_histogram.middles(len(histogram))
    cell = score_histogram.cells(histogram, STEP)
    held = np.bincount(cell, n)
    groups = min(groups, max(1, int(n.sum()) // STEP))
    of_cell = np.minimum((np.cumsum(held) - held / 2) * groups / n.sum(), groups - 1).astype(int)
    group_of = of_cell[cell]
    masks = [group_of == g for g in range(groups) if n[group_of == g].any()]
    return [
        {
            "predicted": float(n[g] @ middle[g] / n[g].sum()),
            "observed": float(histogram[g, 1].sum() / n[g].sum()),
            "n": int(n[g].sum()),
        }
        for g in masks
    ]


def _rounded(values: Floats) -> list[float]:
    return [round(float(v), 6) for v in values]
