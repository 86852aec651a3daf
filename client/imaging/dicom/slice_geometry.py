"""Slice geometry within a series: spacing, gaps, doubles, gantry tilt, mixtures.

What a scanner rounds is tolerated (1 % of the spacing or 0.01 mm in silence, up to 10 % or 0.1 mm
with a note); anything else is a sentence with the files and what to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom.pixel_layout import NATIVE
from client.imaging.geometry.volumes import Frame, Header
from common.data.modality import modality

T = TypeVar("T")

INTERCEPT_JUMP_HU = 500.0
"""HU: slices of one CT that are scaled alike do not differ by more in what is added to their
values."""
FEWEST_SLICES = 3
"""Fewer slices than this are a sketch, not a volume."""

COMPRESSED = frozenset(
    f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)
) | {"1.2.840.10008.1.2.5"}
OTHER_SERIES = "Nothing to do: the study's other series are read"


@dataclass(frozen=True)
class Slice:
    """One frame of a file, on the way into a stack."""

    header: Header
    number: int
    """Its frame in the file."""

    @property
    def frame(self) -> Frame:
        return self.header.frames[self.number]

    def trait(self, name: str) -> str:
        return next((value for key, value in self.frame.traits if key == name), "")


FEW = 4
"""One in so many slices, at most, are a scout among the others."""
ACROSS = 0.2
"""Cosine between a scout's normal and the others', at most: it shows the body from another side."""


def without_scouts(slices: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """The slices of a series, and the few among them that are a scout which is not called one: they
    lie across all others, or have no place and another matrix than the others."""
    cosines = [s.frame.orientation for s in slices]
    whole = [tuple(round(c, 2) for c in o) for o in cosines if o and _square(o)]
    if len(slices) <= FEWEST_SLICES or not whole:
        return slices, []
    usual_normal = np.cross(*np.array(_usual(whole)).reshape(2, 3))
    usual_size = _usual([(s.header.rows, s.header.columns) for s in slices])
    kept: list[Slice] = []
    scouts: list[Slice] = []
    for s, cosine in zip(slices, cosines, strict=True):
        if cosine and _square(cosine):
            along = np.cross(*np.array(cosine).reshape(2, 3))
            scout = abs(float(along @ usual_normal)) < ACROSS
        else:
            scout = (s.header.rows, s.header.columns) != usual_size
        (scouts if scout else kept).append(s)
    return (slices, []) if len(scouts) > len(slices) / FEW else (kept, scouts)


def where(paths: Iterable[str]) -> str:
    """'a.dcm', 'a.dcm and b.dcm' or 'a.dcm and 12 more files'."""
    names = sorted(set(paths))
    if len(names) <= 2:
        return " and ".join(names)
    return f"{names[0]} and {len(names) - 1} more files"


def axes(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and along a column, LPS."""
    cosines = np.array(frame.orientation, np.float64).reshape(2, 3)
    row, column = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    return row, column


def normal(frame: Frame) -> NDArray[np.float64]:
    """The unit normal of a slice, along the nearest of the patient's axes in the direction in which
    that one grows."""
    row, column = axes(frame)
    normal = np.array(
        [
            row[1] * column[2] - row[2] * column[1],
            row[2] * column[0] - row[0] * column[2],
            row[0] * column[1] - row[1] * column[0],
        ]
    )
    normal /= np.linalg.norm(normal)
    return np.asarray(normal * np.sign(normal[np.abs(normal).argmax()]))


