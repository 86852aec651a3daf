"""Evaluation of fine-tuning at a site: each labelled patient scored by the federation's model, by
one fine-tuned without the patient's part, and by what the site trains alone without it; side by
side on the same patients.

Intervals are DeLong's. "Not estimable" under 10 of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.local_model.adaptation import FineTuning, adapted, enough
from client.local_model.model_folder import Model
from common.data.cohort import UNKNOWN, Cohort, Fold
from common.data.schema import Floats
from common.federated.learner import Head, Stacked, load
from common.federated.local_baseline import trainable
from common.learners.evaluation import scorable
from common.metrics.calibration import calibration_sums, logit, solve_calibration
from common.metrics.delong import aucs, concordance, difference, limits
from common.metrics.estimability import judged
from common.metrics.score_histogram import score_histogram, youden
from common.types import Probs, State

GLOBAL, TUNED, LOCAL = "federation", "fine-tuned", "local"
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Comparison:
    """`states`: that of everybody; `rows`: for each head its models and differences; `thresholds`:
    of the fine-tuned heads."""

    state: State
    rows: list[dict[str, Any]]
    thresholds: Mapping[str, float]


def compare(
    model: Model,
    cohort: Cohort,
    seed: int,
    parts: int,
    settings: FineTuning,
    tell: Tell,
    *,
    local: bool = True,
) -> Comparison:
    """Cross-fitted over the run's own parts; `state` is fine-tuned on all labelled patients of the
    site."""
    part_of_case, tuned_without, total = (
        cohort.parts(seed, parts),
        {},
        parts + 1 + (parts * len(model.heads) if local else 0),
    )
    for p in range(parts):
        tell("fine-tuning", p, total)
        tuned_without[p] = adapted(
            model.heads, model.state, cohort, Fold(parts=(p,)), seed, parts, settings
        )
    tell("fine-tuning", parts, total)
    tuned_on_all = adapted(model.heads, model.state, cohort, Fold(), seed, parts, settings)
    rows, thresholds, steps = [], dict(model.thresholds), parts + 1
    for head in model.heads:
        if head.name not in model.state:
            continue
        scores = {GLOBAL: _scores(head, cohort, [(part_of_case >= 0, model.state)])}
        scores[TUNED] = _scores(
            head, cohort, [(part_of_case == p, tuned_without[p]) for p in range(parts)]
        )
        if local and not isinstance(head, Stacked) and trainable(head, cohort, seed, parts):
            states = []
            for p in range(parts):
                tell(f"{head.name} alone", steps + p, total)
                states.append(
                    (part_of_case == p, _alone(head, model, cohort, Fold(parts=(p,)), seed, parts))
                )
            scores[LOCAL] = _scores(head, cohort, states)
        steps += parts
        row = _row(head, scores, cohort)
        too_few = not enough(head, cohort.train(Fold(), seed, parts)) and not isinstance(
            head, Stacked
        )
        rows.append(
            {
                **row,
                "fine_tuning": "as it was: too few labelled patients"
                if too_few
                else settings.words(head),
            }
        )
        threshold = _threshold(scores[TUNED], cohort)
        if row["estimable"] and threshold is not None:
            thresholds[head.name] = threshold
    tell("done", total, total)
    return Comparison(tuned_on_all, rows, thresholds)


def _alone(head: Any, model: Model, cohort: Cohort, fold: Fold, seed: int, parts: int) -> State:
    if (
        "image" in head.modality
    ):  # the site trains the network; what outlines lesions for it stays the federation's
        given_networks = {n: model.state[n] for n in head.needs if n in model.state}
        return dict(head.alone([cohort], fold, seed, parts, ready=given_networks))
    prepare = load("preprocessing", model.declared["learners"].get("preprocessing", {}))
    return dict(head.alone([cohort], fold, seed, parts, prepare))


def _scores(head: Head, cohort: Cohort, states: Sequence[tuple[NDArray[np.bool_], State]]) -> Probs:
    """(cases, classes); NaN where nobody has a say."""
    out, scorable_cases = (
        np.full((len(cohort), len(cohort.schema.label.classes)), np.nan),
        scorable(head, cohort),
    )
    for mask, state in states:
        rows = mask & scorable_cases & (cohort.labels != UNKNOWN)
        if rows.any():
            out[rows] = head.predict(state, cohort.where(rows))
    return out


def _row(head: Head, scores: Mapping[str, Probs], cohort: Cohort) -> dict[str, Any]:
    scored = np.all([~np.isnan(p).any(axis=1) for p in scores.values()], axis=0)
    labels, names = cohort.labels[scored], list(scores)
    counts = np.bincount(labels, minlength=len(cohort.schema.label.classes))
    classes = judged(counts)
    row: dict[str, Any] = {
        "head": head.name,
        "n": len(labels),
        "counts": dict(zip(cohort.schema.label.classes, map(int, counts), strict=True)),
        "estimable": bool(classes),
        "models": {},
        "differences": [],
    }
    if not classes:
        row["models"] = {
            n: {"auc": None, "low": None, "high": None, "slope": None, "intercept": None}
            for n in names
        }
        return row
    probs = np.stack([scores[n][scored] for n in names], axis=1)
    values, covariance = aucs(concordance(probs, labels), classes, len(counts))
    smaller_class = min(min(counts[k], len(labels) - counts[k]) for k in classes)
    for i, name in enumerate(names):
        interval = limits(float(values[i]), float(covariance[i, i]), float(smaller_class))
        slope, intercept = _calibration(probs[:, i], labels)
        row["models"][name] = {
            "auc": interval.value,
            "low": interval.low,
            "high": interval.high,
            "slope": slope,
            "intercept": intercept,
        }
    for a, b in ((TUNED, GLOBAL), (TUNED, LOCAL), (GLOBAL, LOCAL)):
        if a in names and b in names:
            pair = [names.index(a), names.index(b)]
            paired = difference(values[pair], covariance[np.ix_(pair, pair)])
            row["differences"].append(
                {"a": a, "b": b, "difference": paired.value, "low": paired.low, "high": paired.high}
            )
    return row


def _calibration(probs: Floats, labels: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Slope, and intercept with the slope held at 1; two classes only."""
    if probs.shape[1] != 2:
        return None, None
    x, y = logit(probs[:, 1]), labels == 1
    slope = float(solve_calibration(lambda beta: calibration_sums(x, y, beta))[1])
    intercept = float(solve_calibration(lambda beta: calibration_sums(x, y, beta), slope=False)[0])
    return (slope if np.isfinite(slope) else None), (intercept if np.isfinite(intercept) else None)


def _threshold(probs: Probs, cohort: Cohort) -> float | None:
    scored = ~np.isnan(probs).any(axis=1)
    if probs.shape[1] != 2 or not scored.any():
        return None
    best = youden(score_histogram(probs[scored, 1], cohort.labels[scored] == 1))
    return best.threshold if best else None
