"""Series ranking within one examination: which is taken for each of the study's channels, and why
an examination cannot be used.

Pure. Of several usable series of a sequence, the one that an expert's segmentation was drawn on is
taken, else an original before what was computed from it, else the one with most slices, else the
first by uid or path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath

from client.imaging.geometry.volumes import Series
from client.imaging.selection.case import Case, Rejection
from common.data.schema import Imaging
from common.errors import Fault

LEAST_SLICES = 5
"""Guard D06: fewer slices than a 2.5D network takes are no volume."""


def examination(
    patient: str,
    channels: Mapping[str, Sequence[Series]],
    outlined: Collection[str],
    levels: Mapping[str, int],
    broken: Sequence[tuple[str, Fault]],
    imaging: Imaging,
) -> tuple[Case, list[Rejection], list[tuple[str, str]]]:
    """The best series of each channel; why the examination cannot be used; what is to be said.

    outlined: uids of the series that a segmentation was drawn on; levels: of each series, see
    there.
    """

    def astray(series: Series) -> bool:
        return elsewhere(series, imaging)

    taken: dict[str, Series] = {}
    rejections: list[Rejection] = []
    remarks: list[tuple[str, str]] = []
    for name in (c.name for c in imaging.channels):
        if name not in channels:
            continue
        ranked = sorted(
            channels[name], key=lambda s: (s.uid not in outlined, levels[s.uid], -slices(s), s.uid)
        )
        usable = [s for s in ranked if not _faults(s)]
        if not usable:
            texts = (
                [t for s in ranked for t in _faults(s)]
                or [str(fault) for _, fault in broken]
                or [f"D00 channel '{name}' of {patient}"]
            )
            rejections.append((_code(texts[0]), texts[0]))
            continue
        best = taken[name] = usable[0]
        first = ranked[0]
        if first is not best and (
            first.uid in outlined
            or levels[first.uid] < levels[best.uid]
            or slices(first) >= slices(best)
        ):
            text = f"patient {patient}: {best.files[0]} is used, since {_faults(first)[0]}"
            remarks.append(("another series stands in for one that cannot be used, D06", text))
        elif len(usable) > 1:
            reason = (
                "the one that a segmentation refers to"
                if best.uid in outlined
                else "the one with most slices"
            )
            if best.uid not in outlined and slices(best) < max(map(slices, usable)):
                longer = [s for s in usable if slices(s) > slices(best)]
                reason = (
                    "the one of the study's part of the body"
                    if all(map(astray, longer))
                    else "the least derived one"
                )
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


def levels(series: Sequence[Series], imaging: Imaging) -> dict[str, int]:
    """How far each series is from what was measured: 0 for ORIGINAL, PRIMARY; one more for DERIVED,
    and for SECONDARY.

    A series that reaches over less than half of the widest one (a contrast bolus that was watched),
    or that is of another part of the body (the lungs of a patient whose liver is asked about), is
    not preferred to any.
    """
    reach = {s.uid: _reach(s) for s in series}
    widest = max(reach.values(), default=0.0)
    out = {}
    for s in series:
        image_type = s.headers[0].image_type[:2] if s.headers else ()
        short = reach[s.uid] < 0.5 * widest
        out[s.uid] = (
            2
            if short or elsewhere(s, imaging)
            else ("DERIVED" in image_type) + ("SECONDARY" in image_type)
        )
    return out


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
    return len(series.slices) or (
        series.geometry.shape[0] if series.geometry else len(series.files)
    )


def _faults(series: Series) -> tuple[str, ...]:
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