def mixtures(headers: list[Header], slices: list[Slice]) -> Iterable[str]:
    """What forbids to stack these files at all."""
    way = "Export the series again from the archive, or leave it out"
    if not headers[0].series:
        yield (
            f"{where(h.path for h in headers)}: no SeriesInstanceUID, so what belongs together "
            f"is unknown. {way}"
        )
    for syntax in sorted({h.transfer_syntax for h in headers} - NATIVE - COMPRESSED):
        files = where(h.path for h in headers if h.transfer_syntax == syntax)
        yield (
            f"{files}: transfer syntax {syntax} cannot be decoded. Convert it to explicit VR "
            "little endian (dcmconv, gdcmconv --raw)"
        )
    for name in ("position", "orientation", "spacing"):
        if without := [s.header.path for s in slices if getattr(s.frame, name) is None]:
            tag = {
                "position": "ImagePositionPatient",
                "orientation": "ImageOrientationPatient",
                "spacing": "PixelSpacing",
            }[name]
            yield (
                f"{where(without)}: {tag} is missing or unreadable, so the slice has no place "
                f"in the patient. {way}"
            )
            return
    skewed = [s.header.path for s in slices if not _square(s.frame.orientation)]
    if skewed:
        yield (
            f"{where(skewed)}: ImageOrientationPatient is not two perpendicular unit vectors. {way}"
        )
        return
    split = "Send each part as a series of its own, or leave it out"
    sizes = [f"{s.header.rows}x{s.header.columns}" for s in slices]
    yield from _mixed(slices, "matrix", sizes, [size != _usual(sizes) for size in sizes], split)
    spacings = [s.frame.spacing or (0.0, 0.0) for s in slices]
    usual_spacing = _usual([(round(a, 2), round(b, 2)) for a, b in spacings])
    usual_spacing = next(s for s in spacings if (round(s[0], 2), round(s[1], 2)) == usual_spacing)
    differs = [bool(np.abs(np.divide(s, usual_spacing) - 1).max() > 2e-3) for s in spacings]
    yield from _mixed(
        slices, "PixelSpacing", ["{:.4g} x {:.4g} mm".format(*s) for s in spacings], differs, split
    )
    cosines = [s.frame.orientation or () for s in slices]
    rounded = [tuple(round(c, 2) for c in o) for o in cosines]
    usual_orientation = cosines[rounded.index(_usual(rounded))]
    turned_paths = [
        s.header.path
        for s, o in zip(slices, cosines, strict=True)
        if not _parallel(o, usual_orientation)
    ]
    if turned_paths:
        what = (
            f"mixed orientation: {len(turned_paths)} of {len(slices)} slices are turned or "
            "tilted against the others"
        )
        yield f"{where(turned_paths)}: {what}. {split}"


def _usual(values: Sequence[T]) -> T:
    return Counter(values).most_common(1)[0][0]


def _mixed(
    slices: list[Slice], name: str, values: list[str], differs: list[bool], way: str
) -> Iterable[str]:
    if any(differs):
        counts = ", ".join(f"{v} in {n}" for v, n in Counter(values).most_common(4))
        paths = (s.header.path for s, o in zip(slices, differs, strict=True) if o)
        yield f"{where(paths)}: mixed {name} in one series ({counts} slices). {way}"


def _square(orientation: tuple[float, ...] | None) -> bool:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])  # type: ignore[index]
    return bool(
        abs(row @ row - 1) < 1e-2 and abs(column @ column - 1) < 1e-2 and abs(row @ column) < 1e-2
    )


