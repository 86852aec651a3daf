"""What travels of the states: the same results whoever holds what, fewer bytes, and restarts on
either side that change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client.station.answer_store import Answers
from client.station.durable_state import Memory
from common.data.cohort import Fold
from common.federated.learner import MEMORY, load
from common.runtime.cache import Cache, arrays_bytes
from common.types import Arrays, digest
from common.wire import compression
from common.wire.flower_records import HELLO, content, packet
from server.app import _to_arrays
from server.config.jobs import Job
from server.config.run_config import Run
from server.rounds.driver import Exchange, Federation, Progress, drive
from tests.courier import MemoryGrid, Node
from tests.server.rounds.test_driver import Local, bits, registered
from tests.synthetic import schema, sites

HYPER = {"hidden": [128, 96], "rounds": 5, "epochs": 1}
FOLDS = (Fold(), Fold(parts=(0,)))
ROUNDS = 2 + 5


def jobs() -> list[Job]:
    return [
        Job(load(name, HYPER if name == "mlp" else {}), fold, (fold,))
        for fold in FOLDS
        for name in ("preprocessing", "mlp")
    ]


def run(how: str) -> Run:
    return Run(
        study="synthetic",
        task="now",
        seed=3,
        parts=3,
        deadline=5.0,
        retries=1,
        expect=3,
        transfer=how,
    )


class Town:
    """Three stations that can be restarted before any exchange."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.cohorts = {c.site: c for c in sites(90, 3, seed=2)}
        self.stations = {s: self.station(s) for s in self.cohorts}
        self.asked: list[tuple[str, list[str]]] = []
        """Site, and how each part of the state came."""

    def station(self, site: str) -> Local:
        return Local(self.cohorts[site], self.folder, 1, Memory(Answers(self.folder / site)))

    def restart(self, site: str) -> None:
        self.stations[site] = self.station(site)

    def node(self, site: str) -> Node:
        def answer(m: Message) -> Message:
            asked = packet(m, "greeting" if m.metadata.message_type == HELLO else "request")
            if asked.kind == "request":
                self.asked.append((site, [part[3] for part in json.loads(asked.text)["parts"]]))
            return Message(content(self.stations[site].answer(asked)), reply_to=m)

        return answer

    def grid(self) -> MemoryGrid:
        return MemoryGrid({k + 1: self.node(s) for k, s in enumerate(self.cohorts)})


def driven(
    town: Town, how: str, *, name: str = "run", progress: Progress | None = None, watch: Any = None
) -> tuple[Progress, list[Exchange]]:
    grid, told = town.grid(), list[Exchange]()
    progress = progress or Progress()

    def seen(exchange: Exchange, now: Progress) -> None:
        told.append(exchange)
        if watch:
            watch(exchange, now)

    drive(
        Federation(grid, run(how), "run", registered(grid, run(how)), jobs(), schema()),
        progress,
        seen,
    )
    return progress, told


def weights(progress: Progress) -> Arrays:
    return {k: v for k, v in progress.states[Fold()]["mlp"].items() if k.startswith("w/")}


def test_what_a_site_holds_is_not_sent_again_and_the_bits_stay(tmp_path: Path) -> None:
    whole, all_of_it = driven(Town(tmp_path / "a"), "whole")
    there = Town(tmp_path / "b")
    changed, less = driven(there, "changed")
    assert bits(whole) == bits(changed)
    assert sum(e.received for e in less) == sum(e.received for e in all_of_it)
    assert sum(e.sent for e in less) < sum(e.sent for e in all_of_it)
    # preprocessing is over when the networks begin: from then on its states are held
    assert {how for site, hows in there.asked[3 * 4 :] for how in hows} == {"held", "whole"}


@pytest.mark.parametrize("how", sorted(compression.ROUNDED))
def test_rounded_changes_cost_a_fraction_and_the_model_stays_near(how: str, tmp_path: Path) -> None:
    whole, all_of_it = driven(Town(tmp_path / "a"), "whole")
    there = Town(tmp_path / "b")
    near, less = driven(there, how)
    share = {"int8": 0.25, "float16": 0.5}[how]
    for before, after in zip(
        all_of_it[3:], less[3:], strict=True
    ):  # the first round's states travel whole
        assert after.sent / before.sent < share + 0.1
        assert after.received / before.received < share / 2 + 0.05  # what is whole goes in float64
    moved = compression.flat(weights(whole)) - compression.flat(load_start())
    off = compression.flat(weights(near)) - compression.flat(weights(whole))
    assert np.linalg.norm(off) < {"int8": 0.05, "float16": 0.005}[how] * np.linalg.norm(moved)
    # what rounding leaves over is the coordinator's: no site has seen it
    assert MEMORY + compression.CODE in near.states[Fold()]["mlp"]
    assert not [
        k
        for s in there.stations.values()
        for a in s._held_states.values()
        for k in a
        if k.startswith(MEMORY)
    ]


def load_start() -> Arrays:
    learner: Any = load("mlp", HYPER)
    # mlp's first step learns how many inputs there are; its parameters start at the coordinator
    started = learner.start(schema(), 3)
    return {k: v for k, v in started.items() if k.startswith("w/")}


@pytest.mark.parametrize("how", ["changed", *sorted(compression.ROUNDED)])
def test_a_station_that_is_restarted_gets_its_states_whole_and_nothing_changes(
    how: str, tmp_path: Path
) -> None:
    want, _ = driven(Town(tmp_path / "a"), how)
    there = Town(tmp_path / "b")
    got, told = driven(
        there, how, watch=lambda exchange, now: there.restart("S1") if now.step in (3, 5) else None
    )
    assert bits(got) == bits(want)
    assert all(e.sites["S1"] == "contributed" for e in told)


@pytest.mark.parametrize("how", ["changed", *sorted(compression.ROUNDED)])
def test_a_coordinator_that_goes_on_from_its_states_ends_in_the_same_bits(
    how: str, tmp_path: Path
) -> None:
    want, _ = driven(Town(tmp_path / "a"), how)
    there = Town(tmp_path / "b")

    class Stop(Exception):
        pass

    def until_4(_: Exchange, now: Progress) -> None:
        if now.step == 4:
            raise Stop

    progress = Progress()
    with pytest.raises(Stop):
        driven(there, how, progress=progress, watch=until_4)
    assert MEMORY + compression.CODE in progress.states[Fold()]["mlp"] or how == "changed"
    assert _to_arrays(progress)
    again = Progress(
        {k: {n: dict(a) for n, a in s.items()} for k, s in progress.states.items()},
        set(progress.done),
        progress.step,
    )
    got, _ = driven(there, how, progress=again)
    assert bits(got) == bits(want)


def test_a_station_keeps_no_more_than_it_has_room_for() -> None:
    held: Cache[str, Arrays] = Cache(100, arrays_bytes)
    for k in range(5):
        held[str(k)] = {"a": np.zeros(5)}  # 40 bytes
    assert sorted(held) == ["3", "4"]
    held["5"] = {"a": np.zeros(50)}  # the latest is kept, whatever its size
    assert sorted(held) == ["5"]
    assert digest(held["5"]) == digest({"a": np.zeros(50)})
