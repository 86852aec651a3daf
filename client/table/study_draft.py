"""Draft of a study file for a table of one's own, from what the table seems to hold, for the
researcher to correct.

Everything in it is a guess. What is an outcome, an identity, free text, a date or the label in
disguise is left out and said so.
"""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.table.cells import factor, folded, header_unit
from client.table.column_profile import Column, limits
from client.table.column_roles import (
    CHECK,
    FollowUp,
    ambiguous,
    classes_of,
    follow_ups,
    label_column,
    names_rows,
    other_outcome,
    patient_column,
    repeated_rows,
    site_column,
)
from client.table.profile import Survey, survey
from common.data.schema import Label, Schema
from common.study.outcomes import vital_status
from common.study.study import Study, denied_by

LEAK = 0.94
"""A single feature with a higher AUC is left out: guard L03 would stop the run at 0.95 on some of
its training rows."""

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


def draft(path: Path) -> str:
    """The TOML text of a study for the table (or the folder of tables) at `path`. Raises DataError
    (D00) where none can be read."""
    surveyed = survey(path)
    columns = dict(surveyed.columns)
    site, site_told = site_column(surveyed, columns)
    hospitals = None
    if site_told:
        hospitals = columns[site].codes if site else surveyed.hospitals
    patient, id_told = patient_column(columns, site, hospitals)
    pairs = follow_ups(columns)
    label, why_label = label_column(columns, {site, patient}, pairs)
    if not surveyed.layout.header:
        label, why_label = "", "without names nothing says which column it is"
    classes, unknown = classes_of(columns[label]) if label else ({}, ())
    lines = [
        *_head(path, surveyed),
        *_follow_up_lines(pairs),
        f"id = {quoted(patient)}{id_told}",
        f"site = {quoted(site)}{site_told}"
        if site
        else site_told or '# site = "..."  # no column that names the hospital was found',
        *(repeated_rows(columns[patient], hospitals) if patient else []),
    ]
    inputs = {n: c for n, c in columns.items() if n not in (site, patient, label)}
    left_out = dict(surveyed.left_out)
    reasons = _refused(inputs, label, tuple(classes), pairs)
    features: list[str] = []
    outcome = _outcome(columns[label], classes) if label else None
    entries: dict[str, list[str]] = {}
    for name, column in inputs.items():
        why = (
            reasons.get(name)
            or _unusable(column)
            or (_same_rows(column, columns[site]) if site else "")
            or (_leak(column, outcome, len(classes)) if outcome is not None else "")
        )
        if why:
            left_out[name] = why
        else:
            entries[name] = (
                _number(column, surveyed.layout.decimal)
                if column.kind == "number"
                else _choice(column)
            )
    nulls = sorted(
        {
            t
            for n in (*entries, label)
            if n in columns
            for t in columns[n].nulls
            if not ambiguous(t)
        },
        key=lambda t: (t.casefold(), t),
    )
    for name, entry in entries.items():
        features += ["", "[[feature]]", f"name = {quoted(name)}", *entry]
    if nulls:
        lines.append(f"nulls = {_list(nulls)}{CHECK}: these are read as missing, in every column")
    if not entries:
        lines.append(f"feature = []{CHECK}: no column looks like an input")
    lines += ["", "[label]", *_label_lines(label, why_label, classes, unknown), *features]
    if left_out:
        lines += ["", "# Left out. To use one after all, write a [[feature]] for it:"]
        lines += [f"#   {quoted(name)}: {why}" for name, why in left_out.items()]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(texts: Iterable[str]) -> str:
    return "[" + ", ".join(quoted(t) for t in texts) + "]"


