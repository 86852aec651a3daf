"""The driver over Flower's Grid: who can do this step, quorum, deadline, retry, resume.

Flower's own `Strategy.start` swallows a lost round and waits for ever on missing nodes; here a round without its quorum is an
error with a name, and every site's part in every exchange is in the ledger. All learners and folds that can go on share one message.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from flwr.serverapp import Grid

from common.data.schema import Schema
from common.errors import FederationError, RefusedError
from common.federated.learner import (
    Contribution,
    Federated,
    Plan,
    Stacked,
    check,
    hyper_of,
    identity,
    lacks,
    total,
)
from common.privacy.mechanism import Privacy
from common.types import Arrays, State, flatten
from common.wire import compression
from common.wire.messages import CANNOT, Update
from common.wire.state_transfer import States
from server.config.jobs import Job
from server.config.run_config import Run
from server.ledger.heartbeat import Signs
from server.rounds import update_screening
from server.rounds.budget_heads import Accounts
from server.rounds.masked_sums import Secure, Summed
from server.rounds.open_sums import Collected, collect
from server.rounds.registration import Roster
from server.rounds.round_metrics import KINDS, Measured
from server.rounds.state_delivery import Shelf
from server.rounds.transport import Post, why

Combine = Callable[[Federated, Arrays, Sequence[Contribution]], tuple[Contribution, Arrays]]
"""Contributions in site order -> what `apply` gets, and the learner's arrays with any memory that the strategy keeps in them."""


@dataclass
class Progress:
    """What resumes a run: the states, which jobs are done, how many exchanges there were."""

    states: States = field(default_factory=dict)
    done: set[tuple[str, str]] = field(default_factory=set)
    step: int = 0


@dataclass(frozen=True)
class Exchange:
    """What one exchange cost and who took part, for the ledger."""

    step: int
    sites: Mapping[str, str]
    """Site -> `contributed`, `refused` (it answered with codes only), or the code of why there was no answer."""
    asked: Mapping[str, int]
    """Site -> how many plans it got: what it was able to do in this step."""
    work: list[dict[str, Any]]
    """Grouped by learner, phase and outcome: folds, who contributed, who refused and why; of whom was not believed, fold and figures."""
    late: list[dict[str, object]]
    """Site and step of answers that came after their step had gone on without them: none is used."""
    sent: int
    received: int
    seconds: float
    budgets: Mapping[str, str]
    """Site -> the head of its budget chain, where it keeps one."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Learner -> means per case of what is watched (`server.rounds.round_metrics`): over all sites and, where sums are open, by site."""


Watch = Callable[[Exchange, Progress], None]


def drive(
    grid: Grid,
    run: Run,
    run_id: str,
    roster: Roster,
    jobs: Sequence[Job],
    schema: Schema,
    progress: Progress,
    watch: Watch,
    combine: Combine,
    signs: Signs | None = None,
    accounts: Accounts | None = None,
) -> None:
    """Exchange until every job is done. `progress` is advanced in place; `watch` is called after each exchange and may raise.

    `signs` is told each site's state (ready, working, contributed, refused, or a code) as it changes, and whenever a site is heard of.
    """
    by_key = {j.key: j for j in jobs}
    post, shelf = Post(grid), Shelf(run.transfer)
    accounts = accounts or Accounts(None, roster.enrolled.sites)
    signs = signs or Signs(None)
    masks = Secure(post, run, run_id, roster, Path(run.out or tempfile.gettempdir())) if run.secure else None
    if masks:
        masks.agree()
    while open_jobs := [j for j in jobs if j.key not in progress.done]:
        ready = [
            j
            for j in open_jobs
            if all((f.key, need) in progress.done for f in j.reads for need in j.learner.needs if (f.key, need) in by_key)
        ]
        if not ready:
            raise FederationError(
                "R04", f"no learner can go on: {', '.join(sorted({j.learner.name for j in open_jobs}))} wait for one another"
            )
        for job in ready:
            state = progress.states.setdefault(job.fold.key, {})
            if job.optional and (not roster.able(job) or _lacking(job, by_key, progress)):
                state[job.learner.name] = {}
                progress.done.add(job.key)
            elif job.learner.name not in state:
                state[job.learner.name] = job.learner.start(schema, run.seed)
        ready = [j for j in ready if j.key not in progress.done]
        if not ready:
            continue
        exchange = _exchange(post, shelf, run, run_id, roster, ready, schema, progress, combine, signs, accounts, masks)
        progress.step += 1
        watch(exchange, progress)


def _lacking(job: Job, by_key: Mapping[tuple[str, str], Job], progress: Progress) -> bool:
    """Does the job need something that no site could give? (A stacked head looks for itself which inner training sets it can use.)"""
    for fold in (job.fold,) if isinstance(job.learner, Stacked) else job.reads:
        elsewhere = [n for n in job.learner.needs if (fold.key, n) not in by_key]
        if lacks(job.learner, progress.states.get(fold.key, {}), elsewhere):
            return True
    return False


