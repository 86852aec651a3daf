"""Table faults, planted one each in a folder that `colorectal.write` has written: to test the
guards, and to see a guard fire.

    from simulation.phantom import colorectal, faults
    colorectal.write(folder)
    faults.named("age in days").plant(folder)         # any reading of `folder` now fails with D07

`FAULTS` is the list; each names the code that has to answer and what the answer is (`Answer`) when
the folder is read with its source mapping named (`gdc`). Where the mapping is left to be
recognised, a clinical table that cannot identify itself is D08. Planting is deterministic.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from client.table.mapping_file import SOURCES
from common.errors import UsageError
from simulation.phantom.colorectal.records import Row
from simulation.phantom.colorectal.writer import write_rows

Answer = Literal["error", "excluded", "run", "site", "report"]
"""`error`: reading fails with the code. `excluded`: the patient is left out, and the flow says so
with the code. `run`: the code stops the run later. `site`: that site's own reading fails. `report`:
nothing fails, and the report prints `not estimable`."""

CLINICAL: Final = "coad/clinical.tsv"
PATHOLOGY: Final = "coad/pathology_detail.tsv"
FOLLOW_UP: Final = "coad/follow_up.tsv"
BOTH: Final = ("coad", "read")
MAPPING: Final = "leaky.toml"
"""The mapping that `_outcome_as_feature` writes; read the folder with it as the source."""

ID = "cases.submitter_id"
M = "diagnoses.ajcc_pathologic_m"
AGE = "demographic.age_at_index"
KIND = "diagnoses.classification_of_tumor"
PRIOR = "diagnoses.prior_malignancy"


@dataclass(frozen=True)
class Planted:
    """A fault: what to call it, the code that must answer, how, and the function that plants it
    into a folder."""

    name: str
    code: str
    answer: Answer
    plant: Callable[[Path], None]


def _undeclared_null(folder: Path) -> None:
    """D01: three ages are 'n.k.', which no mapping declares to mean missing."""
    chosen = set(_primary_ids(folder)[:3])
    _edit(folder / CLINICAL, lambda row: row | {AGE: "n.k."} if row[ID] in chosen else row)


def _age_in_days(folder: Path) -> None:
    """D07: the ages of the colon cancers are in days, those of the rectal ones still in years."""
    _edit(folder / CLINICAL, lambda row: row | {AGE: str(round(int(row[AGE]) * 365.25))})


def _cea_unit(folder: Path) -> None:
    """D07: the unit column says U/mL, which cannot be converted to a mass."""
    unit = "molecular_tests.test_units"
    _edit(folder / FOLLOW_UP, lambda row: row | {unit: "U/mL"} if row[unit] == "ng/mL" else row)


def _foreign_value(folder: Path) -> None:
    """D07: one primary tumour lies outside the vocabulary of locations."""
    chosen = _primary_ids(folder)[0]
    column = "diagnoses.tissue_or_organ_of_origin"
    _edit(
        folder / CLINICAL,
        lambda row: (
            row | {column: "Stomach, NOS"} if row[ID] == chosen and row[KIND] == "primary" else row
        ),
    )


def _foreign_label(folder: Path) -> None:
    """D03: one M is a value that the label does not declare."""
    chosen = _primary_ids(folder)[0]
    _edit(
        folder / CLINICAL,
        lambda row: row | {M: "distant"} if row[ID] == chosen and row[KIND] == "primary" else row,
    )


def _contradiction(folder: Path) -> None:
    """D02: one patient has a second row of the primary tumour with another M and another age."""
    rows = _rows(folder / CLINICAL)
    known = next(row for row in rows if row[KIND] == "primary" and row[M] == "M0")
    _append(
        folder / CLINICAL,
        [
            known
            | {
                M: "M1",
                AGE: str(int(known[AGE]) - 20 if int(known[AGE]) > 60 else int(known[AGE]) + 20),
            }
        ],
    )


def _missing_column(folder: Path) -> None:
    """D08: a feature's column is not in either table."""
    for name in BOTH:
        _drop(folder / name / "clinical.tsv", PRIOR)


def _missing_label(folder: Path) -> None:
    """D03: the label's column is not there."""
    for name in BOTH:
        _drop(folder / name / "clinical.tsv", M)


def _missing_key(folder: Path) -> None:
    """D05: the pathology has no ids to join on."""
    _drop(folder / PATHOLOGY, ID)


def _foreign_ids(folder: Path) -> None:
    """D05: the pathology speaks of other patients."""
    for name in BOTH:
        _edit(folder / name / "pathology_detail.tsv", lambda row: row | {ID: "X" + row[ID]})


