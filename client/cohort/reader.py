"""Cohort reader: a data folder to a Cohort. Features, labels within a horizon, survival, and the
account of who was left out.

All faults of all tables are collected and raised together (guards D00-D09). Nothing is filled, and
nothing is dropped without a reason in the flow.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from client.imaging.pipeline.picture_set import PictureSet
from client.imaging.pipeline.prepare_images import PictureRequest, Tell
from client.imaging.pipeline.prepare_images import read as read_images
from client.table import columns, detect_mapping
from client.table.dates import date_column
from client.table.institutions import institution_of_each
from client.table.mapping import Source
from client.table.rows import Account, Loaded, Values, some
from common.data.cohort import UNKNOWN, Cohort, Flow
from common.data.schema import Floats, Number, Schema
from common.errors import DataError, Fault, raise_faults
from common.study.study import Study, guard_denied


@dataclass(frozen=True)
class Reading:
    """A whole table: its cohort, and the institution of each case (aligned with `cohort.ids`)."""

    cohort: Cohort
    institutions: tuple[str, ...]
    source: str
    """The name of the source mapping."""
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Patient -> why it is not in the cohort."""
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Feature -> why guard L02 does not apply to it, as the study or the mapping declares; to be
    printed in the report."""
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of `left_out`: who is there for cells of their own that cannot be read, and which."""
    images: PictureSet | None = None
    """What became of the images; None where none were asked for."""

    @property
    def scanners(self) -> tuple[str, ...]:
        """The scanner's maker of each case's image, as the file says (aligned with `cohort.ids`);
        '' where there is none."""
        return tuple(p.scanner if p else "" for p in self.cohort.pictures) or ("",) * len(
            self.cohort
        )

    def image_log(self, ids: Collection[str]) -> list[str]:
        """What the site's log gets of the images of the patients `ids`: file, why, and what to
        do."""
        return self.images.site_log(ids) if self.images else []

    @cached_property
    def at(self) -> Mapping[str, int]:
        """Patient -> position in the cohort."""
        return {patient: n for n, patient in enumerate(self.cohort.ids)}


@dataclass(frozen=True)
class ImageFolders:
    """Where images are looked for (None: beside the tables) and prepared (None: nowhere, for none
    are wanted)."""

    images: Path | None = None
    cache: Path | None = None
    tell: Tell | None = None


@dataclass(frozen=True)
class _Wanted:
    """What a table is read for."""

    labelled: bool
    """Labels, institutions and survival are read as well."""
    strict: bool
    """A cell that cannot be read is a fault of the table, not its patient's alone."""


def read(
    study: Study,
    task: str,
    data: Path,
    *,
    site: str | None = None,
    patients: frozenset[str] | None = None,
    source: str | None = None,
) -> Cohort:
    """One site's cohort: the patients in `data` (of them, only `patients`), sorted by id, without
    images.

    `site`: its name; default the study's. Cases of unknown label stay UNKNOWN (guard D04: they are
    never filled, never trained on, never scored).
    """
    reading = read_table(study, task, data, source=source)
    return select(reading, site or study.name, patients)


def select(reading: Reading, site: str, patients: frozenset[str] | None = None) -> Cohort:
    """The cohort of one site out of a table that is read already; its flow counts only
    `patients`."""
    whole = reading.cohort
    if patients is None:
        return dataclasses.replace(whole, site=site)
    positions = sorted(reading.at[i] for i in patients if i in reading.at)
    if not positions:
        what = (
            f"none of the {len(patients)} patients asked for is among the {len(whole)} usable cases"
        )
        raise_faults(
            [Fault("D09", f"site '{site}'", what, "Check the ids (TCGA: the first 12 characters)")]
        )
    chosen = np.zeros(len(whole), np.bool_)
    chosen[positions] = True
    kept = whole.where(chosen)
    left_out = {i: reading.left_out[i] for i in patients & reading.left_out.keys()}
    counts = Counter(left_out.values())
    excluded = tuple(
        (reason, counts[reason]) for reason, _ in whole.flow.excluded if counts[reason]
    )
    ids = {k: tuple(i for i in v if i in patients) for k, v in whole.flow.ids.items()}
    absent = tuple(sorted(patients - reading.at.keys() - reading.left_out.keys()))
    notes, images = whole.flow.notes, reading.images
    if images is not None:
        # the notes on images count patients: here, the site's own
        notes_of_all = images.notes(whole.ids)
        notes = (*(n for n in notes if n not in notes_of_all), *images.notes(kept.ids))
        ids = {
            **{k: v for k, v in ids.items() if not k.startswith("images: ")},
            **images.named(kept.ids),
        }
    if absent:
        notes = (
            *notes,
            f"D05: {len(absent)} of {len(patients)} patients of the site's list are not in the "
            "table",
        )
        ids["patients that the table lacks"] = absent
    flow = dataclasses.replace(
        whole.flow,
        read=len(left_out) + len(kept),
        excluded=excluded,
        kept=len(kept),
        unknown_label=int((kept.labels == UNKNOWN).sum()),
        notes=notes,
        ids={k: v for k, v in ids.items() if v},
    )
    return _with_modalities(dataclasses.replace(kept, site=site, flow=flow))


