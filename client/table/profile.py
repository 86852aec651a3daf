"""Profile of a table of which nothing is known: its files, how they are laid out, and what each
column seems to hold. Guesses, for a draft only."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from client.table.cells import folded, limit, looks_null, number, numbers
from client.table.readers import SUFFIXES, Layout, Part, find, read, text_of
from client.table.rows import file_names
from common.errors import DataError, Fault, raise_faults
from common.study.study_file import ANY_TABLE

Kind = Literal["number", "choice", "date", "text", "empty", "constant"]

LEVELS = 12
"""A vocabulary of more values than this is taken for codes or free text."""

_DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}([ T].*)?|\d{1,2}[./-]\d{1,2}[./-](\d{2}|\d{4})( "
    r".*)?|(19|20)\d{2}(0[1-9]|1[0-2])([0-2]\d|3[01])"
)
MAYBE_A_VALUE = frozenset({"none", "nil", "-"})
"""Tokens that mean missing among numbers, and may be a value like any other among words."""
_HEADER_ROWS = 30


@dataclass(frozen=True)
class Column:
    """The cells of one column, from all files, stripped; '' where there is nothing."""

    name: str
    cells: list[str]
    decimal: str
    thousands: str

    @cached_property
    def counts(self) -> Counter[str]:
        """Distinct texts that are not empty."""
        return Counter(c for c in self.cells if c)

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Text -> its value, of those that are numbers and no sentinels."""
        texts = [t for t in self.counts if t[0] in "+-.0123456789"]
        values = {
            t: n
            for t, n in zip(texts, numbers(texts, self.decimal, self.thousands), strict=True)
            if n is not None
        }
        sentinels = {t for t in values if t[0] == "-" and looks_null(t)}
        usual = [n for t, n in values.items() if t not in sentinels]
        return (
            {t: n for t, n in values.items() if t not in sentinels}
            if usual and min(usual) >= 0
            else values
        )

    @cached_property
    def kind(self) -> Kind:
        texts = {
            t: n
            for t, n in self.counts.items()
            if t in self.numbers or not looks_null(t) or folded(t) in MAYBE_A_VALUE
        }
        total, numeric = sum(texts.values()), sum(texts[t] for t in self.numbers)
        if not total:
            return "empty"
        distinct = {folded(t) for t in texts} if len(texts) < 1000 else set(texts)
        if len(distinct) == 1:
            return "constant"
        dates = sum(
            n
            for t, n in texts.items()
            if (t not in self.numbers or len(t) == 8) and _DATE.fullmatch(t)
        )
        if dates >= 0.8 * total:
            return "date"
        if numeric >= 0.8 * total:
            values = set(self.numbers.values())
            few_values = len(values) <= 2 or (
                len(values) <= 5
                and total >= 30
                and all(v.is_integer() and 0 <= v <= 9 for v in values)
            )
            return (
                "choice"
                if few_values and numeric == total and len(values) > 1
                else "number"
                if len(values) > 1
                else "constant"
            )
        return (
            "choice"
            if len(distinct) <= max(2, min(LEVELS, total / 3)) and total >= 2 * len(distinct) - 1
            else "text"
        )

    @cached_property
    def nulls(self) -> tuple[str, ...]:
        """Texts that seem to mean missing."""
        words = self.kind != "number"
        return tuple(
            t
            for t in self.counts
            if t not in self.numbers
            and looks_null(t)
            and not (words and folded(t) in MAYBE_A_VALUE)
        )

    @cached_property
    def strange(self) -> tuple[str, ...]:
        """Of a number: texts that are neither numbers nor null tokens."""
        return tuple(t for t in self.counts if t not in self.numbers and t not in self.nulls)

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """Of a choice: its values in their most frequent spelling, in a natural order; negative
        ones first."""
        spelling: dict[str, str] = {}
        for text, _ in sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0])):
            if text not in self.nulls:
                spelling.setdefault(folded(text), text)
        return tuple(sorted(spelling.values(), key=_natural))


_NEGATIVE = re.compile(
    r"(no|none|not "
    r".*|non-.*|n|nein|false|f|absent|negative?|negativ|keine?|benign|control|healthy|alive|m0|0|ohne|without.*|non|nee)\b.*"
)


def _natural(text: str) -> tuple[bool, list[tuple[bool, float, str]]]:
    words = [w for w in re.split(r"(\d+)", folded(text)) if w]
    return not _NEGATIVE.fullmatch(folded(text)), [
        (not w.isdigit(), float(w) if w.isdigit() else 0.0, w) for w in words
    ]


