"""Part of a table, one file: how it is laid out, its header, and its columns as texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.errors import Fault

if TYPE_CHECKING:
    import pyarrow as pa


Kind = Literal["csv", "tsv", "xlsx", "xls", "parquet", "statistics"]

SUFFIXES: dict[str, Kind] = {
    ".csv": "csv", ".data": "csv", ".tsv": "tsv", ".txt": "tsv", ".tab": "tsv", ".xlsx": "xlsx",
    ".xlsm": "xlsx", ".xls": "xls", ".parquet": "parquet", ".pq": "parquet", ".sav": "statistics",
    ".zsav": "statistics", ".por": "statistics", ".dta": "statistics", ".sas7bdat": "statistics",
    ".xpt": "statistics",
}  # fmt: skip
TEXTS: tuple[Kind, ...] = ("csv", "tsv")
GZIPPED = ".gz"
"""Behind the suffix of a text table."""


def suffix_of(path: Path) -> str:
    """A table's suffix in small letters; of a gzipped one the suffix before `.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == GZIPPED else suffix


def kind_of(path: Path, layout: Layout) -> Kind | None:
    """What a file is, as declared or by its name; None where neither says so."""
    kind = layout.format or SUFFIXES.get(suffix_of(path))
    gzipped = path.suffix.lower() == GZIPPED
    return None if gzipped and kind not in TEXTS else kind


_BATCH = 4096
"""Rows that stand as Python strings at a time."""


@dataclass(frozen=True)
class Layout:
    """How a table is laid out where its extension does not say it all. Row numbers are the file's
    own, from 1."""

    format: Kind | None = None
    sheet: str | None = None
    """Worksheet; None: the only one, or the first that is not hidden."""
    header: tuple[int, ...] = (1,)
    """Rows of the header, counted after comment lines; several rows are joined by ' / '. None: the
    columns are called '1', '2', ..."""
    comment: str = ""
    """Lines that start with this are skipped (text tables)."""
    delimiter: str = ""
    """Empty: by the header line, among tab, comma, semicolon and bar."""
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    thousands: str = ""
    """Mark between groups of three digits ('1,234.5'); empty: there is none, and such a text is no
    number."""

    @property
    def first_row(self) -> int:
        """Number of the first row below the header."""
        return max(self.header, default=0) + 1


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

    @cached_property
    def repeated(self) -> frozenset[str]:
        """Names that several columns share."""
        return frozenset(name for name, n in Counter(self.header).items() if name and n > 1)

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


def header_names(rows: Sequence[list[str]], header: tuple[int, ...]) -> tuple[str, ...]:
    """The columns' names; the header's rows are joined by ' / '. Without any: the columns' numbers,
    as many as the first row has."""
    if not header:
        return tuple(str(n) for n in range(1, len(rows[0]) + 1)) if rows else ()
    width = max(len(row) for row in rows[min(header) - 1 : max(header)])
    names = []
    for column in range(width):
        words = [" ".join(rows[n - 1][column].split()) for n in header if column < len(rows[n - 1])]
        names.append(" / ".join(filter(None, words)))
    return tuple(names)


def framed(
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
    if not header:
        first = list(islice(remaining, 1))
        top, remaining = [row for row, _ in first], chain(first, remaining)
    else:
        top = [row for row, _ in islice(remaining, max(header))]
    if (
        not top
        or len(top) < max(header, default=0)
        or not any(any(c.strip() for c in top[n - 1]) for n in header or (1,))
    ):
        total = len(top) + sum(1 for _ in remaining)
        raise ValueError(
            f"the file has {total} rows and no header in row {', '.join(map(str, header or (1,)))}"
        )
    names = list(header_names(top, header))
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
