"""Series selection: which of a folder's series are a patient's image, by the patient's key, the
study's channels and what an expert outlined.

Pure: headers in, cases out. Which examination counts is said by a date or by the study
(`client.imaging.selection.examinations`); a patient's channels come from one study and frame of
reference of it. Of several usable series of a sequence one is taken
(`client.imaging.selection.series_ranking`). Nothing is passed over without a word.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath

from client.imaging.dicom.seg_reference import drawn_on, settled
from client.imaging.dicom.slice_geometry import OTHER_SERIES
from client.imaging.geometry.volumes import Header, Series
from client.imaging.selection import mr_contrast
from client.imaging.selection.case import Case, Rejection
from client.imaging.selection.examinations import (
    Choice,
    PatientSeries,
    Rule,
    Taken,
    blanked_days,
    strays,
)
from client.imaging.selection.identifiers import Keys, is_mask, named
from client.imaging.selection.series_ranking import (
    examination,
    levels,
    preferences,
    slices,
    why_unusable,
)
from client.table.dates import DateColumn
from common.data.modality import modality
from common.data.schema import Imaging
from common.errors import Fault, raise_faults

FrameKey = tuple[str, str]
"""Study and frame of reference."""

FRAME_RULES = (
    "that can be used",
    "that [images] series names",
    "that a segmentation refers to",
    "with most sequences",
    "with a diagnostic CT",
    "with the least derived series",
    "of the preferred contrast phase",
    "with the softer kernel",
    "with most slices",
    "with the first uid or path, since nothing else tells them apart",
    "with the first frame of reference, since nothing else tells them apart",
)
"""By which frames of reference are ranked: one for each part of `_Ranked.rank`."""

BrokenFile = tuple[str, Fault]
"""The path of a file that cannot be read, and why."""


@dataclass
class Selection:
    """The cases of a folder, and what became of all that is in none."""

    cases: dict[str, Case] = field(default_factory=dict)
    rejections: dict[str, list[Rejection]] = field(default_factory=lambda: defaultdict(list))
    """Patient -> why there is no case of theirs."""
    remarks: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """Patient -> (what is counted, what is written to the site's log), though the image is used."""
    taken: dict[str, Taken] = field(default_factory=dict)
    """Patient -> how the examination of their case was chosen."""
    unlinked: list[Fault] = field(default_factory=list)
    """Files that cannot be read, and of which it is not known whose they are."""
    strangers: tuple[str, ...] = ()
    """Ids of images that the table does not know."""
    unnamed: int = 0
    """NIfTI files whose path tells no id or no sequence."""


def choose(
    series: Sequence[Series],
    headers: Sequence[Header],
    broken: Sequence[BrokenFile],
    keys: Keys,
    imaging: Imaging,
    table: Collection[str],
    dates: DateColumn | None = None,
) -> Selection:
    """One case a patient of `table` as far as the images go. `broken`: files that cannot be read,
    with the reason; `dates`: the column that the mapping names. Raises DataError where that says
    nothing."""
    out, keys = Selection(), keys.beside(table)
    by_patient: dict[str, list[PatientSeries]] = defaultdict(list)
    broken = list(broken)
    for single in mr_contrast.settled(series):
        patient, study = keys.of(single)
        as_mask = _is_mask(single, keys)
        channel = _channel(single, keys, imaging, as_mask)
        single = replace(single, channel=channel, modality="SEG" if as_mask else single.modality)
        if single.kind == "nifti" and not as_mask and (not channel or not patient):
            out.unnamed += 1
        elif patient:
            by_patient[patient].append((study, single))
        elif single.modality != "other":
            broken.append((single.files[0], _nobody(single, keys)))
    linked = _linked(broken, headers, keys, table, out)
    _of_several_hospitals(by_patient, keys, out)
    out.strangers = tuple(sorted(by_patient.keys() - set(table)))
    patients = [
        _Patient(i, by_patient.get(i, []), linked.get(i, []), keys, imaging)
        for i in sorted((by_patient.keys() | linked.keys()) & set(table))
    ]
    if dates is not None and dates.fault is not None and any(p.candidates for p in patients):
        raise_faults([dates.fault])
    blanked = blanked_days([s for _, s in p.candidates] for p in patients)
    rule = Rule(keys.spec, imaging, dates, blanked)
    choices = {
        p.id: rule.choice(p.id, p.candidates, preferences(p.series), [path for path, _ in p.broken])
        for p in patients
    }
    by_chance = strays(choices, rule)
    for one in patients:
        choice = choices[one.id]
        if one.id in by_chance:
            choice = Choice(rejection=by_chance[one.id])
        one.select(choice, out)
    return out


def _of_several_hospitals(
    by_patient: Mapping[str, Sequence[PatientSeries]], keys: Keys, out: Selection
) -> None:
    """Images of an id that several hospitals have, of which nothing tells whose they are, are
    nobody's (D05)."""
    for plain in sorted(by_patient.keys() & keys.owners.keys()):
        patients = [p for p in keys.owners[plain] if p not in by_patient]
        if len(keys.owners[plain]) < 2 or keys.spec.site_pattern or not patients:
            continue
        text = (
            f"D05 {by_patient[plain][0][1].files[0]}: it is of '{plain}', which "
            f"{len(keys.owners[plain])} hospitals have, and nothing tells of which one. Name the "
            "hospital in the path, and site_pattern in [images] of the source mapping"
        )
        for patient in patients:
            out.rejections[patient].append(("D05", text))


def _is_mask(series: Series, keys: Keys) -> bool:
    """Is it a NIfTI label map, by the mapping's pattern?"""
    return series.kind == "nifti" and is_mask(keys.inside(series.uid), keys.spec)


def _nobody(series: Series, keys: Keys) -> Fault:
    pattern = (
        f", or does not fit id_pattern {keys.spec.id_pattern!r}" if keys.spec.id_pattern else ""
    )
    what = f"the {series.modality} series names no patient: {keys.spec.id} is empty{pattern}"
    return Fault(
        "D05",
        series.files[0],
        what,
        "Export it with the id that the table has, or correct [images] of the source mapping",
    )


def _channel(series: Series, keys: Keys, imaging: Imaging, as_mask: bool) -> str:
    """The study's channel that a series is, or ''."""
    if as_mask or series.modality == "SEG":
        return ""
    if series.kind == "nifti":
        return named(keys.inside(series.uid), keys.spec.channels)
    same = [c.name for c in imaging.channels if c.modality == series.modality]
    named_so, passed_over = keys.called(series)
    if passed_over:
        return ""
    if named_so in same:
        return named_so
    if series.channel in same:
        return series.channel
    # a study with one CT channel means any CT, whatever it calls it
    return same[0] if modality(series.modality).channel and len(same) == 1 else ""


def _linked(
    broken: Sequence[BrokenFile],
    headers: Sequence[Header],
    keys: Keys,
    table: Collection[str],
    out: Selection,
) -> dict[str, list[BrokenFile]]:
    """Broken files by patient: as their path tells, or as the readable files around them do."""
    around: dict[str, set[str]] = defaultdict(set)
    if broken:
        for h in headers:
            patient = keys.parse(
                keys.inside(h.path) if h.kind == "nifti" or keys.spec.id == "path" else h.patient
            )[0]
            for folder in PurePath(h.path).parents:
                around[str(folder)].add(keys.owner(patient, h.path))
    linked: dict[str, list[BrokenFile]] = defaultdict(list)
    for path, fault in broken:
        patients_in_path = {
            keys.owner(keys.parse(part)[0], path)
            for part in (keys.inside(path), *PurePath(keys.inside(path)).parts)
        } & set(table)
        patients_nearby = next(
            (around[str(f)] for f in PurePath(path).parents if around.get(str(f))), set()
        )
        if len(patients_in_path) == 1:
            linked[patients_in_path.pop()].append((path, fault))
        elif len(patients_nearby) == 1 and (patient := next(iter(patients_nearby))):
            linked[patient].append((path, fault))
        else:
            out.unlinked.append(fault)
    return linked


@dataclass(frozen=True)
class _Patient:
    """One patient's series and broken files, out of which one examination is taken."""

    id: str
    series: Sequence[PatientSeries]
    broken: Sequence[BrokenFile]
    keys: Keys
    imaging: Imaging

    @cached_property
    def candidates(self) -> tuple[PatientSeries, ...]:
        """The series of the study's channels, of the examinations that the mapping looks at."""
        return tuple(
            (study, series)
            for study, series in self.series
            if series.channel and self._looked_at(study)
        )

    def _looked_at(self, study: str) -> bool:
        pattern = self.keys.spec.study
        return not pattern or re.fullmatch(pattern, study) is not None

    def select(self, choice: Choice, out: Selection) -> None:
        """The patient's case, or why there is none."""
        if choice.rejection is not None:
            out.rejections[self.id].append(choice.rejection)
            return
        frames = self._frames(choice)
        if not frames:
            self._none(out)
            return
        segmentations = self._segmentations()
        ranked = self._ranked(frames, segmentations)
        best = ranked[0]
        if best.rejections:
            out.rejections[self.id] += best.rejections
            return
        out.cases[self.id] = best.case
        if choice.taken is not None:
            out.taken[self.id] = choice.taken
        out.remarks[self.id] += [
            *best.remarks,
            *(
                ("an examination of another part of the body is not looked at", e.told)
                for e in choice.elsewhere
            ),
            *(
                ("a series that not_series names is not looked at", f"{self.id}: {s.files[0]}")
                for _, s in self.series
                if s.modality != "SEG" and self.keys.called(s)[1]
            ),
            *self._on_other_frames(best, ranked[1:]),
            *self._on_masks(best, segmentations),
            *(
                (f"another file of the patient cannot be used, {fault.code}", str(fault))
                for _, fault in self.broken
            ),
        ]

    def _frames(self, choice: Choice) -> dict[FrameKey, dict[str, list[Series]]]:
        """The series of the chosen examination, and those that can be used in none, by frame of
        reference and channel; a channel without any is one whose only file cannot be read."""
        chosen = choice.examination.series if choice.examination else ()
        uids = {series.uid for _, series in chosen}
        # a frame of reference is one place, also where the day's studies are several
        homes: dict[str, str] = {}
        for study, series in chosen:
            homes.setdefault(series.frame_of_reference, study)
        homes.pop("", None)
        frames: dict[FrameKey, dict[str, list[Series]]] = defaultdict(dict)
        unusable = [
            (study, series)
            for study, series in self.candidates
            if series.uid not in uids and why_unusable(series)
        ]
        for study, series in (*chosen, *unusable):
            frame = series.frame_of_reference
            home = homes.get(frame, study) if series.uid in uids else study
            frames[home, frame].setdefault(series.channel, []).append(series)
        spec = self.keys.spec
        for path, _ in self.broken:
            # a NIfTI file that cannot be read is still a sequence that ought to be there
            inside = self.keys.inside(path)
            channel = named(inside, spec.channels)
            if channel and not is_mask(inside, spec):
                study = self.keys.parse(inside)[1] or str(PurePath(path).parent)
                if self._looked_at(study):
                    frames[study, ""].setdefault(channel, [])
        return frames

    def _segmentations(self) -> list[Series]:
        images = [series for _, series in self.series if series.modality != "SEG"]
        return [settled(series, images) for _, series in self.series if series.modality == "SEG"]

    def _none(self, out: Selection) -> None:
        """Why there is no image at all of the patient."""
        modalities = Counter(
            series.modality for _, series in self.series if series.modality not in ("SEG", "other")
        )
        wanted = " or ".join(dict.fromkeys(c.modality for c in self.imaging.channels))
        others = [(study, series) for study, series in self.series if series.channel]
        if others:
            names = ", ".join(dict.fromkeys(repr(study) for study, _ in others))
            text = (
                f"L01 {others[0][1].files[0]}: none of the patient's examinations ({names}) is one "
                f"that [images] study = {self.keys.spec.study!r} names. Correct it, or export the "
                "one that is meant"
            )
            out.rejections[self.id].append(("L01", text))
        elif self.broken:
            fault = self.broken[0][1]
            out.rejections[self.id].append((fault.code, str(fault)))
        elif modalities:
            counts = ", ".join(f"{n} {m}" for m, n in sorted(modalities.items()))
            file = next(
                series.files[0] for _, series in self.series if series.modality in modalities
            )
            text = (
                f"D06 {file}: the patient has no {wanted} sequence that the study asks for "
                f"(there are {counts}{self._passed_over}). Export it too"
            )
            out.rejections[self.id].append(("D06", text))
        elif self.series:
            out.remarks[self.id].append(
                ("no image among the patient's files", f"patient {self.id}: no {wanted} series")
            )

    @property
    def _passed_over(self) -> str:
        count = sum(
            series.modality != "SEG" and self.keys.called(series)[1] for _, series in self.series
        )
        return f"; {count} of them are named by not_series" if count else ""

    def _ranked(
        self,
        frames: Mapping[FrameKey, Mapping[str, Sequence[Series]]],
        segmentations: Sequence[Series],
    ) -> list[_Ranked]:
        """All of `frames`, the best one first."""
        images = [series for _, series in self.series if series.modality != "SEG"]
        usable_masks = [seg for seg in segmentations if not seg.faults]
        outlined = {
            series.uid for series in images if any(drawn_on(seg, series) for seg in usable_masks)
        }
        derivation: dict[str, int] = {}
        for channel in self.imaging.channels:
            alike = [
                series for channels in frames.values() for series in channels.get(channel.name, ())
            ]
            derivation |= levels(alike, self.imaging)
        preferred = preferences(self.series, self.keys)
        studies = {study for study, series in self.series if series.channel}
        alone = len(studies | {study for study, _ in frames}) == 1
        ranked = []
        for (study, frame), channels in frames.items():
            case, rejections, remarks = examination(
                self.id, channels, outlined, derivation, preferred, self.broken, self.imaging
            )
            masks = _masks(case, usable_masks, study, self.keys, self.series, alone)
            level = sum(derivation[s.uid] for s in case.channels.values())
            count = sum(map(slices, case.channels.values()))
            wishes = [preferred[s.uid] for s in case.channels.values()]
            called, purpose, phase, kernel = (sum(w[n] for w in wishes) for n in range(4))
            rank = (
                bool(rejections), called, not masks, -len(case.channels), purpose, level, phase,
                kernel, -count, study, frame,
            )  # fmt: skip
            ranked.append(_Ranked(rank, study, replace(case, masks=masks), rejections, remarks))
        return sorted(ranked, key=lambda r: r.rank)

    def _on_other_frames(self, best: _Ranked, others: Sequence[_Ranked]) -> list[tuple[str, str]]:
        remarks = []
        if others:
            more = {
                name for other in others for name in other.case.channels
            } - best.case.channels.keys()
            if more:
                names = ", ".join(sorted(more))
                text = (
                    f"D07 patient {self.id}: {names} of another frame of reference cannot be laid "
                    "over the others: left out"
                )
                remarks.append(
                    (
                        "a sequence is left out, since it is of another frame of reference, D07",
                        text,
                    )
                )
            else:
                rule = next(
                    name
                    for name, a, b in zip(FRAME_RULES, best.rank, others[0].rank, strict=True)
                    if a != b
                )
                text = (
                    f"patient {self.id}: {len(others) + 1} studies or frames of reference, the one "
                    f"{rule} is used: {best.case.files[0]}"
                )
                what = f"of several studies or frames of reference the one {rule} is used"
                remarks.append((what, text))
        broken_texts = {str(fault) for _, fault in self.broken}
        for other in others:
            for code, text in other.rejections:
                if text not in broken_texts and OTHER_SERIES not in text:
                    remarks.append(
                        (f"another examination of the patient cannot be used, {code}", text)
                    )
        return remarks

    def _on_masks(self, best: _Ranked, segmentations: Sequence[Series]) -> list[tuple[str, str]]:
        remarks = []
        elsewhere = {
            series.uid
            for study, series in self.series
            if series.kind == "nifti" and study != best.study
        }
        for seg in best.case.masks:
            if seg.uid in elsewhere and any(
                series.kind == "nifti" for series in best.case.channels.values()
            ):
                text = (
                    f"patient {self.id}: {seg.files[0]} is taken for the patient's only "
                    f"examination, {best.case.files[0]}"
                )
                remarks.append(
                    ("a label map of another folder is taken for the only examination", text)
                )
        for seg in segmentations:
            if seg not in best.case.masks:
                why = (
                    "; ".join(seg.faults)
                    or "it refers to another image than the one that is used, or to none that is "
                    "there"
                )
                where = seg.files[0] if seg.files else seg.uid
                text = f"D05 {where}: {why}. Export the image that it was drawn on"
                remarks.append(("a segmentation is set aside, D05", text))
        return remarks


@dataclass(frozen=True)
class _Ranked:
    """One study and frame of reference of an examination: the smaller `rank`, the better."""

    rank: tuple[bool, int, bool, int, int, int, int, int, int, str, str]
    study: str
    case: Case
    rejections: Sequence[Rejection]
    remarks: Sequence[tuple[str, str]]


def _masks(
    case: Case,
    segmentations: Sequence[Series],
    study: str,
    keys: Keys,
    series: Sequence[PatientSeries],
    alone: bool,
) -> tuple[Series, ...]:
    """The segmentations of the image that is used: DICOM ones by what they refer to, label maps by
    patient and examination.

    alone: the patient has no other examination, so that a label map whose path names none is of
    this one (its grid must still be the image's).
    """
    used = case.channels.values()
    frames = {s.frame_of_reference for s in used} - {""}
    nifti = any(s.kind == "nifti" for s in used)
    studies = {single.uid: study_of for study_of, single in series}
    masks = []
    for seg in segmentations:
        if seg.kind == "nifti":
            unnamed_study = not keys.parse(keys.inside(seg.files[0]))[1]
            belongs = not nifti or studies[seg.uid] == study or (alone and unnamed_study)
        else:
            # by place alone it could as well be another phase's
            alike = (
                not seg.references
                and not any("#" in s.uid for s in used)
                and seg.frame_of_reference in frames
            )
            belongs = any(drawn_on(seg, s) for s in used) or alike
        if belongs:
            masks.append(seg)
    return tuple(sorted(masks, key=lambda s: s.uid))
