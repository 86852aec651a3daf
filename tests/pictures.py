"""Cohorts with pictures for tests, in memory: lesions in noise, whose texture tells the class, and
a table that does not.

Class 0 has even lesions, class 1 bright rims, class 2 bright cores. Sizes and places say nothing
about the class.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.data.cohort import Cohort
from common.data.picture import Picture
from common.data.schema import Channel, Imaging, Schema
from tests import synthetic

UNIT = 1 / 4096
IMAGING = Imaging(
    channels=(Channel("a", "MR"), Channel("b", "MR")),
    regions=("core", "rim"),
    lesion=("core", "rim"),
    crop_mm=(16.0, 16.0, 16.0),
    crops=2,
    coarse=(8, 10, 10),
)
FIELD = (20, 28, 28)


def imaging(channels: int = 2, **how: Any) -> Imaging:
    return dataclasses.replace(
        IMAGING, channels=tuple(Channel("abcde"[i], "MR") for i in range(channels)), **how
    )


def schema(classes: int = 2, what: Imaging = IMAGING) -> Schema:
    return dataclasses.replace(synthetic.schema(classes), imaging=what)


def picture(
    label: int,
    seed: int,
    what: Imaging = IMAGING,
    *,
    lesions: int | None = None,
    masked: bool = True,
    absent: Sequence[int] = (),
    signal: float = 1.5,
) -> Picture:
    """One picture with one to three lesions; `absent` channels are missing."""
    r = np.random.default_rng(seed)
    channels, field = len(what.channels), np.array(FIELD)
    values = r.normal(0, 0.3, (channels, *FIELD))
    mask = np.zeros(FIELD, np.uint8)
    for _ in range(int(r.integers(1, 4)) if lesions is None else lesions):
        radius, centre = r.uniform(3, 5), r.uniform(5, field - 6)
        # what is near enough
        box = tuple(
            slice(max(int(m - radius), 0), min(int(m + radius) + 2, n))
            for m, n in zip(centre, FIELD, strict=True)
        )
        axes = np.ogrid[box]
        squares = sum((a - m) ** 2 for a, m in zip(axes, centre, strict=True))
        distance = np.sqrt(squares) / radius
        core, rim = distance < 0.6, (distance >= 0.6) & (distance < 1)
        for region, where in (("core", core), ("rim", rim)):
            if region in what.regions:
                mask[box][where] |= 1 << what.regions.index(region)
        bright = {1: rim, 2: core}.get(label)
        for c in range(channels):
            values[c][box][core | rim] += 0.8
            if bright is not None:
                values[c][box][bright] += signal
    for c in absent:
        values[c] = 0
    voxels = np.round(np.clip(values, -5, 5) / UNIT).astype(np.int16)
    coarse_mask = _blocks(mask, what.coarse)
    key = hashlib.sha256(voxels.tobytes() + mask.tobytes() + bytes([masked])).hexdigest()
    return Picture(
        key=key,
        voxels=voxels,
        unit=UNIT,
        spacing_mm=(1.0, 1.0, 1.0),
        present=tuple(c not in absent for c in range(channels)),
        coarse=np.stack([_blocks(v, what.coarse) for v in voxels]),
        mask=mask if masked else None,
        coarse_mask=coarse_mask if masked else None,
        marked=(masked,) * len(what.regions),
    )


def with_pictures(
    cohort: Cohort,
    what: Imaging = IMAGING,
    *,
    share: float = 1.0,
    masked: float = 1.0,
    seed: int = 0,
    **how: Any,
) -> Cohort:
    """The same cases with a picture each (a `share` of them); unknown labels get a picture of some
    class."""
    r = np.random.default_rng((seed, *cohort.site.encode()))
    classes = len(cohort.schema.label.classes)
    held = []
    for label in cohort.labels:
        seen, marked, number, guess = (
            r.random() < share,
            r.random() < masked,
            int(r.integers(2**31)),
            int(r.integers(classes)),
        )
        held.append(
            picture(int(label) if label >= 0 else guess, number, what, masked=marked, **how)
            if seen
            else None
        )
    return dataclasses.replace(
        cohort,
        schema=dataclasses.replace(cohort.schema, imaging=what),
        pictures=tuple(held) if any(held) else (),
        modalities=cohort.modalities | ({"image"} if any(held) else set()),
    )


def sites(
    n: int,
    count: int = 3,
    what: Imaging = IMAGING,
    *,
    share: float = 1.0,
    masked: float = 1.0,
    signal: float = 1.5,
    **how: Any,
) -> list[Cohort]:
    """`n` patients with pictures dealt to `count` sites in turn."""
    return [
        with_pictures(c, what, share=share, masked=masked, signal=signal)
        for c in synthetic.sites(n, count, **how)
    ]


def _blocks(values: np.ndarray[Any, Any], grid: Sequence[int]) -> np.ndarray[Any, Any]:
    """Every nth voxel: a coarse volume over the same field."""
    at = [
        ((np.arange(g) + 0.5) * n / g).astype(int) for g, n in zip(grid, values.shape, strict=True)
    ]
    return np.ascontiguousarray(values[np.ix_(*at)])
