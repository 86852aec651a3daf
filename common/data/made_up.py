"""Made-up patients of a schema: nobody's values, by which work can be timed before anybody's are
looked at.

They are as laborious as patients come: every value within its bounds, every label known, with as
many lesions as a study looks at, and fewer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort, Fold, part_of
from common.data.picture import Picture
from common.data.schema import Floats, Imaging, Number, Schema

_UNIT = 1 / 4096
_SERIAL = itertools.count()
"""No two pictures have one key, so that nothing is remembered of another."""


def made_up(schema: Schema, patients: int, split: tuple[Fold, int, int], *, imaged: bool) -> Cohort:
    """`patients`, of whom a fold leaves as many out as of any. `split`: the fold, the split's seed,
    and the number of parts. `imaged`: with a picture each."""
    draws, ids = np.random.default_rng(0), _ids(patients, *split)
    n = len(ids)
    pictures: tuple[Picture, ...] = ()
    if imaged and schema.imaging is not None:
        pictures = tuple(_pictures(schema.imaging, n, draws))
    survival = None
    if schema.survival is not None:
        times = draws.uniform(0, schema.survival.horizon, n)
        survival = np.stack([times, np.arange(n) % 2.0], axis=1)
    return Cohort(
        "",
        schema,
        ids,
        _values(schema, n, draws),
        np.arange(n, dtype=np.int64) // 2 % len(schema.label.classes),
        modalities=frozenset({"table", "image"} if pictures else {"table"}),
        survival=survival,
        pictures=pictures,
    )


def _ids(patients: int, fold: Fold, seed: int, parts: int) -> tuple[str, ...]:
    """Those that are left in, and then the others."""
    left = {p for p in fold.parts if p < parts}
    outside = round(patients * len(left) / parts)
    wanted = {True: patients - outside, False: outside}
    chosen: dict[bool, list[str]] = {True: [], False: []}
    for i in itertools.count():
        if all(len(chosen[k]) >= n for k, n in wanted.items()):
            break
        name = f"made up {i}"
        chosen[not left or part_of(seed, name, parts) not in left].append(name)
    return tuple(name for k, n in wanted.items() for name in chosen[k][:n])


def _values(schema: Schema, n: int, draws: np.random.Generator) -> Floats:
    columns = [
        draws.uniform(f.low, f.high, n)
        if isinstance(f, Number)
        else draws.integers(0, len(f.values), n).astype(np.float64)
        for f in schema.features
    ]
    return np.stack(columns, axis=1) if columns else np.empty((n, 0))


def _pictures(imaging: Imaging, n: int, draws: np.random.Generator) -> Iterator[Picture]:
    """Cubes in a row, 1 to `imaging.crops` of them, each in a field as large as its crop; the values
    are the same in all."""
    edges = np.maximum(np.ceil(np.array(imaging.crop_mm) / imaging.spacing_mm), 4).astype(int)
    depth, across, along = (int(e) for e in edges)
    channels, regions = len(imaging.channels), len(imaging.regions)
    whole = np.uint8((1 << regions) - 1)
    voxels = _noise((channels, depth * imaging.crops, across, along), draws)
    coarse = _noise((channels, *imaging.coarse), draws)
    coarse_mask = np.full(imaging.coarse, whole)
    for i in range(n):
        mask = np.zeros(voxels.shape[1:], np.uint8)
        for lesion in range(1 + i % imaging.crops):
            middle = _middle(lesion * depth, depth), _middle(0, across), _middle(0, along)
            mask[middle] = whole
        yield Picture(
            key=f"made up {next(_SERIAL)}",
            voxels=voxels,
            unit=_UNIT,
            spacing_mm=imaging.spacing_mm,
            present=(True,) * channels,
            coarse=coarse,
            mask=mask if regions else None,
            coarse_mask=coarse_mask if regions else None,
            marked=(True,) * regions,
        )


def _middle(start: int, length: int) -> slice:
    return slice(start + length // 4, start + length - length // 4 - 1)


def _noise(shape: Sequence[int], draws: np.random.Generator) -> NDArray[np.int16]:
    return draws.integers(-4096, 4096, tuple(shape)).astype(np.int16)
