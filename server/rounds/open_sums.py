"""One exchange's answers: who is asked again, how long a site at work is waited for, and when it is given up.

A site answers within the deadline, if only that it is still at work (R09), with what it has done by then. It is asked again as long as it
gets on: a large hospital is not dropped for being large. One that says nothing is tried again a few times.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flwr.app import Message

from common.errors import FederationError, FedmetsError, RefusedError, WireError
from common.federated.learner import Plan
from common.wire.envelope import Packet
from common.wire.flower_records import OUTLIVES, WORK, content, packet
from common.wire.messages import NO_PLAN, Update, pack_request, unpack_updates
from server.config.run_config import Run
from server.ledger.heartbeat import Signs
from server.rounds.disk_spool import SMALL, opened
from server.rounds.registration import Roster
from server.rounds.state_delivery import Lot, Shelf
from server.rounds.transport import Post

FEW = 4
"""Large answers that are pulled together."""
PATIENCE = 3.0
"""How many times as long as a site has forecast one plan may take."""
LONGEST = 86_400.0
"""Seconds that no forecast makes longer: a site that is always at work must not hold a run up for ever."""

Answers = dict[tuple[str, str], tuple[Plan, Update]]
"""Job -> what was asked and what came."""


@dataclass
class Collected:
    """answers, outcome: by site; sent, received: bytes."""

    answers: dict[str, Answers]
    outcome: dict[str, str]
    """`contributed`, `refused` (codes only), or the code of why some of what was asked is not there."""
    sent: int = 0
    received: int = 0


@dataclass
class _Asked:
    """One site in one exchange."""

    plans: list[Plan]
    """Those that are still open."""
    since: float
    """When it last got on."""
    tries: int = 0
    resent: bool = False
    request: Packet = field(default_factory=lambda: Packet("request", b""))


def collect(
    post: Post, run: Run, roster: Roster, plans: Mapping[str, list[Plan]], lot: Lot, shelf: Shelf, signs: Signs | None = None
) -> Collected:
    """Send each site its plans, until they are answered or it is given up."""
    signs = signs or Signs(None)
    out = Collected({s: {} for s in plans}, {})
    waiting = {s: _Asked(list(p), time.monotonic()) for s, p in plans.items()}
    with opened(Path(run.out or tempfile.gettempdir()) / "spool") as spool:
        while waiting:
            tries = max(a.tries for a in waiting.values())
            if tries:
                time.sleep(min(0.05 * 4**tries, run.deadline / 10))
            expires = time.time() + OUTLIVES * run.deadline
            for site, asked in waiting.items():
                asked.plans = [replace(p, expires=expires) for p in asked.plans]
                asked.request = pack_request(asked.plans, shelf.packed(lot, site), roster.enrolled.signer)
                out.sent += asked.request.size
            at = {roster.nodes[s]: s for s in waiting}
            messages = {
                node: Message(content(waiting[s].request), node, WORK, ttl=OUTLIVES * run.deadline, group_id=str(waiting[s].plans[0].step))
                for node, s in at.items()
            }

            def take(node: int, reply: Message, at: Mapping[int, str] = at) -> Packet | FedmetsError:
                if not reply.has_error():
                    signs.heard(at[node])
                try:
                    return spool.keep(at[node], packet(reply, "updates"))
                except WireError as error:
                    return error

            # a large state comes back as large sums
            replies = post.ask(messages, run.deadline, take, at_once=FEW if lot.bytes > SMALL else 10_000)
            for node, site in at.items():
                reply = replies.get(node, FederationError("R02", f"no answer within {run.deadline:g} s"))
                asked = waiting[site]
                try:
                    if isinstance(reply, FedmetsError):
                        raise reply
                    out.received += reply.size
                    got = _match(asked.plans, unpack_updates(reply, roster.enrolled.sites[site], asked.request))
                    shelf.holds(site, lot)
                    over = _goes_on(asked, got, out.answers[site], limit(run, roster, site))
                    code = "R09"
                except FedmetsError as error:
                    over, code = _given_up(asked, error, run.retries), error.code
                    if code == "W03":
                        shelf.forget(site)
                if not asked.plans:
                    code = "contributed" if any(u.contribution for _, u in out.answers[site].values()) else "refused"
                out.outcome[site] = code
                signs.open(site, len(asked.plans))
                if over:
                    del waiting[site]
    return out


def _goes_on(asked: _Asked, got: Answers, answers: Answers, limit: float) -> bool:
    """Take what is done; is it all, or has the site been at work on one plan for too long?"""
    done = {key: (plan, update) for key, (plan, update) in got.items() if update.code != "R09"}
    answers.update(done)
    asked.plans = [p for p in asked.plans if (p.fold.key, p.learner) not in done]
    now = time.monotonic()
    if done:
        asked.since = now
    return not asked.plans or now - asked.since > limit


def _given_up(asked: _Asked, error: FedmetsError, retries: int) -> bool:
    if error.code == "W03" and not asked.resent:
        asked.resent = True
        return False
    asked.tries += 1
    return asked.tries > retries


def limit(run: Run, roster: Roster, site: str) -> float:
    """Seconds that a site may be at work on one plan: by its own forecast, where its doctor has made one."""
    return max(run.deadline * (run.retries + 1), min(PATIENCE * roster.hellos[site].seconds, LONGEST))


def _match(plans: Sequence[Plan], updates: Sequence[Update]) -> Answers:
    """Updates belong to plans by hash, never by position."""
    if len(updates) == 1 and updates[0].plan_hash == NO_PLAN and updates[0].code:
        raise RefusedError(updates[0].code, "the site could not read the request")
    by_hash = {u.plan_hash: u for u in updates}
    if set(by_hash) != {p.hash for p in plans} or len(updates) != len(plans):
        raise RefusedError("P04", "the site answered other plans than those it was asked")
    return {(p.fold.key, p.learner): (p, by_hash[p.hash]) for p in plans}
