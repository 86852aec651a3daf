"""Secure aggregation at the coordinator: keys once a run, then three messages a step: masked
vectors, who is online, shares of seeds.

It learns the sum over the sites whose vectors came, and no site's own. Who is online is on disk
before any site is told: a run that is resumed asks for the same sum, for no site would help with
another one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.errors import (
    CODES,
    FederationError,
    FedmetsError,
    RefusedError,
    RunError,
    WireError,
)
from common.federated.learner import Contribution, Plan, check
from common.secure_aggregation import fixed_point, graph, group
from common.secure_aggregation.fixed_point import Words
from common.wire import masked_messages
from common.wire.envelope import Packet
from common.wire.masked_messages import Ask, Told, Vouch
from common.wire.messages import pack_request, unpack_updates
from server.config.jobs import Job
from server.ledger import state_store
from server.rounds.retries import Asking
from server.rounds.state_delivery import Lot
from server.rounds.sums import Collected, Question, Total, by_site
from server.rounds.transport import why

NAME = "online.json"
AGAIN = frozenset({"R02", "R05", "W03"})
"""Codes of a site, or of its courier, that is not there just now, or lacks a state; any other one
is its answer."""


@dataclass
class _Vectors:
    """The sum of the masked vectors that came. They are added as they come: one is in memory."""

    total: Words = field(default_factory=lambda: np.zeros(0, np.uint64))
    sealed: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    """Site -> what it sealed for each."""
    budgets: dict[str, str] = field(default_factory=dict)

    def add(self, site: str, masked: masked_messages.Masked) -> None:
        if self.sealed and masked.vector.shape != self.total.shape:
            raise WireError(
                "M02", f"'{site}' sent {masked.vector.size} numbers, the others {self.total.size}"
            )
        self.total = (
            np.add(self.total, masked.vector, out=self.total)
            if self.sealed
            else masked.vector.copy()
        )
        self.sealed[site], self.budgets[site] = masked.sealed, masked.budget


class MaskedSums:
    """Of one run. Every site takes part in every job: who cannot do it adds zeros, and nobody
    learns of it."""

    def __init__(self, asking: Asking, run_id: str) -> None:
        """Every site tells its key, and takes the others'. FederationError R03: some do not, and
        without keys no site masks."""
        self._asking, self._run, self._name, self._roster = (
            asking,
            asking.run,
            run_id,
            asking.roster,
        )
        self._path = Path(self._run.out or tempfile.gettempdir()) / NAME
        answers = self._exchange_keys("key", {})
        masks = graph.declared(run_id, {s: t.public for s, t in answers.items()})
        self.group = group.group({s: t.fewest for s, t in answers.items()}, masks)
        vouches = {s: Vouch(t.public, t.fewest, t.signature) for s, t in answers.items()}
        self._exchange_keys("group", vouches)

    def _exchange_keys(
        self, stage: masked_messages.Stage, keys: Mapping[str, Vouch]
    ) -> dict[str, Told]:
        answers, codes = self._tell(
            {s: replace(self._ask(s, stage), keys=keys) for s in self._roster.ready}
        )
        if codes:
            raise FederationError(
                "R03",
                f"the sites exchanged no keys for sums that are masked ({stage}): "
                f"{_listed(codes)}; their logs say more",
            )
        return answers

    def participants(self, job: Job) -> tuple[str, ...]:
        return self._roster.ready

    def collect(self, questions: Sequence[Question], lot: Lot) -> Collected:
        plans, zeros = by_site(questions), [q.zero() for q in questions]
        site_plans = next(iter(plans.values()))
        step, place = site_plans[0].step, masked_messages.place(site_plans, self.group)
        allowed, exactly = self._begun(place)
        vectors, outcome = self._vectors({s: p for s, p in plans.items() if s in allowed}, lot)
        outcome |= {s: "R02" for s in plans if s not in allowed}
        online = tuple(sorted(vectors.sealed))
        self._demand(step, online, allowed if exactly else (), outcome)
        begun = {"run": self._name, "place": place, "online": online}
        state_store.write(self._path, json.dumps(begun).encode())
        asks = {
            s: replace(self._ask(s, "online"), step=step, place=place, online=online)
            for s in online
        }
        agreed, lost = self._tell(asks)
        signed = {s: t.signature for s, t in agreed.items()}
        for s in agreed:
            asks[s] = replace(
                asks[s],
                stage="reveal",
                signed=signed,
                sealed={
                    sender: vectors.sealed[sender][s]
                    for sender in self.group.near(s)
                    if sender in vectors.sealed
                },
            )
        revealed, silent = self._tell({s: asks[s] for s in agreed})
        self._unmask(
            online, {s: t.shares for s, t in revealed.items()}, vectors.total, {**lost, **silent}
        )
        template = masked_messages.joined(zeros)
        decoded = dict(
            fixed_point.decode(
                vectors.total, template, masked_messages.scale(self.group), len(online)
            )
        )
        sums = zip(questions, masked_messages.parted(decoded, zeros), zeros, strict=True)
        totals = (
            _total(question, summed, zero, online, outcome) for question, summed, zero in sums
        )
        budgets = {s: head for s, head in vectors.budgets.items() if head}
        outcome |= dict.fromkeys(online, "contributed")
        return Collected(totals, outcome, budgets, self.group.minimum)

    def _unmask(
        self,
        online: tuple[str, ...],
        shares: Mapping[str, Mapping[str, group.Shares]],
        total: Words,
        lost: Mapping[str, str],
    ) -> None:
        try:
            group.unmask(self.group, online, shares, total)
        except FedmetsError as error:
            sites = ", ".join(online)
            raise FederationError(
                "R01",
                f"the sum over {sites} could not be unmasked: {error} ({_listed(lost)}); resume "
                "the run",
            ) from error

    def _begun(self, place: str) -> tuple[tuple[str, ...], bool]:
        """The sites that may be in the sum, and whether it must be exactly these: those of the
        run's latest sum, which are those of this very step where it was broken off."""
        if not self._path.exists():
            return self.group.sites, False
        try:
            begun = json.loads(self._path.read_text())
            if begun["run"] != self._name:
                return self.group.sites, False
            return tuple(begun["online"]), begun["place"] == place
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                "S02",
                f"'{self._path}' is damaged ({error}); restore the run folder, or start a new run",
            ) from error

    def _demand(
        self,
        step: int,
        online: tuple[str, ...],
        exactly: tuple[str, ...],
        lost: Mapping[str, str],
    ) -> None:
        """Enough sites for a secure sum and for the quorum; and those that were told of this very
        sum before, if any were."""
        short = len(online) < self._run.quorum * len(self.group.sites) - 1e-9
        try:
            self.group.demand(online)
            wanted = f"those that were told of this sum ({', '.join(exactly)})" if exactly else ""
            short = short or (bool(exactly) and online != exactly)
        except RefusedError as error:
            wanted, short = str(error), True
        if not short:
            return
        wanted = wanted or f"the quorum is {self._run.quorum:g} of {len(self.group.sites)}"
        since = self._asking.heartbeat.last_heard
        missing = "; ".join(
            f"{s} since {since(s)}: {lost.get(s, 'R02')} ({why(lost.get(s, 'R02'))})"
            for s in exactly or self.group.sites
            if s not in online
        )
        raise FederationError(
            "R01",
            f"exchange {step}: {len(online)} of {len(self.group.sites)} sites sent a masked vector,"
            f" and a sum under masks is over the same sites each time: {wanted}. Missing: "
            f"{missing}. {_way_out(lost)}",
        )

    def _vectors(
        self, plans: Mapping[str, list[Plan]], lot: Lot
    ) -> tuple[_Vectors, dict[str, str]]:
        """The masked vectors that came, and the codes of who sent none."""
        shelf, enrolled = self._asking.shelf, self._roster.enrolled
        vectors, refused = _Vectors(), dict[str, str]()

        def write(site: str, expires: float) -> Packet:
            return pack_request(
                [replace(p, expires=expires) for p in plans[site]],
                shelf.packed(lot, site),
                enrolled.signer,
            )

        def read(site: str, request: Packet, reply: Packet) -> int:
            key = enrolled.sites[site]
            if reply.kind == "updates":
                codes = [u.code for u in unpack_updates(reply, key, request) if u.code]
                if not codes:
                    raise WireError("W02", "the site answers a masked request in the open")
                return _owed(site, codes[0], refused)
            masked = masked_messages.unpack_masked(reply, key, request, self.group.near(site))
            if not masked.code:
                vectors.add(site, masked)
                shelf.holds(site, lot)
            return _owed(site, masked.code, refused)

        codes = self._asking.ask(
            dict.fromkeys(plans, 1), write, read, str(next(iter(plans.values()))[0].step), lot.bytes
        )
        return vectors, codes | refused

    def _ask(self, site: str, stage: masked_messages.Stage) -> Ask:
        return Ask(self._name, site, stage, 0.0)

    def _tell(self, asks: Mapping[str, Ask]) -> tuple[dict[str, Told], dict[str, str]]:
        """What sites answer to the asks, and the codes of those that do not."""
        answers, refused = dict[str, Told](), dict[str, str]()

        def write(site: str, expires: float) -> Packet:
            return masked_messages.pack_ask(
                replace(asks[site], expires=expires), self._roster.enrolled.signer
            )

        def read(site: str, request: Packet, reply: Packet) -> int:
            answer = masked_messages.unpack_told(reply, self._roster.enrolled.sites[site], request)
            if not answer.code:
                answers[site] = answer
            return _owed(site, answer.code, refused)

        codes = self._asking.ask(dict.fromkeys(asks, 1), write, read)
        return answers, codes | refused


