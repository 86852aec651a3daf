"""Column parsing, one column of a table to one value a patient: parse each row, collect what cannot
be read, and see that a patient's rows agree."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from client.table.cells import (
    Vocabulary,
    factor,
    folded,
    looks_null,
    numbers,
)
from client.table.column_faults import (
    check_header,
    check_unit_column,
    offending,
    outside_bounds,
    way_out,
    way_to_term,
)
from client.table.mapping import Alias, FieldSpec
from client.table.rows import MANY, Account, Loaded, Mask, Values, some
from common.data.schema import Choice, Feature, Number
from common.errors import Fault


def _per_patient(
    name: str, parsed: Values, mask: Mask, table: Loaded, spec: FieldSpec, flow: Account
) -> Values:
    """One value a patient. In the index table a missing value contradicts a known one; elsewhere
    only known values count."""
    positions = flow.positions(table)
    known, missing = (
        mask & (positions >= 0) & ~np.isnan(parsed),
        mask & (positions >= 0) & np.isnan(parsed),
    )
    low, high = np.full(len(flow.ids), np.inf), np.full(len(flow.ids), -np.inf)
    np.minimum.at(low, positions[known], parsed[known])
    np.maximum.at(high, positions[known], parsed[known])
    differ = low < high
    if table is flow.index:
        differ |= (low == high) & (np.bincount(positions[missing], minlength=len(flow.ids)) > 0)
    values = np.where(differ | (low > high), np.nan, low)
    differing = [p for p in (flow.ids[i] for i in np.flatnonzero(differ)) if p not in flow.gone]
    if differing and spec.disagree == "missing":
        flow.notes.append(
            f"D02: {name} differs between the rows of {len(differing)} patients: set to missing, "
            "as the mapping declares"
        )
        flow.named[f"{name}: rows disagree"] = tuple(sorted(differing))
    elif differing:
        for patient in differing:
            flow.drop(patient, f"rows contradict each other in {name} (D02)")
    return values


def _without(mask: Mask, bad: Mapping[str, Sequence[int]]) -> Mask:
    """The rows of `mask` but those in `bad`: an unreadable cell contradicts nobody's other rows."""
    mask = mask.copy()
    for rows in bad.values():
        mask[rows] = False
    return mask


