"""Segmentations (DICOM SEG objects, NIfTI label maps) to a Mask on the grid of the image that they
were drawn on.

A SEG holds frames, each somewhere in the patient; they are put where their positions say and never
where their numbers would suggest. BINARY and FRACTIONAL objects (overlaps allowed, fewer frames
than slices) and LABELMAP objects are read. An object that was drawn on another series, or lies
outside the image, is refused: a shifted outline is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom.seg_object import Outlines, read_outlines
from client.imaging.dicom.seg_placement import place
from client.imaging.dicom.seg_reference import astray, drawn_on
from client.imaging.formats import volume_file
from client.imaging.geometry.straightening import on_nearest
from client.imaging.geometry.volumes import Geometry, Mask, Series
from common.errors import DataError, Fault, raise_faults


def check_reference(seg: Series, image: Series) -> None:
    """DataError D07 unless the SEG says that it was drawn on this image, or lies in its frame of
    reference; and lies in no other."""
    way = "Send the segmentation of this series, or the series that was segmented"
    frames = seg.frame_of_reference, image.frame_of_reference
    shared = bool(frames[0]) and frames[0] == frames[1]
    drawn = drawn_on(seg, image)
    if drawn and all(frames) and not shared:
        what = (
            f"it was drawn on series {image.uid}, but lies in frame of reference {frames[0]}, "
            f"not in the image's {frames[1]}"
        )
        raise_faults([Fault("D07", seg.files[0], what, way)])
    if drawn or (shared and seg.patient == image.patient):
        return
    what = (
        f"it was drawn on series {', '.join(seg.references) or '(none named)'} (frame of "
        f"reference {frames[0] or 'none'}), "
        f"the image is series {image.uid} (frame of reference {frames[1] or 'none'})"
    )
    raise_faults([Fault("D07", seg.files[0], what, way)])


@contextmanager
def refusing(path: str) -> Iterator[None]:
    """What a broken segmentation makes of the arithmetic is its own fault (D00): the mask is lost,
    the image is not."""
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(
            "D00",
            f"{path}: there is not enough memory to read the segmentation. Close other programs",
        ) from error
    except Exception as error:  # arithmetic on hostile numbers fails in many ways: this mask is lost, the image is not
        reason = str(error).strip().replace("\n", " ")[:160]
        what = f"the segmentation cannot be laid on the image ({type(error).__name__}: {reason})"
        raise DataError(
            "D00", f"{path}: {what}. Export the segmentation again, or leave it out"
        ) from error


def read_segmentation(
    series: Series,
    onto: Geometry,
    regions: Mapping[str, Sequence[str]],
    image: Series | None = None,
) -> Mask:
    """A DICOM SEG on the grid `onto`. `regions`: region i (bit i of the mask) -> regular
    expressions for the labels of its segments.

    Expressions match whole labels, in any case. `image`: the series of `onto`, to check that the
    SEG belongs to it. A mask none of whose regions is `marked` speaks about other things than the
    study does; `notes` names its labels. Raises DataError: D00 for a broken file, D07 when it
    belongs elsewhere or does not fit on the grid.
    """
    if len(regions) > 8:
        raise AssertionError("a mask has 8 bits")
    if image is not None:
        check_reference(series, image)
    with refusing(series.files[0]):
        outlines = read_outlines(series.files[0])
        region_bits, unmatched = matched(outlines.labels, regions)
        bits = _frame_bits(outlines, region_bits)
        notes = list(outlines.notes)
        if image is not None and (count := _astray(outlines, bits, image)):
            notes.append(
                "frames name a slice that lies elsewhere; their positions are believed: "
                f"{count} of {series.files[0]}"
            )
        if image is not None and not drawn_on(series, image):
            notes.append("drawn on another series of the same frame of reference")
        if unmatched:
            notes.append(f"segments of no region, left out: {', '.join(unmatched)}")
        out = np.zeros(onto.shape, np.uint8)
        notes += place(outlines, bits, onto, out)
        if image is not None and image.straight is not None and drawn_on(series, image):
            out = on_nearest(out, image.straight)
    marked = tuple(
        any(i in regions_of_segment for regions_of_segment in region_bits.values())
        for i in range(len(regions))
    )
    return Mask(out, marked, tuple(notes))


def _astray(outlines: Outlines, bits: NDArray[np.uint8], image: Series) -> int:
    """How many of the frames that outline anything name a slice that lies elsewhere."""
    filled = np.flatnonzero(bits.any(axis=(1, 2)))
    return astray([(outlines.sources[n], outlines.at[n]) for n in filled], image)


def matched(
    labels: Mapping[int, str], regions: Mapping[str, Sequence[str]]
) -> tuple[dict[int, tuple[int, ...]], list[str]]:
    """(segment number -> the regions it belongs to, the labels that belong to none)."""
    regions_of, unmatched = {}, []
    for number, label in labels.items():
        matching = tuple(
            i
            for i, patterns in enumerate(regions.values())
            if any(re.fullmatch(p, label.strip(), re.IGNORECASE) for p in patterns)
        )
        regions_of[number] = matching
        if not matching and number:  # segment 0 of a LABELMAP is its background
            unmatched.append(f"'{label}'")
    return regions_of, unmatched


def _frame_bits(outlines: Outlines, regions_of: Mapping[int, tuple[int, ...]]) -> NDArray[np.uint8]:
    """(frames, rows, columns): the bits of the regions that each frame outlines."""
    masks = {
        number: np.uint8(sum(1 << i for i in region_numbers))
        for number, region_numbers in regions_of.items()
    }
    if None in outlines.segments:  # a LABELMAP: its values are segment numbers
        table = np.zeros(65536, np.uint8)
        for number, mask in masks.items():
            table[number] = mask
        return np.asarray(table[outlines.values])
    out = np.zeros(outlines.values.shape, np.uint8)
    for n, segment in enumerate(outlines.segments):
        if segment is not None and masks[segment]:
            out[n] = outlines.values[n] * masks[segment]
    return out


def read_label_map(
    path: Path,
    onto: Geometry,
    regions: Mapping[str, Sequence[int]],
    others: Literal["refuse", "ignore"] = "refuse",
) -> Mask:
    """A file of labels on the grid `onto`. `regions`: region i (bit i of the mask) -> the label
    values that belong to it; `others`: what becomes of values that belong to none.

    A region with values is marked, also when no voxel has them. Raises DataError: D00 for a broken
    file, D07 when its affine or size contradicts the image's, or when it holds values that are not
    whole, or belong to no region and are not to be ignored.
    """
    with refusing(str(path)):
        labels = _labels(path, onto)
        present, counts = np.unique(labels, return_counts=True)
        declared = {int(v) for own in regions.values() for v in own} | {0}
        undeclared = {
            int(v): int(n) for v, n in zip(present, counts, strict=True) if int(v) not in declared
        }
        if undeclared and others == "refuse":
            _refuse_undeclared(path, undeclared, declared)
        notes = []
        if undeclared:
            values = ", ".join(map(str, list(undeclared)[:8]))
            more = f" and {len(undeclared) - 8} more" if len(undeclared) > 8 else ""
            notes.append(f"labels of no region are ignored, as declared: {values}{more}")
        out = np.zeros(onto.shape, np.uint8)
        for i, own in enumerate(regions.values()):
            if len(own):
                out |= np.isin(labels, list(own)).astype(np.uint8) << np.uint8(i)
        return Mask(out, tuple(bool(len(own)) for own in regions.values()), tuple(notes))


def read_region_mask(path: Path, onto: Geometry, region: int, count: int) -> Mask:
    """A file that holds one region alone on the grid `onto`: all that is not 0 is region `region` of
    `count`. Raises as `read_label_map`; D07 too where the file holds several labels."""
    with refusing(str(path)):
        labels = _labels(path, onto)
        present = [int(v) for v in np.unique(labels) if v]
        if len(present) > 1:
            listing = ", ".join(map(str, present[:8]))
            what = f"it holds {len(present)} labels ({listing}), where one is declared (mask_files)"
            way = "Say with `mask` and `values` which label is which region"
            raise_faults([Fault("D07", str(path), what, way)])
        out = (labels != 0).astype(np.uint8) << np.uint8(region)
        return Mask(out, tuple(i == region for i in range(count)))


def _labels(path: Path, onto: Geometry) -> NDArray[np.int64]:
    """The file's whole numbers, on the grid `onto`."""
    values, parsed = volume_file.voxels(path)
    turned, geometry = volume_file.turn(values, parsed)
    if geometry.shape != onto.shape:
        what = (
            f"it has {'x'.join(map(str, geometry.shape))} voxels, its image "
            f"{'x'.join(map(str, onto.shape))} (z, y, x)"
        )
        raise_faults(
            [Fault("D07", str(path), what, "Send the label map of this image, on its grid")]
        )
    distance = float(np.linalg.norm(geometry.corners_mm() - onto.corners_mm(), axis=1).max())
    if distance > 0.25 * min(onto.spacing_mm):
        what = f"its affine puts voxels up to {distance:.2f} mm from where the image's does"
        raise_faults(
            [
                Fault(
                    "D07",
                    str(path),
                    what,
                    "Send the label map of this image, or convert both from the same series",
                )
            ]
        )
    return _whole_numbers(path, turned)