def _with_modalities(cohort: Cohort) -> Cohort:
    """What the site can feed (guard D06): without an image it has no `image`, and with no value in
    any row no `table`."""
    if cohort.schema.imaging is None:
        return cohort
    table = {"table"} if bool((~np.isnan(cohort.values)).any()) else set()
    image = {"image"} if any(p is not None for p in cohort.pictures) else set()
    return dataclasses.replace(
        cohort, modalities=frozenset(table | image), pictures=cohort.pictures if image else ()
    )


def read_table(
    study: Study,
    task: str,
    data: Path,
    *,
    source: str | None = None,
    images: Path | None = None,
    cache: Path | None = None,
    tell: Tell | None = None,
) -> Reading:
    """The whole table in `data` (a folder, searched recursively, or one file), and the images of
    its patients.

    Images are looked for where the study knows any and `cache`, the folder for what is prepared of
    them, is given: in the folder `images`, by default `data` where that is a folder. `tell` hears
    how far their preparation is.

    Raises DataError with every fault of every table (D00-D09), LeakError (L02) for a feature that
    is an outcome, UsageError for an option or a mapping that is wrong, and RunError S03 where the
    cache cannot be written.
    """
    folders = ImageFolders(images, cache, tell)
    return _read(study, task, data, source, folders, _Wanted(labelled=True, strict=True))


def read_unlabelled(
    study: Study,
    task: str,
    data: Path,
    *,
    source: str | None = None,
    folders: ImageFolders | None = None,
    strict: bool = False,
) -> Reading:
    """As `read_table`, for patients to be predicted: neither labels nor institutions are looked
    for, and who has a cell that cannot be read is set aside (`Reading.unreadable`) where that is
    not most of them. `strict`: one such cell is a DataError, as in `read_table`."""
    folders = folders or ImageFolders()
    return _read(study, task, data, source, folders, _Wanted(labelled=False, strict=strict))


def _read(
    study: Study,
    task: str,
    data: Path,
    name: str | None,
    folders: ImageFolders,
    wanted: _Wanted,
) -> Reading:
    study.schema_at(task)
    if not data.exists():
        raise DataError("D00", f"D00 {data}: the data folder or file is not there. Check the path")
    folder = detect_mapping.Folder(data)
    source, choice = detect_mapping.choose(study, folder, name)
    faults: list[Fault] = []
    try:
        tables = detect_mapping.load(source, folder, faults)
        raise_faults(faults if source.index.name not in tables else [])
        reading = _assemble(study, task, source, tables, faults, wanted)
    except DataError as error:
        if choice:
            raise DataError(error.code, *error.faults, choice) from error
        raise
    imaging = study.schema_at(task).imaging
    if folders.images is not None and not folders.images.is_dir():
        raise DataError(
            "D00", f"D00 {folders.images}: the folder of images is not there. Check the path"
        )
    root = folders.images or (data if data.is_dir() else None)
    if imaging is None or folders.cache is None or root is None:
        return dataclasses.replace(reading, cohort=_with_modalities(reading.cohort))
    everybody = (*reading.cohort.ids, *reading.left_out)
    spec, index = source.images, tables[source.index.name]
    dates = date_column(index, spec.date, spec.date_order) if spec.date else None
    request = PictureRequest(spec, imaging, source.name, reading.cohort.ids, everybody, dates)
    images = read_images(root, request, folders.cache, tell=folders.tell or (lambda done, of: None))
    return _imaged(reading, images)


def _imaged(reading: Reading, images: PictureSet) -> Reading:
    """The same reading with the pictures of its patients, joined by id (guard D05)."""
    cohort = reading.cohort
    flow = dataclasses.replace(
        cohort.flow,
        notes=(*cohort.flow.notes, *images.notes(cohort.ids)),
        ids={**cohort.flow.ids, **images.named(cohort.ids)},
    )
    pictures = tuple(images.pictures.get(i) for i in cohort.ids)
    cohort = dataclasses.replace(cohort, flow=flow, pictures=pictures)
    return dataclasses.replace(reading, cohort=_with_modalities(cohort), images=images)


