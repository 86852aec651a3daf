"""Canaries find what they should: less than is accounted where noise and bound are right, more
where either is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from common.data.cohort import Cohort, pooled
from common.data.schema import Column, Floats
from common.federated.accounting import least_noise
from common.federated.learner import Federated, load
from common.networks import dp_sgd
from common.privacy.mechanism import Privacy, epsilon
from common.privacy.random import repeatable
from simulation.attack.canary import CANDIDATES, OTHERS, Drill, arranged, canaries, patients, played
from simulation.attack.lower_bound import CONFIDENCE, lower_bound
from tests.synthetic import schema

DELTA, MOST = 1e-5, 2.0
SCHEMA = schema(2, 1)
CHAINS: dict[str, list[Federated]] = {
    "preprocessing": [load("preprocessing")],
    "logistic": [load("preprocessing"), load("logistic")],
    "private_logistic": [load("private_logistic")],
    "boosting": [load("preprocessing"), load("boosting")],
    "scores": [load("private_logistic"), load("scores", {"heads": ["private_logistic"]})],
    "mlp": [load("preprocessing"), load("mlp", {"hidden": [4], "epochs": 1, "rate": 0.5})],
}
learners = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n == "mlp" else []) for n in CHAINS]
)


@pytest.fixture(autouse=True)
def fewer_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as show an epsilon above `MOST`: log(2000 / 15) or so."""
    monkeypatch.setattr("simulation.attack.canary.TRIALS", (1000, 2000))


def drill(chain: Sequence[Federated], candidates: Cohort | None = None) -> Drill:
    return arranged(
        chain, patients(SCHEMA, OTHERS, 0), candidates or patients(SCHEMA, CANDIDATES, 1)
    )


def bounds(honest: Drill, played_: Drill, cut: float = 1.0) -> tuple[float, float]:
    """(accounted, found): noise and account are the honest drill's, the noise then times `cut`."""
    noise = least_noise(honest.charged, MOST, DELTA)
    with repeatable(3, f"{honest.learner.name} {cut}"):
        without, with_ = played(played_, Privacy(noise * cut))
    return epsilon(honest.charged(noise), DELTA), lower_bound(without, with_, DELTA)


@learners
def test_the_bound_lies_below_what_is_accounted_and_above_it_with_a_tenth_of_the_noise(
    name: str,
) -> None:
    honest = drill(CHAINS[name])
    accounted, found = bounds(honest, honest)
    assert 0.95 * MOST < accounted <= MOST
    assert found <= accounted
    # a step or two out of a thousand trainings show less than the least that can be shown
    assert found > 0 or name == "mlp", "the canary is not seen at all"
    accounted, found = bounds(honest, honest, 0.1)
    assert found > accounted


@pytest.fixture
def uncut(monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """Patients far outside the schema's bounds, to which nobody cuts them."""

    def as_it_is(column: Column, x: Floats) -> Floats:
        return np.asarray(np.log1p(x - column.low) if column.scale == "log" else x)

    monkeypatch.setattr(Column, "to_model", as_it_is)
    few = patients(SCHEMA, CANDIDATES, 1)
    return replace(few, values=100 * few.values)


@pytest.mark.parametrize("name", ["logistic", "private_logistic"])
def test_rows_that_are_not_cut_are_found_out(name: str, uncut: Cohort) -> None:
    honest, chain = drill(CHAINS[name]), CHAINS[name]
    loose = {"logistic": {"clip": 1000.0}, "private_logistic": {"norm": 1000.0}}[name]
    prepared: list[Federated] = [load("preprocessing", {"clip": 1000.0})] if len(chain) > 1 else []
    found = drill([*prepared, load(name, loose)], uncut)
    as_promised = tuple(
        replace(m, bound=h.bound) for m, h in zip(found.moments, honest.moments, strict=True)
    )
    accounted, least = bounds(honest, replace(found, moments=as_promised))
    assert least > accounted


def test_values_that_are_not_cut_to_their_bounds_are_found_out(uncut: Cohort) -> None:
    accounted, found = bounds(drill(CHAINS["preprocessing"]), drill(CHAINS["preprocessing"], uncut))
    assert found > accounted


@pytest.mark.parametrize("name", ["boosting", "scores"])
def test_a_patient_who_counts_ten_times_is_found_out(name: str) -> None:
    honest = drill(CHAINS[name])
    accounted, found = bounds(
        honest, replace(honest, canaries=tuple(pooled([c] * 10) for c in honest.canaries))
    )
    assert found > accounted


@pytest.mark.slow
def test_a_gradient_that_is_not_cut_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, cut = drill(CHAINS["mlp"]), dp_sgd.add_clipped

    def as_it_is(total: Any, gradient: Any, clip: float, on: Any) -> None:
        cut(total, gradient, 1e6, on)

    monkeypatch.setattr(dp_sgd, "add_clipped", as_it_is)
    accounted, found = bounds(honest, drill(CHAINS["mlp"]))
    assert found > accounted


@pytest.mark.parametrize("name", ["preprocessing", "scores", "boosting"])
def test_the_worst_patient_at_the_worst_state_takes_up_the_whole_bound(name: str) -> None:
    from simulation.attack.canary import _share, _size

    found = drill(CHAINS[name])
    for moment, canary in zip(found.moments, found.canaries, strict=True):
        assert isinstance(moment.bound, float)
        size = _size(_share(found.learner, moment, canary))
        assert 0.95 * moment.bound < size <= moment.bound * (1 + 1e-9)


@pytest.mark.parametrize("noise", [0.3, 1.0, 4.0])
def test_the_bound_errs_no_more_often_than_it_says(noise: float) -> None:
    """Of one Gaussian sum the exact epsilon is known (Balle & Wang 2018, arXiv 1805.06530, theorem
    8)."""
    asked = np.linspace(0, 60, 60_001)
    exact = norm.cdf(0.5 / noise - asked * noise) - np.exp(
        asked + norm.logcdf(-0.5 / noise - asked * noise)
    )
    true = asked[np.argmax(exact <= 1e-3)]
    rng = np.random.default_rng(0)
    found = [
        lower_bound(rng.normal(size=1000), rng.normal(1 / noise, size=1000), 1e-3)
        for _ in range(100)
    ]
    assert max(found) <= true
    assert noise == 4 or np.median(found) > 0.15 * min(true, 4)


def test_nothing_is_found_where_nothing_is() -> None:
    rng = np.random.default_rng(1)
    assert lower_bound(np.zeros(100), np.zeros(100), 1e-5) == 0
    assert lower_bound(rng.normal(size=1000), rng.normal(size=1000), 1e-5) == 0


def test_rows_can_be_made_again_with_a_seed_alone() -> None:
    def once(noise_seed: int | None) -> list[dict[str, Any]]:
        return canaries(
            [CHAINS["scores"]], SCHEMA, [3.0, 1.0], DELTA, seed=0, noise_seed=noise_seed
        )

    rows = once(4)
    assert rows == once(4)
    assert rows != once(None)
    assert [r["learner"] for r in rows] == ["scores", "scores"]
    assert all(
        0 <= r["lower"] <= r["epsilon"] <= e and r["confidence"] == CONFIDENCE
        for r, e in zip(rows, (3, 1), strict=True)
    )
