"""Headers to series: which files are one volume, in which order, and why a series must not be used.

Pure: nothing is opened. Positions decide, never file names or instance numbers: slices are ordered along their common normal, and must
lie evenly on it. What a scanner rounds is tolerated (1 % of the spacing or 0.01 mm in silence, up to 10 % or 0.1 mm with a note); a gap, a
tilt or a mixture is a fault of that series, said with the file and what to do. Nothing here raises for a bad series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, permutations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from client import sequences
from client.dicom import NATIVE, SECONDARY_CAPTURE
from client.volumes import Frame, Geometry, Header, Series

T = TypeVar("T")

MINIMUM = 3
"""Fewer slices than this are a sketch, not a volume."""

COMPRESSED = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)) | {"1.2.840.10008.1.2.5"}
LOSSY = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 203))

NOT_AXES = frozenset(("SCREEN SAVE", "SCREENSAVE", "DOSE_INFO", "DOSE", "CT_SOM5 PROT", "CT_SOM7 PROT", "CT_SOM5 DOSE", "PROJECTION IMAGE"))
PROJECTIONS = frozenset(("MIP", "MINIP", "MPR THICK", "VRT", "VOLUME RENDERED", "RENDERED", "CSAPARALLEL", "CSAMIP"))
OTHER_SERIES = "Nothing to do: the study's other series are read"


@dataclass(frozen=True)
class _Slice:
    header: Header
    number: int
    """Its frame in the file."""

    @property
    def frame(self) -> Frame:
        return self.header.frames[self.number]

    def trait(self, name: str) -> str:
        return next((value for key, value in self.frame.traits if key == name), "")


def group(headers: Sequence[Header]) -> list[Series]:
    """Series in the order of their first file; a SEG object and a NIfTI file are each a series of their own."""
    out: list[Series] = []
    held: dict[tuple[str, ...], list[Header]] = {}
    for h in headers:
        alone = h.path if h.kind == "nifti" or h.modality == "SEG" else ""
        held.setdefault((h.kind, h.modality, h.patient, h.study, h.series, alone), []).append(h)
    for those in held.values():
        out += _nifti(those[0]) if those[0].kind == "nifti" else _series(those)
    return _unique(out)


def _unique(series: list[Series]) -> list[Series]:
    """The same uid under two patients, or twice in other files, is numbered, for a uid stands for one series."""
    seen: Counter[str] = Counter()
    out = []
    for s in series:
        seen[s.uid] += 1
        if seen[s.uid] > 1:
            note = "its SeriesInstanceUID is also used by other files (another patient, study or object): taken apart by these"
            s = replace(s, uid=f"{s.uid}#{seen[s.uid]}", notes=(*s.notes, note))
        out.append(s)
    return out


def _nifti(h: Header) -> list[Series]:
    if h.faults:
        return [_made(h, [h], faults=h.faults)]
    geometry, turn = affine_geometry(h)
    return [_made(h, [h], geometry=geometry, turn=turn, slices=((0, 0),))]


def affine_geometry(h: Header) -> tuple[Geometry, tuple[int, ...]]:
    """RAS+ to LPS+, and its axes (i, j, k) turned to (z, y, x)."""
    matrix = np.array(h.affine, np.float64)
    matrix[:2] *= -1
    i, j, k = (matrix[:, n] for n in range(3))
    return turned((h.shape[0], h.shape[1], h.shape[2]), matrix[:, 3], np.stack([i, j, k]))


def _made(first: Header, headers: Sequence[Header], **more: Any) -> Series:
    """A series of these files; `more`: what is to differ from what the first header says."""
    made = Series(
        uid=first.series,
        kind=first.kind,
        modality=first.modality,
        patient=first.patient,
        study=first.study,
        frame_of_reference=first.frame_of_reference,
        description=first.description,
        maker=first.maker,
        model=first.model,
        transfer_syntax=first.transfer_syntax,
        files=tuple(h.path for h in headers),
        references=first.references,
        identity=tuple(sorted({name for h in headers for name in h.identity})),
        geometry=None,
    )
    return replace(made, **more)


def where(paths: Iterable[str]) -> str:
    """'a.dcm', 'a.dcm and b.dcm' or 'a.dcm and 12 more files'."""
    those = sorted(set(paths))
    if len(those) <= 2:
        return " and ".join(those)
    return f"{those[0]} and {len(those) - 1} more files"


def _series(headers: list[Header]) -> list[Series]:
    first = headers[0]
    if first.modality == "SEG":
        return [_made(first, headers, faults=first.faults)]
    kinds: dict[str, list[Header]] = {}
    for h in headers:
        kinds.setdefault(_unfit(h), []).append(h)
    out = []
    for why, those in kinds.items():
        if why:
            mark = "" if len(kinds) == 1 else f"#{why.split(':')[0].split('(')[0].strip().replace(' ', '-')}"
            out.append(_made(those[0], those, uid=first.series + mark, faults=(f"{where(h.path for h in those)}: {why}. {OTHER_SERIES}",)))
        else:
            out += _volumes(those)
    return out


def _unfit(h: Header) -> str:
    """Why a file is no slice of a volume, whatever lies around it; '' when it may be one."""
    words = set(h.image_type)
    if h.sop_class.startswith(SECONDARY_CAPTURE):
        return "secondary capture: a screenshot or a scanned page, without a place in the patient"
    if h.modality == "other":
        return f"modality '{h.declared_modality}' is not an image that is read here (CT, MR, SEG)"
    if h.samples != 1 or h.photometric in ("RGB", "PALETTE COLOR") or h.photometric.startswith("YBR"):
        return f"colour picture ({h.photometric or f'{h.samples} samples a pixel'}): its values are no measurements"
    if "LOCALIZER" in words or "SCOUT" in words:
        return "localizer (scout): a plan of the scan, not a volume"
    if words & NOT_AXES:
        return f"derived page ({', '.join(sorted(words & NOT_AXES))}): a dose report, protocol or projection, not a volume"
    if words & PROJECTIONS:
        return f"rendering ({', '.join(sorted(words & PROJECTIONS))}): projected, not measured, values"
    return ""


def _volumes(headers: list[Header]) -> list[Series]:
    first = headers[0]
    slices = [_Slice(h, n) for h in headers for n in range(len(h.frames))]
    faults = [*dict.fromkeys(f for h in headers for f in h.faults), *_mixtures(headers, slices)]
    if faults:
        return [_made(first, headers, faults=tuple(faults))]
    along = _normal(slices[0].frame)
    at = np.array([s.frame.position for s in slices], np.float64)
    order = np.argsort(at @ along, kind="stable")
    slices, at = [slices[i] for i in order], at[order]
    parts = _apart(slices)
    if len(parts) == 1:
        return [_volume(first.series, slices, along, ())]
    out = []
    for name, those in parts:
        note = f"one of {len(parts)} images that share a SeriesInstanceUID: taken apart by {name}"
        out.append(_volume(f"{first.series}#{name.replace(' ', '')}", those, along, (note,)))
    return out


def _axes(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and along a column, LPS."""
    cosines = np.array(frame.orientation, np.float64).reshape(2, 3)
    row, column = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    return row, column


