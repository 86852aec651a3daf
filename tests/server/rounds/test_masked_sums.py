"""Runs whose sums are masked, over real stations: the same model, no site's part to be seen, and
every dishonest request refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from client.site.privacy_policy import Policy
from client.station.answer_store import Answers
from client.station.durable_state import Memory
from common.data.cohort import Fold
from common.errors import DataError, FederationError, RefusedError, UsageError
from common.federated.learner import Plan, hyper_of, load
from common.privacy.mechanism import Privacy
from common.secure_aggregation import graph, group
from common.types import unpack
from common.wire import masked_messages
from common.wire.envelope import Kind, Packet
from common.wire.flower_records import HELLO, SECURE, content, packet
from common.wire.masked_messages import Ask, Told, Vouch, unpack_told
from common.wire.messages import pack_request, refusal, unpack_updates
from common.wire.state_transfer import pack_states
from server.config.run_config import Run
from server.rounds.driver import Exchange, Federation, Progress, drive
from server.rounds.registration import Roster
from tests import hospital, ring
from tests.courier import MemoryGrid
from tests.server.rounds.test_driver import RUN, Local, tasks
from tests.synthetic import schema, sites

NAMES = [f"S{k}" for k in range(5)]
FOLDS = (Fold(), Fold(parts=(0,)))
COUNT = itertools.count()
Change = Callable[[str, Packet, Message], Message | None]
"""(site, answer, what was asked) -> what the courier brings back; None: nothing."""


def masked_run(**more: Any) -> Run:
    return replace(
        RUN,
        secure=True,
        evaluations="within_site",
        expect=5,
        retries=0,
        deadline=2.0,
        quorum=0.6,
        **more,
    )


def policy(site: str, **more: Any) -> Policy:
    return Policy(
        require="secagg", peers={n: ring.signer(n).public for n in NAMES if n != site}, **more
    )


def station(
    folder: Path,
    site: str,
    minimum: int = 1,
    memory: Memory | None = None,
    rules: Policy | None = None,
) -> Local:
    cohort = next(c for c in sites(150, 5, seed=2) if c.site == site)
    memory = memory or Memory(Answers(folder / site / "answers"), masks=folder / site / "secure")
    return Local(cohort, folder, minimum, memory, policy=rules or policy(site))


@pytest.fixture
def stations(tmp_path: Path) -> list[Local]:
    return [station(tmp_path, n) for n in NAMES]


def courier(station: Local, change: Change) -> Callable[[Message], Message | None]:
    kinds: dict[str, Kind] = {HELLO: "greeting", SECURE: "secure"}

    def answer(m: Message) -> Message | None:
        told = station.answer(packet(m, kinds.get(m.metadata.message_type, "request")))
        return change(station.site.name, told, m)

    return answer


def as_it_is(site: str, told: Packet, m: Message) -> Message | None:
    return Message(content(told), reply_to=m)


def federation(stations: Sequence[Local], change: Change = as_it_is) -> MemoryGrid:
    return MemoryGrid({10 * (k + 1): courier(s, change) for k, s in enumerate(stations)})


def roster(grid: MemoryGrid, run: Run) -> Roster:
    from server.rounds.registration import Invitation, register

    return register(grid, Invitation(run, "run", ring.enrolled(NAMES), "now", schema()))


def driven(
    grid: MemoryGrid, folder: Path, run: Run | None = None, name: str = ""
) -> tuple[Progress, list[Exchange]]:
    run = replace(run or masked_run(), out=str(folder))
    progress, told = Progress(), list[Exchange]()
    named = Federation(
        grid, run, name or f"r{next(COUNT)}", roster(grid, run), tasks(FOLDS), schema()
    )
    drive(named, progress, lambda e, _: told.append(e))
    return progress, told


def coefficients(progress: Progress) -> np.ndarray:
    return np.concatenate([progress.states[f]["logistic"]["coefficients"].ravel() for f in FOLDS])


def plain(folder: Path, names: Sequence[str] = NAMES) -> np.ndarray:
    """The same run without masks."""
    open_ = [Local(next(c for c in sites(150, 5, seed=2) if c.site == n), folder, 1) for n in names]
    grid, progress = federation(open_), Progress()
    run = replace(RUN, expect=len(names))
    drive(
        Federation(grid, run, "plain", roster(grid, run), tasks(FOLDS), schema()),
        progress,
        lambda e, _: None,
    )
    return coefficients(progress)


# ---- a run in which all goes well ----------------------------------------------------------------


def test_the_model_is_that_of_the_open_sums(stations: list[Local], tmp_path: Path) -> None:
    progress, told = driven(federation(stations), tmp_path)
    assert coefficients(progress) == pytest.approx(plain(tmp_path), abs=1e-6)
    assert all(e.sites == dict.fromkeys(NAMES, "contributed") for e in told)


def test_on_a_sparse_graph_the_sums_are_those_of_the_full_one_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ring of five, each with the site on either side: what passes is for neighbours alone."""
    folders = [tmp_path / kind for kind in ("full", "sparse")]
    for folder in folders:
        folder.mkdir()
    full, _ = driven(federation([station(folders[0], n) for n in NAMES]), folders[0])
    monkeypatch.setattr(graph, "SPARSE", len(NAMES))
    monkeypatch.setattr(graph, "degree_of", lambda sites, assumed: graph.Degree(2, 2, 1))
    sealed: list[int] = []

    def keep(site: str, told: Packet, m: Message) -> Message | None:
        if told.kind == "masked":
            sealed.append(len(unpack(told.blob)) - 1)
        return as_it_is(site, told, m)

    sparse = federation([station(folders[1], n) for n in NAMES], keep)
    progress, told = driven(sparse, folders[1])
    assert coefficients(progress).tobytes() == coefficients(full).tobytes()
    assert set(sealed) == {3}
    assert all(e.sites == dict.fromkeys(NAMES, "contributed") for e in told)


