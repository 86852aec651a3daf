"""The driver over Flower's Grid: who can do this step, quorum, deadline, retry, resume.

Flower's own `Strategy.start` swallows a lost round and waits for ever on missing nodes; here a round without its quorum is an
error with a name, and every site's part in every exchange is in the ledger. All learners and folds that can go on share one message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

import common
from common.cohort import Fold
from common.errors import CODES, FederationError, FedmetsError, RefusedError
from common.exchange import (
    HELLO,
    NO_PLAN,
    WORK,
    Hello,
    States,
    Update,
    blob_record,
    pack_greeting,
    pack_request,
    pack_states,
    size,
    unpack_hello,
    unpack_updates,
)
from common.learner import Contribution, Federated, Plan, Stacked, check, hyper_of, identity, lacks, total
from common.schema import Schema
from common.types import Arrays, State
from server.run import Run

CANNOT = frozenset({"P01", "D06"})
"""Codes by which a site says that it cannot do a step: named in the ledger, not counted against the quorum."""

Combine = Callable[[Federated, Arrays, Sequence[Contribution]], tuple[Contribution, Arrays]]
"""Contributions in site order -> what `apply` gets, and the learner's arrays with any memory that the strategy keeps in them."""


@dataclass(frozen=True)
class Job:
    """One learner on one fold. `reads` are the folds whose state it needs: its own, or several for an evaluation."""

    learner: Federated
    fold: Fold
    reads: tuple[Fold, ...]
    optional: bool = False
    """What no site may be able to give (P01, D06): it is then left out with all that needs it, and the ledger says so."""

    @property
    def key(self) -> tuple[str, str]:
        return self.fold.key, self.learner.name


@dataclass(frozen=True)
class Roster:
    """The registered sites in the order in which their sums are added."""

    hellos: Mapping[str, Hello]
    nodes: Mapping[str, int]

    @property
    def ready(self) -> tuple[str, ...]:
        return tuple(s for s, h in self.hellos.items() if not h.code)

    def groups(self, limit: int = 12) -> tuple[tuple[str, ...], ...]:
        """What leave-one-site-out leaves out: each estimable site by itself (the `limit` largest, where there are more), the others
        together; nothing with a single site."""
        largest = sorted((s for s in self.ready if self.hellos[s].estimable), key=lambda s: (-self.hellos[s].cases, s))[:limit]
        alone = tuple((s,) for s in self.ready if s in largest)
        rest = tuple(s for s in self.ready if s not in largest)
        return (*alone, rest) if alone and rest else alone if len(alone) > 1 else ()

    def able(self, job: Job) -> tuple[str, ...]:
        """The sites that a job asks: those that hold what its learner looks at, and are not left out."""
        return tuple(s for s in self.ready if s not in job.fold.sites and job.learner.modality <= set(self.hellos[s].modalities))


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