def _normal(frame: Frame) -> NDArray[np.float64]:
    """The unit normal of a slice, along the nearest of the patient's axes in the direction in which that one grows."""
    row, column = _axes(frame)
    normal = np.array(
        [row[1] * column[2] - row[2] * column[1], row[2] * column[0] - row[0] * column[2], row[0] * column[1] - row[1] * column[0]]
    )
    normal /= np.linalg.norm(normal)
    return np.asarray(normal * np.sign(normal[np.abs(normal).argmax()]))


def _mixtures(headers: list[Header], slices: list[_Slice]) -> Iterable[str]:
    """What forbids to stack these files at all."""
    way = "Export the series again from the archive, or leave it out"
    if not headers[0].series:
        yield f"{where(h.path for h in headers)}: no SeriesInstanceUID, so what belongs together is unknown. {way}"
    for syntax in sorted({h.transfer_syntax for h in headers} - NATIVE - COMPRESSED):
        those = where(h.path for h in headers if h.transfer_syntax == syntax)
        yield f"{those}: transfer syntax {syntax} cannot be decoded. Convert it to explicit VR little endian (dcmconv, gdcmconv --raw)"
    for name in ("position", "orientation", "spacing"):
        if lacking := [s.header.path for s in slices if getattr(s.frame, name) is None]:
            tag = {"position": "ImagePositionPatient", "orientation": "ImageOrientationPatient", "spacing": "PixelSpacing"}[name]
            yield f"{where(lacking)}: {tag} is missing or unreadable, so the slice has no place in the patient. {way}"
            return
    skewed = [s.header.path for s in slices if not _square(s.frame.orientation)]
    if skewed:
        yield f"{where(skewed)}: ImageOrientationPatient is not two perpendicular unit vectors. {way}"
        return
    split = "Send each part as a series of its own, or leave it out"
    sizes = [f"{s.header.rows}x{s.header.columns}" for s in slices]
    yield from _mixed(slices, "matrix", sizes, [size != _usual(sizes) for size in sizes], split)
    spacings = [s.frame.spacing or (0.0, 0.0) for s in slices]
    usual = _usual([(round(a, 2), round(b, 2)) for a, b in spacings])
    usual = next(s for s in spacings if (round(s[0], 2), round(s[1], 2)) == usual)
    odd = [bool(np.abs(np.divide(s, usual) - 1).max() > 2e-3) for s in spacings]
    yield from _mixed(slices, "PixelSpacing", ["{:.4g} x {:.4g} mm".format(*s) for s in spacings], odd, split)
    cosines = [s.frame.orientation or () for s in slices]
    coarse = [tuple(round(c, 2) for c in o) for o in cosines]
    main = cosines[coarse.index(_usual(coarse))]
    away = [s.header.path for s, o in zip(slices, cosines, strict=True) if not _parallel(o, main)]
    if away:
        what = f"mixed orientation: {len(away)} of {len(slices)} slices are turned or tilted against the others"
        yield f"{where(away)}: {what}. {split}"