def _refuse_undeclared(path: Path, undeclared: Mapping[int, int], declared: set[int]) -> None:
    listing = ", ".join(f"{v} in {n} voxels" for v, n in list(undeclared.items())[:8])
    if len(undeclared) > 8:
        listing += f" and {len(undeclared) - 8} further values"
    what = (
        f"it holds labels that belong to no region: {listing}; declared are "
        f"{', '.join(map(str, sorted(declared)))}"
    )
    way = (
        "Declare them in the source's mapping (where each file holds one organ: mask_files; where "
        'they are not needed: other_labels = "ignore"), or mend the label map'
    )
    raise_faults([Fault("D07", str(path), what, way)])


def _whole_numbers(path: Path, values: NDArray[np.generic]) -> NDArray[np.int64]:
    if values.dtype.kind in "iu":
        return np.asarray(values, np.int64)
    floats = np.asarray(values, np.float64)
    nan = int(np.count_nonzero(~np.isfinite(floats)))
    rounded = np.rint(np.where(np.isfinite(floats), floats, 0.0))
    between = int(np.count_nonzero(np.abs(floats - rounded) > 0.01)) if not nan else 0
    if nan or between:
        what = (
            f"{nan} voxels are NaN"
            if nan
            else f"{between} voxels hold values between the labels, as interpolation leaves them"
        )
        raise_faults(
            [
                Fault(
                    "D07",
                    str(path),
                    what,
                    "Resample label maps with the nearest neighbour, or send the original",
                )
            ]
        )
    return rounded.astype(np.int64)
