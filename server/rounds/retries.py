"""Retry with a deadline: the one loop by which a run's sites are asked, and asked again.

A site answers within the deadline, if only that it is still at work (R09), with what it has done by
then. It is asked again as long as it gets on: a large hospital is not dropped for being large. One
that says nothing, or nothing that can be believed, is tried again a few times. What a site has
refused under its signature is an answer, and is not asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from common.errors import FederationError, FedmetsError, RunError
from common.wire.envelope import Packet
from common.wire.flower_records import OUTLIVES, SECURE, WORK, content, expiry, packet
from server.config.run_config import Run
from server.ledger.heartbeat import Heartbeat
from server.rounds.disk_spool import SMALL
from server.rounds.registration import Roster
from server.rounds.state_delivery import Shelf
from server.rounds.transport import Post

FEW = 4
"""Large answers that are pulled together."""
PATIENCE = 3.0
"""How many times as long as a site has forecast one plan may take."""
LONGEST = 86_400.0
"""Seconds that no forecast makes longer: a site that is always at work must not hold a run up for
ever."""

Write = Callable[[str, float], Packet]
"""Site and expiry -> what it is asked now."""
Read = Callable[[str, Packet, Packet], int]
"""Site, what it was asked, and its answer -> how many answers it still owes. Raises a FedmetsError
for what is not believed."""


@dataclass
class _Asked:
    """One site."""

    owes: int
    since: float = field(default_factory=time.monotonic)
    """When it last got on."""
    tries: int = 0
    resent: bool = False

    def after(self, result: int | FedmetsError, retries: int, limit: float) -> tuple[str, bool]:
        """Its code, empty where all has come; and whether it is not asked again."""
        if isinstance(result, FedmetsError):
            if result.code == "W03" and not self.resent:
                self.resent = True
                return result.code, False
            self.tries += 1
            return result.code, self.tries > retries
        now = time.monotonic()
        if result < self.owes:
            self.owes, self.since = result, now
        return ("R09", now - self.since > limit) if result else ("", True)


@dataclass
class Asking:
    """A run's messages to its sites. `sent`, `received`: bytes."""

    post: Post
    run: Run
    roster: Roster
    shelf: Shelf
    heartbeat: Heartbeat
    sent: int = 0
    received: int = 0

    def ask(
        self, owed: Mapping[str, int], write: Write, read: Read, group: str = "", large: int = 0
    ) -> dict[str, str]:
        """Ask each site until it has given the answers that it owes, or is given up: then the code
        of why.

        group: Flower's, by which a late answer is told; large: bytes of the answers that are
        expected, by which few are pulled together.
        """
        waiting = {s: _Asked(n) for s, n in owed.items()}
        codes: dict[str, str] = {}
        while waiting:
            tries = max(a.tries for a in waiting.values())
            if tries:
                time.sleep(min(0.05 * 4**tries, self.run.deadline / 10))
            expires = expiry(self.run.deadline)
            results = self._once(
                {s: write(s, expires) for s in waiting},
                read,
                group,
                FEW if large > SMALL else 10_000,
            )
            for site, result in results.items():
                code, over = waiting[site].after(result, self.run.retries, self.limit(site))
                if code == "W03":
                    self.shelf.forget(site)
                if over:
                    del waiting[site]
                if over and code:
                    codes[site] = code
        return codes

    def _once(
        self, packets: Mapping[str, Packet], read: Read, group: str, at_once: int
    ) -> dict[str, int | FedmetsError]:
        nodes, ttl = self.roster.nodes, OUTLIVES * self.run.deadline
        sites = {nodes[s]: s for s in packets}
        messages = {}
        for site, request in packets.items():
            self.sent += request.size
            kind = SECURE if request.kind == "secure" else WORK
            messages[nodes[site]] = Message(
                content(request), nodes[site], kind, ttl=ttl, group_id=group
            )

        def take(node: int, reply: Message) -> int | FedmetsError:
            site = sites[node]
            if not reply.has_error():
                self.heartbeat.contact(site)
            try:
                answer = packet(reply, "updates", "masked", "secured")
                self.received += answer.size
                return read(site, packets[site], answer)
            except RunError:
                raise
            except FedmetsError as error:
                return error

        replies = self.post.ask(messages, self.run.deadline, take, at_once=at_once)
        silence = FederationError("R02", f"no answer within {self.run.deadline:g} s")
        return {site: replies.get(node, silence) for node, site in sites.items()}

    def limit(self, site: str) -> float:
        """Seconds that a site may be at work on one plan: by its own forecast, where its doctor has
        made one."""
        forecast = min(PATIENCE * self.roster.hellos[site].seconds, LONGEST)
        return max(self.run.deadline * (self.run.retries + 1), forecast)
