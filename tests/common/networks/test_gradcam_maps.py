"""Grad-CAM: of the reported logit (X01), not of random weights (X02), inside the lesion against
chance (X03), in sums."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.data.cohort import Cohort, Fold
from common.federated.learner import Contribution, configured, fit, hyper_of, local_plan, total
from common.federated.states import States, with_arrays
from common.learners.gradcam import GradCam
from common.learners.image import Image
from common.networks import architectures
from common.networks.classifier_files import load as load_classifier
from common.networks.datasets import Cases
from common.networks.gradcam_maps import (
    TERMS,
    energy,
    focus,
    heatmaps,
    rank_correlation,
    sanity,
    terms,
)
from tests.pictures import imaging, sites

CPU = torch.device("cpu")
PARTS, SEED = 3, 1
READS = tuple(Fold(parts=(p,)) for p in range(PARTS))
IMAGE = configured(Image(), {"grid": (12, 16, 16), "rounds": 3, "epochs": 3, "segmentation": False})
LEARNER = GradCam(learners={"image": hyper_of(IMAGE)})


def random_network(name: str = "compact3d", seed: int = 0) -> nn.Module:
    made = architectures.ClassifierNetwork(load_classifier(name), 2, 3)
    architectures.draw(made, seed, last=True)
    return made.eval()  # type: ignore[no-any-return]


def patient(crops: int = 2, grid: tuple[int, int, int] = (8, 12, 12)) -> tuple[torch.Tensor, ...]:
    x = torch.randn(crops, 3, *grid, generator=torch.Generator().manual_seed(0))
    return x, torch.ones(crops, 2), torch.full((1, crops), 1 / crops)


@pytest.mark.parametrize(
    ("name", "grid"),
    [("compact3d", (8, 12, 12)), ("efficientnet_b3", (6, 32, 32))],
)
def test_it_differentiates_the_reported_log_odds(name: str, grid: tuple[int, int, int]) -> None:
    """Against finite differences of the patient's log-odds along each channel of the layer that is
    looked at (X01)."""
    network = random_network(name).double()
    x, present, mean = (t.double() for t in patient(grid=grid))
    features = network.features(x).detach()

    @torch.no_grad()
    def log_odds(at: torch.Tensor) -> float:
        logits = mean @ network.classify(at, present)
        return float(logits[0, 2] - logits[0, 0])

    def slope(at: tuple[int, ...]) -> float:
        up, down = features.clone(), features.clone()
        up[at] += 1e-5
        down[at] -= 1e-5
        return (log_odds(up) - log_odds(down)) / 2e-5

    places = list(np.ndindex(*features.shape[2:]))
    # where a channel is zero throughout, its maximum has no slope
    alive = np.flatnonzero((features.amax(tuple(range(2, features.ndim))) > 0).all(dim=0))
    some = np.random.default_rng(0).choice(alive, 12, replace=False)
    alpha = [
        [np.mean([slope((n, int(c), *place)) for place in places]) for c in some]
        for n in range(len(features))
    ]
    leaf = features.clone().requires_grad_()
    logits = (mean @ network.classify(leaf, present))[0]
    (gradient,) = torch.autograd.grad(logits[2] - logits[0], leaf)
    np.testing.assert_allclose(gradient.mean(tuple(range(2, leaf.ndim)))[:, some], alpha, atol=1e-6)
    maps = heatmaps(network, x, present, mean, 2)
    assert maps.shape == (2, *grid)
    assert (maps >= 0).all()
    raw = torch.relu((gradient.mean(tuple(range(2, leaf.ndim)), keepdim=True) * features).sum(1))
    want = torch.nn.functional.interpolate(
        raw[:, None].float(), size=grid, mode="trilinear", align_corners=False
    )[:, 0]
    np.testing.assert_allclose(maps, want, atol=1e-5)


def test_no_hook_is_left_and_parameters_are_as_before() -> None:
    network = random_network()
    before = architectures.parameters(network)
    heatmaps(network, *patient(), 1)
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())
    assert all((before[k] == v).all() for k, v in architectures.parameters(network).items())
    assert all(p.grad is None for p in network.parameters())


def test_energy_inside_against_chance() -> None:
    heat, mask = np.zeros((1, 4, 4, 4)), np.zeros((1, 4, 4, 4))
    mask[0, :2] = 1
    heat[0, 0] = 3.0
    heat[0, 3] = 1.0
    assert energy(heat, mask) == (0.75, 0.5)
    assert energy(np.ones_like(heat), mask) == (0.5, 0.5)
    inside, chance = energy(np.zeros_like(heat), mask)
    assert np.isnan(inside)
    assert chance == 0.5
    assert terms(inside, chance).tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert dict(zip(TERMS, terms(0.75, 0.5), strict=True))["product"] == 0.375


def test_the_interval_from_sums_holds_the_true_ratio_as_often_as_it_says() -> None:
    r = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        chance = r.uniform(0.02, 0.2, 60)
        inside = np.clip(chance * r.normal(2.0, 0.8, 60), 0, 1)
        found = focus(
            {"energy": np.sum([terms(a, b) for a, b in zip(inside, chance, strict=True)], axis=0)}
        )
        assert found is not None
        hits += found.low <= 2.0 <= found.high
    assert 0.9 < hits / 400 < 0.99
    assert found.cases == 60
    few = {"energy": np.sum([terms(0.2, 0.1)] * 9, axis=0)}
    assert focus(few) is None
    assert focus({"energy": np.sum([terms(float("nan"), 0.1)] * 30, axis=0)}) is None


def test_a_map_that_random_weights_give_too_is_found_out() -> None:
    """X02: a trained network's map changes with the weights; a planted one that only shows edges
    does not."""
    network, (x, present, mean) = trained_network()
    assert abs(sanity(network, x, present, mean, 1, seed=5)) < 0.7

    class Edges(nn.Module):  # type: ignore[misc]
        """Features that no weight has touched."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 2)

        def features(self, x: torch.Tensor) -> torch.Tensor:
            return x.abs().mean(dim=1, keepdim=True)

        def classify(self, features: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
            pooled = features.mean((2, 3, 4))
            return torch.cat(
                [torch.zeros_like(pooled), pooled * self.head.weight.abs().sum()], dim=1
            )

    assert sanity(Edges(), x, present, mean, 1, seed=5) > 0.99
    assert rank_correlation(np.arange(8.0), np.arange(8.0) ** 3) == pytest.approx(1)
    assert np.isnan(rank_correlation(np.zeros(8), np.arange(8.0)))


def trained_network() -> tuple[Any, tuple[torch.Tensor, ...]]:
    those = federation()
    own = states(those)[READS[0]]
    held = IMAGE.crops(own, those[0])
    x, present, mean, _ = Cases(
        held, held.counts, [p for p in those[0].pictures if p], those[0].labels, None
    ).batch(np.array([3]), CPU, None)
    return IMAGE.built(own, those[0].schema, CPU), (x, present, mean)


def federation() -> list[Cohort]:
    if not _KEPT:
        _KEPT.append(sites(60, 2, imaging(crops=1), seed=1, masked=0.8))
    return _KEPT[0]


def states(those: list[Cohort]) -> States:
    if len(_KEPT) < 2:
        _KEPT.append({f: fit(IMAGE, {}, those, local_plan(f, SEED, PARTS)) for f in READS})
    return _KEPT[1]  # type: ignore[no-any-return]


_KEPT: list[Any] = []


def asked(those: list[Cohort], states: States) -> list[Contribution]:
    plan = dataclasses.replace(
        local_plan(Fold(), SEED, PARTS), reads=READS, phase="explain", learner="gradcam"
    )
    return [LEARNER.contribute(states, c, plan) for c in those]


def test_sums_over_held_out_cases_with_an_experts_lesions() -> None:
    those = federation()
    given = asked(those, states(those))
    marked = [
        sum(p is not None and p.mask is not None and p.mask.any() for p in c.pictures)
        for c in those
    ]
    assert [c.cases for c in given] == marked
    assert 0 < sum(marked) < 60
    found = focus(total(given).sums)
    assert found is not None
    assert found.cases + found.flat == sum(marked)
    assert found.low > 1  # the network looks at the lesions
    for c in given:
        assert set(c.sums) == {"energy"}
        assert c.sums["energy"].shape == (len(TERMS),)


def test_each_case_is_explained_by_a_network_that_has_not_seen_it() -> None:
    those = federation()
    fitted = states(those)
    plain = asked(those, fitted)[0].sums["energy"]
    for fold in READS:
        mine = those[0].parts(SEED, PARTS) == fold.parts[0]
        flat = {**fitted[fold]["image"]}
        flat["w/head.weight"] = np.zeros_like(flat["w/head.weight"])
        moved = asked(those, with_arrays(fitted, fold, "image", flat))[0].sums["energy"]
        held = [
            p is not None and p.mask is not None and p.mask.any()
            for p, m in zip(those[0].pictures, mine, strict=True)
            if m
        ]
        assert moved[-1] >= sum(held) > 0  # those of the part have flat maps now
        assert not np.array_equal(moved, plain)
    untrained = {
        fold: {n: {**a, "round": np.array(0)} for n, a in state.items()}
        for fold, state in fitted.items()
    }
    assert asked(those, untrained)[0].cases == 0
