"""Statistics packages' files: SPSS, Stata and SAS by pyreadstat, as columns of texts.

A value with a label becomes its label: `1` of a variable whose labels say `1 = "male"` reads
`male`. What a package calls missing (system and user missing) is an empty cell, dates are in ISO
form. SAS keeps labels in a catalog: it is read where it lies beside the file (NAME.sas7bcat).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.table.cells import text_of
from client.table.part import Layout, Part

_READERS = {
    ".sav": "read_sav", ".zsav": "read_sav", ".por": "read_por", ".dta": "read_dta",
    ".sas7bdat": "read_sas7bdat", ".xpt": "read_xport",
}  # fmt: skip


def read_statistics(path: Path, layout: Layout) -> Part:
    """The table in a file of a statistics package. ValueError where it cannot be read."""
    import pyarrow as pa
    import pyreadstat

    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"a file of a statistics package ends with {', '.join(_READERS)}")
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
        labels = meta.variable_value_labels.get(name, {})
        cells = [_text(value, labels, layout.decimal) for value in columns[name]]
        chunks.append(pa.chunked_array([pa.array(cells, pa.string())], pa.string()))
    names = tuple(" ".join(str(name).split()) for name in columns)
    return Part(path, names, tuple(chunks), range(1, rows + 1))


def _text(value: Any, labels: dict[Any, str], decimal: str) -> str:
    if labels and value in labels:
        return str(labels[value]).strip()
    return text_of(value, decimal)
