"""Public deadline of an answer: under an epsilon or masks it leaves at a time that follows from what
is public alone, not when the work is done.

How long a plan takes is measured on made-up patients, whom no one knows anything of: what it takes
for nobody, and what one patient adds. As many patients as the site has at most, by what it tells,
might take `answer_margin` times as long, and so long an answer waits. The work on patients ends
before, by as much as is needed for what is done for nobody (noise): whose own is not done by then
adds nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from client.site.privacy_policy import Policy
from common.data.cohort import Cohort
from common.federated.learner import Contribution
from common.runtime import time_limit

Work = Callable[[Cohort], Contribution]
"""What is summed up over patients."""
Rest = Callable[[Contribution], object]
"""What is done with the sums, whoever is in them."""
MADE = 32
"""Patients that are made up."""
LEAST = 0.1
"""Seconds that an answer takes at least."""


class Clock:
    """The time that an answer waits for; ends waiting when the station stops."""

    def __init__(self) -> None:
        self._stopping = threading.Event()

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        if seconds > 0:
            self._stopping.wait(seconds)

    def stop(self) -> None:
        self._stopping.set()


@dataclass(frozen=True)
class Deadline:
    """Seconds from the beginning of the work."""

    patients: float
    """Until which patients are worked on."""
    answer: float
    """At which the answer leaves."""

    @classmethod
    def of(cls, policy: Policy, learner: str, most: int, cost: Cost) -> Deadline:
        """For `most` patients."""
        each = policy.patient_seconds.get(learner, policy.answer_margin * cost.patient)
        patients = max(most * each, LEAST / 2)
        return cls(patients, max(patients + policy.answer_margin * cost.nobody, LEAST))


@dataclass(frozen=True)
class Cost:
    """Seconds that a plan takes."""

    nobody: float
    patient: float
    """One more."""

    @classmethod
    def measured(cls, work: Work, rest: Rest, made: Callable[[], Cohort], clock: Clock) -> Cost:
        """Of `work` on patients whom `made` makes up anew each time, and of `rest` of it."""

        def seconds(rows: Cohort, then: Rest) -> float:
            began = clock.now()
            then(work(rows))
            return clock.now() - began

        # what is done once in a process is done then
        seconds(made(), lambda _: None)
        rows = made()
        patients = seconds(rows, rest)
        nobody = seconds(rows.where(np.zeros(len(rows), np.bool_)), rest)
        return cls(nobody, max(patients - nobody, 0.0) / len(rows))


def most_patients(policy: Policy, minimum: int, told: int | None, held: int) -> int:
    """How many an answer's time is for. Declared; else twice as many as are `told` (which may be
    noised), where any number is, else those that are `held`: of these the next power of two."""
    if policy.patients is not None:
        return policy.patients[1]
    return 1 << math.ceil(math.log2(max(held if told is None else 2 * told, minimum, 2)))


@contextmanager
def kept(deadline: Deadline | None, clock: Clock, note: Callable[[str], None]) -> Iterator[None]:
    """What is done within has its time, and ends at it, whatever comes of it; None: when it is
    done. What cannot be interrupted, and takes longer, ends at 2, 4, 8 ... times the time."""
    if deadline is None:
        yield
        return
    began, late = clock.now(), False

    def over() -> bool:
        nonlocal late
        late = late or clock.now() - began >= deadline.patients
        return late

    try:
        with time_limit.until(over):
            yield
    finally:
        spent = clock.now() - began
        if late:
            note(
                f"patients were worked on until their public time, {deadline.patients:.2f} s: whose "
                f"part was not done by then adds nothing ({spent:.2f} s in all). Where this comes "
                "again, raise privacy.answer_margin, or privacy.patient_seconds of the learner"
            )
        clock.wait(first(spent, deadline.answer) - spent)


def first(seconds: float, every: float) -> float:
    """The first of `every`, 2, 4, 8 ... times `every` (above 0) that is no earlier."""
    if seconds <= every:
        return every
    return every * 2.0 ** math.ceil(math.log2(seconds / every))