def _total(
    question: Question,
    summed: Contribution,
    zero: Contribution,
    online: Sequence[str],
    lost: Mapping[str, str],
) -> Total:
    noised = question.plan.privacy is not None
    # noise may take a count below zero
    summed = replace(summed, cases=max(summed.cases, 0))
    if not summed.cases and not noised:
        if question.job.optional:
            return Total([], [], dict(lost))
        way_out = "larger sites, fewer folds or a lower minimum would help"
        raise question.failed(f"no site holds as many patients as it lets a sum cover; {way_out}")
    check(summed, zero, question.plan)
    return Total([summed], list(online), dict(lost), watched=None if noised else summed)


def _way_out(lost: Mapping[str, str]) -> str:
    settled = sorted(s for s, code in lost.items() if code == "M04")
    if settled:
        return f"Resuming is of no use, {', '.join(settled)} has said so for good: {CODES['M04'].way_out}"
    return "Mend the sites named and resume: nothing is lost, and the same sum is asked for"


def _owed(site: str, code: str, refused: dict[str, str]) -> int:
    """Answers that a site still owes, which has said this code; what it refuses is noted."""
    if code in AGAIN:
        raise RefusedError(code, f"'{site}' is not there just now")
    if code == "R09":
        return 1
    if code:
        refused[site] = code
    return 0


def _listed(codes: Mapping[str, str]) -> str:
    return "; ".join(f"{s}: {c} ({why(c)})" for s, c in codes.items()) or "nobody refused"
