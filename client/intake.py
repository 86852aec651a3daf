"""A data folder to a Cohort: the mapping that fits, the columns that the study asks for, and the account of who was left out.

All faults of all tables are collected and raised together (guards D00-D09). Nothing is filled, and nothing is dropped without a
reason in the flow.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client import columns, mapping
from client.columns import Values
from client.mapping import Source
from client.patients import Account, Loaded, some
from client.tables import Layout, Part, find, nearest
from client.tables import read as read_part
from common.cohort import UNKNOWN, Cohort, Flow
from common.errors import DataError, Fault, UsageError, raise_faults
from common.schema import Floats, Number, Schema
from common.study import Study, guard_denied

Cache = dict[tuple[Path, Layout], tuple[Part | None, list[Fault]]]


@dataclass(frozen=True)
class Reading:
    """A whole table: its cohort, and the institution of each case (aligned with `cohort.ids`)."""

    cohort: Cohort
    institutions: tuple[str, ...]
    source: str
    """The name of the source mapping."""
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Patient -> why it is not in the cohort."""


def read(
    study: Study,
    task: str,
    data: Path,
    *,
    site: str | None = None,
    patients: frozenset[str] | None = None,
    source: str | None = None,
    unknown_label: str = "exclude",
) -> Cohort:
    """One site's cohort: the patients in `data` (of them, only `patients`), sorted by id. `site`: its name; default the study's.

    `unknown_label`: `exclude` keeps cases of unknown label apart (never trained on, never scored); for a sensitivity analysis,
    `sensitivity` reads them as the reference class, and the name of a class as that class. The flow says so.
    """
    return select(read_table(study, task, data, source=source, unknown_label=unknown_label), site or study.name, patients)


def select(reading: Reading, site: str, patients: frozenset[str] | None = None) -> Cohort:
    """The cohort of one site out of a table that is read already; its flow counts only `patients`."""
    whole = reading.cohort
    if patients is None:
        return dataclasses.replace(whole, site=site)
    kept = whole.where(np.array([i in patients for i in whole.ids], np.bool_))
    if not len(kept):
        what = f"none of the {len(patients)} patients asked for is among the {len(whole)} usable cases"
        raise_faults([Fault("D09", f"site '{site}'", what, "Check the ids (TCGA: the first 12 characters)")])
    gone = {i: reason for i, reason in reading.left_out.items() if i in patients}
    counts = Counter(gone.values())
    excluded = tuple((reason, counts[reason]) for reason, _ in whole.flow.excluded if counts[reason])
    ids = {k: tuple(i for i in v if i in patients) for k, v in whole.flow.ids.items()}
    flow = dataclasses.replace(
        whole.flow,
        read=len(gone) + len(kept),
        excluded=excluded,
        kept=len(kept),
        unknown_label=int((kept.labels == UNKNOWN).sum()),
        ids={k: v for k, v in ids.items() if v},
    )
    return dataclasses.replace(kept, site=site, flow=flow)


def read_table(study: Study, task: str, data: Path, *, source: str | None = None, unknown_label: str = "exclude") -> Reading:
    """The whole table in `data` (a folder, searched recursively, or one file).

    Raises DataError with every fault of every table (D00-D09), LeakError (L02) for a feature that is an outcome, and UsageError
    for an option or a mapping that is wrong.
    """
    schema = study.schema_at(task)
    policies = ("exclude", "sensitivity", *schema.label.classes)
    if unknown_label not in policies:
        raise UsageError("C01", f"unknown_label '{unknown_label}' is not one of {', '.join(policies)}")
    if not data.exists():
        raise DataError("D00", f"D00 {data}: the data folder or file is not there. Check the path")
    cache: Cache = {}
    chosen = _choose(study, data, source, cache)
    faults: list[Fault] = []
    tables = _load(chosen, data, cache, faults)
    raise_faults(faults if chosen.index.name not in tables else [])
    return _assemble(study, task, chosen, tables, faults, unknown_label)


def _choose(study: Study, data: Path, source: str | None, cache: Cache) -> Source:
    """The mapping asked for, the study's own, or the only built-in one whose index table identifies itself in `data`."""
    if source is not None:
        return mapping.named(source)
    if study.source is not None:
        return mapping.parse(study.source, f"study '{study.name}'")
    candidates = mapping.builtin(study.name)
    if not candidates:
        raise UsageError("C02", f"no source mapping serves study '{study.name}'; give it one in a TOML file (docs/own-study.md)")
    lacking = {c.name: _lacking(c, data, cache) for c in candidates}
    fitting = [c for c in candidates if not lacking[c.name]]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(c.name for c in fitting)
        raise UsageError("C02", f"{data} fits {len(fitting)} source mappings ({names}); choose one with --source NAME")
    raise_faults([fault for _, broken in cache.values() for fault in broken])
    files = any(find(data, c.index.files) for c in candidates)
    told = [
        Fault(
            "D08" if files else "D00",
            f"{data}, source mapping '{name}'",
            what,
            "Correct the table, or choose another mapping with --source NAME",
        )
        for name, what in lacking.items()
    ]
    raise_faults(told)
    raise AssertionError("unreachable: raise_faults was given faults")


