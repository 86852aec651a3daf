"""No batch normalisation anywhere, shapes on odd grids, sizes, initial weights from the seed
alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.networks.architectures import (
    AutoEncoder,
    ClassifierNetwork,
    Trunk,
    draw,
    grouped,
    parameters,
    relative,
    unet,
)
from common.networks.classifier_files import load
from common.networks.classifiers.efficientnet_b3 import slabs
from common.types import digest

MAKERS = {
    "autoencoder": lambda: AutoEncoder(2, 8, (8, 8, 8)),
    "unet": lambda: unet(2, 3, (4, 8)),
}


def classifier(name: str, channels: int, classes: int) -> ClassifierNetwork:
    return ClassifierNetwork(load(name), channels, classes)


@pytest.mark.parametrize("name", MAKERS)
def test_no_batch_normalisation_no_buffers_and_nothing_random(name: str) -> None:
    network = MAKERS[name]()
    kinds = {type(m) for m in network.modules()}
    assert not any(issubclass(k, nn.modules.batchnorm._BatchNorm) for k in kinds)
    assert any(issubclass(k, nn.GroupNorm | nn.modules.instancenorm._InstanceNorm) for k in kinds)
    assert not list(network.buffers())
    x = torch.randn(
        2, 2 if name == "unet" else 3, 8, 8, 8, generator=torch.Generator().manual_seed(0)
    )
    draw(network, 1, last=True)
    network.train()
    first, second = network(x), network(x)
    assert torch.equal(first, second)
    network.eval()
    assert torch.equal(first, network(x))


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
    assert 200_000 <= sum(p.numel() for p in classifier("compact3d", 4, 5).parameters()) <= 500_000
    assert sum(p.numel() for p in AutoEncoder(4, 32, (16, 24, 24)).parameters()) <= 500_000


@pytest.mark.parametrize("grid", [(4, 4, 4), (5, 9, 7), (16, 24, 24)])
def test_any_grid_will_do(grid: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *grid)
    assert classifier("compact3d", 2, 3)(x, torch.ones(2, 2)).shape == (2, 3)
    auto = AutoEncoder(2, 8, grid)
    assert auto(x).shape == x.shape
    assert auto.encode(x).shape == (2, 8)


def test_a_trunk_keeps_a_quarter_of_the_resolution() -> None:
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
    network = classifier("efficientnet_b3", 1, 2)
    draw(network, 0, last=True)
    x = torch.zeros(1, 2, 6, 32, 32)
    bits = torch.ones(1, 1)
    network.eval()
    with torch.no_grad():
        still = network(x, bits)
        x[0, 0, 4] = torch.randn(32, 32)
        assert not torch.equal(network(x, bits), still)
        features = network.features(x)
        assert features.shape[:3] == (1, 1536, 2)
        # the first slab does not see slice 4
        assert torch.equal(features[:, :, 0], network.features(torch.zeros_like(x))[:, :, 0])
