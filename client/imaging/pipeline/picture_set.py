"""Picture set of a folder: pictures by patient, and the account of everybody else's. Counts for the
flow, sentences for the site's log.

What was chosen for the patients of a table is remembered as a whole, so that a second start neither
reads nor sorts the headers again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from client.imaging.geometry.volumes import Header
from client.imaging.pipeline.image_cache import Cache, Entry
from client.imaging.selection.case import Rejection
from client.imaging.selection.examinations import Taken
from client.imaging.selection.series_selection import Selection
from common.data.picture import Picture
from common.errors import Fault

SUMMARISED_PATIENTS = 10
"""Of fewer no median or range of days is told."""


@dataclass(frozen=True)
class PictureSet:
    """The pictures of a folder, by patient, and what is to be said of everybody else's."""

    pictures: Mapping[str, Picture] = field(default_factory=dict)
    rejections: Mapping[str, Sequence[Rejection]] = field(default_factory=dict)
    """Patient -> why their images are set aside."""
    remarks: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    """Patient -> (what is counted, sentence for the site's log)."""
    taken: Mapping[str, Taken] = field(default_factory=dict)
    """Patient -> how the examination of their picture was chosen."""
    date: str = ""
    """The column of the table that examinations are held against."""
    channels: tuple[str, ...] = ()
    outlined: bool = False
    """Whether the study knows regions that an expert may outline."""
    general: tuple[str, ...] = ()
    """Notes on the folder as a whole."""
    log: tuple[str, ...] = ()
    """Sentences on the folder as a whole, for the site's log."""
    strangers: tuple[str, ...] = ()

    def notes(self, ids: Collection[str]) -> tuple[str, ...]:
        """What a flow tells of the patients `ids`: counts, no ids."""
        if not (self.pictures or self.rejections or self.strangers):
            return self.general
        pictures = [self.pictures[i] for i in ids if i in self.pictures]
        rejected = Counter(self.rejections[i][0][0] for i in ids if i in self.rejections)
        set_aside = sum(rejected.values())
        by = (
            f" ({', '.join(f'{code}: {n}' for code, n in sorted(rejected.items()))})"
            if rejected
            else ""
        )
        notes = [
            f"images: {len(pictures)} cases with an image, {len(ids) - len(pictures) - set_aside} "
            f"without, {set_aside} quarantined{by}"
        ]
        if pictures and self.outlined:
            expert = sum(p.mask is not None for p in pictures)
            notes.append(
                f"images: {expert} with an expert's mask, {len(pictures) - expert} without"
            )
        taken = [self.taken[i] for i in ids if i in self.pictures and i in self.taken]
        for rule, n in sorted(Counter(t.rule for t in taken).items()):
            several = sum(t.several for t in taken if t.rule == rule)
            among = f", {several} of them one of several" if several else ""
            notes.append(f"images: examination: {rule} ({n} cases{among})")
        for c, name in enumerate(self.channels):
            missing = sum(not p.present[c] for p in pictures)
            if missing:
                notes.append(f"images: sequence {name} is missing in {missing} cases")
        remarks: Counter[str] = Counter()
        for patient in ids:
            remarks.update({what for what, _ in self.remarks.get(patient, ())})
        return (
            *notes,
            *(f"images: {what} ({n} cases)" for what, n in sorted(remarks.items())),
            *self.general,
        )

    def named(self, ids: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The patients behind the counts; stays at the site."""
        if not (self.pictures or self.rejections or self.strangers):
            return {}
        out = {
            "images: quarantined": tuple(i for i in ids if i in self.rejections),
            "images: none": tuple(
                i for i in ids if i not in self.pictures and i not in self.rejections
            ),
            "images: ids that the table lacks": self.strangers,
        }
        return {k: v for k, v in out.items() if v}

    def site_log(self, ids: Collection[str]) -> list[str]:
        """What the site's log gets: file, why, and what to do."""
        lines = [
            f"image of patient {i} set aside: {text}"
            for i in ids
            for _, text in self.rejections.get(i, ())
        ]
        for i in ids:
            taken = self.taken.get(i)
            if i in self.pictures and taken is not None and taken.several:
                lines.append(
                    f"image of patient {i}: of several examinations: {taken.rule}"
                    + (f" ({taken.days} days before it)" if taken.days is not None else "")
                )
        return [
            *lines,
            *(f"image of patient {i}: {text}" for i in ids for _, text in self.remarks.get(i, ())),
            *self._days_between(ids),
            *self.log,
        ]

    def _days_between(self, ids: Collection[str]) -> list[str]:
        """How many days lie between examinations and the date of the table; at the site alone, and
        of patients enough that median and range tell of none."""
        days = [
            t.days
            for i in ids
            if i in self.pictures and (t := self.taken.get(i)) and t.days is not None
        ]
        if len(days) < SUMMARISED_PATIENTS:
            return []
        return [
            f"images: from the examination to '{self.date}' {median(days):g} days (median; "
            f"{min(days)} to {max(days)}) in {len(days)} patients"
        ]

    def summary(self) -> dict[str, Any]:
        """All but the pictures themselves, in the form of JSON."""
        return {
            "pictures": {i: p.key for i, p in self.pictures.items()},
            "rejections": dict(self.rejections),
            "remarks": dict(self.remarks),
            "taken": dict(self.taken),
            "date": self.date,
            "channels": self.channels,
            "outlined": self.outlined,
            "general": self.general,
            "log": self.log,
            "strangers": self.strangers,
        }


def cached(key: str, store: Cache) -> PictureSet | None:
    """The picture set whose summary is kept under `key`, if all its pictures are still there.

    Raises BrokenEntryError where one of the files is broken.
    """
    entry = store.open(key, "album")
    if entry is None:
        return None
    summary = entry.metadata
    entries = {i: (k, store.open(k)) for i, k in summary["pictures"].items()}
    pictures = {i: picture(k, e, store) for i, (k, e) in entries.items() if e is not None}
    if len(pictures) < len(entries):
        return None
    lists = {key: tuple(summary[key]) for key in ("channels", "general", "log", "strangers")}
    return PictureSet(
        pictures,
        _pairs(summary["rejections"]),
        _pairs(summary["remarks"]),
        {i: Taken(*taken) for i, taken in summary["taken"].items()},
        summary["date"],
        outlined=summary["outlined"],
        **lists,
    )


def _pairs(rows: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, list[tuple[str, str]]]:
    """Pairs by patient, out of the lists that JSON has made of them."""
    return {
        patient: [(first, second) for first, second in pairs] for patient, pairs in rows.items()
    }


def picture(key: str, entry: Entry, store: Cache) -> Picture:
    """The picture that an entry of the cache holds; its arrays stay mapped."""
    metadata, arrays = entry.metadata, entry.arrays
    z, y, x = metadata["spacing_mm"]
    return Picture(
        key,
        arrays["voxels"],
        metadata["unit"],
        (z, y, x),
        tuple(metadata["present"]),
        arrays["coarse"],
        arrays.get("mask"),
        arrays.get("coarse_mask"),
        tuple(metadata["marked"]),
        tuple((a, b) for a, b in metadata["box"]),
        metadata["scanner"],
        store.kept(key),
    )


def account(
    headers: Sequence[Header],
    broken: Sequence[tuple[str, Fault]],
    selection: Selection,
    ids: Collection[str],
    remade: int,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Notes and log lines on the folder as a whole. Identity: names of tags, never what they
    hold."""
    notes, log = [], []
    owners = set(selection.cases) | {i for i, t in selection.rejections.items() if t}
    if selection.strangers and not owners:
        notes.append(
            f"D05: none of the {len(selection.strangers)} patients with images is in the table; "
            "check [images] of the source mapping"
        )
        log.append(
            f"D05 images: none of their {len(selection.strangers)} ids (e.g. "
            f"{', '.join(selection.strangers[:3])}) is one of the table's "
            f"(e.g. {', '.join(sorted(ids)[:3])}); give id_pattern or id_length in [images] of "
            "the source mapping"
        )
    elif selection.strangers:
        notes.append(f"D05: {len(selection.strangers)} patients with images are not in the table")
    if selection.unlinked:
        codes = Counter(f.code for f in selection.unlinked)
        notes.append(
            f"images: {len(selection.unlinked)} files cannot be used "
            f"({', '.join(f'{c}: {n}' for c, n in sorted(codes.items()))})"
        )
    log += [str(fault) for _, fault in broken]
    if selection.unnamed:
        notes.append(
            f"images: {selection.unnamed} volume files (NIfTI, NRRD, MetaImage) whose path tells "
            "no patient or no sequence; see [images] of the source mapping"
        )
    identity = Counter(name for h in headers for name in h.identity)
    if identity:
        notes.append(
            "images: tags that may identify a patient hold a value: "
            + ", ".join(f"{n} ({c} files)" for n, c in sorted(identity.items()))
        )
        log.append(
            "images: de-identify the files; none of these tags was read into the cohort: "
            + ", ".join(sorted(identity))
        )
    if remade:
        notes.append(f"images: {remade} entries of the cache were broken and were made again")
    return tuple(notes), tuple(log)