def _lacking(source: Source, data: Path, cache: Cache) -> str:
    """What `data` lacks to be read with `source`: '' when the index table and its identifying columns are there."""
    files = find(data, source.index.files)
    if not files:
        return f"no file {' or '.join(source.index.files)}"
    needed: list[tuple[str, ...]] = [(source.index.key,), *((k.column,) for k in source.index.keep if not k.optional)]
    within, value = source.label.within, source.label.value
    specs = (within.event, within.time) if within is not None else (value,) if value is not None else ()
    needed += [tuple(a.name for a in spec.columns) for spec in specs if spec.table == source.index.name]
    missing = []
    for path in files:
        part, faults = _part(path, source.index.layout, cache)
        if part is None:
            missing.append("; ".join(f"{f.where}: {f.what}" for f in faults))
            continue
        for names in needed:
            if not any(n in part.index for n in names):
                missing.append(f"{path.name} has no column {' or '.join(repr(n) for n in names)}{nearest(names[0], part.header)}")
    return "; ".join(dict.fromkeys(missing))


def _part(path: Path, layout: Layout, cache: Cache) -> tuple[Part | None, list[Fault]]:
    if (path, layout) not in cache:
        faults: list[Fault] = []
        cache[path, layout] = (read_part(path, layout, faults), faults)
    return cache[path, layout]


def _load(source: Source, data: Path, cache: Cache, faults: list[Fault]) -> dict[str, Loaded]:
    """All tables that are there. A missing table that is not optional, or one that cannot be read, is a fault."""
    out = {}
    for spec in source.tables:
        files = find(data, spec.files)
        if not files and data.is_file() and spec is source.index:
            files = [data]  # a file that is named outright is the table, whatever it is called
        if not files:
            if not spec.optional:
                what = f"no file {' or '.join(spec.files)} (table '{spec.name}' of source mapping '{source.name}')"
                faults.append(Fault("D00", str(data), what, "Put the table into the data folder, or name the file outright"))
            continue
        parts = []
        for path in files:
            part, known = _part(path, spec.layout, cache)
            faults += known
            if part is not None and spec.key not in part.index:
                what = f"there is no key column '{spec.key}'{nearest(spec.key, part.header)}"
                faults.append(
                    Fault(
                        "D05" if spec.name != source.index.name else "D08",
                        part.path.name,
                        what,
                        "Rename the column, or correct the mapping",
                    )
                )
            elif part is not None:
                parts.append(part)
        if parts:
            out[spec.name] = Loaded.of(spec, parts, data, source.nulls, faults)
    return out


def _assemble(study: Study, task: str, source: Source, tables: Mapping[str, Loaded], faults: list[Fault], unknown_label: str) -> Reading:
    schema = study.schema_at(task)
    index = tables[source.index.name]
    flow = Account(index, notes=[*_left_out_features(study, schema), *(n for t in tables.values() for n in t.notes)])
    flow.filter_index(faults)
    _join(source, tables, flow, faults)
    _guard(study, source, tables, schema, flow)
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
    labels, label_source = _labels(source, schema, tables, flow, faults)
    sites = columns.institutions(source.site, tables, flow, faults)
    survival = _survival(source, schema, tables, flow, faults)
    raise_faults(faults)
    return _reading(study, schema, source, flow, values, labels, label_source, sites, survival, unknown_label)


def _left_out_features(study: Study, schema: Schema) -> list[str]:
    """Guard L01: features that become available after the task's time do not enter, and the flow says so."""
    have = {f.name for f in schema.features}
    later = [f for f in study.schema.features if f.name not in have]
    return [
        f"L01: left out, since available only at '{t}': " + ", ".join(f.name for f in later if f.available_at == t)
        for t in dict.fromkeys(f.available_at for f in later)
    ]


def _guard(study: Study, source: Source, tables: Mapping[str, Loaded], schema: Schema, flow: Account) -> None:
    """Guard L02 on the columns that are really there; an override of the mapping is told in the flow."""
    used, overrides = {}, dict(study.overrides)
    for feature in schema.features:
        spec = source.features.get(feature.name)
        table = tables.get(spec.table) if spec is not None else None
        if spec is None or table is None or not spec.columns:
            continue
        used[feature.name] = next((a.name for a in spec.columns if a.name in table.parts[0].index), spec.columns[0].name)
        if spec.not_an_outcome:
            overrides[feature.name] = spec.not_an_outcome
    guard_denied(dataclasses.replace(study, overrides=overrides), used)
    flow.notes += [f"L02 override: feature '{n}' (column '{used[n]}') is used: {why}" for n, why in overrides.items() if n in used]


