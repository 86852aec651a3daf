"""Stacking: equal to Newton on the pooled cases, nothing changed where there is no image, nobody's
own label behind a fitted row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.optimize import minimize

from common.data.cohort import Cohort, Fold, empty
from common.data.picture import Picture
from common.data.schema import Channel, Floats, Imaging, Label, Number, Schema
from common.errors import UsageError
from common.federated.learner import Plan, Traits, configured, fit, hyper_of, local_plan, total
from common.federated.states import States, with_arrays
from common.learners import fusion
from common.learners.evaluation import out_of_fold
from common.learners.fusion import Fusion
from common.learners.fusion_mlp import FusionPerceptron
from common.types import Arrays, State

LINEAR = Fusion()
PARTS, SEED = 3, 0
CLASSES = ("a", "b", "c")


@dataclass(frozen=True)
class Reads:
    """Stands for a network: the log-odds lie in the picture, plus what the fold's arrays say."""

    name: str = "image"
    needs: tuple[str, ...] = ()
    modality: frozenset[str] = frozenset({"image"})
    traits: ClassVar[Traits] = Traits()

    def standardised(self, state: State, cohort: Cohort) -> Floats:
        return (
            np.array([voxels(p)[: len(CLASSES) - 1] for p in cohort.pictures])
            + state["image"]["shift"]
        )

    def latent(self, state: State, cohort: Cohort) -> Floats:
        return np.array([voxels(p)[len(CLASSES) - 1 :] for p in cohort.pictures]).reshape(
            len(cohort), 2
        )


@dataclass(frozen=True)
class Table:
    """Stands for the clinical head: softmax of the first feature."""

    name: str = "logistic"
    needs: tuple[str, ...] = ("preprocessing",)
    modality: frozenset[str] = frozenset({"table"})

    def predict(self, state: State, cohort: Cohort) -> Floats:
        x = np.nan_to_num(cohort.values[:, 0])
        z = np.stack([np.zeros(len(x)), x, -x], 1) + state["logistic"]["shift"]
        return np.asarray(np.exp(z) / np.exp(z).sum(1, keepdims=True))

    def explain(self, state: State, cohort: Cohort) -> Floats:
        x = np.nan_to_num(cohort.values[:, 0])
        return np.stack([x, -x], 1)[:, None, :]


def voxels(picture: Picture | None) -> Floats:
    assert picture is not None
    return picture.voxels[0, 0, 0].astype(np.float64) * picture.unit


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Any] = {"image": Reads(), "autoencoder": Reads(), "logistic": Table()}
    monkeypatch.setattr(fusion, "load", lambda name, hyper=None: known[name])


def schema() -> Schema:
    imaging = Imaging((Channel("ct", "CT"),), window=(-160, 240))
    return Schema(
        "s", (Number("x", "u", -9, 9, "now"),), Label("y", CLASSES), ("now",), imaging=imaging
    )


def picture(values: Floats, key: str) -> Picture:
    whole = np.round(values / 1e-3).astype(np.int16)[None, None, None, :]
    return Picture(key, whole, 1e-3, (1.0, 1.0, 1.0), (True,), whole)


def site(name: str, n: int, *, images: float = 0.8, table: bool = True, seed: int = 0) -> Cohort:
    r = np.random.default_rng((seed, *name.encode()))
    x, z, latent = r.normal(size=n), r.normal(size=(n, 2)), r.normal(size=(n, 2))
    eta = np.concatenate(
        [np.zeros((n, 1)), np.stack([x, -x], 1) + 0.8 * z + 0.5 * latent[:, :1]], 1
    )
    labels = (eta + r.gumbel(size=eta.shape)).argmax(1).astype(np.int64)
    has = r.random(n) < images
    values = x[:, None] if table else np.full((n, 1), np.nan)
    pictures = tuple(
        picture(np.r_[z[i], latent[i]], f"{name}{i}") if has[i] else None for i in range(n)
    )
    kinds = frozenset({*(["table"] if table else []), *(["image"] if has.any() else [])})
    return Cohort(
        name,
        schema(),
        tuple(f"{name}-{i:04d}" for i in range(n)),
        values,
        labels,
        modalities=kinds,
        pictures=pictures,
    )


OUTER = Fold(parts=(0,))
INNER = (Fold(parts=(0, 1)), Fold(parts=(0, 2)))


def states(outer: Fold = OUTER, inner: tuple[Fold, ...] = INNER, shift: float = 0.0) -> States:
    """Each fold's models differ, so that using a wrong one shows."""
    out: dict[Fold, State] = {}
    for n, fold in enumerate((outer, *inner)):
        out[fold] = {
            "image": {"shift": np.array(shift * n)},
            "logistic": {"shift": np.array([0.0, 0.1 * n, 0.0])},
            "preprocessing": {"classes": np.array([30.0, 20.0, 10.0])},
            "autoencoder": {"shift": np.array(0.0)},
        }
    return out


def begun(learner: Any, arrays: Arrays | None = None) -> States:
    """With the learner's own arrays, or its start."""
    return with_arrays(states(), OUTER, learner.name, arrays or learner.start(schema(), 0))