def _exchange(
    post: Post,
    shelf: Shelf,
    run: Run,
    run_id: str,
    roster: Roster,
    jobs: Sequence[Job],
    schema: Schema,
    progress: Progress,
    combine: Combine,
    signs: Signs,
    accounts: Accounts,
    masks: Secure | None,
) -> Exchange:
    started = time.monotonic()
    states: States = {}
    for job in jobs:
        for fold in job.reads:
            wanted = (*job.learner.needs, job.learner.name)
            states.setdefault(fold.key, {}).update({n: a for n, a in progress.states[fold.key].items() if n in wanted})
    lot = shelf.lay_out(states)
    # masks cancel in the sum over all sites: whoever cannot do a job adds zeros, and nobody learns of it
    able = {job.key: roster.ready if masks else roster.able(job) for job in jobs}
    plans: dict[str, list[Plan]] = {}
    for job in jobs:
        arrays = progress.states[job.fold.key][job.learner.name]
        study, task = run.study, run.task
        for site in able[job.key]:
            plans.setdefault(site, []).append(
                Plan(
                    run_id, site, study, task, schema.hash, progress.step, job.learner.name, job.learner.phase(arrays), job.fold, job.reads,
                    lot.hash, able[job.key], 0.0, hyper_of(job.learner), run.seed, run.parts, run.transfer, run.secure,
                    Privacy(run.noise) if run.noise else None, accounts.head(site),
                )
            )  # fmt: skip
    signs.step(progress.step, {s: "working" if s in plans else "ready" for s in roster.ready}, {s: len(p) for s, p in plans.items()})
    came: Collected | Summed
    if masks:
        asked_of = next(iter(plans.values()))
        zeros = [_zero(job, schema, progress, plan) for job, plan in zip(jobs, asked_of, strict=True)]
        came = summed = masks.sum(plans, lot, shelf, zeros, signs.heard)
        totals = dict(zip((job.key for job in jobs), zip(asked_of, zeros, summed.totals, strict=True), strict=True))
        heads = summed.budgets
    else:
        came = collected = collect(post, run, roster, plans, lot, shelf, signs)
        heads = {s: u.budget for s, answers in collected.answers.items() for _, u in answers.values() if u.budget}
    accounts.told(heads)
    signs.step(progress.step, {s: came.outcome.get(s, "ready") for s in roster.ready})
    work: dict[tuple[str, ...], dict[str, Any]] = {}
    measured = Measured()
    for job in jobs:
        phase = job.learner.phase(progress.states[job.fold.key][job.learner.name])
        if masks:
            contributed, refused, doubted = _apply_sum(job, progress, *totals[job.key], came.outcome, combine, shelf, measured)
        else:
            mine = {s: collected.answers[s][job.key] for s in able[job.key] if job.key in collected.answers[s]}
            lost = {s: came.outcome[s] for s in able[job.key] if s not in mine}
            lost |= {s: "D06" for s in roster.ready if s not in job.fold.sites and s not in able[job.key]}
            contributed, refused, doubted = _apply(run, job, schema, progress, mine, lost, roster.cases, combine, shelf, measured)
        group = work.setdefault(
            (job.learner.name, phase, *contributed, "|", *(f"{s}={c}" for s, c in refused.items())),
            {"learner": job.learner.name, "phase": phase, "folds": [], "contributed": contributed, "refused": refused, "doubted": []},
        )
        group["folds"].append(job.fold.key)
        group["doubted"] += [f"fold '{job.fold.key}': {said}" for said in doubted.values()]
    asked = {s: len(p) for s, p in plans.items()}
    names = {node: site for site, node in roster.nodes.items()}
    late: list[dict[str, object]] = [{"site": names.get(node, f"node {node}"), "step": group} for node, group in post.late()]
    seconds = time.monotonic() - started
    spent = came.sent, came.received, seconds
    return Exchange(progress.step, came.outcome, asked, list(work.values()), late, *spent, heads, measured.rows())


