"""Federated Newton against an independently written pooled Newton in float64: the same
coefficients, whatever the sites."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.data.cohort import Cohort, Fold, empty
from common.federated.learner import Contribution, Plan, fit, hyper_of, local_plan, total
from common.federated.multinomial import LEAST
from common.learners.logistic import Logistic
from common.learners.preprocessing import Preprocessing
from common.types import State
from common.wire.envelope import Packet
from common.wire.flower_records import content, packet
from common.wire.messages import Update, pack_updates, unpack_updates
from tests import ring
from tests.courier import message
from tests.synthetic import cohort, schema, sites, split

PLAN = local_plan(Fold(), 3, 5)
Matrix = np.ndarray[Any, Any]


def standardised(those: list[Cohort]) -> tuple[Matrix, Matrix]:
    """The pooled matrix on the model scale, scaled by numpy's own mean and standard deviation;
    missing at the mean."""
    columns = those[0].schema.columns
    x = np.concatenate([c.design for c in those])
    z = np.zeros((len(x), len(columns) + 1))
    z[:, 0] = 1
    for j, column in enumerate(columns):
        t = np.log1p(x[:, j] - column.low) if column.scale == "log" else x[:, j]
        known = ~np.isnan(t)
        if known.any() and np.ptp(t[known]) > 0:
            z[known, j + 1] = np.clip((t[known] - t[known].mean()) / t[known].std(), -10, 10)
    return z, np.concatenate([c.labels for c in those])


def pooled_newton(x: Matrix, y: Matrix, classes: int, l2: float) -> Matrix:
    """Maximum of sum log p(y) - l2 / 2 * |slopes|^2, the intercepts free: full Hessian,
    backtracking, to the last digits."""
    k, p = classes - 1, x.shape[1]
    penalty = np.tile(np.r_[0.0, np.full(p - 1, l2)], k)
    onehot = (y[:, None] == np.arange(1, classes)).astype(float)

    def value(b: Matrix) -> float:
        eta = x @ b.reshape(k, p).T
        return float(
            (onehot * eta).sum()
            - np.logaddexp.reduce(np.c_[np.zeros(len(x)), eta], axis=1).sum()
            - (penalty * b**2).sum() / 2
        )

    b = np.zeros(k * p)
    for _ in range(200):
        eta = np.c_[np.zeros(len(x)), x @ b.reshape(k, p).T]
        mu = np.exp(eta - np.logaddexp.reduce(eta, axis=1)[:, None])[:, 1:]
        gradient = ((onehot - mu).T @ x).ravel() - penalty * b
        weights = np.einsum("na,ab->nab", mu, np.eye(k)) - np.einsum("na,nb->nab", mu, mu)
        hessian = np.einsum("nab,nc,nd->acbd", weights, x, x).reshape(k * p, k * p) + np.diag(
            penalty
        )
        step = np.linalg.solve(hessian, gradient)
        if np.abs(step).max() < 1e-11 * max(1.0, np.abs(b).max()):
            return np.asarray((b + step).reshape(k, p))
        size = 1.0
        while value(b + size * step) < value(b) - 1e-12 * abs(value(b)) and size > 1e-4:
            size /= 2
        b = b + size * step
    raise AssertionError("the reference did not converge")


def fitted(learner: Logistic, those: list[Cohort], plan: Plan = PLAN) -> State:
    return fit(learner, fit(Preprocessing(), {}, those, plan), those, plan)


def compared(learner: Logistic, those: list[Cohort], rounds: int = 12) -> float:
    """The largest difference of a coefficient from the reference; the rounds are counted too."""
    arrays = fitted(learner, those)["logistic"]
    assert bool(arrays["converged"])
    assert int(arrays["rounds"]) <= rounds
    reference = pooled_newton(*standardised(those), len(those[0].schema.label.classes), learner.l2)
    return float(np.abs(arrays["coefficients"] - reference).max())


@st.composite
def federations(draw: st.DrawFn) -> list[Cohort]:
    """Up to five sites of any size down to nobody; one may hold a single class, or lack a feature
    altogether."""
    whole = cohort(
        draw(st.integers(24, 90)),
        classes=draw(st.sampled_from([2, 4])),
        seed=draw(st.integers(0, 10_000)),
        missing=draw(st.sampled_from([0.0, 0.2])),
        noise=draw(st.sampled_from([0.5, 2.0])),
    )
    count = draw(st.integers(1, 5))
    at = np.array(
        draw(st.lists(st.integers(0, count - 1), min_size=len(whole), max_size=len(whole)))
    )
    if draw(st.booleans()):
        at = np.where(whole.labels == 1, 0, at)  # class 1 at one site only
    those = split(whole, at, count)
    lacking = draw(st.integers(0, count))
    if lacking < count:
        values = those[lacking].values.copy()
        values[:, draw(st.integers(0, values.shape[1] - 1))] = np.nan
        those[lacking] = dataclasses.replace(those[lacking], values=values)
    return those


@settings(max_examples=60, deadline=None)
@given(federations(), st.sampled_from([1.0, 0.1, 30.0]))
def test_equals_pooled_newton_whatever_the_split(those: list[Cohort], l2: float) -> None:
    assert compared(Logistic(l2=l2), those) <= 1e-8


@pytest.mark.parametrize("classes", [2, 4])
def test_a_site_with_one_row_one_class_no_row_and_a_missing_feature(classes: int) -> None:
    whole = cohort(120, classes=classes, seed=5)
    at = np.where(whole.labels == classes - 1, 1, 3)
    at[0] = 0  # one patient alone; site 2 has nobody
    those = split(whole, at, 4)
    values = those[1].values.copy()
    values[:, 0] = np.nan
    those[1] = dataclasses.replace(those[1], values=values)
    assert [len(c) for c in those][0::2] == [1, 0]
    assert compared(Logistic(), those) <= 1e-8


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("l2", [1.0, 0.1, 1e-3])
def test_separable_classes_converge_in_twelve_rounds(classes: int, l2: float) -> None:
    for seed in range(3):
        those = sites(60, 3, classes=classes, seed=seed, missing=0, noise=0)
        assert compared(Logistic(l2=l2), those) <= 1e-8


def test_a_rare_class_converges_in_twelve_rounds() -> None:
    whole = cohort(2000, seed=1)
    rare = dataclasses.replace(whole, labels=np.where(np.arange(2000) < 3, 1, 0))
    assert compared(Logistic(), split(rare, np.arange(2000) % 4)) <= 1e-8


def test_only_one_class_gives_the_ridge_on_the_intercept_and_no_slope() -> None:
    from scipy.optimize import brentq

    learner = Logistic()
    whole = cohort(80, missing=0)
    for label in (0, 1):
        those = split(dataclasses.replace(whole, labels=np.full(80, label)), np.arange(80) % 2)
        arrays = fitted(learner, those)["logistic"]
        # n * (1 - sigmoid(b)) = prior * b
        b = brentq(
            lambda t: 80 / (1 + np.exp(t)) - learner.prior * t, 0, 60, xtol=1e-14, rtol=1e-14
        )
        assert arrays["coefficients"][0, 0] == pytest.approx(b if label else -b, abs=1e-8)
        assert np.abs(arrays["coefficients"][:, 1:]).max() < 1e-9
        assert int(arrays["rounds"]) <= 12


def test_a_class_that_nobody_has_is_given_no_probability_and_disturbs_nothing() -> None:
    two = cohort(90, classes=2, seed=3)
    three = [dataclasses.replace(c, schema=schema(3)) for c in split(two, np.arange(90) % 3)]
    both = fitted(Logistic(), three)
    alone = fitted(Logistic(), split(two, np.arange(90) % 3))
    assert int(both["logistic"]["rounds"]) <= 12
    np.testing.assert_allclose(
        both["logistic"]["coefficients"][0], alone["logistic"]["coefficients"][0], atol=1e-8
    )
    assert Logistic().predict(both, three[0])[:, 2].max() < 1e-7


def test_the_penalty_is_taken_once_and_spares_the_intercept() -> None:
    """Everybody twice with twice the penalty is the same maximum: it would not be if each site
    added the penalty."""
    those = sites(60, 2, seed=2)
    twins = [
        dataclasses.replace(c, site=f"{c.site}'", ids=tuple(f"{i}'" for i in c.ids)) for c in those
    ]
    once, twice = fitted(Logistic(l2=1.5), those), fitted(Logistic(l2=3.0), [*those, *twins])
    np.testing.assert_allclose(
        twice["logistic"]["coefficients"], once["logistic"]["coefficients"], atol=1e-8
    )
    strong = fitted(Logistic(l2=1e9), those)["logistic"]["coefficients"]
    labels = np.concatenate([c.labels for c in those])
    assert np.abs(strong[:, 1:]).max() < 1e-6
    assert strong[0, 0] == pytest.approx(np.log(labels.mean() / (1 - labels.mean())), abs=1e-6)


def test_log_odds_are_against_class_zero() -> None:
    those = sites(80, classes=3, seed=4)
    state = fitted(Logistic(), those)
    p = Logistic().predict(state, those[0])
    x, _ = standardised(those)
    # the first site's patients are the first rows of the pooled matrix
    want = x[: len(those[0])] @ state["logistic"]["coefficients"].T
    np.testing.assert_allclose(np.log(p[:, 1:] / p[:, :1]), want, atol=1e-9)


def through_the_wire(contribution: Contribution, plan: Plan) -> Contribution:
    asked, site = Packet("request", b""), ring.signer("S1")
    sent = content(pack_updates([Update(plan.hash, contribution)], site, asked))
    (update,) = unpack_updates(packet(message(sent), "updates"), site.public, asked)
    assert update.contribution is not None
    return update.contribution


def test_the_same_bits_whatever_the_transport() -> None:
    learner, those = Logistic(), sites(70, 4, classes=3, seed=6)
    here = fitted(learner, those)
    there: State = {}
    for one in (Preprocessing(), learner):
        there[one.name] = one.start(those[0].schema, PLAN.seed)
        done = False
        while not done:
            plan = dataclasses.replace(
                PLAN, learner=one.name, phase=one.phase(there[one.name]), hyper=hyper_of(one)
            )
            step = one.apply(
                {Fold(): there},
                total(
                    [
                        through_the_wire(one.contribute({Fold(): there}, c, plan), plan)
                        for c in those
                    ]
                ),
                plan,
            )
            there[one.name], done = step.arrays, step.done
    assert {k: v.tobytes() for k, v in here["logistic"].items()} == {
        k: v.tobytes() for k, v in there["logistic"].items()
    }


def test_unlabelled_patients_change_nothing() -> None:
    labelled = cohort(60, seed=8)
    more = cohort(30, seed=9)
    ids = tuple(f"q{i}" for i in range(30))
    extra = Cohort("S1", labelled.schema, ids, more.values, np.full(30, -1))
    alone, beside = fitted(Logistic(), [labelled]), fitted(Logistic(), [labelled, extra])
    assert (
        alone["logistic"]["coefficients"].tobytes() == beside["logistic"]["coefficients"].tobytes()
    )


def test_a_step_that_overshoots_is_halved_from_where_it_began() -> None:
    learner, those = Logistic(), sites(50, seed=1)
    state = fit(Preprocessing(), {}, those, PLAN)
    state["logistic"] = learner.start(those[0].schema, 0)
    first = learner.apply(
        {Fold(): state}, total([learner.contribute({Fold(): state}, c, PLAN) for c in those]), PLAN
    ).arrays
    worse = total(
        [learner.contribute({Fold(): {**state, "logistic": first}}, c, PLAN) for c in those]
    )
    worse.sums["likelihood"] = np.array(-1e6)
    second = learner.apply({Fold(): {**state, "logistic": first}}, worse, PLAN)
    np.testing.assert_allclose(
        second.arrays["coefficients"], first["base"] + first["step"] / 2, rtol=1e-15
    )
    assert second.arrays["objective"] == first["objective"]
    assert not second.done


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([2, 4]), st.floats(0, 100), st.integers(0, 19))
@example(0, 2, 100.0, 0)
def test_one_patient_moves_the_sums_by_no_more_than_declared(
    seed: int, classes: int, size: float, who: int
) -> None:
    """Under coefficients of any size: the likelihood of a patient is cut too."""
    learner, whole = Logistic(), cohort(20, classes=classes, seed=seed)
    state = fit(Preprocessing(), {}, [whole], PLAN)
    arrays = learner.start(whole.schema, 0)
    r = np.random.default_rng(seed)
    arrays = {
        **arrays,
        "coefficients": size * r.normal(size=arrays["coefficients"].shape),
        "rounds": np.array(1),
    }
    state["logistic"] = arrays
    with_, without = (
        learner.contribute({Fold(): state}, c, PLAN)
        for c in (whole, whole.where(np.arange(20) != who))
    )
    moved = np.sqrt(sum(float(((with_.sums[k] - without.sums[k]) ** 2).sum()) for k in with_.sums))
    bound = learner.phases["newton"].sensitivity(whole.schema)
    assert bound is not None
    assert moved <= bound * (1 + 1e-12)
    assert float(with_.sums["likelihood"]) >= 20 * LEAST


def test_the_bound_holds_though_preprocessing_clips_further_out() -> None:
    learner, whole = Logistic(), cohort(200, seed=0, missing=0)
    values = whole.values.copy()
    values[:, 0] = 0.001 * (np.arange(200) % 2)
    values[0, 0] = 8.0  # a patient 14 standard deviations out
    whole = dataclasses.replace(whole, values=values)
    state = fit(Preprocessing(clip=1000.0), {}, [whole], PLAN)
    state["logistic"] = learner.start(whole.schema, 0)
    with_, without = (
        learner.contribute({Fold(): state}, c, PLAN)
        for c in (whole, whole.where(np.arange(200) != 0))
    )
    hessian = with_.sums["hessian"] - without.sums["hessian"]
    assert hessian[1, 1] == pytest.approx(0.25 * learner.clip**2)


def test_nobody_at_all_contributes_zeros_of_the_right_shape() -> None:
    learner, those = Logistic(), sites(40, classes=3)
    state = fitted(learner, those)
    zero = learner.contribute({Fold(): state}, empty(those[0].schema), PLAN)
    assert zero.cases == 0
    assert all(not v.any() for v in zero.sums.values())
    assert zero.sums["hessian"].shape == (2 * 7, 2 * 7)
