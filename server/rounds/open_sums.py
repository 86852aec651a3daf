"""Open sums: each site's contributions are seen, checked, screened and held against the quorum,
then added in site order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from common.errors import RefusedError
from common.federated.learner import Contribution, Plan, check, total
from common.types import Arrays
from common.wire import compression
from common.wire.envelope import Packet
from common.wire.messages import CANNOT, NO_PLAN, Update, pack_request, unpack_updates
from server.config.jobs import Job
from server.rounds import update_screening
from server.rounds.disk_spool import opened
from server.rounds.retries import Asking
from server.rounds.round_metrics import KINDS
from server.rounds.state_delivery import Key, Lot
from server.rounds.sums import Collected, Question, Total, by_site
from server.rounds.transport import why


@dataclass(frozen=True)
class OpenSums:
    asking: Asking

    def participants(self, job: Job) -> tuple[str, ...]:
        return self.asking.roster.able(job)

    def collect(self, questions: Sequence[Question], lot: Lot) -> Collected:
        roster, shelf = self.asking.roster, self.asking.shelf
        open_plans = by_site(questions)
        updates: dict[str, dict[Key, Update]] = {s: {} for s in open_plans}

        def write(site: str, expires: float) -> Packet:
            open_plans[site] = [replace(p, expires=expires) for p in open_plans[site]]
            return pack_request(open_plans[site], shelf.packed(lot, site), roster.enrolled.signer)

        def read(site: str, request: Packet, reply: Packet) -> int:
            answered = unpack_updates(spool.keep(site, reply), roster.enrolled.sites[site], request)
            matched = _match(open_plans[site], answered)
            shelf.holds(site, lot)
            updates[site] |= {key: u for key, u in matched.items() if u.code != "R09"}
            open_plans[site] = [
                p for p in open_plans[site] if (p.fold, p.learner) not in updates[site]
            ]
            self.asking.heartbeat.open(site, len(open_plans[site]))
            return len(open_plans[site])

        owed = {s: len(plans) for s, plans in open_plans.items()}
        with opened(Path(self.asking.run.out or tempfile.gettempdir()) / "spool") as spool:
            # a large state comes back as large sums
            codes = self.asking.ask(owed, write, read, str(questions[0].step), lot.bytes)
        outcome = {}
        for site, site_updates in updates.items():
            answered = (
                "contributed" if any(u.contribution for u in site_updates.values()) else "refused"
            )
            outcome[site] = codes.get(site, answered)
        budgets = {
            s: u.budget
            for s, site_updates in updates.items()
            for u in site_updates.values()
            if u.budget
        }
        return Collected((self._total(q, updates, outcome) for q in questions), outcome, budgets)

    def _total(
        self,
        question: Question,
        updates: Mapping[str, Mapping[Key, Update]],
        outcome: Mapping[str, str],
    ) -> Total:
        """Check what came, doubt it, require the quorum."""
        job, run, roster = question.job, self.asking.run, self.asking.roster
        received = {s: updates[s][job.key] for s in question.plans if job.key in updates[s]}
        refused = {s: outcome[s] for s in question.plans if s not in received}
        refused |= {
            s: "D06" for s in roster.ready if s not in job.fold.sites and s not in question.plans
        }
        accepted: dict[str, Contribution] = {}
        rounded: Arrays | None = None
        if any(u.contribution for u in received.values()) and run.transfer in compression.ROUNDED:
            rounded = compression.averaged(job.learner, question.arrays, question.zero().sums)
        for site, update in received.items():
            if update.contribution is None:
                refused[site] = update.code
                continue
            try:
                self._check(question, site, update.contribution, rounded)
                accepted[site] = update.contribution
            except RefusedError as error:
                refused[site] = error.code
        doubted = update_screening.find(
            run, job.learner, question.arrays, accepted, rounded, roster.cases
        )
        for site in doubted:
            del accepted[site]
            refused[site] = update_screening.CODE
        if (
            job.optional
            and refused
            and not accepted
            and all(code in CANNOT for code in refused.values())
        ):
            return Total([], [], refused, doubted)
        self._demand_quorum(question, set(accepted), refused, doubted)
        sites = sorted(accepted)
        summands = _Thickened([accepted[s] for s in sites], rounded, run.transfer)
        if run.noise:
            return Total(summands, sites, refused, doubted)
        watched = {
            s: replace(
                accepted[s],
                sums={k: v for k, v in accepted[s].sums.items() if rounded is None and k in KINDS},
            )
            for s in sites
        }
        return Total(summands, sites, refused, doubted, total(list(watched.values())), watched)

    def _check(
        self, question: Question, site: str, contribution: Contribution, rounded: Arrays | None
    ) -> None:
        zero, plan = question.zero(), question.plans[site]
        if rounded is None:
            check(contribution, zero, plan)
        else:
            compression.check(contribution, rounded, self.asking.run.transfer)
            check(replace(contribution, sums={}), replace(zero, sums={}), plan)

    def _demand_quorum(
        self,
        question: Question,
        accepted: set[str],
        refused: Mapping[str, str],
        doubted: Mapping[str, str],
    ) -> None:
        run, cases = self.asking.run, self.asking.roster.cases
        counted = accepted | {s for s, code in refused.items() if code not in CANNOT}
        accepted_cases, counted_cases = (
            sum(cases[s] for s in accepted),
            sum(cases[s] for s in counted),
        )
        if (
            accepted
            and len(accepted) >= run.quorum * len(counted) - 1e-9
            and accepted_cases >= run.quorum_cases * counted_cases
        ):
            return
        by_code: dict[str, list[str]] = {}
        for site, code in refused.items():
            by_code.setdefault(code, []).append(site)
        reasons = "; ".join(
            [
                *(f"{', '.join(sites)}: {c} ({why(c)})" for c, sites in by_code.items()),
                *doubted.values(),
            ]
        )
        way_out = "mend the sites named and resume, or lower the quorum"
        if not counted:
            way_out = "larger sites, fewer folds or a lower minimum at the sites would help"
        raise question.failed(
            f"{len(accepted)} of {len(counted)} sites contributed with {accepted_cases} of "
            f"{counted_cases} cases, quorum is {run.quorum:g} of those able "
            f"and {run.quorum_cases:g} of their cases ({reasons}); {way_out}"
        )


def _match(plans: Sequence[Plan], updates: Sequence[Update]) -> dict[Key, Update]:
    """Updates belong to plans by hash, never by position."""
    if len(updates) == 1 and updates[0].plan_hash == NO_PLAN and updates[0].code:
        raise RefusedError(updates[0].code, "the site could not read the request")
    by_hash = {u.plan_hash: u for u in updates}
    if set(by_hash) != {p.hash for p in plans} or len(updates) != len(plans):
        raise RefusedError("P04", "the site answered other plans than those it was asked")
    return {(p.fold, p.learner): by_hash[p.hash] for p in plans}


class _Thickened(Sequence[Contribution]):
    """Contributions as they were before their changes were rounded, each made when it is its turn:
    memory holds one and the sum."""

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
        return (
            self._thin[at]
            if self._rounded is None
            else compression.thicken(self._thin[at], self._rounded, self._how)
        )

    def __iter__(self) -> Iterator[Contribution]:
        return (self[i] for i in range(len(self)))
