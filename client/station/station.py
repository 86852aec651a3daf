"""Station of a site, which holds the data: admit a plan, contribute, release an update. It has no
network of its own.

At a hospital `client.station.socket_server` puts it behind a socket; in simulation the courier
calls this object in its own process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Generic, TypeVar

from client.cohort import reader
from client.site import public_counts, public_deadline, site_file
from client.site.public_deadline import MADE, Clock, Cost, Deadline
from client.site.site_file import Site
from client.site.site_log import SiteLog
from client.station import guard, time_forecast
from client.station.durable_state import Memory
from client.station.masked_step import MaskedSteps
from client.station.privacy_budget import Budget
from client.station.secure_aggregation import Secure
from client.station.work_queue import Jobs
from common import __version__
from common.data.cohort import ESTIMABLE, Cohort, Flow
from common.data.made_up import made_up
from common.errors import RefusedError, UsageError
from common.federated import learner
from common.federated.learner import Contribution, Federated, Plan
from common.federated.states import States
from common.privacy import random as system_random
from common.runtime.threads import fix_threads
from common.study import load as studies
from common.wire import signing
from common.wire.envelope import Packet
from common.wire.masked_messages import Ask, Told, pack_masked, pack_told, unpack_ask
from common.wire.messages import (
    NO_PLAN,
    Greeting,
    Hello,
    Request,
    Update,
    pack_hello,
    pack_updates,
    refusal,
    unpack_greeting,
    unpack_request,
)
from common.wire.signing import Signer
from common.wire.state_transfer import held_states

Asked = TypeVar("Asked", Greeting, Ask, Request)


@dataclass(frozen=True)
class Answer:
    """What leaves in answer to a message, and what of it goes on record: the plans that were asked,
    and what each has come to."""

    pack: Callable[[Signer, Packet], Packet]
    """Signed by the site, in answer to a packet."""
    plans: Sequence[Plan] = ()
    updates: Sequence[Update] = ()


@dataclass(frozen=True)
class Kind(Generic[Asked]):
    """A kind of message that a station answers."""

    unpack: Callable[[Packet, str], Asked]
    """Of a packet that the coordinator with this public key has signed; WireError where it has
    not."""
    work: Callable[[Asked, float | None], Answer]
    refused: Callable[[str], Answer]

    def answer(self, packet: Packet, coordinator: str, seconds: float | None) -> Answer:
        message = self.unpack(packet, coordinator)
        guard.timely(message)
        return self.work(message, seconds)


class Station:
    """Keeps the cohort warm between plans. Errors are written to the site's log in full; callers
    get codes only.

    at_work: one thread that works plans off, so that an answer can leave before all of its plans
    are done; None: whoever asks waits. clock: by which answers wait for their public time.
    """

    def __init__(
        self,
        site: Site,
        memory: Memory | None = None,
        at_work: Executor | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.site, self._memory, self._clock = site, memory or Memory(), clock or Clock()
        if site.privacy.noised and self._memory.budget is None:
            raise AssertionError("a site with a finite epsilon needs an account")
        self._log = SiteLog(site.log)
        self._held_states, self._lock = held_states(), threading.Lock()
        self._answering: set[str] = set()
        """Hashes of the cohorts that may be answered from."""
        self._secure = Secure(site.name, self._signer, site.privacy, self._memory.masks)
        self._jobs = Jobs(site.name, self._work, self._memory, self._log, at_work)
        budget = self._memory.budget
        self._masked = MaskedSteps(
            self._secure,
            self._lock,
            self._log,
            self.handle,
            self.cohort,
            self._zero,
            lambda: budget.head if budget else "",
        )
        self._kinds: Mapping[str, Kind[Greeting] | Kind[Ask] | Kind[Request]] = {
            "greeting": Kind(
                unpack_greeting,
                self._greeted,
                lambda code: Answer(partial(pack_hello, self._failed(code))),
            ),
            "secure": Kind(
                unpack_ask, self._asked, lambda code: Answer(partial(pack_told, Told(code)))
            ),
            "request": Kind(
                self._request,
                self._worked,
                lambda code: Answer(partial(pack_updates, [Update(NO_PLAN, None, code)])),
            ),
        }

    def stop(self) -> None:
        """No plan is begun from now on; the one that is being worked on is finished."""
        self._jobs.stop()
        self._clock.stop()

    def check(self) -> None:
        """Whatever a station that serves can lack (C04): it is found at the start, not in a
        round."""
        if not self.site.coordinator:
            raise UsageError(
                "C04",
                f"site '{self.site.name}' has pinned no coordinator; enrol it, and set "
                "`coordinator` in its site file",
            )
        self._signer()

    def note(self, text: str) -> None:
        """A line in the site's log."""
        self._log.error(text)

    def answer(self, packet: Packet, seconds: float | None = None) -> Packet:
        """The site's signed answer to what its coordinator signed; never raises. `seconds`: after
        which it says what is done by then."""
        started = time.monotonic()
        # without a key of its own a site can say no more than why
        answer = self._log.or_code(
            lambda: self._signed(packet, seconds), lambda code: refusal(packet, code)
        )
        spent = time.monotonic() - started
        self._log.info(
            f"{packet.kind}: {packet.size} bytes came, {answer.size} leave, {spent:.2f} s"
        )
        return answer

    def _signed(self, packet: Packet, seconds: float | None) -> Packet:
        """One sequence for whatever is asked: verify, look at its time, work, sign; on record
        before it leaves."""
        kind = self._kinds.get(packet.kind, self._kinds["request"])
        answer = self._log.or_code(
            lambda: kind.answer(packet, self.site.coordinator, seconds), kind.refused
        )
        signed = answer.pack(self._signer(), packet)
        if self._memory.audit is not None:
            with self._lock:
                seen = self._memory.snapshots
                self._memory.audit.left(
                    packet,
                    answer.plans,
                    answer.updates,
                    signed,
                    cohorts=seen.head if seen else "",
                    masks=self._secure.written(),
                )
        return signed

    def _greeted(self, greeting: Greeting, _: float | None) -> Answer:
        return Answer(
            partial(pack_hello, self.hello(greeting.study, greeting.task, greeting.schema))
        )

    def _asked(self, ask: Ask, _: float | None) -> Answer:
        with self._lock:
            return Answer(partial(pack_told, self._secure.answer(ask)))

    def _request(self, packet: Packet, coordinator: str) -> Request:
        with self._lock:
            return unpack_request(packet, coordinator, self._held_states)

    def _worked(self, request: Request, seconds: float | None) -> Answer:
        if any(p.secure for p in request.plans):
            masked, updates = self._masked.answer(request, seconds)
            return Answer(partial(pack_masked, masked), request.plans, updates)
        updates = self.handle(request, seconds)
        return Answer(partial(pack_updates, updates), request.plans, updates)

    def _zero(self, plan: Plan, states: States) -> Contribution:
        schema = self.cohort(plan.study, plan.task).schema
        guard.sound(plan, states, schema)
        zero = learner.identity(
            learner.load(plan.learner, plan.hyper), guard.states_for(plan, states), schema, plan
        )
        return zero if plan.privacy is None else replace(zero, tally={})

    def _signer(self) -> Signer:
        if self.site.key is None:
            raise UsageError(
                "C04",
                f"site '{self.site.name}' has no key to sign with; enrol it, and name `key` in "
                "its site file",
            )
        return _key(self.site.key)

    def hello(self, ref: str, task: str, schema: str) -> Hello:
        """Can this site take part in a task? Reads the cohort; never raises."""
        return self._log.or_code(lambda: self._hello(ref, task, schema), self._failed)

    def _hello(self, ref: str, task: str, schema: str) -> Hello:
        cohort = self.cohort(ref, task)
        if schema != cohort.schema.hash:
            raise RefusedError(
                "D07",
                f"the coordinator's schema of '{ref}' ({task}) is not this site's; use the same "
                "fedmets and study version",
            )
        privacy, budget = self.site.privacy, self._memory.budget
        noised = budget.counts if budget is not None else None
        counts = public_counts.by_class(cohort, noised)
        offered = guard.modalities(self.site, cohort)
        cases, imaged = (sum(c) for c in counts)
        estimable, imaged_estimable = (
            not self.site.pooled and sum(n >= ESTIMABLE for n in c) >= 2 for c in counts
        )
        seconds = time_forecast.load(self.site.state, Path(ref).name, task)
        if seconds and privacy.protected:
            seconds = public_deadline.first(seconds, 1.0)
        if privacy.require == "secagg":
            cases, imaged, estimable = 0, 0, False  # what is masked in every sum is not told here
        if "image" not in offered:
            imaged, imaged_estimable = 0, False
        open_ = cases >= self.site.minimum and not privacy.protected
        return Hello(
            site=self.site.name,
            version=__version__,
            schema=cohort.schema.hash,
            flow=_flow_counts(cohort.flow, self.site.minimum) if open_ else (),
            modalities=tuple(sorted(offered)),
            learners=learner.names(),
            cases=cases if cases >= self.site.minimum else 0,
            estimable=estimable,
            imaged=imaged if imaged >= self.site.minimum else 0,
            imaged_estimable=imaged_estimable,
            seconds=seconds,
            shares=privacy.shares,
            parts=public_counts.most_parts(
                self.site, public_counts.fewest(self.site, cohort, noised)
            ),
        )

    def _failed(self, code: str) -> Hello:
        return Hello.failed(code, self.site.name, __version__)

    def handle(self, request: Request, seconds: float | None = None) -> list[Update]:
        """One Update a plan, in their order; never raises. A plan that is not done after `seconds`
        gets the code R09."""
        return self._jobs.handle(request, seconds)

    def cohort(self, ref: str, task: str) -> Cohort:
        """The site's frozen snapshot for a task."""
        cohort = cohort_of(self.site, ref, task)
        if self._memory.snapshots is not None and cohort.hash not in self._answering:
            self._memory.snapshots.admit(ref, task, cohort, self.site.minimum)
            if self._memory.budget is not None:
                self._memory.budget.pin(self._memory.snapshots.head)
            self._answering.add(cohort.hash)
        return cohort

    def _work(self, plan: Plan, states: States) -> Contribution:
        cohort, policy = self.cohort(plan.study, plan.task), self.site.privacy
        self._memory.refusals.demand(self.site.coordinator, policy.refusals)
        asked_learner = guard.admit(plan, self.site, cohort, self._memory.budget)
        guard.sound(plan, states, cohort.schema)
        states = guard.states_for(plan, states)
        try:
            return self._summed(plan, states, cohort, asked_learner)
        except RefusedError as error:
            # under noise and masks a refusal tells nothing exact
            if not plan.protected and error.code in ("P01", "P02"):
                self._memory.refusals.note(self.site.coordinator, plan, error.code)
            raise

    def _summed(
        self, plan: Plan, states: States, cohort: Cohort, asked_learner: Federated
    ) -> Contribution:
        deadline = self._deadline(plan, states, cohort, asked_learner)
        with (
            public_deadline.kept(deadline, self._clock, self.note),
            system_random.repeatable(
                self.site.privacy.noise_seed,
                f"{plan.site} {plan.place} {plan.phase} {plan.privacy}",
            ),
        ):
            contribution = guard.contributed(
                asked_learner, states, cohort, plan, self.note, self.site.minimum
            )
            return guard.release(
                contribution,
                asked_learner,
                states,
                plan,
                cohort,
                self.site.minimum,
                self._memory.budget,
            )

    def _deadline(
        self, plan: Plan, states: States, cohort: Cohort, asked_learner: Federated
    ) -> Deadline | None:
        """When the answer leaves, by what is public alone; None: when the work is done."""
        policy, minimum = self.site.privacy, self.site.minimum
        if not (policy.protected and policy.answer_margin):
            return None
        counts = self._memory.budget.counts if self._memory.budget else None
        told = sum(public_counts.by_class(cohort, counts)[0]) if counts else None
        most = public_deadline.most_patients(policy, minimum, told, len(cohort))
        imaged = cohort.schema.imaging is not None and "image" in guard.modalities(
            self.site, cohort
        )
        cost = Cost.measured(
            lambda rows: guard.contributed(
                asked_learner, states, rows, plan, lambda _: None, one_by_one=True
            ),
            lambda sums: guard.noisy(sums, asked_learner, plan, cohort),
            lambda: made_up(cohort.schema, MADE, (plan.fold, plan.seed, plan.parts), imaged=imaged),
            self._clock,
        )
        return Deadline.of(policy, plan.learner, most, cost)