def _resolve(
    spec: FieldSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> tuple[Loaded, list[str], Mask, Alias] | None:
    """The column of a field: its table, cells, the rows that count, and the alias found. None:
    absent (noted) or a fault."""
    table = tables.get(spec.table)
    if spec.absent or table is None:
        flow.notes.append(
            f"{spec.name} is wholly missing: "
            + ("the source never has it" if spec.absent else f"there is no table '{spec.table}'")
        )
        return None
    names = [a.name for a in spec.column]
    cells = table.cells(names, None if spec.optional else faults)
    if cells is None:
        if spec.optional:
            flow.notes.append(
                f"{spec.name} is wholly missing: {table.where()} has no column "
                + (
                    names[0]
                    if len(names) < 2
                    else f"{names[0]}, nor any of {len(names) - 1} others"
                )
            )
        return None
    alias = next(a for a in spec.column if a.name in table.parts[0].index)
    mask = flow.mask if table is flow.index else table.cases
    if spec.keep:
        mask = mask & table.kept(spec.keep, faults)
    return table, cells, mask, alias


Parse = Callable[[Sequence[str]], Sequence[float | None]]
"""Texts to values: NaN for a null token, None for what cannot be read."""


def _parsed(cells: list[str], mask: Mask, parse: Parse) -> tuple[Values, dict[str, list[int]]]:
    """(rows,) values, NaN where missing, and the rows of each text that could not be read."""
    counted_rows = np.flatnonzero(mask).tolist()
    values = parse(
        cells if len(counted_rows) == len(cells) else [cells[row] for row in counted_rows]
    )
    bad: dict[str, list[int]] = {}
    for row, value in zip(counted_rows, values, strict=True) if None in values else ():
        if value is None:
            bad.setdefault(cells[row], []).append(row)
    parsed = np.full(len(cells), np.nan)
    parsed[counted_rows] = np.array(values, np.float64)
    return parsed, bad


def _numbers(
    nulls: Sequence[str], stand_ins: Mapping[str, float], decimal: str, thousands: str
) -> Parse:
    """Numbers, by value also where they are null tokens ('-9', '-9.0'); `stand_ins`: numbers that
    stand for texts such as '<0.5'."""
    exact, empty = frozenset(("", *nulls)), {"", *(folded(n) for n in nulls)}
    missing = {n for n in numbers(nulls, decimal, thousands) if n is not None}

    def parse(texts: Sequence[str]) -> list[float | None]:
        candidates = [t for t in texts if t not in exact]
        values = numbers(candidates, decimal, thousands)
        if None in values:
            read_values = {
                text: np.nan if (key := folded(text)) in empty else stand_ins.get(key)
                for text in set(candidates)
            }
            values = [
                read_values[text] if value is None else value
                for text, value in zip(candidates, values, strict=True)
            ]
        if missing:
            values = [np.nan if value in missing else value for value in values]
        remaining_values = iter(values)
        return (
            values
            if len(candidates) == len(texts)
            else [np.nan if t in exact else next(remaining_values) for t in texts]
        )

    return parse


def _positions(vocabulary: Vocabulary, nulls: Iterable[str]) -> Parse:
    """The position of each text in a vocabulary."""
    empty = {"", *(folded(n) for n in nulls)}

    def parse(texts: Sequence[str]) -> list[float | None]:
        position_of = {
            text: np.nan if folded(text) in empty else vocabulary.index(text) for text in set(texts)
        }
        return [position_of[text] for text in texts]

    return parse


def feature(
    f: Feature, spec: FieldSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> Values:
    """The values of one feature, (cases,): numbers in the schema's unit, choices as vocabulary
    index."""
    return (
        number(f, spec, tables, flow, faults)
        if isinstance(f, Number)
        else _choice(f, spec, tables, flow, faults)
    )


def number(
    f: Number, spec: FieldSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> Values:
    """A number in `f.unit`. Faults: not a number (D01), another unit or out of bounds (D07)."""
    resolved = _resolve(spec, tables, flow, faults)
    if resolved is None:
        return np.full(len(flow.ids), np.nan)
    table, cells, mask, alias = resolved
    where = table.where(alias.name)
    layout = table.spec.layout
    decimal = spec.decimal or layout.decimal
    thousands = layout.thousands if layout.thousands != decimal else ""
    declared = alias.unit or spec.unit or f.unit
    scale = factor(declared, f.unit)
    if scale is None:
        faults.append(
            Fault(
                "D07",
                where,
                f"the unit '{declared}' cannot be converted to '{f.unit}', in which the study "
                f"takes {f.name}",
                "Convert the column, or correct the declared unit",
            )
        )
        return np.full(len(flow.ids), np.nan)
    check_header(alias.name, declared, where, faults)
    stand_ins = _stand_ins(spec, where, faults)
    parsed, bad = _parsed(
        cells,
        mask,
        _numbers((*table.nulls, *spec.nulls), stand_ins, decimal, thousands),
    )
    if bad:
        what = f"{offending(table, bad)}: neither a number nor a declared null token"
        faults.append(table.cell_fault("D01", alias.name, (what, way_out(bad, decimal)), bad))
        mask = _without(mask, bad)
    check_unit_column(spec, declared, table, mask & ~np.isnan(parsed), faults)
    parsed = parsed * scale if scale != 1 else parsed
    outside = np.flatnonzero((parsed < f.low) | (parsed > f.high)).tolist()
    if outside and spec.out_of_range == "missing":
        flow.notes.append(
            f"D07: {len(outside)} values of {f.name} outside {f.low:g} to {f.high:g} {f.unit}: "
            "set to missing, as the mapping declares"
        )
        parsed[outside] = np.nan
    elif outside:
        faults.append(outside_bounds(f, table, alias.name, cells, parsed, outside))
        mask = _without(mask, {"": outside})
    return _per_patient(f.name, parsed, mask, table, spec, flow)


def _stand_ins(spec: FieldSpec, where: str, faults: list[Fault]) -> dict[str, float]:
    """The numbers that a mapping's `values` declares for texts."""
    stand_ins: dict[str, float] = {}
    for name, texts in spec.values.items():
        value = numbers([name])[0]
        if value is None:
            what = f"{', '.join(map(repr, texts))} is mapped to '{name}', which is no number"
            faults.append(
                Fault("D07", where, what, 'Map it to a number, e.g. map = { "<0.5" = 0.25 }')
            )
        else:
            stand_ins |= {folded(text): value for text in texts}
    return stand_ins


def _choice(
    f: Choice, spec: FieldSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> Values:
    return _vocabulary(Terms(f.name, f.values), spec, tables, flow, faults)


def label(
    classes: Sequence[str],
    spec: FieldSpec,
    unknown: Iterable[str],
    tables: Mapping[str, Loaded],
    flow: Account,
    faults: list[Fault],
) -> Values:
    """The class index of each case, NaN where unknown. A value that is not declared is a fault
    (D03)."""
    terms = Terms(spec.name, classes, tuple(unknown), "D03")
    return _vocabulary(terms, spec, tables, flow, faults)


def outcome(
    names: Sequence[str],
    spec: FieldSpec,
    tables: Mapping[str, Loaded],
    flow: Account,
    faults: list[Fault],
) -> Values:
    """The state of each case at the end of its follow-up, as position in `names`; NaN where
    unknown."""
    return _vocabulary(Terms(spec.name, names), spec, tables, flow, faults)


class Terms(NamedTuple):
    """What a column of words may say."""

    name: str
    """Of the feature, or of the label."""
    values: Sequence[str]
    """In the study's words."""
    missing: tuple[str, ...] = ()
    """Words of the table that mean that it is not known, beside its null tokens."""
    code: str = "D07"
    """Of the fault that anything else is."""


def _vocabulary(
    terms: Terms,
    spec: FieldSpec,
    tables: Mapping[str, Loaded],
    flow: Account,
    faults: list[Fault],
) -> Values:
    name, names, missing, code = terms
    faults_before = len(faults)
    resolved = _resolve(spec, tables, flow, faults)
    if code == "D03":
        faults[faults_before:] = [
            Fault("D03", x.where, x.what, x.way_out) if x.code == "D08" else x
            for x in faults[faults_before:]
        ]
    if resolved is None:
        return np.full(len(flow.ids), np.nan)
    table, cells, mask, alias = resolved
    vocabulary = Vocabulary(names, spec.values)
    parsed, bad = _parsed(
        cells, mask, _positions(vocabulary, (*table.nulls, *spec.nulls, *missing))
    )
    undeclared = {t: r for t, r in bad.items() if looks_null(t)} if code != "D03" else {}
    foreign = {t: r for t, r in bad.items() if t not in undeclared}
    if undeclared:
        what = (
            f"{offending(table, undeclared)}: neither in the vocabulary nor a declared null token"
        )
        said = (what, way_out(undeclared, "."))
        faults.append(table.cell_fault("D01", alias.name, said, undeclared))
    if foreign:
        texts = [t.strip() for t in foreign]
        near = _nearest(texts, vocabulary)
        what = f"{offending(table, foreign)}: not in the vocabulary of {name} ({some(names)})" + (
            f"; nearest: '{near[texts[0]]}'" if texts[0] in near else ""
        )
        way = way_to_term(names, texts, code, near)
        faults.append(table.cell_fault(code, alias.name, (what, way), foreign))
    return _per_patient(name, parsed, _without(mask, bad), table, spec, flow)


def _nearest(texts: Sequence[str], vocabulary: Vocabulary) -> dict[str, str]:
    """Text -> the study's value that it is most like, of the first few that are like any."""
    known = [k for k in vocabulary.known() if len(k) > 1]
    near: dict[str, str] = {}
    for text in texts[:MANY]:
        for close in difflib.get_close_matches(folded(text), known, 1, 0.5):
            position = vocabulary.index(close)
            if position is not None:
                near[text] = vocabulary.names[position]
    return near


def used_column(spec: FieldSpec, tables: Mapping[str, Loaded]) -> str:
    """'clinical.tsv: column' for the account of where a label comes from."""
    table = tables.get(spec.table)
    if table is None:
        return spec.table
    name = next(
        (a.name for a in spec.column if a.name in table.parts[0].index), spec.column[0].name
    )
    return f"{table.where()}: {name}"
