"""One column of a table to one value a patient: parse each row, collect what cannot be read, and see that a patient's rows agree."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from client.mapping import Alias, FieldSpec, SiteSpec
from client.patients import MANY, Account, Loaded, some
from client.values import Vocabulary, factor, folded, header_unit, looks_null, suspect
from client.values import number as number_of
from common.errors import Fault
from common.schema import Choice, Feature, Number

Values = NDArray[np.float64]
"""(cases,), NaN where missing."""


def _per_patient(name: str, parsed: Sequence[float], mask: Sequence[bool], table: Loaded, spec: FieldSpec, flow: Account) -> Values:
    """One value a patient. In the index table a missing value contradicts a known one; elsewhere only known values count."""
    index = table is flow.index
    found: dict[str, set[float]] = defaultdict(set)
    out = np.full(len(flow.ids), np.nan)
    for patient, value, use in zip(table.ids, parsed, mask, strict=True):
        if use and (index or value == value):
            found[patient].add(value if value == value else -np.inf)
    apart = []
    for patient, values in found.items():
        i = flow.at.get(patient)
        if i is None:
            continue
        if len(values) > 1:
            apart.append(patient)
        elif (value := next(iter(values))) != -np.inf:
            out[i] = value
    apart = [p for p in apart if p not in flow.gone]
    if apart and spec.disagree == "missing":
        flow.notes.append(f"D02: {name} differs between the rows of {len(apart)} patients: set to missing, as the mapping declares")
        flow.named[f"{name}: rows disagree"] = tuple(sorted(apart))
    elif apart:
        for patient in apart:
            flow.drop(patient, f"rows contradict each other in {name} (D02)")
    return out


def _resolve(
    spec: FieldSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> tuple[Loaded, list[str], list[bool], Alias] | None:
    """The column of a field: its table, cells, the rows that count, and the alias found. None: absent (noted) or a fault."""
    table = tables.get(spec.table)
    if spec.absent or table is None:
        flow.notes.append(
            f"{spec.name} is wholly missing: " + ("the source never has it" if spec.absent else f"there is no table '{spec.table}'")
        )
        return None
    names = [a.name for a in spec.columns]
    cells = table.cells(names, None if spec.optional else faults)
    if cells is None:
        if spec.optional:
            flow.notes.append(f"{spec.name} is wholly missing: {table.where()} has no column {' or '.join(names)}")
        return None
    alias = next(a for a in spec.columns if a.name in table.parts[0].index)
    mask = flow.mask if table is flow.index else [bool(i) for i in table.ids]
    if spec.keep:
        mask = [a and b for a, b in zip(mask, table.kept(spec.keep, faults), strict=True)]
    return table, cells, mask, alias


def _parsed(
    cells: Sequence[str], mask: Sequence[bool], nulls: Iterable[str], parse: Callable[[str], float | None]
) -> tuple[list[float], dict[str, list[int]]]:
    """A float a row (NaN: missing), and the rows of each text that could not be parsed. Each distinct text is parsed once."""
    memo: dict[str, float | None] = {}
    empty = {folded(n) for n in nulls} | {""}
    out = []
    bad: dict[str, list[int]] = {}
    for row, (cell, use) in enumerate(zip(cells, mask, strict=True)):
        if not use:
            out.append(np.nan)
            continue
        if cell not in memo:
            memo[cell] = np.nan if folded(cell) in empty else parse(cell)
        value = memo[cell]
        if value is None:
            bad.setdefault(cell, []).append(row)
        out.append(np.nan if value is None else value)
    return out, bad


def _told(table: Loaded, bad: Mapping[str, list[int]]) -> str:
    """The offending values with their counts and rows."""
    first = list(bad.items())[:MANY]
    more = f"; and {len(bad) - MANY} further values" if len(bad) > MANY else ""
    return "; ".join(f"{text.strip()[:40]!r} in {len(rows)} rows ({table.rows(rows)})" for text, rows in first) + more


def feature(f: Feature, spec: FieldSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]) -> Values:
    """The values of one feature, (cases,): numbers in the schema's unit, choices as vocabulary index."""
    return number(f, spec, tables, flow, faults) if isinstance(f, Number) else _choice(f, spec, tables, flow, faults)


