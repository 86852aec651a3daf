"""Series ranking within one examination: which is taken for each of the study's channels, and why
an examination cannot be used.

Pure. Of several usable series of a sequence, the one that an expert's segmentation was drawn on is
taken, else of CT a diagnostic one, else an original before what was computed from it, else of CT the
portal venous phase, then a soft kernel, else the one with most slices, the thinnest, the first by
uid or path. The rule that is told is the first in which the best and the next best differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath

from client.imaging.dicom import ct_phase
from client.imaging.geometry.volumes import Series
from client.imaging.selection.case import Case, Rejection
from common.data.modality import modality
from common.data.schema import Imaging
from common.errors import Fault

Preference = tuple[int, int, int]
"""Purpose, contrast phase, kernel: the smaller, the better."""
Key = tuple[bool, int, int, int, int, int, float, str]
"""By which series are ranked, rule after rule, see `_reason`."""

PHASES = ("portal venous", "enhanced", "", "delayed", "arterial", "native")
"""For metastases of the abdomen: liver and vessels are told apart best in the portal venous
phase."""
KERNELS = ("soft", "", "sharp")

LIVER_MM = 150.0
"""About its height: a series that reaches so far has it."""

LEAST_SLICES = 5
"""Guard D06: fewer slices than a 2.5D network takes are no volume."""


def examination(
    patient: str,
    channels: Mapping[str, Sequence[Series]],
    outlined: Collection[str],
    levels: Mapping[str, int],
    preferences: Mapping[str, Preference],
    broken: Sequence[tuple[str, Fault]],
    imaging: Imaging,
) -> tuple[Case, list[Rejection], list[tuple[str, str]]]:
    """The best series of each channel; why the examination cannot be used; what is to be said.

    outlined: uids of the series that a segmentation was drawn on; levels, preferences: of each
    series, see there.
    """

    def astray(series: Series) -> bool:
        return elsewhere(series, imaging)

    def key(series: Series) -> Key:
        return (
            series.uid not in outlined,
            preferences[series.uid][0],
            levels[series.uid],
            *preferences[series.uid][1:],
            -slices(series),
            _thickness(series),
            series.uid,
        )

    taken: dict[str, Series] = {}
    rejections: list[Rejection] = []
    remarks: list[tuple[str, str]] = []
    for name in (c.name for c in imaging.channels):
        if name not in channels:
            continue
        ranked = sorted(channels[name], key=key)
        usable = [s for s in ranked if not why_unusable(s)]
        if not usable:
            whole = [s for s in ranked if not _scout(s)]
            if ranked and not whole:
                text = _only_a_localizer(ranked[0])
                rejections.append(("D06", text))
                continue
            texts = (
                [t for s in whole for t in why_unusable(s)]
                or [str(fault) for _, fault in broken]
                or [f"D00 channel '{name}' of {patient}"]
            )
            rejections.append((_code(texts[0]), texts[0]))
            continue
        best = taken[name] = usable[0]
        first = ranked[0]
        if first is not best:
            text = f"patient {patient}: {best.files[0]} is used, since {why_unusable(first)[0]}"
            remarks.append(("another series stands in for one that cannot be used, D06", text))
        elif len(usable) > 1:
            reason = _reason(key(best), key(usable[1]), (best, usable[1]), astray(usable[1]))
            text = (
                f"patient {patient}: {len(usable)} series of '{name}', {reason} is used: "
                f"{best.files[0]}"
            )
            remarks.append((f"of several series of a sequence {reason} is used", text))
        if astray(best):
            text = (
                f"patient {patient}: BodyPartExamined is {best.headers[0].body_part}, used: "
                f"{best.files[0]}"
            )
            remarks.append(("an image is used whose header names another part of the body", text))
    used = {str(PurePath(f).parent) for s in taken.values() if s.kind == "dicom" for f in s.files}
    others = {
        str(PurePath(f).parent)
        for ss in channels.values()
        for s in ss
        if s not in taken.values()
        for f in s.files
    }
    # an unreadable file among a series' own may be one of its slices
    rejections += [
        (fault.code, str(fault))
        for path, fault in broken
        if str(PurePath(path).parent) in used - others
    ][:1]
    return Case(patient, taken), rejections, remarks


def _reason(best: Key, other: Key, pair: tuple[Series, Series], other_astray: bool) -> str:
    """The rule by which the best series comes before the next one."""
    rule = next(n for n, (a, b) in enumerate(zip(best, other, strict=True)) if a != b)
    first, second = (s.headers[0] if s.headers else None for s in pair)
    level = "the least derived one"
    if other_astray:
        level = "the one of the study's part of the body"
    elif second and _derived(second.image_type) < other[2]:
        level = "the one that reaches further"
    phase = (ct_phase.phase(first) if first else "") or "unknown"
    return (
        "the one that a segmentation refers to",
        "the diagnostic one",
        level,
        f"the one of the preferred phase ({phase})",
        "the one with the softer kernel",
        "the one with most slices",
        "the one with the thinnest slices",
        "the first by uid or path, since nothing else tells them apart,",
    )[rule]


def preferences(series: Sequence[tuple[str, Series]]) -> dict[str, Preference]:
    """(study, series) of one patient -> how far each CT is from a diagnostic, portal venous, soft
    one; of other modalities nothing is preferred.

    A CT beside a PET was taken for attenuation, unless it names a contrast agent or a phase.
    """
    with_pet = {s.study for _, s in series if any(h.declared_modality == "PT" for h in s.headers)}
    out: dict[str, Preference] = {}
    for _, s in series:
        first = s.headers[0] if s.headers else None
        if first is None or not modality(s.modality).hounsfield or s.kind != "dicom":
            out[s.uid] = (0, 0, 0)
            continue
        phase = ct_phase.phase(first)
        purpose = 2 if ct_phase.purpose(first) else 0
        if s.study in with_pet and phase in ("", "native"):
            purpose += 1
        out[s.uid] = (purpose, PHASES.index(phase), KERNELS.index(ct_phase.kernel(first)))
    return out


def _thickness(series: Series) -> float:
    frames = series.headers[0].frames if series.headers else ()
    return (frames[0].thickness if frames else None) or 0.0


def _scout(series: Series) -> bool:
    """Is it a localizer, by ImageType, or by its description and too few slices?"""
    words = {w for h in series.headers for w in h.image_type}
    few = bool(why_unusable(series)) and slices(series) < LEAST_SLICES
    return bool(words & {"LOCALIZER", "SCOUT"}) or (
        few and bool(ct_phase.SCOUT.search(series.headers[0].description if series.headers else ""))
    )


def _only_a_localizer(series: Series) -> str:
    return (
        f"D06 {series.files[0]}: no usable {series.modality}: only a localizer, which plans a scan "
        "and is no volume. Export the scan too"
    )


def levels(series: Sequence[Series], imaging: Imaging) -> dict[str, int]:
    """How far each series is from what was measured: 0 for ORIGINAL, PRIMARY; one more for DERIVED,
    and for SECONDARY.

    A series that reaches over less than half of the widest one, and less than a liver (a contrast
    bolus that was watched),
    or that is of another part of the body (the lungs of a patient whose liver is asked about), is
    not preferred to any.
    """
    reach = {s.uid: _reach(s) for s in series}
    widest = max(reach.values(), default=0.0)
    out = {}
    for s in series:
        short = reach[s.uid] < min(0.5 * widest, LIVER_MM)
        out[s.uid] = (
            2
            if short or elsewhere(s, imaging)
            else _derived(s.headers[0].image_type if s.headers else ())
        )
    return out


def _derived(image_type: Sequence[str]) -> int:
    return ("DERIVED" in image_type[:2]) + ("SECONDARY" in image_type[:2])


def elsewhere(series: Series, imaging: Imaging) -> bool:
    """Does the header name a part of the body that is not the study's? Where it names none, or the
    study none, it does not."""
    part = series.headers[0].body_part if series.headers else ""
    return bool(part and imaging.body) and not any(word in part for word in imaging.body)


def _reach(series: Series) -> float:
    """mm from the first slice of a DICOM series to its last one; 0 where there are none."""
    positions = [f.position for h in series.headers for f in h.frames if f.position is not None]
    return (
        math.dist(map(min, zip(*positions, strict=True)), map(max, zip(*positions, strict=True)))
        if positions
        else 0.0
    )


def slices(series: Series) -> int:
    """Of a volume in one file, those along the axis of the widest steps."""
    if series.kind == "nifti" and series.geometry is not None:
        steps = series.geometry.spacing_mm
        return series.geometry.shape[steps.index(max(steps))]
    return len(series.slices) or (
        series.geometry.shape[0] if series.geometry else len(series.files)
    )


def why_unusable(series: Series) -> tuple[str, ...]:
    """Its faults, or that it has too few slices; none where it can be used."""
    if series.faults:
        return series.faults
    thin = min(series.geometry.shape) if series.geometry else len(series.files)
    if thin < LEAST_SLICES:
        return (
            f"D06 {series.files[0]}: the series has {thin} slices, at least {LEAST_SLICES} are "
            "needed. Export the whole series",
        )
    return ()


def _code(text: str) -> str:
    match = re.match(r"\[?(D\d\d)\b", text)
    return match.group(1) if match else "D06"
