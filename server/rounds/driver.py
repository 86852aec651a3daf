"""Driver of the rounds over Flower's Grid: who can do this step, quorum, deadline, retry, resume.

Flower's own `Strategy.start` swallows a lost round and waits for ever on missing nodes; here a
round without its quorum is an error with a name, and every site's part in every exchange is in the
ledger. All learners and folds that can go on share one message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.serverapp import Grid

from common.data.cohort import Fold
from common.data.schema import Schema
from common.errors import FederationError
from common.federated.learner import Contribution, Federated, Plan, Stacked, hyper_of, lacks, total
from common.federated.states import States, with_arrays
from common.privacy.mechanism import Privacy
from common.types import Arrays, State
from server.config.jobs import Job
from server.config.run_config import Run
from server.ledger.heartbeat import Heartbeat
from server.rounds.budget_heads import Accounts
from server.rounds.masked_sums import MaskedSums
from server.rounds.open_sums import OpenSums
from server.rounds.registration import Roster
from server.rounds.retries import Asking
from server.rounds.round_metrics import Measured
from server.rounds.state_delivery import Lot, Shelf
from server.rounds.sums import Question, Sums, Total
from server.rounds.transport import Post

Combine = Callable[[Federated, Arrays, Sequence[Contribution]], tuple[Contribution, Arrays]]
"""Contributions in site order -> what `apply` gets, and the learner's arrays with any memory that
the strategy keeps in them."""


def add(
    learner: Federated, arrays: Arrays, contributions: Sequence[Contribution]
) -> tuple[Contribution, Arrays]:
    """The default way to combine: the sum."""
    return total(contributions), arrays


@dataclass(frozen=True)
class Federation:
    """What stays the same from a run's first exchange to its last."""

    grid: Grid
    run: Run
    run_id: str
    roster: Roster
    jobs: Sequence[Job]
    schema: Schema
    combine: Combine = add
    heartbeat: Heartbeat = field(default_factory=lambda: Heartbeat(None))
    """Told each site's state (ready, working, contributed, refused, or a code) as it changes, and
    whenever a site is heard of."""
    accounts: Accounts | None = None
    """The heads of the sites' budgets; None: remembered for this run."""
    shared: int = 0
    """Into how many shares the sites' noise is divided; 0: each site adds all of it."""


@dataclass
class Progress:
    """What resumes a run: the states, which jobs are done, how many exchanges there were."""

    states: dict[Fold, State] = field(default_factory=dict)
    done: set[tuple[Fold, str]] = field(default_factory=set)
    """Fold and learner."""
    step: int = 0


@dataclass(frozen=True)
class Exchange:
    """What one exchange cost and who took part, for the ledger."""

    step: int
    sites: Mapping[str, str]
    """Site -> `contributed`, `refused` (it answered with codes only), or the code of why there was
    no answer."""
    asked: Mapping[str, int]
    """Site -> how many plans it got: what it was able to do in this step."""
    work: list[dict[str, Any]]
    """Grouped by learner, phase and outcome: folds, who contributed, who refused and why; of whom
    was not believed, fold and figures."""
    late: list[dict[str, object]]
    """Site and step of answers that came after their step had gone on without them: none is
    used."""
    sent: int
    received: int
    seconds: float
    budgets: Mapping[str, str]
    """Site -> the head of its budget chain, where it keeps one."""
    fewest: int = 0
    """The fewest sites that a masked sum of the run may be over, as all sites have vouched; 0: sums
    are open."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Learner -> means per case of what is watched (`server.rounds.round_metrics`): over all sites
    and, where sums are open, by site."""


Watch = Callable[[Exchange, Progress], None]


@dataclass(frozen=True)
class _Means:
    """What a run's exchanges go by."""

    federation: Federation
    asking: Asking
    sums: Sums
    accounts: Accounts


def drive(federation: Federation, progress: Progress, watch: Watch) -> None:
    """Exchange until every job is done. `progress` is advanced in place; `watch` is called after
    each exchange and may raise."""
    run, roster, jobs = federation.run, federation.roster, federation.jobs
    asking = Asking(Post(federation.grid), run, roster, Shelf(run.transfer), federation.heartbeat)
    sums: Sums = MaskedSums(asking, federation.run_id) if run.secure else OpenSums(asking)
    means = _Means(
        federation, asking, sums, federation.accounts or Accounts(None, roster.enrolled.sites)
    )
    by_key = {j.key: j for j in jobs}
    while open_jobs := [j for j in jobs if j.key not in progress.done]:
        ready = [
            j
            for j in open_jobs
            if all(
                (f, need) in progress.done
                for f in j.reads
                for need in j.learner.needs
                if (f, need) in by_key
            )
        ]
        if not ready:
            raise FederationError(
                "R04",
                f"no learner can go on: {', '.join(sorted({j.learner.name for j in open_jobs}))} "
                "wait for one another",
            )
        for job in ready:
            state = progress.states.setdefault(job.fold, {})
            if job.optional and (not roster.able(job) or _lacking(job, by_key, progress)):
                _leave_out(job, progress)
            elif job.learner.name not in state:
                state[job.learner.name] = job.learner.start(federation.schema, run.seed)
        ready = [j for j in ready if j.key not in progress.done]
        if not ready:
            continue
        exchange = _exchange(means, ready, progress)
        progress.step += 1
        watch(exchange, progress)


