"""Compact residual 3D network, the default, 0.2 million parameters: trunk, mean and maximum over
space, presence bits, one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.networks.classifier import Classifier, Layers

if TYPE_CHECKING:
    from torch import Tensor, nn


def layers(channels: int, classes: int) -> Mapping[str, nn.Module]:
    from torch import nn

    from common.networks.architectures import WIDTHS, Trunk

    return {"trunk": Trunk(channels), "head": nn.Linear(2 * WIDTHS[-1] + channels, classes)}


def features(layers: Layers, x: Tensor) -> Tensor:
    return layers["trunk"](x)


def classify(layers: Layers, features: Tensor, present: Tensor) -> Tensor:
    import torch

    pooled = torch.cat([features.mean((2, 3, 4)), features.amax((2, 3, 4)), present], dim=1)
    return layers["head"](pooled)


CLASSIFIER = Classifier(
    name="compact3d",
    number=0,
    title="residual 3D network of 0.2 million parameters (He et al. 2016)",
    layers=layers,
    features=features,
    classify=classify,
    encoder=True,
)
