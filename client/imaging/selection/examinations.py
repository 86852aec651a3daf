"""Examinations of a patient by day, and which of them counts: by a date of the table, by the order
that the study states, or the only one (guard L01 for images).

A scan from after surgery shows the outcome. Which of several examinations is meant is therefore
never guessed: it is the nearest before a date of the table, the earliest or the latest as the study
states, or there is but one; else the patient's images are set aside.

Studies of one day are one examination. A day counts as not known where the files name none or
several, where they contradict each other, and where something stands for it: a first of January from
before there was CT, or the day that most patients have.
"""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import NamedTuple

from client.imaging.dicom.slice_geometry import OTHER_SERIES
from client.imaging.geometry.volumes import Series
from client.imaging.selection.case import Rejection
from client.imaging.selection.series_ranking import (
    LEAST_SLICES,
    Preference,
    elsewhere,
    slices,
    why_unusable,
)
from client.table.dates import DateColumn
from client.table.rows import some
from common.data.schema import Imaging
from common.study.image_sections import ImagesSpec

PatientSeries = tuple[str, Series]
"""The study of one of a patient's series, and the series."""

FIRST_CT = 1971
"""The year of the first CT of a patient."""
SAME_DAY_PATIENTS = 5
"""A day that so many patients have, and more than half of all, was written in place of theirs."""
JUDGED_PATIENTS = 10
"""From so many on it is looked at whether the dates of files and table go together."""

WAYS = (
    'Name a column of dates in [images] (date, within), state examination = "earliest" or '
    '"latest", name the examination by its path (study), or export the one that is meant'
)


class Taken(NamedTuple):
    """How a patient's examination was chosen. Stays at the site."""

    rule: str
    several: bool
    """Whether there were others."""
    days: int | None
    """From the examination to the date of the table, negative where it is after it."""


@dataclass(frozen=True)
class Examination:
    """A patient's series of one day, of the study's channels."""

    series: Sequence[PatientSeries]
    day: datetime.date | None
    why: str = ""
    """There is no day."""

    @property
    def usable(self) -> tuple[PatientSeries, ...]:
        return tuple((study, s) for study, s in self.series if not why_unusable(s))

    @property
    def volumes(self) -> frozenset[str]:
        """Its studies that hold a volume, whether it can be used or not."""
        return frozenset(
            study
            for study, s in self.series
            if not why_unusable(s)
            or (slices(s) >= LEAST_SLICES and not all(f.endswith(OTHER_SERIES) for f in s.faults))
        )

    @property
    def spoilt(self) -> bool:
        """Whether it holds a volume, and none that can be used."""
        return not self.usable and bool(self.volumes)

    @property
    def file(self) -> str:
        """One of its files, by which it is named: of an image rather than of a localizer."""
        return (self.usable or self.series)[0][1].files[0]

    @property
    def told(self) -> str:
        """For the site's log."""
        return f"{self.day or f'no day, {self.why}'}: {self.file}"


@dataclass(frozen=True)
class Choice:
    """Of one patient's examinations the one that counts; or why none does."""

    examination: Examination | None = None
    taken: Taken | None = None
    rejection: Rejection | None = None
    dated: bool = False
    """Whether a day of an examination was held against a date of the table."""
    elsewhere: tuple[Examination, ...] = ()
    """Of another part of the body than the study's, and not looked at."""


