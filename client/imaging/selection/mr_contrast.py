"""Contrast of T1-weighted MR series in the company of the other T1 series of their examination.

Many scanners write ContrastBolusAgent into every series of a protocol that has an injection, or
into none. Where one T1 is called "+C" the others are told by it and by when they were taken: before
it, without contrast; after it, with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from client.imaging.dicom import mr_sequence
from client.imaging.geometry.volumes import Series


def settled(series: Sequence[Series]) -> list[Series]:
    """The same series; of T1 series whose description says neither, the channel as the others of
    the examination tell it, with a note of why."""
    injections: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for single in series:
        if _t1(single) and _words(single) == "after":
            injections[single.patient, single.study].append(single)
    return [_settled(s, injections.get((s.patient, s.study), ())) for s in series]


def _settled(single: Series, injections: Sequence[Series]) -> Series:
    if not injections or not _t1(single) or _words(single) == "after":
        return single
    taken = _time(single)
    known = [time for s in injections if (time := _time(s)) is not None]
    late = taken is not None and bool(known) and taken > min(known)
    if _words(single) == "before":
        late = False
    channel = "t1c" if late else "t1n"
    if channel == single.channel:
        return single
    how = "later than" if late else "not after"
    note = (
        f"MR channel: {channel} rather than {single.channel or 'T1 that nothing tells'}: taken "
        f"{how} the T1 that is called one after contrast"
    )
    return replace(single, channel=channel, notes=(*single.notes, note))


def _t1(single: Series) -> bool:
    undecided = any(note.startswith("MR channel: T1, but") for note in single.notes)
    return bool(single.headers) and (single.channel in ("t1n", "t1c") or undecided)


def _words(single: Series) -> str:
    return mr_sequence.contrast_words(single.headers[0])


def _time(single: Series) -> float | None:
    """AcquisitionTime of its first slice, as HHMMSS.ffffff."""
    times = []
    for header in single.headers:
        for frame in header.frames:
            text = dict(frame.traits).get("AcquisitionTime", "")
            if text.replace(".", "", 1).isdigit():
                times.append(float(text))
    return min(times, default=None)
