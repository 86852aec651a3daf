"""Which image a DICOM segmentation was drawn on: by the slices that it names, else by the series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from client.imaging.geometry.volumes import Series


def drawn_on(seg: Series, image: Series) -> bool:
    """Whether the SEG names this image's series; its very slices, where the series holds several images or the SEG names none."""
    uid, several, _ = image.uid.partition("#")
    if seg.references and uid not in seg.references:
        return False
    named = {uid for h in seg.headers for uid in h.instances}
    return bool(seg.references and not several) or any(h.sop in named for h in image.headers)


def settled(seg: Series, images: Sequence[Series]) -> Series:
    """The SEG, at fault when it names slices of several images of one series: on which of them it was drawn is not known."""
    if seg.kind != "dicom" or seg.faults:
        return seg
    parted = [image.uid for image in images if "#" in image.uid and image.modality != "SEG" and drawn_on(seg, image)]
    if len(parted) < 2:
        return seg
    what = f"it refers to {len(parted)} images that share one series, and not to one of them ({', '.join(parted)})"
    return replace(seg, faults=(what,))