@dataclass(frozen=True)
class Rule:
    """What mapping and table say of which examination is meant."""

    spec: ImagesSpec
    imaging: Imaging
    dates: DateColumn | None = None
    """Where the mapping names a column of dates."""
    blanked: Collection[datetime.date] = field(default_factory=frozenset)
    """Days that stand in place of the true ones."""

    def choice(
        self,
        patient: str,
        series: Sequence[PatientSeries],
        wishes: Mapping[str, Preference],
        broken: Sequence[str] = (),
    ) -> Choice:
        """Of the series of the study's channels of one patient. No examination and no rejection:
        none can be used, whichever is meant.

        wishes: uid -> how far a series is from a diagnostic one, beside all others of the patient;
        broken: paths of the patient's files that cannot be read.
        """
        whole = examinations(series, self.blanked)
        near: list[Examination] = []
        apart: list[Examination] = []
        for e in whole:
            astray = all(elsewhere(s, self.imaging) for _, s in e.series)
            (apart if astray else near).append(e)
        if not any(e.usable for e in near):
            near, apart = whole, []
        return replace(self._of(patient, near, wishes, broken), elsewhere=tuple(apart))

    def _of(
        self,
        patient: str,
        whole: Sequence[Examination],
        wishes: Mapping[str, Preference],
        broken: Sequence[str],
    ) -> Choice:
        usable = [e for e in whole if e.usable]
        if not usable:
            return Choice()
        if self.dates is not None:
            return self._by_date(patient, usable, self.dates, wishes)
        if self.spec.examination != "only":
            found = self._by_order(patient, whole)
            return _lacking(patient, found, broken, self.spec.examination)
        if len(usable) == 1:
            return Choice(usable[0], Taken("the only one, held against no date", False, None))
        return _set_aside(
            usable,
            f"{patient} has {len(usable)} examinations, and nothing says which is meant: one from "
            "after the time of prediction would show the outcome",
            WAYS,
        )

    def _by_order(self, patient: str, whole: Sequence[Examination]) -> Choice:
        first = self.spec.examination == "earliest"
        usable = [e for e in whole if e.usable]
        among = [e for e in whole if e.usable or e.spoilt]
        if len(among) == 1:
            return Choice(usable[0], Taken("the only one, held against no date", False, None))
        if undated := next((e for e in among if e.day is None), None):
            return _set_aside(
                among,
                f"of {patient}'s {len(among)} examinations the {self.spec.examination} is to be "
                f"taken, but the day of one is not known: {undated.why}",
                "Export it with its StudyDate, name the examination by its path (study), or export "
                "the one that is meant",
            )
        best = sorted(among, key=lambda e: (e.day or datetime.date.min).toordinal())[
            0 if first else -1
        ]
        if not best.usable:
            return _set_aside(
                [best, *usable],
                f"{patient}'s {self.spec.examination} examination cannot be used "
                f"({_spoilt_by(best)}), and no other stands in for it",
                "Export it again",
            )
        rule = f"the {self.spec.examination}, as declared"
        return Choice(best, Taken(rule, len(usable) > 1, None))

    def _by_date(
        self,
        patient: str,
        usable: Sequence[Examination],
        dates: DateColumn,
        wishes: Mapping[str, Preference],
    ) -> Choice:
        date = dates.days.get(patient)
        if date is None:
            why = dates.unclear.get(patient, "the table has none")
            return _set_aside(
                usable,
                f"{patient} has no date in column '{dates.name}': {why}",
                "Fill it in, in the table",
            )
        known = [(e, (date - e.day).days) for e in usable if e.day is not None]
        if not known:
            return _set_aside(
                usable,
                f"the day of {patient}'s examination is not known, so that it cannot be held "
                f"against column '{dates.name}': {usable[0].why}",
                "Export DICOM with its StudyDate; where the layout of the folders tells which "
                "examination is meant, leave out date and name it by its path (study)",
            )
        spec = self.spec
        within = spec.within or 0
        undated = next((f"the day of another is not known: {e.why}" for e in usable if e.why), "")
        allowed = [(e, days) for e, days in known if -spec.after <= days <= within]
        if not allowed:
            far = ", ".join(_apart(days) for _, days in sorted(known, key=lambda k: abs(k[1]))[:5])
            return Choice(
                rejection=_set_aside(
                    usable,
                    f"{patient} has no examination from {_window(spec)} '{dates.name}', only {far}"
                    + f"; {undated}" * bool(undated),
                    "Export the one that is meant, or widen within or after; if dates were shifted, "
                    "shift files and table alike",
                ).rejection,
                dated=True,
            )
        best, days = min(allowed, key=lambda k: (k[1] < 0, _low_dose(k[0], wishes), abs(k[1])))
        if days < 0 and undated:
            return _set_aside(
                usable,
                f"{patient} has an examination {_apart(days)}, '{dates.name}', which counts "
                f"where there is none before, but {undated}",
                "Export it with its StudyDate, or leave it out",
            )
        if days == spec.after == 0 and len(best.volumes) > 1:
            return _set_aside(
                [best],
                f"{patient} has several studies of the very day in column '{dates.name}', and "
                "nothing says which is from before it",
                "Export the one that is meant; declare after = -1 (not on that day) or after = 1 "
                "(after it is allowed)",
            )
        rule = (
            f"the nearest before '{dates.name}', at most {within} days"
            if days >= 0
            else f"none before '{dates.name}', so the nearest after it, at most {spec.after} days"
        )
        return Choice(best, Taken(rule, len(usable) > 1, days), dated=True)


