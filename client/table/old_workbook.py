"""Old workbook's sheet (.xls, Excel 97 to 2003) by xlrd, as rows of texts; merged cells below the
header all hold what is shown in them."""

from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import Any

from client.table.cells import text_of
from client.table.part import Layout

MAGIC = b"\xd0\xcf\x11\xe0"
"""How an OLE2 file begins: an old workbook, or a new one that is encrypted."""


def read_old_sheet(path: Path, layout: Layout) -> list[list[str]]:
    with _opened(path) as book:
        if layout.sheet is not None and layout.sheet not in book.sheet_names():
            raise ValueError(
                f"the workbook has no sheet '{layout.sheet}'; it has "
                f"{', '.join(book.sheet_names())}"
            )
        try:
            sheet = book.sheet_by_name(layout.sheet) if layout.sheet else _shown(book)[0]
            grid = _grid(book, sheet, sheet.nrows, layout.decimal)
            merged = sheet.merged_cells
        except Exception as error:  # xlrd lets whatever a broken file causes come through
            raise ValueError(f"the workbook is broken ({type(error).__name__}: {error})") from error
    for top, below, left, right in merged:
        if layout.first_row - 1 <= top < len(grid):
            for row in grid[top:below]:
                row[left:right] = [grid[top][left]] * (right - left)
    return grid


def old_tops(path: Path, rows: int) -> dict[str, list[list[str]]]:
    """Sheet that is not hidden -> its first rows."""
    with _opened(path) as book:
        return {
            sheet.name: _grid(book, sheet, min(rows, sheet.nrows), ".") for sheet in _shown(book)
        }


def _opened(path: Path) -> Any:
    import xlrd

    try:
        return xlrd.open_workbook(str(path), logfile=io.StringIO(), formatting_info=True)
    except Exception as error:
        raise ValueError(
            "the file is not a workbook that can be opened, or is broken or encrypted "
            f"({type(error).__name__}: {error})"
        ) from error


def _shown(book: Any) -> list[Any]:
    """The sheets that whoever opens the workbook sees; a hidden one is read where it is named."""
    return [sheet for sheet in book.sheets() if not sheet.visibility] or book.sheets()


def _grid(book: Any, sheet: Any, rows: int, decimal: str) -> list[list[str]]:
    return [[_text(cell, book.datemode, decimal) for cell in sheet.row(row)] for row in range(rows)]


def _text(cell: Any, datemode: int, decimal: str) -> str:
    import xlrd

    value: object = cell.value
    if cell.ctype == xlrd.XL_CELL_DATE:
        when = xlrd.xldate_as_datetime(cell.value, datemode)
        value = when.time() if cell.value < 1 else when
        if isinstance(value, datetime.datetime) and value.microsecond:
            value = value.replace(microsecond=0)
    elif cell.ctype == xlrd.XL_CELL_BOOLEAN:
        value = bool(cell.value)
    elif cell.ctype == xlrd.XL_CELL_ERROR:
        value = xlrd.error_text_from_code.get(cell.value, "#N/A")
    return text_of(value, decimal)
