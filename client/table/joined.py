"""Join of two tables by the patient's id: a table's columns, and beside them those of one that has
several rows a patient.

The rule for several rows: a value counts where all that are filled in are equal; where they differ
it is empty, and a note counts it. A patient without a row there has empty cells; a row of nobody is
passed over. Columns that both have are the first table's.
"""

from __future__ import annotations

from collections.abc import Sequence

from client.table.part import Part

SAMPLES_OF = {"data_clinical_patient.txt": "data_clinical_sample.txt"}
"""cBioPortal's pairs: a row a patient, and a row a sample."""


def joined(part: Part, other: Part, key: str) -> tuple[Part, list[str]]:
    """`part` with the columns of `other`, both keyed by the column `key`; and what differs between
    rows of a patient. ValueError where `other` has no such column."""
    import pyarrow as pa

    if key not in other.index:
        raise ValueError(f"there is no column '{key}', by which it is joined to {part.path.name}")
    ids = [cell.strip() for cell in part.column(key)]
    known = set(ids)
    other_ids = [cell.strip() for cell in other.column(key)]
    names = [n for n in other.header if n and n not in part.index and n not in other.repeated]
    notes: list[str] = []
    columns = list(part.columns)
    for name in names:
        values = _agreed(other_ids, other.column(name))
        differ = sum(value is None for patient, value in values.items() if patient in known)
        if differ:
            notes.append(
                f"{other.path.name}: '{name}' differs between the rows of {differ} patients, and is "
                "empty for them"
            )
        cells = [values.get(patient) or "" for patient in ids]
        columns.append(pa.chunked_array([pa.array(cells, pa.string())], pa.string()))
    return Part(part.path, (*part.header, *names), tuple(columns), part.lines), notes


def _agreed(ids: Sequence[str], cells: Sequence[str]) -> dict[str, str | None]:
    """The value of each id: '' where none is filled in, None where several are that differ."""
    values: dict[str, str | None] = {}
    for patient, cell in zip(ids, cells, strict=True):
        text = cell.strip()
        before = values.setdefault(patient, text)
        if before == "":
            values[patient] = text
        elif text and before != text:
            values[patient] = None
    return values
