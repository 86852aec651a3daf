"""DICOM SEG object as it lies in its file: what it outlines, frame by frame, and where each frame
lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom import bounded_inflate, tags
from client.imaging.dicom.elements import Elements, quiet
from client.imaging.dicom.pixel_layout import NATIVE, unreadable
from common.errors import DataError

SEGMENTATION_TYPE, MAXIMUM_FRACTIONAL_VALUE = 0x00620001, 0x0062000E
SEGMENT_SEQUENCE, SEGMENT_NUMBER, SEGMENT_LABEL = 0x00620002, 0x00620004, 0x00620005
EXPORT_AGAIN = "Export the segmentation again, or leave it out"
IDENTIFICATION, REFERENCED_NUMBER = 0x0062000A, 0x0062000B


@dataclass(frozen=True)
class Outlines:
    """One SEG file: `values` (frames, rows, columns), the place of each frame, and the segment it
    outlines (LABELMAP: None)."""

    path: str
    labels: Mapping[int, str]
    values: NDArray[np.uint8] | NDArray[np.uint16]
    segments: tuple[int | None, ...]
    at: NDArray[np.float64]
    """(frames, 3): LPS mm of the first pixel's centre."""
    axes: NDArray[np.float64]
    """(2, 3): LPS mm from a pixel to the one below it, and to the one on its right."""
    apart: float | None
    """SpacingBetweenSlices, mm."""
    thickness: float | None
    notes: tuple[str, ...]
    sources: tuple[str, ...]
    """SOPInstanceUID of the slice that each frame was drawn on; '' where it names none, or
    several."""


def read_outlines(path: str) -> Outlines:
    """DataError: D00 for a file that cannot be read, D06 for fractions of nothing, D07 for an
    object that contradicts itself."""
    try:
        with quiet:
            dataset = bounded_inflate.whole(path)
            e = Elements(dataset)
            kind = e.text(SEGMENTATION_TYPE).upper()
            labels = {
                item.short(SEGMENT_NUMBER): item.text(SEGMENT_LABEL)
                for item in e.items(SEGMENT_SEQUENCE)
            }
            values = _values(path, dataset, e, kind)
            return _described(path, e, kind, labels, values)
    except DataError:
        raise
    except Exception as error:  # a broken object is lost, the site is not
        raise unreadable(path, "the segmentation", error) from error


def _values(
    path: str, dataset: Any, e: Elements, kind: str
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """(frames, rows, columns): 0 and 1, or segment numbers for a LABELMAP."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = str(dataset.file_meta.TransferSyntaxUID)
    count, rows, columns = e.frames(), e.short(tags.ROWS), e.short(tags.COLUMNS)
    if e.short(tags.ALLOCATED, 1) == 1 and syntax in NATIVE:
        data = np.frombuffer(dataset.PixelData, np.uint8)
        if 8 * len(data) < count * rows * columns:
            raise ValueError(
                f"it is cut short: {len(data)} of {-(-count * rows * columns // 8)} bytes of "
                "pixel data are there"
            )
        values = np.unpackbits(data, bitorder="little", count=count * rows * columns).reshape(
            count, rows, columns
        )
    else:
        values = get_decoder(syntax).as_array(dataset, raw=True)[0].reshape(count, rows, columns)
    if kind == "FRACTIONAL":
        if not (maximum := e.short(MAXIMUM_FRACTIONAL_VALUE)):
            raise DataError(
                "D06",
                f"{path}: MaximumFractionalValue is 0 or missing, so what one half is is unknown. "
                f"{EXPORT_AGAIN}",
            )
        return (2 * values.astype(np.uint32) >= maximum).astype(np.uint8)
    return values if kind == "LABELMAP" else (values != 0).astype(np.uint8)


def _described(
    path: str,
    e: Elements,
    kind: str,
    labels: dict[int, str],
    values: NDArray[np.uint8] | NDArray[np.uint16],
) -> Outlines:
    shared, frames = e.first(tags.SHARED), e.items(tags.PER_FRAME)
    faults, notes, positions, axes, gaps, thickness = [], [], [], [], [], []
    segments: list[int | None] = []
    sources: list[str] = []
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        faults.append(
            f"its SegmentationType is '{kind}' (BINARY, FRACTIONAL and LABELMAP are read)"
        )
    if len(frames) != len(values):
        faults.append(f"it has {len(values)} frames and describes {len(frames)}")
    for n, frame in enumerate(frames):
        groups = {
            tag: frame.first(tag) or (shared and shared.first(tag))
            for tag in (tags.PLANE_POSITION, tags.PLANE_ORIENTATION, tags.MEASURES, IDENTIFICATION)
        }
        position_group, orientation_group, measures, segment_group = groups.values()
        position, cosines = (
            position_group and position_group.point(),
            orientation_group and orientation_group.cosines(),
        )
        spacing = measures and measures.spacing()
        if not (position and cosines and spacing and measures):
            faults.append(
                f"frame {n + 1} does not say where it lies (position, orientation or spacing is "
                "missing)"
            )
            break
        positions.append(position)
        images = [i for d in frame.items(tags.DERIVATION) for i in d.items(tags.SOURCE_IMAGES)]
        sources.append(images[0].text(tags.REFERENCED_SOP) if len(images) == 1 else "")
        axes.append(np.outer(spacing, 1) * np.array([cosines[3:], cosines[:3]]))
        gaps.append(measures.decimal(tags.BETWEEN))
        thickness.append(measures.decimal(tags.THICKNESS))
        if kind == "LABELMAP":
            segments.append(None)
        else:
            segments.append(segment_group.short(REFERENCED_NUMBER) if segment_group else 0)
    unknown = sorted({s for s in segments if s is not None} - labels.keys())
    if kind == "LABELMAP":
        unknown = sorted(
            {int(v) for v in np.unique(values)} - labels.keys() - {0, *e.packed(tags.PADDING, "H")}
        )
    if unknown:
        faults.append(
            f"it outlines segments {', '.join(map(str, unknown))} that it does not describe"
        )
    if axes and max(np.abs(a - axes[0]).max() for a in axes) > 2e-3:
        faults.append("its frames have different orientations or pixel spacings")
    between = next((abs(v) for v in gaps if v), None)
    if between is not None and not 0.01 <= between <= 1000:
        faults.append(f"its SpacingBetweenSlices is {between:g} mm")
    if faults:
        raise DataError("D07", *(f"{path}: {fault}. {EXPORT_AGAIN}" for fault in faults))
    if kind == "FRACTIONAL":
        notes.append("fractional segments: a pixel of at least one half counts as outlined")
    return Outlines(
        path,
        labels,
        values,
        tuple(segments),
        np.array(positions).reshape(-1, 3),
        axes[0],
        between,
        next((v for v in thickness if v), None),
        tuple(notes),
        tuple(sources),
    )