def _head(path: Path, surveyed: Survey) -> list[str]:
    rows = len(next(iter(surveyed.columns.values()))) if surveyed.columns else 0
    lines = [
        f"# A draft for {path.name}: {rows} rows, {len(surveyed.columns) + len(surveyed.left_out)} "
        "columns, guessed from names and contents.",
        "# Correct it, above all where it says `check`; docs/own-study.md has the keys.",
        *(f"# Attention: {warning}" for warning in surveyed.warnings),
        *(
            ["# Attention: this file seems to have no header; its columns are called 1, 2, ..."]
            if not surveyed.layout.header
            else []
        ),
        f"name = {quoted(re.sub(r'[^A-Za-z0-9_-]+', '_', path.stem).strip('_') or 'my_study')}",
        'question = "What do you want to know?"',
    ]
    patterns = [glob.escape(name) for name in surveyed.files]
    suffixes = {Path(name).suffix for name in surveyed.files}
    if surveyed.all_files and len(patterns) > 1 and len(suffixes) == 1:
        patterns = [f"*{suffixes.pop()}"]
    lines.append(f"table = {quoted(patterns[0]) if len(patterns) == 1 else _list(patterns)}")
    if len(surveyed.sheets) > 1 and surveyed.layout.sheet:
        other_sheets = ", ".join(quoted(s) for s in surveyed.sheets if s != surveyed.layout.sheet)
        lines.append(
            f"sheet = {quoted(surveyed.layout.sheet)}{CHECK}: there are also {other_sheets}"
        )
    usual = {"header": (1,), "comment": "", "encoding": "utf-8", "decimal": ".", "thousands": ""}
    for key, value in usual.items():
        actual = getattr(surveyed.layout, key)
        if actual != value:
            lines.append(f"{key} = {_written(actual)}{CHECK}")
    return lines


def _written(value: str | tuple[int, ...]) -> str:
    if isinstance(value, str):
        return quoted(value)
    if not value:
        return "false"
    return str(value[0]) if len(value) == 1 else str(list(value))


def _follow_up_lines(pairs: Sequence[FollowUp]) -> list[str]:
    return [
        f"# Attention: {quoted(pair.time)} is a follow-up time"
        + (f" and {quoted(pair.event)} its event" if pair.event else "")
        + ": no class and no input; [survival] describes the pair, docs/own-study.md says how"
        for pair in pairs
    ]


def _label_lines(
    label: str, why: str, classes: Mapping[str, Sequence[str]], unknown: Sequence[str]
) -> list[str]:
    if not label:
        return [f'column = ""{CHECK}: {why}', 'values = ["0", "1"]']
    order = (
        "the first is the reference, the last the event"
        if len(classes) == 2
        else "the first is the reference"
    )
    lines = [f"column = {quoted(label)}{CHECK}: {why}"]
    if any(len(texts) > 1 or texts[0] != name for name, texts in classes.items()):
        lines.append(f"classes = {_list(classes)}{CHECK}: {order}")
        pairs = ", ".join(f"{quoted(n)} = {_list(texts)}" for n, texts in classes.items())
        lines.append(f"values = {{ {pairs} }}{CHECK}: subdivisions are one class")
    else:
        lines.append(f"values = {_list(classes)}{CHECK}: {order}")
    return lines + (
        [f"unknown = {_list(unknown)}{CHECK}: neither; never trained on, never scored"]
        if unknown
        else []
    )


def _refused(
    inputs: Mapping[str, Column],
    label: str,
    classes: Sequence[str],
    pairs: Sequence[FollowUp],
) -> dict[str, str]:
    """Columns that are no inputs whatever they hold: a follow-up, an id, and guard L02's, whose
    name or vocabulary is that of an outcome, or that encode the label."""
    schema = Schema(
        "draft",
        (),
        Label(label or "label", tuple(classes) if len(classes) > 1 else ("no", "yes")),
        ("baseline",),
    )
    denied = denied_by(Study("draft", "", schema, {}, source={"label": {"column": label}}))
    reason = (
        "an outcome, or it encodes the label (guard L02); if it only sounds so, say why in "
        "not_an_outcome"
    )
    reasons: dict[str, str] = {}
    for name, column in inputs.items():
        time = next((pair for pair in pairs if pair.time == name), None)
        event = next((pair for pair in pairs if pair.event == name), None)
        if time is not None:
            reasons[name] = "a follow-up time" + (
                f", to the event {quoted(time.event)}" if time.event else ""
            )
        elif event is not None:
            reasons[name] = f"the event of the follow-up time {quoted(event.time)}"
        elif names_rows(column):
            reasons[name] = "ids: of patients, examinations or rows; never an input"
        elif denied(name) or (column.kind == "choice" and vital_status(column.levels)):
            reasons[name] = reason
        elif other_outcome(name):
            reasons[name] = "another outcome: one is no input for another"
    return reasons


