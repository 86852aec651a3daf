"""Registration of sites, who takes part: those that registered, what each can do, and in which
order their sums are added."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from flwr.app import Message
from flwr.serverapp import Grid

from common import __version__
from common.data.schema import Schema
from common.errors import FederationError, FedmetsError
from common.wire.envelope import Packet
from common.wire.flower_records import HELLO, OUTLIVES, content, expiry, packet
from common.wire.messages import Greeting, Hello, pack_greeting, unpack_hello
from server.config.enrolled_sites import Enrolled
from server.config.jobs import Job
from server.config.run_config import Run
from server.rounds.transport import Post, why

PATIENCE = 30.0
"""Seconds that a site which came late has to say who it is."""


@dataclass(frozen=True)
class Roster:
    """The registered sites in the order in which their sums are added."""

    hellos: Mapping[str, Hello]
    nodes: Mapping[str, int]
    enrolled: Enrolled

    @property
    def ready(self) -> tuple[str, ...]:
        return tuple(s for s, h in self.hellos.items() if not h.code)

    @property
    def cases(self) -> Mapping[str, int]:
        """Site -> its labelled cases, 0 where it keeps so small a number to itself."""
        return {s: h.cases for s, h in self.hellos.items()}

    def groups(self, limit: int = 12) -> tuple[tuple[str, ...], ...]:
        """What leave-one-site-out leaves out: each estimable site by itself (the `limit` largest,
        where there are more), the others together; nothing with a single site."""
        largest = sorted(
            (s for s in self.ready if self.hellos[s].estimable),
            key=lambda s: (-self.hellos[s].cases, s),
        )[:limit]
        alone = tuple((s,) for s in self.ready if s in largest)
        others = tuple(s for s in self.ready if s not in largest)
        return (*alone, others) if alone and others else alone if len(alone) > 1 else ()

    def shared(self) -> int:
        """Into how many shares the sites' noise is divided: what all of them count on.
        FederationError R03 where one shares none, or counts on nobody."""
        counted_on = {
            s: (h.shares[0] or len(self.ready)) - 1 - h.shares[1] if h.shares else 0
            for s, h in self.hellos.items()
        }
        unwilling = [s for s, n in counted_on.items() if n < 1]
        if unwilling:
            raise FederationError(
                "R03",
                f"{', '.join(unwilling)} share no noise with the run's {len(self.ready)} sites: "
                "IT sets privacy.colluders there, low enough; or leave shared_noise out",
            )
        return min(counted_on.values())

    def able(self, job: Job) -> tuple[str, ...]:
        """The sites that a job asks: those that hold what its learner looks at, and are not left
        out."""
        return tuple(
            s
            for s in self.ready
            if s not in job.fold.sites and job.learner.modality <= set(self.hellos[s].modalities)
        )


@dataclass(frozen=True)
class Invitation:
    """The run and the task that sites are asked to take part in, and the keys by which they are
    known."""

    run: Run
    run_id: str
    enrolled: Enrolled
    task: str
    schema: Schema

    def packed(self) -> Packet:
        expires = expiry(self.run.deadline)
        return pack_greeting(
            Greeting(self.run_id, self.run.study, self.task, self.schema.hash, expires),
            self.enrolled.signer,
        )


def register(
    grid: Grid,
    invitation: Invitation,
    begun_with: Collection[str] = (),
    on_change: Callable[[Mapping[str, str]], None] = lambda sites: None,
) -> Roster:
    """Ask every node what it can do, until `run.expect` sites are ready or the deadline has passed
    (R03).

    A site that cannot take part (its data, schema or version) is an error that names it: it would
    otherwise be missing in silence. So is a node that answers for a site without that site's key. A
    run that is resumed goes on with the sites that it was `begun_with`. `on_change` is told who has
    come so far.
    """
    run, enrolled, post, started = invitation.run, invitation.enrolled, Post(grid), time.monotonic()
    nodes: dict[int, Hello] = {}
    wait = 0.05
    while True:
        remaining = run.deadline - (time.monotonic() - started)
        new = sorted(set(grid.get_node_ids()) - set(nodes))
        nodes |= _greet(post, new, remaining, invitation)
        hellos = {
            n: h
            for n, h in nodes.items()
            if not begun_with or h.site in begun_with or h.site not in enrolled.sites
        }
        ready = {h.site for h in hellos.values() if not h.code}
        if begun_with and ready >= set(begun_with):
            hellos = {n: h for n, h in hellos.items() if h.site in begun_with}
        faults = [
            f"site '{h.site or n}' cannot take part: {h.code} ({why(h.code)}); the reason is in "
            "the site's log"
            for n, h in hellos.items()
            if h.code
        ]
        names = [h.site for h in hellos.values()]
        on_change({h.site: h.code or "registered" for h in hellos.values()})
        faults += [
            f"{names.count(n)} nodes call themselves '{n}'; give each site its own name"
            for n in sorted(set(names))
            if names.count(n) > 1
        ]
        if faults:
            raise FederationError("R03", *faults)
        if len(hellos) >= (len(begun_with) or run.expect):
            break
        if time.monotonic() - started > run.deadline:
            lacking = (
                f"; lacking: {', '.join(sorted(set(begun_with) - ready))}" if begun_with else ""
            )
            raise FederationError(
                "R03",
                f"{len(hellos)} of {len(begun_with) or run.expect} sites registered within "
                f"{run.deadline:.0f} s: "
                f"{', '.join(names) or 'none'}{lacking}",
            )
        time.sleep(wait)
        wait = min(2 * wait, 1.0)
    order = sorted(hellos, key=lambda n: hellos[n].site)
    return Roster(
        {hellos[n].site: hellos[n] for n in order}, {hellos[n].site: n for n in order}, enrolled
    )


def joined_later(grid: Grid, invitation: Invitation, roster: Roster) -> list[str]:
    """The sites that are there now and took no part: they came when the run had begun."""
    new = sorted(set(grid.get_node_ids()) - set(roster.nodes.values()))
    hellos = _greet(Post(grid), new, min(invitation.run.deadline, PATIENCE), invitation)
    return sorted({h.site for h in hellos.values()} - set(roster.hellos))


def _greet(
    post: Post, nodes: Iterable[int], seconds: float, invitation: Invitation
) -> dict[int, Hello]:
    """What each node says of itself; a node that is there and says nothing must not be missing in
    silence."""
    greeting = invitation.packed()
    messages = {
        n: Message(
            content(greeting), n, HELLO, ttl=OUTLIVES * invitation.run.deadline, group_id="hello"
        )
        for n in nodes
    }
    replies = post.ask(messages, seconds, lambda _, reply: reply)
    hellos = {n: Hello.failed("R02", f"node {n}") for n in messages}
    for node, reply in replies.items():
        try:
            hellos[node] = _hello(packet(reply, "hello"), greeting, invitation)
        except FedmetsError as error:
            hellos[node] = Hello.failed(error.code, f"node {node}")
    return hellos


def _hello(reply: Packet, greeting: Packet, invitation: Invitation) -> Hello:
    hello = unpack_hello(reply, invitation.enrolled.sites, greeting)
    if not hello.code and hello.version != __version__:
        return replace(hello, code="P04")
    if not hello.code and hello.schema != invitation.schema.hash:
        return replace(hello, code="D07")
    return hello
