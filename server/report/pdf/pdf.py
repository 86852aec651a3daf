"""PDF of the report, `report.pdf`: the page of `report.html` on A4 as PDF/UA-1, set by Typst, with
an outline and the run's hash on each page (decision 23).

Nothing here reads the clock, draws a number or asks the network: the same page gives the same
bytes.
"""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typst
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject

from server.report.content import wording
from server.report.pdf.elements import Page, drawable, fonts

_FIRST_DAY = "2000-01-01T00:00:00+00:00"
"""Stands for a report without a date."""
_RULES = Path(__file__).with_name("page.typ")


def typeset(html: str, report: Mapping[str, Any]) -> bytes:
    """The page as a PDF; of `report` only what stands outside the page: title, date, hash."""
    page = Page(html)
    study, task, question = (
        drawable(wording.name(report.get(key))) for key in ("study", "task", "question")
    )
    head = str(report.get("ledger_head") or report.get("state_hash") or wording.NOT_RECORDED)
    data = {
        "title": f"{study}, {task}: federated learning report", "question": question,
        "keywords": [study, task, "federated learning", "research use only"],
        "foot": f"{study}, {task}", "run": drawable(head[:32]),
        "colours": page.colours, "targets": page.targets, "body": page.body,
    }  # fmt: skip
    library = typst.Fonts(
        include_system_fonts=False, include_embedded_fonts=False, font_paths=[fonts()]
    )
    made = typst.compile(
        _RULES.read_bytes(), format="pdf", font_paths=library,
        sys_inputs={"page": json.dumps(data)}, pdf_standards="ua-1",
        timestamp=_moment(report.get("date")),
    )  # fmt: skip
    return _with_row_headers(made)


def _with_row_headers(made: bytes) -> bytes:
    """Typst's binding has no row headers: the first cell of each body row is made one in the
    structure."""
    writer = PdfWriter(clone_from=io.BytesIO(made))
    writer.pdf_header = made[:8].decode()
    waiting: list[Any] = [writer.root_object["/StructTreeRoot"]]
    while waiting:
        element = waiting.pop().get_object()
        inside = [kid.get_object() for kid in _kids(element)]
        waiting += [kid for kid in inside if isinstance(kid, DictionaryObject)]
        if element.get("/S") == "/TR" and inside[0]["/S"] == "/TD":
            inside[0][NameObject("/S")] = NameObject("/TH")
            inside[0]["/A"][0][NameObject("/Scope")] = NameObject("/Row")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _kids(element: DictionaryObject) -> list[Any]:
    kids: Any = element.get("/K", ArrayObject()).get_object()
    return list(kids) if isinstance(kids, ArrayObject) else [kids]


def _moment(text: object) -> datetime.datetime:
    try:
        when = datetime.datetime.fromisoformat(str(text or _FIRST_DAY))
    except ValueError:
        when = datetime.datetime.fromisoformat(_FIRST_DAY)
    return when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
