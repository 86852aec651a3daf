"""Image preprocessing: volumes in the scanner's units to a Picture's arrays. Intensities
normalised, cropped, averaged to the spacing.

CT: Hounsfield units are clipped to the study's window and mapped to [-1, 1]. MR: clipped to the 0.5
and 99.5 percentiles inside the head, z-scored there, clipped to +-5; voxels that are exactly zero
outside a stripped brain stay zero. Both are stored as int16 times a power of two. A grid is only
ever made coarser, by area averages (each output voxel is the mean of what it covers), never finer:
what a file does not hold is not interpolated. All arithmetic is numpy's on one thread in a fixed
order, so that the same files give the same bits wherever they are prepared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from client.imaging.geometry.resampling import Box, Floats, Values, as_is, averaged, onto
from client.imaging.geometry.volumes import Geometry, Mask, Volume
from common.data.schema import Imaging
from common.errors import DataError

VERSION = 3
"""Of what this file, `resampling`, `contours` and `straightening` do: part of a cache entry's key, to be raised whenever the
same files would give other arrays."""

LEAST_CONTRAST = 1e-4
"""Dark and bright must be further apart than this share of the larger one, for a histogram of 256
bins to tell them in float32."""
LIMIT_SD = 5.0
PERCENTILES = (0.5, 99.5)

BODY_HU = -300.0
AIR_HU = (-1100.0, -300.0)
SOFT_HU = (-200.0, 300.0)
LEAST_AIR, LEAST_SOFT = 0.001, 0.02
"""Guard D06: a CT of a body shows air around it or in it, and soft tissue, at least as these shares
of its voxels."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """The arrays of a `common.data.picture.Picture`; see there."""

    voxels: NDArray[np.int16]
    unit: float
    spacing_mm: tuple[float, float, float]
    present: tuple[bool, ...]
    coarse: NDArray[np.int16]
    mask: NDArray[np.uint8] | None
    coarse_mask: NDArray[np.uint8] | None
    marked: tuple[bool, ...]
    box: Box
    notes: tuple[str, ...] = ()


def prepare(volumes: Mapping[str, Volume], mask: Mask | None, imaging: Imaging) -> Prepared:
    """One case: `volumes` by channel name (a sequence that is missing is left out), `mask` on the
    grid of the first channel there.

    Raises DataError: D06 where a CT holds no air or no soft tissue or a sequence is constant, D07
    where grids do not lie over each other, or values are too small, too large or too near each
    other to be scored.
    """
    names = [c.name for c in imaging.channels]
    available = [n for n in names if n in volumes]
    if not available:
        raise DataError("D06", f"none of the channels {', '.join(names)} is there")
    grid = volumes[available[0]].geometry
    if mask is not None and mask.bits.shape != grid.shape:
        raise DataError(
            "D07",
            f"the mask has {mask.bits.shape} voxels (z, y, x), its image "
            f"{grid.shape}; they are not of one grid",
        )
    notes: list[str] = []
    modality = imaging.modality
    layers: dict[str, tuple[Floats, Values]] = {}
    for name in available:
        values = (
            _windowed(volumes[name].array, imaging.window_hu, name)
            if modality.hounsfield
            else _scored(volumes[name].array, name, notes)
        )
        layers[name] = (volumes[name].array, values)
        if not volumes[name].geometry.same_as(grid):
            layers[name] = (
                onto(grid, volumes[name], values, name, outside=modality.outside),
                as_is,
            )
            notes.append("a sequence was resampled onto the grid of the first one")
    region = _region(volumes, available, mask, imaging, grid, notes)
    box, counts, steps, spacing = _target(region, grid, imaging.spacing_mm)
    whole: Box = tuple((0.0, float(n)) for n in grid.shape)
    coarse_steps = tuple(n / c for n, c in zip(grid.shape, imaging.coarse, strict=True))
    unit = modality.unit
    voxels = np.zeros((len(names), *counts), np.int16)
    coarse = np.zeros((len(names), *imaging.coarse), np.int16)
    for name, (array, values) in layers.items():
        voxels[names.index(name)] = _stored(averaged(array, box, counts, steps, values), unit)
        coarse[names.index(name)] = _stored(
            averaged(array, whole, imaging.coarse, coarse_steps, values), unit
        )
    return Prepared(
        voxels,
        unit,
        spacing,
        tuple(n in volumes for n in names),
        coarse,
        None if mask is None else _outlined(mask.bits, len(imaging.regions), box, counts, steps),
        None
        if mask is None
        else _outlined(mask.bits, len(imaging.regions), whole, imaging.coarse, coarse_steps),
        () if mask is None else mask.marked,
        tuple((a / n, b / n) for (a, b), n in zip(box, grid.shape, strict=True)),
        tuple(dict.fromkeys(notes)),
    )


def _stored(x: Floats, unit: float) -> NDArray[np.int16]:
    ends = np.iinfo(np.int16)
    return np.asarray(np.clip(np.rint(x / np.float32(unit)), ends.min, ends.max), np.int16)


def _outlined(
    bits: NDArray[np.uint8],
    regions: int,
    box: Box,
    counts: tuple[int, ...],
    steps: tuple[float, ...],
) -> NDArray[np.uint8]:
    """A region is in a voxel that it covers by half; one that covers no voxel by half is in the
    voxel that it covers most."""
    out = np.zeros(counts, np.uint8)
    for region in range(regions):
        bit = np.uint8(1 << region)
        slices = np.flatnonzero((bits & bit).any(axis=(1, 2)))
        if not len(slices):
            continue
        share = averaged(bits, box, counts, steps, partial(_of_region, bit))
        inside = share >= 0.5
        if not inside.any() and share.any():
            inside[np.unravel_index(int(share.argmax()), counts)] = True
        out[inside] |= bit
    return out


def _of_region(bit: np.uint8, flat: NDArray[np.uint8]) -> NDArray[np.float32]:
    return ((flat & bit) > 0).astype(np.float32)


def _windowed(array: Floats, window: tuple[float, float], name: str) -> Values:
    """Hounsfield units to [-1, 1]; D06 where they cannot be Hounsfield units of a body."""
    sample = array[:, ::4, ::4]
    air = float(((sample >= AIR_HU[0]) & (sample <= AIR_HU[1])).mean())
    soft = float(((sample >= SOFT_HU[0]) & (sample <= SOFT_HU[1])).mean())
    if air < LEAST_AIR or soft < LEAST_SOFT:
        raise DataError(
            "D06",
            f"channel '{name}': the values ({float(sample.min()):g} to {float(sample.max()):g}) "
            "are no Hounsfield units of a body: "
            f"{air:.1%} are those of air, {soft:.1%} those of soft tissue (at least "
            f"{LEAST_AIR:.1%} and {LEAST_SOFT:.0%} are expected); "
            "check that RescaleSlope and RescaleIntercept survived the export",
        )
    low, high = window
    scale, shift = np.float32(2 / (high - low)), np.float32(-(high + low) / (high - low))
    return lambda flat: np.clip(flat * scale + shift, np.float32(-1), np.float32(1))


def _scored(array: Floats, name: str, notes: list[str]) -> Values:
    """z-scores inside the head; D06 where there is nothing to score."""
    stripped = _stripped(array)
    inside = array[array != 0] if stripped else array[array > _otsu(array, name)]
    low, high = np.percentile(inside, PERCENTILES) if len(inside) else (0.0, 0.0)
    if not low < high:
        raise DataError(
            "D06",
            f"channel '{name}' holds one value only ({float(low):g}); export the sequence again",
        )
    clipped = np.clip(inside, np.float32(low), np.float32(high))
    mean, spread = float(clipped.mean(dtype=np.float64)), float(clipped.std(dtype=np.float64))
    limits = np.float32(low), np.float32(high)
    # the scale with all its digits, and the difference of any two values, must be numbers of
    # float32
    float32 = np.finfo(np.float32)
    if not (float32.tiny < spread < 1 / float32.tiny and float(high) - float(low) < float32.max):
        raise _unscorable(name, float(low), float(high))
    scale = np.float32(1 / spread)
    if not stripped:
        notes.append(
            "not skull-stripped: values are scored inside the head, found by Otsu's threshold"
        )

    def values(flat: Floats) -> Floats:
        z = np.clip(
            (np.clip(flat, *limits) - np.float32(mean)) * scale,
            np.float32(-LIMIT_SD),
            np.float32(LIMIT_SD),
        )
        return np.where(flat != 0, z, np.float32(0)) if stripped else z

    return values


def _unscorable(name: str, low: float, high: float) -> DataError:
    what = (
        f"channel '{name}': its values lie between {low:g} and {high:g}, where 32-bit numbers "
        "do not tell them apart"
    )
    return DataError(
        "D07",
        f"{what}; check scl_slope or the rescale slope, and export or convert the sequence again",
    )


def _stripped(array: Floats) -> bool:
    """Whether the background was set to zero: nine tenths of the faces of the volume are exactly
    zero."""
    faces = [array[0], array[-1], array[:, 0], array[:, -1], array[:, :, 0], array[:, :, -1]]
    return bool(sum(np.count_nonzero(f == 0) for f in faces) >= 0.9 * sum(f.size for f in faces))


def _otsu(array: Floats, name: str) -> float:
    """The threshold between dark and bright that separates their means best (Otsu 1979)."""
    top = float(np.percentile(array[::2, ::2, ::2], 99.5))
    bottom = float(array.min())
    if not bottom < top:
        return bottom - 1
    if (
        not max(LEAST_CONTRAST * max(abs(bottom), abs(top)), float(np.finfo(np.float32).tiny))
        < top - bottom
        < np.inf
    ):
        raise _unscorable(name, bottom, top)
    counts, edges = np.histogram(array, 256, (bottom, top))
    middle = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    mean_below = np.cumsum(counts * middle) / np.maximum(below, 1)
    mean_above = np.cumsum((counts * middle)[::-1])[::-1] / np.maximum(above, 1)
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(edges[int(between.argmax()) + 1])


def _region(
    volumes: Mapping[str, Volume],
    available: list[str],
    mask: Mask | None,
    imaging: Imaging,
    grid: Geometry,
    notes: list[str],
) -> tuple[tuple[int, int], ...]:
    """(3, 2) voxels from, to that matter: the outlined organ and lesions with a margin, else the
    body or the brain."""
    if mask is not None and imaging.organ:
        organ = mask.bits & np.uint8(imaging.bits((imaging.organ,)))
        if organ.any():
            inside = mask.bits & np.uint8(imaging.bits(tuple({imaging.organ, *imaging.lesion})))
            margin = [int(np.ceil(imaging.margin_mm / s - 1e-9)) for s in grid.spacing_mm]
            ends = zip(_extent(inside > 0), margin, grid.shape, strict=True)
            return tuple((max(0, a - m), min(n, b + m)) for (a, b), m, n in ends)
        notes.append(f"'{imaging.organ}' is not outlined in the mask: cut to the body")
    if imaging.modality.hounsfield:
        return _body(volumes[available[0]].array)
    extents = [_head(volumes[n].array, n) for n in available if volumes[n].geometry.same_as(grid)]
    return tuple(
        (min(e[axis][0] for e in extents), max(e[axis][1] for e in extents)) for axis in range(3)
    )


def _body(array: Floats) -> tuple[tuple[int, int], ...]:
    """The largest connected part that is denser than fat, looked for on every fourth voxel."""
    from scipy.ndimage import find_objects, label

    step = [4 if n >= 64 else 1 for n in array.shape]
    parts, count = label(array[:: step[0], :: step[1], :: step[2]] > BODY_HU)
    if not count:
        return tuple((0, n) for n in array.shape)
    largest = int(np.bincount(parts.ravel())[1:].argmax())
    cuts = zip(find_objects(parts)[largest], step, array.shape, strict=True)
    return tuple((max(0, c.start * s - s + 1), min(n, (c.stop - 1) * s + s)) for c, s, n in cuts)


def _head(array: Floats, name: str) -> tuple[tuple[int, int], ...]:
    return _extent(array != 0) if _stripped(array) else _extent(array > _otsu(array, name))


def _extent(inside: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """(3, 2) first and last + 1 of the voxels that are marked."""
    flat = np.asarray(inside.any(axis=0))
    marks = (
        np.asarray(inside.any(axis=(1, 2))),
        np.asarray(flat.any(axis=1)),
        np.asarray(flat.any(axis=0)),
    )
    ends = [np.flatnonzero(m) for m in marks]
    return tuple(
        (int(e[0]), int(e[-1]) + 1) if len(e) else (0, n)
        for e, n in zip(ends, inside.shape, strict=True)
    )


def _target(
    region: tuple[tuple[int, int], ...], grid: Geometry, target_mm: tuple[float, float, float]
) -> tuple[Box, tuple[int, ...], tuple[float, ...], tuple[float, float, float]]:
    """The box in file voxels, output voxels along each axis, file voxels in each, and their size in
    mm.

    An axis that need not be made coarser keeps its voxels as they are. Else the box grows to a
    whole number of output voxels, as far as the field of view goes.
    """
    box, counts, steps, spacing = [], [], [], []
    for (low, high), size, spacing_here, target in zip(
        region, grid.shape, grid.spacing_mm, target_mm, strict=True
    ):
        if spacing_here > 0.99 * target:
            count, step, start = high - low, 1.0, float(low)
        else:
            step = target / spacing_here
            count = max(1, min(int(np.ceil((high - low) / step - 1e-6)), int(size / step + 1e-6)))
            step = min(step, float(size))
            start = min(max(0.0, (low + high - count * step) / 2), size - count * step)
        box.append((start, start + count * step))
        counts.append(count)
        steps.append(step)
        spacing.append(step * spacing_here)
    return tuple(box), tuple(counts), tuple(steps), (spacing[0], spacing[1], spacing[2])