@dataclass(frozen=True)
class _Columns:
    """What the mapped tables hold: a row for each patient of the account, those who are left out
    included."""

    values: Floats
    """(patients, features), NaN where missing."""
    labels: Values
    """(patients,), NaN where unknown."""
    label_source: str
    institutions: list[str]
    survival: Floats | None
    """(patients, 2): time and event."""


def _assemble(
    study: Study,
    task: str,
    source: Source,
    tables: Mapping[str, Loaded],
    faults: list[Fault],
    wanted: _Wanted,
) -> Reading:
    schema = study.schema_at(task)
    index = tables[source.index.name]
    flow = Account(
        index,
        notes=[*_left_out_features(study, schema), *(n for t in tables.values() for n in t.notes)],
    )
    flow.filter_index(faults)
    flow.check_persons(faults)
    _join(source, tables, flow, faults)
    overrides = _guard(study, source, tables, schema, flow)
    values = np.full((len(flow.ids), len(schema.features)), np.nan)
    for j, feature in enumerate(schema.features):
        spec = source.features.get(feature.name)
        if spec is None:
            faults.append(
                Fault(
                    "D08",
                    f"source mapping '{source.name}'",
                    f"feature '{feature.name}' is not mapped",
                    "Map it, or declare it absent = true",
                )
            )
        else:
            values[:, j] = columns.feature(feature, spec, tables, flow, faults)
    labels, label_source = np.full(len(flow.ids), np.nan), "not read"
    institutions, survival = [""] * len(flow.ids), None
    if wanted.labelled:
        labels, label_source = _labels(source, schema, tables, flow, faults)
        institutions = institution_of_each(source.site, tables, flow, faults)
        survival = _survival(source, schema, tables, flow, faults)
    raise_faults(faults if wanted.strict else flow.set_aside(faults))
    if wanted.labelled:
        _some_label(flow, labels)
    cohort = _cohort(
        study, schema, flow, _Columns(values, labels, label_source, institutions, survival)
    )
    kept = tuple(
        name
        for name, patient in zip(institutions, flow.ids, strict=True)
        if patient not in flow.gone
    )
    return Reading(cohort, kept, source.name, dict(flow.gone), overrides, dict(flow.unreadable))


def _left_out_features(study: Study, schema: Schema) -> list[str]:
    """Guard L01 (prediction time): features that become available after the task's time do not
    enter, and the flow says so."""
    have = {f.name for f in schema.features}
    later = [f for f in study.schema.features if f.name not in have]
    by_time: dict[str, list[str]] = {}
    for feature in later:
        by_time.setdefault(feature.available_at, []).append(feature.name)
    return [
        f"L01: left out, since available only at '{time}': {', '.join(names)}"
        for time, names in by_time.items()
    ]


def _guard(
    study: Study, source: Source, tables: Mapping[str, Loaded], schema: Schema, flow: Account
) -> dict[str, str]:
    """Guard L02 on the columns that are really there; the overrides that apply, which the flow
    tells too."""
    used, overrides = {}, dict(study.overrides)
    for feature in schema.features:
        spec = source.features.get(feature.name)
        table = tables.get(spec.table) if spec is not None else None
        if spec is None or table is None or not spec.column:
            continue
        used[feature.name] = next(
            (a.name for a in spec.column if a.name in table.parts[0].index), spec.column[0].name
        )
        if spec.not_an_outcome:
            overrides[feature.name] = spec.not_an_outcome
    guard_denied(dataclasses.replace(study, overrides=overrides), used)
    applied = {n: why for n, why in overrides.items() if n in used}
    flow.notes += [
        f"L02 override: feature '{n}' (column '{used[n]}') is used: {why}"
        for n, why in applied.items()
    ]
    return applied


def _join(source: Source, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]) -> None:
    """Guard D05: keyed joins only; ids without a partner are counted in the notes and listed in the
    ids."""
    known = set(flow.all_ids)
    for table in tables.values():
        if table.spec.name == source.index.name:
            continue
        table_ids = {i for i in table.ids if i}
        if not table_ids & known:
            examples = f"{some(sorted(table_ids))} and {some(sorted(known))}"
            what = (
                f"none of its {len(table_ids)} ids ('{table.key}') is an id of table "
                f"'{source.index.name}' (e.g. {examples})"
            )
            faults.append(Fault("D05", table.where(), what, "Check the key columns and id_length"))
            continue
        for title, ids in (
            ("without a case", table_ids - known),
            ("cases without a row", known - table_ids),
        ):
            if ids:
                flow.notes.append(
                    f"D05: table '{table.spec.name}': {len(ids)} "
                    f"{'ids ' if title.startswith('without') else ''}{title}"
                )
                flow.named[f"{table.spec.name}: {title}"] = tuple(sorted(ids))


