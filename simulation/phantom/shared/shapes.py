"""Solids that phantoms are made of, on a grid of voxels: ellipsoids, tubes, and smooth random
fields. Axes (z, y, x), lengths mm.

Coordinates grow towards the patient's head (z), back (y) and left (x). Each solid is computed only
in the box that holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Solid = NDArray[np.bool_]
Point = tuple[float, float, float]
"""(z, y, x) in mm."""
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """Voxel centres along each axis, in mm."""

    z: Field
    y: Field
    x: Field

    @classmethod
    def of(
        cls, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], first: Point
    ) -> Grid:
        axes = [
            (o + s * np.arange(n)).astype(np.float32)
            for n, s, o in zip(shape, spacing_mm, first, strict=True)
        ]
        return cls(*axes)

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.z), len(self.y), len(self.x)

    def box(self, low: Point, high: Point) -> Box:
        """The voxels between two corners."""
        z, y, x = (
            slice(int(np.searchsorted(axis, a)), int(np.searchsorted(axis, b, "right")))
            for axis, a, b in zip((self.z, self.y, self.x), low, high, strict=True)
        )
        return z, y, x

    def at(self, box: Box) -> tuple[Field, Field, Field]:
        """The coordinates in a box, ready to broadcast: (z, 1, 1), (1, y, 1), (1, 1, x)."""
        z, y, x = box
        return self.z[z, None, None], self.y[None, y, None], self.x[None, None, x]

    @property
    def all(self) -> Box:
        return slice(0, len(self.z)), slice(0, len(self.y)), slice(0, len(self.x))


def radius(grid: Grid, box: Box, centre: Point, semi: Point) -> Field:
    """The normalised radius of an ellipsoid in a box: below 1 inside."""
    z, y, x = grid.at(box)
    a, b, c = ((p - o) / s for p, o, s in zip((z, y, x), centre, semi, strict=True))
    return np.asarray(np.sqrt(a * a + b * b + c * c), np.float32)


def around(grid: Grid, centre: Point, semi: Point, factor: float = 1.0) -> Box:
    """The box that holds `factor` times an ellipsoid."""
    low = tuple(c - factor * s for c, s in zip(centre, semi, strict=True))
    high = tuple(c + factor * s for c, s in zip(centre, semi, strict=True))
    return grid.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def paint(image: Field, grid: Grid, centre: Point, semi: Point, value: float) -> None:
    """Set the voxels of an ellipsoid."""
    box = around(grid, centre, semi)
    image[box][radius(grid, box, centre, semi) < 1] = value


def tube(out: Solid, grid: Grid, path: Sequence[Point], radii: Sequence[float]) -> None:
    """Mark the voxels within a radius, tapering along it, of a polyline."""
    for (start, end), (first, last) in zip(pairwise(path), pairwise(radii), strict=True):
        a, b = np.array(start), np.array(end)
        reach = max(first, last)
        low, high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
        box = grid.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        z, y, x = grid.at(box)
        d = b - a
        along = ((z - a[0]) * d[0] + (y - a[1]) * d[1] + (x - a[2]) * d[2]) / max(
            float(d @ d), 1e-6
        )
        t = np.clip(along, 0, 1)
        away = (z - a[0] - t * d[0]) ** 2 + (y - a[1] - t * d[1]) ** 2 + (x - a[2] - t * d[2]) ** 2
        out[box] |= away < (first + (last - first) * t) ** 2


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], knots: tuple[int, int, int]
) -> Field:
    """A random field of about unit deviation that varies over `knots` points along each axis,
    straight between them."""
    out = rng.normal(size=knots).astype(np.float32)
    for n, k in zip(shape, knots, strict=True):
        # the leading axis is stretched and goes to the end, so that after three turns each is back
        # in its place
        out = np.tensordot(out, _stretch(k, n), axes=(0, 1))
    return np.ascontiguousarray(out)


def _stretch(knots: int, points: int) -> Field:
    """(points, knots): linear interpolation as a matrix."""
    place = np.linspace(0, knots - 1, points)
    return np.asarray(np.maximum(1 - np.abs(place[:, None] - np.arange(knots)), 0), np.float32)


def grain(
    rng: np.random.Generator, shape: tuple[int, int, int], sigma: tuple[float, float, float]
) -> Field:
    """Noise of zero mean and unit deviation, correlated over `sigma` voxels."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(shape, np.float32), sigma)
    return np.asarray(noise / noise.std(), np.float32)