def _parallel(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Within 0.1 degrees: what rounding in a header can do."""
    return bool(np.abs(np.array(a) - np.array(b)).max() < 2e-3)


def by_place(slices: Sequence[Slice], along: NDArray[np.float64]) -> list[list[Slice]]:
    """Slices (sorted) by place: those of one place together."""
    depths = np.array([s.frame.position for s in slices], np.float64) @ along
    steps = np.diff(depths)
    distances = steps[steps > 0.01]
    same = max(0.01, 0.01 * float(np.median(distances))) if len(distances) else 0.01
    place_numbers = np.concatenate([[0], np.cumsum(steps > same)])
    return [
        [s for _, s in g]
        for _, g in groupby(zip(place_numbers, slices, strict=True), key=lambda pair: pair[0])
    ]


def unlike(headers: Sequence[Header], slices: Sequence[Slice]) -> Iterable[str]:
    """Slices that cannot be one image with the others, since their values or their positions mean
    something else."""
    way = "Export the series again from the archive, or leave it out"
    if len(frames := {h.frame_of_reference for h in headers} - {""}) > 1:
        usual = _usual([h.frame_of_reference for h in headers])
        files = where(h.path for h in headers if h.frame_of_reference not in ("", usual))
        yield (
            f"{files}: the slices lie in {len(frames)} frames of reference, between which "
            f"positions cannot be compared. {way}"
        )
    if (
        len({(h.scales, h.rescaled, h.signed, h.stored) for h in headers}) == 1
        and len(headers[0].scales) <= 1
    ):
        return
    rescaling = [
        (s.header.rescaled or ("",))[s.number if len(s.header.rescaled) > 1 else 0] for s in slices
    ]
    texts = [text or "no rescaling" for text in rescaling]
    yield from _mixed(
        list(slices), "rescaling", texts, [text != _usual(texts) for text in texts], way
    )
    scales = [
        (s.header.scales or ((1.0, 0.0),))[s.number if len(s.header.scales) > 1 else 0]
        for s in slices
    ]
    slopes = [abs(slope) for slope, _ in scales]
    if max(slopes) > 1000 * min(slopes):
        usual_slope = float(np.median(slopes))
        extreme = max(range(len(slopes)), key=lambda i: abs(np.log(slopes[i] / usual_slope)))
        yield (
            f"{slices[extreme].header.path}: RescaleSlope is {scales[extreme][0]:g} where most "
            f"slices have {usual_slope:g}. {way}"
        )
    # equal slopes of values stored alike: the intercept says how much is added to every one of them
    by_storage: dict[tuple[object, ...], list[int]] = {}
    for i, (s, (slope, _)) in enumerate(zip(slices, scales, strict=True)):
        by_storage.setdefault((slope, s.header.signed, s.header.stored), []).append(i)
    for indices in by_storage.values():
        intercepts = [scales[i][1] for i in indices]
        if (
            modality(slices[0].header.modality).hounsfield
            and max(intercepts) - min(intercepts) > INTERCEPT_JUMP_HU
        ):
            differs = [f"{a:g}" != f"{_usual(intercepts):g}" for a in intercepts]
            yield from _mixed(
                [slices[i] for i in indices],
                "RescaleIntercept",
                [f"{a:g}" for a in intercepts],
                differs,
                way,
            )


def even(
    kept: list[Slice], along: NDArray[np.float64]
) -> tuple[list[str], list[str], NDArray[np.float64] | None]:
    """(faults, notes, the step from slice to slice, LPS mm)."""
    paths = [s.header.path for s in kept]
    if len(kept) < FEWEST_SLICES:
        few = "one slice is" if len(kept) == 1 else f"{len(kept)} slices are"
        return (
            [
                f"{where(paths)}: {few} no volume (at least {FEWEST_SLICES} are needed). "
                f"{OTHER_SERIES}, or export the whole series"
            ],
            [],
            None,
        )
    positions = np.array([s.frame.position for s in kept], np.float64)
    depth = positions @ along
    mean = float(depth[-1] - depth[0]) / (len(kept) - 1)
    step = (positions[-1] - positions[0]) / (len(kept) - 1)
    faults, notes = [], []
    deviation = float(np.abs(depth - depth[0] - mean * np.arange(len(kept))).max())
    if deviation > max(0.01, 0.01 * mean):
        if deviation <= min(0.1, 0.1 * mean):
            notes.append(
                f"slice positions stray by up to {deviation:.3f} mm from an even spacing of "
                f"{mean:.3f} mm, as rounding does"
            )
        else:
            faults.append(_uneven(paths, depth))
    sideways = positions - positions[0] - np.outer(depth - depth[0], along)
    if np.abs(sideways).max() > 0.05 + 1e-3 * (depth[-1] - depth[0]):
        faults.append(_leaning(paths, sideways, depth))
    return faults, notes, step


def _uneven(paths: list[str], depth: NDArray[np.float64]) -> str:
    steps = np.diff(depth)
    usual_step = float(np.median(steps))
    ratios, gaps = steps / usual_step, _gaps(steps)
    if len(gaps):
        missing = ", ".join(
            f"{max(1, round(ratios[i]) - 1)} between {depth[i]:.2f} and {depth[i + 1]:.2f} mm "
            f"({paths[i]} and {paths[i + 1]})"
            for i in gaps[:4]
        )
        more = f" and at {len(gaps) - 4} further places" if len(gaps) > 4 else ""
        return (
            f"slices are missing: {missing}{more}. Export the whole series again, or leave it out"
        )
    counts = Counter(f"{s:.2f}" for s in steps)
    text = ", ".join(f"{n} of {value} mm" for value, n in counts.most_common(4))
    worst = int(np.abs(ratios - 1).argmax())
    return (
        f"mixed spacing: the steps between slices differ ({text}), most at {paths[worst]} and "
        f"{paths[worst + 1]}. "
        "Send each part as a series of its own, or leave it out"
    )


THICKEST_STEP_MM = 10.0
"""Slices further apart than this are not interpolated between."""


def regular(
    kept: list[Slice], along: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], str] | None:
    """(depths, sideways shifts, what they are called) of slices whose only fault is that they are
    shifted evenly sideways or unevenly apart; None where they have another one.

    depths: (slices,) mm from the first one; shifts: (slices, 3) LPS mm beside the line through it.
    """
    positions = np.array([s.frame.position for s in kept], np.float64)
    depth = (positions - positions[0]) @ along
    sideways = positions - positions[0] - np.outer(depth, along)
    steps = np.diff(depth)
    if len(kept) < FEWEST_SLICES or steps.min() <= 0.01 or steps.max() > THICKEST_STEP_MM:
        return None
    if len(_gaps(steps)):
        return None
    slope = (depth @ sideways) / (depth @ depth)
    tolerance = 0.05 + 1e-3 * depth[-1]
    if np.abs(sideways - np.outer(depth, slope)).max() > tolerance:
        return None
    names = []
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    if np.abs(sideways).max() > tolerance:
        names.append(f"a gantry tilt of {angle:.1f} degrees")
    if np.abs(steps - np.median(steps)).max() > 0.1 * float(np.median(steps)):
        names.append(f"steps of {steps.min():.2f} to {steps.max():.2f} mm")
    return depth, sideways, " and ".join(names) or "slices that stray"


def _gaps(steps: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where slices are missing: few steps are some times as wide as the others, which are even."""
    ratios = steps / float(np.median(steps))
    gaps = np.flatnonzero(ratios > 1.5)
    if len(gaps) > max(1, len(steps) // 4) or (np.abs(np.delete(ratios, gaps) - 1) >= 0.2).any():
        return np.empty(0, np.int64)
    return gaps


def _leaning(paths: list[str], sideways: NDArray[np.float64], depth: NDArray[np.float64]) -> str:
    distance = depth - depth[0]
    slope = (distance @ sideways) / (distance @ distance)
    residual = np.abs(sideways - np.outer(distance, slope)).max(axis=1)
    if residual.max() <= 0.05 + 1e-3 * distance[-1]:
        angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
        return (
            f"{where(paths)}: gantry tilt: the slices are shifted sideways as if sheared by "
            f"{angle:.1f} degrees. "
            "Send the tilt-corrected reconstruction, or leave it out"
        )
    worst = int(residual.argmax())
    return (
        f"{paths[worst]}: its position lies {residual[worst]:.1f} mm beside the line of the other "
        "slices. "
        "Export the series again from the archive, or leave it out"
    )
