"""Public deadlines, by a clock of the tests' own: when an answer leaves follows from what is public,
and who is not done by then adds nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.site import public_deadline
from client.site.privacy_policy import Policy
from client.site.public_deadline import MADE, Clock, Cost, Deadline
from client.site.site_file import Site
from client.station import guard
from client.station.durable_state import Memory
from client.station.station import Station
from common.data.cohort import Cohort, Fold
from common.data.made_up import made_up
from common.federated.learner import Contribution, Plan, load, local_plan
from common.learners.image import with_images
from common.networks.crops import case_crops
from common.runtime import time_limit
from common.study import load as studies
from tests.pictures import schema as pictured
from tests.synthetic import cohort

HERE = cohort(30, seed=4)
LEARNER = load("private_logistic")
PLAN = replace(
    local_plan(Fold(), 0, 5), site="N", learner="private_logistic", phase="newton", secure=True
)
STATES = {Fold(): {"private_logistic": LEARNER.start(HERE.schema, 0)}}
PEERS = dict.fromkeys("ab", "0" * 64)
NONE = Path("/dev/null")


class Hands(Clock):
    """A clock that stands still unless somebody moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += max(seconds, 0.0)


class Takes:
    """A learner that takes a second of each made-up patient, and as many as are said of each other;
    asked for one after another."""

    def __init__(self, clock: Hands, seconds: dict[str, float]) -> None:
        self._clock, self._seconds = clock, seconds

    def __getattr__(self, name: str) -> Any:
        if name == "summands":
            raise AttributeError(name)
        return getattr(LEARNER, name)

    def contribute(self, states: Any, rows: Cohort, plan: Plan) -> Contribution:
        for i in rows.ids:
            self._clock.at += 1.0 if i.startswith("made up") else self._seconds.get(i, 0.0)
        own = np.array([len(rows), rows.labels.sum()], np.float64)
        return Contribution({"a": own / 8}, len(rows))


def answered(
    rows: Cohort, seconds: dict[str, float], policy: Policy, plan: Plan = PLAN
) -> tuple[Contribution, float, list[str]]:
    """What leaves, when, and what the site's log says. Noise takes two seconds, whoever is there."""
    clock, said = Hands(), list[str]()
    site = Site("N", NONE, studies=("s",), minimum=0, privacy=policy, log=NONE)
    station = Station(site, Memory(), clock=clock)
    station.note = said.append  # type: ignore[method-assign]

    def noise(sums: Contribution, *_: object) -> Contribution:
        clock.at += 2.0
        return sums

    with mock.patch.object(guard, "noisy", noise):
        out = station._summed(plan, STATES, rows, cast(Any, Takes(clock, seconds)))
    return out, clock.at, said


def masked(**keys: Any) -> Policy:
    return Policy(require="secagg", peers=PEERS, **{"patients": (5, 40), **keys})


SECONDS = st.dictionaries(st.sampled_from(HERE.ids), st.floats(0, 6), max_size=30)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 29), min_size=1), SECONDS, st.floats(1.0, 8.0))
def test_an_answer_leaves_at_a_time_that_no_patient_has_a_part_in(
    there: set[int], seconds: dict[str, float], margin: float
) -> None:
    """Whoever there is, whatever a state makes their work take."""
    rows = HERE.where(np.isin(np.arange(30), sorted(there)))
    policy = masked(answer_margin=margin)
    _, nobody, _ = answered(HERE.where(np.zeros(30, np.bool_)), {}, policy)
    _, at, _ = answered(rows, seconds, policy)
    rehearsed = 2 * MADE + 4
    assert nobody == pytest.approx(rehearsed + margin * (40 + 2))
    # one patient's work is not interrupted: it may outlast what is left for what is done for nobody
    if max(seconds.values(), default=0.0) <= 2 * margin:
        assert at == pytest.approx(nobody)
    times = (at - rehearsed) / (nobody - rehearsed)
    assert math.log2(times) == pytest.approx(round(math.log2(times)))


