"""Draft of a study file for a table of one's own, from what the table seems to hold, for the
researcher to correct.

Everything in it is a guess. What is an outcome, an identity, free text, a date or the label in
disguise is left out and said so.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.table.draft.column_roles import (
    CHECK,
    FollowUp,
    ambiguous,
    classes_of,
    follow_ups,
    label_column,
    patient_column,
    repeated_rows,
    site_column,
)
from client.table.draft.feature_entries import choice, listed, number, quoted
from client.table.draft.profile import Survey, survey
from client.table.draft.unusable_columns import leak, outcome, refused, same_rows, unusable
from client.table.part import GZIPPED, suffix_of


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
    reasons = refused(inputs, label, tuple(classes), pairs)
    features: list[str] = []
    outcome_of_rows = outcome(columns[label], classes) if label else None
    entries: dict[str, list[str]] = {}
    for name, column in inputs.items():
        why = (
            reasons.get(name)
            or unusable(column)
            or (same_rows(column, columns[site]) if site else "")
            or (leak(column, outcome_of_rows, len(classes)) if outcome_of_rows is not None else "")
        )
        if why:
            left_out[name] = why
        else:
            entries[name] = (
                number(column, surveyed.layout.decimal)
                if column.kind == "number"
                else choice(column)
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
        lines.append(f"nulls = {listed(nulls)}{CHECK}: these are read as missing, in every column")
    if not entries:
        lines.append(f"feature = []{CHECK}: no column looks like an input")
    lines += ["", "[label]", *_label_lines(label, why_label, classes, unknown), *features]
    if left_out:
        lines += ["", "# Left out. To use one after all, write a [[feature]] for it:"]
        lines += [f"#   {quoted(name)}: {why}" for name, why in left_out.items()]
    return "\n".join(lines) + "\n"


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
    suffixes = {_suffix(name) for name in surveyed.files}
    if surveyed.all_files and len(patterns) > 1 and len(suffixes) == 1:
        patterns = [f"*{suffixes.pop()}"]
    lines.append(f"table = {quoted(patterns[0]) if len(patterns) == 1 else listed(patterns)}")
    if surveyed.join:
        lines.append(
            f"join = {quoted(surveyed.join)}{CHECK}: a row a sample; what differs between samples "
            "of a patient is missing"
        )
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


def _suffix(name: str) -> str:
    """The end of a file's name that says what it is: `.xlsx`, `.csv.gz`."""
    return suffix_of(Path(name)) + (GZIPPED if name.lower().endswith(GZIPPED) else "")


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
        lines.append(f"classes = {listed(classes)}{CHECK}: {order}")
        pairs = ", ".join(f"{quoted(n)} = {listed(texts)}" for n, texts in classes.items())
        lines.append(f"values = {{ {pairs} }}{CHECK}: subdivisions are one class")
    else:
        lines.append(f"values = {listed(classes)}{CHECK}: {order}")
    return lines + (
        [f"unknown = {listed(unknown)}{CHECK}: neither; never trained on, never scored"]
        if unknown
        else []
    )