def number(f: Number, spec: FieldSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]) -> Values:
    """A number in `f.unit`. Faults: not a number (D01), another unit or out of bounds (D07)."""
    found = _resolve(spec, tables, flow, faults)
    if found is None:
        return np.full(len(flow.ids), np.nan)
    table, cells, mask, alias = found
    where = table.where(alias.name)
    nulls = (*table.nulls, *spec.nulls)
    decimal = table.spec.layout.decimal
    declared = alias.unit or spec.unit or f.unit
    scale = factor(declared, f.unit)
    if scale is None:
        faults.append(
            Fault(
                "D07",
                where,
                f"the unit '{declared}' cannot be converted to '{f.unit}', in which the study takes {f.name}",
                "Convert the column, or correct the declared unit",
            )
        )
        return np.full(len(flow.ids), np.nan)
    _check_header(alias.name, declared, where, faults)
    parsed, bad = _parsed(cells, mask, nulls, lambda text: number_of(text, decimal))
    if bad:
        what = f"{_told(table, bad)}: neither a number nor a declared null token"
        faults.append(Fault("D01", where, what, _way_out(bad, decimal)))
    _check_unit_column(spec, declared, table, [m and v == v for m, v in zip(mask, parsed, strict=True)], faults)
    parsed = [v * scale for v in parsed] if scale != 1 else parsed
    outside = [row for row, v in enumerate(parsed) if v == v and not f.low <= v <= f.high]
    if outside and spec.out_of_range == "missing":
        flow.notes.append(
            f"D07: {len(outside)} values of {f.name} outside {f.low:g} to {f.high:g} {f.unit}: set to missing, as the mapping declares"
        )
        parsed = [v if f.low <= v <= f.high else np.nan for v in parsed]
    elif outside:
        faults.append(_outside(f, table, where, cells, parsed, outside))
    return _per_patient(f.name, parsed, mask, table, spec, flow)


def _check_header(name: str, declared: str, where: str, faults: list[Fault]) -> None:
    stated = header_unit(name)
    if stated is not None and factor(stated, declared) != 1.0:
        faults.append(
            Fault(
                "D07",
                where,
                f"the column's name states the unit '{stated}', the mapping declares '{declared}'",
                f"Declare unit '{stated}' for the column if its name is right (it is then converted), or rename it",
            )
        )


def _check_unit_column(spec: FieldSpec, declared: str, table: Loaded, mask: Sequence[bool], faults: list[Fault]) -> None:
    cells = table.cells((spec.unit_column,), faults) if spec.unit_column else None
    if cells is None:
        return
    other: dict[str, list[int]] = {}
    for row, (cell, use) in enumerate(zip(cells, mask, strict=True)):
        if use and factor(cell, declared) != 1.0:
            other.setdefault(cell, []).append(row)
    if other:
        what = f"{_told(table, other)}: the declared unit is '{declared}'"
        faults.append(Fault("D07", table.where(spec.unit_column), what, f"Convert these rows to '{declared}'"))


def _way_out(bad: Mapping[str, list[int]], decimal: str) -> str:
    texts = [t.strip() for t in bad]
    if all(looks_null(t) for t in texts):
        return f"If it means missing, declare it: nulls = [{', '.join(repr(t) for t in texts[:MANY])}]"
    if decimal == "." and any(re.fullmatch(r"[+-]?\d+,\d+", t) for t in texts):
        return 'If the comma is a decimal comma, declare decimal = ","'
    if decimal == "," and any(re.fullmatch(r"[+-]?\d+\.\d+", t) for t in texts):
        return 'A decimal comma is declared, and these have points: correct them, or declare decimal = "."'
    if any(t[:1] in "<>≤≥" for t in texts):
        return "A value below or above a limit is no number: decide on one, or declare it as missing in nulls"
    return "Correct the values, or declare what means missing in nulls"


def _outside(f: Number, table: Loaded, where: str, cells: Sequence[str], parsed: Sequence[float], outside: list[int]) -> Fault:
    sentinels = {cells[r] for r in outside}
    bad: dict[str, list[int]] = {}
    for row in outside:
        bad.setdefault(cells[row], []).append(row)
    if all(looks_null(text) for text in sentinels):
        return Fault("D01", where, f"{_told(table, bad)}: looks like a null token that is not declared", _way_out(bad, "."))
    hint = suspect([parsed[r] for r in outside], f.low, f.high, f.unit)
    what = f"{len(outside)} values lie outside {f.low:g} to {f.high:g} {f.unit}: {_told(table, bad)}" + (f" ({hint})" if hint else "")
    return Fault("D07", where, what, 'Correct the values or the declared unit, or declare out_of_range = "missing"')


def _choice(f: Choice, spec: FieldSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]) -> Values:
    return _vocabulary(f.name, f.values, spec, (), "D07", tables, flow, faults)