def _join(source: Source, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]) -> None:
    """Guard D05: keyed joins only; ids without a partner are counted in the notes and listed in the ids."""
    known = set(flow.all_ids)
    for table in tables.values():
        if table.spec.name == source.index.name:
            continue
        here = {i for i in table.ids if i}
        if not here & known:
            examples = f"{some(sorted(here))} and {some(sorted(known))}"
            what = f"none of its {len(here)} ids ('{table.spec.key}') is an id of table '{source.index.name}' (e.g. {examples})"
            faults.append(Fault("D05", table.where(), what, "Check the key columns and id_length"))
            continue
        for title, ids in (("without a case", here - known), ("cases without a row", known - here)):
            if ids:
                flow.notes.append(f"D05: table '{table.spec.name}': {len(ids)} {'ids ' if title.startswith('without') else ''}{title}")
                flow.named[f"{table.spec.name}: {title}"] = tuple(sorted(ids))


def _labels(source: Source, schema: Schema, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]) -> tuple[Values, str]:
    classes = schema.label.classes
    if source.label.within is None and source.label.value is not None:
        spec = source.label.value
        out = columns.label(classes, spec, source.label.unknown, tables, flow, faults)
        told = columns.used_column(spec, tables)
        return out, f"{told} (source mapping '{source.name}', guard D03)"
    w = source.label.within
    assert w is not None
    event = columns.label(("no", "yes"), w.event, (), tables, flow, faults)
    time = columns.number(Number(w.time.name, w.time.unit, 0, 1e6, schema.times[0]), w.time, tables, flow, faults)
    out = np.full(len(flow.ids), np.nan)
    out[(event == 1) & (time <= w.horizon)] = 1
    out[time > w.horizon] = 0
    out[(event == 0) & (time == w.horizon)] = 0
    short = (event == 0) & (time < w.horizon)
    competed = np.zeros(len(flow.ids), np.bool_)
    if w.competing is not None:
        competed = short & (columns.label(("no", "yes"), w.competing, (), tables, flow, faults) == 1)
        flow.notes.append(
            f"D04: {int(competed.sum())} patients {w.competing_title} within {w.horizon:g} {w.time.unit} (competing event): label unknown"
        )
    followed = int((short & ~competed).sum())
    flow.notes.append(f"D04: {followed} patients were event-free but followed for less than {w.horizon:g} {w.time.unit}: label unknown")
    told = f"{columns.used_column(w.event, tables)} within {w.horizon:g} {w.time.unit} by '{w.time.columns[0].name}'"
    return out, f"{told} (source mapping '{source.name}', guard D03)"


def _survival(source: Source, schema: Schema, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]) -> Floats | None:
    """(cases, 2) time and event; both NaN where either is unknown or the time is negative (counted)."""
    s = source.survival
    if s is None or schema.survival is None:
        return None
    event = columns.outcome(("alive", "dead"), dataclasses.replace(s.event, disagree="missing"), tables, flow, faults)
    time = np.full(len(flow.ids), np.nan)
    for spec in s.times:
        bounds = Number(schema.survival.name, schema.survival.unit, 0, 1e6, schema.times[0])
        known = columns.number(bounds, dataclasses.replace(spec, disagree="missing", out_of_range="missing"), tables, flow, faults)
        time = np.where(np.isnan(time), known, time)
    out = np.stack([time, event], axis=1)
    out[np.isnan(out).any(axis=1)] = np.nan
    return out


def _reading(
    study: Study,
    schema: Schema,
    source: Source,
    flow: Account,
    values: Floats,
    labels: Values,
    label_source: str,
    sites: list[str],
    survival: Floats | None,
    unknown_label: str,
) -> Reading:
    keep = np.array([i not in flow.gone for i in flow.ids], np.bool_)
    known = np.where(np.isnan(labels), UNKNOWN, labels).astype(np.int64)
    if not keep.any() or not (known[keep] != UNKNOWN).any():
        why = "; ".join(f"{n}: {r}" for r, n in flow.excluded()) or "no label is known"
        what = f"of {len(flow.all_ids)} patients read, {int(keep.sum())} are kept and none has a known label ({why})"
        raise_faults([Fault("D09", flow.index.where(), what, "Check the filters and the label's values")])
    unknown = keep & (known == UNKNOWN)
    if unknown_label != "exclude" and unknown.any():
        name = schema.label.classes[0] if unknown_label == "sensitivity" else unknown_label
        known[unknown] = schema.label.classes.index(name)
        flow.notes.append(f"D04: sensitivity analysis: {int(unknown.sum())} unknown labels are read as '{name}'")
    account = Flow(
        read=len(flow.all_ids),
        excluded=tuple(flow.excluded()),
        kept=int(keep.sum()),
        unknown_label=int((known[keep] == UNKNOWN).sum()),
        label_source=label_source,
        notes=tuple(flow.notes),
        ids={**flow.named, **{r: tuple(i for i, why in sorted(flow.gone.items()) if why == r) for r, _ in flow.excluded()}},
    )
    ids = tuple(i for i in flow.ids if i not in flow.gone)
    cohort = Cohort(study.name, schema, ids, values[keep], known[keep], account, survival=None if survival is None else survival[keep])
    return Reading(cohort, tuple(s for s, k in zip(sites, keep, strict=True) if k), source.name, dict(flow.gone))
