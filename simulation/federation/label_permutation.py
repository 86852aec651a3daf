"""Label permutation (guard L06): the labels shuffled within each institution; whatever is still
predicted then is an artefact.

The table is written out as any hospital's would be, with a source mapping beside it, and read back
by the same readers.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from client.cohort.reader import Reading
from common.data.cohort import UNKNOWN, Cohort
from common.data.schema import Number
from server.ledger import state_store

Labels = np.ndarray[tuple[int], np.dtype[np.int64]]


def write(folder: Path, reading: Reading, seed: int) -> tuple[Path, Path]:
    """`cohort.csv` and `source.toml` in `folder`; the labels of known cases are permuted within
    each institution."""
    return write_table(folder, reading, shuffled(reading.cohort, reading.institutions, seed))


def write_table(folder: Path, reading: Reading, labels: Labels) -> tuple[Path, Path]:
    """The table with `labels` (cases,) in place of its own, and its source mapping."""
    cohort = reading.cohort
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["patient", "institution", "label", *(f.name for f in cohort.schema.features)])
    for i, (patient, home) in enumerate(zip(cohort.ids, reading.institutions, strict=True)):
        label = "" if labels[i] == UNKNOWN else cohort.schema.label.classes[int(labels[i])]
        out.writerow([patient, home, label, *_values(cohort, i)])
    state_store.write(folder / "cohort.csv", text.getvalue().encode())
    state_store.write(folder / "source.toml", source(cohort, reading.overrides).encode())
    return folder / "cohort.csv", folder / "source.toml"


def shuffled(cohort: Cohort, institutions: tuple[str, ...], seed: int) -> Labels:
    """Labels (cases,), permuted among the labelled cases of each institution."""
    rng = np.random.default_rng(seed)
    labels, homes = cohort.labels.copy(), np.array(institutions)
    for home in sorted(set(institutions)):
        rows = np.flatnonzero((homes == home) & (labels != UNKNOWN))
        labels[rows] = labels[rng.permutation(rows)]
    return labels


def source(cohort: Cohort, overrides: Mapping[str, str]) -> str:
    """The mapping of `cohort.csv`, in the form of docs/own-study.md; values outside the vocabulary
    do not occur."""
    schema = cohort.schema
    lines = [
        'name = "permuted"',
        f"studies = [{json.dumps(schema.name)}]",
        'nulls = [""]',
        "",
        "[tables.cohort]",
        'files = ["cohort.csv"]',
        'key = "patient"',
        'rows = "one"',
        "",
        "[site]",
        'column = "institution"',
        "",
        "[label]",
        'column = "label"',
        "values = { "
        f"{', '.join(f'{json.dumps(c)} = {json.dumps(c)}' for c in schema.label.classes)} }}",
        "",
    ]
    for f in schema.features:
        lines += [f"[features.{json.dumps(f.name)}]", f"column = {json.dumps(f.name)}"]
        if isinstance(f, Number):
            lines.append(f"unit = {json.dumps(f.unit)}")
        if f.name in overrides:
            lines.append(f"not_an_outcome = {json.dumps(overrides[f.name])}")
        lines.append("")
    return "\n".join(lines)


def _values(cohort: Cohort, row: int) -> list[str]:
    out = []
    for j, f in enumerate(cohort.schema.features):
        x = cohort.values[row, j]
        if np.isnan(x):
            out.append("")
        else:
            out.append(repr(float(x)) if isinstance(f, Number) else f.values[int(x)])
    return out
