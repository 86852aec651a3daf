"""After admission nothing that depended on a patient is told but the sum: no code, no refusal that
is free, no time."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.site.privacy_policy import Policy
from client.site.site_file import Site
from client.station import guard, privacy_budget, refusals
from client.station.durable_state import Memory, opened
from client.station.refusals import Refusals
from client.station.socket_server import site_file
from client.station.station import Station
from common.data.cohort import Cohort, Fold
from common.errors import RefusedError, RunError
from common.federated.learner import Contribution, Plan, fit, hyper_of, load, local_plan
from common.learners import mlp
from common.learners.preprocessing import standardise
from common.privacy import random as system_random
from common.privacy.mechanism import Privacy
from common.types import State
from common.wire.messages import pack_request, unpack_updates
from common.wire.state_transfer import pack_states
from tests import hospital, pictures, ring
from tests.synthetic import cohort

TODAY = datetime.datetime.now(datetime.UTC).date()
HERE = cohort(30, seed=4)
LEARNER = load("private_logistic")
PLAN = replace(local_plan(Fold(), 0, 5), learner="private_logistic", phase="newton")
STATES = {Fold(): {"private_logistic": LEARNER.start(HERE.schema, 0)}}


# ---- without noise and masks ---------------------------------------------------------------------


class Fails:
    """A learner on which a state has been found that fails at some patients."""

    def __init__(self, at: frozenset[str]) -> None:
        self.at = at

    def __getattr__(self, name: str) -> Any:
        return getattr(LEARNER, name)

    def contribute(self, states: Any, rows: Cohort, plan: Plan) -> Contribution:
        if self.at & set(rows.ids):
            raise FloatingPointError("here")
        return LEARNER.contribute(states, rows, plan)


def code(work: Callable[[], Any]) -> str:
    try:
        work()
    except RefusedError as error:
        return error.code
    return ""


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.sampled_from(HERE.ids), min_size=1),
    st.integers(1, 30),
    st.sets(st.integers(0, 4), max_size=3),
)
def test_that_there_is_no_sum_comes_after_the_minimum(
    at: set[str], minimum: int, parts: set[int]
) -> None:
    """Whom a state fails at is told by one code, and of fewer than the minimum not at all."""
    plan = replace(PLAN, fold=Fold(parts=tuple(sorted(parts))))
    plan = replace(plan, reads=(plan.fold,))
    states = {plan.fold: STATES[Fold()]}
    rows = HERE.train(plan.fold, 0, 5)

    def asked(learner: Any) -> str:
        def work() -> None:
            sums = guard.contributed(learner, states, HERE, plan, lambda _: None, minimum)
            guard.release(sums, LEARNER, states, plan, HERE, minimum)

        return code(work)

    honest = asked(LEARNER)
    assert honest == ("P01" if len(rows) < minimum else "")
    hit = at & set(rows.ids)
    assert asked(Fails(frozenset(hit))) == ("P02" if hit and not honest else honest)


def test_a_days_refusals_are_limited_and_outlive_the_station(tmp_path: Path) -> None:
    path = tmp_path / refusals.NAME
    for i in range(3):
        there = Refusals(path)
        there.demand("key", 3)
        there.note("key", replace(PLAN, step=i), "P02")
        there.note("key", replace(PLAN, step=i, expires=5.0), "P02")  # it comes again
    assert code(lambda: Refusals(path).demand("key", 3)) == "P12"
    Refusals(path).demand("key", 4)
    Refusals(path).demand("another", 3)
    # too few patients in a sum: once a split, for every step of an honest run says so
    there = Refusals()
    for i in range(50):
        there.note("key", replace(PLAN, step=i), "P01")
    there.demand("key", 2)
    there.note("key", replace(PLAN, seed=1), "P01")
    assert code(lambda: there.demand("key", 2)) == "P12"
    yesterday = path.read_text().replace(str(TODAY), str(TODAY - datetime.timedelta(1)))
    path.write_text(yesterday)
    Refusals(path).demand("key", 3)
    path.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        Refusals(path)


def test_a_station_that_refused_too_often_answers_nothing_more(tmp_path: Path) -> None:
    hospital.site(tmp_path, rows=12, minimum=13)
    with (tmp_path / "site.toml").open("a") as file:
        file.write("[privacy]\nrefusals = 2\n")
    site = site_file.load(tmp_path / "site.toml")
    told = []
    for seed in (1, 1, 2, 3):
        with opened(site) as memory:
            asked = hospital.request(tmp_path, [hospital.plan(tmp_path, seed=seed)])
            answer = Station(site, memory).answer(asked)
        (update,) = unpack_updates(answer, ring.signer("North").public, asked)
        told.append(update.code)
    assert told == ["P01", "P01", "P01", "P12"]


# ---- under noise ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Station]]:
    """Stations under an epsilon whose tables differ by one patient."""
    with ExitStack() as stack:
        stations = []
        for rows in (60, 59):
            home = tmp_path_factory.mktemp(f"rows{rows}")
            hospital.site(home, rows=rows)
            with (home / "site.toml").open("a") as file:
                file.write(
                    "[privacy]\nepsilon = 90\ndelta = 1e-3\nanswer_margin = 0\npatients = [40, 100]\n"
                )
            privacy_budget.begin(home / "state")
            site = site_file.load(home / "site.toml")
            stations.append(Station(site, stack.enter_context(opened(site))))
        yield stations


_COUNT = iter(range(10**9))
TABLES = ("preprocessing", "logistic", "private_logistic", "boosting", "mlp")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_under_an_epsilon_neighbouring_cohorts_give_the_same_codes(
    neighbours: list[Station], data: st.DataObject
) -> None:
    """Through a signed packet: hostile plans and states, whatever they make of somebody."""
    first = neighbours[0].cohort("spread.toml", "baseline")
    name = data.draw(st.sampled_from(TABLES))
    learner = load(name, {"trees": 1} if name == "boosting" else {})
    parts = data.draw(st.sampled_from([2, 3, 5, 20, 21, 2048]))
    fold = Fold(parts=tuple(sorted(data.draw(st.sets(st.integers(0, min(parts, 4) - 1))))))
    state: State = {}
    for need in learner.needs:
        state = fit(load(need), state, [first], local_plan(Fold(), 0, 3))
    state = {**state, name: learner.start(first.schema, 0)}
    scale = data.draw(st.sampled_from([0.0, 1.0, 1e5, 1e6, 1e150, np.inf, np.nan]))
    r = np.random.default_rng(data.draw(st.integers(0, 99)))
    for arrays in state.values():
        for key, value in arrays.items():
            if value.dtype.kind == "f" and r.random() < 0.5:
                with np.errstate(all="ignore"):
                    bent = value + scale * r.choice([-1.0, 0.0, 1.0], value.shape)
                arrays[key] = np.asarray(bent, value.dtype)
    packed = pack_states({fold: state})
    run = f"run {next(_COUNT)}"
    told = []
    for station in neighbours:
        budget = station._memory.budget
        assert budget is not None
        plan = hospital.plan(
            Path(station.site.studies[0]).parent,
            run=run,
            learner=name,
            phase=learner.phase(learner.start(first.schema, 0)),
            fold=fold,
            reads=(fold,),
            state_hash=packed.hash,
            hyper=hyper_of(learner),
            parts=parts,
            privacy=Privacy(1000.0),
            budget=budget.head if budget._told else "",
        )
        asked = pack_request([plan], packed, ring.COORDINATOR)
        (update,) = unpack_updates(station.answer(asked), ring.signer("North").public, asked)
        # P01 is by the noised count
        told.append("" if update.code == "P01" else update.code)
    assert told[0] == told[1]
    assert parts <= 20 or told[0] in ("P02", "P03")


@pytest.mark.parametrize("fails", ["standardise", "cross_entropy"])
def test_a_private_training_that_fails_at_somebody_is_asked_for_once_and_charged_alike(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str
) -> None:
    """No draw is made that is not in the one answer, and the others' part in it is as it was."""
    learner = load("mlp", {"rounds": 1, "epochs": 1, "rate": 0.5})
    plan = replace(PLAN, learner="mlp", phase="train", privacy=Privacy(5.0), run="run", site="N")
    state = fit(load("preprocessing"), {}, [HERE], plan)
    states = {Fold(): {**state, "mlp": learner.start(HERE.schema, 0)}}
    bad = HERE.design[7]
    asked: list[int] = []
    original = getattr(mlp, fails)

    def raising(first: Any, rows: Any) -> Any:
        seen = rows.design if isinstance(rows, Cohort) else rows[0].numpy()
        wanted = bad if isinstance(rows, Cohort) else standardise(state["preprocessing"], HERE)[7]
        if np.isclose(seen, wanted, atol=1e-6, equal_nan=True).all(axis=-1).any():
            raise IndexError("here")
        return original(first, rows)

    def answered(name: str) -> tuple[Contribution, float]:
        policy = Policy(epsilon=50.0, delta=1e-3)
        budget = hospital.account(tmp_path / name, policy)
        with system_random.repeatable(1, "draws"):
            sums = guard.contributed(Counted(learner, asked), states, HERE, plan, lambda _: None)
            out = guard.release(sums, learner, states, plan, HERE, 1, budget)
        budget.settle()
        budget.close()
        return out, budget.spent

    honest = answered("honest")
    monkeypatch.setattr(mlp, fails, raising)
    hit = answered("hit")
    assert asked == [30, 30]
    assert hit[1] == honest[1] > 0
    assert any((hit[0].sums[k] != v).any() for k, v in honest[0].sums.items())
    assert all(np.isfinite(v).all() for v in hit[0].sums.values())


