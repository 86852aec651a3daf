"""From predictions to the rows of `report.json`: every metric with its interval, each comparison on the same patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN
from common.metrics import score_histogram
from common.metrics.meta_analysis import across_sites
from server.report.content.model_metrics import points, rounded
from simulation.evaluation.bootstrap import (
    METRICS,
    Interval,
    Predictions,
    bootstrap_weights,
    decision_curve,
    estimable,
    evaluate,
    interval,
    paired_difference,
    standard_error,
    unknown_label_bounds,
)
from simulation.evaluation.predictions import ARMS, Comparison, Scores

EVALUATIONS = ("within_site", "leave_one_site_out")
Row = dict[str, Any]


def results(
    comparison: Comparison, models: Sequence[str], *, repeats: int, seed: int, tell: Callable[[int, int], None] = lambda a, b: None
) -> list[Row]:
    """One row for each model, arm, evaluation, site (or "all") and metric. Not estimable: value, low and high are None."""
    known = comparison.labels != UNKNOWN
    weights = _weights(comparison, known, repeats, seed)
    sites = list(dict.fromkeys(comparison.sites.tolist()))
    rows: list[Row] = []
    keys = [(m, a, e) for e in ran(comparison) for m in models if _scored(comparison, m, e) for a in ARMS if (m, a, e) in comparison.scores]
    for i, (model, arm, evaluation) in enumerate(keys):
        tell(i, len(keys))
        variants = comparison.scores[model, arm, evaluation]
        for site in ("all", *sites):
            here = known if site == "all" else known & (comparison.sites == site)
            rows += _rows(comparison, variants, here, known, weights, {"model": model, "arm": arm, "evaluation": evaluation, "site": site})
    tell(len(keys), len(keys))
    return rows


def ran(comparison: Comparison) -> list[str]:
    """The evaluations for which federated models have scored somebody; the others are "not run", and have no rows."""
    return [e for e in EVALUATIONS if any(_scored(comparison, m, e) for m, _, _ in comparison.scores)]


def _scored(comparison: Comparison, model: str, evaluation: str) -> bool:
    """Has a federated model of that name scored anybody?"""
    return any(s.seen.any() for s in comparison.scores.get((model, "federated", evaluation), []))


def _weights(comparison: Comparison, known: NDArray[np.bool_], repeats: int, seed: int) -> NDArray[np.float32]:
    """The same resamples for everything: (repeats, labelled patients)."""
    return bootstrap_weights(comparison.labels[known], comparison.sites[known], repeats, seed)


def _rows(
    comparison: Comparison,
    variants: Sequence[Scores],
    here: NDArray[np.bool_],
    known: NDArray[np.bool_],
    weights: NDArray[np.float32],
    head: Row,
) -> list[Row]:
    values: dict[str, list[float | None]] = {m: [] for m in METRICS}
    replicates: dict[str, list[NDArray[np.float64]]] = {m: [] for m in METRICS}
    counted = np.zeros(len(known), np.bool_)
    for scores in variants:
        mask = here & scores.seen
        if not mask.any():
            continue
        counted |= mask
        for metric, (value, reps) in evaluate(_predictions(comparison, scores, mask), weights[:, mask[known]]).items():
            values[metric].append(value)
            replicates[metric].append(reps)
    labels = comparison.labels[counted]
    n, events = len(labels), int((labels > 0).sum())
    rows = []
    for metric in METRICS:
        one = Interval(None, None, None)
        if values[metric] and all(v is not None for v in values[metric]):
            # several models (local ones on foreign patients): their mean, and the mean of their replicates
            mean = float(np.mean([v for v in values[metric] if v is not None]))
            one = interval(mean, np.mean(replicates[metric], axis=0)) if metric != "no_information_rate" else Interval(mean, mean, mean)
        can = bool(n) and estimable(labels) and one.value is not None and one.low is not None
        if not can and metric != "no_information_rate":
            one = Interval(None, None, None)
        rows.append(
            {**head, "metric": metric, "value": one.value, "low": one.low, "high": one.high, "n": n, "events": events, "estimable": can}
        )
    return rows


def _predictions(comparison: Comparison, scores: Scores, mask: NDArray[np.bool_]) -> Predictions:
    return Predictions(scores.probs[mask], comparison.labels[mask], comparison.sites[mask], scores.thresholds[mask])


def differences(comparison: Comparison, models: Sequence[str], *, repeats: int, seed: int) -> list[Row]:
    """Paired differences in the headline AUC on the same patients; against local, at the sites whose local model is trainable."""
    known = comparison.labels != UNKNOWN
    weights = _weights(comparison, known, repeats, seed)
    pairs = [(m, x, m, y) for m in models for x, y in (("federated", "local"), ("federated", "pooled"), ("pooled", "local"))]
    tables = [m for m in models if m not in ("logistic", "clinical", "image", "fusion")]
    pairs += [("logistic", "federated", m, "federated") for m in tables if "logistic" in models]
    pairs += [("fusion", arm, m, arm) for arm in ARMS for m in ("clinical", "image") if {"fusion", m} <= set(models)]
    rows = []
    for evaluation in ran(comparison):
        for model_a, arm_a, model_b, arm_b in pairs:
            a, b = comparison.scores.get((model_a, arm_a, evaluation)), comparison.scores.get((model_b, arm_b, evaluation))
            if not a or not b or not _scored(comparison, model_a, evaluation) or not _scored(comparison, model_b, evaluation):
                continue
            one, mask = _difference(comparison, a, b, known, weights)
            labels = comparison.labels[mask]
            rows.append(
                {
                    "a": f"{model_a} {arm_a}",
                    "b": f"{model_b} {arm_b}",
                    "evaluation": evaluation,
                    "metric": "auc",
                    "difference": one.value,
                    "low": one.low,
                    "high": one.high,
                    "n": int(mask.sum()),
                    "events": int((labels > 0).sum()),
                    "sites": len(set(comparison.sites[mask].tolist())),
                    "estimable": one.value is not None,
                }
            )
    return rows


def _difference(
    comparison: Comparison, a: Sequence[Scores], b: Sequence[Scores], known: NDArray[np.bool_], weights: NDArray[np.float32]
) -> tuple[Interval, NDArray[np.bool_]]:
    """Mean over the variants of each side (several only for local models on foreign patients), on patients that all of them score."""
    if len(a) == len(b) == 1:
        mask = known & a[0].seen & b[0].seen
        if not mask.any():
            return Interval(None, None, None), mask
        return paired_difference(_predictions(comparison, a[0], mask), _predictions(comparison, b[0], mask), weights[:, mask[known]]), mask
    deltas, reps, used = [], [], np.zeros(len(known), np.bool_)
    for x in a:
        for y in b:
            mask = known & x.seen & y.seen
            if not mask.any():
                continue
            (va, ra), (vb, rb) = (evaluate(_predictions(comparison, s, mask), weights[:, mask[known]], ("auc",))["auc"] for s in (x, y))
            if va is None or vb is None:
                continue
            used |= mask
            deltas.append(va - vb)
            reps.append(ra - rb)
    return (interval(float(np.mean(deltas)), np.mean(reps, axis=0)) if deltas else Interval(None, None, None)), used


def apart(comparison: Comparison, model: str, group: NDArray[np.bool_], *, repeats: int, seed: int) -> Row | None:
    """The federated model's within-site AUC on some of the patients alone; None where it scores none of them."""
    known = comparison.labels != UNKNOWN
    variants = comparison.scores.get((model, "federated", "within_site"), [])
    mask = known & group & variants[0].seen if variants else np.zeros(len(known), np.bool_)
    if not mask.any():
        return None
    p = _predictions(comparison, variants[0], mask)
    value, reps = evaluate(p, _weights(comparison, known, repeats, seed)[:, mask[known]], ("auc",))["auc"]
    one = interval(value, reps) if estimable(p.labels) else Interval(None, None, None)
    counts = {"n": int(mask.sum()), "events": int((p.labels > 0).sum())}
    return {"model": model, **counts, "auc": one.value, "low": one.low, "high": one.high, "estimable": one.low is not None}


