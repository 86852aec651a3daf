"""Secure aggregation at the coordinator: keys once a run, then three messages a step: masked vectors, who is online, shares of seeds.

It learns the sum over the sites whose vectors came, and no site's own. Who is online is on disk before any site is told: a run that is
resumed asks for the same sum, for no site would help with another one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from flwr.app import Message

from common.errors import FederationError, FedmetsError, RefusedError, RunError, WireError
from common.federated.learner import Contribution, Plan
from common.secure_aggregation import fixed_point, group
from common.secure_aggregation.fixed_point import Words
from common.wire import masked_messages
from common.wire.envelope import Packet
from common.wire.flower_records import OUTLIVES, SECURE, WORK, content, packet
from common.wire.masked_messages import Ask, Masked, Told
from common.wire.messages import pack_request, unpack_updates
from server.config.run_config import Run
from server.ledger import state_store
from server.rounds.open_sums import limit
from server.rounds.registration import Roster
from server.rounds.state_delivery import Lot, Shelf
from server.rounds.transport import Post, why

NAME = "online.json"

T = TypeVar("T")


@dataclass
class Summed:
    """What one step came to."""

    totals: list[Contribution] = field(default_factory=list)
    """One a plan, over all online sites."""
    outcome: dict[str, str] = field(default_factory=dict)
    """Site -> `contributed`, or the code of why it is not in the sum."""
    budgets: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    received: int = 0


class Secure:
    """Of one run."""

    def __init__(self, post: Post, run: Run, run_id: str, roster: Roster, folder: Path) -> None:
        self._post, self._run, self._name, self._roster, self._path = post, run, run_id, roster, folder / NAME
        self.group = group.group(roster.ready)
        self._keys: dict[str, tuple[str, str]] = {}
        self._heard: Callable[[str], None] = lambda site: None

    def agree(self) -> None:
        """Every site tells its key, and takes the others'. FederationError R03: some do not, and without keys no site masks."""
        told = self._all("key", lambda site: self._ask(site, "key"))
        self._keys = {s: (t.public, t.signature) for s, t in told.items()}
        self._all("group", lambda site: replace(self._ask(site, "group"), keys=self._keys))

    def _all(self, stage: str, ask: Callable[[str], Ask]) -> dict[str, Told]:
        found, codes = self._tell({s: ask(s) for s in self.group.sites}, Summed())
        if codes:
            raise FederationError(
                "R03", f"the sites exchanged no keys for sums that are masked ({stage}): {_said(codes)}; their logs say more"
            )
        return found

    def sum(
        self,
        plans: Mapping[str, list[Plan]],
        lot: Lot,
        shelf: Shelf,
        zeros: Sequence[Contribution],
        heard: Callable[[str], None] = lambda site: None,
    ) -> Summed:
        """One step; `heard` is told of each site that answers. FederationError R01 where too few sites take part in it."""
        self._heard = heard
        out = Summed()
        first = next(iter(plans.values()))
        step, place = first[0].step, masked_messages.place(first, self.group)
        only = self._begun(place)
        total, sealed = self._vectors({s: p for s, p in plans.items() if s in only}, lot, shelf, out)
        out.outcome |= {s: "R02" for s in plans if s not in only}
        online = tuple(sorted(sealed))
        self._demand(online, only, out.outcome)
        state_store.write(self._path, json.dumps({"place": place, "online": online}).encode())
        asks = {s: replace(self._ask(s, "online"), step=step, place=place, online=online) for s in online}
        agreed, lost = self._tell(asks, out)
        signed = {s: t.signature for s, t in agreed.items()}
        blobs = {s: {sender: sealed[sender][s] for sender in online} for s in agreed}
        asks = {s: replace(asks[s], stage="reveal", signed=signed, sealed=blobs[s]) for s in agreed}
        told, silent = self._tell(asks, out)
        out.budgets = {s: b for s, b in out.budgets.items() if b}
        self._unmask(online, {s: t.shares for s, t in told.items()}, total, {**lost, **silent})
        like = masked_messages.joined(zeros)
        out.totals = masked_messages.parted(dict(fixed_point.decode(total, like, masked_messages.scale(self.group), len(online))), zeros)
        out.outcome |= dict.fromkeys(online, "contributed")
        return out

    def _unmask(
        self, online: tuple[str, ...], told: Mapping[str, Mapping[str, group.Shares]], total: Words, lost: Mapping[str, str]
    ) -> None:
        try:
            group.unmask(self.group, online, told, total)
        except FedmetsError as error:
            sites = ", ".join(online)
            raise FederationError("R01", f"the sum over {sites} could not be unmasked: {error} ({_said(lost)}); resume the run") from error

    def _begun(self, place: str) -> tuple[str, ...]:
        """The sites that may be in the sum: all, or those that were told for this very step before the run was broken off."""
        if not self._path.exists():
            return self.group.sites
        try:
            held = json.loads(self._path.read_text())
            return tuple(held["online"]) if held["place"] == place else self.group.sites
        except (OSError, ValueError, KeyError) as error:
            raise RunError("S02", f"'{self._path}' is damaged ({error}); restore the run folder, or start a new run") from error

    def _demand(self, online: tuple[str, ...], only: tuple[str, ...], lost: Mapping[str, str]) -> None:
        """Enough sites for a secure sum and for the quorum; and those that were told of this very sum before, if any were."""
        said = _said(lost)
        try:
            self.group.demand(online)
        except RefusedError as error:
            raise FederationError("R01", f"{error} ({said}); mend the sites named and resume") from error
        if len(online) < self._run.quorum * len(self.group.sites) - 1e-9 or (only != self.group.sites and online != only):
            raise FederationError(
                "R01",
                f"{len(online)} of {len(self.group.sites)} sites sent a masked vector, quorum is {self._run.quorum:g} of all, and of those "
                f"that were told of this sum each ({', '.join(only)}): {said}; mend the sites named and resume",
            )

    def _vectors(
        self, plans: Mapping[str, list[Plan]], lot: Lot, shelf: Shelf, out: Summed
    ) -> tuple[Words, dict[str, Mapping[str, bytes]]]:
        """The sum of the masked vectors that came, and by site what it sealed. Vectors are added as they come: one is in memory."""
        total: Words | None = None
        sealed: dict[str, Mapping[str, bytes]] = {}

        def make(site: str) -> tuple[str, Packet]:
            expires = time.time() + OUTLIVES * self._run.deadline
            mine = [replace(p, expires=expires) for p in plans[site]]
            return WORK, pack_request(mine, shelf.packed(lot, site), self._roster.enrolled.signer)

        def take(site: str, asked: Packet, reply: Message) -> Masked:
            nonlocal total
            key = self._roster.enrolled.sites[site]
            if "masked" not in reply.content and not reply.has_error():
                updates = unpack_updates(packet(reply, "updates"), key, asked)
                code = next((u.code for u in updates if u.code), "W02")
                if code == "W03":
                    shelf.forget(site)
                raise RefusedError(code, "the site could not read the request")
            came = masked_messages.unpack_masked(packet(reply, "masked"), key, asked, self.group.sites)
            out.received += came.vector.nbytes
            if came.code:
                raise RefusedError(came.code, "the site sent no vector")
            if total is not None and came.vector.shape != total.shape:
                raise WireError("M02", f"'{site}' sent {came.vector.size} numbers, the others {total.size}")
            total = came.vector.copy() if total is None else np.add(total, came.vector, out=total)
            sealed[site], out.budgets[site] = came.sealed, came.budget
            shelf.holds(site, lot)
            return came

        _, codes = self._deliver(list(plans), make, take, out)
        out.outcome |= codes
        return (np.zeros(0, np.uint64) if total is None else total), sealed

    def _ask(self, site: str, stage: masked_messages.Stage) -> Ask:
        return Ask(self._name, site, stage, 0.0)

    def _tell(self, asks: Mapping[str, Ask], out: Summed) -> tuple[dict[str, Told], dict[str, str]]:
        def make(site: str) -> tuple[str, Packet]:
            ask = replace(asks[site], expires=time.time() + OUTLIVES * self._run.deadline)
            return SECURE, masked_messages.pack_ask(ask, self._roster.enrolled.signer)

        def take(site: str, asked: Packet, reply: Message) -> Told:
            got = packet(reply, "secured")
            out.received += got.size
            told = masked_messages.unpack_told(got, self._roster.enrolled.sites[site], asked)
            if told.code:
                raise RefusedError(told.code, "the site refused")
            return told

        return self._deliver(list(asks), make, take, out)

    def _deliver(
        self, sites: Sequence[str], make: Callable[[str], tuple[str, Packet]], take: Callable[[str, Packet, Message], T], out: Summed
    ) -> tuple[dict[str, T], dict[str, str]]:
        """Ask each site, again where it is at work or silent. What `take` made of the answers, and the codes of who gave none."""
        found: dict[str, T] = {}
        codes: dict[str, str] = {}
        left = dict.fromkeys(sites, self._run.retries)
        since = time.monotonic()
        while left:
            made = {s: make(s) for s in left}
            out.sent += sum(p.size for _, p in made.values())
            messages = {
                self._roster.nodes[s]: Message(content(p), self._roster.nodes[s], kind, ttl=OUTLIVES * self._run.deadline)
                for s, (kind, p) in made.items()
            }
            of = {self._roster.nodes[s]: s for s in made}

            def one(
                node: int, reply: Message, of: Mapping[int, str] = of, made: Mapping[str, tuple[str, Packet]] = made
            ) -> T | FedmetsError:
                if not reply.has_error():
                    self._heard(of[node])
                try:
                    return take(of[node], made[of[node]][1], reply)
                except FedmetsError as error:
                    return error

            replies = self._post.ask(messages, self._run.deadline, one)
            for node, site in of.items():
                got = replies.get(node, FederationError("R02", "no answer"))
                if not isinstance(got, FedmetsError):
                    found[site] = got
                elif got.code == "R09" and time.monotonic() - since < limit(self._run, self._roster, site):
                    continue
                elif left[site] and got.code in ("R02", "W03", "R09"):
                    left[site] -= 1
                    continue
                else:
                    codes[site] = got.code
                del left[site]
        return found, codes


def _said(codes: Mapping[str, str]) -> str:
    return "; ".join(f"{s}: {c} ({why(c)})" for s, c in codes.items()) or "nobody refused"
