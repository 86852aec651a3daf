"""Splitting a series that holds several images: of the same places (echoes, phases), or
interleaved.

Two phases whose positions are half a slice apart look like one volume of twice as many slices. They
are known by an attribute that parts the slices into stacks, each of them even and lying over the
others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom.slice_geometry import FEWEST_SLICES, Slice, by_place, even, normal
from common.data.modality import modality

WHEN_TAKEN = frozenset(("AcquisitionNumber", "AcquisitionTime", "TriggerTime"))
"""MR takes the odd and the even slices of one volume after each other, so these part it only where
the slices are too thick for that."""
WHEN_MADE = "ContentTime"
"""Says when a slice was reconstructed, which may be in any order."""
OVERLAP_STEPS = 1.25
"""Slices thicker than this many steps lie over their neighbours."""


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
