"""Image classifiers: the networks that the image learner may train, each with what it demands. What
a new one needs is a class in `architectures` and an entry here."""

from __future__ import annotations

from dataclasses import dataclass

from common.types import Arrays


@dataclass(frozen=True)
class Classifier:
    """One network."""

    name: str
    slices: tuple[int, int] = (4, 4)
    """Voxels (y, x) of the smallest slice of a crop that it takes."""
    encoder: bool = False
    """Whether its encoder is the autoencoder's (`architectures.Trunk`), so that it may start from a
    trained one."""


CLASSIFIERS = (
    Classifier("compact3d", encoder=True),
    Classifier("efficientnet_b3", slices=(24, 24)),
)
"""A state holds a network's place here: new ones are added at the end."""
NETWORKS = {c.name: c for c in CLASSIFIERS}


def trained(arrays: Arrays) -> Classifier:
    """The network that the image learner's arrays are of."""
    return CLASSIFIERS[int(arrays["network"])]
