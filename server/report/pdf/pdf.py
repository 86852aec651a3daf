"""`report.pdf`: the page of `report.html` on A4, with an outline, page numbers, and the run's hash on each page (decision 14).

Nothing here reads the clock or draws a number: the same page gives the same bytes.
"""

from __future__ import annotations

import datetime
import hashlib
import io
from collections.abc import Mapping
from typing import Any

from reportlab.lib.pagesizes import A4
from reportlab.lib.pagesizes import landscape as turned
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Frame, PageTemplate

from server.report.content import wording
from server.report.pdf.fonts import SANS, drawable, register
from server.report.pdf.paper import Paper
from server.report.pdf.tags import Marks
from server.report.pdf.tree import read
from server.report.pdf.vector import LINE, MUTED

MARGIN, FOOT = 36.0, 44.0
_FIRST_DAY = "2000-01-01T00:00:00Z"
"""Stands for a report without a date."""


def typeset(html: str, report: Mapping[str, Any]) -> bytes:
    """The page as a PDF; of `report` only what stands outside the page: title, date, hash."""
    register()
    body = read(_encodable(html))
    out = io.BytesIO()
    document = _Document(out, report, hashlib.sha256(_encodable(html).encode()).hexdigest())
    document.build(Paper(body, A4[0] - 2 * MARGIN, A4[1] - 2 * MARGIN).story(), canvasmaker=_Canvas)
    return out.getvalue()


class _Canvas(Canvas):
    """Knows what it has drawn (`marks`), and writes the number of pages where each page has left room for it."""

    TOTAL = "total"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.marks = Marks()

    def save(self) -> None:
        inner: Any = self
        pages = self.getPageNumber() - 1 if not inner._code else self.getPageNumber()
        self.beginForm(self.TOTAL, 0, -4, 60, 12)
        self.setFillColor(MUTED)
        self.setFont(SANS, 6.8)
        self.drawString(0, 0, f"of {pages}")
        self.endForm()
        self.marks.write(inner._doc)
        super().save()


class _Document(BaseDocTemplate):
    def __init__(self, out: io.BytesIO, report: Mapping[str, Any], digest: str) -> None:
        self._report, self._digest = report, digest
        study, task, question = (_encodable(wording.name(report.get(k))) for k in ("study", "task", "question"))
        super().__init__(
            out, pagesize=A4, title=f"{study}, {task}: federated learning report", author="fedmets",
            creator="fedmets", producer="ReportLab",
            subject=question, keywords=[study, task, "federated learning", "research use only"], lang="en",
            invariant=1, pageCompression=1, displayDocTitle=1,
        )  # fmt: skip
        head = str(report.get("ledger_head") or report.get("state_hash") or wording.NOT_RECORDED)
        self._foot = drawable(f"{study}, {task} \u00b7 run {head[:32]} \u00b7 research use only")
        self.addPageTemplates([self._template("portrait", A4), self._template("landscape", turned(A4))])

    def _template(self, name: str, size: tuple[float, float]) -> PageTemplate:
        frame = Frame(MARGIN, FOOT, size[0] - 2 * MARGIN, size[1] - FOOT - MARGIN + 6, 0, 0, 0, 0, id=name)
        return PageTemplate(id=name, frames=[frame], pagesize=size, onPage=self._footer)

    def _footer(self, canvas: Any, _: Any) -> None:
        width = canvas._pagesize[0]
        canvas._code.append("/Artifact BMC")
        canvas.saveState()
        canvas.setStrokeColor(LINE)
        canvas.line(MARGIN, FOOT - 8, width - MARGIN, FOOT - 8)
        canvas.setFillColor(MUTED)
        canvas.setFont(SANS, 6.8)
        text = self._foot
        while text and canvas.stringWidth(text, SANS, 6.8) > width - 2 * MARGIN - 80:
            text = text[:-2]
        canvas.drawString(MARGIN, FOOT - 20, text if text == self._foot else text + "\u2026")
        canvas.drawRightString(width - MARGIN - 24, FOOT - 20, f"page {canvas.getPageNumber()}")
        canvas.translate(width - MARGIN - 22, FOOT - 20)
        canvas.doForm(canvas.TOTAL)
        canvas.restoreState()
        canvas._code.append("EMC")

    def beforeDocument(self) -> None:
        """Date and id by the report."""
        canvas: Any = self.canv
        document = canvas._doc
        when = _moment(self._report.get("date"))
        document._timeStamp.YMDhms = (when.year, when.month, when.day, when.hour, when.minute, when.second)
        document._timeStamp.dhh = document._timeStamp.dmm = 0
        name = self._digest[:32].encode()
        document._ID = b"\n[<" + name + b"><" + name + b">]\n"


def _encodable(text: str) -> str:
    """JSON can hold halves of a character, which no encoding can write."""
    return text.encode("utf-8", "replace").decode()


def _moment(text: object) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(str(text or _FIRST_DAY))
    except ValueError:
        return datetime.datetime.fromisoformat(_FIRST_DAY)