def strays(choices: Mapping[str, Choice], rule: Rule) -> dict[str, Rejection]:
    """Where the dates of files and table do not go together (those of one were shifted), an
    examination may lie in the window by chance: the patients, and why their images are set
    aside."""
    judged = [c for c in choices.values() if c.dated]
    inside = {patient: c for patient, c in choices.items() if c.dated and c.examination}
    if (
        rule.dates is None
        or rule.spec.same_calendar
        or len(judged) < JUDGED_PATIENTS
        or 2 * len(inside) >= len(judged)
    ):
        return {}
    what = (
        f"only {len(inside)} of {len(judged)} patients have an examination from "
        f"{_window(rule.spec)} '{rule.dates.name}': the dates of files and table do not seem to go "
        "together, and an examination may be there by chance"
    )
    way = "If dates were shifted, shift both alike; if both are true, declare same_calendar = true"
    out = {}
    for patient, choice in inside.items():
        assert choice.examination is not None
        rejection = _set_aside([choice.examination], what, way).rejection
        assert rejection is not None
        out[patient] = rejection
    return out


def examinations(
    series: Sequence[PatientSeries], blanked: Collection[datetime.date] = ()
) -> list[Examination]:
    """Series of one patient, by day; those of no day by study. A study lasts past midnight, so that
    its days are one where they follow each other: the later one, for what is from after the night
    is not from before it. Of a series whose own files say nothing the day is that of its study's
    others in its frame of reference; nothing of them counts against what its files say."""
    by_study: dict[str, list[PatientSeries]] = defaultdict(list)
    for study, single in sorted(series, key=lambda pair: (pair[0], pair[1].uid)):
        # without a StudyInstanceUID a frame of reference is what tells them apart
        by_study[study or single.frame_of_reference].append((study, single))
    by_day: dict[datetime.date, list[PatientSeries]] = defaultdict(list)
    out: list[Examination] = []
    for of_study in by_study.values():
        days = {s.uid: day_of(s, blanked) for _, s in of_study}
        known = sorted({day for day, _ in days.values() if day is not None})
        one = bool(known) and (known[-1] - known[0]).days <= 1
        frames = {s.frame_of_reference for _, s in of_study if days[s.uid][0]} - {""}
        undated: list[PatientSeries] = []
        for study, single in of_study:
            day = days[single.uid][0]
            beside = single.frame_of_reference in frames and not _named(single, blanked)
            if one and (day or beside):
                day = known[-1]
            (undated if day is None else by_day[day]).append((study, single))
        if undated:
            out.append(Examination(undated, None, days[undated[0][1].uid][1]))
    return [*(Examination(found, day) for day, found in sorted(by_day.items())), *out]


def day_of(
    series: Series, blanked: Collection[datetime.date] = ()
) -> tuple[datetime.date | None, str]:
    """By StudyDate, else by AcquisitionDate or SeriesDate; or None, and why."""
    if series.kind != "dicom":
        return None, "NIfTI files name no day"
    study, acquired, made = (_true(texts, blanked) for texts in _written(series))
    days = sorted(_named(series, blanked))
    if not days:
        texts = set().union(*_written(series)) - {""}
        if texts - {"?"}:
            named = ", ".join(sorted(texts - {"?"}))
            return None, f"{named} stands in place of it, in its files"
        if texts:
            return None, "what its files have for it is no date"
        return None, "its files name neither StudyDate nor AcquisitionDate or SeriesDate"
    if (days[-1] - days[0]).days > 1:
        return None, f"its files name several days, {days[0]} and {days[-1]}"
    return min(study or acquired or made), ""