def between_sites(comparison: Comparison, model: str, *, pooled_site: str, repeats: int, seed: int) -> list[Row]:
    """Random-effects mean and prediction interval of the sites' AUCs, and the worst estimable site, for each arm and evaluation.

    `pooled_site` stands for several small institutions: it is no site that could be the worst."""
    known = comparison.labels != UNKNOWN
    weights = _weights(comparison, known, repeats, seed)
    rows = []
    for evaluation in ran(comparison):
        for arm in ARMS:
            variants = comparison.scores.get((model, arm, evaluation), [])
            if len(variants) != 1:
                continue
            aucs: dict[str, float] = {}
            errors: list[float | None] = []
            for site in dict.fromkeys(comparison.sites.tolist()):
                mask = known & variants[0].seen & (comparison.sites == site)
                if site != pooled_site and mask.any() and estimable(comparison.labels[mask]):
                    value, reps = evaluate(_predictions(comparison, variants[0], mask), weights[:, mask[known]], ("auc",))["auc"]
                    if value is not None:
                        aucs[site] = value
                        errors.append(standard_error(reps))
            summary = across_sites(list(aucs.values()), errors)
            worst = min(aucs, key=lambda s: aucs[s]) if aucs else None
            rows.append(
                {
                    "model": model,
                    "arm": arm,
                    "evaluation": evaluation,
                    "estimable_sites": len(aucs),
                    "worst_site": worst,
                    "worst_auc": aucs[worst] if worst else None,
                    "random_effects": summary._asdict() if summary else None,
                }
            )
    return rows


