"""Table readers, for files as they lie on a hospital's disk, read as text: every cell a string, the
empty string where there is nothing.

Nothing is guessed to be missing here: a tissue source site may be called `NA`. What counts as
missing is declared by a source mapping (guard D01). Text tables go through pyarrow.csv where
nothing about them is in doubt (`plain_csv`), else through the csv module; workbooks through
openpyxl, Parquet through pyarrow. The cells stay in Arrow columns: as Python strings they would
take five times the room.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import difflib
import io
import math
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from client.table import plain_csv
from common.errors import Fault

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["csv", "tsv", "xlsx", "parquet"]
SUFFIXES: dict[str, Kind] = {
    ".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".tab": "tsv", ".xlsx": "xlsx", ".xlsm": "xlsx",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip

csv.field_size_limit(plain_csv.LONGEST_LINE)

_OF_ASCII = frozenset({"ascii", "utf-8", "iso8859-1", "iso8859-15", "cp1252"})
"""Codecs in which ASCII bytes mean ASCII."""
_BATCH = 4096
"""Rows that stand as Python strings at a time."""


@dataclass(frozen=True)
class Layout:
    """How a table is laid out where its extension does not say it all. Row numbers are the file's
    own, from 1."""

    format: Kind | None = None
    sheet: str | None = None
    """Worksheet; None: the only one, or the first."""
    header: tuple[int, ...] = (1,)
    """Rows of the header, counted after comment lines; several rows are joined by ' / '."""
    comment: str = ""
    """Lines that start with this are skipped (text tables)."""
    delimiter: str = ""
    """Empty: by the header line, among tab, comma, semicolon and bar."""
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    thousands: str = ""
    """Mark between groups of three digits ('1,234.5'); empty: there is none, and such a text is no
    number."""


@dataclass(frozen=True)
class Part:
    """One file: a header, and rows as long as the header."""

    path: Path
    header: tuple[str, ...]
    columns: tuple[pa.ChunkedArray, ...] = field(repr=False)
    """One a name of the header: texts, none of them null."""
    lines: Sequence[int] = field(repr=False)
    """The row number of each row in its file."""

    def __len__(self) -> int:
        return len(self.lines)

    @cached_property
    def index(self) -> dict[str, int]:
        """Column name -> position; the first of columns that share a name (see `repeated`)."""
        positions: dict[str, int] = {}
        for i, name in enumerate(self.header):
            positions.setdefault(name, i)
        return positions

    @property
    def repeated(self) -> frozenset[str]:
        return frozenset(name for name in self.header if name and self.header.count(name) > 1)

    def column(self, name: str) -> list[str]:
        """The cells of one column, from the first row to the last."""
        cells: list[str] = self.columns[self.index[name]].to_pylist()
        return cells

    @property
    def rows(self) -> list[list[str]]:
        """All cells as Python strings: five times the room of the columns."""
        return [
            list(row) for row in zip(*(column.to_pylist() for column in self.columns), strict=True)
        ]


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
    kind = layout.format or SUFFIXES.get(path.suffix.lower())
    file_faults: list[Fault] = []
    part = None
    try:
        if path.stat().st_size == 0:
            raise ValueError("the file is empty (0 bytes)")
        if min(layout.header, default=0) < 1:
            raise ValueError(
                f"its header is declared in row {', '.join(map(str, layout.header)) or 'none'}, "
                "and rows count from 1"
            )
        if kind in ("csv", "tsv"):
            part = _text(path, layout, file_faults)
        elif kind == "xlsx":
            grid = _sheet(path, layout)
            part = _framed(
                path,
                zip(grid, range(1, len(grid) + 1), strict=True),
                layout.header,
                file_faults,
                strict=False,
            )
        elif kind == "parquet":
            part = _parquet(path, layout)
        else:
            raise ValueError(
                f"'{path.suffix}' is none of the table formats {', '.join(SUFFIXES)}; save it as "
                "one of them"
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


def text_of(cell: object, decimal: str = ".") -> str:
    """A cell of a workbook or a Parquet file as text: whole floats without '.0', dates in ISO form,
    nothing as ''."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        if math.isnan(cell):
            return ""
        whole = cell.is_integer() and abs(cell) < 1e15
        return str(int(cell)) if whole else repr(cell).replace(".", decimal)
    if isinstance(cell, datetime.datetime):
        return (
            cell.date().isoformat() if cell.time() == datetime.time() else cell.isoformat(sep=" ")
        )
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell).strip()


def _text(path: Path, layout: Layout, faults: list[Fault]) -> Part | None:
    raw = path.read_bytes()
    part = _plain(path, raw, layout)
    return (
        part
        if part is not None
        else _framed(path, _strict_rows(path, raw, layout), layout.header, faults, strict=True)
    )


