"""EfficientNet-B3 (Tan & Le 2019) on slabs of three slices, the original study's network, with
group normalisation; a crop's logits are the mean over its slabs. Drop-connect is off: the seed
alone decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.networks.classifier import Classifier, Layers

if TYPE_CHECKING:
    from torch import Tensor, nn

SLAB = 3
"""Neighbouring slices that a 2.5D network sees as its channels."""


def layers(channels: int, classes: int) -> Mapping[str, nn.Module]:
    from monai.networks.nets.efficientnet import EfficientNetBN
    from torch import nn

    from common.networks.architectures import grouped

    net = EfficientNetBN(
        "efficientnet-b3",
        False,
        spatial_dims=2,
        in_channels=SLAB * (channels + 1),
        num_classes=1,
    )
    for block in (b for stage in net._blocks for b in stage):
        block.drop_connect_rate = 0.0
    net._fc, net._dropout = nn.Identity(), nn.Identity()
    return {
        "net": grouped(net),
        "head": nn.Linear(net._conv_head.out_channels + channels, classes),
    }


def features(layers: Layers, x: Tensor) -> Tensor:
    """(n, 1536, slabs, y/32, x/32)."""
    import torch

    net, starts = layers["net"], slabs(x.shape[2])
    flat = torch.stack([x[:, :, s : s + SLAB].flatten(1, 2) for s in starts], dim=1).flatten(0, 1)
    y = net._conv_stem_padding(flat.contiguous(memory_format=torch.channels_last))
    y = net._blocks(net._swish(net._bn0(net._conv_stem(y))))
    y = net._swish(net._bn1(net._conv_head(net._conv_head_padding(y))))
    return y.unflatten(0, (x.shape[0], len(starts))).transpose(1, 2)


def classify(layers: Layers, features: Tensor, present: Tensor) -> Tensor:
    import torch

    pooled = features.mean((3, 4)).transpose(1, 2)
    bits = present[:, None].expand(-1, pooled.shape[1], -1)
    return layers["head"](torch.cat([pooled, bits], dim=2)).mean(dim=1)


def slabs(depth: int) -> range:
    """The first slices of the slabs: one after the other, without overlap."""
    return range(0, max(depth - SLAB + 1, 1), SLAB)


CLASSIFIER = Classifier(
    name="efficientnet_b3",
    number=1,
    title="EfficientNet-B3 on slabs of three slices (Tan & Le 2019), the original study's; it wants "
    "a grid of at least 64 x 64",
    layers=layers,
    features=features,
    classify=classify,
    smallest=(4, 24, 24),
    prefix="net.",
)
