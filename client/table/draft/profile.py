"""Profile of a table of which nothing is known: its files, how they are laid out, and its columns.
Guesses, for a draft only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.table.cells import limit, looks_null, number
from client.table.delimited_text import raw_text
from client.table.draft.column_profile import Codes, Column, notation
from client.table.joined import SAMPLES_OF, joined
from client.table.part import TEXTS, Layout, Part, kind_of, suffix_of
from client.table.readers import find, read, tops
from client.table.rows import file_names
from common.errors import DataError, Fault, raise_faults
from common.study.outcomes import spelled
from common.study.study_file import ANY_TABLE

_HEADER_ROWS = 30
_CHECKSUMS, _PATHS = (
    frozenset({"md5", "md5sum", "sha256", "sha1", "checksum"}),
    frozenset({"path", "file", "filename", "file_name", "file_path", "url"}),
)
_HEADER_DEPTH = 4
"""Rows that one header may have."""
_LOOKED_AT = 200
"""Rows below it that say whether it is one."""


@dataclass(frozen=True)
class Survey:
    """What was found under a path."""

    files: tuple[str, ...]
    """The files of the table, as seen from the data folder."""
    all_files: bool
    """Whether they are all the tables that lie there."""
    layout: Layout
    sheets: tuple[str, ...]
    join: str
    """A table beside it whose columns are among these, by the patient's id."""
    columns: dict[str, Column]
    """Those that every file has once."""
    left_out: dict[str, str]
    """Other columns, and why they are left out."""
    hospitals: Codes
    """(rows,): which file's name stands for its hospital."""
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
    all_files = files
    # a folder of cBioPortal's has the clinical tables beside molecular ones of gigabytes
    files = [file for file in files if file.name in SAMPLES_OF] or files
    faults: list[Fault] = []
    read_in = [(file, opened) for file in files if (opened := _open(file, faults)) is not None]
    if not read_in:
        raise_faults(faults)
    notes = [f"could not be read and is left out: {fault}" for fault in faults]
    file, (layout, first_part, sheets) = max(
        read_in,
        key=lambda pair: (
            not _lists_images(pair[1][1].header),
            len(pair[1][1]) * len(pair[1][1].header),
        ),
    )
    group = [
        (f, x)
        for f, x in read_in
        if _alike(x[1].header, first_part.header) and suffix_of(f) == suffix_of(file)
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
    join = SAMPLES_OF.get(file.name, "")
    if not all(join and part.path.with_name(join).is_file() for part in parts):
        join = ""
    if join:
        parts = [_with_samples(part, part.path.with_name(join), layout, notes) for part in parts]
    root = path if path.is_dir() else path.parent
    names = tuple(f.relative_to(root).as_posix() for f, _ in group)
    other_files = [
        f.relative_to(root).as_posix()
        for f in all_files
        if f.relative_to(root).as_posix() not in names
    ]
    notes += [
        f"not part of this table, since its columns differ: {name}"
        for name in other_files
        if not any(name in t for t in notes) and Path(name).name != join
    ]
    _, hospitals = np.unique(file_names(parts, root), return_inverse=True)
    hospitals = np.repeat(hospitals, [len(part) for part in parts])
    columns, left_out, layout = _columns(parts, layout, notes)
    told = tuple(dict.fromkeys(notes))
    return Survey(names, not other_files, layout, sheets, join, columns, left_out, hospitals, told)


def _with_samples(part: Part, path: Path, layout: Layout, notes: list[str]) -> Part:
    """cBioPortal's table of patients with the columns of its table of samples."""
    faults: list[Fault] = []
    other = read(path, layout, faults)
    key = next((name for name in part.header if spelled(name) == "patient_id"), "")
    if other is None or key not in other.index:
        raise_faults(faults)
        return part
    whole, told = joined(part, other, key)
    notes += told
    return whole


def _columns(
    parts: list[Part], layout: Layout, notes: list[str]
) -> tuple[dict[str, Column], dict[str, str], Layout]:
    """The columns that every part has once, the others with why they are left out, and the layout
    with the marks of their numbers."""
    all_names = list(dict.fromkeys(name for part in parts for name in part.header))
    left_out: dict[str, str] = {}
    columns: dict[str, Column] = {}
    for name in all_names:
        lacking = [part.path.name for part in parts if name not in part.index]
        if not name:
            notes.append(
                "a column has no name and is left out (the row names of an export from R or pandas, "
                "or give it one)"
            )
        elif any(name in part.repeated for part in parts):
            left_out[name] = "several columns have this name: rename them"
        elif lacking:
            left_out[name] = (
                f"{', '.join(lacking[:3])}{' and others' if len(lacking) > 3 else ''} do not have "
                "it"
            )
        else:
            columns[name] = Column.of(name, (part.columns[part.index[name]] for part in parts))
    decimal, thousands = notation(column.texts.to_pylist() for column in columns.values())
    layout = replace(layout, decimal=decimal, thousands=thousands)
    columns = {
        name: replace(column, decimal=decimal, thousands=thousands)
        for name, column in columns.items()
    }
    if decimal == ".":
        columns |= {
            name: replace(column, decimal=",", thousands="")
            for name, column in columns.items()
            if column.has(",") and notation([column.texts.to_pylist()])[0] == ","
        }
    return columns, left_out, layout


def _lists_images(header: Sequence[str]) -> bool:
    """Whether a table is a manifest: its rows are series or files, not patients."""
    names = {spelled(name) for name in header}
    return any(re.search(r"(series|sop|instance)_?(instance_)?(uid|uuid)$", n) for n in names) or (
        bool(names & _CHECKSUMS) and bool(names & _PATHS)
    )


def _alike(header: Sequence[str], other_header: Sequence[str]) -> bool:
    a, b = set(header), set(other_header)
    return len(a & b) >= 0.6 * len(a | b)


def _open(path: Path, faults: list[Fault]) -> tuple[Layout, Part, tuple[str, ...]] | None:
    """The layout that reads a file best, its table, and the sheets of a workbook."""
    kind = kind_of(path, Layout())
    sheets = _sheets(path)
    if sheets:
        layouts = [
            Layout(sheet=name if len(sheets) > 1 else None, header=(row,))
            for name, row in sheets.items()
        ]
    elif kind in TEXTS:
        try:
            raw = raw_text(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            faults.append(Fault("D00", path.name, str(reason), "See that the file may be read"))
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
    if kind in TEXTS and not any(len(part.header) > 1 for _, part in read_in):
        read_in = _later_header(path, layouts[0]) or read_in
    if kind in TEXTS or sheets:
        read_in = [_header_again(path, layout, part) for layout, part in read_in]
    if not read_in:
        faults += file_faults[:1]
        return None
    return *max(read_in, key=lambda pair: len(pair[1]) * len(pair[1].header)), tuple(sheets)


def _sheets(path: Path) -> dict[str, int]:
    """The sheets of a workbook, and the row of each that looks like its header: nearly as wide as
    the widest, and no number in it."""
    header_rows: dict[str, int] = {}
    for title, rows in tops(path, _HEADER_ROWS).items():
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


def _header_again(path: Path, layout: Layout, part: Part) -> tuple[Layout, Part]:
    """The table with the header that its first rows tell: none where its names look like cells,
    several rows where the next ones are words above numbers, or tell columns of one name apart."""
    top = [column.slice(0, _LOOKED_AT).to_pylist() for column in part.columns]
    if _looks_like_cells(part.header, top):
        rows: tuple[int, ...] = ()
    else:
        first = layout.header[0]
        rows = tuple(range(first, first + 1 + _more_header_rows(part.header, top)))
    if rows == layout.header:
        return layout, part
    other = replace(layout, header=rows)
    again = read(path, other, [])
    return (layout, part) if again is None else (other, again)


def _looks_like_cells(names: Sequence[str], top: Sequence[Sequence[str]]) -> bool:
    """Whether a header is a row of the table: each name is a number above numbers, or one of the
    texts of its column, and a number is among them. Numbers that count on (1, 2, 3; 2019, 2020) are
    names."""
    named = [(name, cells) for name, cells in zip(names, top, strict=True) if name.strip()]
    values = [value for name, _ in named if (value := number(name)) is not None]
    if len(named) < 2 or not values or values == [values[0] + k for k in range(len(values))]:
        return False
    return all(
        name in cells
        or (number(name) is not None and any(number(cell) is not None for cell in cells))
        for name, cells in named
    )


def _more_header_rows(names: Sequence[str], top: Sequence[Sequence[str]]) -> int:
    """How many rows below the first belong to the header. A row does where it has a word in each
    column that is numbers below it (two, or one where names repeat), and no text that comes again:
    the row of a patient has one, of sex or hospital."""
    rows = min((len(cells) for cells in top), default=0)
    needed = 1 if len(set(names)) < len(names) else 2
    for more in range(min(_HEADER_DEPTH - 1, rows - 2), 0, -1):
        joined = set(zip(names, *([cells[k] for cells in top] for k in range(more)), strict=True))
        numeric = [cells for cells in top if _numbers_only(cells[more:])]
        words = [cells for cells in numeric if _word(cells[more - 1])]
        again = any(cells[more - 1] in cells[more:] for cells in top if cells not in numeric)
        if len(joined) == len(names) and not again and needed <= len(words) == len(numeric):
            return more
    return 0


def _numbers_only(cells: Sequence[str]) -> bool:
    values = [number(cell) for cell in cells if cell.strip() and not looks_null(cell)]
    return bool(values) and None not in values


def _word(text: str) -> bool:
    return any(c.isalpha() for c in text) and not looks_null(text) and limit(text) is None


def _later_header(path: Path, layout: Layout) -> list[tuple[Layout, Part]]:
    """Lines of a title may stand above the header of a text table."""
    for row in range(2, _HEADER_ROWS):
        part = read(path, later := replace(layout, header=(row,)), [])
        if part is not None and len(part.header) > 1 and len(part) > 1:
            return [(later, part)]
    return []