@settings(max_examples=25, deadline=None)
@given(SECONDS, st.floats(0.1, 3.0))
def test_whose_own_is_not_done_by_then_adds_nothing_and_the_others_do(
    seconds: dict[str, float], each: float
) -> None:
    policy = masked(patient_seconds={"private_logistic": each})
    sums, _, said = answered(HERE, seconds, policy)
    spent = np.cumsum([seconds.get(i, 0.0) for i in HERE.ids])
    done = spent < 40 * each
    plain = Policy()
    want, _, quiet = answered(HERE.where(done), {}, plain)
    assert quiet == []
    assert sums.cases == len(HERE), "whom the plan looks at, in time or not"
    assert all(np.array_equal(v, want.sums[k]) for k, v in sums.sums.items())
    assert bool(said) == (not done.all())
    assert all("privacy.patient_seconds" in s for s in said)


def test_what_cannot_be_taken_apart_and_is_late_adds_nothing() -> None:
    """A learner without a bound, under masks: its patients are not added one by one."""
    with mock.patch.object(guard, "bounded", return_value=None):
        for apart in (False, True):
            for passed in (False, True):
                with time_limit.until([bool, lambda: True][passed]):
                    sums = guard.contributed(LEARNER, STATES, HERE, PLAN, print, one_by_one=apart)
                assert sums.cases == len(HERE)
                assert any(v.any() for v in sums.sums.values()) != passed
    assert not time_limit.passed()


@given(
    st.floats(0, 1e4), st.floats(0, 1e3), st.integers(1, 10**5), st.floats(0.01, 1000),
    st.dictionaries(st.just("mlp"), st.floats(1e-6, 1e4)),
)  # fmt: skip
def test_there_is_time_for_as_many_patients_as_there_may_be(
    nobody: float, patient: float, most: int, margin: float, said: dict[str, float]
) -> None:
    policy = Policy(answer_margin=margin, patient_seconds=said)
    deadline = Deadline.of(policy, "mlp", most, Cost(nobody, patient))
    assert deadline.patients >= most * said.get("mlp", margin * patient)
    assert deadline.answer >= deadline.patients + margin * nobody
    assert deadline.answer >= public_deadline.LEAST


@given(st.floats(0, 1e5), st.floats(1e-3, 60))
def test_later_times_are_few_and_no_earlier_than_the_work(spent: float, every: float) -> None:
    at = public_deadline.first(spent, every)
    assert at >= spent * (1 - 1e-9)
    assert at == every or at < 2 * spent * (1 + 1e-9)
    assert math.log2(at / every) == pytest.approx(round(math.log2(at / every)))


@given(st.integers(1, 5000), st.one_of(st.none(), st.integers(0, 5000)), st.integers(1, 50))
def test_how_many_there_may_be_is_told_by_what_is_told(
    held: int, told: int | None, minimum: int
) -> None:
    most = public_deadline.most_patients
    assert most(Policy(patients=(3, 77)), minimum, told, held) == 77
    out = most(Policy(), minimum, told, held)
    assert out >= (held if told is None else 2 * told)
    assert out & (out - 1) == 0
    if told is not None:
        assert out == most(Policy(), minimum, told, held + 1)


def test_a_station_that_stops_waits_no_longer() -> None:
    clock = Clock()
    clock.stop()
    began = clock.now()
    clock.wait(60.0)
    assert clock.now() - began < 30


# ---- made-up patients ----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([2, 5, 20]), st.data())
def test_made_up_patients_are_in_a_fold_and_out_of_it(
    seed: int, parts: int, data: st.DataObject
) -> None:
    left = tuple(sorted(data.draw(st.sets(st.integers(0, parts - 1), max_size=parts))))
    fold = Fold(parts=left)
    rows = made_up(pictured(), 10, (fold, seed, parts), imaged=False)
    assert len(rows) == 10
    assert len(rows.train(fold, seed, parts)) == 10 - round(10 * len(left) / parts)
    assert set(rows.labels) == {0, 1}


@pytest.mark.parametrize("study", studies.names())
def test_made_up_patients_fit_a_schema(study: str) -> None:
    for task in (loaded := studies.load(study)).tasks:
        schema = loaded.schema.at(loaded.tasks[task].time)
        rows = made_up(schema, 3, (Fold(), 0, 5), imaged=True)
        columns = schema.columns
        low, high = np.array([c.low for c in columns]), np.array([c.high for c in columns])
        assert ((low <= rows.design) & (rows.design <= high)).all()
        if schema.imaging is not None:
            counts = case_crops(with_images(rows), (4, 8, 8)).counts
            most = schema.imaging.crops if schema.imaging.lesion else 1
            assert list(counts) == [1 + i % most for i in range(3)]
