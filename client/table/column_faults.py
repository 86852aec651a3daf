"""Column faults in words: what could not be read, in which rows, and the way out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from client.table.cells import (
    factor,
    header_unit,
    limit,
    looks_null,
    suspect,
)
from client.table.mapping import FieldSpec
from client.table.rows import MANY, Loaded, Mask, Values
from common.data.schema import Number
from common.errors import Fault


def offending(table: Loaded, bad: Mapping[str, list[int]]) -> str:
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


def check_header(name: str, declared: str, where: str, faults: list[Fault]) -> None:
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


def check_unit_column(
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
        what = f"{offending(table, foreign)}: the declared unit is '{declared}'"
        said = (what, f"Convert these rows to '{declared}'")
        faults.append(table.cell_fault("D07", spec.unit_column, said, foreign))


def way_out(bad: Mapping[str, list[int]], decimal: str) -> str:
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


def outside_bounds(
    f: Number, table: Loaded, column: str, cells: Sequence[str], parsed: Values, outside: list[int]
) -> Fault:
    sentinels = {cells[r] for r in outside}
    bad: dict[str, list[int]] = {}
    for row in outside:
        bad.setdefault(cells[row], []).append(row)
    if all(looks_null(text) for text in sentinels):
        what = f"{offending(table, bad)}: looks like a null token that is not declared"
        return table.cell_fault("D01", column, (what, way_out(bad, ".")), bad)
    hint = suspect(parsed[outside].tolist(), f.low, f.high, f.unit)
    what = (
        f"{len(outside)} values lie outside {f.low:g} to {f.high:g} {f.unit}: "
        f"{offending(table, bad)}" + (f" ({hint})" if hint else "")
    )
    way = 'Correct the values or the declared unit, or declare out_of_range = "missing"'
    return table.cell_fault("D07", column, (what, way), bad)


def way_to_term(
    names: Sequence[str], texts: Sequence[str], code: str, nearest: Mapping[str, str]
) -> str:
    """`nearest`: text -> the name that it is most like."""
    listed = f"[{', '.join(_quoted(t) for t in texts[:MANY])}]"
    if code == "D03" and all(looks_null(t) for t in texts):
        return f"If it means that the label is not known, declare it: unknown = {listed}"
    if code == "D03":
        return (
            f"Map it to a class, e.g. values = {{ {_quoted(names[0])} = {listed}, ... }}, or "
            f"declare it: unknown = {listed}"
        )
    pairs = {t: nearest[t] for t in texts[:MANY] if t in nearest} or {texts[0]: names[0]}
    proposed = ", ".join(f"{_quoted(text)} = {_quoted(name)}" for text, name in pairs.items())
    return f"Map it to one of these, e.g. map = {{ {proposed} }}, or declare it: nulls = {listed}"
