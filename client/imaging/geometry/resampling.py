"""Resampling of volumes: averaged where the new grid is coarser, interpolated only to lay one
sequence onto another's grid.

Numpy on one thread, in a fixed order: the same input gives the same bits wherever it is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.imaging.geometry.volumes import Geometry, Volume
from common.errors import DataError

LEAST_COVERAGE = 0.5
"""A sequence must cover at least this share of the first one's grid."""

Floats = NDArray[np.float32]
Box = tuple[tuple[float, float], ...]
"""(3, 2) along z, y, x: from, to, in voxels of a file, whose voxel k covers [k, k + 1)."""
Values = Callable[[Floats], Floats]
"""One slice in the file's units -> normalised."""


def averaged(
    array: NDArray[Any], box: Box, counts: tuple[int, ...], steps: tuple[float, ...], values: Values
) -> Floats:
    """`values` of `array` (z, y, x) averaged over `counts` cells of `steps` file voxels each, from
    the lower corner of `box`.

    Slice by slice: beside the result it needs the memory of a few slices.
    """
    taps = [
        _taps(n, lo, s, c) for n, (lo, _), s, c in zip(array.shape, box, steps, counts, strict=True)
    ]
    (index, weight), rows, columns = taps
    # only the part of a slice that is asked for is normalised
    (y, y_end), (x, x_end) = ((int(i.min()), int(i.max()) + 1) for i, _ in (rows, columns))
    rows, columns = (rows[0] - y, rows[1]), (columns[0] - x, columns[1])
    out = np.zeros(counts, np.float32)
    for k in np.unique(index[weight > 0]):
        flat = _along(_along(values(array[k, y:y_end, x:x_end]), rows, 0), columns, 1)
        for tap, cell in zip(*np.nonzero((index == k) & (weight > 0)), strict=True):
            out[cell] += weight[tap, cell] * flat
    return out


def _taps(size: int, start: float, step: float, count: int) -> tuple[NDArray[np.int64], Floats]:
    """(taps, count) which input voxels each output voxel covers, and by which share of itself."""
    edges = start + step * np.arange(count + 1)
    low, high = edges[:-1], edges[1:]
    k = np.floor(low + 1e-9).astype(np.int64) + np.arange(int(np.ceil(step - 1e-9)) + 1)[:, None]
    share = np.clip(np.minimum(k + 1, high) - np.maximum(k, low), 0, None)
    share[(k < 0) | (k >= size) | (share < 1e-6)] = 0
    index = np.clip(k, 0, size - 1)
    used = share.any(axis=1)
    return index[used], (share / share.sum(axis=0))[used].astype(np.float32)


def _along(x: Floats, taps: tuple[NDArray[np.int64], Floats], axis: int) -> Floats:
    index, weight = taps
    if len(index) == 1 and index.shape[1] == index[0, -1] - index[0, 0] + 1:
        cut = slice(int(index[0, 0]), int(index[0, -1]) + 1)
        return x[cut] if axis == 0 else x[:, cut]
    shape = (-1, 1) if axis == 0 else (1, -1)
    out: Floats = np.take(x, index[0], axis) * weight[0].reshape(shape)
    for i, w in zip(index[1:], weight[1:], strict=True):
        out += np.take(x, i, axis) * w.reshape(shape)
    return out


def as_is(x: Floats) -> Floats:
    """For values that are normalised already."""
    return x


def onto(grid: Geometry, volume: Volume, values: Values, name: str, outside: float) -> Floats:
    """Normalised values of `volume` on another grid, by trilinear interpolation; D07 where it does
    not lie over that grid."""
    from scipy.ndimage import affine_transform

    own = volume.geometry
    lattice = np.stack(
        np.meshgrid(*(np.linspace(0, n - 1, 9) for n in grid.shape), indexing="ij"), -1
    ).reshape(-1, 3)
    indices = own.to_index(grid.to_mm(lattice))
    covered = float(((indices >= -0.5) & (indices <= np.array(own.shape) - 0.5)).all(axis=1).mean())
    if covered < LEAST_COVERAGE:
        raise DataError(
            "D07",
            f"channel '{name}' covers {covered:.0%} of the grid of the first channel "
            f"({LEAST_COVERAGE:.0%} are needed): they show "
            "different places; check that the sequences are of one examination",
        )
    array = np.stack([values(flat) for flat in volume.array])
    # where the other grid is finer, its values are averaged first, so that none is passed over
    finer = [
        max(1, int(np.floor(a / b + 0.01)))
        for a, b in zip(grid.spacing_mm, own.spacing_mm, strict=True)
    ]
    if max(finer) > 1:
        counts = tuple(max(1, n // f) for n, f in zip(array.shape, finer, strict=True))
        array = averaged(
            array,
            tuple((0.0, float(n)) for n in array.shape),
            counts,
            tuple(map(float, finer)),
            as_is,
        )
        first = own.to_mm(np.array([[(f - 1) / 2 for f in finer]]))[0]
        own = Geometry(
            counts,
            (float(first[0]), float(first[1]), float(first[2])),
            own.steps_mm * np.array(finer)[:, None],
        )
    matrix = np.linalg.solve(own.steps_mm.T, grid.steps_mm.T)
    offset = own.to_index(np.array([grid.origin_mm]))[0]
    return np.asarray(
        affine_transform(
            array, matrix, offset, grid.shape, np.float32, order=1, mode="constant", cval=outside
        )
    )