def _apply(
    run: Run,
    job: Job,
    schema: Schema,
    progress: Progress,
    mine: Mapping[str, tuple[Plan, Update]],
    lost: Mapping[str, str],
    cases: Mapping[str, int],
    combine: Combine,
    shelf: Shelf,
    measured: Measured,
) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Check what came, doubt it, require the quorum, add in site order, let the learner take its step."""
    state = _state(job, progress)
    good: dict[str, Contribution] = {}
    refused = dict(lost)
    plan: Plan | None = None
    rounded: Arrays | None = None
    for site, (asked, update) in mine.items():
        plan = asked
        if update.contribution is None:
            refused[site] = update.code
            continue
        zero = _zero(job, schema, progress, asked)
        if run.transfer in compression.ROUNDED:
            rounded = compression.averaged(job.learner, state.get(job.learner.name, {}), zero.sums)
        try:
            if rounded is None:
                check(update.contribution, zero, asked)
            else:
                compression.check(update.contribution, rounded, run.transfer)
                check(replace(update.contribution, sums={}), replace(zero, sums={}), asked)
            good[site] = update.contribution
        except RefusedError as error:
            refused[site] = error.code
    doubted = update_screening.find(run, job.learner, state.get(job.learner.name, {}), good, rounded, cases)
    for site in doubted:
        del good[site]
        refused[site] = update_screening.CODE
    countable = len(good) + sum(code not in CANNOT for code in refused.values())
    if job.optional and refused and not countable:
        progress.states[job.fold.key][job.learner.name] = {}
        progress.done.add(job.key)
        return [], refused, doubted
    held = sum(cases[s] for s in good)
    whole = held + sum(cases[s] for s, code in refused.items() if code not in CANNOT)
    if plan is None or not good or len(good) < run.quorum * countable - 1e-9 or held < run.quorum_cases * whole:
        by_code: dict[str, list[str]] = {}
        for site, code in refused.items():
            by_code.setdefault(code, []).append(site)
        told = "; ".join([*(f"{', '.join(sites)}: {c} ({why(c)})" for c, sites in by_code.items()), *doubted.values()])
        way_out = (
            "larger sites, fewer folds or a lower minimum at the sites would help"
            if not countable
            else "mend the sites named and resume, or lower the quorum"
        )
        raise FederationError(
            "R01",
            f"exchange {progress.step}, {job.learner.name} on fold '{job.fold.key}': {len(good)} of {countable} sites "
            f"contributed with {held} of {whole} cases, quorum is {run.quorum:g} of those able and {run.quorum_cases:g} of their cases "
            f"({told}); {way_out}",
        )
    if not run.noise:
        watched = {
            s: replace(good[s], sums={k: v for k, v in good[s].sums.items() if rounded is None and k in KINDS}) for s in sorted(good)
        }
        measured.add(job.learner.name, job.fold.key, total(list(watched.values())), watched)
    _advance(job, progress, _Thickened([good[s] for s in sorted(good)], rounded, run.transfer), plan, combine, shelf)
    return sorted(good), refused, doubted


def _apply_sum(
    job: Job,
    progress: Progress,
    plan: Plan,
    zero: Contribution,
    total: Contribution,
    outcome: Mapping[str, str],
    combine: Combine,
    shelf: Shelf,
    measured: Measured,
) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """What no single site's part is known of: let the learner take its step with it."""
    online = sorted(s for s, code in outcome.items() if code == "contributed")
    lost = {s: code for s, code in outcome.items() if s not in online}
    if not total.cases and plan.privacy is None:
        if not job.optional:
            said = "no site holds as many patients as it lets a sum cover; larger sites, fewer folds or a lower minimum would help"
            raise FederationError("R01", f"exchange {progress.step}, {job.learner.name} on fold '{job.fold.key}': {said}")
        progress.states[job.fold.key][job.learner.name] = {}
        progress.done.add(job.key)
        return [], lost, {}
    check(total, zero, plan)
    if plan.privacy is None:
        measured.add(job.learner.name, job.fold.key, total, {})
    _advance(job, progress, [total], plan, combine, shelf)
    return online, lost, {}


def _advance(job: Job, progress: Progress, came: Sequence[Contribution], plan: Plan, combine: Combine, shelf: Shelf) -> None:
    """`came`: in site order."""
    before = progress.states[job.fold.key][job.learner.name]
    combined, arrays = combine(job.learner, before, came)
    step = job.learner.apply({**_state(job, progress), job.learner.name: arrays}, combined, plan)
    progress.states[job.fold.key][job.learner.name] = shelf.settle(job.key, job.learner, before, step.arrays)
    if step.done:
        progress.done.add(job.key)


def _zero(job: Job, schema: Schema, progress: Progress, plan: Plan) -> Contribution:
    """What an answer to the plan looks like."""
    zero = identity(job.learner, _state(job, progress), schema, plan)
    # with noise a tally would be one more release
    return zero if plan.privacy is None else replace(zero, tally={})


def add(learner: Federated, arrays: Arrays, contributions: Sequence[Contribution]) -> tuple[Contribution, Arrays]:
    """The default way to combine: the sum."""
    return total(contributions), arrays


def _state(job: Job, progress: Progress) -> State:
    if job.reads == (job.fold,):
        return progress.states[job.fold.key]
    many = flatten({f.key: progress.states[f.key] for f in job.reads})
    return {**many, job.learner.name: progress.states[job.fold.key][job.learner.name]}


class _Thickened(Sequence[Contribution]):
    """Contributions as they were before their changes were rounded, each made when it is its turn: memory holds one and the sum."""

    def __init__(self, thin: Sequence[Contribution], rounded: Arrays | None, how: str) -> None:
        self._thin, self._rounded, self._how = thin, rounded, how

    def __len__(self) -> int:
        return len(self._thin)

    @overload
    def __getitem__(self, at: int) -> Contribution: ...
    @overload
    def __getitem__(self, at: slice) -> _Thickened: ...
    def __getitem__(self, at: int | slice) -> Contribution | _Thickened:
        if isinstance(at, slice):
            return _Thickened(self._thin[at], self._rounded, self._how)
        return self._thin[at] if self._rounded is None else compression.thicken(self._thin[at], self._rounded, self._how)

    def __iter__(self) -> Iterator[Contribution]:
        return (self[i] for i in range(len(self)))
