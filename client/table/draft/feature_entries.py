"""Feature entries of a drafted study file: unit, bounds, scale and vocabulary of a column, as its
values suggest them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from client.table.cells import factor, folded, header_unit
from client.table.draft.column_profile import Column, limits
from client.table.draft.column_roles import CHECK, ambiguous

_FAMILIES = (
    ({"f", "female", "w", "weiblich", "frau", "woman", "women", "femme", "femenino"},
     {"m", "male", "männlich", "maennlich", "mann", "man", "men", "homme", "masculino"}),
    ({"y", "yes", "true", "ja", "j", "oui", "si", "1"},
     {"n", "no", "false", "nein", "non", "0"}),
    ({"l", "left", "links"}, {"r", "right", "rechts"}),
    ({"pos", "positive", "positiv", "+"}, {"neg", "negative", "negativ"}),
)  # fmt: skip
"""Words of one meaning, beside those of the others."""

_UNITS = (
    (r"(^|[ _.-])(age|alter|[aâ]ge)([ _.-]|$)", "years"), (r"(^|[ _.-])bmi([ _.-]|$)|body.?mass",
    "kg/m2"), (r"weight|gewicht", "kg"),
    (r"(^|[ _.-])(height|gr[oö](ss|ß)e)([ _.-]|$)", "cm"), (r"(^|[ _.-])cea([ _.-]|$)", "ng/mL"),
    (r"(^|[ _.-])(year|jahr)", "year"),
    (r"score|index", "points"), (r"count|number|anzahl|nodes|(^|[ _.-])n([ _.-]|$)", "count"),
    (r"percent|prozent|%", "%"),
)  # fmt: skip


def quoted(text: str) -> str:
    """A TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def listed(texts: Iterable[str]) -> str:
    return "[" + ", ".join(quoted(t) for t in texts) + "]"


def choice(c: Column) -> list[str]:
    levels = c.levels
    shapes = {
        re.sub(r"\d{1,2}[a-d]?$|(?<![a-z])(i{1,3}|iv|v)[a-d]?$", "#", folded(t)) for t in levels
    }
    graded = len(levels) > 2 and len(shapes) == 1 and "#" in "".join(shapes)
    if graded and all(t in c.numbers for t in levels):
        grades = [int(c.numbers[t]) for t in levels]
        levels = tuple(str(n) for n in range(min(grades), max(grades) + 1))
    others = synonyms(c)
    levels = tuple(t for t in levels if t not in others)
    lines = [
        f"values = {listed(levels)}{CHECK}: every value that a hospital may have",
        *(["ordered = true" + CHECK] if graded else []),
    ]
    if others:
        pairs = ", ".join(f"{quoted(t)} = {quoted(name)}" for t, name in others.items())
        lines.append(f"map = {{ {pairs} }}{CHECK}: they seem to mean the same")
    return lines + _own_nulls(c, [t for t in c.nulls if ambiguous(t)])


def synonyms(c: Column) -> dict[str, str]:
    """Of a choice: a level -> the more frequent one of the same meaning ('F' -> 'female'), where
    the column speaks of several meanings of one family."""
    frequent = sorted(c.levels, key=lambda t: (-c.counts.get(t, 0), t))
    for family in _FAMILIES:
        means = {t: k for t in frequent for k, words in enumerate(family) if folded(t) in words}
        if len(set(means.values())) < 2:
            continue
        first = {k: next(t for t in means if means[t] == k) for k in set(means.values())}
        return {t: first[k] for t, k in means.items() if first[k] != t}
    return {}


def _own_nulls(c: Column, texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    rows = sum(c.counts.get(t, 0) for t in texts)
    return [f"nulls = {listed(texts)}{CHECK}: read as missing in this column ({rows} rows)"]


def number(c: Column, decimal: str) -> list[str]:
    """`decimal`: the table's mark."""
    values = c.values[c.codes]
    values = values[~np.isnan(values)]
    unit = header_unit(c.name) or next(
        (u for pattern, u in _UNITS if re.search(pattern, folded(c.name))), ""
    )
    stated = limits(c)
    lines: list[str] = []
    measured = _age_unit(unit, values)
    if measured:
        lines.append(f"column_unit = {quoted(measured)}{CHECK}: the ages are too high for years")
        values = values * (factor(measured, unit) or 1.0)
    low, high = bounds([*np.unique(values).tolist(), *stated.values()])
    if unit == "years" and low == 0 and values.max() <= 110:
        high = 120
    lines += [
        f"unit = {quoted(unit)}{CHECK}",
        f"low = {low:.12g}{CHECK}: outside low .. high a value is an error",
        f"high = {high:.12g}{CHECK}",
    ]
    if c.decimal != decimal:
        lines.append(f"decimal = {quoted(c.decimal)}{CHECK}: other columns have {quoted(decimal)}")
    if skewed(values, low):
        lines.append(f'scale = "log"{CHECK}: most values are low, a few very high')
    if stated:
        lines.append(
            f"map = {{ {', '.join(f'{quoted(t)} = {n:.12g}' for t, n in stated.items())} }}{CHECK}"
            ": the number that stands for it"
        )
    return lines + _own_nulls(
        c, [*(t for t in c.nulls if ambiguous(t)), *(t for t in c.strange if t not in stated)]
    )


def _age_unit(unit: str, values: NDArray[np.float64]) -> str:
    """The unit of ages in years that are none: days from 3 years on, months from 10."""
    usual = float(np.median(values))
    if unit != "years" or values.min() < 0 or usual <= 120:
        return ""
    return "days" if usual > 1200 else "months"


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """A generous interval about the values, at round numbers: half their span more on each side,
    not below 0 where none is below 0."""
    low, high = min(values), max(values)
    if low >= 0 and high <= 1 and any(0 < v < 1 for v in values):
        return 0.0, 1.0
    span = high - low
    if span < 1e-9 * max(abs(low), abs(high), 1e-3):
        span = abs(high) if abs(high) > 1e-9 else 1.0  # one value, or as good as one
    step = 10.0 ** math.floor(math.log10(span))
    start = math.floor((low - span / 2) / step) * step
    return 0.0 if low >= 0 else start, math.ceil((high + span / 2) / step) * step


def skewed(values: NDArray[np.float64], low: float) -> bool:
    """Whether positive numbers are strongly skewed, and much less so on the scale log(1 + x -
    low)."""
    if len(values) < 20 or values.min() < 0:
        return False
    plain, logged = _skewness(values), _skewness(np.log1p(values - low))
    return plain > 2 and abs(logged) < plain / 2


def _skewness(x: NDArray[np.float64]) -> float:
    spread = float(x.std())
    return float((((x - x.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0
