"""Missing modalities: which of a patient's images, expert's outlines and clinical row are there.
Nothing here depends on the patient.

Ordinarily about 6 % of the patients have no image and about 8 % of the others no outlines, spread
evenly over the makers. In the missing-modality mode whole makers lack something besides: see
`ABSENT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from simulation.phantom.shared.scanners import MAKERS

WITHOUT_IMAGE: Final = 0.06
WITHOUT_MASK: Final = 0.08

Part = Literal["table", "image", "part"]
ABSENT: Final[dict[str, Part]] = {"Philips": "table", "Canon": "image", "Siemens": "part"}
"""Maker -> what all of its patients lack in the missing-modality mode: every clinical feature, the
images, or a part of the images (of a liver the outlines, of a brain the T2-weighted sequence). The
label is known as ever."""


@dataclass(frozen=True)
class Holding:
    """What the phantom's hospital has of one patient."""

    image: bool
    mask: bool
    """Never without an image."""
    table: bool
    """Whether the clinical row holds any feature; a row with the label there is always."""
    whole: bool
    """False: the part that the maker lacks is not there."""


def holdings(
    makers: Sequence[int], rng: np.random.Generator, *, missing: bool = False
) -> list[Holding]:
    """(patients,): `makers` are indices into MAKERS."""
    names = [MAKERS[m].name for m in makers]
    lack = [ABSENT.get(name) if missing else None for name in names]
    image = [
        not gone and what != "image"
        for gone, what in zip(_spread(names, WITHOUT_IMAGE, rng), lack, strict=True)
    ]
    groups = [name if there else "" for name, there in zip(names, image, strict=True)]
    mask = [
        there and not gone
        for gone, there in zip(_spread(groups, WITHOUT_MASK, rng), image, strict=True)
    ]
    return [
        Holding(i, m, w != "table", w != "part") for i, m, w in zip(image, mask, lack, strict=True)
    ]


def _spread(groups: Sequence[str], share: float, rng: np.random.Generator) -> list[bool]:
    """(patients,) marks on `share` of them, evenly over the groups: each 1/share-th of a list
    sorted by group, in random order within."""
    order = np.lexsort((rng.random(len(groups)), np.array(groups)))
    steps = np.floor((np.arange(len(groups) + 1) + rng.random() / share) * share)
    out = np.zeros(len(groups), np.bool_)
    out[order] = np.diff(steps) > 0
    marks: list[bool] = out.tolist()
    return marks
