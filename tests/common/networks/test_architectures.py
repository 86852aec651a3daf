"""No batch normalisation anywhere, shapes on odd grids, sizes, initial weights from the seed
alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.networks.architectures import (
    AutoEncoder,
    Compact3D,
    EfficientNet25D,
    Trunk,
    classifier,
    draw,
    grouped,
    parameters,
    relative,
    slabs,
    unet,
)
from common.networks.classifiers import CLASSIFIERS, Classifier
from common.types import digest

MAKERS = {
    "compact3d": lambda: Compact3D(2, 3),
    "efficientnet_b3": lambda: EfficientNet25D(2, 3),
    "autoencoder": lambda: AutoEncoder(2, 8, (8, 8, 8)),
    "unet": lambda: unet(2, 3, (4, 8)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_no_batch_normalisation_no_buffers_and_nothing_random(name: str) -> None:
    network = MAKERS[name]()
    kinds = {type(m) for m in network.modules()}
    assert not any(issubclass(k, nn.modules.batchnorm._BatchNorm) for k in kinds)
    assert any(issubclass(k, nn.GroupNorm | nn.modules.instancenorm._InstanceNorm) for k in kinds)
    assert not list(network.buffers())
    x = torch.randn(
        2,
        2 if name == "unet" else 3,
        8,
        *((24, 24) if "b3" in name else (8, 8)),
        generator=torch.Generator().manual_seed(0),
    )
    given = (x, torch.ones(2, 2)) if "3" in name else (x,)
    draw(network, 1, last=True)
    network.train()
    first, second = network(*given), network(*given)
    assert torch.equal(first, second)
    network.eval()
    assert torch.equal(first, network(*given))


@pytest.mark.parametrize("name", MAKERS)
def test_initial_weights_come_from_the_seed_alone(name: str) -> None:
    made = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(noise)
        network = MAKERS[name]()
        draw(network, seed)
        made.append(digest(parameters(network)))
    assert made[0] == made[1] != made[2]


def test_a_planted_batch_normalisation_is_replaced_wherever_it_sits() -> None:
    network = nn.Sequential(
        nn.Conv3d(1, 6, 1),
        nn.Sequential(nn.BatchNorm3d(6), nn.ModuleDict({"a": nn.BatchNorm1d(12)})),
    )
    names = [n for n, _ in network.named_parameters()]
    assert [n for n, _ in grouped(network).named_parameters()] == names
    assert not list(network.buffers())


def test_the_default_network_is_compact() -> None:
    assert 200_000 <= sum(p.numel() for p in Compact3D(4, 5).parameters()) <= 500_000
    assert sum(p.numel() for p in AutoEncoder(4, 32, (16, 24, 24)).parameters()) <= 500_000


@pytest.mark.parametrize("grid", [(4, 4, 4), (5, 9, 7), (16, 24, 24)])
def test_any_grid_will_do(grid: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *grid)
    assert Compact3D(2, 3)(x, torch.ones(2, 2)).shape == (2, 3)
    auto = AutoEncoder(2, 8, grid)
    assert auto(x).shape == x.shape
    assert auto.encode(x).shape == (2, 8)


@pytest.mark.parametrize("entry", CLASSIFIERS, ids=lambda c: c.name)
def test_every_classifier_is_built_by_its_name_and_takes_the_grid_that_it_says(
    entry: Classifier,
) -> None:
    made = classifier(entry.name, 1, 2).eval()
    assert isinstance(getattr(made, "trunk", None), Trunk) == entry.encoder
    with torch.inference_mode():
        assert made(torch.zeros(1, 2, 4, *entry.slices), torch.ones(1, 1)).shape == (1, 2)


def test_the_autoencoders_trunk_is_the_classifiers() -> None:
    mine = {k: v.shape for k, v in Compact3D(2, 3).named_parameters() if k.startswith("trunk.")}
    theirs = {
        k: v.shape
        for k, v in AutoEncoder(2, 8, (8, 8, 8)).named_parameters()
        if k.startswith("trunk.")
    }
    assert mine == theirs
    assert Trunk(2)(torch.zeros(1, 3, 16, 24, 24)).shape == (1, 64, 4, 6, 6)


def test_the_lesion_is_seen_relative_to_its_own_mean() -> None:
    image, lesion = torch.full((2, 2, 4, 4, 4), 0.3), torch.zeros(2, 1, 4, 4, 4)
    lesion[0, :, :2] = 1
    image[0, 0, 0] += 0.2
    image[:, 1] = 0  # missing
    seen = relative(image, lesion)
    assert not seen[0, :, 2:].any()
    assert not seen[:, 1].any()
    np.testing.assert_allclose(seen[0, 0, 0], np.arcsinh(1.0), atol=1e-5)
    np.testing.assert_allclose(seen[0, 0, 1], -np.arcsinh(1.0), atol=1e-5)
    np.testing.assert_allclose(
        seen[1], 0, atol=1e-5
    )  # no lesion is known: relative to the whole field
    assert torch.equal(
        relative(image + 0.5, lesion)[0, 0, :2].round(decimals=5), seen[0, 0, :2].round(decimals=5)
    )


def test_slabs_are_three_neighbouring_slices_and_none_is_left_out_but_the_rest() -> None:
    assert list(slabs(16)) == [0, 3, 6, 9, 12]
    assert list(slabs(3)) == [0]
    network = EfficientNet25D(1, 2)
    draw(network, 0, last=True)
    x = torch.zeros(1, 2, 6, 32, 32)
    bits = torch.ones(1, 1)
    network.eval()
    with torch.no_grad():
        still = network(x, bits)
        x[0, 0, 4] = torch.randn(32, 32)
        assert not torch.equal(network(x, bits), still)
        features = network.features(x)
        assert features.shape[:2] == (2, 1536)
        assert torch.equal(
            features[0], network.features(torch.zeros_like(x))[0]
        )  # the first slab does not see slice 4


def test_efficientnet_learns_from_its_gradient() -> None:
    network = EfficientNet25D(1, 2)
    draw(network, 0, last=True)
    x = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(network(x, torch.ones(2, 1)), torch.tensor([0, 1]))
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    assert all(torch.isfinite(g).all() for g in gradients)
    assert np.mean([bool(g.any()) for g in gradients]) > 0.9
