"""Column parsing, one column of a table to one value a patient: parse each row, collect what cannot
be read, and see that a patient's rows agree."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from client.table.cells import (
    Vocabulary,
    factor,
    folded,
    header_unit,
    limit,
    looks_null,
    numbers,
    suspect,
)
from client.table.mapping import Alias, FieldSpec, SiteSpec
from client.table.rows import MANY, Account, Loaded, Mask, some
from common.data.schema import Choice, Feature, Number
from common.errors import Fault

Values = NDArray[np.float64]
"""(cases,), or (rows,) of a table; NaN where missing."""


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
                f"{spec.name} is wholly missing: {table.where()} has no column {' or '.join(names)}"
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


def _offending(table: Loaded, bad: Mapping[str, list[int]]) -> str:
    """The offending values with their counts and rows."""
    shown = list(bad.items())[:MANY]
    suffix = f"; and {len(bad) - MANY} further values" if len(bad) > MANY else ""
    return (
        "; ".join(
            f"{text.strip()[:40]!r} in {len(rows)} rows ({table.rows(rows)})"
            for text, rows in shown
        )
        + suffix
    )


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
    _check_header(alias.name, declared, where, faults)
    stand_ins = _stand_ins(spec, where, faults)
    parsed, bad = _parsed(
        cells,
        mask,
        _numbers((*table.nulls, *spec.nulls), stand_ins, layout.decimal, layout.thousands),
    )
    if bad:
        what = f"{_offending(table, bad)}: neither a number nor a declared null token"
        faults.append(Fault("D01", where, what, _way_out(bad, layout.decimal)))
    _check_unit_column(spec, declared, table, mask & ~np.isnan(parsed), faults)
    parsed = parsed * scale if scale != 1 else parsed
    outside = np.flatnonzero((parsed < f.low) | (parsed > f.high)).tolist()
    if outside and spec.out_of_range == "missing":
        flow.notes.append(
            f"D07: {len(outside)} values of {f.name} outside {f.low:g} to {f.high:g} {f.unit}: "
            "set to missing, as the mapping declares"
        )
        parsed[outside] = np.nan
    elif outside:
        faults.append(_outside(f, table, where, cells, parsed, outside))
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


def _check_header(name: str, declared: str, where: str, faults: list[Fault]) -> None:
    stated = header_unit(name)
    if stated is not None and factor(stated, declared) != 1.0:
        faults.append(
            Fault(
                "D07",
                where,
                f"the column's name states the unit '{stated}', the mapping declares '{declared}'",
                f"Declare unit '{stated}' for the column if its name is right (it is then "
                "converted), or rename it",
            )
        )


def _check_unit_column(
    spec: FieldSpec, declared: str, table: Loaded, mask: Mask, faults: list[Fault]
) -> None:
    cells = table.cells((spec.unit_column,), faults) if spec.unit_column else None
    if cells is None:
        return
    foreign: dict[str, list[int]] = {}
    wrong = {cell for cell in set(cells) if factor(cell, declared) != 1.0}
    for row in np.flatnonzero(mask).tolist():
        if cells[row] in wrong:
            foreign.setdefault(cells[row], []).append(row)
    if foreign:
        what = f"{_offending(table, foreign)}: the declared unit is '{declared}'"
        faults.append(
            Fault("D07", table.where(spec.unit_column), what, f"Convert these rows to '{declared}'")
        )


def _way_out(bad: Mapping[str, list[int]], decimal: str) -> str:
    texts = [t.strip() for t in bad]
    if all(looks_null(t) for t in texts):
        return (
            "If it means missing, declare it: nulls = "
            f"[{', '.join(_quoted(t) for t in texts[:MANY])}]"
        )
    limits = [t for t in texts if limit(t) is not None]
    if limits:
        examples = ", ".join(f"{_quoted(t)} = {limit(t):g}" for t in limits[:MANY])
        return (
            f"Say which number stands for a value beyond a limit, e.g. map = {{ {examples} }}, or "
            "declare it in nulls"
        )
    mark = "," if decimal == "." else "."
    if any(re.fullmatch(r"[+-]?\d{1,3}([ '\u00a0\u202f]\d{3})+([.,]\d+)?", t) for t in texts):
        return 'If the gap or the mark stands between thousands, declare thousands = " " (or "\'")'
    if any(
        re.fullmatch(
            rf"[+-]?\d{{1,3}}([{mark}]\d{{3}}){{2,}}"
            rf"|[+-]?\d{{1,3}}([{mark}]\d{{3}})+[{decimal}]\d+",
            t,
        )
        for t in texts
    ):
        return f'These have a mark between thousands: declare thousands = "{mark}"'
    if any(re.fullmatch(rf"[+-]?\d+[{mark}]\d+", t) for t in texts):
        if all(re.fullmatch(rf"[+-]?\d{{1,3}}[{mark}]\d{{3}}", t) for t in texts):
            return (
                f"If '{mark}' stands before decimals, declare decimal = \"{mark}\"; if "
                f'between thousands, thousands = "{mark}"'
            )
        return (
            f"'{mark}' seems to stand before decimals: declare decimal = \"{mark}\" for the "
            "table, or correct these values"
        )
    return "Correct the values, or declare what means missing in nulls"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _outside(
    f: Number, table: Loaded, where: str, cells: Sequence[str], parsed: Values, outside: list[int]
) -> Fault:
    sentinels = {cells[r] for r in outside}
    bad: dict[str, list[int]] = {}
    for row in outside:
        bad.setdefault(cells[row], []).append(row)
    if all(looks_null(text) for text in sentinels):
        return Fault(
            "D01",
            where,
            f"{_offending(table, bad)}: looks like a null token that is not declared",
            _way_out(bad, "."),
        )
    hint = suspect(parsed[outside].tolist(), f.low, f.high, f.unit)
    what = (
        f"{len(outside)} values lie outside {f.low:g} to {f.high:g} {f.unit}: "
        f"{_offending(table, bad)}" + (f" ({hint})" if hint else "")
    )
    return Fault(
        "D07",
        where,
        what,
        'Correct the values or the declared unit, or declare out_of_range = "missing"',
    )


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
            f"{_offending(table, undeclared)}: neither in the vocabulary nor a declared null token"
        )
        faults.append(Fault("D01", table.where(alias.name), what, _way_out(undeclared, ".")))
    if foreign:
        texts = [t.strip() for t in foreign]
        near = difflib.get_close_matches(
            folded(texts[0]), [k for k in vocabulary.known() if len(k) > 1], 1, 0.5
        )
        what = f"{_offending(table, foreign)}: not in the vocabulary of {name} ({some(names)})" + (
            f"; nearest: '{near[0]}'" if near else ""
        )
        faults.append(Fault(code, table.where(alias.name), what, _way_to(names, texts, code)))
    return _per_patient(name, parsed, mask, table, spec, flow)


def _way_to(names: Sequence[str], texts: Sequence[str], code: str) -> str:
    listed = f"[{', '.join(_quoted(t) for t in texts[:MANY])}]"
    if code == "D03" and all(looks_null(t) for t in texts):
        return f"If it means that the label is not known, declare it: unknown = {listed}"
    if code == "D03":
        return (
            f"Map it to a class, e.g. values = {{ {_quoted(names[0])} = {listed}, ... }}, or "
            f"declare it: unknown = {listed}"
        )
    return (
        f"Map it to one of these, e.g. map = {{ {_quoted(texts[0])} = {_quoted(names[0])} }}, "
        f"or declare it: nulls = {listed}"
    )


def used_column(spec: FieldSpec, tables: Mapping[str, Loaded]) -> str:
    """'clinical.tsv: column' for the account of where a label comes from."""
    table = tables.get(spec.table)
    if table is None:
        return spec.table
    name = next(
        (a.name for a in spec.column if a.name in table.parts[0].index), spec.column[0].name
    )
    return f"{table.where()}: {name}"


def institutions(
    spec: SiteSpec, tables: Mapping[str, Loaded], flow: Account, faults: list[Fault]
) -> list[str]:
    """The institution of each case. Only an empty cell is missing here: an institution may be
    called `NA`."""
    table = tables.get(spec.table)
    if spec.constant and (
        not spec.column or (table is not None and spec.column not in table.parts[0].index)
    ):
        return [spec.constant] * len(flow.ids)
    if table is None:
        return [""] * len(flow.ids)
    cells = table.hospitals if spec.from_file else table.cells((spec.column,), faults)
    if cells is None:
        return [""] * len(flow.ids)
    counted_rows = np.flatnonzero(flow.mask if table is flow.index else table.cases).tolist()
    names = {folded(k): v for k, v in spec.names.items()}
    empty = [row for row in counted_rows if not cells[row].strip()]
    if empty:
        faults.append(
            Fault(
                "D01",
                table.where(spec.column),
                f"the institution is empty in {len(empty)} rows ({table.rows(empty)})",
                "Fill in the institution of each row",
            )
        )
    called = {}
    for cell in set(cells):
        text = cell.strip()[slice(*spec.slice)] if spec.slice else cell.strip()
        called[cell] = names.get(folded(text), text)
    row_counts: dict[str, dict[str, int]] = defaultdict(dict)
    for row in counted_rows:
        rows, name = row_counts[table.ids[row]], called[cells[row]]
        rows[name] = rows.get(name, 0) + 1
    for patient in flow.ids:
        if patient not in flow.gone and not row_counts.get(patient):
            flow.drop(patient, "no row that names the institution (D05)")
        elif patient not in flow.gone and len(row_counts[patient]) > 1 and spec.pick == "agree":
            flow.drop(patient, "rows name different institutions (D02)")
    several = sum(len(v) > 1 for v in row_counts.values())
    if several and spec.pick == "most":
        flow.notes.append(
            f"{several} patients have rows of several institutions: the one with most rows "
            "counts, as the mapping declares"
        )
    return [
        min(row_counts[p], key=lambda name: (-row_counts[p][name], name))
        if row_counts.get(p)
        else ""
        for p in flow.ids
    ]
