"""Updates that are not believed: too far from where they started, too far beside the others', of
more cases than the site has told of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.cohort import Fold
from common.errors import FederationError, UsageError
from common.federated.learner import Contribution, Federated, load
from common.types import Arrays
from common.wire import compression
from common.wire.messages import Hello, Update
from server.config.jobs import Job
from server.config.run_config import Run
from server.rounds import update_screening
from server.rounds.driver import Exchange, Federation, Progress, drive
from server.rounds.registration import Invitation, Roster, register
from server.rounds.strategies import LEAST, demand
from tests import ring
from tests.courier import MemoryGrid
from tests.server.rounds.test_driver import RUN, Local, bits, federation
from tests.synthetic import schema, sites

MLP: Federated = load("mlp", {"rounds": 2, "epochs": 1})
AT: Arrays = {
    "round": np.array(0),
    "w/0.weight": np.full((2, 3), 0.5, np.float32),
    "w/0.bias": np.zeros(2, np.float32),
}
BOUND = Run(norm_bound=2.0)
FACTOR = Run(outliers=3.0)
TOLD = dict.fromkeys("abcdefg", 100)


def update(by: float, cases: int = 10) -> Contribution:
    """Parameters of which one has changed by `by`."""
    moved = AT["w/0.bias"] + np.array([by, 0.0])
    return Contribution(
        {"w/0.weight": AT["w/0.weight"].astype(np.float64) * cases, "w/0.bias": moved * cases},
        cases,
    )


def found(run: Run, **changes: float) -> dict[str, str]:
    return update_screening.find(
        run, MLP, AT, {s: update(by) for s, by in changes.items()}, None, TOLD
    )


@given(st.floats(-1e6, 1e6), st.integers(1, 1000))
def test_the_norm_is_that_of_the_change_whatever_the_cases(by: float, cases: int) -> None:
    assert update_screening.norm(
        update(by, cases), {k: v for k, v in AT.items() if k != "round"}
    ) == pytest.approx(abs(by), rel=1e-6, abs=1e-6)


def test_beyond_the_bound_a_site_is_named_with_its_norm() -> None:
    assert found(BOUND, a=1.9, b=-1.9) == {}
    told = found(BOUND, a=1.0, b=-2.1)
    assert list(told) == ["b"]
    for word in ("b changes", "2.1", "norm_bound=2"):
        assert word in told["b"]


def test_an_outlier_is_one_beside_the_median_of_four_sites_or_more() -> None:
    assert found(FACTOR, a=1, b=1, c=50) == {}
    assert found(FACTOR, a=1, b=1.2, c=0.8, d=2.9) == {}
    told = found(FACTOR, a=1, b=1.2, c=0.8, d=50)
    assert list(told) == ["d"]
    for word in ("50", "median of 4 sites is 1.1", "outliers=3"):
        assert word in told["d"]
    assert sorted(found(FACTOR, a=1, b=1, c=1, d=1, e=60, f=70)) == ["e", "f"]
    assert found(FACTOR, a=0, b=0, c=0, d=1) == {}, "where nobody else moves there is no measure"


@pytest.mark.parametrize("run", [BOUND, FACTOR])
def test_a_change_too_large_for_a_number_is_refused_without_a_warning(run: Run) -> None:
    assert list(found(run, a=1, b=1, c=1, d=1e300)) == ["d"]


def test_nobody_is_doubted_unless_it_is_asked_for() -> None:
    assert found(Run(), a=1, b=1, c=1, d=1e9) == {}


def test_who_has_no_case_may_add_nothing() -> None:
    nothing = {k: np.zeros(v.shape) for k, v in AT.items() if k != "round"}
    for by, want in ((0.0, []), (5.0, ["a"])):
        sums = {**nothing, "w/0.bias": nothing["w/0.bias"] + by}
        assert (
            list(update_screening.find(BOUND, MLP, AT, {"a": Contribution(sums, 0)}, None, TOLD))
            == want
        )


def test_sums_of_another_phase_have_no_norm() -> None:
    assert (
        update_screening.find(
            BOUND, MLP, AT, {"a": Contribution({"classes": np.full(2, 1e9)}, 10)}, None, TOLD
        )
        == {}
    )
    assert (
        update_screening.find(
            BOUND,
            load("logistic"),
            {},
            {"a": Contribution({"gradient": np.full(2, 1e9)}, 10)},
            None,
            TOLD,
        )
        == {}
    )


@pytest.mark.parametrize("how", sorted(compression.ROUNDED))
def test_of_a_rounded_change_the_norm_is_that_of_what_was_sent(how: str) -> None:
    rng = np.random.default_rng(1)
    current: Arrays = {"w/0.weight": rng.normal(size=(300, 400)).astype(np.float32)}
    moved = current["w/0.weight"] + rng.normal(size=(300, 400)).astype(np.float32)
    thin, _ = compression.thin(
        Contribution({"w/0.weight": moved * np.float64(7)}, 7), current, {}, how
    )
    thick = compression.thicken(thin, current, how)
    size = compression.norm(thin.sums, how)
    assert size == pytest.approx(update_screening.norm(thick, current), rel=1e-5)
    run = Run(norm_bound=size / 2, transfer=how)
    assert list(
        update_screening.find(
            run, MLP, {"round": np.array(0), **current}, {"a": thin}, current, TOLD
        )
    ) == ["a"]


def test_more_cases_than_were_told_are_refused_for_sums_and_parameters() -> None:
    for learner in (MLP, load("logistic"), load("boosting")):
        told = update_screening.find(
            Run(), learner, AT, {"a": update(0, 101), "b": update(0, 100)}, None, TOLD
        )
        assert list(told) == ["a"]
        assert "101 cases" in told["a"]
        assert "told of 100" in told["a"]


def test_noise_and_cases_of_unknown_label_are_no_lie() -> None:
    assert (
        update_screening.find(
            Run(noise=1.0), load("logistic"), AT, {"a": update(0, 101)}, None, TOLD
        )
        == {}
    )
    for name in ("autoencoder", "segmentation"):
        assert update_screening.find(Run(), load(name), AT, {"a": update(0, 101)}, None, TOLD) == {}


@pytest.mark.parametrize(
    "bad",
    [
        {"norm_bound": -1.0},
        {"norm_bound": math.inf},
        {"outliers": 1.0},
        {"outliers": -2.0},
        {"outliers": math.nan},
    ],
)
def test_bounds_that_bound_nothing_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))) as caught:
        Run.parse(bad)
    assert caught.value.code == "C01"


# ---- through the driver, over real stations ------------------------------------------------------

FOLDS = (Fold(), Fold(parts=(0,)), Fold(("S1",)))
JOBS = [Job(learner, fold, (fold,)) for fold in FOLDS for learner in (load("preprocessing"), MLP)]
HONEST = dataclasses.replace(RUN, expect=5)
LENIENT = dataclasses.replace(HONEST, quorum=0.6)


@pytest.fixture
def stations(tmp_path: Path) -> list[Local]:
    return [Local(c, tmp_path, 1) for c in sites(150, 5, seed=2)]


def lying(stations: list[Local], change: Callable[[Contribution], Contribution]) -> MemoryGrid:
    """S3 changes what it sends."""

    def lie(updates: list[Update], turn: int) -> list[Update]:
        return [
            dataclasses.replace(u, contribution=change(u.contribution)) if u.contribution else u
            for u in updates
        ]

    return federation(stations, {"S3": lie})


def scaled(c: Contribution) -> Contribution:
    return (
        dataclasses.replace(c, sums={k: 50 * v for k, v in c.sums.items()})
        if "w/0.bias" in c.sums
        else c
    )


def boasting(c: Contribution) -> Contribution:
    return Contribution({k: 50 * v for k, v in c.sums.items()}, 50 * c.cases, c.tally)


def driven(grid: MemoryGrid, how: Run, name: str) -> tuple[Progress, list[Exchange]]:
    roster = register(
        grid, Invitation(how, name, ring.enrolled(f"S{k}" for k in range(5)), "now", schema())
    )
    progress, told = Progress(), list[Exchange]()
    drive(
        Federation(grid, how, name, roster, JOBS, schema()), progress, lambda e, _: told.append(e)
    )
    return progress, told


@pytest.mark.parametrize("defence", [{"norm_bound": 2.0}, {"outliers": 5.0}])
def test_a_scaled_update_is_refused_by_name_and_the_others_go_on(
    defence: dict[str, float], stations: list[Local]
) -> None:
    how = dataclasses.replace(LENIENT, **defence)
    progress, told = driven(lying(stations, scaled), how, f"scaled {defence}")
    work = [w for e in told for w in e.work if w["learner"] == "mlp"]
    by_fold = {f: w for w in work for f in w["folds"]}
    assert all(w["refused"] == {"S3": "X03"} for w in by_fold.values())
    assert all("S3" not in w["contributed"] for w in by_fold.values())
    assert any(
        "fold 'all': S3 changes the parameters by" in line for w in work for line in w["doubted"]
    )
    assert all(
        w["refused"] == {} and w["doubted"] == []
        for e in told
        for w in e.work
        if w["learner"] == "preprocessing"
    )
    # the same as if the liar had not been there for these learners
    assert np.abs(progress.states[Fold()]["mlp"]["w/0.weight"]).max() < 5


def test_undisturbed_nobody_is_refused_and_the_bits_are_those_without_a_defence(
    stations: list[Local],
) -> None:
    plain, _ = driven(federation(stations), HONEST, "plain")
    watched, told = driven(
        federation(stations), dataclasses.replace(HONEST, norm_bound=5.0, outliers=5.0), "watched"
    )
    assert bits(plain) == bits(watched)
    assert all(w["refused"] == {} for e in told for w in e.work if w["folds"] != ["site:S1"])


def test_a_refused_site_counts_against_the_quorum(stations: list[Local]) -> None:
    with pytest.raises(FederationError, match=r"4 of 5 sites") as caught:
        driven(lying(stations, scaled), dataclasses.replace(HONEST, norm_bound=2.0), "quorum")
    assert caught.value.code == "R01"
    for word in ("S3: X03", "S3 changes the parameters by", "norm_bound=2"):
        assert word in str(caught.value)


def test_a_site_that_claims_more_cases_than_it_told_is_refused_from_the_first_sum_on(
    stations: list[Local],
) -> None:
    _, told = driven(lying(stations, boasting), LENIENT, "boasting")
    assert all(w["refused"]["S3"] == "X03" for e in told for w in e.work)
    assert (
        "S3 sums over 1500 cases and has told of 30 labelled ones" in told[0].work[0]["doubted"][0]
    )


# ---- what could not work is said before the first round ------------------------------------------


def roster(count: int) -> Roster:
    hellos = {f"S{k}": Hello(f"S{k}", "", "", ("table",), (), 30) for k in range(count)}
    return Roster(hellos, {}, ring.enrolled(hellos))


def test_a_bound_without_parameters_and_outliers_among_three_are_refused() -> None:
    with pytest.raises(UsageError, match="this run has none"):
        update_screening.demand(BOUND, [Job(load("logistic"), Fold(), (Fold(),))], roster(5))
    with pytest.raises(UsageError, match="needs 4 sites that train together, there are 3"):
        update_screening.demand(FACTOR, JOBS, roster(3))
    update_screening.demand(FACTOR, JOBS, roster(4))
    update_screening.demand(Run(), [], roster(1))


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_a_robust_strategy_names_the_sites_that_it_needs(name: str, least: int) -> None:
    demand(name, JOBS, roster(least + 1))
    with pytest.raises(
        UsageError,
        match=rf"{least - 1} sites train mlp on fold 'site:S1', and strategy {name} needs {least}",
    ) as caught:
        demand(name, JOBS, roster(least))
    assert caught.value.code == "C01"
    assert "leave leave_one_site_out out" in str(caught.value)
    demand(name, JOBS[:2], roster(least))
    demand(name, [Job(load("logistic"), Fold(), (Fold(),))], roster(1))


def test_a_robust_strategy_does_not_go_with_masked_sums() -> None:
    with pytest.raises(
        UsageError, match="krum compares the sites' updates, which secure sums hide"
    ):
        demand("krum", JOBS, roster(9), masked=True)
    demand("fedadam", JOBS, roster(9), masked=True)