def _truncated(folder: Path) -> None:
    """D00: a copy stopped in the middle of a line."""
    text = (folder / CLINICAL).read_bytes()
    end = text.rindex(b"\n", 0, len(text) // 2)
    (folder / CLINICAL).write_bytes(text[: end + 60])


def _empty_file(folder: Path) -> None:
    """D00: a table of no bytes."""
    (folder / FOLLOW_UP).write_bytes(b"")


def _missing_file(folder: Path) -> None:
    """D00: there is no clinical table at all."""
    for name in BOTH:
        (folder / name / "clinical.tsv").unlink()


def _nobody(folder: Path) -> None:
    """D09: no M of anybody is known."""
    for name in BOTH:
        _edit(folder / name / "clinical.tsv", lambda row: row | {M: "MX"})


def _empty_site(folder: Path) -> None:
    """D09: none of Michigan's patients has a row of a primary tumour; the other sites are as they
    were."""
    for name in BOTH:
        _edit(
            folder / name / "clinical.tsv",
            lambda row: row | {KIND: "Unknown"} if _site(row) in ("DM", "DY") else row,
        )


def _label_copy(folder: Path) -> None:
    """L03: 'prior malignancy' is M, so one feature predicts the label perfectly."""
    copy = {"M0": "no", "M1": "yes"}
    for name in BOTH:
        _edit(
            folder / name / "clinical.tsv",
            lambda row: (
                row | {PRIOR: copy.get(row[M][:2], "no")} if row[KIND] == "primary" else row
            ),
        )


def _outcome_as_feature(folder: Path) -> None:
    """L02: the tables are right, but the mapping beside them reads the AJCC stage, which encodes M,
    as prior malignancy."""
    text = (SOURCES / "gdc.toml").read_text(encoding="utf-8")
    leaky = text.replace(f'"{PRIOR}"', '"diagnoses.ajcc_pathologic_stage"')
    if (
        tomllib.loads(leaky)["features"]["prior_malignancy"]["column"]
        != "diagnoses.ajcc_pathologic_stage"
    ):
        raise AssertionError("the mapping 'gdc' has no column of prior malignancy to replace")
    (folder / MAPPING).write_text(leaky, encoding="utf-8")


def _two_sites(folder: Path) -> None:
    """L04: ten patients of AA stand in the tables again under CM, with the same `cases.case_id` and
    the same findings.

    Their barcodes differ, so only what a barcode does not hold can tell: the case id.
    """
    chosen = [i for i in _primary_ids(folder) if i[5:7] == "AA"][:10]
    for table in (CLINICAL, PATHOLOGY, FOLLOW_UP):
        again = [
            row | {ID: row[ID].replace("-AA-", "-CM-")}
            for row in _rows(folder / table)
            if row[ID] in chosen
        ]
        _append(folder / table, again)


def _one_class(folder: Path) -> None:
    """E01: Christiana has no M1 any more."""
    m1 = ("M1", "M1a", "M1b")
    for name in BOTH:
        _edit(
            folder / name / "clinical.tsv",
            lambda row: (
                row | {M: "M0"}
                if _site(row) in ("A6", "AF") and row[KIND] == "primary" and row[M] in m1
                else row
            ),
        )


FAULTS: Final = (
    Planted("undeclared null token", "D01", "error", _undeclared_null),
    Planted("age in days", "D07", "error", _age_in_days),
    Planted("another CEA unit", "D07", "error", _cea_unit),
    Planted("value outside the vocabulary", "D07", "error", _foreign_value),
    Planted("undeclared label value", "D03", "error", _foreign_label),
    Planted("contradicting rows", "D02", "excluded", _contradiction),
    Planted("missing column", "D08", "error", _missing_column),
    Planted("missing label column", "D03", "error", _missing_label),
    Planted("missing key column", "D05", "error", _missing_key),
    Planted("foreign ids", "D05", "error", _foreign_ids),
    Planted("truncated file", "D00", "error", _truncated),
    Planted("empty file", "D00", "error", _empty_file),
    Planted("missing file", "D00", "error", _missing_file),
    Planted("no known label", "D09", "error", _nobody),
    Planted("empty site", "D09", "site", _empty_site),
    Planted("outcome as feature", "L02", "error", _outcome_as_feature),
    Planted("copy of the label", "L03", "run", _label_copy),
    Planted("patient at two sites", "L04", "error", _two_sites),
    Planted("one-class site", "E01", "report", _one_class),
)
"""Every fault. E01 is a guard of the evaluation and no error."""


def named(name: str) -> Planted:
    """The fault of that name. Raises UsageError C01."""
    for fault in FAULTS:
        if fault.name == name:
            return fault
    raise UsageError(
        "C01", f"fault '{name}' is unknown; there are {', '.join(f.name for f in FAULTS)}"
    )


def _site(row: Row) -> str:
    return row[ID][5:7]


def _read(path: Path) -> tuple[list[str], list[Row]]:
    with path.open(encoding="utf-8", newline="") as stream:
        table = csv.DictReader(stream, delimiter="\t")
        rows = list(table)
        return list(table.fieldnames or ()), rows


def _rows(path: Path) -> list[Row]:
    return _read(path)[1]


def _primary_ids(folder: Path) -> list[str]:
    """Patients of `coad/` with a row of their primary tumour, in the order of the table."""
    return list(
        dict.fromkeys(row[ID] for row in _rows(folder / CLINICAL) if row[KIND] == "primary")
    )


def _edit(path: Path, change: Callable[[Row], Mapping[str, str]]) -> None:
    columns, rows = _read(path)
    write_rows(path, columns, (change(row) for row in rows))


def _append(path: Path, added: list[Row]) -> None:
    columns, rows = _read(path)
    write_rows(path, columns, [*rows, *added])


def _drop(path: Path, column: str) -> None:
    columns, rows = _read(path)
    kept_columns = [c for c in columns if c != column]
    write_rows(path, kept_columns, ({c: row[c] for c in kept_columns} for row in rows))