def plan(outer: Fold = OUTER, inner: tuple[Fold, ...] = INNER) -> Plan:
    return replace(local_plan(outer, SEED, PARTS), reads=(outer, *inner))


def fitted(those: list[Cohort], learner: Fusion = LINEAR, read: States | None = None) -> Arrays:
    read = read or states()
    return fit(learner, read[OUTER], those, plan(), inner=read)["fusion"]


def rows_of(
    those: list[Cohort],
) -> tuple[Floats, Floats, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Written apart from the learner: offset, columns before standardisation, labels, parts, of
    training cases with an image."""
    offset, columns, labels, parts = [], [], [], []
    for c in those:
        mine = c.parts(SEED, PARTS)
        for i, p in enumerate(c.pictures):
            if p is not None and mine[i] != 0:
                n = int(mine[i])  # inner fold (0, n) is the n-th after the outer one
                z = (
                    np.array([0.0, c.values[i, 0] + 0.1 * n, -c.values[i, 0]])
                    if "table" in c.modalities
                    else np.log([30.5, 20.5, 10.5])
                )
                offset.append(z[1:] - z[0])
                columns.append(voxels(p))
                labels.append(c.labels[i])
                parts.append(n)
    return np.array(offset), np.array(columns), np.array(labels), np.array(parts)


def reference(those: list[Cohort], without: int | None) -> Floats:
    """The penalised maximum likelihood of the pooled cases, by another optimiser."""
    offset, raw, labels, parts = rows_of(those)
    latent = (raw[:, 2:] - raw[:, 2:].mean(0)) / raw[:, 2:].std(0)
    keep = parts != without
    offset, z, latent, labels = offset[keep], raw[keep, :2], latent[keep], labels[keep]
    learner = Fusion()

    def loss(flat: Floats) -> float:
        beta = flat.reshape(2, 4)
        eta = offset + beta[:, 0] + z * beta[:, 1] + latent @ beta[:, 2:].T
        full = np.concatenate([np.zeros((len(eta), 1)), eta], 1)
        likelihood = (full[np.arange(len(full)), labels] - np.log(np.exp(full).sum(1))).sum()
        ridge = (
            1e-3 * beta[:, 0] ** 2
            + learner.l2 * beta[:, 1] ** 2
            + learner.l2_latent * (beta[:, 2:] ** 2).sum(1)
        )
        return float(-likelihood + 0.5 * ridge.sum())

    return np.asarray(minimize(loss, np.zeros(8), method="BFGS", options={"gtol": 1e-7}).x).reshape(
        2, 4
    )


def test_it_equals_the_fit_on_the_pooled_cases_and_those_without_each_part() -> None:
    those = [site("A", 120), site("B", 60, images=0.5), site("C", 30, table=False)]
    arrays = fitted(those)
    assert bool(arrays["converged"])
    assert int(arrays["cases"]) == len(rows_of(those)[2])
    np.testing.assert_allclose(arrays["coefficients"][0], reference(those, None), atol=2e-5)
    for part in (1, 2):
        np.testing.assert_allclose(
            arrays["coefficients"][1 + part], reference(those, part), atol=2e-5
        )


def test_the_split_into_sites_does_not_matter() -> None:
    whole = site("A", 150)
    halves = [replace(whole.where(np.arange(150) % 2 == k), site=f"A{k}") for k in (0, 1)]
    np.testing.assert_allclose(
        fitted([whole])["coefficients"], fitted(halves)["coefficients"], atol=1e-9
    )


def test_a_case_without_an_image_gets_exactly_the_clinical_prediction() -> None:
    those = [site("A", 120)]
    state = {**states()[OUTER], "fusion": fitted(those)}
    probs, clinical = Fusion().predict(state, those[0]), Table().predict(state, those[0])
    without = ~those[0].imaged
    assert without.any()
    assert probs[without].tobytes() == clinical[without].tobytes()
    assert np.abs(probs[~without] - clinical[~without]).max() > 0.05
    np.testing.assert_allclose(probs.sum(1), 1)


def test_sites_and_cases_without_images_weigh_nothing() -> None:
    imaged, none = site("A", 120), site("B", 500, images=0.0)
    assert (fitted([imaged])["coefficients"] == fitted([imaged, none])["coefficients"]).all()
    assert Fusion().contribute(begun(Fusion()), none, plan()).cases == 0


def test_an_image_that_carries_nothing_gets_no_weight() -> None:
    noise = site("A", 900, images=1.0)
    r = np.random.default_rng(7)
    shuffled = replace(noise, pictures=tuple(noise.pictures[i] for i in r.permutation(900)))
    weights = fitted([shuffled])["coefficients"][0]
    assert np.abs(weights[:, 1]).max() < 0.25 < fitted([noise])["coefficients"][0][:, 1].min()


def test_test_cases_do_not_move_it() -> None:
    """Guard L05: whatever stands in the part that is left out, the coefficients are the same."""
    a = site("A", 150)
    test = a.parts(SEED, PARTS) == 0
    poisoned = replace(
        a, values=np.where(test[:, None], 8.0, a.values), labels=np.where(test, 0, a.labels)
    )
    assert (fitted([a])["coefficients"] == fitted([poisoned])["coefficients"]).all()


def test_a_part_is_scored_by_models_that_left_it_out() -> None:
    """The threshold of an outer fold comes from predictions of training parts by inner models, and
    coefficients without that part."""
    a = site("A", 150)
    read = states(shift=3.0)
    read = with_arrays(read, OUTER, "fusion", fitted([a], read=read))
    probs, seen = out_of_fold(Fusion(), read, a, OUTER, (OUTER, *INNER), a.parts(SEED, PARTS))
    assert (seen == (a.parts(SEED, PARTS) != 0)).all()
    rows = a.parts(SEED, PARTS) == 2
    assert (
        probs[rows] == Fusion().predict_inside(read[OUTER], read[INNER[1]], a.where(rows), 2)
    ).all()


def test_its_explanation_adds_up_to_the_log_odds() -> None:
    """Guard X04: contributions and one number for all cases give the log-odds against class 0."""
    those = [site("A", 150), site("B", 60)]
    state = {**states()[OUTER], "fusion": fitted(those)}
    parts = Fusion().explain(state, those[0])
    assert parts.shape == (150, 3, 2)
    probs = Fusion().predict(state, those[0])
    rest = np.log(probs[:, 1:] / probs[:, :1]) - parts.sum(axis=1)
    with_image = those[0].imaged
    np.testing.assert_allclose(
        rest[with_image], np.tile(rest[with_image][0], (int(with_image.sum()), 1)), atol=1e-9
    )
    assert (parts[~with_image][:, 1:] == 0).all()
    assert np.abs(parts[with_image][:, 1]).mean() > 0.2


def test_without_the_latent_code() -> None:
    learner = Fusion(latent=False)
    assert "autoencoder" not in learner.needs
    assert fitted([site("A", 100)], learner)["coefficients"].shape == (1 + PARTS, 2, 2)


def test_nobody_is_a_zero_of_the_right_shape() -> None:
    learner = Fusion()
    arrays = fitted([site("A", 100)])
    for now in (learner.start(schema(), 0), arrays):
        none = learner.contribute(begun(learner, now), empty(schema()), plan())
        some = learner.contribute(begun(learner, now), site("A", 50), plan())
        assert {k: v.shape for k, v in none.sums.items()} == {
            k: v.shape for k, v in some.sums.items()
        }
        assert none.cases == 0
        assert total([none, some]).cases == some.cases


@pytest.mark.parametrize(
    "hyper",
    [
        {"l2": 0.0},
        {"l2_latent": -1.0},
        {"rounds": 0},
        {"learners": "{}"},
        {"learners": {"image": 3}},
    ],
)
def test_hyperparameters_out_of_range_are_refused(hyper: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        configured(Fusion(), hyper)


def test_its_hyperparameters_travel() -> None:
    assert hyper_of(Fusion(clinical="boosting"))["clinical"] == "boosting"


def test_a_perceptron_starts_at_the_clinical_prediction_and_learns() -> None:
    those, learner = (
        [site("A", 300), site("B", 200), site("C", 100, images=0.0)],
        configured(FusionPerceptron(), {"rounds": 12}),
    )
    own = states()[OUTER]
    arrays = fit(learner, own, those, plan(), inner=states())[learner.name]
    test = site("T", 400, images=0.7, seed=9)
    probs, clinical = (
        learner.predict({**own, learner.name: arrays}, test),
        Table().predict(own, test),
    )
    assert (probs[~test.imaged] == clinical[~test.imaged]).all()

    def loss(p: Floats) -> float:
        return float(-np.log(p[test.imaged, test.labels[test.imaged]]).mean())

    start = begun(learner)
    moments = total([learner.contribute(start, c, plan()) for c in those])
    first = learner.apply(start, moments, plan()).arrays
    np.testing.assert_allclose(
        learner.predict({**own, learner.name: first}, test), clinical, atol=1e-12
    )
    linear = Fusion().predict({**own, "fusion": fitted(those)}, test)
    assert loss(probs) < loss(clinical) - 0.05
    assert loss(probs) < loss(linear) + 0.1


def test_a_perceptron_averages_by_cases_with_an_image() -> None:
    learner, a, b = (
        configured(FusionPerceptron(), {"rounds": 1, "epochs": 1}),
        site("A", 90),
        site("B", 60, images=0.4),
    )
    start = begun(learner)
    first = learner.apply(
        start, total([learner.contribute(start, c, plan()) for c in (a, b)]), plan()
    ).arrays
    now = begun(learner, first)
    one, two = (learner.contribute(now, c, plan()) for c in (a, b))
    done = learner.apply(now, one + two, plan()).arrays
    key = "w/0/2.weight"
    np.testing.assert_allclose(
        done[key], (one.sums[key] + two.sums[key]) / (one.cases + two.cases), atol=1e-7
    )
    assert one.cases == int((a.imaged & (a.parts(SEED, PARTS) != 0)).sum())
