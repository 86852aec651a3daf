"""Rescale slope and intercept that a modality demands: whether all slices have them, and what the
source mapping states in their place.

In CT both are type 1 (PS3.3, C.8.2.1): the standard's 1 and 0 would make a scanner's stored values
Hounsfield units that are about 1024 too high, in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from client.imaging.dicom.pixel_layout import RESCALING
from client.imaging.geometry.volumes import Header
from common.data.modality import modality

BY_MAPPING = "the source mapping"
"""Stands in `Header.rescaled` for what a file does not say and the mapping states."""


def stated(header: Header, rescale: tuple[float, float] | None) -> Header:
    """The header with the mapping's (slope, intercept) where its file has none, though its modality
    demands it; what a file says is never replaced."""
    if rescale is None or not any(map(_lacks, _attributes(header))):
        return header
    count = max(len(header.scales), len(header.rescaled))
    scales, attributes = [], []
    for n in range(count):
        slope, intercept = header.scales[n % len(header.scales)]
        held = header.rescaled[n % len(header.rescaled)]
        lacks = _lacks(held)
        scales.append(
            (
                rescale[0] if "RescaleSlope" in lacks else slope,
                rescale[1] if "RescaleIntercept" in lacks else intercept,
            )
        )
        attributes.append(" and ".join([*filter(None, [held]), BY_MAPPING]) if lacks else held)
    return replace(header, scales=tuple(scales), rescaled=tuple(attributes))


def missing(headers: Sequence[Header]) -> str:
    """What forbids to use a series none of whose slices says how its values become units, though
    its modality demands it; '' where nothing does."""
    lacking = [_lacks(held) for h in headers for held in _attributes(h)]
    if not lacking or not all(lacking):
        return ""
    names = " and ".join(name for name, _ in RESCALING if any(name in lacks for lacks in lacking))
    verb = "are" if " and " in names else "is"
    return (
        f"no rescale: {names} {verb} absent or empty in all slices, so that nothing tells how its "
        "values become Hounsfield units. Export it again with them, or state them in the source "
        "mapping if you know them: [images] rescale = {slope = 1, intercept = -1024}"
    )


def note(header: Header) -> str:
    """What is to be said of a series that is read by the mapping's values; '' where it is not."""
    if not any(BY_MAPPING in held for held in header.rescaled):
        return ""
    slope, intercept = header.scales[0]
    return (
        "no rescale in the file: the source mapping's is taken: "
        f"slope {slope:g}, intercept {intercept:g}"
    )


def _attributes(header: Header) -> tuple[str, ...]:
    demanded = modality(header.modality).hounsfield and header.kind == "dicom" and header.scales
    return header.rescaled if demanded else ()


def _lacks(held: str) -> tuple[str, ...]:
    if "LUT" in held or BY_MAPPING in held:
        return ()
    return tuple(name for name, _ in RESCALING if name not in held)
