"""Pixel layout of a DICOM file: how its pixels are stored, whether all are there, and how they
become units, by its header, once.

What is found here travels in the Header, so that reading a volume need not parse a file again.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np

from client.imaging.dicom import tags
from client.imaging.dicom.bounded_inflate import DEFLATED, LARGEST_DATA_SET, LARGEST_RATIO
from client.imaging.dicom.elements import Elements
from common.data.modality import modality
from common.errors import DataError

IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = frozenset({"", IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED})
COPY_AGAIN = "Export this series from the archive again"
RESCALING = (("RescaleSlope", tags.SLOPE), ("RescaleIntercept", tags.INTERCEPT))


def unreadable(path: str, what: str, error: Exception) -> DataError:
    """D00 for an object, `what`, that a parser gave up."""
    reason = str(error).strip().replace("\n", " ")[:160]
    text = f"{path}: {what} cannot be read ({type(error).__name__}: {reason}). {COPY_AGAIN}"
    return DataError("D00", text)


def stored(e: Elements, big_endian: bool) -> tuple[dict[str, Any], list[str]]:
    """(the fields of a Header that say how pixels are stored, what forbids to read them)."""
    allocated = e.short(tags.ALLOCATED, 16)
    bits = e.short(tags.STORED, allocated) or allocated
    faults: list[str] = []
    if allocated not in (8, 16, 32) or bits > allocated or (big_endian and allocated == 8):
        what = f"{allocated} bits allocated, {bits} stored{', big endian' if big_endian else ''}"
        faults.append(
            f"its pixels are stored in a way that is not read here ({what}). {COPY_AGAIN}"
        )
    padding = e.packed(tags.PADDING, "H")
    shared, frame_groups = e.first(tags.SHARED), e.items(tags.PER_FRAME)
    scales, attributes = [], []
    for frame in frame_groups or [e]:
        group = (
            frame.first(tags.TRANSFORMATION) or (shared and shared.first(tags.TRANSFORMATION)) or e
        )
        scales.append(_scale(e, group, bits, faults))
        attributes.append(
            " and ".join(name for name, tag in RESCALING if group.holds(tag))
            or ("a modality LUT" if e.first(tags.LUT) else "")
        )
    return {
        "allocated": allocated,
        "stored": bits,
        "high": e.short(tags.HIGH, bits - 1),
        "signed": e.short(tags.SIGNED) == 1,
        "padding": int(padding[0]) if padding and allocated == 16 else None,
        "big_endian": big_endian,
        "scales": tuple(scales if len(set(scales)) > 1 else scales[:1]),
        "rescaled": tuple(attributes if len(set(attributes)) > 1 else attributes[:1]),
    }, list(dict.fromkeys(faults))


def _scale(e: Elements, group: Elements, bits: int, faults: list[str]) -> tuple[float, float]:
    """(slope, intercept); 1 and 0 where the file gives none, as the standard has it for MR."""
    if table := e.first(tags.LUT):
        linear = _linear(table)
        if linear is None:
            faults.append(
                "its values go through a modality LUT that is no straight line. Export the series "
                "with a linear rescaling, or leave it out"
            )
        return linear or (1.0, 0.0)
    slope, intercept, unit = (
        group.decimal(tags.SLOPE),
        group.decimal(tags.INTERCEPT),
        group.text(tags.RESCALE_TYPE).upper(),
    )
    if (group.holds(tags.SLOPE) and not slope) or (
        group.holds(tags.INTERCEPT) and intercept is None
    ):
        texts = f"'{group.text(tags.SLOPE)}', '{group.text(tags.INTERCEPT)}'"
        faults.append(
            f"RescaleSlope or RescaleIntercept is zero or no number ({texts}). {COPY_AGAIN}"
        )
    hounsfield = modality(e.text(tags.MODALITY).upper()).hounsfield
    if not _believable(slope or 1.0, intercept or 0.0, bits, hounsfield):
        kind = e.text(tags.MODALITY).upper() if hounsfield else "image"
        what = (
            f"RescaleSlope {slope or 1.0:g} and RescaleIntercept {intercept or 0.0:g} make "
            f"values that no {kind} has"
        )
        faults.append(f"{what}. {COPY_AGAIN}")
    if hounsfield and unit not in ("", "HU", "US", "UNSPECIFIED", "NORMALIZED", "HU_MOD"):
        faults.append(
            f"its values are of the type '{unit}', not Hounsfield units. Send the reconstruction "
            "in Hounsfield units"
        )
    return slope or 1.0, intercept or 0.0


def _believable(slope: float, intercept: float, bits: int, ct: bool) -> bool:
    """CT: steps of at most 100 HU, 10 HU at least from the lowest to the highest value that can be
    stored. Others: what float32 holds."""
    if ct:
        return abs(slope) <= 100 and abs(slope) * 2.0**bits >= 10 and abs(intercept) <= 1e5
    return 1e-12 <= abs(slope) <= 1e12 and abs(intercept) <= 1e12


def _linear(table: Elements) -> tuple[float, float] | None:
    """A lookup table that is a straight line, as (slope, intercept)."""
    descriptor = table.packed(0x00283002, "H")
    data = np.array(table.packed(0x00283006, "H"), np.int64)
    steps = np.diff(data)
    if len(descriptor) < 2 or len(data) < 2 or not steps[0] or (steps != steps[0]).any():
        return None
    slope, first = float(steps[0]), descriptor[1] - (65536 if descriptor[1] > 32767 else 0)
    return slope, float(data[0]) - slope * first


def pixel_bytes(e: Elements) -> int:
    """How many bytes uncompressed pixel data must have."""
    bits = (
        e.short(tags.ROWS)
        * e.short(tags.COLUMNS)
        * e.short(tags.SAMPLES, 1)
        * e.frames()
        * e.short(tags.ALLOCATED, 16)
    )
    return (bits + 7) // 8


def impossible(e: Elements, size: int, syntax: str) -> str:
    """Why a file of `size` bytes cannot hold as many frames as it claims, or ''. To be asked before
    anything is made for each of them."""
    count = e.frames()
    if count == 1 and syntax != DEFLATED:
        return ""  # a file that is cut short is told from one that claims too much
    # of compressed pixel data each frame is at least an item's tag and length
    needed = max(count, pixel_bytes(e)) if syntax in NATIVE else 8 * count
    if syntax == DEFLATED and needed > LARGEST_DATA_SET:
        return (
            f"its {count} frames take {needed} bytes; of deflated pixel data "
            f"{LARGEST_DATA_SET} are the most that is read here"
        )
    if needed > (LARGEST_RATIO * size if syntax == DEFLATED else size) and count > 1:
        return (
            f"NumberOfFrames is {count}, which takes at least {needed} bytes; the file has {size}"
        )
    return ""


def extent(f: BinaryIO, size: int, e: Elements, syntax: str, implicit: bool) -> tuple[int, str]:
    """(offset of the pixel data's value, what is wrong with its length or ''); `f` stands before
    its tag, the file has `size` bytes."""
    start = _start(f, syntax, implicit)
    if start is None:
        return 0, "it ends before its pixel data"
    offset, length = start
    if length == 0xFFFFFFFF and syntax in NATIVE:
        return (
            offset,
            "its pixel data has no length, as only compressed pixel data may, but its transfer "
            "syntax says it is not compressed",
        )
    if length == 0xFFFFFFFF:
        return offset, "" if _whole(
            f, size
        ) else "it is cut short in the middle of its compressed pixel data"
    needed = pixel_bytes(e) if syntax in NATIVE else length
    if size - offset < needed:
        return (
            offset,
            f"it is cut short: {max(0, size - offset)} of {needed} bytes of pixel data are there",
        )
    return (
        offset,
        f"its pixel data has {length} bytes where rows, columns and frames need {needed}"
        if length < needed
        else "",
    )


def _start(f: BinaryIO, syntax: str, implicit: bool) -> tuple[int, int] | None:
    """(offset of the pixel data's value, its length as the file says), or None."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    tag = f.read(8)
    if len(tag) < 8 or struct.unpack(f"{order}HH", tag[:4]) != (0x7FE0, 0x0010):
        return None
    if implicit:
        return f.tell(), struct.unpack(f"{order}I", tag[4:])[0]
    length = f.read(4)
    return (f.tell(), struct.unpack(f"{order}I", length)[0]) if len(length) == 4 else None


def _whole(f: BinaryIO, size: int) -> bool:
    """Whether the fragments of encapsulated pixel data reach their delimiter."""
    while True:
        start = f.read(8)
        if len(start) < 8:
            return False
        group, element, length = struct.unpack("<HHI", start)
        if (group, element) == (0xFFFE, 0xE0DD):
            return True
        following = f.tell() + length
        if (group, element) != (0xFFFE, 0xE000) or following > size:
            return False
        f.seek(following)
