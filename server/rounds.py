"""The driver over Flower's Grid: who can do this step, quorum, deadline, retry, resume.

Flower's own `Strategy.start` swallows a lost round and waits for ever on missing nodes; here a round without its quorum is an
error with a name, and every site's part in every exchange is in the ledger. All learners and folds that can go on share one message.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import FederationError, FedmetsError, RefusedError, WireError
from common.exchange import NO_PLAN, Packet, States, Update, pack_request, pack_states, unpack_updates
from common.learner import Contribution, Federated, Plan, Stacked, check, hyper_of, identity, lacks, total
from common.records import WORK, content, packet
from common.schema import Schema
from common.types import Arrays, State
from server.jobs import Job
from server.post import ask, why
from server.roster import Roster
from server.run import Run
from server.spool import SMALL, opened

CANNOT = frozenset({"P01", "D06"})
"""Codes by which a site says that it cannot do a step: named in the ledger, not counted against the quorum."""

FEW = 4
"""Large answers that are pulled together."""

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
    work: list[dict[str, object]]
    """Grouped by learner, phase and outcome: folds, who contributed, who refused and why."""
    sent: int
    received: int
    seconds: float


Watch = Callable[[Exchange, Progress], None]
Live = Callable[[int, Mapping[str, str]], None]


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
    live: Live = lambda step, sites: None,
) -> None:
    """Exchange until every job is done. `progress` is advanced in place; `watch` is called after each exchange and may raise.

    `live` is told each site's state (ready, working, contributed, refused, or a code) as it changes.
    """
    by_key = {j.key: j for j in jobs}
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
        exchange = _exchange(grid, run, run_id, roster, ready, schema, progress, combine, live)
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
    grid: Grid,
    run: Run,
    run_id: str,
    roster: Roster,
    jobs: Sequence[Job],
    schema: Schema,
    progress: Progress,
    combine: Combine,
    live: Live,
) -> Exchange:
    started = time.monotonic()
    states: States = {}
    for job in jobs:
        for fold in job.reads:
            wanted = (*job.learner.needs, job.learner.name)
            states.setdefault(fold.key, {}).update({n: a for n, a in progress.states[fold.key].items() if n in wanted})
    blob, digest = pack_states(states)
    expires = time.time() + run.deadline * (run.retries + 1)
    able = {job.key: roster.able(job) for job in jobs}
    plans: dict[str, list[Plan]] = {}
    for job in jobs:
        arrays = progress.states[job.fold.key][job.learner.name]
        study, task = run.study, run.task
        for site in able[job.key]:
            plans.setdefault(site, []).append(
                Plan(
                    run_id, site, study, task, schema.hash, progress.step, job.learner.name, job.learner.phase(arrays), job.fold, job.reads,
                    digest, able[job.key], expires, hyper_of(job.learner), run.seed, run.parts,
                )
            )  # fmt: skip
    live(progress.step, {s: "working" if s in plans else "ready" for s in roster.ready})
    answers, outcome, sent, received = _collect(grid, run, roster, plans, blob)
    live(progress.step, {s: outcome.get(s, "ready") for s in roster.ready})
    work: dict[tuple[str, ...], dict[str, object]] = {}
    for job in jobs:
        mine = {s: answers[s][job.key] for s in able[job.key] if s in answers}
        lost = {s: outcome[s] for s in able[job.key] if s not in answers}
        lost |= {s: "D06" for s in roster.ready if s not in job.fold.sites and s not in able[job.key]}
        phase = job.learner.phase(progress.states[job.fold.key][job.learner.name])
        contributed, refused = _apply(run, job, schema, progress, mine, lost, roster.cases, combine)
        group = work.setdefault(
            (job.learner.name, phase, *contributed, "|", *(f"{s}={c}" for s, c in refused.items())),
            {"learner": job.learner.name, "phase": phase, "folds": [], "contributed": contributed, "refused": refused},
        )
        group["folds"].append(job.fold.key)  # type: ignore[attr-defined]
    asked = {s: len(p) for s, p in plans.items()}
    return Exchange(progress.step, outcome, asked, list(work.values()), sent, received, time.monotonic() - started)


def _apply(
    run: Run,
    job: Job,
    schema: Schema,
    progress: Progress,
    mine: Mapping[str, tuple[Plan, Update]],
    lost: Mapping[str, str],
    cases: Mapping[str, int],
    combine: Combine,
) -> tuple[list[str], dict[str, str]]:
    """Check what came, require the quorum, add in site order, let the learner take its step."""
    state = _state(job, progress)
    zero: Contribution | None = None
    good: dict[str, Contribution] = {}
    refused = dict(lost)
    plan: Plan | None = None
    for site, (asked, update) in mine.items():
        plan = asked
        if update.contribution is None:
            refused[site] = update.code
            continue
        zero = zero or identity(job.learner, state, schema, asked)
        try:
            check(update.contribution, zero, asked)
            good[site] = update.contribution
        except RefusedError as error:
            refused[site] = error.code
    countable = len(good) + sum(code not in CANNOT for code in refused.values())
    if job.optional and refused and not countable:
        progress.states[job.fold.key][job.learner.name] = {}
        progress.done.add(job.key)
        return [], refused
    held = sum(cases[s] for s in good)
    whole = held + sum(cases[s] for s, code in refused.items() if code not in CANNOT)
    if plan is None or not good or len(good) < run.quorum * countable - 1e-9 or held < run.quorum_cases * whole:
        by_code: dict[str, list[str]] = {}
        for site, code in refused.items():
            by_code.setdefault(code, []).append(site)
        told = "; ".join(f"{', '.join(sites)}: {c} ({why(c)})" for c, sites in by_code.items())
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
    arrays = progress.states[job.fold.key][job.learner.name]
    combined, arrays = combine(job.learner, arrays, [good[s] for s in sorted(good)])
    state = {**state, job.learner.name: arrays}
    step = job.learner.apply(state, combined, plan)
    progress.states[job.fold.key][job.learner.name] = step.arrays
    if step.done:
        progress.done.add(job.key)
    return sorted(good), refused


def add(learner: Federated, arrays: Arrays, contributions: Sequence[Contribution]) -> tuple[Contribution, Arrays]:
    """The default way to combine: the sum."""
    return total(contributions), arrays


def _state(job: Job, progress: Progress) -> State:
    if job.reads == (job.fold,):
        return progress.states[job.fold.key]
    many = {f"{f.key}\t{n}": a for f in job.reads for n, a in progress.states[f.key].items()}
    return {**many, job.learner.name: progress.states[job.fold.key][job.learner.name]}


def _collect(
    grid: Grid, run: Run, roster: Roster, plans: Mapping[str, list[Plan]], blob: bytes
) -> tuple[dict[str, dict[tuple[str, str], tuple[Plan, Update]]], dict[str, str], int, int]:
    """Send each site its plans; repeat with those that did not answer. Returns answers by site and job, outcome by site, bytes."""
    answers: dict[str, dict[tuple[str, str], tuple[Plan, Update]]] = {}
    outcome: dict[str, str] = {}
    sent = received = 0
    with opened(Path(run.out or tempfile.gettempdir()) / "spool") as spool:
        for attempt in range(run.retries + 1):
            missing = [s for s in plans if s not in answers]
            if not missing:
                break
            if attempt:
                time.sleep(min(0.05 * 4**attempt, run.deadline / 10))
            requests = {s: pack_request(plans[s], blob, roster.enrolled.signer) for s in missing}
            sent += sum(r.size for r in requests.values())
            at = {roster.nodes[s]: s for s in missing}
            messages = {n: Message(content(requests[s]), n, WORK, ttl=run.deadline, group_id=str(plans[s][0].step)) for n, s in at.items()}

            def take(node: int, reply: Message, at: Mapping[int, str] = at) -> Packet | FedmetsError:
                try:
                    return spool.keep(at[node], packet(reply, "updates"))
                except WireError as error:
                    return error

            # a large state comes back as large sums
            replies = ask(grid, messages, run.deadline, take, at_once=FEW if len(blob) > SMALL else 10_000)
            for site in missing:
                came = replies.get(roster.nodes[site], FederationError("R02", f"no answer within {run.deadline:g} s"))
                try:
                    if isinstance(came, FedmetsError):
                        raise came
                    received += came.size
                    answers[site] = _match(plans[site], unpack_updates(came, roster.enrolled.sites[site], requests[site]))
                    outcome[site] = "contributed" if any(u.contribution for _, u in answers[site].values()) else "refused"
                except FedmetsError as error:
                    outcome[site] = error.code
    return answers, outcome, sent, received


def _match(plans: Sequence[Plan], updates: Sequence[Update]) -> dict[tuple[str, str], tuple[Plan, Update]]:
    """Updates belong to plans by hash, never by position."""
    if len(updates) == 1 and updates[0].plan_hash == NO_PLAN and updates[0].code:
        raise RefusedError(updates[0].code, "the site could not read the request")
    by_hash = {u.plan_hash: u for u in updates}
    if set(by_hash) != {p.hash for p in plans} or len(updates) != len(plans):
        raise RefusedError("P04", "the site answered other plans than those it was asked")
    return {(p.fold.key, p.learner): (p, by_hash[p.hash]) for p in plans}
