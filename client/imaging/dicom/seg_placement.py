"""The frames of a segmentation onto the grid of an image: each where its position says, or refused.

Frames that lie on the image's slices are copied, pixel by pixel. Those of another grid, or of thicker slices, are resampled to the nearest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom.seg_object import Outlines
from client.imaging.geometry.volumes import Geometry
from common.errors import Fault, raise_faults

SAME_PLACE = 0.1
"""How far a frame may lie from a slice, in slice spacings, and a pixel from a voxel, to be that slice's (that voxel's)."""


def place(held: Outlines, bits: NDArray[np.uint8], onto: Geometry, out: NDArray[np.uint8]) -> list[str]:
    """Put the frames that outline anything onto the grid; returns notes. DataError D07 for frames that lie outside of it.

    bits: (frames, rows, columns), the regions that each frame outlines; out: of the grid's shape, changed.
    """
    filled = np.flatnonzero(bits.any(axis=(1, 2)))
    if not len(filled):
        return []
    held, bits = replace(held, at=held.at[filled]), bits[filled]
    _refuse_far(held, bits, onto)
    pixels = np.array(bits.shape[1:]) - 1
    start = onto.to_index(held.at)  # (frames, 3)
    step = held.axes @ np.linalg.inv(onto.steps_mm)  # (2, 3): grid indices from a pixel to the one below it, to the one on its right
    whole = np.rint(step)
    on_voxels = (
        (np.abs(whole).sum(axis=1) == 1).all()
        and np.abs((step - whole) * pixels[:, None]).max() <= SAME_PLACE
        and np.abs(start - np.rint(start)).max() <= SAME_PLACE
    )
    down, right = (int(a) for a in np.abs(whole).argmax(axis=1))
    across = 3 - down - right if down != right else 0
    if not on_voxels or _coarser(held, start[:, across], onto.spacing_mm[across]):
        return _resample(held, bits, onto, out)
    signs, lost = (whole[0, down] > 0, whole[1, right] > 0), 0
    for frame, at in zip(bits, np.rint(start).astype(int), strict=True):
        lost += _paste(frame, out, (across, int(at[across])), (int(at[down]), int(at[right])), down > right, signs)
    _refuse_lost(held.path, lost, int(np.count_nonzero(bits)))
    return []


def _refuse_far(held: Outlines, bits: NDArray[np.uint8], onto: Geometry) -> None:
    """D07, before room is made for what lies between, where a frame lies wholly beyond the image: by more than a slice of either."""
    size = np.array(bits.shape[1:]) - 1
    corners = np.stack([held.at + r * size[0] * held.axes[0] + c * size[1] * held.axes[1] for r in (0, 1) for c in (0, 1)], 1)
    index = onto.to_index(corners.reshape(-1, 3)).reshape(corners.shape)
    margin = 1 + max(held.apart or 0.0, held.thickness or 0.0) / np.array(onto.spacing_mm)
    far = np.any((index < -margin).all(axis=1) | (index > onto.shape + margin).all(axis=1), axis=1)
    _refuse_lost(held.path, int(np.count_nonzero(bits[far])), int(np.count_nonzero(bits)))


def _coarser(held: Outlines, number: NDArray[np.float64], spacing: float) -> bool:
    """Whether its frames, all of them on slices of the image, stand for thicker slices than the image's.

    They do not where two of them lie on neighbouring slices. Else SpacingBetweenSlices tells, or a SliceThickness that is the distance
    between them. number: the slice that each frame lies on.
    """
    gaps = np.diff(np.unique(np.rint(number))) * spacing
    nearest = float(gaps.min()) if len(gaps) else None
    if nearest is not None and nearest < 1.5 * spacing:
        return False
    if held.apart is not None:
        return held.apart > 1.5 * spacing
    return nearest is not None and held.thickness is not None and abs(held.thickness - nearest) <= 0.1 * nearest


def _paste(
    frame: NDArray[np.uint8],
    out: NDArray[np.uint8],
    plane: tuple[int, int],
    corner: tuple[int, int],
    turned: bool,
    signs: tuple[bool, bool],
) -> int:
    """Put a frame into the plane (axis, index) of `out`, its first pixel at `corner`; returns how many outlined pixels fall outside.

    turned: the frame's rows run along the later axis of the plane; signs: whether its rows and columns run as the plane's do.
    """
    axis, index = plane
    total = int(np.count_nonzero(frame))
    if not 0 <= index < out.shape[axis]:
        return total
    onto = out[(slice(None),) * axis + (index,)]
    onto = onto.T if turned else onto
    first = [at if along else size - 1 - at for at, along, size in zip(corner, signs, onto.shape, strict=True)]
    onto = onto[:: 1 if signs[0] else -1, :: 1 if signs[1] else -1]
    low = [max(0, -f) for f in first]
    high = [min(have, size - f) for have, size, f in zip(frame.shape, onto.shape, first, strict=True)]
    if min(h - l for h, l in zip(high, low, strict=True)) <= 0:
        return total
    inside = frame[low[0] : high[0], low[1] : high[1]]
    onto[first[0] + low[0] : first[0] + high[0], first[1] + low[1] : first[1] + high[1]] |= inside
    return total - int(np.count_nonzero(inside))


def _refuse_lost(path: str, lost: int, total: int) -> None:
    if lost:
        what = f"{lost} of {total} outlined pixels lie outside the image it is put on"
        raise_faults([Fault("D07", path, what, "Send the segmentation of this very series, or the series that was segmented")])


def _resample(held: Outlines, bits: NDArray[np.uint8], onto: Geometry, out: NDArray[np.uint8]) -> list[str]:
    """Frames on a grid of their own: each voxel takes the pixel nearest to its centre, at most half a slice away."""
    down, right = held.axes
    normal = np.cross(down, right)
    normal /= np.linalg.norm(normal)
    depth = held.at @ normal
    gaps = np.diff(np.unique(np.round(depth, 2)))
    gaps = gaps[gaps > 0.05]
    apart = held.apart or (float(gaps.min()) if len(gaps) else held.thickness or onto.spacing_mm[0])
    first = int(np.argmin(depth))
    number = np.rint((depth - depth[first]) / apart).astype(int)
    stray = np.abs(depth - depth[first] - number * apart).max() / apart
    aside = held.at - held.at[first] - np.outer(depth - depth[first], normal)
    if stray > SAME_PLACE or np.abs(aside).max() > SAME_PLACE * min(np.linalg.norm(down), np.linalg.norm(right)) + 0.05:
        what = "its frames do not lie on one regular grid, nor on the image's slices"
        raise_faults([Fault("D07", held.path, what, "Export the segmentation on the grid of its series")])
    planes, which = np.unique(number, return_inverse=True)
    own = np.zeros((len(planes), *bits.shape[1:]), np.uint8)
    for n, frame in zip(which, bits, strict=True):
        own[n] |= frame
    grid = Geometry((int(planes[-1]) + 1, *own.shape[1:]), tuple(held.at[first]), np.stack([normal * apart, down, right]))
    slot = np.full(grid.shape[0], -1)
    slot[planes] = np.arange(len(planes))
    _gather(own, slot, grid, onto, out)
    placed = np.argwhere(own)
    placed[:, 0] = planes[placed[:, 0]]
    index = np.rint(onto.to_index(grid.to_mm(placed.astype(np.float64))))
    outside = int(((index < 0) | (index >= onto.shape)).any(axis=1).sum())
    if outside > 0.01 * len(placed):
        _refuse_lost(held.path, outside, len(placed))
    spacing = " x ".join(f"{s:.2f}" for s in grid.spacing_mm)
    return [f"resampled to the nearest voxel: the segmentation has a grid of its own ({spacing} mm)"]


def _gather(own: NDArray[np.uint8], slot: NDArray[np.int64], grid: Geometry, onto: Geometry, out: NDArray[np.uint8]) -> None:
    """out[z, y, x] = own at the nearest place, 0 outside. slot: which plane of `own` each slice of its grid is, -1 for an empty one."""
    start = grid.to_index(np.array([onto.origin_mm]))[0]
    step = onto.steps_mm @ np.linalg.inv(grid.steps_mm)  # (3, 3): own-grid index from one voxel of `onto` to the next along z, y, x
    y, x = np.arange(onto.shape[1])[:, None, None] * step[1], np.arange(onto.shape[2])[None, :, None] * step[2]
    plane = start + y + x
    for z in range(onto.shape[0]):
        index = np.floor(plane + z * step[0] + 0.5).astype(np.int64)
        inside = ((index >= 0) & (index < grid.shape)).all(axis=-1)
        inside[inside] = slot[index[inside][:, 0]] >= 0
        if inside.any():
            a, b, c = index[inside].T
            out[z][inside] |= own[slot[a], b, c]
