"""Flower's strategies over learners that send parameters: their arithmetic, and their moments in
the learner's arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from common.data.cohort import Cohort, Fold
from common.errors import FederationError, UsageError
from common.federated.learner import (
    Contribution,
    Plan,
    configured,
    fit,
    hyper_of,
    load,
    local_plan,
    total,
)
from common.learners.mlp import Perceptron
from common.learners.preprocessing import Preprocessing
from common.types import Arrays, State, digest, pack, unpack
from server.rounds.strategies import LEAST, MEANS, STRATEGIES, _aggregate, combiner
from tests import courier
from tests.synthetic import cohort, sites, split

assert courier.TaskIdentity.run_id == 1  # Flower's messages need a run to belong to

PLAN = local_plan(Fold(), 3, 5)
LEARNER = configured(Perceptron(), {"rounds": 4, "epochs": 1})


def prepared(those: Sequence[Cohort], learner: Perceptron = LEARNER) -> State:
    return {
        **fit(Preprocessing(), {}, those, PLAN),
        learner.name: learner.start(those[0].schema, 1),
    }


def given(
    state: State, those: Sequence[Cohort], learner: Perceptron = LEARNER
) -> list[Contribution]:
    return [learner.contribute({Fold(): state}, c, asked(learner)) for c in those]


def asked(learner: Perceptron) -> Plan:
    return dataclasses.replace(PLAN, learner=learner.name, phase="train", hyper=hyper_of(learner))


def stepped(
    name: str, state: State, contributions: list[Contribution], learner: Perceptron = LEARNER
) -> Arrays:
    """One round, with a combiner made for it: whatever it must remember is in the arrays."""
    combined, arrays = combiner(name)(learner, state[learner.name], contributions)
    return learner.apply({Fold(): {**state, learner.name: arrays}}, combined, asked(learner)).arrays


def trained(
    name: str,
    those: Sequence[Cohort],
    rounds: int,
    state: State | None = None,
    learner: Perceptron = LEARNER,
) -> State:
    state = state or prepared(those, learner)
    for _ in range(rounds):
        state = {**state, learner.name: stepped(name, state, given(state, those, learner), learner)}
    return state


def weights(arrays: Arrays) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.concatenate(
        [arrays[k].ravel().astype(float) for k in sorted(arrays) if k.startswith("w/")]
    )


def means(
    contributions: Sequence[Contribution],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(sites, parameters): what each site trained."""
    return np.stack([weights({k: v / c.cases for k, v in c.sums.items()}) for c in contributions])


@pytest.fixture(scope="module")
def those() -> list[Cohort]:
    """Seven sites of different sizes."""
    return split(cohort(210, seed=1), np.repeat(np.arange(7), [60, 50, 40, 20, 20, 10, 10]), 7)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_learns_and_keeps_names_shapes_and_dtypes(
    name: str, those: list[Cohort]
) -> None:
    start = prepared(those)
    state = trained(name, those, 4)
    for key, value in LEARNER.parameters(start["mlp"]).items():
        assert state["mlp"][key].shape == value.shape
        assert state["mlp"][key].dtype == value.dtype
    loss = [float(total(given(s, those)).tally["loss"]) for s in (start, state)]
    assert loss[1] < loss[0]
    assert int(state["mlp"]["round"]) == 4


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(UsageError, match="fedadagrad") as caught:
        combiner("fedadagrad")
    assert caught.value.code == "C01"


def test_fedavg_is_the_mean_weighted_by_cases(those: list[Cohort]) -> None:
    state = prepared(those)
    contributions = given(state, those)
    cases = np.array([c.cases for c in contributions])
    want = cases @ means(contributions) / cases.sum()
    for name in MEANS:  # FedProx differs at the sites
        np.testing.assert_allclose(
            weights(stepped(name, state, contributions)), want, rtol=1e-6, atol=1e-7
        )
        flowers, _ = _aggregate(STRATEGIES[name](len(those)), LEARNER, state["mlp"], contributions)
        np.testing.assert_allclose(
            weights(LEARNER.apply({Fold(): state}, flowers, asked(LEARNER)).arrays),
            want,
            rtol=1e-5,
            atol=1e-6,
        )


def test_fedmedian_and_the_trimmed_mean_are_taken_by_coordinate(those: list[Cohort]) -> None:
    state = prepared(those)
    contributions = given(state, those)
    every = np.sort(means(contributions), axis=0)
    np.testing.assert_allclose(
        weights(stepped("fedmedian", state, contributions)), every[3], atol=1e-6
    )
    np.testing.assert_allclose(
        weights(stepped("fedtrimmedavg", state, contributions)), every[1:-1].mean(axis=0), atol=1e-6
    )


def test_fedadam_takes_the_papers_step(those: list[Cohort]) -> None:
    """Reddi et al. 2021 (arXiv 2003.00295), algorithm 2, with Flower's bias correction of the first
    round."""
    state = prepared(those)
    contributions = given(state, those)
    cases = np.array([c.cases for c in contributions])
    delta = cases @ means(contributions) / cases.sum() - weights(state["mlp"])
    arrays = stepped("fedadam", state, contributions)
    beta1, beta2, eta, tau = 0.9, 0.99, 0.03, 1e-3
    m, v = (1 - beta1) * delta, (1 - beta2) * delta**2
    rate = eta * np.sqrt(1 - beta2**2) / (1 - beta1**2)
    np.testing.assert_allclose(
        weights(arrays) - weights(state["mlp"]), rate * m / (np.sqrt(v) + tau), rtol=0.02, atol=1e-5
    )


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_moments_live_in_the_arrays_and_a_resumed_run_has_the_same_bits(
    name: str, those: list[Cohort]
) -> None:
    whole = trained(name, those, 4)["mlp"]
    half = trained(name, those, 2)
    assert any(k.startswith("memory/m_t") for k in half["mlp"])
    assert any(k.startswith("memory/v_t") for k in half["mlp"])
    resumed = trained(name, those, 2, {n: unpack(pack(a)) for n, a in half.items()})["mlp"]
    assert digest(resumed) == digest(whole)
    forgetful = {
        **half,
        "mlp": {k: v for k, v in half["mlp"].items() if not k.startswith("memory/")},
    }
    assert digest(trained(name, those, 2, forgetful)["mlp"]) != digest(
        whole
    )  # the moments do matter