def _same_rows(c: Column, site: Column) -> str:
    """A column that has one value in each hospital, and another in each, names the hospital."""
    both = len(np.unique(c.codes.astype(np.int64) * len(site.texts) + site.codes))
    if both == len(c.counts) == len(site.counts) > 2:
        return f"it names the hospital again, as {quoted(site.name)} does"
    return ""


def _unusable(c: Column) -> str:
    if any(ord(letter) < 32 for letter in c.name):
        return "its name has control characters: rename it"
    rows = len(c)
    if (
        c.kind == "number"
        and c.different == rows >= 20
        and np.nanmax(c.values) - np.nanmin(c.values) == rows - 1
    ):
        return "it numbers the rows"
    return {
        "empty": "it holds nothing",
        "constant": "it holds one value only",
        "date": "dates; a time between two of them, in days, could be used",
        "text": f"free text, names or codes ({c.different} different ones); group the values "
        "with map to use it",
    }.get(c.kind, "")


def _outcome(c: Column, classes: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    class_index = {folded(t): k for k, texts in enumerate(classes.values()) for t in texts}
    classes_of_texts = [class_index.get(folded(text), -1) for text in c.texts.to_pylist()]
    return np.array(classes_of_texts, np.int64)[c.codes]


def _leak(c: Column, outcome: NDArray[np.int64], classes: int) -> str:
    """Guard L03 beforehand: the best AUC of this column alone, by its values or by being
    missing."""
    values = c.values
    if c.kind == "choice":
        order = {folded(t): k for k, t in enumerate(c.levels)}
        texts = c.texts.to_pylist()
        values = np.array(
            [np.nan if t in c.nulls else order.get(folded(t), np.nan) for t in texts], np.float64
        )
    x = values[c.codes]
    worst = 0.5
    for k in range(classes):
        y = outcome == k
        for use, scores in (
            (~np.isnan(x), x),
            (np.ones(len(x), np.bool_), np.isnan(x).astype(np.float64)),
        ):
            rows = use & (outcome >= 0)
            worst = max(worst, _auc(scores[rows], y[rows], sort=c.kind == "choice"))
    return (
        f"alone it predicts the label almost perfectly (AUC {worst:.2f}), so it probably encodes "
        "it (guard L03)"
        if worst > LEAK
        else ""
    )


def _auc(x: NDArray[np.float64], y: NDArray[np.bool_], *, sort: bool) -> float:
    """Of `x` for `y`, either direction; with `sort` the values of `x` are first put into the best
    order."""
    if min(int(y.sum()), int((~y).sum())) < 10:
        return 0.5
    _, levels = np.unique(x, return_inverse=True)
    positive, totals = np.bincount(levels, y), np.bincount(levels)
    if sort:
        best = np.argsort(positive / totals, kind="stable")
        positive, totals = positive[best], totals[best]
    negative = totals - positive
    below = np.cumsum(negative) - negative
    auc = float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
    return max(auc, 1 - auc)


def _choice(c: Column) -> list[str]:
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
        f"values = {_list(levels)}{CHECK}: every value that a hospital may have",
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
    return [f"nulls = {_list(texts)}{CHECK}: read as missing in this column ({rows} rows)"]


def _number(c: Column, decimal: str) -> list[str]:
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