def _usual(values: Sequence[T]) -> T:
    return Counter(values).most_common(1)[0][0]


def _mixed(slices: list[_Slice], name: str, values: list[str], odd: list[bool], way: str) -> Iterable[str]:
    if any(odd):
        told = ", ".join(f"{v} in {n}" for v, n in Counter(values).most_common(4))
        paths = (s.header.path for s, o in zip(slices, odd, strict=True) if o)
        yield f"{where(paths)}: mixed {name} in one series ({told} slices). {way}"


def _square(orientation: tuple[float, ...] | None) -> bool:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])  # type: ignore[index]
    return bool(abs(row @ row - 1) < 1e-2 and abs(column @ column - 1) < 1e-2 and abs(row @ column) < 1e-2)


def _parallel(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Within 0.1 degrees: what rounding in a header can do."""
    return bool(np.abs(np.array(a) - np.array(b)).max() < 2e-3)


def _places(slices: Sequence[_Slice], along: NDArray[np.float64]) -> list[list[_Slice]]:
    """Slices (sorted) by place: those of one place together."""
    at = np.array([s.frame.position for s in slices], np.float64) @ along
    steps = np.diff(at)
    apart = steps[steps > 0.01]
    same = max(0.01, 0.01 * float(np.median(apart))) if len(apart) else 0.01
    number = np.concatenate([[0], np.cumsum(steps > same)])
    return [[s for _, s in g] for _, g in groupby(zip(number, slices, strict=True), key=lambda pair: pair[0])]


def _apart(slices: list[_Slice]) -> list[tuple[str, list[_Slice]]]:
    """Several images of the same places taken apart by the first attribute that does so cleanly; one part where none does.

    Cleanly: each value of the attribute has every place equally often, and fewer times than all together.
    """
    along = _normal(slices[0].frame)
    places = _places(slices, along)
    copies = max(len({(s.header.sop or s.header.path, s.number) for s in place}) for place in places)
    if copies == 1:
        return [("", slices)]
    names = dict.fromkeys(name for s in slices for name, _ in s.frame.traits)
    for name in names:
        values = sorted({s.trait(name) for s in slices}, key=_numeric)
        if not 1 < len(values) <= copies:
            continue
        by_place = [Counter(s.trait(name) for s in place) for place in places]
        if all(b.keys() == by_place[0].keys() and len(set(b.values())) == 1 for b in by_place) and len(by_place[0]) == len(values):
            parts = ((f"{name} {value or 'absent'}", [s for s in slices if s.trait(name) == value]) for value in values)
            return [(f"{told}, {more}" if more else told, deeper) for told, those in parts for more, deeper in _apart(those)]
    return [("", slices)]


def _numeric(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _volume(uid: str, slices: list[_Slice], along: NDArray[np.float64], notes: tuple[str, ...]) -> Series:
    """One stack, its slices sorted by position; doubled places keep their first, the others are compared with it on reading."""
    places = [sorted(p, key=lambda s: (s.header.instance or 0, s.header.path, s.number)) for p in _places(slices, along)]
    kept = [p[0] for p in places]
    headers = list(dict.fromkeys(s.header for s in kept))
    files = tuple(h.path for h in headers)
    index = {path: n for n, path in enumerate(files)}
    spares = tuple((s.header.path, s.number, k) for k, place in enumerate(places) for s in place[1:])
    faults, strays, step = _even(kept, along)
    several = sum(len({(s.header.sop or s.header.path, s.number) for s in place}) > 1 for place in places)
    if several > 1 and 2 * several >= len(places):
        faults.append(
            f"{where(s.header.path for s in slices)}: several images of the same places ({several} of {len(places)}) share one series, "
            "and no attribute (echo, b-value, phase, acquisition) tells them apart. Send each as a series of its own, or leave it out"
        )
    told = [*notes, *strays, *_remarks(headers, kept, step)]
    if spares:
        told.append(f"{len(spares)} slices are there twice: one of each is taken when, on reading, their pixels turn out equal")
    more: dict[str, Any] = {}
    if not faults and step is not None:
        frame = kept[0].frame
        (row, column), (down, right) = _axes(frame), frame.spacing or (0.0, 0.0)
        shape = (len(kept), headers[0].rows, headers[0].columns)
        origin = np.array(frame.position, np.float64)
        more["geometry"], more["turn"] = turned(shape, origin, np.stack([step, column * down, row * right]))
    named, why = sequences.channel(replace(headers[0], echo_time=_float(kept[0].trait("EchoTime")) or headers[0].echo_time))
    return _made(
        headers[0],
        headers,
        uid=uid,
        slices=tuple((index[s.header.path], s.number) for s in kept),
        spares=spares,
        channel=named,
        notes=(*told, why) if why else tuple(told),
        faults=tuple(faults),
        **more,
    )


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _even(kept: list[_Slice], along: NDArray[np.float64]) -> tuple[list[str], list[str], NDArray[np.float64] | None]:
    """(faults, notes, the step from slice to slice, LPS mm)."""
    paths = [s.header.path for s in kept]
    if len(kept) < MINIMUM:
        few = "one slice is" if len(kept) == 1 else f"{len(kept)} slices are"
        return [f"{where(paths)}: {few} no volume (at least {MINIMUM} are needed). {OTHER_SERIES}, or export the whole series"], [], None
    at = np.array([s.frame.position for s in kept], np.float64)
    depth = at @ along
    mean = float(depth[-1] - depth[0]) / (len(kept) - 1)
    step = (at[-1] - at[0]) / (len(kept) - 1)
    faults, notes = [], []
    stray = float(np.abs(depth - depth[0] - mean * np.arange(len(kept))).max())
    if stray > max(0.01, 0.01 * mean):
        if stray <= min(0.1, 0.1 * mean):
            notes.append(f"slice positions stray by up to {stray:.3f} mm from an even spacing of {mean:.3f} mm, as rounding does")
        else:
            faults.append(_uneven(paths, depth))
    aside = at - at[0] - np.outer(depth - depth[0], along)
    if np.abs(aside).max() > 0.05 + 1e-3 * (depth[-1] - depth[0]):
        faults.append(_leaning(paths, aside, depth))
    return faults, notes, step


def _uneven(paths: list[str], depth: NDArray[np.float64]) -> str:
    steps = np.diff(depth)
    base = float(np.median(steps))
    times = steps / base
    wide = np.flatnonzero(times > 1.5)
    if len(wide) and len(wide) <= max(1, len(steps) // 4) and (np.abs(np.delete(times, wide) - 1) < 0.2).all():
        missing = ", ".join(
            f"{max(1, round(times[i]) - 1)} between {depth[i]:.2f} and {depth[i + 1]:.2f} mm ({paths[i]} and {paths[i + 1]})"
            for i in wide[:4]
        )
        more = f" and at {len(wide) - 4} further places" if len(wide) > 4 else ""
        return f"slices are missing: {missing}{more}. Export the whole series again, or leave it out"
    counts = Counter(f"{s:.2f}" for s in steps)
    told = ", ".join(f"{n} of {value} mm" for value, n in counts.most_common(4))
    odd = int(np.abs(times - 1).argmax())
    return (
        f"mixed spacing: the steps between slices differ ({told}), most at {paths[odd]} and {paths[odd + 1]}. "
        "Send each part as a series of its own, or leave it out"
    )


def _leaning(paths: list[str], aside: NDArray[np.float64], depth: NDArray[np.float64]) -> str:
    run = depth - depth[0]
    slope = (run @ aside) / (run @ run)
    left = np.abs(aside - np.outer(run, slope)).max(axis=1)
    if left.max() <= 0.05 + 1e-3 * run[-1]:
        angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
        return (
            f"{where(paths)}: gantry tilt: the slices are shifted sideways as if sheared by {angle:.1f} degrees. "
            "Send the tilt-corrected reconstruction, or leave it out"
        )
    worst = int(left.argmax())
    return (
        f"{paths[worst]}: its position lies {left[worst]:.1f} mm beside the line of the other slices. "
        "Export the series again from the archive, or leave it out"
    )


def _remarks(headers: list[Header], kept: list[_Slice], step: NDArray[np.float64] | None) -> Iterable[str]:
    first = headers[0]
    thickness = kept[0].frame.thickness
    apart = float(np.linalg.norm(step)) if step is not None else 0.0
    if thickness and apart and abs(thickness - apart) > 0.1 * apart:
        yield f"SliceThickness says {thickness:g} mm, the positions are {apart:g} mm apart: the positions are believed"
    if first.transfer_syntax in LOSSY:
        yield "lossy compression: its values are approximate"
    if first.photometric == "MONOCHROME1":
        yield "MONOCHROME1: shown inverted by viewers; its values are taken as they are"
    if len({h.frame_of_reference for h in headers}) > 1:
        yield "its files name several frames of reference; the first is taken"


def turned(shape: tuple[int, int, int], origin: NDArray[np.float64], steps: NDArray[np.float64]) -> tuple[Geometry, tuple[int, ...]]:
    """A grid with its axes permuted and reversed to the nearest ones of the convention; no voxel moves.

    shape: along the file's three axes; origin: LPS mm of its first voxel; steps: (3, 3), row i from one voxel to the next along axis i.
    Returns the geometry, and for each of z, y, x the file's axis as 1, 2 or 3, negative where it is reversed.
    """
    cosine = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    axes = max(permutations(range(3)), key=lambda p: sum(abs(cosine[a, 2 - t]) for t, a in enumerate(p)))
    origin, out, turn = np.array(origin, np.float64), np.empty((3, 3)), []
    for target, axis in enumerate(axes):
        back = cosine[axis, 2 - target] < 0
        if back:
            origin = origin + (shape[axis] - 1) * steps[axis]
        out[target] = -steps[axis] if back else steps[axis]
        turn.append(-(axis + 1) if back else axis + 1)
    z, y, x = (shape[a] for a in axes)
    return Geometry((z, y, x), (float(origin[0]), float(origin[1]), float(origin[2])), out), tuple(turn)
