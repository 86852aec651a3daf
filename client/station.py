"""The site's station, which holds the data: admit a plan, contribute, release an update. It has no network of its own.

At a hospital `client.service` puts it behind a socket; in simulation the courier calls this object in its own process.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import traceback
from concurrent.futures import Executor, Future, wait
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

import common
from client import forecast, guard, intake
from client import site as site_file
from client.answers import Answered, Answers
from client.held import Held
from client.site import Site
from common import keys, learner, study, transfer
from common.cohort import ESTIMABLE, UNKNOWN, Cohort
from common.errors import FedmetsError, RefusedError, UsageError
from common.exchange import (
    NO_PLAN,
    Hello,
    Packet,
    Request,
    States,
    Update,
    pack_hello,
    pack_updates,
    refusal,
    unpack_greeting,
    unpack_request,
)
from common.keys import Signer
from common.learner import Contribution, Plan
from common.threads import fix_threads
from common.types import Arrays


class Station:
    """Keeps the cohort warm between plans. Errors are written to the site's log in full; callers get codes only.

    at_work: one thread that works plans off, so that an answer can leave before all of its plans are done; None: whoever asks waits.
    """

    def __init__(self, site: Site, answers: Answers | None = None, at_work: Executor | None = None) -> None:
        self.site = site
        self._log = _logger(site.log)
        self._answers = answers or Answers()
        self._held = Held()
        self._at_work = at_work
        self._jobs: dict[tuple[str, str], tuple[int, Future[Answered]]] = {}
        """Run and question -> its step, and what is being worked on: one at a time, for there is one GPU, and one memory."""
        self._one = threading.Lock()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """No plan is begun from now on; the one that is being worked on is finished."""
        self._stopping.set()

    def check(self) -> None:
        """Whatever a station that serves can lack (C04): it is found at the start, not in a round."""
        if not self.site.coordinator:
            raise UsageError("C04", f"site '{self.site.name}' has pinned no coordinator; enrol it, and set `coordinator` in its site file")
        self._signer()

    def note(self, text: str) -> None:
        """A line in the site's log."""
        self._log.error("%s", _one_line(text))

    def answer(self, packet: Packet, seconds: float | None = None) -> Packet:
        """The site's signed answer to what its coordinator signed; never raises. `seconds`: after which it says what is done by then."""
        started = time.monotonic()
        try:
            if packet.kind == "greeting":
                answer = pack_hello(self._greeted(packet), self._signer(), packet)
            else:
                answer = pack_updates(self._worked(packet, seconds), self._signer(), packet)
        except Exception as error:
            # without a key of its own a site can say no more than why
            answer = refusal(packet, self._note(error))
        spent = time.monotonic() - started
        self._log.info("%s: %d bytes came, %d leave, %.2f s", packet.kind, packet.size, answer.size, spent)
        return answer

    def _greeted(self, packet: Packet) -> Hello:
        try:
            greeting = unpack_greeting(packet, self.site.coordinator)
            if time.time() > greeting.expires:
                raise RefusedError("P04", f"the greeting expired {time.time() - greeting.expires:.0f} s ago; check the clocks")
        except FedmetsError as error:
            return Hello.failed(self._note(error), self.site.name, common.__version__)
        return self.hello(greeting.study, greeting.task, greeting.schema)

    def _worked(self, packet: Packet, seconds: float | None) -> list[Update]:
        try:
            with self._one:
                request = unpack_request(packet, self.site.coordinator, self._held)
        except FedmetsError as error:
            return [Update(NO_PLAN, None, self._note(error))]
        return self.handle(request, seconds)

    def _signer(self) -> Signer:
        if self.site.key is None:
            raise UsageError("C04", f"site '{self.site.name}' has no key to sign with; enrol it, and name `key` in its site file")
        return _key(self.site.key)

    def hello(self, ref: str, task: str, schema: str) -> Hello:
        """Can this site take part in a task? Reads the cohort; never raises."""
        try:
            cohort = self.cohort(ref, task)
            if schema != cohort.schema.hash:
                raise RefusedError(
                    "D07", f"the coordinator's schema of '{ref}' ({task}) is not this site's; use the same fedmets and study version"
                )
            cases = int((cohort.labels != UNKNOWN).sum())
            counts = np.bincount(cohort.labels[cohort.labels != UNKNOWN], minlength=2)
            pictured = np.bincount(cohort.labels[(cohort.labels != UNKNOWN) & cohort.imaged], minlength=2)
            return Hello(
                site=self.site.name,
                version=common.__version__,
                schema=cohort.schema.hash,
                modalities=tuple(sorted(cohort.modalities)),
                learners=learner.names(),
                cases=cases if cases >= self.site.minimum else 0,
                estimable=not self.site.pooled and bool((counts >= ESTIMABLE).sum() >= 2),
                imaged=int(pictured.sum()) if pictured.sum() >= self.site.minimum else 0,
                imaged_estimable=not self.site.pooled and bool((pictured >= ESTIMABLE).sum() >= 2),
                seconds=forecast.load(self.site.state, Path(ref).name, task),
            )
        except Exception as error:
            return Hello.failed(self._note(error), self.site.name, common.__version__)

    def handle(self, request: Request, seconds: float | None = None) -> list[Update]:
        """One Update a plan, in their order; never raises. A repeated plan gets the stored answer, or joins the work that is under way.

        A plan that is not done after `seconds` gets the code R09, and the work goes on.
        """
        with self._one:
            begun = [self._begun(p, request.states) for p in request.plans]
        wait(begun, seconds)
        with self._one:
            now = [self._now(p, job) for p, job in zip(request.plans, begun, strict=True)]
            try:
                self._answers.keep(now)
            except Exception as error:
                # what could not be kept may not leave: it could not be told from a second answer
                code = self._note(error)
                return [Update(a.update.plan_hash, None, a.update.code or code) for a in now]
            for answered in now:
                if answered.update.code != "R09":
                    self._jobs.pop((answered.plan.run, answered.plan.question), None)
            return [a.update for a in now]

    def cohort(self, ref: str, task: str) -> Cohort:
        """The site's frozen snapshot for a task."""
        local = next((s for s in self.site.studies if s == ref or Path(s).name == Path(ref).name), None)
        if local is None:
            raise RefusedError(
                "C02", f"site '{self.site.name}' takes no part in study '{ref}'; site.toml allows {', '.join(self.site.studies)}"
            )
        return _cohort(self.site, local, task)

    def _begun(self, plan: Plan, states: States) -> Future[Answered]:
        try:
            stored = self._answers.of(plan) if plan.site == self.site.name else None
            if stored is not None:
                return _done(Answered(plan, stored))
            self._jobs = {k: v for k, v in self._jobs.items() if _wanted(k[0], *v, plan)}
            key = plan.run, plan.question
            if key not in self._jobs:
                guard.timely(plan)
                rest = self._answers.rest(plan)
                job = self._at_work.submit(self._answered, plan, states, rest) if self._at_work else None
                self._jobs[key] = plan.step, job or _done(self._answered(plan, states, rest))
            return self._jobs[key][1]
        except Exception as error:
            return _done(Answered(plan, Update(plan.hash, None, self._note(error))))

    def _now(self, plan: Plan, job: Future[Answered]) -> Answered:
        """What a job has come to, as the answer to this very plan: it may have been asked with less time before."""
        if not job.done() or job.cancelled():
            return Answered(plan, Update(plan.hash, None, "R09"))
        was = job.result()
        return Answered(plan, Update(plan.hash, was.update.contribution, was.update.code), was.rest)

    def _answered(self, plan: Plan, states: States, rest: Arrays) -> Answered:
        try:
            if self._stopping.is_set():
                return Answered(plan, Update(plan.hash, None, "R09"))
            released = self._work(plan, states)
            if plan.transfer not in transfer.ROUNDED:
                return Answered(plan, Update(plan.hash, released))
            thin, left = _rounded(plan, states, released, rest)
            return Answered(plan, Update(plan.hash, thin), left)
        except Exception as error:
            return Answered(plan, Update(plan.hash, None, self._note(error)))

    def _work(self, plan: Plan, states: States) -> Contribution:
        cohort = self.cohort(plan.study, plan.task)
        asked = guard.admit(plan, self.site, cohort)
        state = guard.state_for(plan, states)
        return guard.release(asked.contribute(state, cohort, plan), asked, state, plan, cohort, self.site.minimum)

    def _note(self, error: Exception) -> str:
        """Write the error to the site's log; return the code, the only thing that may leave."""
        if isinstance(error, FedmetsError):
            self._log.error("%s", FedmetsError(error.code, *map(_one_line, error.faults)))
            return error.code
        told = "".join(traceback.format_exception(error))
        self._log.error("[X01] %s", "\n".join(map(_one_line, told.split("\n"))))
        return "X01"


