"""RT Structure Set as it lies in its file: the regions of interest, and the contours of each.

PS3.3, C.8.8.5 and C.8.8.6. Closed contours are outlines; points and open lines enclose nothing and
are counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom import bounded_gzip, bounded_inflate, tags
from client.imaging.dicom.elements import Elements, quiet
from client.imaging.dicom.pixel_layout import COPY_AGAIN, unreadable
from common.errors import DataError

CLOSED = frozenset(("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"))
LARGEST = 1 << 27
"""Bytes of a structure set: a whole body's structures on a thin CT take some 50 MB."""
LARGEST_CONTOUR = 1 << 22
"""Characters of one contour's coordinates, a hundred thousand points: thousands are usual."""
MOST_ITEMS = 1 << 17
"""Items of its sequences, two of each contour. A whole body's structures have some 30 000; each costs
5 KB of memory, however small it is in the file."""
_ITEM = re.compile(rb"\xfe\xff\x00\xe0|\xff\xfe\xe0\x00")
"""Tag of an item, in both orders of bytes."""


@dataclass(frozen=True)
class Contour:
    """A closed contour."""

    points: NDArray[np.float64]
    """(n, 3), LPS mm."""
    image: str
    """SOPInstanceUID of the slice that it was drawn on; '' where it names none, or several."""


@dataclass
class Roi:
    """A region of interest."""

    name: str
    frame_of_reference: str
    contours: list[Contour] = field(default_factory=list)
    others: int = 0
    """Contours that are points or open lines."""


def read_rois(path: str) -> list[Roi]:
    """In the order of their numbers. DataError: D00 for a file that cannot be read, D07 for an object
    that contradicts itself."""
    try:
        with bounded_gzip.opened(Path(path)) as f:
            size = f.seek(0, 2)
            if size > LARGEST:
                raise ValueError(f"it has {size >> 20} MB, more than {LARGEST >> 20}")
            f.seek(0)
            data: BinaryIO = f
            if bounded_inflate.starts(f):
                data = BytesIO(bounded_inflate.inflated(f, LARGEST))
            count = sum(1 for _ in _ITEM.finditer(data.read()))
        if count > MOST_ITEMS:
            raise ValueError(f"it has {count} items, more than {MOST_ITEMS}")
        with quiet:
            return _rois(path, Elements(bounded_inflate.whole(path)))
    except DataError:
        raise
    except Exception as error:  # a broken object is lost, the site is not
        raise unreadable(path, "the structure set", error) from error


def _rois(path: str, e: Elements) -> list[Roi]:
    rois: dict[int, Roi] = {}
    faults = []
    for item in e.items(tags.ROIS):
        number = item.whole(tags.ROI_NUMBER)
        if number in rois:
            what = f"'{rois[number].name}' and '{item.text(tags.ROI_NAME)}' have one number"
            faults.append(f"regions {what}, {number}, so whose contours are whose is unknown")
        elif number is not None:
            rois[number] = Roi(item.text(tags.ROI_NAME), item.text(tags.ROI_FRAME))
    for item in e.items(tags.ROI_CONTOURS):
        number = item.whole(tags.REFERENCED_ROI)
        roi = None if number is None else rois.get(number)
        if roi is None:
            faults.append(f"it outlines a region {number} that it does not describe")
            continue
        for contour in item.items(tags.CONTOURS):
            if what := _add(roi, contour):
                faults.append(f"region '{roi.name}': {what}")
    if faults:
        raise DataError("D07", *(f"{path}: {fault}. {COPY_AGAIN}" for fault in faults[:4]))
    return [rois[number] for number in sorted(rois)]


def _add(roi: Roi, e: Elements) -> str:
    """Put a contour into its region; what is wrong with it, or ''."""
    if e.text(tags.CONTOUR_TYPE).upper() not in CLOSED:
        roi.others += 1
        return ""
    length = len(e.text(tags.CONTOUR_DATA))
    if length > LARGEST_CONTOUR:
        return f"a contour's coordinates have {length} characters, more than {LARGEST_CONTOUR}"
    numbers = e.decimals(tags.CONTOUR_DATA)
    count = e.whole(tags.CONTOUR_POINTS)
    if not numbers or len(numbers) % 3 or (count is not None and 3 * count != len(numbers)):
        return f"a contour of {count} points has {len(numbers)} coordinates that can be read"
    if len(numbers) < 9:
        roi.others += 1
        return ""
    images = [i.text(tags.REFERENCED_SOP) for i in e.items(tags.CONTOUR_IMAGES)]
    points = np.array(numbers).reshape(-1, 3)
    roi.contours.append(Contour(points, images[0] if len(images) == 1 else ""))
    return ""
