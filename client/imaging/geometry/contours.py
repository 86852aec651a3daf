"""Closed planar contours to the voxels of a grid that they enclose.

A voxel is inside when its centre is, by the even-odd rule. Contours of one region in one plane are
put together by exclusive or: a contour within another is a hole, and one within the hole an island.
That is what DICOM says of CLOSEDPLANAR_XOR (PS3.3, C.8.8.6.3), and what planning systems mean where
they write several CLOSED_PLANAR contours (dcmrtstruct2nii and platipy read them so). A keyhole's
channel, out and back along one line, encloses nothing under the same rule.

Contours are where their millimetres say. Each plane must be one of the grid's own, of any of its
three axes: for an oblique acquisition these are oblique too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.imaging.geometry.volumes import Geometry

Floats = NDArray[np.float64]

FLAT = 0.25
"""Voxels that the points of one contour may stray from their plane: rounding, and not a plane of
another orientation."""
SAME_PLANE = 0.1
"""Voxels within which contours lie in one plane."""
BEYOND = 1.0
"""Voxels that a contour may reach beyond the outermost centres: it may follow the image's edge."""
THICKEST_MM = 10.0
"""Distance between planes up to which a contour may stand for all that lies between them."""
SKIPPED = "outlined on some slices only: those between them are left empty"
MOST_CROSSINGS = 1 << 23
"""Of one contour with the grid's rows, as bounds its memory: a contour has thousands."""


class OutsideError(ValueError):
    """Contours that lie where the grid is not."""


@dataclass(frozen=True)
class Filled:
    """What contours enclose, and what is to be said of it."""

    inside: NDArray[np.bool_]
    """(z, y, x)."""
    notes: tuple[str, ...]


def filled(contours: Sequence[Floats], grid: Geometry, *, thick: bool = False) -> Filled:
    """The voxels that one region's contours (n, 3) LPS mm enclose.

    thick: whether they may have been drawn on slices that are thicker than the grid's, so that
    planes evenly apart stand for what lies between them too. Raises OutsideError where a contour
    reaches beyond the grid, ValueError where one lies in no plane of it.
    """
    out = np.zeros(grid.shape, np.bool_)
    unique = {np.round(points, 3).tobytes(): points for points in contours}
    indexed = [grid.to_index(points) for points in unique.values()]
    if not indexed:
        return Filled(out, ())
    across = _across(indexed)
    in_plane = [axis for axis in range(3) if axis != across]
    planes = _planes(indexed, across)
    _refuse_beyond(indexed, grid, across)
    depths = np.array([depth for depth, _ in planes])
    reach = _reach(depths, grid.spacing_mm[across], thick)
    notes: dict[str, None] = {}
    slices = np.moveaxis(out, across, 0)
    for k, own in enumerate(_planes_of_slices(depths, grid.shape[across], reach, thick)):
        for plane in own:
            polygons = [points[:, in_plane] for points in planes[plane][1]]
            slices[k] |= _plane(polygons, slices.shape[1:], notes)
        if len(own) > 1:
            notes["contours of several planes are nearest to one slice: all of them are marked"] = (
                None
            )
    if reach > 0.5:
        notes["contours of thicker slices: each stands for the slices that are nearest to it"] = (
            None
        )
    elif len(depths) > 2 and (np.diff(depths) > 1.5).mean() > 0.5:
        notes[SKIPPED] = None
    return Filled(out, tuple(notes))


def _across(indexed: Sequence[Floats]) -> int:
    """The axis of the grid that the contours' planes are perpendicular to."""
    spread = np.max([np.ptp(points, axis=0) for points in indexed], axis=0)
    axis = int(np.argmin(spread))
    if spread[axis] > FLAT:
        raise ValueError(
            f"its contours lie in no plane of the image: they stray by {spread[axis]:.2f} voxels"
        )
    return axis


def _planes(indexed: Sequence[Floats], across: int) -> list[tuple[float, list[Floats]]]:
    """(depth in voxels, contours) of each plane, by depth."""
    planes: list[tuple[float, list[Floats]]] = []
    by_depth = sorted(((float(p[:, across].mean()), n) for n, p in enumerate(indexed)))
    for depth, n in by_depth:
        if planes and depth - planes[-1][0] <= SAME_PLANE:
            planes[-1][1].append(indexed[n])
        else:
            planes.append((depth, [indexed[n]]))
    return planes


def _refuse_beyond(indexed: Sequence[Floats], grid: Geometry, across: int) -> None:
    last = np.array(grid.shape) - 1.0
    margin = np.full(3, BEYOND)
    margin[across] = 0.5 + SAME_PLANE
    outside = sum(
        bool((points < -margin).any() or (points > last + margin).any()) for points in indexed
    )
    if outside:
        raise OutsideError(f"{outside} of {len(indexed)} contours reach beyond the image")


