"""A station answers in time, with what it has done by then: the work goes on, is done once, and the
coordinator waits while it gets on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from client.station import time_forecast
from common.data.cohort import Cohort, Fold
from common.errors import FederationError
from common.federated.learner import Contribution, Plan, hyper_of, load
from common.federated.states import States
from common.wire.flower_records import HELLO, content, packet
from common.wire.messages import Request
from common.wire.state_transfer import pack_states
from server.rounds.driver import Exchange, Federation, Progress, drive
from tests.courier import MemoryGrid, Node
from tests.server.rounds.test_driver import RUN, Local, bits, driven, node, registered, tasks
from tests.synthetic import schema, sites


class Slow(Local):
    """Takes `seconds` for each plan of the first step, on a thread of its own."""

    def __init__(self, cohort: Cohort, folder: Path, executor: ThreadPoolExecutor) -> None:
        super().__init__(cohort, folder, 1, at_work=executor)
        self.seconds, self.open = 0.0, threading.Event()
        self.open.set()

    def _work(self, plan: Plan, states: Any) -> Contribution:
        assert self.open.wait(30)
        time.sleep(0 if plan.step else self.seconds)
        return super()._work(plan, states)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    with ThreadPoolExecutor(1) as executor:
        there = Slow(sites(90, 3, seed=2)[0], tmp_path, executor)
        yield there
        there.open.set()
        there.stop()


def states() -> States:
    return {Fold(): {"preprocessing": load("preprocessing").start(schema(), 3)}}


def plan(**changes: Any) -> Plan:
    learner = load("preprocessing")
    phase = learner.phase(states()[Fold()]["preprocessing"])
    first = Plan(
        "r", "S0", "synthetic", "now", schema().hash, 0, learner.name, phase, Fold(), (Fold(),),
        pack_states(states()).hash,
        ("S0",), time.time() + 600, hyper_of(learner), 3, 3,
    )  # fmt: skip
    return replace(first, **changes)


def codes(station: Slow, *plans: Plan, seconds: float = 0.1) -> list[str]:
    updates = station.handle(Request(plans, states()), seconds)
    assert [u.plan_hash for u in updates] == [p.hash for p in plans]
    assert all((u.contribution is None) == bool(u.code) for u in updates)
    return [u.code for u in updates]


def test_what_is_not_done_in_time_is_said_and_done_once(slow: Slow) -> None:
    slow.open.clear()
    asked = plan()
    assert codes(slow, asked) == ["R09"]
    assert codes(slow, replace(asked, expires=asked.expires + 60)) == ["R09"]
    slow.open.set()
    assert codes(slow, replace(asked, expires=asked.expires + 120), seconds=30) == [""]
    assert codes(slow, asked) == [""]
    assert sum(slow.worked.values()) == 1


def test_what_is_done_leaves_before_the_rest(slow: Slow) -> None:
    first, second = plan(), plan(fold=Fold(parts=(1,)), reads=(Fold(),))
    assert codes(slow, first, seconds=30) == [""]
    slow.open.clear()
    assert codes(slow, first, second) == ["", "R09"]
    slow.open.set()
    assert codes(slow, first, second, seconds=30) == ["", ""]
    assert sum(slow.worked.values()) == 2


def test_a_plan_that_came_in_time_may_wait_its_turn_and_one_that_did_not_is_refused(
    slow: Slow,
) -> None:
    slow.open.clear()
    soon = plan(seed=9, expires=time.time() + 0.3)
    assert codes(slow, plan(), soon, plan(seed=10, expires=time.time() - 1)) == [
        "R09",
        "R09",
        "P04",
    ]
    time.sleep(0.4)
    slow.open.set()
    assert codes(slow, soon, seconds=30) == [""]


def test_another_plan_for_a_place_that_is_worked_on_is_answered_once(slow: Slow) -> None:
    """Whichever is done first is the answer; the other is refused when it is asked for again."""
    slow.open.clear()
    asked, other = plan(), plan(seed=4)
    assert codes(slow, asked) == ["R09"]
    assert codes(slow, other) == ["R09"]
    slow.open.set()
    assert codes(slow, asked, seconds=30) == [""]
    assert codes(slow, other, seconds=30) == ["P06"]


def test_a_run_that_has_gone_on_is_not_worked_for_any_more(slow: Slow) -> None:
    slow.open.clear()
    assert codes(slow, plan(), plan(seed=9)) == ["R09", "R09"]
    time.sleep(0.1)  # the first is being worked on, the second waits
    assert codes(slow, plan(step=1)) == ["R09"]
    slow.open.set()
    assert codes(slow, plan(step=1), seconds=30) == [""]
    assert sum(slow.worked.values()) == 2


def test_a_station_that_stops_begins_nothing(slow: Slow) -> None:
    slow.stop()
    assert codes(slow, plan(), seconds=30) == ["R09"]
    assert not slow.worked


# ---- the coordinator -----------------------------------------------------------------------------


def leased(station: Slow, lease: float) -> Node:
    """A courier whose station answers within `lease` seconds."""

    def answer(m: Message) -> Message:
        return Message(
            content(
                station.answer(
                    packet(m, "greeting" if m.metadata.message_type == HELLO else "request"), lease
                )
            ),
            reply_to=m,
        )

    return answer


def federation(tmp_path: Path, slow: Slow, lease: float) -> MemoryGrid:
    others = [Local(c, tmp_path, 1) for c in sites(90, 3, seed=2)[1:]]
    return MemoryGrid({1: leased(slow, lease), 2: node(others[0]), 3: node(others[1])})


def test_a_site_that_gets_on_is_waited_for_however_long_it_takes(
    tmp_path: Path, slow: Slow
) -> None:
    """Four plans of 0.6 s, a deadline of 1.5 s and no retries."""
    want, _ = driven(federation(tmp_path, slow, 30))
    slow.seconds = 0.6
    got, told = driven(federation(tmp_path, slow, 0.8), replace(RUN, deadline=1.5, retries=0))
    assert bits(got) == bits(want)
    assert all(e.sites["S0"] == "contributed" for e in told)
    assert told[0].seconds > 2.0


def test_a_site_that_does_not_get_on_is_given_up_by_name(tmp_path: Path, slow: Slow) -> None:
    slow.open.clear()
    run = replace(RUN, deadline=0.2, retries=1)
    with pytest.raises(FederationError, match="S0: R09"):
        driven(federation(tmp_path, slow, 0.1), run)


def test_its_own_forecast_gives_a_site_more_time(tmp_path: Path, slow: Slow) -> None:
    slow.site = replace(slow.site, state=tmp_path / "state")
    time_forecast.save(tmp_path / "state", "synthetic", "now", 60.0)
    assert slow.hello("synthetic", "now", schema().hash).seconds == 60.0
    assert slow.hello("synthetic", "then", schema().hash).seconds == 0.0
    slow.seconds = 2.0
    _, told = driven(federation(tmp_path, slow, 0.4), replace(RUN, deadline=1.0, retries=0))
    assert all(e.sites["S0"] == "contributed" for e in told)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"synthetic\\tnow": "x"}', '{"synthetic\\tnow": -1}', '{"synthetic\\tnow": NaN}'],
)
def test_a_forecast_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / time_forecast.NAME).write_text(text)
    assert time_forecast.load(tmp_path, "synthetic", "now") == 0.0
    time_forecast.save(tmp_path, "synthetic", "now", 2.0)
    assert time_forecast.load(tmp_path, "synthetic", "now") == 2.0


# ---- what comes too late -------------------------------------------------------------------------


def test_an_answer_that_comes_too_late_is_told_by_name_and_not_used(tmp_path: Path) -> None:
    stations = [Local(c, tmp_path, 1) for c in sites(90, 3, seed=2)]
    kept: list[Message] = []

    def tardy(m: Message) -> Message | None:
        reply = node(stations[1])(m)
        if m.metadata.message_type != HELLO and m.metadata.group_id == "2":
            assert reply is not None
            kept.append(reply)
            return None
        return reply

    grid = MemoryGrid({1: node(stations[0]), 2: tardy, 3: node(stations[2])})

    run = replace(RUN, quorum=0.6, deadline=0.3, retries=0)
    progress, exchanges = Progress(), list[Exchange]()

    def seen(exchange: Exchange, _: Progress) -> None:
        exchanges.append(exchange)
        grid._waiting.extend(kept)
        kept.clear()

    drive(Federation(grid, run, "late", registered(grid, run), tasks(), schema()), progress, seen)
    told = [late for e in exchanges for late in e.late]
    assert told == [{"site": "S1", "step": "2"}]
    assert exchanges[2].sites["S1"] == "R02"
    assert progress.done