def register(grid: Grid, run: Run, study: str, task: str, schema: Schema) -> Roster:
    """Ask every node what it can do, until `run.expect` sites are ready or the deadline has passed (R03).

    A site that cannot take part (its data, schema or version) is an error that names it: it would otherwise be missing in silence.
    """
    started = time.monotonic()
    nodes: dict[int, Hello] = {}
    wait = 0.05
    while True:
        new = sorted(set(grid.get_node_ids()) - set(nodes))
        content = pack_greeting(study, task, schema.hash)
        messages = [Message(content, n, HELLO, ttl=run.deadline, group_id="hello") for n in new]
        replies = _ask(grid, {m.metadata.dst_node_id: m for m in messages}, run.deadline - (time.monotonic() - started))
        # a node that is there and says nothing must not be missing in silence
        nodes |= {n: Hello(f"node {n}", "", "", (), (), 0, code="R02") for n in new if n not in replies}
        for node, reply in replies.items():
            try:
                nodes[node] = _hello(reply, schema)
            except FedmetsError as error:
                nodes[node] = Hello(f"node {node}", "", "", (), (), 0, code=error.code)
        faults = [
            f"site '{h.site or n}' cannot take part: {h.code} ({_why(h.code)}); the reason is in the site's log"
            for n, h in nodes.items()
            if h.code
        ]
        names = [h.site for h in nodes.values()]
        faults += [
            f"{names.count(n)} nodes call themselves '{n}'; give each site its own name" for n in sorted(set(names)) if names.count(n) > 1
        ]
        if faults:
            raise FederationError("R03", *faults)
        if len(nodes) >= run.expect:
            break
        if time.monotonic() - started > run.deadline:
            raise FederationError(
                "R03", f"{len(nodes)} of {run.expect} sites registered within {run.deadline:.0f} s: {', '.join(names) or 'none'}"
            )
        time.sleep(wait)
        wait = min(2 * wait, 1.0)
    order = sorted(nodes, key=lambda n: nodes[n].site)
    return Roster({nodes[n].site: nodes[n] for n in order}, {nodes[n].site: n for n in order})


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
    record = blob_record(blob)
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
    answers, outcome, sent, received = _collect(grid, run, roster, plans, record)
    live(progress.step, {s: outcome.get(s, "ready") for s in roster.ready})
    work: dict[tuple[str, ...], dict[str, object]] = {}
    for job in jobs:
        mine = {s: answers[s][job.key] for s in able[job.key] if s in answers}
        lost = {s: outcome[s] for s in able[job.key] if s not in answers}
        lost |= {s: "D06" for s in roster.ready if s not in job.fold.sites and s not in able[job.key]}
        phase = job.learner.phase(progress.states[job.fold.key][job.learner.name])
        contributed, refused = _apply(run, job, schema, progress, mine, lost, combine)
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
    if plan is None or not good or len(good) < run.quorum * countable - 1e-9:
        by_code: dict[str, list[str]] = {}
        for site, code in refused.items():
            by_code.setdefault(code, []).append(site)
        told = "; ".join(f"{', '.join(sites)}: {c} ({_why(c)})" for c, sites in by_code.items())
        way_out = (
            "larger sites, fewer folds or a lower minimum at the sites would help"
            if not countable
            else "mend the sites named and resume, or lower the quorum"
        )
        raise FederationError(
            "R01",
            f"exchange {progress.step}, {job.learner.name} on fold '{job.fold.key}': {len(good)} of {countable} sites "
            f"contributed, quorum is {run.quorum:g} of those able ({told}); {way_out}",
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
    grid: Grid, run: Run, roster: Roster, plans: Mapping[str, list[Plan]], record: ArrayRecord
) -> tuple[dict[str, dict[tuple[str, str], tuple[Plan, Update]]], dict[str, str], int, int]:
    """Send each site its plans; repeat with those that did not answer. Returns answers by site and job, outcome by site, bytes."""
    answers: dict[str, dict[tuple[str, str], tuple[Plan, Update]]] = {}
    outcome: dict[str, str] = {}
    sent = received = 0
    for attempt in range(run.retries + 1):
        missing = [s for s in plans if s not in answers]
        if not missing:
            break
        if attempt:
            time.sleep(min(0.05 * 4**attempt, run.deadline / 10))
        contents = {s: pack_request(plans[s], record) for s in missing}
        sent += sum(size(c) for c in contents.values())
        messages = {
            roster.nodes[s]: Message(c, roster.nodes[s], WORK, ttl=run.deadline, group_id=str(plans[s][0].step))
            for s, c in contents.items()
        }
        replies = _ask(grid, messages, run.deadline)
        for site in missing:
            reply = replies.get(roster.nodes[site])
            try:
                if reply is None:
                    raise FederationError("R02", f"no answer within {run.deadline:g} s")
                received += size(reply.content) if reply.has_content() else 0
                answers[site] = _match(plans[site], unpack_updates(reply))
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


def _ask(grid: Grid, messages: Mapping[int, Message], timeout: float) -> dict[int, Message]:
    """Push and poll, faster than `Grid.send_and_receive` does. Returns what came back in time, by node."""
    if not messages:
        return {}
    ids = list(grid.push_messages(messages.values()))
    if len(ids) != len(messages):
        raise FederationError("W02", f"Flower took {len(ids)} of {len(messages)} messages; they may be too large for its transport")
    node_of = dict(zip(ids, messages, strict=True))
    replies: dict[int, Message] = {}
    end = time.monotonic() + timeout
    wait = 0.001
    while node_of:
        waiting = len(node_of)
        for reply in grid.pull_messages(list(node_of)):
            # an error reply may come from the SuperLink itself: it is told by the message that it answers, not by its sender
            node = node_of.pop(reply.metadata.reply_to_message_id, None)
            if node is not None:
                replies[node] = reply
        if not node_of or time.monotonic() > end:
            break
        if len(node_of) < waiting:
            wait = 0.001
        else:
            time.sleep(wait)
            wait = min(wait * 1.5, 0.25)
    return replies


def _hello(reply: Message, schema: Schema) -> Hello:
    hello = unpack_hello(reply)
    if not hello.code and hello.version != common.__version__:
        return replace(hello, code="P04")
    if not hello.code and hello.schema != schema.hash:
        return replace(hello, code="D07")
    return hello


def _why(code: str) -> str:
    return CODES.get(code, code)
