"""Runs whose sites share one noise, over real stations under masks: less of it in the total, none
left out, and no site's share smaller than its own policy allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.site.privacy_policy import Policy
from client.station.answer_store import Answers
from client.station.durable_state import Memory
from client.station.gaussian_noise import demand_steps, within_masks
from client.station.masked_step import _fails
from client.station.privacy_budget import read
from common.data.cohort import Fold
from common.errors import FederationError, RefusedError
from common.federated.learner import Contribution, hyper_of, load
from common.privacy import renyi
from common.privacy.mechanism import Privacy, shared
from common.privacy.patient_sums import grid_of
from common.secure_aggregation import fixed_point
from common.secure_aggregation.fixed_point import Scale
from common.wire.messages import Request
from server.config.jobs import Job
from server.config.run_config import Run
from server.rounds.driver import Federation, Progress, drive
from tests import hospital
from tests.server.rounds.test_driver import Local
from tests.server.rounds.test_masked_sums import (
    NAMES,
    federation,
    masked_run,
    policy,
    roster,
    station,
)
from tests.synthetic import schema

LEARNER = load("private_logistic", {"rounds": 2})
NOISE, DELTA = 6.0, 1e-3


def opened(folder: Path, stack: ExitStack, **more: dict[str, Any]) -> list[Local]:
    """Stations with an account each; `more`: by site, what else its policy says."""
    stations = []
    for n in NAMES:
        told = {"epsilon": 50.0, "delta": DELTA, "colluders": 0} | more.get(n, {})
        minimum = told.pop("minimum", 1)
        rules = policy(n, **told)
        budget = stack.enter_context(closing(hospital.account(folder / n, rules)))
        memory = Memory(Answers(folder / n / "answers"), budget, masks=folder / n / "secure")
        stations.append(station(folder, n, minimum, memory, rules))
    return stations


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opening:
        yield opening


def run_of(folder: Path) -> Run:
    return replace(masked_run(noise=NOISE), shared_noise=True, out=str(folder))


def driven(stations: list[Local], folder: Path, asked: int = 0) -> Progress:
    """`asked`: shares, by a coordinator that does not care what the sites have told."""
    grid, run, progress = federation(stations), run_of(folder), Progress()
    found = roster(grid, run)
    jobs = [Job(LEARNER, Fold(), (Fold(),))]
    drive(
        Federation(grid, run, f"r{asked}", found, jobs, schema(), shared=asked or found.shared()),
        progress,
        lambda e, _: None,
    )
    return progress


def test_a_run_with_shared_noise_ends_and_divergences_decide_its_account(
    tmp_path: Path, stack: ExitStack
) -> None:
    stations = opened(tmp_path, stack)
    assert roster(federation(stations), run_of(tmp_path)).shared() == 4
    progress = driven(stations, tmp_path)
    assert np.isfinite(progress.states[Fold()]["private_logistic"]["coefficients"]).all()
    budget = stations[0]._memory.budget
    assert budget is not None
    told = read(tmp_path / NAMES[0], budget.policy)
    assert (told["shared"], told["colluders"]) == (2, 0)
    # two releases, and the counts of a greeting
    of_two = renyi.epsilon((2 * shared(NOISE, 4)).rdp, DELTA)
    assert told["spent"] > of_two
    assert told["spent"] == pytest.approx(budget.spent)
    # by itself the coordinator lacks five shares, not four
    alone = renyi.epsilon((2 * shared(NOISE * math.sqrt(5 / 4), 5)).rdp, DELTA)
    assert alone < told["alone"] < told["spent"]


def test_a_lost_account_of_shares_is_read_back_as_it_was(tmp_path: Path, stack: ExitStack) -> None:
    stations = opened(tmp_path, stack)
    driven(stations, tmp_path)
    spent = [s._memory.budget.spent for s in stations if s._memory.budget]
    stack.close()
    told = [read(tmp_path / n, policy(n, epsilon=50.0, delta=DELTA, colluders=0)) for n in NAMES]
    assert [t["spent"] for t in told] == pytest.approx(spent)
    assert not any(t["faults"] for t in told)


@pytest.mark.parametrize(
    "odd", [{"colluders": None}, {"colluders": 3}, {"dropouts": "continue", "fewest_sites": 3}]
)
def test_what_one_site_does_not_count_on_no_coordinator_gets(
    tmp_path: Path, stack: ExitStack, odd: dict[str, Any]
) -> None:
    stations = opened(tmp_path, stack, S2=odd)
    found = roster(federation(stations), run_of(tmp_path))
    if odd.get("colluders", 0) is None:
        with pytest.raises(FederationError, match="S2 share no noise"):
            found.shared()
    else:
        assert found.shared() == (1 if "colluders" in odd else 2)
    with pytest.raises(FederationError, match=r"S2 since .*P07") as caught:
        driven(stations, tmp_path, asked=4)
    assert caught.value.code == "R01"
    # nothing left, so nothing was paid but the counts of the greeting
    budget = stations[2]._memory.budget
    assert budget is not None
    assert read(tmp_path / "S2", budget.policy)["shared"] == 0


def plan_of(stations: list[Local], site: str, **more: Any) -> Any:
    from common.federated.learner import Plan

    told = {
        "run": "r", "site": site, "study": "synthetic", "task": "now", "schema": schema().hash,
        "step": 0, "learner": LEARNER.name, "phase": "newton", "fold": Fold(), "reads": (Fold(),),
        "state_hash": "", "participants": tuple(NAMES), "expires": math.inf,
        "hyper": hyper_of(LEARNER), "seed": 0, "parts": 5, "secure": True,
        "privacy": Privacy(NOISE, 4),
    }  # fmt: skip
    return Plan(**told | more)


def test_a_site_below_its_minimum_adds_its_share_to_nothing(
    tmp_path: Path, stack: ExitStack
) -> None:
    """Its noise is counted on by the others; and it pays for what may be seen of it."""
    stations = opened(tmp_path, stack, S3={"minimum": 900})
    states = {Fold(): {LEARNER.name: LEARNER.start(schema(), 0)}}
    sums = {}
    for s in (stations[3], stations[4]):
        (update,) = s.handle(Request((plan_of(stations, s.site.name),), states))
        assert update.code == ""
        assert update.contribution is not None
        sums[s.site.name] = update.contribution.sums["hessian"]
    bound = LEARNER.phases["newton"].sensitivity(schema())
    assert isinstance(bound, float)
    share = bound * Privacy(NOISE, 4).share
    assert sums["S3"].std() == pytest.approx(share, rel=0.3)
    assert (sums["S3"] != 0).all()
    # 30 patients, each with a quarter of 1 in the corner
    assert abs(sums["S3"][0, 0]) < 6 * share
    assert read(tmp_path / "S3", policy("S3", delta=DELTA))["shared"] == 1


def test_nothing_stands_for_a_share_that_is_missing() -> None:
    """A code by which a site adds zeros is a failure of the step where its share is counted on."""
    whole = plan_of([], "S1", privacy=Privacy(NOISE))
    for code in ("P01", "D06"):
        assert _fails(plan_of([], "S1"), code)
        assert not _fails(whole, code)
    assert _fails(whole, "P02")
    assert not _fails(plan_of([], "S1"), "")


def test_sums_are_whole_numbers_of_the_grid_to_the_last_bit_of_the_total() -> None:
    from client.station.gaussian_noise import noised

    privacy, bound = Privacy(NOISE, 4), 3.0
    on = grid_of(bound, privacy)
    parts = [
        noised(Contribution({"a": np.full(1000, n, np.int64)}, 30), bound, privacy)
        for n in range(5)
    ]
    like = {"a": np.zeros(1000)}
    with np.errstate(over="ignore"):
        total = sum(
            (fixed_point.encode(p.sums, like, Scale(5)) for p in parts), np.zeros(1000, np.uint64)
        )
    decoded = fixed_point.decode(total, like, Scale(5), 5)["a"]
    steps = decoded / on.step
    assert (steps == np.rint(steps)).all()
    assert (decoded == np.sum([p.sums["a"] for p in parts], axis=0)).all()
    spread = privacy.total(5) * bound
    assert (decoded - 10 * on.step).std() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(
    ("bound", "noise"), [(1e-9, 1.0), (1e-3, 1e-6), (1e9, 1e3), (1e18, 1.0), (1e-6, 2e-3)]
)
def test_a_share_below_four_steps_or_beyond_the_masks_is_refused(
    bound: float, noise: float
) -> None:
    with pytest.raises(RefusedError, match=r"steps of the masks' grid|does not fit") as caught:
        demand_steps(plan_of([], "S1", privacy=Privacy(noise, 4)), bound)
    assert caught.value.code == "P08"


def test_a_share_of_four_steps_and_more_passes() -> None:
    step = 2.0**-30
    for steps in (4.001, 10.0, 2.0**19):
        noise = steps * 2 / math.sqrt(2)
        demand_steps(plan_of([], "S1", privacy=Privacy(noise, 4)), step)
    with pytest.raises(RefusedError):
        demand_steps(plan_of([], "S1", privacy=Privacy(3.999 * 2 / math.sqrt(2), 4)), step)


def test_a_sum_that_is_too_large_is_cut_and_tells_nothing_by_a_code() -> None:
    """A patient changes it by no more than before."""
    asked = plan_of([], "S1")
    huge = np.array([2**60, -(2**60), 5], np.int64)
    cut = within_masks(Contribution({"a": huge}, 2**60), 3.0, asked)
    one = within_masks(Contribution({"a": huge + 1}, 1), 3.0, asked)
    on = grid_of(3.0, asked.privacy)
    assert (np.abs(one.sums["a"] - cut.sums["a"]) <= 1).all()
    assert cut.sums["a"][2] == 5
    assert np.abs(on.values(cut.sums["a"])).max() * 2 <= Scale(5).bound
    assert cut.cases * 2 <= Scale(5).bound


def test_a_plan_with_other_shares_is_another_question() -> None:
    asked = plan_of([], "S1")
    other = dataclasses.replace(asked, privacy=Privacy(NOISE, 3))
    assert asked.question != other.question


def test_a_site_without_the_images_that_are_asked_for_adds_its_share(
    tmp_path: Path, stack: ExitStack
) -> None:
    """Nobody can be told that its part of the noise is missing."""
    from client.station import guard

    learner = load("image")
    (s,) = opened(tmp_path, stack)[:1]
    cohort = s.cohort("synthetic", "now")
    assert not learner.modality <= cohort.modalities
    asked = plan_of([], "S0", learner="image", phase="spread", hyper=hyper_of(learner))
    assert guard.admit(asked, s.site, cohort).name == "image"
    for other in ({"privacy": Privacy(NOISE)}, {"phase": "train"}):
        with pytest.raises(RefusedError) as caught:
            guard.admit(dataclasses.replace(asked, **other), s.site, cohort)  # type: ignore[arg-type]
        assert caught.value.code in ("D06", "P03")


def test_a_policy_of_none_shares_nothing() -> None:
    assert Policy().honest_peers(plan_of([], "S1")) == 0
