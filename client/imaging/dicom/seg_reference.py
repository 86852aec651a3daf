"""Referenced image of a DICOM segmentation: the one it was drawn on, by the slices that it names,
else by the series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