def _plain(path: Path, raw: bytes, layout: Layout) -> Part | None:
    """The table by Arrow, or None where anything about it is in doubt: then the strict reader
    decides, and words the fault."""
    text = _utf8(raw, layout.encoding)
    start, comments = 0, 0
    if layout.comment:
        comment = layout.comment.encode()
        while text.startswith(comment, start) and (end := text.find(b"\n", start)) >= 0:
            start, comments = end + 1, comments + 1
        if (
            text.startswith(comment, start)
            or text.find(b"\n" + comment, start) >= 0
            or set(comment) & set(b"\r\n")
        ):
            return None
    header_end = max(layout.header)
    end = start
    for _ in range(header_end):
        end = text.find(b"\n", end) + 1 or len(text) + 1
    try:
        # comments are looked at as well: Arrow is not given them
        text[:start].decode()
        top = text[start : end - 1].decode()
    except UnicodeDecodeError:
        return None
    delimiter = layout.delimiter or _delimiter(top, path, layout)
    lines = plain_csv.Lines.of(text, start, delimiter)
    if lines is None or len(lines.starts) <= header_end:
        return None
    rows = list(csv.reader(top.split("\n"), delimiter=delimiter, strict=True))
    names = _names(rows, layout.header)
    body = plain_csv.read(text, lines, header_end, len(names), delimiter) if any(names) else None
    if body is None:
        return None
    table, line_positions = body
    return Part(path, names, tuple(table.columns), (line_positions + 1 + comments).tolist())


def _strict_rows(path: Path, raw: bytes, layout: Layout) -> Iterator[tuple[list[str], int]]:
    """Each row and its line. Raises ValueError for whatever RFC 4180 does not allow, and for rows
    inside a cell."""
    text, numbers = _uncommented(_decoded(raw, layout.encoding), layout.comment)
    delimiter = layout.delimiter or _delimiter(text, path, layout)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    last_line = 0
    try:
        for row in reader:
            # a stray quote swallows the lines up to the next one: such a cell holds whole rows
            if reader.line_num > last_line + 1 and any(
                "\n" in c and c.count(delimiter) >= max(1, len(row) - 1) for c in row
            ):
                raise ValueError(
                    f"line {numbers[last_line]}: a quotation mark is opened and swallows the lines "
                    "that follow"
                )
            yield row, numbers[last_line]
            last_line = reader.line_num
    except csv.Error as error:
        raise ValueError(
            f"line {numbers[min(last_line, len(numbers) - 1)]}: {error}; the file is truncated or "
            "a quotation mark is not closed"
        ) from error


def _utf8(raw: bytes, encoding: str) -> bytes:
    """The text in UTF-8, without its byte order mark. What is said to be UTF-8 is not looked at:
    Arrow does, and the strict reader."""
    if raw.startswith(codecs.BOM_UTF8):
        return raw[len(codecs.BOM_UTF8) :]
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        codec = ""
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and (codec == "utf-8" or (codec in _OF_ASCII and raw.isascii())):
        return raw
    return _decoded(raw, encoding).encode(errors="surrogatepass")


def _decoded(raw: bytes, encoding: str) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif raw[:3] == b"\xef\xbb\xbf":
        encoding = "utf-8-sig"
    elif b"\0" in raw:
        raise ValueError("the file is binary (it holds zero bytes), not a text table")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: byte 0x{raw[error.start]:02x} is not {encoding}; declare the encoding, "
            'e.g. encoding = "latin-1"'
        ) from error
    except LookupError as error:
        raise ValueError(
            f"the encoding '{encoding}' is unknown; use e.g. utf-8 or latin-1"
        ) from error


def _uncommented(text: str, comment: str) -> tuple[str, Sequence[int]]:
    """The text without comment lines, and the number in the file of each line that is left (with
    one more for the end)."""
    if not comment:
        return text, range(1, text.count("\n") + text.count("\r") + 3)
    lines = list(io.StringIO(text, newline=""))
    kept_lines = [(i, line) for i, line in enumerate(lines, 1) if not line.startswith(comment)]
    return "".join(line for _, line in kept_lines), [i for i, _ in kept_lines] + [len(lines) + 1]


def _delimiter(text: str, path: Path, layout: Layout) -> str:
    head = text.split("\n", layout.header[0])[layout.header[0] - 1 : layout.header[0]]
    usual = "\t" if (layout.format or SUFFIXES.get(path.suffix.lower())) == "tsv" else ","
    counts = {
        d: re.sub(r'"[^"]*"', "", head[0]).count(d) if head else 0
        for d in dict.fromkeys((usual, "\t", ";", ",", "|"))
    }
    return max(counts, key=lambda d: counts[d])


