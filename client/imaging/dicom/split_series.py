"""Series that are not one image: splitting one that holds several (of the same places, such as echoes
and phases, or interleaved), and joining slices whose SeriesInstanceUID says nothing.

Two phases whose positions are half a slice apart look like one volume of twice as many slices. They
are known by an attribute that parts the slices into stacks, each of them even and lying over the
others.

De-identifiers and some archives write a UID of its own into each slice, or none. Slices that agree in
patient, study, frame of reference, matrix, orientation, pixel spacing and settings, and lie on one
line at an even step, no two of them at one place, are one image. Anything else is left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom.slice_geometry import FEWEST_SLICES, Slice, by_place, even, normal
from client.imaging.geometry.volumes import Header
from common.data.modality import MODALITIES, modality

WHEN_TAKEN = frozenset(("AcquisitionNumber", "AcquisitionTime", "TriggerTime"))
"""MR takes the odd and the even slices of one volume after each other, so these part it only where
the slices are too thick for that."""
WHEN_MADE = "ContentTime"
"""Says when a slice was reconstructed, which may be in any order."""
OVERLAP_STEPS = 1.25
"""Slices thicker than this many steps lie over their neighbours."""
SETTINGS = frozenset(
    ("EchoTime", "EchoNumbers", "ImageType", "ConvolutionKernel", "KVP", "InversionTime",
     "FlipAngle", "DiffusionBValue", "TemporalPositionIdentifier", "AcquisitionNumber")
)  # fmt: skip
"""Traits in which slices of one image agree; the times at which they were taken differ."""
LONGEST_S = 1800.0
"""Seconds between the first slice of an image and the last."""


def split_series(slices: list[Slice]) -> list[tuple[str, list[Slice]]]:
    """Slices, sorted by place, by the first attribute that parts them cleanly: (attribute and
    value, its slices); one part where none does.

    Cleanly: each value of the attribute has every place equally often, and fewer times than all
    together; or each is an even stack that interleaves with the others.
    """
    places = by_place(slices, normal(slices[0].frame))
    copies = max(
        len({(s.header.sop or s.header.path, s.number) for s in place}) for place in places
    )
    attributes = (
        _differing_attributes(slices) if len(slices) >= 2 * FEWEST_SLICES or copies > 1 else {}
    )
    for name, values in attributes.items():
        if len(set(values)) <= copies and _same_places(places, values):
            return _split_by(slices, name, values)
    for name, values in attributes.items():
        if name != WHEN_MADE and _interleaved(slices, values, name in WHEN_TAKEN):
            return _split_by(slices, name, values)
    return [("", slices)]


def _differing_attributes(slices: Sequence[Slice]) -> dict[str, list[str]]:
    """Of each attribute that differs between slices: its value on each of them."""
    attributes = [
        {"FrameOfReferenceUID": s.header.frame_of_reference, **dict(s.frame.traits)} for s in slices
    ]
    differing = {}
    for name in dict.fromkeys(name for of_slice in attributes for name in of_slice):
        column = [of_slice.get(name, "") for of_slice in attributes]
        if len(set(column)) > 1:
            differing[name] = column
    return differing


def _by_value(slices: Sequence[Slice], values: Sequence[str]) -> dict[str, list[Slice]]:
    out: dict[str, list[Slice]] = {value: [] for value in sorted(set(values), key=_numeric)}
    for s, value in zip(slices, values, strict=True):
        out[value].append(s)
    return out


def _split_by(
    slices: Sequence[Slice], name: str, values: Sequence[str]
) -> list[tuple[str, list[Slice]]]:
    parts = [
        (f"{name} {value or 'absent'}", part) for value, part in _by_value(slices, values).items()
    ]
    return [
        (f"{label}, {deeper_label}" if deeper_label else label, deeper_slices)
        for label, part in parts
        for deeper_label, deeper_slices in split_series(part)
    ]


def _numeric(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _same_places(places: Sequence[Sequence[Slice]], values: Sequence[str]) -> bool:
    """Whether every place has each of the values, and equally often. `values`: of the slices, place
    after place."""
    rest = iter(values)
    counts = [Counter(islice(rest, len(place))) for place in places]
    return all(len(c) == len(set(values)) and len(set(c.values())) == 1 for c in counts)


def _interleaved(slices: list[Slice], values: Sequence[str], when_taken: bool) -> bool:
    """Whether the values part the slices into even stacks that lie over each other."""
    if len(set(values)) * FEWEST_SLICES > len(slices):
        return False
    along = normal(slices[0].frame)
    if when_taken and not modality(slices[0].header.modality).at_once and not _thick(slices, along):
        return False
    extents = []
    for part in _by_value(slices, values).values():
        stack = [place[0] for place in by_place(part, along)]
        faults, _, _ = even(stack, along)
        if faults:
            return False
        low, high = (float(np.asarray(s.frame.position) @ along) for s in (stack[0], stack[-1]))
        extents.append((low, high))
    return all(
        min(b, d) - max(a, c) >= 0.5 * min(b - a, d - c)  # half of the shorter one
        for (a, b), (c, d) in combinations(extents, 2)
    )


def _thick(slices: Sequence[Slice], along: NDArray[np.float64]) -> bool:
    depths = np.unique(
        np.round(np.array([s.frame.position for s in slices], np.float64) @ along, 2)
    )
    return bool(
        len(depths) > 1
        and (slices[0].frame.thickness or 0.0) > OVERLAP_STEPS * float(np.median(np.diff(depths)))
    )


def joined_slices(headers: Sequence[Header]) -> tuple[list[Header], dict[str, str]]:
    """The headers, those that are one image by geometry under one series; and a note for each such
    series."""
    slices = Counter((h.modality, h.patient, h.study, h.series) for h in headers)
    groups: dict[tuple[object, ...], list[int]] = {}
    for n, h in enumerate(headers):
        alone = not h.series or slices[h.modality, h.patient, h.study, h.series] == 1
        if h.kind == "dicom" and h.modality in MODALITIES and alone and len(h.frames) == 1:
            groups.setdefault(_alike(h), []).append(n)
    out, notes = list(headers), {}
    for members in groups.values():
        stack = [Slice(headers[n], 0) for n in members]
        if len(stack) < FEWEST_SLICES or not _one_image(stack):
            continue
        first = min(stack, key=lambda s: s.header.series or s.header.sop or s.header.path).header
        uid = first.series or first.sop or first.path
        for n in members:
            out[n] = replace(headers[n], series=uid)
        named = len({headers[n].series for n in members} - {""})
        how = f"{named} SeriesInstanceUIDs" if named else "no SeriesInstanceUID"
        notes[uid] = (
            f"slices without a series of their own are one image by geometry: {len(stack)} slices "
            f"had {how}"
        )
    return out, notes


def _alike(h: Header) -> tuple[object, ...]:
    """In what slices of one image agree."""
    frame = h.frames[0]
    return (
        h.modality,
        h.patient,
        h.study,
        h.frame_of_reference,
        (h.rows, h.columns),
        h.description,
        h.contrast,
        h.repetition_time,
        tuple(round(c, 3) for c in frame.orientation or ()),
        tuple(round(s, 4) for s in frame.spacing or ()),
        tuple(t for t in frame.traits if t[0] in SETTINGS),
    )


def _one_image(stack: list[Slice]) -> bool:
    """Do they lie on one line at an even step, one at each place, taken within half an hour?"""
    if any(s.frame.position is None or not s.frame.orientation for s in stack):
        return False
    if any(len(s.frame.orientation or ()) != 6 or not s.frame.spacing for s in stack):
        return False
    times = [_seconds(s.trait("AcquisitionTime")) for s in stack]
    taken = [t for t in times if t is not None]
    if taken and max(taken) - min(taken) > LONGEST_S:
        return False
    along = normal(stack[0].frame)
    depths = np.array([s.frame.position for s in stack], np.float64) @ along
    if not np.isfinite(depths).all() or float(np.diff(np.sort(depths)).min()) <= 0.01:
        return False
    ordered = [stack[n] for n in np.argsort(depths, kind="stable")]
    faults, _, _ = even(ordered, along)
    return not faults


def _seconds(text: str) -> float | None:
    """Of HHMMSS.ffffff."""
    digits = text.partition(".")[0]
    if len(digits) != 6 or not digits.isdigit():
        return None
    return int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:])
