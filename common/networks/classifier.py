"""Image classifier: all that is asked of a network that the image learner may train, as its one file
in `common/networks/classifiers/` declares it.

A network is named layers and two functions on them: `features` up to where Grad-CAM looks,
`classify` from there. The file imports torch inside of the functions alone, for a declaration is
read where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Layers = Mapping[str, Any]
"""Name -> module with its parameters."""


@dataclass(frozen=True)
class Classifier:
    """One network."""

    name: str
    """Its file's."""
    number: int
    """What a state holds in place of the name: no other network's, and never another."""
    title: str
    """What it is, and its source."""
    layers: Callable[[int, int], Mapping[str, nn.Module]]
    """(channels, classes) -> its layers, in the order of its parameters; the last one, which starts
    at zero, is `head`. None keeps running statistics: averaging them over hospitals is an error, and
    DP-SGD forbids it."""
    features: Callable[[Layers, Tensor], Tensor]
    """Crops (n, channels + 1, z, y, x), the last channel the share of lesion -> what Grad-CAM
    explains, (n, width, z', y', x')."""
    classify: Callable[[Layers, Tensor, Tensor], Tensor]
    """Features and `present` (n, channels), the bits that say which sequences are there -> (n,
    classes) logits. No crop's depend on another."""
    smallest: tuple[int, int, int] = (4, 4, 4)
    """Voxels (z, y, x) of the smallest crop that it takes."""
    encoder: bool = False
    """Whether its layer `trunk` is the autoencoder's (`architectures.Trunk`), so that it may start
    from a trained one."""
    prefix: str = ""
    """What its parameters' names have before those in a file of pretrained ones."""