def curves(comparison: Comparison, models: Sequence[str]) -> list[Row]:
    """ROC, precision-recall, decision and calibration curves for two classes, thinned for drawing; and the confusion counts."""
    rows: list[Row] = []
    known = comparison.labels != UNKNOWN
    for (model, arm, evaluation), variants in comparison.scores.items():
        if len(variants) != 1 or model not in models:
            continue
        mask = known & variants[0].seen
        p = _predictions(comparison, variants[0], mask) if mask.any() else None
        if p is None or not estimable(p.labels):
            continue
        row: Row = {"model": model, "arm": arm, "evaluation": evaluation}
        called = p.probs.argmax(axis=1) if p.classes > 2 else (p.probs[:, 1] >= p.thresholds).astype(np.int64)
        row["confusion"] = np.bincount(p.labels * p.classes + called, minlength=p.classes**2).reshape(p.classes, p.classes).tolist()
        if p.classes == 2:
            histogram = score_histogram.score_histogram(p.probs[:, 1], p.labels == 1)
            row["roc"] = points(score_histogram.roc(histogram))
            row["precision_recall"] = points(score_histogram.precision_recall(histogram))
            decision = decision_curve(p)
            if decision is not None:
                row["decision"] = {k: rounded(v) for k, v in decision._asdict().items()}
            row["calibration"] = _calibration(p)
        rows.append(row)
    return rows


def _calibration(p: Predictions, bins: int = 8) -> list[dict[str, float]]:
    """Groups of equal size by predicted risk: mean prediction, observed share, number."""
    order = np.argsort(p.probs[:, 1], kind="stable")
    groups = [g for g in np.array_split(order, min(bins, max(1, len(order) // 10))) if len(g)]
    return [{"predicted": float(p.probs[g, 1].mean()), "observed": float((p.labels[g] == 1).mean()), "n": len(g)} for g in groups]


def unknown_labels(comparison: Comparison, model: str) -> list[Row]:
    """Guard D04's sensitivity analysis: the headline with unknown labels left out, all negative, all positive."""
    rows = []
    for arm in ("federated", "pooled"):
        variants = comparison.scores.get((model, arm, "within_site"), [])
        if variants:
            mask = variants[0].seen
            rows.append({"model": model, "arm": arm, **unknown_label_bounds(_predictions(comparison, variants[0], mask))._asdict()})
    return rows


def headline(rows: Sequence[Row], model: str = "clinical", metric: str = "auc") -> Mapping[tuple[str, str], Row]:
    """(arm, evaluation) -> the row over all sites."""
    return {(r["arm"], r["evaluation"]): r for r in rows if r["model"] == model and r["metric"] == metric and r["site"] == "all"}
