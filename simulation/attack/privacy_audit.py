"""Privacy audit (`--audit`): membership inference on the models of the run, and canaries by the
learners that can have noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from common.data.cohort import Cohort
from common.federated.learner import Federated, Head, TableHead, load
from server.app import Outcome
from server.rounds.noisy_scores import fits
from simulation.attack.canary import DEFAULT_EPSILON, canaries
from simulation.attack.membership import Target, membership
from simulation.attack.privacy_cost import noised_heads
from simulation.federation.options import epsilons
from simulation.federation.setting import Setting


def audit(
    setting: Setting,
    outcome: Outcome,
    cohorts: Sequence[Cohort],
    models: Sequence[Target],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Rows of `report.json`: `audit[]`, `canary[]`; both empty where it was not asked for.
    `models`: those that `--epsilon` has trained."""
    args, run = setting.args, setting.run
    if not args.audit:
        return {"audit": [], "canary": []}
    released: dict[tuple[str, float | None], Target] = {
        (h.name, None): Target(cast(Head, h), None, outcome.states) for h in outcome.heads
    }
    membership_rows = membership(
        list({**released, **{(m.head.name, m.epsilon): m for m in models}}.values()),
        cohorts,
        seed=run.seed,
        parts=run.parts,
        minimum=args.minimum_patients,
        repeats=args.bootstraps,
        tell=lambda what, at, of: tell(f"audit, attack {at + 1} of {of}: {what}"),
    )
    canary_rows = canaries(
        _chains(setting, outcome),
        setting.study.schema_at(setting.task),
        [e for e in epsilons(args.epsilon)[0] if math.isfinite(e)] or [DEFAULT_EPSILON],
        args.delta,
        seed=run.seed,
        noise_seed=args.noise_seed,
        tell=lambda what, at, of: tell(f"audit, canary {at + 1} of {of}: {what}"),
    )
    return {"audit": membership_rows, "canary": canary_rows}


def _chains(setting: Setting, outcome: Outcome) -> list[list[Federated]]:
    """Each learner on the table whose sums can have noise, after what it needs; and the histograms
    that judge such heads."""
    run, study = setting.run, setting.study
    heads = [h for h in noised_heads(run, study, outcome) if isinstance(h, TableHead)]
    chains = [fits(h, run, study) for h in heads]
    by_learner = {chain[n].name: chain[: n + 1] for chain in chains for n in range(len(chain))}
    for chain in chains[-1:]:  # whose scores they count makes no difference
        judge = load("scores", {"heads": [chain[-1].name], "learners": run.hypers(study)})
        by_learner[judge.name] = [*chain, judge]
    return list(by_learner.values())
