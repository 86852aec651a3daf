"""Table readers, for files as they lie on a hospital's disk, read as text: every cell a string, the
empty string where there is nothing.

Nothing is guessed to be missing here: a tissue source site may be called `NA`. What counts as
missing is declared by a source mapping (guard D01). Text tables go through pyarrow.csv where
nothing about them is in doubt (`plain_csv`), else through the csv module; workbooks through
openpyxl (old ones xlrd), Parquet through pyarrow, the files of SPSS, Stata and SAS through
pyreadstat. The cells stay in Arrow columns: as Python strings they would
take five times the room.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from client.table.cells import text_of
from client.table.delimited_text import read_text
from client.table.old_workbook import MAGIC, old_tops, read_old_sheet
from client.table.part import GZIPPED, SUFFIXES, TEXTS, Kind, Layout, Part, framed, kind_of
from client.table.statistics_file import read_statistics
from client.table.workbook import read_sheet, sheet_tops
from common.errors import Fault


def find(data: Path, patterns: Sequence[str]) -> list[Path]:
    """The files under `data` (or `data` itself) whose name or path matches one of the patterns,
    sorted; no hidden or lock files."""
    if data.is_file():
        return [data] if any(data.match(pattern) for pattern in patterns) else []
    paths = {path for pattern in patterns for path in data.rglob(pattern)}
    return sorted(
        path for path in paths if path.is_file() and not path.name.startswith((".", "~$"))
    )


def nearest(name: str, header: Sequence[str]) -> str:
    """The names most like `name`, in brackets for an error message; all of them where they are few
    and none is alike."""
    folds = {h.casefold(): h for h in header if h}
    folded_name = name.casefold()
    close = difflib.get_close_matches(folded_name, list(folds), 3, 0.6)
    close += [
        h
        for h in folds
        if (folded_name in h or h in folded_name)
        and min(len(h), len(folded_name)) > 2
        and h not in close
    ]
    if close:
        return f" (nearest: {', '.join(repr(folds[h]) for h in close[:3])})"
    return f" (there are {', '.join(map(repr, folds.values()))})" if 0 < len(folds) <= 12 else ""


def read(path: Path, layout: Layout, faults: list[Fault]) -> Part | None:
    """The table in `path`, or None with the reason (D00) added to `faults`."""
    kind = kind_of(path, layout)
    file_faults: list[Fault] = []
    part = None
    try:
        if path.stat().st_size == 0:
            raise ValueError("the file is empty (0 bytes)")
        if min(layout.header, default=1) < 1:
            raise ValueError(
                f"its header is declared in row {', '.join(map(str, layout.header))}, "
                "and rows count from 1"
            )
        if kind == "xls":
            kind = _really(path)
        if kind in TEXTS and _web_page(path):
            raise ValueError("the file is a web page or XML, called a table; save it as one")
        if kind in TEXTS:
            part = read_text(path, layout, file_faults)
        elif kind in ("xlsx", "xls"):
            grid = (read_sheet if kind == "xlsx" else read_old_sheet)(path, layout)
            part = framed(
                path,
                zip(grid, range(1, len(grid) + 1), strict=True),
                layout.header,
                file_faults,
                strict=False,
            )
        elif kind == "parquet":
            part = _parquet(path, layout)
        elif kind == "statistics":
            part = read_statistics(path, layout)
        else:
            raise ValueError(
                f"'{path.suffix}' is none of the table formats {', '.join(SUFFIXES)} (text tables "
                f"also with {GZIPPED} behind); save it as one of them"
            )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        file_faults.append(
            Fault(
                "D00",
                path.name,
                str(reason),
                "Export or copy the file again, or correct how it is declared",
            )
        )
    faults += file_faults
    return None if file_faults else part


def _really(path: Path) -> Kind:
    """What a file called .xls is: laboratory systems give that name to text tables and new
    workbooks as well."""
    with path.open("rb") as f:
        start = f.read(512)
    if start.startswith(MAGIC):
        return "xls"
    if start.startswith(b"PK"):
        return "xlsx"
    return "tsv"


_MARKUP = (
    "<html",
    "<!doctype",
    "<?xml",
    "<table",
    "<meta",
    "<style",
    "<!--",
    "<workbook",
    "mime-version:",
)


def _web_page(path: Path) -> bool:
    """Whether a file that is called a table is a page that a program shows as one."""
    with path.open("rb") as f:
        start = f.read(512)
    codec = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return start.decode(codec, "replace").lstrip().casefold().startswith(_MARKUP)


def tops(path: Path, rows: int) -> dict[str, list[list[str]]]:
    """Sheet -> its first rows, for a workbook; nothing for what is none, or cannot be opened."""
    kind = kind_of(path, Layout())
    try:
        kind = _really(path) if kind == "xls" else kind
        if kind == "xlsx":
            return sheet_tops(path, rows)
        return old_tops(path, rows) if kind == "xls" else {}
    except Exception:  # whatever is wrong with it, the reader says so
        return {}


def _parquet(path: Path, layout: Layout) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        raise ValueError(f"the file is not Parquet, or is broken ({error})") from error
    columns = []
    for column in table.columns:
        texts = [
            [text_of(cell, layout.decimal) for cell in chunk.to_pylist()] for chunk in column.chunks
        ]
        columns.append(
            pa.chunked_array([pa.array(cells, pa.string()) for cells in texts], pa.string())
        )
    names = tuple(" ".join(str(name).split()) for name in table.column_names)
    return Part(path, names, tuple(columns), range(1, table.num_rows + 1))
