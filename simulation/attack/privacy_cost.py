"""Privacy-utility curve: each head trained again at each epsilon, through the same two apps, and
judged on the same patients.

Each epsilon is that of one fit, which is what a hospital would release. That the fit is repeated
with each part left out, and judged with no noise in the figure, only a simulation can afford:
`told` is what a coordinator would see who had noisy score histograms alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from common.data.cohort import Cohort, Fold
from common.data.schema import Schema
from common.federated.accounting import accountable, calibrate, charge
from common.federated.learner import Federated, Head, Hyper, TableHead
from common.federated.states import States
from common.learners.evaluation import within_site
from common.privacy.mechanism import ACCOUNTANT, Cost, epsilon
from common.study.study import Study
from server.app import Outcome
from server.config.run_config import Run
from server.ledger.ledger import NAME
from server.ledger.ledger import read as read_ledger
from server.rounds.noisy_scores import fits, held_out_auc
from simulation.attack.membership import Target
from simulation.evaluation.predictions import Scores
from simulation.evaluation.sums import Row, Sums

MADE_FOR_NOISE = "private_logistic"
"""Always beside the run's own heads, where there is a table: these were built to be exact."""
FOLDER = "private"

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Utility:
    """Rows of `report.json`: `utility[]`, `privacy[]`; heads without a bound, by name; and all
    models that were judged."""

    points: list[Row]
    spent: list[Row]
    unbounded: list[str]
    models: list[Target]


@dataclass(frozen=True)
class Trained:
    """The run whose heads are judged: what it was, what came of it, and on whom."""

    run: Run
    study: Study
    schema: Schema
    outcome: Outcome
    sums: Sums
    cohorts: Sequence[Cohort]


@dataclass(frozen=True)
class Sweep:
    """The epsilons that are tried, all at one `delta`."""

    epsilons: Sequence[float]
    delta: float


def utility(
    trained: Trained, sweep: Sweep, federate: Callable[[Run], Outcome], tell: Tell
) -> Utility:
    """`federate` drives a run of the same sites to its end."""
    heads = noised_heads(trained.run, trained.study, trained.outcome)
    cost = Utility([], [], [h.name for h in trained.outcome.heads if h not in heads], [])
    points = [(head, most) for head in heads for most in sorted(sweep.epsilons, reverse=True)]
    for n, (head, most) in enumerate(points):
        tell(f"{head.name} at epsilon {most:g}", n, len(points))
        _point(cost, head, most, trained, sweep, federate)
    return cost


def _point(
    cost: Utility,
    head: Federated,
    most: float,
    trained: Trained,
    sweep: Sweep,
    federate: Callable[[Run], Outcome],
) -> None:
    """Train one head at one epsilon, judge it, and add its rows to `cost`."""
    run = trained.run
    needed = fits(head, run, trained.study)
    shared = len(trained.cohorts) - 1 if run.secure else 0
    noise = 0.0
    if math.isfinite(most):
        noise = calibrate(needed, trained.schema, most, sweep.delta, shared)
    scores = trained.sums.scores(head.name, "federated", "within_site")
    outcome = trained.outcome
    spent: dict[str, float | None] = {c.site: None for c in trained.cohorts}
    if noise or not scores:
        outcome = federate(_run(run, head, most, noise))
        scores = [_scored(head, outcome.states, run, trained.cohorts)]
    if noise:
        spent = _spent(
            read_ledger(outcome.folder / NAME), needed, trained.schema, noise, sweep.delta
        )
    auc = trained.sums.of(scores).row()
    told_scores = held_out_auc(outcome.states, head.name, run.seed) if noise else None
    most_or_none = most if math.isfinite(most) else None
    cost.models.append(Target(cast(Head, head), most_or_none, outcome.states))
    point = {
        "model": head.name,
        "epsilon": most_or_none,
        "delta": sweep.delta,
        "noise": noise,
        "metric": "auc",
    }
    told_row = {"told": told_scores._asdict() if told_scores else None}
    cost.points.append({**point, "value": auc.pop("auc"), **auc, **told_row})
    accountant = "rdp" if shared and noise else ACCOUNTANT
    for site, epsilon_spent in spent.items():
        row = {"site": site, "learner": head.name, "epsilon": epsilon_spent, "delta": sweep.delta}
        cost.spent.append({**row, "accountant": accountant, "allowed": most_or_none})


def noised_heads(run: Run, study: Study, outcome: Outcome) -> list[Federated]:
    """The run's heads that can be trained with noise, and one made for it where there is a
    table."""
    return [
        h
        for h in (*outcome.heads, *_made_for_noise(run, study, outcome))
        if accountable_fit(h, run, study)
    ]


def accountable_fit(head: Federated, run: Run, study: Study) -> bool:
    """Can the head, and all that it needs, be trained with noise?"""
    return all(accountable(f) for f in fits(head, run, study))


def _made_for_noise(run: Run, study: Study, outcome: Outcome) -> list[Federated]:
    names = {h.name for h in outcome.heads}
    tables = any(isinstance(h, TableHead) for h in outcome.heads)
    return [run.learner(MADE_FOR_NOISE, study)] if tables and MADE_FOR_NOISE not in names else []


def _run(run: Run, head: Federated, most: float, noise: float) -> Run:
    """The same run for one head, its sums with noise."""
    folder = f"{run.out}/{FOLDER}/{head.name}-{most:g}"
    learners = {head.name, *head.needs}
    hyper: Mapping[str, Hyper] = {
        n: h for n, h in json.loads(run.hyper or "{}").items() if n in learners
    }
    return replace(
        run,
        out=folder,
        learners=head.name,
        hyper=json.dumps(hyper) if hyper else "",
        noise=noise,
        shared_noise=run.secure and noise > 0,
        evaluations="within_site",
        transfer="whole",
        full=False,
        resume=(Path(folder) / NAME).exists(),
    )


def _scored(head: Federated, states: States, run: Run, cohorts: Sequence[Cohort]) -> Scores:
    """Each part by the model that left it out."""
    folds = [Fold(parts=(p,)) for p in range(run.parts)]
    scored = [
        within_site(cast(Head, head), states, c, folds, c.parts(run.seed, run.parts))
        for c in cohorts
    ]
    probs, seen = (np.concatenate([s[i] for s in scored]) for i in (0, 1))
    return Scores(probs, np.full(len(probs), 0.5), seen.astype(np.bool_))


def _spent(
    lines: Sequence[Mapping[str, Any]],
    needed: Sequence[Federated],
    schema: Schema,
    noise: float,
    delta: float,
) -> dict[str, float | None]:
    """Site -> epsilon of what it released of one fit, the dearest of the run's, by the ledger."""
    by_name = {f.name: f for f in needed}
    costs: dict[tuple[str, str], Cost] = {}
    shared = int(lines[0].get("shared", 0))
    exchanges = [line for line in lines if line["kind"] == "exchange"]
    for work in (work for line in exchanges for work in line["work"]):
        if work["learner"] not in by_name:
            continue
        paid = charge(by_name[work["learner"]], work["phase"], schema, noise, shared)
        for site in work["contributed"]:
            for fold in work["folds"]:
                costs[site, fold] = costs.get((site, fold), Cost()) + paid
    dearest: dict[str, float | None] = {}
    for (site, _), cost in sorted(costs.items()):
        dearest[site] = max(dearest.get(site) or 0.0, epsilon(cost, delta))
    return dearest
