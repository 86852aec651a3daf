"""Which of a folder's series are a patient's image: by the patient's key, the study's channels, and what an expert outlined.

Pure: headers in, cases out. A patient's channels come from one examination (one study, one frame of reference). Of several usable
series of a sequence one is taken (`client.imaging.selection.series_ranking`). Nothing is passed over without a word.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from client.imaging.dicom.seg_reference import drawn_on, settled
from client.imaging.dicom.slice_geometry import OTHER_SERIES
from client.imaging.geometry.volumes import Header, Series
from client.imaging.selection.case import Case, Trouble
from client.imaging.selection.identifiers import Keys, named
from client.imaging.selection.series_ranking import examination, levels, slices
from common.data.modality import modality
from common.data.schema import Imaging
from common.errors import Fault

Exam = tuple[str, str]
"""Study and frame of reference."""


@dataclass
class Chosen:
    cases: dict[str, Case] = field(default_factory=dict)
    troubles: dict[str, list[Trouble]] = field(default_factory=lambda: defaultdict(list))
    """Patient -> why there is no case of theirs."""
    remarks: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """Patient -> (what is counted, what is written to the site's log), though the image is used."""
    unlinked: list[Fault] = field(default_factory=list)
    """Files that cannot be read, and of which it is not known whose they are."""
    strangers: tuple[str, ...] = ()
    """Ids of images that the table does not know."""
    unnamed: int = 0
    """NIfTI files whose path tells no id or no sequence."""


def choose(
    series: Sequence[Series],
    headers: Sequence[Header],
    broken: Sequence[tuple[str, Fault]],
    keys: Keys,
    imaging: Imaging,
    table: Collection[str],
) -> Chosen:
    """One case a patient of `table` as far as the images go. `broken`: files that cannot be read, with the reason."""
    out = Chosen()
    mine: dict[str, list[tuple[str, Series]]] = defaultdict(list)
    broken = list(broken)
    for one in series:
        patient, study = keys.of(one)
        as_mask = one.kind == "nifti" and bool(keys.spec.mask) and bool(named(keys.inside(one.uid), {"mask": keys.spec.mask}))
        one = replace(one, channel=_channel(one, keys, imaging, as_mask), modality="SEG" if as_mask else one.modality)
        if one.kind == "nifti" and not as_mask and (not one.channel or not patient):
            out.unnamed += 1
        elif patient:
            mine[patient].append((study, one))
        elif one.modality != "other":
            broken.append((one.files[0], _nobody(one, keys)))
    linked = _linked(broken, headers, keys, table, out)
    out.strangers = tuple(sorted(mine.keys() - set(table)))
    for patient in sorted((mine.keys() | linked.keys()) & set(table)):
        _choose_one(patient, mine.get(patient, []), linked.get(patient, []), keys, imaging, out)
    return out


def _nobody(series: Series, keys: Keys) -> Fault:
    pattern = f", or does not fit id_pattern {keys.spec.id_pattern!r}" if keys.spec.id_pattern else ""
    what = f"the {series.modality} series names no patient: {keys.spec.id} is empty{pattern}"
    return Fault("D05", series.files[0], what, "Export it with the id that the table has, or correct [images] of the source mapping")


def _channel(series: Series, keys: Keys, imaging: Imaging, as_mask: bool) -> str:
    """The study's channel that a series is, or ''."""
    if as_mask or series.modality == "SEG":
        return ""
    if series.kind == "nifti":
        return named(keys.inside(series.uid), keys.spec.channels)
    same = [c.name for c in imaging.channels if c.modality == series.modality]
    if series.channel in same:
        return series.channel
    # a study with one CT channel means any CT, whatever it calls it
    return same[0] if modality(series.modality).channel and len(same) == 1 else ""


def _linked(
    broken: Sequence[tuple[str, Fault]], headers: Sequence[Header], keys: Keys, table: Collection[str], out: Chosen
) -> dict[str, list[tuple[str, Fault]]]:
    """Broken files by patient: as their path tells, or as the readable files around them do."""
    around: dict[str, set[str]] = defaultdict(set)
    if broken:
        for h in headers:
            patient = keys.parse(keys.inside(h.path) if h.kind == "nifti" or keys.spec.id == "path" else h.patient)[0]
            for folder in PurePath(h.path).parents:
                around[str(folder)].add(patient)
    linked: dict[str, list[tuple[str, Fault]]] = defaultdict(list)
    for path, fault in broken:
        known = {keys.parse(part)[0] for part in (keys.inside(path), *PurePath(keys.inside(path)).parts)} & set(table)
        near = next((around[str(f)] for f in PurePath(path).parents if around.get(str(f))), set())
        if len(known) == 1:
            linked[known.pop()].append((path, fault))
        elif len(near) == 1 and (patient := next(iter(near))):
            linked[patient].append((path, fault))
        else:
            out.unlinked.append(fault)
    return linked


def _choose_one(
    patient: str, mine: Sequence[tuple[str, Series]], broken: Sequence[tuple[str, Fault]], keys: Keys, imaging: Imaging, out: Chosen
) -> None:
    exams: dict[Exam, dict[str, list[Series]]] = defaultdict(dict)
    for study, one in mine:
        if one.channel:
            exams[study, one.frame_of_reference].setdefault(one.channel, []).append(one)
    for path, _ in broken:
        # a NIfTI file that cannot be read is still a sequence that ought to be there
        channel = named(keys.inside(path), keys.spec.channels)
        if channel and not (keys.spec.mask and named(keys.inside(path), {"mask": keys.spec.mask})):
            study = keys.parse(keys.inside(path))[1] or str(PurePath(path).parent)
            exams[study, ""].setdefault(channel, [])
    images = [one for _, one in mine if one.modality != "SEG"]
    segmentations = [settled(one, images) for _, one in mine if one.modality == "SEG"]
    outlined = {one.uid for one in images for seg in segmentations if not seg.faults and drawn_on(seg, one)}
    if not exams:
        found = Counter(one.modality for _, one in mine if one.modality not in ("SEG", "other"))
        wanted = " or ".join(dict.fromkeys(c.modality for c in imaging.channels))
        if broken:
            out.troubles[patient].append((broken[0][1].code, str(broken[0][1])))
        elif found:
            told = ", ".join(f"{n} {m}" for m, n in sorted(found.items()))
            file = next(one.files[0] for _, one in mine if one.modality in found)
            text = f"D06 {file}: the patient has no {wanted} sequence that the study asks for (there are {told}). Export it too"
            out.troubles[patient].append(("D06", text))
        elif mine:
            out.remarks[patient].append(("no image among the patient's files", f"patient {patient}: no {wanted} series"))
        return
    ranked = []
    derived: dict[str, int] = {}
    for name in (c.name for c in imaging.channels):
        derived |= levels([one for channels in exams.values() for one in channels.get(name, ())], imaging)
    for (study, frame), channels in exams.items():
        case, troubles, remarks = examination(patient, channels, outlined, derived, broken, imaging)
        masks = _masks(case, segmentations, study, keys, mine, len({study for study, _ in exams}) == 1)
        level, count = sum(derived[s.uid] for s in case.channels.values()), sum(map(slices, case.channels.values()))
        rank = (bool(troubles), not masks, -len(case.channels), level, -count, study, frame)
        ranked.append((rank, replace(case, masks=masks), troubles, remarks))
    ranked.sort(key=lambda r: r[0])
    (*_, study, _), case, troubles, remarks = ranked[0]
    if troubles:
        out.troubles[patient] += troubles
        return
    if len(ranked) > 1:
        more = {name for _, other, _, _ in ranked[1:] for name in other.channels} - case.channels.keys()
        if more:
            names = ", ".join(sorted(more))
            text = f"D07 patient {patient}: {names} of another examination or frame of reference cannot be laid over the others: left out"
            remarks.append(("a sequence is left out, since it is of another examination or frame of reference, D07", text))
        else:
            remarks.append(("one of several examinations is used", f"patient {patient}: {len(ranked)} examinations, used: {case.files[0]}"))
    said = {str(fault) for _, fault in broken}
    for code, text in (trouble for _, _, others, _ in ranked[1:] for trouble in others):
        if text not in said and OTHER_SERIES not in text:
            remarks.append((f"another examination of the patient cannot be used, {code}", text))
    elsewhere = {one.uid for of, one in mine if one.kind == "nifti" and of != study}
    for seg in case.masks:
        if seg.uid in elsewhere and any(one.kind == "nifti" for one in case.channels.values()):
            text = f"patient {patient}: {seg.files[0]} is taken for the patient's only examination, {case.files[0]}"
            remarks.append(("a label map of another folder is taken for the only examination", text))
    unused = [seg for seg in segmentations if seg not in case.masks]
    for seg in unused:
        why = "; ".join(seg.faults) or "it refers to another image than the one that is used, or to none that is there"
        remarks.append(
            (
                "a segmentation is set aside, D05",
                f"D05 {seg.files[0] if seg.files else seg.uid}: {why}. Export the image that it was drawn on",
            )
        )
    remarks += [(f"another file of the patient cannot be used, {fault.code}", str(fault)) for _, fault in broken]
    out.cases[patient] = case
    out.remarks[patient] += remarks


def _masks(
    case: Case, segmentations: Sequence[Series], study: str, keys: Keys, mine: Sequence[tuple[str, Series]], alone: bool
) -> tuple[Series, ...]:
    """The segmentations of the image that is used: DICOM ones by what they refer to, label maps by patient and examination.

    alone: the patient has no other examination, so that a label map whose path names none is of this one (its grid must still be the
    image's).
    """
    used = case.channels.values()
    frames = {s.frame_of_reference for s in used} - {""}
    nifti = any(s.kind == "nifti" for s in used)
    studies = {one.uid: study_of for study_of, one in mine}
    found = []
    for seg in segmentations:
        if seg.faults:
            continue
        if seg.kind == "nifti":
            unsaid = not keys.parse(keys.inside(seg.files[0]))[1]
            mine_too = not nifti or studies[seg.uid] == study or (alone and unsaid)
        else:
            # by place alone it could as well be another phase's
            alike = not seg.references and not any("#" in s.uid for s in used) and seg.frame_of_reference in frames
            mine_too = any(drawn_on(seg, s) for s in used) or alike
        if mine_too:
            found.append(seg)
    return tuple(sorted(found, key=lambda s: s.uid))