def _reach(depths: Floats, spacing: float, thick: bool) -> float:
    """Voxels on either side of a plane that its contours stand for: half a slice, or half of what
    evenly lies between planes."""
    steps = np.diff(depths)
    if not thick or len(steps) < 2:
        return 0.5
    step = float(np.median(steps))
    even = bool(np.abs(steps / step - np.rint(steps / step)).max() <= SAME_PLANE)
    return step / 2 if even and step > 1 and step * spacing <= THICKEST_MM else 0.5


def _nearest(depths: Floats, count: int, reach: float) -> NDArray[np.int64]:
    """(count,): for each slice the plane that it is nearest to and within reach of, else -1."""
    distance = np.arange(count)[:, None] - depths[None, :]
    # half open: a slice in the middle of two planes has the upper one, and a plane in the middle of
    # two slices is on the lower one
    plane = np.abs(distance + 1e-5).argmin(axis=1)
    at = distance[np.arange(count), plane]
    return np.where((at >= -reach - 1e-6) & (at < reach - 1e-6), plane, -1)


def _planes_of_slices(depths: Floats, count: int, reach: float, thick: bool) -> list[list[int]]:
    """For each slice the planes whose contours it has. What was drawn on these very slices is left
    out of none: each plane is on the slice that it is nearest to."""
    if thick:
        return [[int(plane)] if plane >= 0 else [] for plane in _nearest(depths, count, reach)]
    own: list[list[int]] = [[] for _ in range(count)]
    for plane, depth in enumerate(depths):
        # a plane in the middle of two slices is on the lower one
        at = int(np.clip(np.ceil(depth - 0.5 - 1e-6), 0, count - 1))
        own[at].append(plane)
    return own


def _plane(
    polygons: Sequence[Floats], shape: tuple[int, ...], notes: dict[str, None]
) -> NDArray[np.bool_]:
    """What the polygons (row, column) of one plane enclose."""
    out = np.zeros(shape, np.bool_)
    enclosing: set[tuple[object, ...]] = set()
    tiny = []
    # the largest first: what lies within another one, or beside it, then shares all of its voxels
    # with what is there, or none
    polygons = sorted(polygons, key=_area, reverse=True)
    for polygon in polygons:
        window, inside = enclosed(polygon, shape)
        if not inside.any():
            tiny.append(polygon)
            continue
        same = (*((s.start, s.stop) for s in window), inside.tobytes())
        if same in enclosing:  # drawn twice, from another point, the other way around, or closed
            continue
        enclosing.add(same)
        common = int(np.count_nonzero(out[window] & inside))
        if 0 < common < int(np.count_nonzero(inside)):
            notes.setdefault(
                "contours of one plane overlap in part: what they have in common is left out "
                "(exclusive or)"
            )
        out[window] ^= inside
    for polygon in tiny:
        # smaller than a voxel: an outline that marked none would be no outline, beside others too;
        # within another it is a hole that takes no voxel away
        row, column = np.clip(np.rint(polygon.mean(axis=0)).astype(int), 0, np.array(shape) - 1)
        if not out[row, column]:
            out[row, column] = True
            notes.setdefault("a contour encloses no voxel's centre: it marks the nearest voxel")
    return out


def _area(polygon: Floats) -> float:
    y, x = polygon.T
    return float(abs(y @ np.roll(x, -1) - x @ np.roll(y, -1))) / 2


def enclosed(
    polygon: Floats, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The part of a plane of `shape` that a polygon (n, 2) of rows and columns reaches over, and
    which voxels' centres in it lie inside, by the even-odd rule.

    A centre on the polygon's own line is inside on its lower sides. Raises ValueError for one whose
    lines cross more rows than `MOST_CROSSINGS`.
    """
    low = np.clip(np.ceil(polygon.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.floor(polygon.max(axis=0)) + 1, low, shape).astype(int)
    window = (slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])))
    rows, columns = (int(n) for n in high - low)
    ends = np.stack([polygon, np.roll(polygon, -1, axis=0)], axis=1) - low
    # upwards, so that a channel's way out and its way back cross a row at the same number
    ends = np.where((ends[:, 1, 0] < ends[:, 0, 0])[:, None, None], ends[:, ::-1], ends)
    first = np.clip(np.ceil(ends[:, 0, 0]), 0, rows).astype(np.int64)
    after = np.clip(np.ceil(ends[:, 1, 0]), 0, rows).astype(np.int64)
    counts = np.maximum(after - first, 0)
    total = int(counts.sum())
    if total > MOST_CROSSINGS:
        raise ValueError(f"a contour of {len(polygon)} points crosses {total} rows of the image")
    edge = np.repeat(np.arange(len(ends)), counts)
    row = first[edge] + np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    (y, x), (y_end, x_end) = ends[edge, 0].T, ends[edge, 1].T
    crossing = x + (row - y) * ((x_end - x) / np.where(y_end > y, y_end - y, 1.0))
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    toggles = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1))
    parity = np.cumsum(toggles.reshape(rows, columns + 1)[:, :-1], axis=1)
    return window, np.asarray(parity % 2 == 1)
