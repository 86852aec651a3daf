"""Workbook sheet by openpyxl, as rows of texts; merged cells below the header all hold what is shown
in them."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.table.cells import text_of
from client.table.part import Layout


def read_sheet(path: Path, layout: Layout) -> list[list[str]]:
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
            sheet = book[layout.sheet] if layout.sheet else _shown(book.worksheets)[0]
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
            _unmerge(grid, xml, layout.first_row - 1)
            return grid
        except ValueError:
            raise
        except Exception as error:  # openpyxl lets whatever a broken file causes come through
            raise ValueError(f"the workbook is broken ({type(error).__name__}: {error})") from error
        finally:
            book.close()


def _shown(sheets: Sequence[Any]) -> Sequence[Any]:
    """The sheets that whoever opens the workbook sees; a hidden one is read where it is named."""
    return [s for s in sheets if s.sheet_state == "visible"] or sheets


def sheet_tops(path: Path, rows: int) -> dict[str, list[list[str]]]:
    """Sheet that is not hidden -> its first rows. Raises whatever openpyxl does."""
    from openpyxl import load_workbook

    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        book = load_workbook(file, read_only=True, data_only=True)
        tops = {
            s.title: [
                [text_of(c) for c in row] for row in s.iter_rows(max_row=rows, values_only=True)
            ]
            for s in _shown(book.worksheets)
        }
        book.close()
    return tops


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