def _written(series: Series) -> list[set[str]]:
    """StudyDate, AcquisitionDate and SeriesDate, as its files have them."""
    return [
        {getattr(h, name) for h in series.headers}
        for name in ("study_date", "acquisition_date", "series_date")
    ]


def _named(series: Series, blanked: Collection[datetime.date]) -> set[datetime.date]:
    """The days that its files name. What was computed later has a later SeriesDate, which
    contradicts nothing; so has what was reconstructed later, whose AcquisitionDate is the true
    one."""
    study, acquired, made = (_true(texts, blanked) for texts in _written(series))
    original = all("ORIGINAL" in h.image_type[:1] for h in series.headers)
    return study | acquired | (made if not acquired and (original or not study) else set())


def blanked_days(patients: Iterable[Iterable[Series]]) -> frozenset[datetime.date]:
    """Days that stand in place of the true ones, by each patient's series: those that most patients
    have; and first days of a month (of a year) where most patients have no others, for their dates
    were cut to it."""
    counts: Counter[datetime.date] = Counter()
    of_patients = []
    for series in patients:
        texts = {t for s in series for found in _written(s) for t in found}
        if days := _true(texts, ()):
            counts.update(days)
            of_patients.append(days)
    dated = len(of_patients)

    def most(n: int) -> bool:
        return n >= SAME_DAY_PATIENTS and 2 * n > dated

    cut = most(sum(all(d.day == 1 for d in days) for days in of_patients))
    return frozenset(d for d, n in counts.items() if most(n) or (cut and d.day == 1))


def _true(texts: Iterable[str], blanked: Collection[datetime.date]) -> set[datetime.date]:
    """The days among texts that stand for themselves."""
    days = {datetime.date.fromisoformat(t) for t in texts if t not in ("", "?")}
    return {
        d
        for d in days
        if d not in blanked
        and d.year > 1900
        and not (d.year < FIRST_CT and (d.month, d.day) == (1, 1))
    }


def _lacking(patient: str, found: Choice, broken: Sequence[str], order: str) -> Choice:
    """What was found by order; set aside where files that cannot be read may be an examination of
    their own: nobody knows of which day. A few beside its own are not."""
    if found.examination is None:
        return found
    folders = {PurePath(f).parent for _, s in found.examination.series for f in s.files}
    lost = [path for path in broken if PurePath(path).parent not in folders]
    if not lost and len(broken) >= LEAST_SLICES:
        lost = list(broken)
    if not lost:
        return found
    return _set_aside(
        [found.examination],
        f"{len(lost)} of {patient}'s files cannot be read ({some(lost)}), and may be the "
        f"{order} examination",
        "Export them again, or take away what is no examination",
    )


def _low_dose(examination: Examination, wishes: Mapping[str, Preference]) -> int:
    """How far its best CT is from a diagnostic one; 0 for other modalities."""
    return min(wishes[s.uid][1] for _, s in examination.usable)


def _spoilt_by(examination: Examination) -> str:
    return next(why for _, s in examination.series for why in why_unusable(s))


def _apart(days: int) -> str:
    return f"{abs(days)} days {'before' if days >= 0 else 'after'} it"


def _window(spec: ImagesSpec) -> str:
    low, high = -(spec.within or 0), spec.after
    return f"{-low} days before to {abs(high)} days {'after' if high >= 0 else 'before'}"


def _set_aside(found: Sequence[Examination], what: str, way: str) -> Choice:
    listed = "; ".join(e.told for e in found[:5])
    return Choice(rejection=("L01", f"L01 {found[0].file}: {what} ({listed}). {way}"))