def _leave_out(job: Job, progress: Progress) -> None:
    """What no site can give; so is all that needs it."""
    progress.states[job.fold][job.learner.name] = {}
    progress.done.add(job.key)


def _lacking(job: Job, by_key: Mapping[tuple[Fold, str], Job], progress: Progress) -> bool:
    """Does the job need something that no site could give? (A stacked head looks for itself which
    inner training sets it can use.)"""
    for fold in (job.fold,) if isinstance(job.learner, Stacked) else job.reads:
        elsewhere = [n for n in job.learner.needs if (fold, n) not in by_key]
        if lacks(job.learner, progress.states.get(fold, {}), elsewhere):
            return True
    return False


def _exchange(means: _Means, jobs: Sequence[Job], progress: Progress) -> Exchange:
    started, asking, heartbeat = time.monotonic(), means.asking, means.federation.heartbeat
    sent, received = asking.sent, asking.received
    ready = asking.roster.ready
    lot = asking.shelf.lay_out(_needed(jobs, progress))
    questions = [_question(means, job, progress, lot) for job in jobs]
    plan_counts: dict[str, int] = {}
    for site in (s for q in questions for s in q.plans):
        plan_counts[site] = plan_counts.get(site, 0) + 1
    heartbeat.step(
        progress.step, {s: "working" if s in plan_counts else "ready" for s in ready}, plan_counts
    )
    collected = means.sums.collect(questions, lot)
    means.accounts.record(collected.budgets)
    heartbeat.step(progress.step, {s: collected.outcome.get(s, "ready") for s in ready})
    work: dict[tuple[str, ...], dict[str, Any]] = {}
    measured = Measured()
    for question, summed in zip(questions, collected.totals, strict=True):
        if summed.summands:
            _advance(means, question, summed.summands, progress)
        else:
            _leave_out(question.job, progress)
        if summed.watched is not None:
            measured.add(
                question.job.learner.name, question.job.fold.key, summed.watched, summed.by_site
            )
        _note(work, question, summed)
    names = {node: site for site, node in asking.roster.nodes.items()}
    return Exchange(
        step=progress.step,
        sites=dict(collected.outcome),
        asked=plan_counts,
        work=list(work.values()),
        late=[
            {"site": names.get(node, f"node {node}"), "step": group}
            for node, group in asking.post.late()
        ],
        sent=asking.sent - sent,
        received=asking.received - received,
        seconds=time.monotonic() - started,
        budgets=dict(collected.budgets),
        fewest=collected.fewest,
        metrics=measured.rows(),
    )


def _needed(jobs: Sequence[Job], progress: Progress) -> States:
    """The states that the jobs' plans are about."""
    states: dict[Fold, State] = {}
    for job in jobs:
        names = (*job.learner.needs, job.learner.name)
        for fold in job.reads:
            states.setdefault(fold, {}).update(
                {n: a for n, a in progress.states[fold].items() if n in names}
            )
    return states


def _question(means: _Means, job: Job, progress: Progress, lot: Lot) -> Question:
    federation, run = means.federation, means.federation.run
    # as they are now: other jobs of this exchange go on before this one's sums are there
    states = {f: dict(progress.states[f]) for f in (job.fold, *job.reads)}
    sites, schema = means.sums.participants(job), federation.schema
    phase, privacy = (
        job.learner.phase(states[job.fold][job.learner.name]),
        Privacy(run.noise, federation.shared) if run.noise else None,
    )
    plans = {
        site: Plan(
            federation.run_id, site, run.study, run.task, schema.hash, progress.step,
            job.learner.name, phase, job.fold, job.reads,
            lot.hash, sites, 0.0, hyper_of(job.learner), run.seed, run.parts, run.transfer,
            run.secure, privacy,
            means.accounts.head(site),
        )
        for site in sites
    }  # fmt: skip
    return Question(job, progress.step, phase, plans, states, schema)


def _advance(
    means: _Means, question: Question, summands: Sequence[Contribution], progress: Progress
) -> None:
    job, old_arrays = question.job, question.arrays
    combined, arrays = means.federation.combine(job.learner, old_arrays, summands)
    states = with_arrays(question.states, job.fold, job.learner.name, arrays)
    step = job.learner.apply(states, combined, question.plan)
    progress.states[job.fold][job.learner.name] = means.asking.shelf.settle(
        job.key, job.learner, old_arrays, step.arrays
    )
    if step.done:
        progress.done.add(job.key)


def _note(work: dict[tuple[str, ...], dict[str, Any]], question: Question, summed: Total) -> None:
    """One entry for all folds with the same learner, phase and outcome."""
    name, fold = question.job.learner.name, question.job.fold.key
    refused = [f"{s}={c}" for s, c in summed.refused.items()]
    entry = {
        "learner": name,
        "phase": question.phase,
        "folds": [],
        "contributed": summed.contributed,
        "refused": summed.refused,
    }
    group = work.setdefault(
        (name, question.phase, *summed.contributed, "|", *refused), entry | {"doubted": []}
    )
    group["folds"].append(fold)
    group["doubted"] += [f"fold '{fold}': {reason}" for reason in summed.doubted.values()]
