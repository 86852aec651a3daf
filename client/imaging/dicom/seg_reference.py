"""Referenced image of a DICOM segmentation: the one it was drawn on, by the slices that it names,
else by the series; and whether what it outlines lies on the slices that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom.slice_geometry import normal
from client.imaging.geometry.volumes import Series


def drawn_on(seg: Series, image: Series) -> bool:
    """Whether the SEG names this image's series; its very slices, where the series holds several
    images or the SEG names none."""
    uid, image_of_several, _ = image.uid.partition("#")
    if seg.references and uid not in seg.references:
        return False
    instances = {uid for h in seg.headers for uid in h.instances}
    return bool(seg.references and not image_of_several) or any(
        h.sop in instances for h in image.headers
    )


def settled(seg: Series, images: Sequence[Series]) -> Series:
    """The SEG, at fault when it names slices of several images of one series: on which of them it
    was drawn is not known."""
    if seg.kind != "dicom" or seg.faults:
        return seg
    candidates = [
        image.uid
        for image in images
        if "#" in image.uid and image.modality != "SEG" and drawn_on(seg, image)
    ]
    if len(candidates) < 2:
        return seg
    what = (
        f"it refers to {len(candidates)} images that share one series, and not to one of them "
        f"({', '.join(candidates)})"
    )
    return replace(seg, faults=(what,))


def astray(places: Sequence[tuple[str, NDArray[np.float64]]], image: Series) -> int:
    """How many of what a segmentation outlines lie elsewhere than the slice that they name: by more
    than half a slice along the image's normal.

    places: (SOPInstanceUID, '' for none; a point of it, LPS mm). Names that are no slice of this
    image are not compared.
    """
    slices = {
        h.sop: h.frames[0]
        for h in image.headers
        if h.sop and len(h.frames) == 1 and h.frames[0].position and h.frames[0].orientation
    }
    if not slices or image.geometry is None or not image.turn:
        return 0
    across = [abs(t) for t in image.turn].index(1)
    along, half = normal(next(iter(slices.values()))), image.geometry.spacing_mm[across] / 2
    count = 0
    for uid, point in places:
        frame = slices.get(uid)
        if frame is not None and frame.position is not None:
            distance = abs(float((point - np.array(frame.position)) @ along))
            count += distance > half + 0.01
    return count