def label(
    classes: Sequence[str], spec: FieldSpec, unknown: Iterable[str], tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> Values:
    """The class index of each case, NaN where unknown. A value that is not declared is a fault (D03)."""
    return _vocabulary(spec.name, classes, spec, unknown, "D03", tables, flow, faults)


def outcome(names: Sequence[str], spec: FieldSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]) -> Values:
    """The state of each case at the end of its follow-up, as position in `names`; NaN where unknown."""
    return _vocabulary(spec.name, names, spec, (), "D07", tables, flow, faults)


def _vocabulary(
    name: str,
    names: Sequence[str],
    spec: FieldSpec,
    missing: Iterable[str],
    code: str,
    tables: Mapping[str, Loaded],
    flow: Account,
    faults: list[Fault],
) -> Values:
    seen = len(faults)
    found = _resolve(spec, tables, flow, faults)
    if code == "D03":
        faults[seen:] = [Fault("D03", x.where, x.what, x.way_out) if x.code == "D08" else x for x in faults[seen:]]
    if found is None:
        return np.full(len(flow.ids), np.nan)
    table, cells, mask, alias = found
    vocabulary = Vocabulary(names, spec.values)
    nulls = (*table.nulls, *spec.nulls, *missing)
    parsed, bad = _parsed(cells, mask, nulls, lambda text: None if (i := vocabulary.index(text)) is None else float(i))
    undeclared = {t: r for t, r in bad.items() if looks_null(t)} if code != "D03" else {}
    foreign = {t: r for t, r in bad.items() if t not in undeclared}
    if undeclared:
        what = f"{_told(table, undeclared)}: neither in the vocabulary nor a declared null token"
        faults.append(Fault("D01", table.where(alias.name), what, _way_out(undeclared, ".")))
    if foreign:
        near = difflib.get_close_matches(folded(next(iter(foreign))), vocabulary.known(), 1, 0.5)
        what = f"{_told(table, foreign)}: not in the vocabulary of {name} ({some(names)})" + (f"; nearest: '{near[0]}'" if near else "")
        way = (
            "Map the value to a class, or declare it in unknown"
            if code == "D03"
            else "Map the value to one of these, or declare it in nulls"
        )
        faults.append(Fault(code, table.where(alias.name), what, way))
    return _per_patient(name, parsed, mask, table, spec, flow)


def used_column(spec: FieldSpec, tables: Mapping[str, Loaded]) -> str:
    """'clinical.tsv: column' for the account of where a label comes from."""
    table = tables.get(spec.table)
    if table is None:
        return spec.table
    name = next((a.name for a in spec.columns if a.name in table.parts[0].index), spec.columns[0].name)
    return f"{table.where()}: {name}"


def institutions(spec: SiteSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]) -> list[str]:
    """The institution of each case. Only an empty cell is missing here: an institution may be called `NA`."""
    if spec.constant:
        return [spec.constant] * len(flow.ids)
    table = tables.get(spec.table)
    if table is None:
        return [""] * len(flow.ids)
    if spec.from_file:
        cells: list[str] | None = [part.path.stem for part in table.parts for _ in part.rows]
    else:
        cells = table.cells((spec.column,), faults)
    if cells is None:
        return [""] * len(flow.ids)
    mask = flow.mask if table is flow.index else [bool(i) for i in table.ids]
    names = {folded(k): v for k, v in spec.names.items()}
    empty = [row for row, (c, m) in enumerate(zip(cells, mask, strict=True)) if m and not c.strip()]
    if empty:
        faults.append(
            Fault(
                "D01",
                table.where(spec.column),
                f"the institution is empty in {len(empty)} rows ({table.rows(empty)})",
                "Fill in the institution of each row",
            )
        )
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for patient, cell, use in zip(table.ids, cells, mask, strict=True):
        if use:
            text = cell.strip()[slice(*spec.slice)] if spec.slice else cell.strip()
            name = names.get(folded(text), text)
            found[patient][name] += 1
    for patient in flow.ids:
        if patient not in flow.gone and not found.get(patient):
            flow.drop(patient, "no row that names the institution (D05)")
        elif patient not in flow.gone and len(found[patient]) > 1 and spec.pick == "agree":
            flow.drop(patient, "rows name different institutions (D02)")
    several = sum(len(v) > 1 for v in found.values())
    if several and spec.pick == "most":
        flow.notes.append(f"{several} patients have rows of several institutions: the one with most rows counts, as the mapping declares")
    return [min(found[p], key=lambda name: (-found[p][name], name)) if found.get(p) else "" for p in flow.ids]
