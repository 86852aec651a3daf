"""What privacy costs: each head trained again at each epsilon, through the same two apps, and judged on the same patients.

Each epsilon is that of one fit, which is what a hospital would release. That the fit is repeated with each part left out, and judged with
no noise in the figure, only a simulation can afford: `told` is what a coordinator would see who had noisy score histograms alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from common.data.cohort import UNKNOWN, Cohort, Fold
from common.data.schema import Floats, Schema
from common.federated.accounting import accountable, calibrate, charge
from common.federated.learner import Federated, Head, Hyper, TableHead
from common.learners.evaluation import within_site
from common.privacy.mechanism import epsilon
from common.study.study import Study
from common.types import flatten
from common.wire.state_transfer import States
from server.app import Outcome
from server.config.run_config import Run
from server.ledger.ledger import NAME
from server.ledger.ledger import read as read_ledger
from server.rounds.noisy_scores import fits, told
from simulation.attack.membership import Target
from simulation.evaluation.bootstrap import (
    Interval,
    Predictions,
    bootstrap_weights,
    estimable,
    evaluate,
    interval,
)
from simulation.evaluation.metric_rows import Row
from simulation.evaluation.predictions import Comparison, Scores

MADE_FOR_NOISE = "private_logistic"
"""Always beside the run's own heads, where there is a table: these were built to be exact."""
FOLDER = "private"

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Utility:
    """Rows of `report.json`: `utility[]`, `privacy[]`; heads without a bound, by name; and all models that were judged."""

    points: list[Row]
    spent: list[Row]
    unbounded: list[str]
    models: list[Target]


def utility(
    run: Run,
    study: Study,
    schema: Schema,
    outcome: Outcome,
    comparison: Comparison,
    cohorts: Sequence[Cohort],
    federate: Callable[[Run], Outcome],
    *,
    epsilons: Sequence[float],
    delta: float,
    repeats: int,
    tell: Tell,
) -> Utility:
    """`federate` drives a run of the same sites to its end."""
    heads = noised_heads(run, study, outcome)
    unbounded = [h.name for h in outcome.heads if h not in heads]
    points: list[Row] = []
    spent: list[Row] = []
    models: list[Target] = []
    for n, (head, most) in enumerate((h, e) for h in heads for e in sorted(epsilons, reverse=True)):
        tell(f"{head.name} at epsilon {most:g}", n, len(heads) * len(epsilons))
        needed = fits(head, run, study)
        noise = calibrate(needed, schema, most, delta) if math.isfinite(most) else 0.0
        if noise or (head.name, "federated", "within_site") not in comparison.scores:
            done = federate(_run(run, head, most, noise))
            auc, n_cases, events = _auc(head, done.states, run, comparison, cohorts, repeats)
            lines = read_ledger(done.folder / NAME)
        else:
            auc, n_cases, events = _judged(comparison, comparison.scores[head.name, "federated", "within_site"][0], run.seed, repeats)
            done, lines = outcome, []
        costs = _spent(lines, needed, schema, noise, delta) if noise else {c.site: None for c in cohorts}
        seen = told(done.states, head.name, run.seed) if noise else None
        most_or_none = most if math.isfinite(most) else None
        models.append(Target(cast(Head, head), most_or_none, done.states))
        points.append(
            {"model": head.name, "epsilon": most_or_none, "delta": delta, "noise": noise, "metric": "auc", "value": auc.value}
            | {"low": auc.low, "high": auc.high, "n": n_cases, "events": events, "estimable": auc.low is not None}
            | {"told": seen._asdict() if seen else None}
        )
        spent += [
            {"site": s, "learner": head.name, "epsilon": cost, "delta": delta, "accountant": "rdp", "allowed": most_or_none}
            for s, cost in costs.items()
        ]
    return Utility(points, spent, unbounded, models)


def noised_heads(run: Run, study: Study, outcome: Outcome) -> list[Federated]:
    """The run's heads that can be trained with noise, and one made for it where there is a table."""
    return [h for h in (*outcome.heads, *_made_for_noise(run, study, outcome)) if accountable_fit(h, run, study)]


def accountable_fit(head: Federated, run: Run, study: Study) -> bool:
    """Can the head, and all that it needs, be trained with noise?"""
    return all(accountable(f) for f in fits(head, run, study))


def _made_for_noise(run: Run, study: Study, outcome: Outcome) -> list[Federated]:
    there = {h.name for h in outcome.heads}
    tables = any(isinstance(h, TableHead) for h in outcome.heads)
    return [run.learner(MADE_FOR_NOISE, study)] if tables and MADE_FOR_NOISE not in there else []


def _run(run: Run, head: Federated, most: float, noise: float) -> Run:
    """The same run for one head, its sums with noise."""
    folder = f"{run.out}/{FOLDER}/{head.name}-{most:g}"
    mine = {head.name, *head.needs}
    hyper: Mapping[str, Hyper] = {n: h for n, h in json.loads(run.hyper or "{}").items() if n in mine}
    return replace(
        run,
        out=folder,
        learners=head.name,
        hyper=json.dumps(hyper) if hyper else "",
        noise=noise,
        evaluations="within_site",
        transfer="whole",
        full=False,
        resume=(Path(folder) / NAME).exists(),
    )


def _auc(
    head: Federated, states: States, run: Run, comparison: Comparison, cohorts: Sequence[Cohort], repeats: int
) -> tuple[Interval, int, int]:
    """Each part by the model that left it out."""
    folds = [Fold(parts=(p,)) for p in range(run.parts)]
    flat = flatten(states)
    scored = [within_site(cast(Head, head), flat, c, folds, c.parts(run.seed, run.parts)) for c in cohorts]
    probs, seen = (np.concatenate([s[i] for s in scored]) for i in (0, 1))
    return _judged(comparison, Scores(probs, np.full(len(probs), 0.5), seen.astype(np.bool_)), run.seed, repeats)


def _judged(comparison: Comparison, scores: Scores, seed: int, repeats: int) -> tuple[Interval, int, int]:
    """The headline's AUC with its interval (patients resampled, models and their noise fixed), cases and events."""
    known = comparison.labels != UNKNOWN
    mask = known & scores.seen
    labels = comparison.labels[mask]
    if not mask.any() or not estimable(labels):
        return Interval(None, None, None), len(labels), int((labels > 0).sum())
    weights = bootstrap_weights(comparison.labels[known], comparison.sites[known], repeats, seed)[:, mask[known]]
    p = Predictions(scores.probs[mask], labels, comparison.sites[mask], scores.thresholds[mask])
    value, drawn = evaluate(p, weights, ("auc",))["auc"]
    return interval(value, drawn), len(labels), int((labels > 0).sum())


def _spent(
    lines: Sequence[Mapping[str, Any]], needed: Sequence[Federated], schema: Schema, noise: float, delta: float
) -> dict[str, float | None]:
    """Site -> epsilon of what it released of one fit, the dearest of the run's, by the ledger."""
    by_name = {f.name: f for f in needed}
    total: dict[tuple[str, str], Floats] = {}
    for work in (w for line in lines if line["kind"] == "exchange" for w in line["work"] if w["learner"] in by_name):
        paid = charge(by_name[work["learner"]], work["phase"], schema, noise)
        for site in work["contributed"]:
            for fold in work["folds"]:
                total[site, fold] = total.get((site, fold), np.zeros(1)) + paid
    out: dict[str, float | None] = {}
    for (site, _), rdp in sorted(total.items()):
        out[site] = max(out.get(site) or 0.0, epsilon(rdp, delta))
    return out
