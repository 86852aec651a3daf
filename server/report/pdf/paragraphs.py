"""What stands on paper: the styles of paragraphs, and paragraphs and drawings that know their place in the structure."""

from __future__ import annotations

from typing import Any

from reportlab.lib.styles import ParagraphStyle
from reportlab.platypus import Flowable, Paragraph

from server.report.pdf.fonts import BOLD, SANS
from server.report.pdf.tags import Path
from server.report.pdf.vector import ALARM, INK, MUTED, TONES

SIZE = 8.6
BASE = ParagraphStyle("text", fontName=SANS, fontSize=SIZE, leading=SIZE * 1.38, textColor=INK, spaceAfter=3.5, splitLongWords=1)
STYLES = {
    "p": BASE,
    "lead": ParagraphStyle("lead", BASE, fontSize=9.2, leading=13),
    "small": ParagraphStyle("small", BASE, fontSize=7.4, leading=10, textColor=MUTED),
    "kicker": ParagraphStyle("kicker", BASE, fontSize=7.6, leading=10, textColor=MUTED, spaceAfter=1),
    "research": ParagraphStyle("research", BASE, fontName=BOLD, textColor=ALARM, fontSize=9.2, leading=12, spaceAfter=5),
    "figure": ParagraphStyle("figure", BASE, fontName=BOLD, fontSize=20, leading=23, textColor=TONES["federated"], spaceAfter=1),
    "none": ParagraphStyle("none", BASE, fontName=BOLD, fontSize=13, leading=17, textColor=MUTED, spaceAfter=1),
    "caption": ParagraphStyle("caption", BASE, fontSize=7.4, leading=9.8, textColor=MUTED, spaceBefore=4, spaceAfter=3),
    "figcaption": ParagraphStyle("figcaption", BASE, fontSize=7.4, leading=9.8, textColor=MUTED, spaceAfter=8),
    "li": ParagraphStyle("li", BASE, leftIndent=11, bulletIndent=1, spaceAfter=1.6),
    "h1": ParagraphStyle("h1", BASE, fontName=BOLD, fontSize=15, leading=18.5, spaceAfter=4),
    "h2": ParagraphStyle("h2", BASE, fontName=BOLD, fontSize=12.5, leading=16, spaceBefore=13, spaceAfter=5),
    "h3": ParagraphStyle("h3", BASE, fontName=BOLD, fontSize=9.8, leading=12.5, spaceBefore=7, spaceAfter=3),
    "h4": ParagraphStyle("h4", BASE, fontName=BOLD, fontSize=9, leading=12, spaceBefore=4, spaceAfter=3),
}


class Text(Paragraph):
    """A paragraph that knows its place in the structure, and, for a heading, its line in the outline."""

    def __init__(self, text: Any, style: Any = None, *rest: Any, path: Path = ("P",), once: bool = False, **more: Any) -> None:
        super().__init__(text, style, *rest, **more)
        self.path, self.once = path, once
        self.outline: tuple[str, str, int] | None = None
        self._measured: float | None = None

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        """A table asks three times and more: lines are broken once a width."""
        if width != self._measured or not hasattr(self, "blPara"):
            super().wrap(width, height)
            self._measured = width
        return self.width, self.height

    def split(self, width: float, height: float) -> list[Any]:
        parts: list[Any] = super().split(width, height)
        self._measured = None  # it takes the lines apart
        for k, part in enumerate(parts):
            part.path, part.once, part.outline = self.path, self.once, self.outline if k == 0 else None
        return parts

    def drawOn(self, canvas: Any, x: float, y: float, _sW: float = 0) -> None:
        if self.outline:
            key, title, level = self.outline
            canvas.bookmarkPage(key, fit="XYZ", left=0, top=y + self.height + 8)
            canvas.addOutlineEntry(title, key, level, closed=level > 0)
        canvas.marks.begin(canvas, self.path, once=self.once)
        super().drawOn(canvas, x, y, _sW)  # type: ignore[call-arg]
        canvas.marks.end(canvas)


class Marked(Flowable):
    """A drawing or a picture with its text alternative."""

    def __init__(self, drawn: Any, path: Path, alternative: str) -> None:
        super().__init__()
        self._drawn, self.path, self._alternative = drawn, path, alternative

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        size: tuple[float, float] = self._drawn.wrap(width, height)
        return size

    def drawOn(self, canvas: Any, x: float, y: float, _sW: float = 0) -> None:
        canvas.marks.begin(canvas, self.path, self._alternative)
        self._drawn.drawOn(canvas, x, y, _sW)
        canvas.marks.end(canvas)