def _flow_counts(flow: Flow, minimum: int) -> tuple[int, ...]:
    """Patients read, left out, and without a known label; nothing where any is a few and no
    more."""
    left_out = flow.read - flow.kept
    few = any(0 < n < minimum for n in (left_out, flow.unknown_label))
    return () if few else (flow.read, left_out, flow.unknown_label)


@cache
def _key(path: Path) -> Signer:
    return signing.load(path)


@cache
def open_station(path: str) -> Station:
    """The station of a `site.toml`, one a process."""
    site = open_site(Path(path))
    return Station(
        site, Memory(budget=Budget(site.state, site.privacy) if site.privacy.noised else None)
    )


def open_site(path: Path) -> Site:
    """A `site.toml`, for whoever reads its data here. UsageError C01 where its log cannot be
    written."""
    fix_threads()
    site = site_file.load(path)
    try:
        SiteLog(site.log)
    except OSError as error:
        raise UsageError(
            "C01",
            f"site '{site.name}': its log '{site.log}' cannot be written ({error.strerror}); mend "
            f"`log` in {path}",
        ) from error
    return site


def cohort_of(site: Site, ref: str, task: str) -> Cohort:
    """A site's cohort for a task of a study that the site takes part in."""
    local = next((s for s in site.studies if s == ref or Path(s).name == Path(ref).name), None)
    if local is None:
        raise RefusedError(
            "C02",
            f"site '{site.name}' takes no part in study '{ref}'; site.toml allows "
            f"{', '.join(site.studies)}",
        )
    return _cohort(site, local, task)


@cache
def _cohort(site: Site, ref: str, task: str) -> Cohort:
    patients = (
        frozenset(site.patients.read_text(encoding="utf-8").split("\n")) - {""}
        if site.patients
        else None
    )
    reading = _table(ref, task, site.data, site.source, site.images, site.cache)
    cohort = reader.select(reading, site.name, patients)
    for line in reading.image_log(cohort.ids):
        SiteLog(site.log).info(line)
    return cohort


@lru_cache(maxsize=4)
def _table(
    ref: str, task: str, data: Path, source: str, images: Path | None, cache: Path
) -> reader.Reading:
    """Virtual sites of one table, in one process, read it once, and share one cache of its
    images."""
    return reader.read_table(
        studies.load(ref), task, data, source=source or None, images=images, cache=cache
    )
