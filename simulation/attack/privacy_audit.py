"""Privacy audit (`--audit`): membership inference on the models of the run, canaries by single
releases of the learners that can have noise, and by whole fits of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from common.data.cohort import Cohort
from common.federated.learner import Federated, Head, TableHead, load
from server.app import Outcome
from server.rounds.noisy_scores import fits
from simulation.attack import fit_audit
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
    """Rows of `report.json`: `audit[]`, `canary[]`, `one_run[]`; empty where it was not asked for.
    `models`: those that `--epsilon` has trained."""
    args, run = setting.args, setting.run
    if not args.audit:
        return {"audit": [], "canary": [], "one_run": []}
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
    asked = [e for e in epsilons(args.epsilon)[0] if math.isfinite(e)] or [DEFAULT_EPSILON]
    canary_rows = canaries(
        _chains(setting, outcome),
        setting.study.schema_at(setting.task),
        asked,
        args.delta,
        seed=run.seed,
        noise_seed=args.noise_seed,
        tell=lambda what, at, of: tell(f"audit, canary {at + 1} of {of}: {what}"),
    )
    fit_rows = fit_audit.rows(
        _fits(setting, outcome),
        asked,
        args.delta,
        seed=run.seed,
        noise_seed=args.noise_seed,
        tell=lambda what, at, of: tell(f"audit, whole fit {at + 1} of {of}: {what}"),
    )
    return {"audit": membership_rows, "canary": canary_rows, "one_run": fit_rows}


def _chains(setting: Setting, outcome: Outcome) -> list[list[Federated]]:
    """Each learner on the table whose sums can have noise, after what it needs; and the histograms
    that judge such heads."""
    chains = _fits(setting, outcome)
    by_learner = {chain[n].name: chain[: n + 1] for chain in chains for n in range(len(chain) - 1)}
    for chain in chains[-1:]:  # whose scores they count makes no difference
        by_learner[chain[-1].name] = chain
    return list(by_learner.values())


def _fits(setting: Setting, outcome: Outcome) -> list[list[Federated]]:
    """Of each head on the table that can have noise what is fitted, in order: what it needs, itself,
    and the histograms that judge it."""
    run, study = setting.run, setting.study
    out = []
    for head in noised_heads(run, study, outcome):
        if isinstance(head, TableHead):
            judge = load("scores", {"heads": [head.name], "learners": run.hypers(study)})
            out.append([*fits(head, run, study), judge])
    return out