def test_nothing_that_a_courier_carries_shows_a_sites_sums_or_counts(
    stations: list[Local], tmp_path: Path
) -> None:
    carried: list[tuple[str, Packet]] = []

    def keep(site: str, told: Packet, m: Message) -> Message | None:
        carried.append((site, told))
        return as_it_is(site, told, m)

    grid = federation(stations, keep)
    found = roster(grid, masked_run())
    assert set(found.cases.values()) == {0}
    assert not any(h.estimable or h.imaged for h in found.hellos.values())
    driven(grid, tmp_path)
    vectors = [unpack(p.blob)["vector"] for _, p in carried if p.kind == "masked"]
    assert len(vectors) >= 25
    assert not any(p.kind == "updates" for _, p in carried)
    # bytes of a masked vector are uniform, whatever is in it: here mostly small numbers and zeros
    counts = np.bincount(np.concatenate([v.view(np.uint8) for v in vectors]), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * np.sqrt(2 * 255)
    assert len({v.tobytes() for v in vectors}) == len(vectors)


def test_a_site_below_its_minimum_adds_zeros_and_nobody_learns_of_it(tmp_path: Path) -> None:
    small = [station(tmp_path, n, minimum=1 if n != "S3" else 10_000) for n in NAMES]
    progress, told = driven(federation(small), tmp_path)
    assert coefficients(progress) == pytest.approx(
        plain(tmp_path, [n for n in NAMES if n != "S3"]), abs=1e-6
    )
    assert all(e.sites["S3"] == "contributed" for e in told)


def test_noise_is_added_before_the_mask_and_charged(tmp_path: Path) -> None:
    opened = []
    for n in NAMES:
        rules = policy(n, epsilon=50.0, delta=1e-3)
        budget = hospital.account(tmp_path / n, rules)
        opened.append(
            station(
                tmp_path, n, memory=Memory(Answers(tmp_path / n / "answers"), budget), rules=rules
            )
        )
    progress, told = driven(federation(opened), tmp_path, masked_run(noise=20.0))
    assert np.abs(coefficients(progress) - plain(tmp_path)).max() > 1e-3
    for s in opened:
        budget = s._memory.budget
        assert budget is not None
        assert budget.spent > 0
        assert told[-1].budgets[s.site.name] == budget.head
        budget.close()


# ---- who drops out -------------------------------------------------------------------------------


def continuing(folder: Path, stopping: Sequence[str] = ()) -> list[Local]:
    """Stations that let a run go on with three sites, but for those that do not."""
    rules = {
        n: policy(n) if n in stopping else policy(n, dropouts="continue", fewest_sites=3)
        for n in NAMES
    }
    return [station(folder, n, rules=rules[n]) for n in NAMES]


@pytest.mark.parametrize("kind", ["masked", "secured"])
def test_a_site_that_falls_silent_is_left_out_or_done_without(tmp_path: Path, kind: str) -> None:
    """Before its vector has come, where all sites allow that, and after: then it stays in the sum,
    and the others' shares take its mask off."""
    steps = itertools.count()
    stations = continuing(tmp_path, NAMES if kind == "secured" else ())

    def silent(site: str, told: Packet, m: Message) -> Message | None:
        first = site == "S1" and told.kind == kind and b'"signature":""' not in told.text
        later = kind == "masked" or next(steps) >= 0
        return None if first and later and _in_a_step(m, kind) else as_it_is(site, told, m)

    progress, told = driven(
        federation(stations, silent), tmp_path, replace(masked_run(), deadline=0.4)
    )
    if kind == "masked":
        assert all(e.sites["S1"] == "R02" for e in told)
        assert coefficients(progress) == pytest.approx(
            plain(tmp_path, [n for n in NAMES if n != "S1"]), abs=1e-6
        )
    else:
        assert all(e.sites["S1"] == "contributed" for e in told)
        assert coefficients(progress) == pytest.approx(plain(tmp_path), abs=1e-6)


def test_a_run_waits_for_a_lost_site_and_goes_on_with_the_same_sum_when_it_is_back(
    tmp_path: Path,
) -> None:
    """One site that does not allow less is enough."""
    gone = {"S1"}

    def silent(site: str, told: Packet, m: Message) -> Message | None:
        return None if site in gone and told.kind == "masked" else as_it_is(site, told, m)

    grid = federation(continuing(tmp_path, ["S4"]), silent)
    with pytest.raises(FederationError, match=r"M01.*5 are needed.*Missing: S1 since 20.*R02"):
        driven(grid, tmp_path, replace(masked_run(), deadline=0.4), "waits")
    gone.clear()
    progress, told = driven(grid, tmp_path, name="waits")
    assert all(e.sites == dict.fromkeys(NAMES, "contributed") for e in told)
    assert coefficients(progress) == pytest.approx(plain(tmp_path), abs=1e-6)


def test_a_site_that_dropped_out_is_not_taken_back_in_the_run(tmp_path: Path) -> None:
    turns = itertools.count()

    def silent(site: str, told: Packet, m: Message) -> Message | None:
        lost = site == "S1" and told.kind == "masked" and next(turns) == 0
        return None if lost else as_it_is(site, told, m)

    grid = federation(continuing(tmp_path), silent)
    progress, told = driven(grid, tmp_path, replace(masked_run(), deadline=0.4))
    assert all(e.sites["S1"] == "R02" for e in told)
    assert coefficients(progress) == pytest.approx(
        plain(tmp_path, [n for n in NAMES if n != "S1"]), abs=1e-6
    )


def _in_a_step(m: Message, kind: str) -> bool:
    """Not the exchange of keys."""
    return kind == "masked" or json.loads(packet(m, "secure").text)["ask"]["stage"] in (
        "online",
        "reveal",
    )


def test_too_few_sites_end_the_run_by_name(stations: list[Local], tmp_path: Path) -> None:
    def gone(site: str, told: Packet, m: Message) -> Message | None:
        return (
            None
            if site in ("S1", "S2", "S3") and told.kind == "masked"
            else as_it_is(site, told, m)
        )

    with pytest.raises(
        FederationError, match=r"a sum over 2 sites of 5.*S1 since .*: R02.*S2 since .*: R02"
    ) as caught:
        driven(federation(stations, gone), tmp_path)
    assert caught.value.code == "R01"


def test_a_site_without_the_others_keys_is_named_before_the_first_step(tmp_path: Path) -> None:
    alone = Policy(
        require="secagg", peers={n: ring.signer("somebody else").public for n in NAMES if n != "S2"}
    )
    mixed = [station(tmp_path, n, rules=alone if n == "S2" else None) for n in NAMES]
    with pytest.raises(FederationError, match="S2: M02") as caught:
        driven(federation(mixed), tmp_path)
    assert caught.value.code == "R03"
    assert "not signed by it" in (tmp_path / "station.log").read_text()
    strangers = [station(tmp_path, n, rules=Policy() if n == "S2" else None) for n in NAMES]
    with pytest.raises(FederationError, match="S2: P07"):
        driven(federation(strangers), tmp_path)


def test_a_coordinator_that_is_killed_after_the_vectors_goes_on_to_the_same_sum(
    stations: list[Local], tmp_path: Path
) -> None:
    name, dead = "killed", {"at": 2}

    def killed(site: str, told: Packet, m: Message) -> Message | None:
        if (
            told.kind == "secured"
            and json.loads(packet(m, "secure").text)["ask"]["stage"] == "reveal"
            and dead["at"]
        ):
            dead["at"] -= 1
            if not dead["at"]:
                raise KeyboardInterrupt
        return as_it_is(site, told, m)

    run, progress = replace(masked_run(), out=str(tmp_path)), Progress()
    grid = federation(stations, killed)
    with pytest.raises(KeyboardInterrupt):
        drive(
            Federation(grid, run, name, roster(grid, run), tasks(FOLDS), schema()),
            progress,
            lambda e, _: None,
        )
    # the stations are started again as well: what they must not forget is on disk
    again = [station(tmp_path, n) for n in NAMES]
    grid = federation(again)
    drive(
        Federation(grid, run, name, roster(grid, run), tasks(FOLDS), schema()),
        progress,
        lambda e, _: None,
    )
    assert coefficients(progress) == pytest.approx(plain(tmp_path), abs=1e-6)


# ---- a coordinator that is not honest ------------------------------------------------------------


class Liar:
    """A coordinator's hands: the key that the sites have pinned, and their stations."""

    def __init__(self, stations: Sequence[Local]) -> None:
        self.stations = {s.site.name: s for s in stations}

    def ask(self, site: str, stage: masked_messages.Stage, **more: Any) -> Told:
        asked = masked_messages.pack_ask(
            Ask("lie", site, stage, time.time() + 60, **more), ring.COORDINATOR
        )
        return unpack_told(self.stations[site].answer(asked), ring.signer(site).public, asked)

    def keys(self, names: Sequence[str]) -> dict[str, Vouch]:
        told = {n: self.ask(n, "key") for n in names}
        return {n: Vouch(t.public, t.fewest, t.signature) for n, t in told.items()}

    def begin(self, names: Sequence[str] = NAMES) -> None:
        keys = self.keys(names)
        self.fewest = {n: v.fewest for n, v in keys.items()}
        assert all(not self.ask(n, "group", keys=keys).code for n in names)

    def plans(self, site: str, step: int = 0, **more: Any) -> list[Plan]:
        learner = load("preprocessing")
        states = {more.get("fold", Fold()): {"preprocessing": learner.start(schema(), 3)}}
        self.states = states
        told = {
            "study": "synthetic",
            "task": "now",
            "schema": schema().hash,
            "learner": "preprocessing",
            "phase": "coarse",
        }
        plan = Plan(
            run="lie", site=site, step=step, fold=Fold(), reads=(Fold(),),
            state_hash=pack_states(states).hash, participants=tuple(NAMES),
            expires=time.time() + 60, hyper=hyper_of(learner), seed=3, parts=3, secure=True, **told,
        )  # fmt: skip
        return [dataclasses.replace(plan, **more)]

    def work(self, site: str, **more: Any) -> masked_messages.Masked:
        plans = self.plans(site, **more)
        asked = pack_request(plans, pack_states(self.states), ring.COORDINATOR)
        told = self.stations[site].answer(asked)
        if told.kind == "updates":
            return masked_messages.Masked(
                unpack_updates(told, ring.signer(site).public, asked)[0].code
            )
        return masked_messages.unpack_masked(
            told, ring.signer(site).public, asked, plans[0].participants
        )

    def place(self) -> str:
        return masked_messages.place(self.plans("S0"), group.group(self.fewest))

    def signed(self, online: Sequence[str]) -> dict[str, str]:
        return {
            n: self.ask(n, "online", place=self.place(), online=tuple(online)).signature
            for n in online
        }


@pytest.fixture
def liar(stations: list[Local]) -> Liar:
    liar = Liar(stations)
    liar.begin()
    return liar


def test_an_open_plan_is_refused(liar: Liar) -> None:
    assert liar.work("S0", secure=False).code == "P07"


def test_a_plan_that_leaves_out_a_site_is_refused(liar: Liar) -> None:
    assert liar.work("S0", fold=Fold(("S1",)), reads=(Fold(("S1",)),)).code in ("P07", "P04")


def test_a_key_that_the_coordinator_made_up_is_refused(stations: list[Local]) -> None:
    liar = Liar(stations)
    keys = liar.keys(NAMES)
    forged = {**keys, "S1": keys["S2"]}
    assert liar.ask("S0", "group", keys=forged).code == "M02"
    public, fewest, signature = keys["S1"]
    text = masked_messages.vouched("lie", "S1", keys["S2"].public, fewest)
    forged = {**keys, "S1": Vouch(keys["S2"].public, fewest, ring.COORDINATOR.sign(text))}
    assert liar.ask("S0", "group", keys=forged).code == "M02"
    loosened = {**keys, "S1": Vouch(public, 3, signature)}
    assert liar.ask("S0", "group", keys=loosened).code == "M02", "S1 vouched for all sites"
    assert liar.ask("S0", "group", keys={**keys, "Sybil": keys["S2"]}).code == "P07"
    assert liar.ask("S0", "group", keys={n: keys[n] for n in NAMES[:2]}).code == "M01"
    assert liar.ask("S0", "group", keys={n: keys[n] for n in NAMES[1:]}).code == "M02", (
        "its own is missing"
    )
    assert not liar.ask("S0", "group", keys=keys).code
    assert liar.ask("S0", "group", keys={n: keys[n] for n in NAMES[:4]}).code == "M02", (
        "another group in the same run"
    )


def test_one_vector_leaves_in_a_step(liar: Liar) -> None:
    first = liar.work("S0")
    assert not first.code
    assert liar.work("S0", phase="fine", seed=4).code == "P06"
    again = liar.work("S0")
    assert not again.code
    assert np.array_equal(again.vector, first.vector), "the same masked vector leaves again"


def test_a_site_signs_one_online_set_and_reveals_for_no_other(tmp_path: Path) -> None:
    liar = Liar(continuing(tmp_path))
    liar.begin()
    came = {n: liar.work(n) for n in NAMES}
    online, place = NAMES[:4], liar.place()
    sealed = {n: {s: came[s].sealed[n] for s in NAMES} for n in NAMES}
    assert liar.ask("S0", "online", place=place, online=tuple(NAMES[:3])).code == "M01", (
        "fewer than two thirds"
    )
    assert liar.ask("S0", "online", place="0" * 64, online=tuple(online)).code == "M01", (
        "a step that was none"
    )
    assert liar.ask("S4", "online", place=place, online=tuple(online)).code == "M01", (
        "its own vector would not be in the sum"
    )
    signed = liar.signed(online)
    assert liar.ask("S0", "online", place=place, online=tuple(NAMES)).code == "M01", "a second set"
    told = {"place": place, "online": tuple(online), "sealed": sealed["S0"]}
    few = {n: signed[n] for n in online[:3]}
    assert liar.ask("S0", "reveal", signed=few, **told).code == "M01", "too few have signed"
    forged = {**few, "S3": ring.COORDINATOR.sign(masked_messages.agreed("lie", place, online))}
    assert liar.ask("S0", "reveal", signed=forged, **told).code == "M01"
    assert liar.ask("S0", "reveal", signed=signed, **{**told, "online": tuple(NAMES)}).code == "M01"
    swapped = {**sealed["S0"], "S1": sealed["S2"]["S1"]}
    assert liar.ask("S0", "reveal", signed=signed, **{**told, "sealed": swapped}).code == "M02", (
        "sealed for somebody else"
    )
    honest = liar.ask("S0", "reveal", signed=signed, **told)
    assert not honest.code
    # of each online site the seed of its own and the one that it has with S4; never one between two
    # that are online
    assert {s: set(v) for s, v in honest.shares.items()} == {s: {s, "S4"} for s in online}


def test_zeros_once_are_zeros_for_good_and_cost_nothing_again(tmp_path: Path) -> None:
    """Under noise a sum of about as many patients as the minimum falls below it at one draw and not
    at the next."""
    rules = policy("S0", epsilon=90.0, delta=1e-3)
    patients = next(len(c) for c in sites(150, 5, seed=2) if c.site == "S0")
    with closing(hospital.account(tmp_path / "S0", rules)) as budget:
        memory = Memory(Answers(tmp_path / "a"), budget, masks=tmp_path / "S0" / "secure")
        noised = station(tmp_path, "S0", minimum=patients, memory=memory, rules=rules)
        others = [station(tmp_path, n) for n in NAMES[1:]]
        liar = Liar([noised, *others])
        liar.begin()
        drawn = set()
        for step in range(12):
            # each plan has the head that was told last
            asked = {"step": step, "privacy": Privacy(40.0), "budget": budget.head if step else ""}
            first, spent = liar.work("S0", **asked), budget.spent
            assert not first.code
            again = [liar.work("S0", **asked) for _ in range(3)]
            assert all(np.array_equal(a.vector, first.vector) for a in again)
            assert budget.spent == spent
            drawn.add(bool(_run_on_disk(tmp_path / "S0" / "secure")["steps"][-1][1]["absent"]))
        assert drawn == {True, False}, "both came"


@settings(max_examples=15, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.integers(2, 20), st.integers(0, 20), st.integers(0, 99)),
        min_size=1,
        max_size=6,
    )
)
def test_no_fold_leaves_a_sum_to_fewer_sites(asked: list[tuple[int, int, int]]) -> None:
    """Whoever chooses folds and seeds would find some in which all sites but one have too few
    patients: the sum would be that site's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # S3 has too few patients on the whole
        liar = Liar([station(folder, n, 5 if n != "S3" else 10_000) for n in NAMES])
        liar.begin()
        assert not any(liar.work(n).code for n in NAMES)
        for step, (parts, left_out, seed) in enumerate(asked, start=1):
            fold = Fold(parts=tuple(range(min(left_out, parts))))
            more = {"step": step, "fold": fold, "reads": (fold,), "seed": seed, "parts": parts}
            for n in NAMES:
                code = liar.work(n, **more).code
                held = len(liar.stations[n].cohort("synthetic", "now").train(fold, seed, parts))
                assert code == ("M04" if n != "S3" and held < 5 else "")
                absent = _run_on_disk(folder / n / "secure")["steps"][-1][1]["absent"]
                assert bool(absent) == (n == "S3"), "zeros are a site's for all folds or for none"


def test_a_site_of_too_few_patients_is_told_of_where_folds_come_first(tmp_path: Path) -> None:
    """That it is so on the whole can then not be known, and zeros are for that alone."""
    liar = Liar([station(tmp_path, n, 1 if n != "S3" else 10_000) for n in NAMES])
    liar.begin()
    fold = Fold(parts=(0,))
    assert liar.work("S3", fold=fold, reads=(fold,)).code == "M04"
    assert not liar.work("S3", step=1).code
    liar.stations["S3"] = station(tmp_path, "S3", 10_000)
    assert not liar.work("S3", step=2, fold=fold, reads=(fold,)).code, "it is on disk"


def test_a_site_too_small_for_the_folds_ends_the_run_by_name_before_any_sum(tmp_path: Path) -> None:
    """It may also say before the run how few parts it carries, by a number that it declares."""
    patients = next(len(c) for c in sites(150, 5, seed=2) if c.site == "S3")
    small = [station(tmp_path, n, minimum=1 if n != "S3" else patients - 1) for n in NAMES]
    with pytest.raises(
        FederationError, match=r"exchange 0: .*Missing: S3 .*M04.*fewer parts"
    ) as caught:
        driven(federation(small), tmp_path)
    assert caught.value.code == "R01"
    for declared, parts in ((None, 20), ((patients, 60), 1)):
        rules = policy("S3", patients=declared)
        there = station(tmp_path, "S3", patients - 1, rules=rules)
        assert there.hello("synthetic", "now", schema().hash).parts == parts


def _run_on_disk(folder: Path) -> dict[str, Any]:
    (path,) = (p for p in folder.glob("*.json") if p.name != "sets.json")
    run: dict[str, Any] = json.loads(path.read_text())
    return run


@pytest.mark.parametrize(
    "error",
    [
        RefusedError("P02", "not finite"),
        DataError("D05", "a patient's picture"),
        ZeroDivisionError("in one patient's row"),
    ],
)
def test_what_fails_over_rows_is_one_code_and_no_other_answer_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    liar = Liar([station(tmp_path, n) for n in NAMES])
    liar.begin()

    def failing(self: Local, plan: Plan, states: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Local, "_work", failing)
        liar.stations["S0"] = station(tmp_path, "S0")
        assert liar.work("S0").code == "M04"
    liar.stations["S0"] = station(tmp_path, "S0")
    assert liar.work("S0").code == "M04", "what is mended is not answered there any more"
    assert not liar.work("S0", step=1).code
    assert not liar.work("S1").code


def test_what_says_nothing_of_rows_is_told_as_it_is_and_may_be_mended(tmp_path: Path) -> None:
    strict = policy("S0", learners=("boosting",))
    liar = Liar([station(tmp_path, n, rules=strict if n == "S0" else None) for n in NAMES])
    liar.begin()
    assert liar.work("S0").code == "P07"
    liar.stations["S0"] = station(tmp_path, "S0")
    assert not liar.work("S0").code


def test_participants_are_exact_under_masks(tmp_path: Path) -> None:
    named = policy("S0", participants=tuple(NAMES))
    liar = Liar([station(tmp_path, n, rules=named if n == "S0" else None) for n in NAMES])
    liar.begin(NAMES[:4])
    four = tuple(NAMES[:4])
    assert liar.work("S0", participants=four).code == "P07", "a subset of those it names"
    assert liar.work("S1", participants=tuple(NAMES)).code == "M01", "not those with keys"
    assert liar.work("S1", participants=four[:3]).code == "M01"
    assert not liar.work("S1", participants=four).code


def test_an_expired_or_foreign_message_is_refused(liar: Liar) -> None:
    asked = masked_messages.pack_ask(Ask("lie", "S0", "key", time.time() - 5), ring.COORDINATOR)
    assert (
        unpack_told(liar.stations["S0"].answer(asked), ring.signer("S0").public, asked).code
        == "P04"
    )
    asked = masked_messages.pack_ask(Ask("lie", "S1", "key", time.time() + 5), ring.COORDINATOR)
    assert (
        unpack_told(liar.stations["S0"].answer(asked), ring.signer("S0").public, asked).code
        == "P04"
    )
    asked = masked_messages.pack_ask(Ask("lie", "S0", "key", time.time() + 5), ring.signer("S1"))
    assert (
        unpack_told(liar.stations["S0"].answer(asked), ring.signer("S0").public, asked).code
        == "P05"
    )


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"transfer": "int8"}, "transfer = 'int8' rounds each site's update"),
        ({"evaluations": "leave_one_site_out"}, "leave_one_site_out, which shows a site's sums"),
        ({"outliers": 5.0}, "hides the single sites that norm_bound, outliers"),
        ({"expect": 2}, "at least 3 sites"),
    ],
)
def test_what_needs_single_sites_does_not_go_with_secure_sums(
    config: dict[str, object], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        Run.parse({"secure": True, "expect": 3, **config})
    assert Run.parse({"secure": True, "expect": 3}).evaluations == "within_site"


def test_a_station_that_was_started_again_gets_the_states_it_lacks(
    stations: list[Local], tmp_path: Path
) -> None:
    turn = itertools.count()

    def restarted(site: str, told: Packet, m: Message) -> Message | None:
        if site == "S3" and told.kind == "masked" and next(turn) == 1:
            stations[3]._held_states.clear()
        return as_it_is(site, told, m)

    run = replace(masked_run(transfer="changed"), retries=1)
    progress, told = driven(federation(stations, restarted), tmp_path, run)
    assert coefficients(progress) == pytest.approx(plain(tmp_path), abs=1e-6)
    assert all(e.sites["S3"] == "contributed" for e in told)


@pytest.mark.parametrize("kind", ["masked", "secured"])
def test_a_courier_that_has_lost_its_station_for_a_moment_is_tried_again(
    stations: list[Local], tmp_path: Path, kind: str
) -> None:
    turn = itertools.count()

    def lost(site: str, told: Packet, m: Message) -> Message | None:
        if site == "S3" and told.kind == kind and next(turn) == 1:
            asked = packet(m, "request" if kind == "masked" else "secure")
            return Message(content(refusal(asked, "R05")), reply_to=m)
        return as_it_is(site, told, m)

    _, told = driven(federation(stations, lost), tmp_path, replace(masked_run(), retries=1))
    assert all(e.sites == dict.fromkeys(NAMES, "contributed") for e in told)


def test_what_a_site_has_refused_is_not_asked_again(stations: list[Local], tmp_path: Path) -> None:
    asked = itertools.count()

    def denied(site: str, told: Packet, m: Message) -> Message | None:
        if site != "S3" or told.kind != "masked":
            return as_it_is(site, told, m)
        next(asked)
        answer = masked_messages.pack_masked(
            masked_messages.Masked("P07"), ring.signer("S3"), packet(m, "request")
        )
        return Message(content(answer), reply_to=m)

    with pytest.raises(FederationError, match=r"S3 since .*: P07"):
        driven(federation(stations, denied), tmp_path, replace(masked_run(), retries=2))
    assert next(asked) == 1