def _labels(
    source: Source, schema: Schema, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> tuple[Values, str]:
    classes = schema.label.classes
    if source.label.within is None and source.label.value is not None:
        spec = source.label.value
        out = columns.label(classes, spec, source.label.unknown, tables, flow, faults)
        label_column = columns.used_column(spec, tables)
        return out, f"{label_column} (source mapping '{source.name}', guard D03)"
    w = source.label.within
    assert w is not None
    event = columns.label(("no", "yes"), w.event, (), tables, flow, faults)
    time = columns.number(
        Number(w.time.name, w.time.unit, 0, 1e6, schema.times[0]), w.time, tables, flow, faults
    )
    out = np.full(len(flow.ids), np.nan)
    out[(event == 1) & (time <= w.horizon)] = 1
    out[time > w.horizon] = 0
    out[(event == 0) & (time == w.horizon)] = 0
    short = (event == 0) & (time < w.horizon)
    competed = np.zeros(len(flow.ids), np.bool_)
    if w.competing is not None:
        competed = short & (
            columns.label(("no", "yes"), w.competing, (), tables, flow, faults) == 1
        )
        flow.notes.append(
            f"D04: {int(competed.sum())} patients {w.competing_title} within {w.horizon:g} "
            f"{w.time.unit} (competing event): label unknown"
        )
    followed = int((short & ~competed).sum())
    flow.notes.append(
        f"D04: {followed} patients were event-free but followed for less than {w.horizon:g} "
        f"{w.time.unit}: label unknown"
    )
    label_column = (
        f"{columns.used_column(w.event, tables)} within {w.horizon:g} {w.time.unit} by "
        f"'{w.time.column[0].name}'"
    )
    return out, f"{label_column} (source mapping '{source.name}', guard D03)"


def _survival(
    source: Source, schema: Schema, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> Floats | None:
    """(cases, 2) time and event; both NaN where either is unknown or the time is negative
    (counted)."""
    s = source.survival
    if s is None or schema.survival is None:
        return None
    event = columns.outcome(
        ("alive", "dead"), dataclasses.replace(s.event, disagree="missing"), tables, flow, faults
    )
    time = np.full(len(flow.ids), np.nan)
    for spec in s.times:
        bounds = Number(schema.survival.name, schema.survival.unit, 0, 1e6, schema.times[0])
        known = columns.number(
            bounds,
            dataclasses.replace(spec, disagree="missing", out_of_range="missing"),
            tables,
            flow,
            faults,
        )
        time = np.where(np.isnan(time), known, time)
    out = np.stack([time, event], axis=1)
    out[np.isnan(out).any(axis=1)] = np.nan
    return out


def _some_label(flow: Account, labels: Values) -> None:
    keep = np.array([i not in flow.gone for i in flow.ids], np.bool_)
    if np.isnan(labels[keep]).all():
        why = "; ".join(f"{n}: {r}" for r, n in flow.excluded()) or "no label is known"
        what = (
            f"of {len(flow.all_ids)} patients read, {int(keep.sum())} are kept and none has a "
            f"known label ({why})"
        )
        raise_faults(
            [Fault("D09", flow.index.where(), what, "Check the filters and the label's values")]
        )


def _cohort(study: Study, schema: Schema, flow: Account, rows: _Columns) -> Cohort:
    keep = np.array([i not in flow.gone for i in flow.ids], np.bool_)
    labels = np.where(np.isnan(rows.labels), UNKNOWN, rows.labels).astype(np.int64)[keep]
    if not keep.any():
        why = "; ".join(f"{n}: {r}" for r, n in flow.excluded())
        raise_faults(
            [
                Fault(
                    "D09",
                    flow.index.where(),
                    f"of {len(flow.all_ids)} patients read none is kept ({why})",
                    "Check the filters",
                )
            ]
        )
    excluded_ids = {
        reason: tuple(i for i, why in sorted(flow.gone.items()) if why == reason)
        for reason, _ in flow.excluded()
    }
    account = Flow(
        read=len(flow.all_ids),
        excluded=tuple(flow.excluded()),
        kept=int(keep.sum()),
        unknown_label=int((labels == UNKNOWN).sum()),
        label_source=rows.label_source,
        notes=tuple(flow.notes),
        ids={**flow.named, **excluded_ids},
    )
    ids = tuple(i for i in flow.ids if i not in flow.gone)
    survival = None if rows.survival is None else rows.survival[keep]
    return Cohort(study.name, schema, ids, rows.values[keep], labels, account, survival=survival)