@dataclass(frozen=True)
class Survey:
    """What was found under a path."""

    files: tuple[str, ...]
    """The files of the table, as seen from the data folder."""
    all_files: bool
    """Whether they are all the tables that lie there."""
    layout: Layout
    sheets: tuple[str, ...]
    columns: dict[str, Column]
    """Those that every file has once."""
    left_out: dict[str, str]
    """Other columns, and why they are left out."""
    hospitals: tuple[str, ...]
    """One a row: the name of its file."""
    warnings: tuple[str, ...]


def survey(path: Path) -> Survey:
    """Look at a table, or at the tables in a folder. Raises DataError (D00) where none can be
    read."""
    if not path.exists():
        raise DataError("D00", f"D00 {path}: the data folder or file is not there. Check the path")
    files = [path] if path.is_file() else find(path, ANY_TABLE)
    if not files:
        raise DataError(
            "D00",
            f"D00 {path}: no table is there ({', '.join(ANY_TABLE)}). Give a table, or the folder "
            "that holds one",
        )
    faults: list[Fault] = []
    read_in = [(file, opened) for file in files if (opened := _open(file, faults)) is not None]
    if not read_in:
        raise_faults(faults)
    notes = [f"could not be read and is left out: {fault}" for fault in faults]
    file, (layout, first_part, sheets) = max(
        read_in, key=lambda pair: len(pair[1][1]) * len(pair[1][1].header)
    )
    group = [
        (f, x)
        for f, x in read_in
        if _alike(x[1].header, first_part.header) and f.suffix.lower() == file.suffix.lower()
    ]
    layout = replace(layout, encoding=_common_encoding([x[0].encoding for _, x in group]))
    notes += [
        f"{f.name} is laid out differently from {file.name} (encoding, header or sheet): save all "
        "files alike, or the study cannot read it"
        for f, x in group
        if replace(x[0], encoding="ascii") != replace(layout, encoding="ascii")
        or x[0].encoding not in ("ascii", layout.encoding)
    ]
    parts = [x[1] for f, x in group]
    root = path if path.is_dir() else path.parent
    names = tuple(f.relative_to(root).as_posix() for f, _ in group)
    other_files = [
        f.relative_to(root).as_posix() for f in files if f.relative_to(root).as_posix() not in names
    ]
    notes += [
        f"not part of this table, since its columns differ: {name}"
        for name in other_files
        if not any(name in t for t in notes)
    ]
    hospitals = tuple(
        name for name, part in zip(file_names(parts, root), parts, strict=True) for _ in part.lines
    )
    return _columns(parts, layout, sheets, names, not other_files, hospitals, notes)


def _columns(
    parts: list[Part], layout: Layout, sheets: tuple[str, ...], names: tuple[str, ...],
    all_files: bool, hospitals: tuple[str, ...],
    notes: list[str],
) -> Survey:  # fmt: skip
    all_names = list(dict.fromkeys(name for part in parts for name in part.header))
    left_out: dict[str, str] = {}
    cells: dict[str, list[str]] = {}
    for name in all_names:
        lacking = [part.path.name for part in parts if name not in part.index]
        if not name:
            notes.append("a column has no name and is left out: give it one")
        elif any(name in part.repeated for part in parts):
            left_out[name] = "several columns have this name: rename them"
        elif lacking:
            left_out[name] = (
                f"{', '.join(lacking[:3])}{' and others' if len(lacking) > 3 else ''} do not have "
                "it"
            )
        else:
            cells[name] = [cell.strip() for part in parts for cell in part.column(name)]
    decimal, thousands = notation(cells.values())
    layout = replace(layout, decimal=decimal, thousands=thousands)
    columns = {name: Column(name, texts, decimal, thousands) for name, texts in cells.items()}
    return Survey(
        names, all_files, layout, sheets, columns, left_out, hospitals, tuple(dict.fromkeys(notes))
    )


