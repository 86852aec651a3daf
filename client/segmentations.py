"""What experts outlined, on the grid of the image it was outlined on: DICOM SEG objects and NIfTI label maps to a Mask.

A SEG holds frames, each somewhere in the patient; they are put where their positions say and never where their numbers would suggest.
BINARY and FRACTIONAL objects (overlaps allowed, fewer frames than slices) and LABELMAP objects are read. An object that was drawn on
another series, or lies outside the image, is refused: a shifted outline is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client import nifti
from client.outlines import Outlines, outlines
from client.volumes import Geometry, Mask, Series
from common.errors import Fault, raise_faults

SAME_PLACE = 0.1
"""How far a frame may lie from a slice, in slice spacings, and a pixel from a voxel, to be that slice's (that voxel's)."""


def check_reference(seg: Series, image: Series) -> None:
    """DataError D07 unless the SEG says that it was drawn on this image, or lies in its frame of reference."""
    if _drawn_on(seg, image):
        return
    shared = bool(seg.frame_of_reference) and seg.frame_of_reference == image.frame_of_reference
    if shared and seg.patient == image.patient:
        return
    what = (
        f"it was drawn on series {', '.join(seg.references) or '(none named)'} (frame of reference {seg.frame_of_reference or 'none'}), "
        f"the image is series {image.uid} (frame of reference {image.frame_of_reference or 'none'})"
    )
    raise_faults([Fault("D07", seg.files[0], what, "Send the segmentation of this series, or the series that was segmented")])


def _drawn_on(seg: Series, image: Series) -> bool:
    return image.uid.partition("#")[0] in seg.references


def read_segmentation(series: Series, onto: Geometry, regions: Mapping[str, Sequence[str]], image: Series | None = None) -> Mask:
    """A DICOM SEG on the grid `onto`. `regions`: region i (bit i of the mask) -> regular expressions for the labels of its segments.

    Expressions match whole labels, in any case. `image`: the series of `onto`, to check that the SEG belongs to it. A mask none of whose
    regions is `marked` speaks about other things than the study does; `notes` names its labels. Raises DataError: D00 for a broken file,
    D07 when it belongs elsewhere or does not fit on the grid.
    """
    if len(regions) > 8:
        raise AssertionError("a mask has 8 bits")
    if image is not None:
        check_reference(series, image)
    held = outlines(series.files[0])
    wanted, left = _matched(held.labels, regions)
    bits = _frame_bits(held, wanted)
    notes = list(held.notes)
    if image is not None and not _drawn_on(series, image):
        notes.append("drawn on another series of the same frame of reference")
    if left:
        notes.append(f"segments of no region, left out: {', '.join(left)}")
    out = np.zeros(onto.shape, np.uint8)
    filled = [n for n in range(len(bits)) if bits[n].any()]
    if filled:
        own = image is not None and _drawn_on(series, image)
        notes += _place(held, bits, filled, onto, out, own)
    marked = tuple(any(i in those for those in wanted.values()) for i in range(len(regions)))
    return Mask(out, marked, tuple(notes))


def _matched(labels: Mapping[int, str], regions: Mapping[str, Sequence[str]]) -> tuple[dict[int, tuple[int, ...]], list[str]]:
    """(segment number -> the regions it belongs to, the labels that belong to none)."""
    out, left = {}, []
    for number, label in labels.items():
        hits = tuple(
            i for i, patterns in enumerate(regions.values()) if any(re.fullmatch(p, label.strip(), re.IGNORECASE) for p in patterns)
        )
        out[number] = hits
        if not hits and number:  # segment 0 of a LABELMAP is its background
            left.append(f"'{label}'")
    return out, left


def _frame_bits(held: Outlines, wanted: Mapping[int, tuple[int, ...]]) -> NDArray[np.uint8]:
    """(frames, rows, columns): the bits of the regions that each frame outlines."""
    masks = {number: np.uint8(sum(1 << i for i in those)) for number, those in wanted.items()}
    if None in held.segments:  # a LABELMAP: its values are segment numbers
        table = np.zeros(65536, np.uint8)
        for number, mask in masks.items():
            table[number] = mask
        return np.asarray(table[held.values])
    out = np.zeros(held.values.shape, np.uint8)
    for n, segment in enumerate(held.segments):
        if segment is not None and masks[segment]:
            out[n] = held.values[n] * masks[segment]
    return out


def _place(held: Outlines, bits: NDArray[np.uint8], filled: Sequence[int], onto: Geometry, out: NDArray[np.uint8], own: bool) -> list[str]:
    """Put the frames that outline anything onto the grid; returns notes. DataError D07 for frames that lie outside of it."""
    pixels = np.array(bits.shape[1:]) - 1
    start = onto.to_index(held.at)  # (frames, 3)
    step = held.axes @ np.linalg.inv(onto.steps_mm)  # (2, 3): grid indices from a pixel to the one below it, to the one on its right
    whole = np.rint(step)
    on_voxels = (
        (np.abs(whole).sum(axis=1) == 1).all()
        and np.abs((step - whole) * pixels[:, None]).max() <= SAME_PLACE
        and np.abs(start[filled] - np.rint(start[filled])).max() <= SAME_PLACE
    )
    down, right = (int(a) for a in np.abs(whole).argmax(axis=1))
    across = 3 - down - right if down != right else 0
    coarser = not own and held.apart is not None and held.apart > 1.5 * onto.spacing_mm[across]
    if not on_voxels or coarser:
        return _resample(held, bits, filled, onto, out)
    signs, lost = (whole[0, down] > 0, whole[1, right] > 0), 0
    for n in filled:
        at = np.rint(start[n]).astype(int)
        lost += _paste(bits[n], out, (across, int(at[across])), (int(at[down]), int(at[right])), down > right, signs)
    _refuse_lost(held.path, lost, int(np.count_nonzero(bits)))
    return []


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


def _resample(held: Outlines, bits: NDArray[np.uint8], filled: Sequence[int], onto: Geometry, out: NDArray[np.uint8]) -> list[str]:
    """Frames on a grid of their own: each voxel takes the pixel nearest to its centre, at most half a slice away."""
    down, right = held.axes
    normal = np.cross(down, right)
    normal /= np.linalg.norm(normal)
    depth = held.at @ normal
    order = np.unique(np.round(depth, 2))
    gaps = np.diff(order)
    gaps = gaps[gaps > 0.05]
    apart = held.apart or (float(gaps.min()) if len(gaps) else held.thickness or onto.spacing_mm[0])
    first = int(np.argmin(depth))
    number = np.rint((depth - depth[first]) / apart).astype(int)
    stray = np.abs(depth - depth[first] - number * apart).max() / apart
    aside = held.at - held.at[first] - np.outer(depth - depth[first], normal)
    if stray > SAME_PLACE or np.abs(aside).max() > SAME_PLACE * min(np.linalg.norm(down), np.linalg.norm(right)) + 0.05:
        what = "its frames do not lie on one regular grid, nor on the image's slices"
        raise_faults([Fault("D07", held.path, what, "Export the segmentation on the grid of its series")])
    own = np.zeros((int(number.max()) + 1, *bits.shape[1:]), np.uint8)
    for n in filled:
        own[number[n]] |= bits[n]
    steps = np.stack([normal * apart, down, right])
    grid = Geometry((own.shape[0], own.shape[1], own.shape[2]), tuple(held.at[first]), steps)
    _gather(own, grid, onto, out)
    placed = np.argwhere(own)
    index = np.rint(onto.to_index(grid.to_mm(placed.astype(np.float64))))
    outside = int(((index < 0) | (index >= onto.shape)).any(axis=1).sum())
    if outside > 0.01 * len(placed):
        _refuse_lost(held.path, outside, len(placed))
    spacing = " x ".join(f"{s:.2f}" for s in grid.spacing_mm)
    return [f"resampled to the nearest voxel: the segmentation has a grid of its own ({spacing} mm)"]


def _gather(own: NDArray[np.uint8], grid: Geometry, onto: Geometry, out: NDArray[np.uint8]) -> None:
    """out[z, y, x] = own at the nearest place, 0 outside."""
    start = grid.to_index(np.array([onto.origin_mm]))[0]
    step = onto.steps_mm @ np.linalg.inv(grid.steps_mm)  # (3, 3): own-grid index from one voxel of `onto` to the next along z, y, x
    y, x = np.arange(onto.shape[1])[:, None, None] * step[1], np.arange(onto.shape[2])[None, :, None] * step[2]
    plane = start + y + x
    for z in range(onto.shape[0]):
        index = np.floor(plane + z * step[0] + 0.5).astype(np.int64)
        inside = ((index >= 0) & (index < own.shape)).all(axis=-1)
        if inside.any():
            a, b, c = index[inside].T
            out[z][inside] |= own[a, b, c]


def read_label_map(path: Path, onto: Geometry, regions: Mapping[str, Sequence[int]]) -> Mask:
    """A NIfTI file of labels on the grid `onto`. `regions`: region i (bit i of the mask) -> the label values that belong to it.

    A region with values is marked, also when no voxel has them. Raises DataError: D00 for a broken file, D07 when its affine or size
    contradicts the image's, or when it holds values that are not whole or belong to no region.
    """
    values, told = nifti.voxels(path)
    turned, geometry = nifti.turn(values, told)
    if geometry.shape != onto.shape:
        what = f"it has {'x'.join(map(str, geometry.shape))} voxels, its image {'x'.join(map(str, onto.shape))} (z, y, x)"
        raise_faults([Fault("D07", str(path), what, "Send the label map of this image, on its grid")])
    apart = float(np.linalg.norm(geometry.corners_mm() - onto.corners_mm(), axis=1).max())
    if apart > 0.25 * min(onto.spacing_mm):
        what = f"its affine puts voxels up to {apart:.2f} mm from where the image's does"
        raise_faults([Fault("D07", str(path), what, "Send the label map of this image, or convert both from the same series")])
    labels = _whole_numbers(path, turned)
    found, counts = np.unique(labels, return_counts=True)
    declared = {int(v) for those in regions.values() for v in those} | {0}
    odd = [(int(v), int(n)) for v, n in zip(found, counts, strict=True) if int(v) not in declared]
    if odd:
        told_odd = ", ".join(f"{v} in {n} voxels" for v, n in odd[:8]) + (f" and {len(odd) - 8} further values" if len(odd) > 8 else "")
        what = f"it holds labels that belong to no region: {told_odd}; declared are {', '.join(map(str, sorted(declared)))}"
        raise_faults([Fault("D07", str(path), what, "Declare them in the source's mapping, or mend the label map")])
    out = np.zeros(geometry.shape, np.uint8)
    for i, those in enumerate(regions.values()):
        if len(those):
            out |= np.isin(labels, list(those)).astype(np.uint8) << np.uint8(i)
    return Mask(out, tuple(bool(len(those)) for those in regions.values()))


def _whole_numbers(path: Path, values: NDArray[np.generic]) -> NDArray[np.int64]:
    if values.dtype.kind in "iu":
        return np.asarray(values, np.int64)
    floats = np.asarray(values, np.float64)
    nan = int(np.count_nonzero(~np.isfinite(floats)))
    near = np.rint(np.where(np.isfinite(floats), floats, 0.0))
    off = int(np.count_nonzero(np.abs(floats - near) > 0.01)) if not nan else 0
    if nan or off:
        what = f"{nan} voxels are NaN" if nan else f"{off} voxels hold values between the labels, as interpolation leaves them"
        raise_faults([Fault("D07", str(path), what, "Resample label maps with the nearest neighbour, or send the original")])
    return near.astype(np.int64)
