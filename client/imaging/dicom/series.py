"""DICOM series from headers: which files are one volume, in which order, and why a series must not
be used.

Pure: nothing is opened. Positions decide, never file names or instance numbers: slices are ordered
along their common normal, and must lie evenly on it (`client.imaging.dicom.slice_geometry`). A
series that must not be used has faults, said with the file and what to do; nothing here raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom import mr_sequence, rescale
from client.imaging.dicom.header import SECONDARY_CAPTURE
from client.imaging.dicom.slice_geometry import (
    OTHER_SERIES,
    Slice,
    axes,
    by_place,
    even,
    mixtures,
    normal,
    regular,
    unlike,
    where,
    without_scouts,
)
from client.imaging.dicom.split_series import joined_slices, split_series
from client.imaging.geometry.volumes import Geometry, Header, Series, Straight
from common.data.modality import MODALITIES

LOSSY = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 203))

PAGES = frozenset(
    (
        "MOSAIC",
        "SCREEN SAVE",
        "SCREENSAVE",
        "DOSE_INFO",
        "DOSE",
        "CT_SOM5 PROT",
        "CT_SOM7 PROT",
        "CT_SOM5 DOSE",
        "PROJECTION IMAGE",
    )
)
PROJECTIONS = frozenset(
    ("MIP", "MINIP", "MPR THICK", "VRT", "VOLUME RENDERED", "RENDERED", "CSAPARALLEL", "CSAMIP")
)


def group(headers: Sequence[Header]) -> list[Series]:
    """Series in the order of their first file; a SEG object and a NIfTI file are each a series of
    their own."""
    out: list[Series] = []
    by_series: dict[tuple[str, ...], list[Header]] = {}
    headers, joined = joined_slices(headers)
    for h in headers:
        alone = h.path if h.kind == "nifti" or h.modality == "SEG" else ""
        by_series.setdefault((h.kind, h.modality, h.patient, h.study, h.series, alone), []).append(
            h
        )
    for headers_of_series in by_series.values():
        out += (
            _nifti(headers_of_series[0])
            if headers_of_series[0].kind == "nifti"
            else _series(headers_of_series)
        )
    return _unique(
        [
            replace(s, notes=(*s.notes, joined[s.headers[0].series]))
            if s.headers and s.headers[0].series in joined
            else s
            for s in out
        ]
    )


def _unique(series: list[Series]) -> list[Series]:
    """The same uid under two patients, or twice in other files, is numbered, for a uid stands for
    one series."""
    uses: Counter[str] = Counter()
    out = []
    for s in series:
        uses[s.uid] += 1
        if uses[s.uid] > 1:
            note = (
                "its SeriesInstanceUID is also used by other files (another patient, study or "
                "object): taken apart by these"
            )
            s = replace(s, uid=f"{s.uid}#{uses[s.uid]}", notes=(*s.notes, note))
        out.append(s)
    return out


def _nifti(h: Header) -> list[Series]:
    if h.faults:
        return [_series_of(h, [h], faults=h.faults)]
    geometry, turn = affine_geometry(h)
    files = (h.path, *h.companions)
    return [_series_of(h, [h], files=files, geometry=geometry, turn=turn, slices=((0, 0),))]


def affine_geometry(h: Header) -> tuple[Geometry, tuple[int, ...]]:
    """RAS+ to LPS+, and its axes (i, j, k) turned to (z, y, x)."""
    matrix = np.array(h.affine, np.float64)
    matrix[:2] *= -1
    i, j, k = (matrix[:, n] for n in range(3))
    return turned((h.shape[0], h.shape[1], h.shape[2]), matrix[:, 3], np.stack([i, j, k]))


def _series_of(first: Header, headers: Sequence[Header], **fields: Any) -> Series:
    """A series of these files; `fields`: what is to differ from what the first header says."""
    series = Series(
        uid=first.series,
        kind=first.kind,
        modality=first.modality,
        patient=first.patient,
        study=first.study,
        frame_of_reference=next(
            (h.frame_of_reference for h in headers if h.frame_of_reference), ""
        ),
        description=first.description,
        maker=first.maker,
        model=first.model,
        transfer_syntax=first.transfer_syntax,
        files=tuple(h.path for h in headers),
        headers=tuple(headers),
        references=first.references,
        identity=tuple(sorted({name for h in headers for name in h.identity})),
        geometry=None,
    )
    return replace(series, **fields)


def _series(headers: list[Header]) -> list[Series]:
    first = headers[0]
    if first.modality == "SEG":
        return [_series_of(first, headers, faults=first.faults)]
    by_fault: dict[str, list[Header]] = {}
    for h in headers:
        by_fault.setdefault(_unfit(h), []).append(h)
    out = []
    for fault, headers_alike in by_fault.items():
        if fault:
            mark = (
                ""
                if len(by_fault) == 1
                else f"#{fault.split(':')[0].split('(')[0].strip().replace(' ', '-')}"
            )
            out.append(
                _series_of(
                    headers_alike[0],
                    headers_alike,
                    uid=first.series + mark,
                    faults=(f"{where(h.path for h in headers_alike)}: {fault}. {OTHER_SERIES}",),
                )
            )
        else:
            out += _volumes(headers_alike)
    return out


def _unfit(h: Header) -> str:
    """Why a file is no slice of a volume, whatever lies around it; '' when it may be one."""
    words = set(h.image_type)
    if h.sop_class.startswith(SECONDARY_CAPTURE):
        return "secondary capture: a screenshot or a scanned page, without a place in the patient"
    if h.modality == "other":
        read = ", ".join((*MODALITIES, "SEG"))
        return f"modality '{h.declared_modality}' is not an image that is read here ({read})"
    if (
        h.samples != 1
        or h.photometric in ("RGB", "PALETTE COLOR")
        or h.photometric.startswith("YBR")
    ):
        return (
            f"colour picture ({h.photometric or f'{h.samples} samples a pixel'}): its values "
            "are no measurements"
        )
    if "LOCALIZER" in words or "SCOUT" in words:
        return "localizer (scout): a plan of the scan, not a volume"
    if words & PAGES:
        return (
            f"derived page ({', '.join(sorted(words & PAGES))}): a report, a mosaic or a "
            "projection, not a slice of a volume"
        )
    if words & PROJECTIONS:
        return (
            f"rendering ({', '.join(sorted(words & PROJECTIONS))}): projected, not measured, values"
        )
    return ""


def _volumes(headers: list[Header]) -> list[Series]:
    kept, scouts = without_scouts([Slice(h, n) for h in headers for n in range(len(h.frames))])
    paths = {s.header.path for s in scouts} - {s.header.path for s in kept}
    if not paths:
        return _stacks(headers, ())
    aside = [h for h in headers if h.path in paths]
    what = "a scout that is not called one: it lies across the other slices, or has no place"
    scout = _series_of(
        aside[0],
        aside,
        uid=f"{aside[0].series}#scout",
        faults=(f"{where(paths)}: {what}. {OTHER_SERIES}",),
    )
    note = f"{len(aside)} files of the series are a scout that is not called one: left out"
    return [*_stacks([h for h in headers if h.path not in paths], (note,)), scout]


def _stacks(headers: list[Header], notes: tuple[str, ...]) -> list[Series]:
    """The volumes of files that are all slices; `notes`: of each of them."""
    first = headers[0]
    slices = [Slice(h, n) for h in headers for n in range(len(h.frames))]
    faults = [*dict.fromkeys(f for h in headers for f in h.faults), *mixtures(headers, slices)]
    if not faults and (no_rescale := rescale.missing(headers)):
        faults = [f"{where(h.path for h in headers)}: {no_rescale}"]
    if faults:
        return [_series_of(first, headers, faults=tuple(faults))]
    normal_direction = normal(slices[0].frame)
    positions = np.array([s.frame.position for s in slices], np.float64)
    order = np.argsort(positions @ normal_direction, kind="stable")
    slices, positions = [slices[i] for i in order], positions[order]
    parts = split_series(slices)
    if len(parts) == 1:
        return [_volume(first.series, slices, normal_direction, notes)]
    out = []
    for name, part in parts:
        note = f"one of {len(parts)} images that share a SeriesInstanceUID: taken apart by {name}"
        out.append(
            _volume(
                f"{first.series}#{name.replace(' ', '')}", part, normal_direction, (*notes, note)
            )
        )
    return out


def _volume(
    uid: str, slices: list[Slice], normal_direction: NDArray[np.float64], notes: tuple[str, ...]
) -> Series:
    """One stack, its slices sorted by position; doubled places keep their first, the others are
    compared with it on reading."""
    places = [
        sorted(p, key=lambda s: (s.header.instance or 0, s.header.path, s.number))
        for p in by_place(slices, normal_direction)
    ]
    kept = [p[0] for p in places]
    headers = list(dict.fromkeys(s.header for s in kept))
    files = tuple(h.path for h in headers)
    index = {path: n for n, path in enumerate(files)}
    spares = tuple(
        (s.header.path, s.number, k) for k, place in enumerate(places) for s in place[1:]
    )
    faults, strays, step = even(kept, normal_direction)
    doubled = sum(
        len({(s.header.sop or s.header.path, s.number) for s in place}) > 1 for place in places
    )
    crooked = len(faults)
    faults += unlike(headers, kept)
    if doubled > 1 and 2 * doubled >= len(places):
        faults.append(
            f"{where(s.header.path for s in slices)}: several images of the same places "
            f"({doubled} of {len(places)}) share one series, "
            "and no attribute (echo, b-value, phase, acquisition) tells them apart. Send each as "
            "a series of its own, or leave it out"
        )
    straight = _straight(kept, normal_direction) if 0 < crooked == len(faults) else None
    volume_notes = [*notes, *strays, *_remarks(headers, kept, step)]
    if spares:
        volume_notes.append(
            f"{len(spares)} slices are there twice: one of each is taken when, on reading, their "
            "pixels turn out equal"
        )
    geometry_fields: dict[str, Any] = {}
    if not faults and step is not None:
        frame = kept[0].frame
        (row, column), (down, right) = axes(frame), frame.spacing or (0.0, 0.0)
        shape = (len(kept), headers[0].rows, headers[0].columns)
        origin = np.array(frame.position, np.float64)
        geometry_fields["geometry"], geometry_fields["turn"] = turned(
            shape, origin, np.stack([step, column * down, row * right])
        )
    channel, why = mr_sequence.channel(
        replace(headers[0], echo_time=_float(kept[0].trait("EchoTime")) or headers[0].echo_time)
    )
    return _series_of(
        headers[0],
        headers,
        uid=uid,
        slices=tuple((index[s.header.path], s.number) for s in kept),
        spares=spares,
        channel=channel,
        notes=(*volume_notes, why) if why else tuple(volume_notes),
        faults=tuple(faults),
        straight=straight,
        **geometry_fields,
    )


def straightened(series: Series) -> Series:
    """The series, where its only fault is that its slices are tilted or unevenly apart, as one that
    is resampled to a regular grid when it is read."""
    if series.straight is None or series.geometry is not None:
        return series
    return replace(
        series,
        geometry=series.straight.geometry,
        turn=series.straight.turn,
        notes=(*series.notes, series.straight.note),
        faults=(),
    )


def _straight(kept: list[Slice], along: NDArray[np.float64]) -> Straight | None:
    """The regular grid of slices that are tilted or unevenly apart: as wide as all of them together,
    at their usual step."""
    found = regular(kept, along)
    if found is None:
        return None
    depth, sideways, name = found
    frame, header = kept[0].frame, kept[0].header
    (row, column), (down, right) = axes(frame), frame.spacing or (0.0, 0.0)
    step = float(np.median(np.diff(depth)))
    shifts = np.stack([sideways @ column / down, sideways @ row / right], axis=1)
    corner = shifts.min(axis=0)
    shifts -= corner
    extra = np.ceil(shifts.max(axis=0) - 1e-6).astype(int)
    shape = (
        int(depth[-1] / step + 1e-6) + 1,
        header.rows + int(extra[0]),
        header.columns + int(extra[1]),
    )
    origin = np.array(frame.position, np.float64)
    origin += corner[0] * down * column + corner[1] * right * row
    geometry, turn = turned(shape, origin, np.stack([along * step, column * down, row * right]))
    note = f"resampled to straight slices {step:.2f} mm apart, as the mapping allows: {name}"
    return Straight(geometry, turn, shape, depth / step, shifts, note)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _remarks(
    headers: list[Header], kept: list[Slice], step: NDArray[np.float64] | None
) -> Iterable[str]:
    first = headers[0]
    thickness = kept[0].frame.thickness
    distance = float(np.linalg.norm(step)) if step is not None else 0.0
    if thickness and distance and abs(thickness - distance) > 0.1 * distance:
        yield (
            f"SliceThickness says {thickness:g} mm, the positions are {distance:g} mm apart: "
            "the positions are believed"
        )
    if by_mapping := rescale.note(first):
        yield by_mapping
    if first.transfer_syntax in LOSSY:
        yield "lossy compression: its values are approximate"
    if first.photometric == "MONOCHROME1":
        yield "MONOCHROME1: shown inverted by viewers; its values are taken as they are"
    if len({h.frame_of_reference for h in headers}) > 1:
        yield (
            "some of its files name no frame of reference: they are taken to lie in that of the "
            "others"
        )


def turned(
    shape: tuple[int, int, int], origin: NDArray[np.float64], steps: NDArray[np.float64]
) -> tuple[Geometry, tuple[int, ...]]:
    """A grid with its axes permuted and reversed to the nearest ones of the convention; no voxel
    moves.

    shape: along the file's three axes; origin: LPS mm of its first voxel; steps: (3, 3), row i from
    one voxel to the next along axis i. Returns the geometry, and for each of z, y, x the file's
    axis as 1, 2 or 3, negative where it is reversed.
    """
    cosine = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    axes = max(
        permutations(range(3)), key=lambda p: sum(abs(cosine[a, 2 - t]) for t, a in enumerate(p))
    )
    origin, directions, turn = np.array(origin, np.float64), np.empty((3, 3)), []
    for target, axis in enumerate(axes):
        reversed_axis = cosine[axis, 2 - target] < 0
        if reversed_axis:
            origin = origin + (shape[axis] - 1) * steps[axis]
        directions[target] = -steps[axis] if reversed_axis else steps[axis]
        turn.append(-(axis + 1) if reversed_axis else axis + 1)
    z, y, x = (shape[a] for a in axes)
    return Geometry(
        (z, y, x), (float(origin[0]), float(origin[1]), float(origin[2])), directions
    ), tuple(turn)