@settings(max_examples=30, deadline=None)
@given(
    st.sets(st.integers(0, 29)),
    st.sampled_from([(), ("table",), ("image", "table")]),
    st.sampled_from(["epsilon", "masks", "neither"]),
)
def test_under_an_epsilon_or_masks_images_are_offered_as_declared_whoever_has_one(
    imaged: set[int], declared: tuple[Any, ...], how: str
) -> None:
    """Neither greeting nor refusal tells whether anybody has an image."""
    rows = pictures.with_pictures(HERE, share=1.0)
    some = tuple(p if i in imaged else None for i, p in enumerate(rows.pictures))
    held = frozenset({"table"}) | (frozenset({"image"}) if imaged else frozenset())
    rows = replace(rows, pictures=some if imaged else (), modalities=held)
    peers = dict.fromkeys("ab", "0" * 64)
    policy = {
        "epsilon": Policy(epsilon=3.0, delta=1e-3, modalities=declared),
        "masks": Policy(require="secagg", peers=peers, modalities=declared),
        "neither": Policy(modalities=declared),
    }[how]
    protected = how != "neither"
    none = Path("/dev/null")
    site = Site("N", none, studies=("s",), minimum=1, privacy=policy, log=none)
    memory = Memory(budget=cast(Any, SimpleNamespace(counts=lambda _, n: list(n), head="")))
    station = Station(site, memory)
    station.cohort = lambda *_: rows  # type: ignore[method-assign]
    hello = station._hello("s", "t", rows.schema.hash)
    offered = set(declared) or ({"table"} if protected else held)
    assert set(hello.modalities) == offered
    if "image" not in offered:
        assert (hello.imaged, hello.imaged_estimable) == (0, False)
    plan = replace(
        PLAN, site="N", learner="image", phase="count", schema=rows.schema.hash,
        hyper=hyper_of(load("image")),
        privacy=Privacy(5.0) if how == "epsilon" else None, secure=how == "masks",
    )  # fmt: skip
    refused = code(lambda: guard.admit(plan, site, rows))
    assert (refused == "D06") == ("image" not in offered)


class Counted:
    """A learner that remembers for how many cases it was asked."""

    def __init__(self, learner: Any, asked: list[int]) -> None:
        self._learner, self._asked = learner, asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)

    def contribute(self, states: Any, rows: Cohort, plan: Plan) -> Contribution:
        self._asked += [len(rows)] * bool(len(rows))
        return cast(Contribution, self._learner.contribute(states, rows, plan))