@pytest.mark.parametrize("by", [1e4, 1e300])
@pytest.mark.parametrize("name", LEAST)
def test_one_poisoned_site_of_seven_is_ignored(name: str, by: float, those: list[Cohort]) -> None:
    state = prepared(those)
    honest = given(state, those)
    bad = Contribution(
        {k: v + by * honest[0].cases for k, v in honest[0].sums.items()},
        honest[0].cases,
        honest[0].tally,
    )
    good = means(honest)
    low, high = good.min(axis=0) - 1e-5, good.max(axis=0) + 1e-5
    result = weights(stepped(name, state, [bad, *honest[1:]]))
    assert ((result >= low) & (result <= high)).all()
    if name == "krum":
        assert (
            min(np.abs(row - result).max() for row in good[1:]) < 1e-5
        )  # one site's own parameters
    if by < 1e30:
        assert np.abs(weights(stepped("fedavg", state, [bad, *honest[1:]]))).max() > 1e2


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_a_robust_strategy_refuses_too_few_updates_by_name(
    name: str, least: int, those: list[Cohort]
) -> None:
    state = prepared(those)
    contributions = given(state, those)
    stepped(name, state, contributions[:least])
    with pytest.raises(
        FederationError,
        match=rf"{least - 1} updates of mlp came, and strategy {name} needs {least}",
    ) as caught:
        stepped(name, state, contributions[: least - 1])
    assert caught.value.code == "R01"


def test_what_a_robust_strategy_needs_is_what_its_paper_needs_for_one_wrong_site(
    those: list[Cohort],
) -> None:
    for name, least in LEAST.items():
        for sites_there, wrong in ((least, 1), (least - 1, 0)):
            made: Any = STRATEGIES[name](sites_there)
            if name == "fedtrimmedavg":
                assert int(made.beta * sites_there) == wrong
            elif name != "fedmedian":
                assert made.num_malicious_nodes == wrong


@pytest.mark.parametrize("name", [n for n in STRATEGIES if n not in LEAST])
def test_one_site_alone_is_enough(name: str, those: list[Cohort]) -> None:
    state = prepared(those)
    arrays = stepped(name, state, given(state, those[:1]))
    assert np.isfinite(weights(arrays)).all()


class Barren:
    """A Flower strategy that finds no result."""

    def aggregate_train(self, *_: object) -> tuple[None, None]:
        return None, None


def test_a_strategy_without_a_result_is_a_named_error(those: list[Cohort]) -> None:
    state = prepared(those)
    with pytest.raises(FederationError, match="Barren gave no result for 2 updates") as caught:
        _aggregate(Barren(), LEARNER, state["mlp"], given(state, those[:2]))
    assert caught.value.code == "R01"


def test_the_proximal_term_holds_a_site_near_the_global_parameters(those: list[Cohort]) -> None:
    state = prepared(those)
    moved = []
    for mu in (0.0, 0.1, 1.0, 10.0):
        learner = configured(Perceptron(), {"rounds": 4, "epochs": 3, "proximal": mu})
        (c,) = given(state, those[:1], learner)
        moved.append(float(np.linalg.norm(means([c])[0] - weights(state["mlp"]))))
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 0.5 * moved[0]


def test_learners_of_sums_are_added_whatever_the_strategy(those: list[Cohort]) -> None:
    logistic = load("logistic")
    state = {**prepared(those), "logistic": logistic.start(those[0].schema, 0)}
    contributions = [logistic.contribute({Fold(): state}, c, PLAN) for c in those]
    want = total(contributions)
    for name in STRATEGIES:
        combined, arrays = combiner(name)(logistic, state["logistic"], contributions)
        assert digest(combined.sums) == digest(want.sums)
        assert arrays is state["logistic"]


def test_the_combined_loss_is_the_sum_of_the_sites(those: list[Cohort]) -> None:
    state = prepared(those)
    contributions = given(state, those)
    combined, _ = combiner("fedadam")(LEARNER, state["mlp"], contributions)
    assert float(combined.tally["loss"]) == pytest.approx(
        sum(float(c.tally["loss"]) for c in contributions)
    )
    assert combined.cases == sum(len(c) for c in those)


def test_averaged_logistic_regression_approaches_newton_on_alike_sites() -> None:
    """As far as averaging can: steps of a fixed size go on turning about the optimum."""
    those = sites(1200, 4, seed=2, missing=0)
    base = fit(Preprocessing(), {}, those, PLAN)
    newton = fit(load("logistic"), base, those, PLAN)
    p = np.concatenate([load("logistic").predict(newton, c)[:, 1] for c in those])  # type: ignore[attr-defined]
    gaps = []
    for rounds in (2, 40):
        learner = load("logistic_fedavg", {"rounds": rounds})
        q = np.concatenate(
            [learner.predict(fit(learner, base, those, PLAN), c)[:, 1] for c in those]
        )  # type: ignore[attr-defined]
        gaps.append(float(np.abs(p - q).max()))
    assert gaps[1] < 0.5 * gaps[0]
    assert gaps[1] < 0.06
