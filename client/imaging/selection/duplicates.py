"""Duplicate images, set aside: one image under two ids, one series under two spellings of an id, and
several people under what one spelling of an id was made of.

A person under two ids may stand on both sides of a split, or at two sites; a series whose slices
name their patient now so, now so is half a series under each of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from client.imaging.geometry.volumes import Series
from client.imaging.selection.case import Case, Rejection
from client.imaging.selection.identifiers import Keys, is_mask


def misspelt(cases: Mapping[str, Case], series: Sequence[Series]) -> dict[str, Rejection]:
    """Patients whose image is of a series that names its patient in several ways, which differ in
    case and blanks alone (D05)."""
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    for single in series:
        if single.kind == "dicom":
            names[_spelt_alike(single)].add(single.patient)
    out = {}
    for patient, case in cases.items():
        for single in case.channels.values():
            spelt = sorted(names.get(_spelt_alike(single), ()))
            if len(spelt) > 1:
                names_found = " and ".join(f"'{name}'" for name in spelt)
                what = (
                    f"the slices of its series name their patient {names_found}: each has a "
                    "part of them"
                )
                out[patient] = (
                    "D05",
                    f"D05 {single.files[0]}: {what}. Export the series again with one id",
                )
    return out


def merged(series: Sequence[Series], keys: Keys, table: Collection[str]) -> dict[str, Rejection]:
    """Patients of the table whose id is written in several ways that differ in leading zeros, which
    the mapping drops (D05): 0012 and 12 may be two people, and which of them is meant is not known."""
    if not keys.spec.strip_zeros:
        return {}
    spelt: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for single in series:
        # an outline may be named by another hand than the image that it is of, as may a volume file
        # beside a DICOM series
        outline = single.modality == "SEG" or is_mask(keys.inside(single.uid), keys.spec)
        patient = keys.of(single)[0]
        if patient in table and not outline:
            spelt[patient, single.kind].setdefault(keys.spelt(single), single.files[0])
    out = {}
    for (patient, _), files in spelt.items():
        if len(files) > 1:
            names = " and ".join(f"'{name}'" for name in sorted(files))
            text = (
                f"D05 {min(files.values())}: images name their patient {names}, which strip_zeros "
                f"makes '{patient}': they may be several people's. Give each person one id, or "
                "leave strip_zeros out"
            )
            out[patient] = ("D05", text)
    return out


def shared(looks: Mapping[str, Collection[str]], cases: Mapping[str, Case]) -> dict[str, Rejection]:
    """Patients one of whose images is another patient's too (L04). `looks`: patient -> digests of
    their images."""
    owners: dict[str, set[str]] = defaultdict(set)
    for patient, digests in looks.items():
        for look in digests:
            owners[look].add(patient)
    out = {}
    for patient, digests in looks.items():
        others = sorted({other for look in digests for other in owners[look]} - {patient})
        if others:
            what = (
                f"the image is also that of {', '.join(others)}: one person would stand under "
                "several ids, and on both sides of a split"
            )
            way = "Give each person one id and each id its own image, or delete the copy"
            out[patient] = ("L04", f"L04 {cases[patient].files[0]}: {what}. {way}")
    return out


def _spelt_alike(series: Series) -> tuple[str, str]:
    """The SeriesInstanceUID, which is numbered where it stands for several images, and the patient
    without case and blanks."""
    return series.uid.partition("#")[0], "".join(series.patient.casefold().split())
