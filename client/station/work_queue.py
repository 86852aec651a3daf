"""Work queue of a station: one plan at a time, each of them once, whoever asks how often.

A repeated plan gets the stored answer, or joins the work that is under way. Who asks waits a while,
and gets the code R09 for what is not done by then; the work goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import replace
from functools import partial

from client.site.site_log import SiteLog
from client.station import guard
from client.station.answer_store import Answered
from client.station.durable_state import Memory
from common.federated import learner
from common.federated.learner import Contribution, Plan
from common.federated.states import States
from common.types import Arrays
from common.wire import compression
from common.wire.messages import Request, Update

Work = Callable[[Plan, States], Contribution]
"""What a plan asks for, admitted and released; raises what the site's log is told."""


class Jobs:
    """at_work: one thread that works plans off, so that an answer can leave before all of its plans
    are done; None: whoever asks waits."""

    def __init__(
        self,
        site: str,
        work: Work,
        memory: Memory,
        log: SiteLog,
        at_work: Executor | None,
    ) -> None:
        self._site, self._work, self._log, self._at_work = site, work, log, at_work
        self._answers, self._budget = memory.answers, memory.budget
        self._jobs: dict[tuple[str, str], tuple[int, Future[Answered]]] = {}
        """Run and question -> its step, and what is being worked on: one at a time, for there is
        one GPU, and one memory."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """No plan is begun from now on; the one that is being worked on is finished."""
        self._stopping.set()

    def handle(self, request: Request, seconds: float | None = None) -> list[Update]:
        """One Update a plan, in their order; never raises."""
        with self._lock:
            begun = [
                self._log.or_code(partial(self._begun, p, request.states), partial(_refused, p))
                for p in request.plans
            ]
        wait(begun, seconds)
        with self._lock:
            answers = [
                self._current_answer(p, job) for p, job in zip(request.plans, begun, strict=True)
            ]
            return self._log.or_code(
                lambda: self._settled(answers),
                # what could not be kept may not leave: it could not be told from a second answer
                lambda code: [
                    Update(a.update.plan_hash, None, a.update.code or code) for a in answers
                ],
            )

    def _settled(self, answers: list[Answered]) -> list[Update]:
        """Charge, then store, then reply: whatever dies in between has charged too much, never too
        little."""
        same = [self._same_account(a) for a in answers]
        head = self._budget.settle() if self._budget else ""
        self._answers.keep(answers)
        for answered in answers:
            if answered.update.code != "R09":
                self._jobs.pop((answered.plan.run, answered.plan.question), None)
        return [
            replace(a.update, budget=head if s else "") for a, s in zip(answers, same, strict=True)
        ]

    def _same_account(self, answered: Answered) -> bool:
        """An old copy does not tell its head to a coordinator that remembers a later one, which
        would take it for the newest. Who remembers none any more learns it with the stored answer
        to the same plan, in case it was the first answer that was lost on the way."""
        if self._budget is None:
            return False
        again = not answered.plan.budget and answered.update.contribution is not None
        return again or self._budget.knows(answered.plan.budget)

    def _begun(self, plan: Plan, states: States) -> Future[Answered]:
        stored = self._answers.of(plan) if plan.site == self._site else None
        if stored is not None:
            return _done(Answered(plan, stored))
        self._jobs = {k: v for k, v in self._jobs.items() if _still_wanted(k[0], *v, plan)}
        key = plan.run, plan.question
        if key not in self._jobs:
            guard.timely(plan)
            work = partial(self._answered, plan, states, self._answers.rest(plan))
            self._jobs[key] = (
                plan.step,
                self._at_work.submit(work) if self._at_work else _done(work()),
            )
        return self._jobs[key][1]

    def _current_answer(self, plan: Plan, job: Future[Answered]) -> Answered:
        """What a job has come to, as the answer to this very plan: it may have been asked with less
        time before."""
        if not job.done() or job.cancelled():
            return Answered(plan, Update(plan.hash, None, "R09"))
        answered = job.result()
        return Answered(
            plan,
            Update(plan.hash, answered.update.contribution, answered.update.code),
            answered.rest,
        )

    def _answered(self, plan: Plan, states: States, rest: Arrays) -> Answered:
        if self._stopping.is_set():
            return Answered(plan, Update(plan.hash, None, "R09"))
        return self._log.or_code(
            lambda: self._released(plan, states, rest),
            lambda code: Answered(plan, Update(plan.hash, None, code)),
        )

    def _released(self, plan: Plan, states: States, rest: Arrays) -> Answered:
        released = self._work(plan, states)
        if plan.transfer not in compression.ROUNDED:
            return Answered(plan, Update(plan.hash, released))
        rounded, residual = _rounded(plan, states, released, rest)
        return Answered(plan, Update(plan.hash, rounded), residual)


def _still_wanted(run: str, step: int, job: Future[Answered], plan: Plan) -> bool:
    """Is a job still waited for, now that this plan has come? A run that has gone on never asks for
    an earlier step."""
    if run == plan.run:
        return step >= plan.step or (not job.cancel() and job.running())
    return not job.done()


def _rounded(
    plan: Plan, states: States, released: Contribution, rest: Arrays
) -> tuple[Contribution, Arrays]:
    """What leaves in place of new parameters, their rounded change, and what is left for the next
    one; anything else leaves as it is."""
    asked_learner = learner.load(plan.learner, plan.hyper)
    parameters = compression.averaged(
        asked_learner, states.get(plan.fold, {}).get(asked_learner.name, {}), released.sums
    )
    if parameters is None:
        return released, {}
    return compression.thin(released, parameters, rest, plan.transfer)


def _refused(plan: Plan, code: str) -> Future[Answered]:
    return _done(Answered(plan, Update(plan.hash, None, code)))


def _done(answered: Answered) -> Future[Answered]:
    future: Future[Answered] = Future()
    future.set_result(answered)
    return future