_SHAPE = str.maketrans(dict.fromkeys("23456789", "1"))
"""Numbers of one shape, '52.7' and '31.4', are looked at once; a leading zero is another shape."""
_NUMERIC = re.compile(r"[+-]?\d[\d.,' \u00a0\u202f]*")
_COMMA = re.compile(r"[+-]?\d{1,3}((\.|'| )\d{3})+,\d+|[+-]?0,\d+|[+-]?\d+,(\d{1,2}|\d{4,})")
_POINT = re.compile(r"[+-]?\d{1,3}((,|'| )\d{3})+\.\d+|[+-]?0\.\d+|[+-]?\d+\.(\d{1,2}|\d{4,})")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([.,' ])\d{3}(?!\d)")


def notation(columns: Iterable[Sequence[str]]) -> tuple[Literal[".", ","], str]:
    """The decimal mark, and the mark between thousands ('' for none), that the columns of numbers
    seem to use."""
    comma, point, grouped = False, False, Counter[str]()
    for cells in columns:
        shapes = Counter(text.translate(_SHAPE) for text in set(cells) - {""})
        numeric = {shape for shape in shapes if _NUMERIC.fullmatch(shape)}
        numeric -= {shape for shape in numeric if shape.count(".") > 1 and _DATE.fullmatch(shape)}
        values = sum(n for shape, n in shapes.items() if shape in numeric or not looks_null(shape))
        if not numeric or sum(shapes[shape] for shape in numeric) < 0.8 * values:
            continue
        comma |= any(_COMMA.fullmatch(shape) for shape in numeric)
        point |= any(_POINT.fullmatch(shape) for shape in numeric)
        for shape in numeric:
            if thousands := _GROUPED.match(shape):
                grouped[thousands.group(1)] += shapes[shape]
    decimal: Literal[".", ","] = "," if comma and not point else "."
    grouped.pop(decimal, None)
    return decimal, grouped.most_common(1)[0][0] if grouped else ""


def _alike(header: Sequence[str], other_header: Sequence[str]) -> bool:
    a, b = set(header), set(other_header)
    return len(a & b) >= 0.6 * len(a | b)


def _open(path: Path, faults: list[Fault]) -> tuple[Layout, Part, tuple[str, ...]] | None:
    """The layout that reads a file best, its table, and the sheets of a workbook."""
    kind = SUFFIXES.get(path.suffix.lower())
    sheets = _sheets(path) if kind == "xlsx" else {}
    if kind == "xlsx":
        layouts = [
            Layout(sheet=name if len(sheets) > 1 else None, header=(row,))
            for name, row in sheets.items()
        ] or [Layout()]
    elif kind in ("csv", "tsv"):
        try:
            raw = path.read_bytes()
        except OSError as error:
            faults.append(
                Fault("D00", path.name, str(error.strerror), "See that the file may be read")
            )
            return None
        layouts = [
            Layout(
                encoding=_encoding(raw),
                comment="#" if raw.lstrip(b"\xef\xbb\xbf").startswith(b"#") else "",
            )
        ]
    else:
        layouts = [Layout()]
    file_faults: list[Fault] = []
    read_in = [
        (layout, part)
        for layout in layouts
        if (part := read(path, layout, file_faults)) is not None
    ]
    if kind in ("csv", "tsv") and not any(len(part.header) > 1 for _, part in read_in):
        read_in = _later_header(path, layouts[0]) or read_in
    if not read_in:
        faults += file_faults[:1]
        return None
    return *max(read_in, key=lambda pair: len(pair[1]) * len(pair[1].header)), tuple(sheets)


def _sheets(path: Path) -> dict[str, int]:
    """The sheets of a workbook, and the row of each that looks like its header: nearly as wide as
    the widest, and no number in it."""
    from openpyxl import load_workbook

    header_rows: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            book = load_workbook(path, read_only=True, data_only=True)
            tops = {
                s.title: [
                    [text_of(c) for c in row]
                    for row in s.iter_rows(max_row=_HEADER_ROWS, values_only=True)
                ]
                for s in book.worksheets
            }
            book.close()
        except Exception:  # whatever is wrong with it, the reader says so
            return {}
    for title, rows in tops.items():
        wide = [sum(bool(c) for c in row) for row in rows]
        words = [all(number(c) is None for c in row if c) for row in rows]
        fitting = [
            n for n, w in enumerate(wide, 1) if w >= max(0.6 * max(wide), 2) and words[n - 1]
        ]
        header_rows[title] = fitting[0] if fitting else 1
    return header_rows


def _encoding(raw: bytes) -> str:
    if raw.isascii():
        return "ascii"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        # the two differ in 0x80-0x9f alone, where latin-1 has control characters and Windows quotes
        # and dashes
        windows = any(0x80 <= byte <= 0x9F for byte in set(raw))
        return (
            "utf-8" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252" if windows else "latin-1"
        )
    return "utf-8"


def _common_encoding(encodings: Sequence[str]) -> str:
    """ASCII is part of every other; of several others the most frequent."""
    others = Counter(e for e in encodings if e != "ascii")
    return others.most_common(1)[0][0] if others else "utf-8"


def _later_header(path: Path, layout: Layout) -> list[tuple[Layout, Part]]:
    """Lines of a title may stand above the header of a text table."""
    for row in range(2, _HEADER_ROWS):
        part = read(path, later := replace(layout, header=(row,)), [])
        if part is not None and len(part.header) > 1 and len(part) > 1:
            return [(later, part)]
    return []


def limits(column: Column) -> dict[str, float]:
    """Of a number's strange texts, those that state a limit ('<0.5'), with it."""
    return {t: n for t in column.strange if (n := limit(t)) is not None}
