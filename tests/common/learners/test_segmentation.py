"""The segmentation: Dice rises, a region comes out where the lesion is, masks that do not speak of
a region cost nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from common.data.cohort import Fold, empty
from common.data.picture import Picture
from common.errors import UsageError
from common.federated.learner import Averaged, Contribution, configured, fit, local_plan, total
from common.learners.segmentation import Segmentation, dice_and_entropy, outlined, regions_of
from common.privacy.mechanism import Privacy
from common.types import State, digest
from tests.pictures import IMAGING, imaging, schema, sites

PLAN = local_plan(Fold(), 3, 5)
SMALL = configured(Segmentation(), {"grid": (8, 8, 8), "widths": (8, 16), "rounds": 2, "epochs": 1})


def walk(learner: Segmentation, those: Any) -> tuple[State, list[Contribution]]:
    state: State = {learner.name: learner.start(those[0].schema, 1)}
    given = []
    while True:
        given.append(total([learner.contribute({Fold(): state}, c, PLAN) for c in those]))
        step = learner.apply({Fold(): state}, given[-1], PLAN)
        state = {learner.name: step.arrays}
        if step.done:
            return state, given


def overlap(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / max((a.sum() + b.sum()), 1))


def test_dice_rises_and_a_new_patient_gets_a_region() -> None:
    state, given = walk(configured(SMALL, {"rounds": 5, "epochs": 4}), sites(75, 3, seed=1))
    dice = [g.tally["dice"][:, 0] / g.tally["dice"][:, 1] for g in given]
    assert (dice[-1] > dice[0] + 0.2).all()
    (unseen,) = sites(20, 1, seed=2, masked=0.0)
    (truth,) = sites(20, 1, seed=2)
    found = [SMALL.lesion_mask(state, p, IMAGING) for p in unseen.pictures if p]
    assert all(m is not None and m.dtype == np.bool_ for m in found)
    assert (
        np.mean(
            [
                overlap(m, p.mask > 0)
                for m, p in zip(found, truth.pictures, strict=True)
                if p is not None
            ]
        )
        > 0.5
    )  # type: ignore[operator]


def test_a_predicted_region_is_cut_out_of_the_part_that_the_voxels_show() -> None:
    """`voxels` are the lower left corner of the coarse field: the same lesion, on another grid."""
    state, _ = walk(configured(SMALL, {"rounds": 4, "epochs": 3}), sites(60, 1, seed=1))
    (whole,) = (p for p in sites(1, 1, seed=2)[0].pictures if p)
    seen = SMALL.lesion_mask(state, whole, IMAGING)
    assert seen is not None
    half = dataclasses.replace(
        whole, voxels=whole.voxels[:, :10, :14], box=((0.0, 0.5), (0.0, 0.5), (0.0, 1.0))
    )
    part = SMALL.lesion_mask(state, half, IMAGING)
    np.testing.assert_array_equal(part, seen[:10, :14])


def test_cases_without_a_mask_contribute_nothing_and_unlabelled_ones_do() -> None:
    those = sites(40, 2, seed=1, masked=0.5, unknown=0.3)
    state: State = {"segmentation": SMALL.start(those[0].schema, 1)}
    given = [SMALL.contribute({Fold(): state}, c, PLAN) for c in those]
    marked = [len(outlined(c)) for c in those]
    assert [c.cases for c in given] == marked
    assert all(0 < n < len(c) for n, c in zip(marked, those, strict=True))
    new = SMALL.apply({Fold(): state}, total(given), PLAN).arrays
    for key, value in SMALL.parameters(new).items():
        np.testing.assert_allclose(
            value,
            np.average([c.sums[key] / c.cases for c in given], axis=0, weights=marked),
            atol=1e-6,
        )
    assert isinstance(SMALL, Averaged)
    zero = SMALL.contribute({Fold(): state}, empty(those[0].schema), PLAN)
    bare = SMALL.contribute({Fold(): state}, sites(10, 1, seed=1, masked=0.0)[0], PLAN)
    assert digest({**bare.sums, **bare.tally}) == digest({**zero.sums, **zero.tally})
    assert not any(v.any() for v in (*zero.sums.values(), *zero.tally.values()))


def test_without_masks_there_is_no_region_rather_than_a_random_one() -> None:
    those = sites(20, 2, seed=1, masked=0.0)
    state, given = walk(SMALL, those)
    assert len(given) == 1
    assert regions_of(state["segmentation"], IMAGING) == (None, "")
    assert SMALL.lesion_mask(state, those[0].pictures[0], IMAGING) is None  # type: ignore[arg-type]


def test_a_study_without_regions_has_nothing_to_learn() -> None:
    what = imaging(regions=(), lesion=())
    those = sites(20, 2, what, seed=1)
    state, given = walk(SMALL, those)
    assert (len(given), given[0].cases, given[0].sums) == (1, 0, {})
    assert regions_of(state["segmentation"], what) == (None, "")


def test_a_region_that_nobody_looked_for_costs_nothing() -> None:
    logits = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    target = (torch.rand(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.7).float()
    both, first = torch.ones(2, 2), torch.tensor([[1.0, 0.0]] * 2)

    def loss(logits: Any, marked: Any) -> float:
        return float(dice_and_entropy(lambda x: x, (logits, target, marked)))

    other = torch.cat([logits[:, :1], -logits[:, 1:]], dim=1)
    assert loss(other, first) == loss(logits, first)
    assert loss(other, both) != loss(logits, both)
    perfect = 20 * (2 * target - 1)
    assert loss(perfect, both) < 0.01 < loss(-perfect, both)


def unmarked(p: Picture | None) -> Picture | None:
    return p and dataclasses.replace(p, key=p.key + "x", marked=(True, False))


def test_masks_of_regions_that_are_not_marked_change_nothing() -> None:
    (site,) = sites(20, 1, seed=1)
    some = dataclasses.replace(site, pictures=tuple(unmarked(p) for p in site.pictures))
    wrong = []
    for p in some.pictures:
        assert p is not None
        assert p.coarse_mask is not None
        wrong.append(dataclasses.replace(p, coarse_mask=p.coarse_mask ^ np.uint8(2)))
    dirty = dataclasses.replace(some, pictures=tuple(wrong))
    state: State = {"segmentation": SMALL.start(site.schema, 1)}
    assert digest(SMALL.contribute({Fold(): state}, dirty, PLAN).sums) == digest(
        SMALL.contribute({Fold(): state}, some, PLAN).sums
    )
    assert digest(SMALL.contribute({Fold(): state}, dirty, PLAN).sums) != digest(
        SMALL.contribute({Fold(): state}, site, PLAN).sums
    )


def test_the_same_plan_gives_the_same_bits() -> None:
    (site,) = sites(16, 1, seed=1)
    state: State = {"segmentation": SMALL.start(site.schema, 1)}
    first = SMALL.contribute({Fold(): state}, site, PLAN)
    assert digest(
        SMALL.contribute({Fold(): state}, dataclasses.replace(site), PLAN).sums
    ) == digest(first.sums)
    assert (
        digest(SMALL.start(schema(), 1))
        == digest(SMALL.start(schema(), 1))
        != digest(SMALL.start(schema(), 2))
    )
    assert digest(fit(SMALL, {}, [site], PLAN)["segmentation"]) == digest(
        fit(SMALL, {}, [site], PLAN)["segmentation"]
    )


@pytest.mark.parametrize(
    "how",
    [
        {"grid": (6, 8, 8)},
        {"grid": (4, 8, 8)},
        {"widths": (8,)},
        {"widths": (0, 8)},
        {"learning_rate": 0.0},
    ],
)
def test_hyperparameters_out_of_range_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(how))):
        configured(Segmentation(), how)


def test_with_noise_every_site_sends_for_one_case_and_where_there_are_no_regions_nothing() -> None:
    learner = configured(
        Segmentation(), {"grid": (4, 8, 8), "widths": (4, 8), "rounds": 1, "epochs": 1, "rate": 0.5}
    )
    (site,) = sites(12, 1, seed=1, masked=0.5)
    plan = dataclasses.replace(PLAN, phase="train", privacy=Privacy(1e-6))
    state: State = {"segmentation": learner.start(site.schema, 1)}
    given = learner.contribute({Fold(): state}, site, plan)
    assert given.cases == len(outlined(site))
    moved = [
        np.abs(given.sums[k] - v).max()
        for k, v in learner.parameters(state["segmentation"]).items()
    ]
    assert 0 < max(moved) < 1
    assert given.tally == {}
    bare = dataclasses.replace(
        site.schema, imaging=dataclasses.replace(imaging(), regions=(), lesion=())
    )
    nothing = learner.contribute(
        {Fold(): {"segmentation": learner.start(bare, 1)}}, empty(bare), plan
    )
    assert (nothing.sums, nothing.cases, nothing.tally) == ({}, 0, {})
