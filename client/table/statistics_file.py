"""Statistics packages' files: SPSS, Stata and SAS by pyreadstat, as columns of texts.

A value with a label becomes its label: `1` of a variable whose labels say `1 = "male"` reads
`male`. A label that another value of the variable has too tells nothing apart: such a value reads
`1 = male`. What a package calls missing (system and user missing) is an empty cell, dates are in ISO
form. SAS keeps labels in a catalog: it is read where it lies beside the file (NAME.sas7bcat).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from client.table.cells import folded, text_of
from client.table.part import Layout, Part

_READERS = {
    ".sav": "read_sav", ".zsav": "read_sav", ".por": "read_por", ".dta": "read_dta",
    ".sas7bdat": "read_sas7bdat", ".xpt": "read_xport",
}  # fmt: skip
_XPORT_RECORD = 80
"""Bytes: a SAS transport file is made of such records, the last one filled up."""


def read_statistics(path: Path, layout: Layout) -> Part:
    """The table in a file of a statistics package. ValueError where it cannot be read."""
    import pyarrow as pa
    import pyreadstat

    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"a file of a statistics package ends with {', '.join(_READERS)}")
    if _cut_short(path):
        raise ValueError("the file is cut short: its end is missing")
    options: dict[str, Any] = {"output_format": "dict"}
    if layout.encoding != Layout.encoding:
        options["encoding"] = layout.encoding
    catalog = path.with_suffix(".sas7bcat")
    if suffix == ".sas7bdat" and catalog.is_file():
        options["catalog_file"] = str(catalog)
    try:
        columns, meta = getattr(pyreadstat, _READERS[suffix])(str(path), **options)
    except Exception as error:  # pyreadstat raises whatever a broken file causes
        raise ValueError(
            f"the file is not of the statistics package that {suffix} means, is broken, or in "
            f"another encoding ({error}); declare encoding, or save it again"
        ) from error
    rows = max((len(values) for values in columns.values()), default=0)
    chunks = []
    for name in columns:
        labels = _labels(meta.variable_value_labels.get(name, {}), columns[name], layout.decimal)
        cells = [_text(value, labels, layout.decimal) for value in columns[name]]
        chunks.append(pa.chunked_array([pa.array(cells, pa.string())], pa.string()))
    names = tuple(" ".join(str(name).split()) for name in columns)
    return Part(path, names, tuple(chunks), range(1, rows + 1))


def _cut_short(path: Path) -> bool:
    """Whether the end is missing of a file whose reader would not notice: rows, or labels of values,
    would be lost unsaid."""
    with path.open("rb") as file:
        start = file.read(11)
        file.seek(max(0, path.stat().st_size - 512))
        end = file.read()
    if path.suffix.lower() == ".xpt":
        return path.stat().st_size % _XPORT_RECORD != 0
    if path.suffix.lower() == ".por":
        return not end.rstrip().endswith(b"Z")
    return start == b"<stata_dta>" and not end.rstrip().endswith(b"</stata_dta>")


def _labels(labels: dict[Any, str], values: Iterable[Any], decimal: str) -> dict[Any, str]:
    """Value -> what it reads: its label, with the value before it where the label is another one's
    as well, or is how a value without a label is written."""
    if not labels:
        return labels
    plain = {folded(text_of(v, decimal)) for v in set(values) if v is not None and v not in labels}
    times = Counter(folded(label) for label in labels.values())
    return {
        value: f"{text_of(value, decimal)} = {label.strip()}"
        if times[folded(label)] > 1 or folded(label) in plain
        else label
        for value, label in labels.items()
    }


def _text(value: Any, labels: dict[Any, str], decimal: str) -> str:
    if labels and value in labels:
        return str(labels[value]).strip()
    return text_of(value, decimal)
