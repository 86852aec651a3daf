"""Dates of a table's column: one day a patient, by which images are told to be from before it.

A number of days is refused: a file names a day, and nothing says from when the days count. A cell
that names no day costs its patient's images alone; a column none of whose cells does is a fault of
the mapping.
"""

from __future__ import annotations

import datetime
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from client.table.cells import folded, looks_null, number
from client.table.rows import Loaded, some
from common.errors import Fault

_YEAR_FIRST = re.compile(r"(\d{4})([-/.]?)(\d\d?)\2(\d\d?)")
_YEAR_LAST = re.compile(r"(\d\d?)([-/.])(\d\d?)\2(\d{4})")
_NAMED = re.compile(r"(\d\d?)[ .-]*([^\W\d_]{3,9})[ .,-]*(\d{4})")
_NAMED_FIRST = re.compile(r"([^\W\d_]{3,9})[ .]*(\d\d?),? +(\d{4})")
_TIME = re.compile(r"[T ]+\d\d?:\d\d.*$")
_MONTHS = {
    name: n
    for n, names in enumerate(
        ("jan", "feb", "mar mär mae mrz", "apr", "may mai", "jun", "jul", "aug", "sep", "oct okt",
        "nov", "dec dez"), 1,
    )
    for name in names.split()
}  # fmt: skip

SWAPPED = 12
"""A day up to here may be a month."""

_Cell = tuple[str, Path]
"""What is written, and in which file."""


@dataclass(frozen=True)
class DateColumn:
    """What a column says of each patient."""

    name: str
    days: Mapping[str, datetime.date] = field(default_factory=dict)
    unclear: Mapping[str, str] = field(default_factory=dict)
    """Patient -> why there is no day, though something stands there."""
    fault: Fault | None = None
    """Why the column as a whole says nothing."""


def day(text: str, order: str = "", shown: str = "") -> datetime.date | None:
    """The day that a cell names: 2019-01-02, 20190102, 2.1.2019, 02JAN2019, and so with a time
    behind it; 02/01/2019 by `order` ('dmy', 'mdy') as declared, by the order `shown` by other
    cells, or where only one order is a day. What others show says nothing of dates with points,
    where the day is first."""
    days = _readings(text, order, shown)
    return days.pop() if len(days) == 1 else None


def _readings(text: str, order: str, shown: str = "") -> set[datetime.date]:
    """All days that a cell may name."""
    text = _TIME.sub("", text.strip())
    if match := _YEAR_FIRST.fullmatch(text):
        year, mark, month, of_month = match.groups()
        whole = bool(mark) or len(text) == 8
        return _days([(year, month, of_month)] if whole else [])
    if match := _YEAR_LAST.fullmatch(text):
        first, mark, second, year = match.groups()
        # with points the day is first wherever they are written
        orders = order or ("dmy" if mark == "." else shown or "dmy mdy")
        parts = {"dmy": (year, second, first), "mdy": (year, first, second)}
        return _days([parts[o] for o in orders.split()])
    if match := _NAMED.fullmatch(text):
        of_month, month, year = match.groups()
    elif match := _NAMED_FIRST.fullmatch(text):
        month, of_month, year = match.groups()
    else:
        return set()
    return _days([(year, _MONTHS.get(month[:3].casefold(), 0), of_month)])


def _days(candidates: Iterable[tuple[str, str | int, str]]) -> set[datetime.date]:
    out = set()
    for year, month, of_month in candidates:
        try:
            out.add(datetime.date(int(year), int(month), int(of_month)))
        except ValueError:
            continue
    return out