def _wanted(run: str, step: int, job: Future[Answered], plan: Plan) -> bool:
    """Is a job still waited for, now that this plan has come? A run that has gone on never asks for an earlier step."""
    if run == plan.run:
        return step >= plan.step or (not job.cancel() and job.running())
    return not job.done()


def _rounded(plan: Plan, states: States, released: Contribution, rest: Arrays) -> tuple[Contribution, Arrays]:
    """What leaves in place of new parameters, their rounded change, and what is left for the next one; anything else leaves as it is."""
    asked = learner.load(plan.learner, plan.hyper)
    parameters = transfer.averaged(asked, guard.state_for(plan, states).get(asked.name, {}), released.sums)
    if parameters is None:
        return released, {}
    thin, left = transfer.thin(released, parameters, rest.get(transfer.REST), plan.transfer)
    return thin, {transfer.REST: left}


def _done(answered: Answered) -> Future[Answered]:
    future: Future[Answered] = Future()
    future.set_result(answered)
    return future


@cache
def _key(path: Path) -> Signer:
    return keys.load(path)


@cache
def open_station(path: str) -> Station:
    """The station of a `site.toml`, one a process."""
    fix_threads()
    site = site_file.load(Path(path))
    try:
        return Station(site)
    except OSError as error:
        raise UsageError(
            "C01", f"site '{site.name}': its log '{site.log}' cannot be written ({error.strerror}); mend `log` in {path}"
        ) from error


@cache
def _cohort(site: Site, ref: str, task: str) -> Cohort:
    patients = frozenset(site.patients.read_text(encoding="utf-8").split("\n")) - {""} if site.patients else None
    reading = _table(ref, task, site.data, site.source, site.images, site.cache)
    cohort = intake.select(reading, site.name, patients)
    for line in reading.told(cohort.ids):
        _logger(site.log).info("%s", _one_line(line))
    return cohort


_CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")


def _one_line(text: str) -> str:
    """What stands in a file's name must not look like a line of the log."""
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


@lru_cache(maxsize=4)
def _table(ref: str, task: str, data: Path, source: str, images: Path | None, cache: Path) -> intake.Reading:
    """Virtual sites of one table, in one process, read it once, and share one cache of its images."""
    return intake.read_table(study.load(ref), task, data, source=source or None, images=images, cache=cache)


def _logger(path: Path) -> logging.Logger:
    log = logging.getLogger(f"fedmets.station.{path}")
    if not log.handlers:
        # opened now: an error that cannot be written here would otherwise leave by another way
        # a file's name may hold bytes that are no text
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log
