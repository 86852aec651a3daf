"""Segmentation frames onto the grid of an image: each where its position says, or refused.

Frames that lie on the image's slices are copied, pixel by pixel. Those of another grid, or of
thicker slices, are resampled to the nearest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom.seg_object import Outlines
from client.imaging.geometry.volumes import Geometry
from common.errors import Fault, raise_faults

SAME_PLACE = 0.1
"""How far a frame may lie from a slice, in slice spacings, and a pixel from a voxel, to be that
slice's (that voxel's)."""


def place(
    outlines: Outlines, bits: NDArray[np.uint8], onto: Geometry, out: NDArray[np.uint8]
) -> list[str]:
    """Put the frames that outline anything onto the grid; returns notes. DataError D07 for frames
    that lie outside of it.

    bits: (frames, rows, columns), the regions that each frame outlines; out: of the grid's shape,
    changed.
    """
    filled = np.flatnonzero(bits.any(axis=(1, 2)))
    if not len(filled):
        return []
    outlines, bits = replace(outlines, at=outlines.at[filled]), bits[filled]
    _refuse_far(outlines, bits, onto)
    pixels = np.array(bits.shape[1:]) - 1
    start = onto.to_index(outlines.at)  # (frames, 3)
    step = outlines.axes @ np.linalg.inv(
        onto.steps_mm
    )  # (2, 3): grid indices from a pixel to the one below it, to the one on its right
    whole = np.rint(step)
    on_voxels = (
        (np.abs(whole).sum(axis=1) == 1).all()
        and np.abs((step - whole) * pixels[:, None]).max() <= SAME_PLACE
        and np.abs(start - np.rint(start)).max() <= SAME_PLACE
    )
    down, right = (int(a) for a in np.abs(whole).argmax(axis=1))
    across = 3 - down - right if down != right else 0
    if not on_voxels or _coarser(outlines, start[:, across], onto.spacing_mm[across]):
        return _resample(outlines, bits, onto, out)
    signs, lost = (whole[0, down] > 0, whole[1, right] > 0), 0
    for frame, corner in zip(bits, np.rint(start).astype(int), strict=True):
        lost += _paste(
            frame,
            out,
            (across, int(corner[across])),
            (int(corner[down]), int(corner[right])),
            down > right,
            signs,
        )
    _refuse_lost(outlines.path, lost, int(np.count_nonzero(bits)))
    return []


def _refuse_far(outlines: Outlines, bits: NDArray[np.uint8], onto: Geometry) -> None:
    """D07, before room is made for what lies between, where a frame lies wholly beyond the image:
    by more than a slice of either."""
    size = np.array(bits.shape[1:]) - 1
    corners = np.stack(
        [
            outlines.at + r * size[0] * outlines.axes[0] + c * size[1] * outlines.axes[1]
            for r in (0, 1)
            for c in (0, 1)
        ],
        1,
    )
    index = onto.to_index(corners.reshape(-1, 3)).reshape(corners.shape)
    margin = 1 + max(outlines.apart or 0.0, outlines.thickness or 0.0) / np.array(onto.spacing_mm)
    far = np.any((index < -margin).all(axis=1) | (index > onto.shape + margin).all(axis=1), axis=1)
    _refuse_lost(outlines.path, int(np.count_nonzero(bits[far])), int(np.count_nonzero(bits)))


def _coarser(outlines: Outlines, slice_numbers: NDArray[np.float64], spacing: float) -> bool:
    """Whether its frames, all of them on slices of the image, stand for thicker slices than the
    image's.

    They do not where two of them lie on neighbouring slices. Else SpacingBetweenSlices tells, or a
    SliceThickness that is the distance between them. slice_numbers: the slice that each frame lies
    on.
    """
    gaps = np.diff(np.unique(np.rint(slice_numbers))) * spacing
    nearest = float(gaps.min()) if len(gaps) else None
    if nearest is not None and nearest < 1.5 * spacing:
        return False
    if outlines.apart is not None:
        return outlines.apart > 1.5 * spacing
    return (
        nearest is not None
        and outlines.thickness is not None
        and abs(outlines.thickness - nearest) <= 0.1 * nearest
    )


def _paste(
    frame: NDArray[np.uint8],
    out: NDArray[np.uint8],
    plane: tuple[int, int],
    corner: tuple[int, int],
    turned: bool,
    signs: tuple[bool, bool],
) -> int:
    """Put a frame into the plane (axis, index) of `out`, its first pixel at `corner`; returns how
    many outlined pixels fall outside.

    turned: the frame's rows run along the later axis of the plane; signs: whether its rows and
    columns run as the plane's do.
    """
    axis, index = plane
    total = int(np.count_nonzero(frame))
    if not 0 <= index < out.shape[axis]:
        return total
    onto = out[(slice(None),) * axis + (index,)]
    onto = onto.T if turned else onto
    offset = [
        at if along else size - 1 - at
        for at, along, size in zip(corner, signs, onto.shape, strict=True)
    ]
    onto = onto[:: 1 if signs[0] else -1, :: 1 if signs[1] else -1]
    first_inside = [max(0, -f) for f in offset]
    end_inside = [
        min(have, size - f) for have, size, f in zip(frame.shape, onto.shape, offset, strict=True)
    ]
    if min(h - l for h, l in zip(end_inside, first_inside, strict=True)) <= 0:
        return total
    inside = frame[first_inside[0] : end_inside[0], first_inside[1] : end_inside[1]]
    onto[
        offset[0] + first_inside[0] : offset[0] + end_inside[0],
        offset[1] + first_inside[1] : offset[1] + end_inside[1],
    ] |= inside
    return total - int(np.count_nonzero(inside))


def _refuse_lost(path: str, lost: int, total: int) -> None:
    if lost:
        what = f"{lost} of {total} outlined pixels lie outside the image it is put on"
        raise_faults(
            [
                Fault(
                    "D07",
                    path,
                    what,
                    "Send the segmentation of this very series, or the series that was segmented",
                )
            ]
        )


def _resample(
    outlines: Outlines, bits: NDArray[np.uint8], onto: Geometry, out: NDArray[np.uint8]
) -> list[str]:
    """Frames on a grid of their own: each voxel takes the pixel nearest to its centre, at most half
    a slice away."""
    down, right = outlines.axes
    normal = np.cross(down, right)
    normal /= np.linalg.norm(normal)
    depth = outlines.at @ normal
    gaps = np.diff(np.unique(np.round(depth, 2)))
    gaps = gaps[gaps > 0.05]
    apart = outlines.apart or (
        float(gaps.min()) if len(gaps) else outlines.thickness or onto.spacing_mm[0]
    )
    first = int(np.argmin(depth))
    frame_planes = np.rint((depth - depth[first]) / apart).astype(int)
    deviation = np.abs(depth - depth[first] - frame_planes * apart).max() / apart
    sideways = outlines.at - outlines.at[first] - np.outer(depth - depth[first], normal)
    if (
        deviation > SAME_PLACE
        or np.abs(sideways).max()
        > SAME_PLACE * min(np.linalg.norm(down), np.linalg.norm(right)) + 0.05
    ):
        what = "its frames do not lie on one regular grid, nor on the image's slices"
        raise_faults(
            [Fault("D07", outlines.path, what, "Export the segmentation on the grid of its series")]
        )
    planes, plane_of_frame = np.unique(frame_planes, return_inverse=True)
    planes_bits = np.zeros((len(planes), *bits.shape[1:]), np.uint8)
    for n, frame in zip(plane_of_frame, bits, strict=True):
        planes_bits[n] |= frame
    grid = Geometry(
        (int(planes[-1]) + 1, *planes_bits.shape[1:]),
        tuple(outlines.at[first]),
        np.stack([normal * apart, down, right]),
    )
    plane_slot = np.full(grid.shape[0], -1)
    plane_slot[planes] = np.arange(len(planes))
    _gather(planes_bits, plane_slot, grid, onto, out)
    outlined_voxels = np.argwhere(planes_bits)
    outlined_voxels[:, 0] = planes[outlined_voxels[:, 0]]
    index = np.rint(onto.to_index(grid.to_mm(outlined_voxels.astype(np.float64))))
    outside = int(((index < 0) | (index >= onto.shape)).any(axis=1).sum())
    if outside > 0.01 * len(outlined_voxels):
        _refuse_lost(outlines.path, outside, len(outlined_voxels))
    spacing = " x ".join(f"{s:.2f}" for s in grid.spacing_mm)
    return [
        f"resampled to the nearest voxel: the segmentation has a grid of its own ({spacing} mm)"
    ]


def _gather(
    planes: NDArray[np.uint8],
    plane_slot: NDArray[np.int64],
    grid: Geometry,
    onto: Geometry,
    out: NDArray[np.uint8],
) -> None:
    """out[z, y, x] = planes at the nearest place, 0 outside. plane_slot: the plane of each slice,
    -1 for an empty one."""
    start = grid.to_index(np.array([onto.origin_mm]))[0]
    step = onto.steps_mm @ np.linalg.inv(
        grid.steps_mm
    )  # (3, 3): own-grid index from one voxel of `onto` to the next along z, y, x
    y, x = (
        np.arange(onto.shape[1])[:, None, None] * step[1],
        np.arange(onto.shape[2])[None, :, None] * step[2],
    )
    plane = start + y + x
    for z in range(onto.shape[0]):
        index = np.floor(plane + z * step[0] + 0.5).astype(np.int64)
        inside = ((index >= 0) & (index < grid.shape)).all(axis=-1)
        inside[inside] = plane_slot[index[inside][:, 0]] >= 0
        if inside.any():
            a, b, c = index[inside].T
            out[z][inside] |= planes[plane_slot[a], b, c]