def date_column(table: Loaded, names: Sequence[str], order: str = "") -> DateColumn:
    """One day a patient of the table, of the rows that its filters keep."""
    faults: list[Fault] = []
    texts = table.cells(names, faults)
    if texts is None:
        return DateColumn(names[0], fault=faults[0])
    name = next(n for n in names if n in table.parts[0].index)
    nulls = {folded(n) for n in table.nulls} | {""}
    cells: dict[str, set[_Cell]] = defaultdict(set)
    by_file: dict[Path, set[str]] = defaultdict(set)
    for row in np.flatnonzero(table.kept(table.spec.keep, [])).tolist():
        cell, file = texts[row].strip(), table.place[row][0].path
        if folded(cell) not in nulls and not looks_null(cell):
            cells[table.ids[row]].add((cell, file))
            by_file[file].add(cell)
    # what one file shows says nothing of another, which another clinic may have written
    shown = {file: _order(used) for file, used in by_file.items()}
    turned = {(cell, file) for file, used in by_file.items() for cell in _turned(used)}
    days: dict[str, datetime.date] = {}
    unclear: dict[str, str] = {}
    for patient, written in cells.items():
        readings = [_readings(cell, order, shown[file]) for cell, file in sorted(written)]
        named = set().union(*readings)
        if doubtful := written & turned:
            unclear[patient] = (
                f"a spreadsheet may have taken the month of {_quoted(doubtful)} for the day: no "
                "cell like it has a day after the 12th, and every one that has is left as text. "
                "Write all dates as 2019-01-31, from where they were typed"
            )
        elif all(len(r) == 1 for r in readings) and len(named) == 1:
            days[patient] = named.pop()
        else:
            unclear[patient] = _why(_quoted(written), readings)
    used = set().union(*by_file.values())
    return DateColumn(name, days, unclear, _fault(table.where(name), used, days))


def _quoted(cells: Iterable[_Cell]) -> str:
    return some(sorted({repr(cell) for cell, _ in cells}))


def _order(cells: Iterable[str]) -> str:
    """Which of day and month stands first, where one of a file's cells shows it and none another."""
    shown = set()
    for cell in cells:
        match = _YEAR_LAST.fullmatch(_TIME.sub("", cell))
        if match and match.group(2) != ".":
            orders = [o for o in ("dmy", "mdy") if _readings(cell, o)]
            shown |= set(orders) if len(orders) == 1 else set()
    return shown.pop() if len(shown) == 1 else ""


def _turned(cells: Iterable[str]) -> set[str]:
    """Cells whose day and month a spreadsheet may have swapped.

    One that expects the other order makes a date of what has a day in it, 05/03/2019, and leaves
    31/01/2019 as text: then all that it made have a day up to the 12th, and all others one after.
    """
    made, left = set(), []
    for cell in cells:
        text = _TIME.sub("", cell)
        if (match := _YEAR_FIRST.fullmatch(text)) and match.group(2):
            made.add(cell)
        elif (match := _YEAR_LAST.fullmatch(text)) and match.group(2) != ".":
            left.append(cell)
    low = all(found.day <= SWAPPED for c in made if (found := day(c)) is not None)
    return made if left and low and all(len(_readings(c, "")) == 1 for c in left) else set()


def _why(cells: str, readings: Sequence[set[datetime.date]]) -> str:
    if any(len(r) > 1 for r in readings):
        return f"{cells} may be day or month first: declare date_order, or write 2019-01-31"
    if all(readings):
        return f"its rows name several days, {cells}"
    return f"{cells} is no date"


def _fault(where: str, cells: Iterable[str], days: Mapping[str, datetime.date]) -> Fault | None:
    """Of a column that holds something, and no day."""
    texts = sorted(cells)
    if days or not texts:
        return None
    shown = some([repr(t) for t in texts])
    if all(number(t) is not None for t in texts):
        return Fault(
            "D07",
            where,
            f"it holds numbers ({shown}), not dates: nothing says from which day they count, so no "
            "file's date can be held against them",
            "Name a column of dates in `date` of [images], or leave it out and state `examination = "
            '"earliest"` or "latest"',
        )
    if all(len(_readings(t, "")) > 1 for t in texts):
        return Fault(
            "D07",
            where,
            f"nothing in it tells whether the day or the month comes first ({shown})",
            'Declare date_order = "dmy" or "mdy" in [images]',
        )
    return Fault(
        "D07",
        where,
        f"it holds no dates ({shown})",
        "Write them as 2019-01-31, or name another column in `date` of [images]",
    )