def _sheet(path: Path, layout: Layout) -> list[list[str]]:
    from openpyxl import load_workbook

    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # openpyxl warns of styles and extensions that a table does not use
        try:
            book = load_workbook(file, read_only=True, data_only=True)
        except Exception as error:
            raise ValueError(
                "the file is not a workbook that can be opened, or is broken or encrypted "
                f"({type(error).__name__}: {error})"
            ) from error
        try:
            if layout.sheet is not None and layout.sheet not in book.sheetnames:
                raise ValueError(
                    f"the workbook has no sheet '{layout.sheet}'; it has "
                    f"{', '.join(book.sheetnames)}"
                )
            sheet = book[layout.sheet] if layout.sheet else book.worksheets[0]
            xml = _member(path, str(getattr(sheet, "_worksheet_path", "")))
            if re.search(rb"</f>\s*(<v\s*/>|<v>\s*</v>|</c>)", xml):
                raise ValueError(
                    f"sheet '{sheet.title}' holds formulas without stored results; open the "
                    "workbook, save it, and copy it again"
                )
            sheet.reset_dimensions()
            grid = [
                [text_of(cell, layout.decimal) for cell in row]
                for row in sheet.iter_rows(values_only=True)
            ]
            _unmerge(grid, xml, max(layout.header))
            return grid
        except ValueError:
            raise
        except Exception as error:  # openpyxl lets whatever a broken file causes come through
            raise ValueError(f"the workbook is broken ({type(error).__name__}: {error})") from error
        finally:
            book.close()


def _member(path: Path, member: str) -> bytes:
    """The XML of a sheet: openpyxl's reader of large files tells neither merged cells nor formulas
    without a stored result."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(member.lstrip("/")) if member.lstrip("/") in archive.namelist() else b""


def _unmerge(grid: list[list[str]], xml: bytes, header: int) -> None:
    """Cells that are merged below the header all hold what is shown in them."""
    from openpyxl.utils.cell import range_boundaries

    for ref in re.findall(rb'<mergeCell\b[^>]*\bref="([A-Z]+[0-9]+:[A-Z]+[0-9]+)"', xml):
        left, top, right, bottom = (int(n or 0) for n in range_boundaries(ref.decode()))
        if top <= header or top > len(grid) or left > len(grid[top - 1]):
            continue
        value = grid[top - 1][left - 1]
        for row in grid[top - 1 : bottom]:
            row += [""] * (right - len(row))
            row[left - 1 : right] = [value] * (right - left + 1)


def _names(rows: Sequence[list[str]], header: tuple[int, ...]) -> tuple[str, ...]:
    """The columns' names; the header's rows are joined by ' / '."""
    width = max(len(row) for row in rows[min(header) - 1 : max(header)])
    names = []
    for column in range(width):
        words = [" ".join(rows[n - 1][column].split()) for n in header if column < len(rows[n - 1])]
        names.append(" / ".join(filter(None, words)))
    return tuple(names)


def _framed(
    path: Path,
    rows: Iterable[tuple[list[str], int]],
    header: tuple[int, ...],
    faults: list[Fault],
    *,
    strict: bool,
) -> Part | None:
    """Header and body. Empty rows are no rows. `strict`: a row with more or fewer fields than the
    header is a fault."""
    import pyarrow as pa

    remaining = iter(rows)
    top = [row for row, _ in islice(remaining, max(header))]
    if len(top) < max(header) or not any(any(c.strip() for c in top[n - 1]) for n in header):
        total = len(top) + sum(1 for _ in remaining)
        raise ValueError(
            f"the file has {total} rows and no header in row {', '.join(map(str, header))}"
        )
    names = list(_names(top, header))
    while names and not names[-1] and not strict:
        names.pop()
    width = len(names)
    chunks: list[list[pa.Array]] = [[] for _ in names]
    lines: list[int] = []
    ragged: list[tuple[int, int]] = []
    body = ((row, line) for row, line in remaining if any(c and not c.isspace() for c in row))
    while batch := list(islice(body, _BATCH)):
        if strict:
            ragged += [(line, len(row)) for row, line in batch if len(row) != width]
        lines += [line for _, line in batch]
        even = [
            row if len(row) == width else (row + [""] * (width - len(row)))[:width]
            for row, _ in batch
        ]
        for column, cells in zip(chunks, zip(*even, strict=True), strict=True):
            column.append(pa.array(cells, pa.string()))
    if ragged:
        examples = "; ".join(f"line {line} has {n}" for line, n in ragged[:5])
        what = (
            f"{len(ragged)} rows have fewer or more fields than the header's {width} ({examples})"
        )
        faults.append(
            Fault(
                "D00",
                path.name,
                what,
                "The file is truncated, or a field holds an unquoted delimiter; export it again",
            )
        )
        return None
    return Part(
        path, tuple(names), tuple(pa.chunked_array(column, pa.string()) for column in chunks), lines
    )


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
