"""The autoencoder: no label is looked at, unlabelled training cases are, its code is the mean over
crops and tells lesions apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from common.data.cohort import UNKNOWN, Cohort, Fold, empty
from common.errors import UsageError
from common.federated.learner import Averaged, configured, fit, local_plan, total
from common.learners.autoencoder import Autoencoder
from common.types import State, digest
from tests.pictures import imaging, schema, sites, with_pictures

PLAN = local_plan(Fold(), 3, 5)
SMALL = configured(Autoencoder(), {"grid": (4, 8, 8), "rounds": 2, "epochs": 1, "dimensions": 4})


def losses(learner: Autoencoder, those: list[Cohort]) -> tuple[State, list[float]]:
    state: State = {learner.name: learner.start(those[0].schema, 1)}
    found = []
    while True:
        given = total([learner.contribute({Fold(): state}, c, PLAN) for c in those])
        step = learner.apply({Fold(): state}, given, PLAN)
        state = {learner.name: step.arrays}
        found.append(float(given.tally["loss"]) / given.cases)
        if step.done:
            return state, found


def test_it_learns_to_remember_and_its_code_tells_textures_apart() -> None:
    learner = configured(
        Autoencoder(), {"grid": (8, 12, 12), "rounds": 4, "epochs": 4, "dimensions": 8}
    )
    state, found = losses(learner, sites(90, 3, imaging(crops=1), seed=1, signal=2.5))
    assert found[-1] < 0.8 * found[0]
    (unseen,) = sites(80, 1, imaging(crops=1), seed=2, signal=2.5)
    z = learner.latent(state, unseen)
    assert z.shape == (80, 8)
    x = np.column_stack([z, np.ones(80)])
    half = np.arange(80) % 2 == 0
    beta = np.linalg.solve(
        x[half].T @ x[half] + np.eye(9), x[half].T @ (2 * unseen.labels[half] - 1)
    )
    assert np.mean((x[~half] @ beta > 0) == unseen.labels[~half]) > 0.7


def test_labels_change_nothing_and_unlabelled_training_cases_count() -> None:
    those = sites(45, 2, seed=1, unknown=0.3)
    relabelled = [
        dataclasses.replace(c, labels=np.where(c.labels == UNKNOWN, 0, UNKNOWN)) for c in those
    ]
    first = fit(SMALL, {}, those, PLAN)
    assert digest(fit(SMALL, {}, relabelled, PLAN)["autoencoder"]) == digest(first["autoencoder"])
    assert int(first["autoencoder"]["cases"]) == sum(len(c) for c in those)
    known = [c.where(c.labels != UNKNOWN) for c in those]
    assert digest(fit(SMALL, {}, known, PLAN)["autoencoder"]) != digest(first["autoencoder"])


@pytest.mark.parametrize("fold", [Fold(parts=(1,)), Fold(("S1",))], ids=lambda f: f.key)
def test_cases_of_test_parts_and_held_out_sites_are_not_looked_at_labelled_or_not(
    fold: Fold,
) -> None:
    those = sites(45, 2, seed=1, unknown=0.3)
    plan = local_plan(fold, PLAN.seed, PLAN.parts)
    poisoned = []
    for c in those:
        kept = set(c.train(fold, plan.seed, plan.parts, labelled=False).ids)
        other = with_pictures(c, seed=99)
        pictures = tuple(
            p if i in kept else q for i, p, q in zip(c.ids, c.pictures, other.pictures, strict=True)
        )
        poisoned.append(dataclasses.replace(c, pictures=pictures))
    assert digest(fit(SMALL, {}, those, plan)["autoencoder"]) == digest(
        fit(SMALL, {}, poisoned, plan)["autoencoder"]
    )
    assert digest(fit(SMALL, {}, those, PLAN)["autoencoder"]) != digest(
        fit(SMALL, {}, poisoned, PLAN)["autoencoder"]
    )


def test_a_site_counts_with_its_cases_that_have_an_image() -> None:
    those = sites(40, 2, seed=1, share=0.5)
    state: State = {"autoencoder": SMALL.start(those[0].schema, 1)}
    given = [SMALL.contribute({Fold(): state}, c, PLAN) for c in those]
    assert [c.cases for c in given] == [int(c.imaged.sum()) for c in those]
    zero = SMALL.contribute({Fold(): state}, empty(those[0].schema), PLAN)
    assert zero.cases == 0
    assert not any(v.any() for v in zero.sums.values())
    new = SMALL.apply({Fold(): state}, total(given), PLAN).arrays
    for key, value in SMALL.parameters(new).items():
        own = [c.sums[key] / c.cases for c in given]
        np.testing.assert_allclose(
            value, np.average(own, axis=0, weights=[c.cases for c in given]), atol=1e-6
        )
    assert isinstance(SMALL, Averaged)
    nobody = SMALL.apply({Fold(): state}, zero, PLAN)
    assert nobody.done
    np.testing.assert_array_equal(
        nobody.arrays["w/code.weight"], state["autoencoder"]["w/code.weight"]
    )


def test_a_code_is_the_mean_over_the_patients_crops_and_zero_without_an_image() -> None:
    site = with_pictures(sites(12, 1, seed=1)[0], share=0.7, lesions=2, seed=3)
    state: State = {"autoencoder": SMALL.start(site.schema, 1)}
    z = SMALL.latent(state, site)
    assert not z[~site.imaged].any()
    assert z[site.imaged].any(axis=1).all()
    one = with_pictures(site, imaging(crops=1), share=0.7, lesions=2, seed=3)
    assert np.abs(SMALL.latent(state, one) - z)[site.imaged].max() > 1e-3
    np.testing.assert_array_equal(SMALL.latent(state, site.where(site.imaged)), z[site.imaged])


@pytest.mark.parametrize(
    "how",
    [{"dimensions": 0}, {"grid": (4, 4)}, {"learning_rate": 0.0}, {"weight_decay": float("nan")}],
)
def test_hyperparameters_out_of_range_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(how))):
        configured(Autoencoder(), how)


def test_the_start_depends_on_the_seed_alone() -> None:
    assert (
        digest(SMALL.start(schema(), 1))
        == digest(SMALL.start(schema(), 1))
        != digest(SMALL.start(schema(), 2))
    )
