"""Excel workbook of equal bytes for equal rows: openpyxl stamps the time of writing into it, which
is taken out again."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

Cell = str | int | float | None
Sheet = Sequence[Sequence[Cell]]
MIDNIGHT: Final = (2023, 4, 1, 0, 0, 0)


def write_workbook(path: Path, sheets: Mapping[str, Sheet]) -> None:
    """Write `sheets` (name -> rows, the header first) to `path`."""
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    stamped = io.BytesIO()
    book.save(stamped)
    with zipfile.ZipFile(stamped) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            raw = old.read(name)
            if name == "docProps/core.xml":
                raw = re.sub(
                    rb">[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z?<", b">2023-04-01T00:00:00Z<", raw
                )
            new.writestr(zipfile.ZipInfo(name, MIDNIGHT), raw, zipfile.ZIP_DEFLATED)
