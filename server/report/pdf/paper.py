"""From the page's elements to what ReportLab sets on paper: paragraphs, lists, boxes, tables that repeat their header, figures.

One rule an element; where the rule of an element is not here, its children are set in its place, so that nothing of the page is lost.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.styles import ParagraphStyle
from reportlab.platypus import (
    CondPageBreak,
    Image,
    KeepTogether,
    NextPageTemplate,
    PageBreak,
    Spacer,
    Table,
)

from server.report.pdf.fonts import BOLD, MONO, SANS, drawable
from server.report.pdf.measures import follows, small
from server.report.pdf.measures import widths as widths_of
from server.report.pdf.paragraphs import BASE, STYLES, Marked, Text
from server.report.pdf.tags import Path
from server.report.pdf.tree import Element
from server.report.pdf.vector import (
    ALARM,
    ALARM_PAPER,
    CAUTION,
    CAUTION_PAPER,
    GRID,
    LINE,
    MUTED,
    TONES,
    Bar,
    Drawing,
    Legend,
)

_ROLES = {"h1": "H1", "h2": "H2", "h3": "H3", "h4": "H4", "li": "LI"}
_SKIPPED = {"nav", "style", "script", "head", "title"}
_INLINE = {"strong", "em", "code", "span", "a", "br", "sup"}


MOST_TEXT = 1200
"""Characters of a cell that surely fits a page."""


class Paper:
    """Sets one page; counts as it goes, so that each element has a place of its own."""

    def __init__(self, body: Element, width: float, landscape: float) -> None:
        self._body, self._width, self._landscape = body, width, landscape
        self._number = 0
        self._headings = {e.attributes["id"] for e in body.walk() if e.tag in ("h1", "h2", "h3", "h4") and "id" in e.attributes}
        self._level = -1

    def story(self) -> list[Any]:
        return self._blocks(self._body, self._width, ())

    def _path(self, role: str, at: Path = ()) -> Path:
        self._number += 1
        return (*at, f"{role}.{self._number}")

    # ---- blocks ------------------------------------------------------------------------------------------------------------------

    def _blocks(self, e: Element, width: float, at: Path) -> list[Any]:
        out: list[Any] = []
        loose: list[Element | str] = []

        def flush() -> None:
            text = self._inline(loose)
            loose.clear()
            if text.strip():
                out.append(Text(text, STYLES["p"], path=self._path("P", at)))

        for child in e.inside:
            if isinstance(child, str) or child.tag in _INLINE:
                loose.append(child)
            else:
                flush()
                if child.tag in ("h2", "h3", "h4") and width >= self._width:
                    out.append(CondPageBreak(follows(e, child)))
                out += self._block(child, width, at)
        flush()
        return out

    def _block(self, e: Element, width: float, at: Path) -> list[Any]:
        kinds = e.classes
        if e.tag in _SKIPPED or "skip" in kinds or "hidden" in kinds or e.tag == "footer":
            return []
        special: dict[str, Callable[[Element, float, Path], list[Any]]] = {
            "box": self._box, "cards": self._columns, "grid": self._grid, "tables": self._grid, "pictures": self._grid,
            "landscape": self._turned, "legend": lambda e, w, at: [Legend(e)] if e.elements else [],
        }  # fmt: skip
        if found := next((special[k] for k in kinds if k in special), None):
            return found(e, width, at)
        if e.tag in ("h1", "h2", "h3", "h4"):
            return self._heading(e, at)
        if e.tag == "p":
            style = STYLES["none"] if "none" in kinds else next((STYLES[k] for k in kinds if k in STYLES), STYLES["p"])
            text = self._inline(e.inside)
            return [Text(text, style, path=self._path("P", at))] if text.strip() else []
        if e.tag in ("ul", "ol"):
            return self._list(e, width, at)
        if e.tag == "table":
            return self._table(e, width, at)
        if e.tag == "figure":
            return [KeepTogether(self._figure(e, width, at))]
        return self._blocks(e, width, at)

    def _heading(self, e: Element, at: Path, style: str = "") -> list[Any]:
        text = Text(self._inline(e.inside), STYLES[style or e.tag], path=self._path(_ROLES[e.tag], at))
        level = max(0, int(e.tag[1]) - 2)
        if e.tag != "h1":
            level = min(level, self._level + 1)
            self._level = level
            key = e.attributes.get("id") or f"part-{self._number}"
            text.outline = (key, drawable(e.text), level)
        return [text]

    def _list(self, e: Element, width: float, at: Path) -> list[Any]:
        place, out = self._path("L", at), []
        for k, item in enumerate((i for i in e.elements if i.tag == "li"), start=1):
            bullet = f"{k}." if e.tag == "ol" else "\u2022"
            inner = [c for c in item.inside if isinstance(c, str) or c.tag not in ("ul", "ol")]
            out.append(Text(self._inline(inner), STYLES["li"], bulletText=bullet, path=self._path("LI", place)))
            for nested in (c for c in item.elements if c.tag in ("ul", "ol")):
                out += self._list(nested, width, at)
        return [*out, Spacer(1, 3)]

    def _box(self, e: Element, width: float, at: Path) -> list[Any]:
        alarm = "alarm" in e.classes
        inside: list[Any] = []
        for child in e.elements:
            if child.tag in ("h2", "h3"):
                inside.append(Text(f"<b>{self._inline(child.inside)}</b>", STYLES["p"], path=self._path("P", at)))
            else:
                inside += self._block(child, width - 20, at)
        # a row each, so that a long list of alarms may go on on the next page
        edge, paper = (ALARM, ALARM_PAPER) if alarm else (CAUTION, CAUTION_PAPER)
        style: list[Any] = [
            ("BACKGROUND", (0, 0), (-1, -1), paper), ("LINEBEFORE", (0, 0), (0, -1), 3, edge), ("LEFTPADDING", (0, 0), (-1, -1), 9),
            ("TOPPADDING", (0, 0), (-1, -1), 0), ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
            ("TOPPADDING", (0, 0), (-1, 0), 3), ("BOTTOMPADDING", (0, -1), (-1, -1), 3),
        ]  # fmt: skip
        rows = [[[f]] for f in inside if not isinstance(f, Spacer)]
        return [Table(rows, colWidths=[width], style=style, splitInRow=1), Spacer(1, 4)] if rows else []

    def _columns(self, e: Element, width: float, at: Path) -> list[Any]:
        """The cards of the headline side by side."""
        cards = e.elements
        if not cards:
            return []
        each = width / max(2, len(cards)) if len(cards) < 3 else width / 2
        out: list[Any] = []
        for k in range(0, len(cards), 2):
            cells = [self._blocks(c, each - 22, at) for c in cards[k : k + 2]]
            style: list[Any] = [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LEFTPADDING", (0, 0), (-1, -1), 8),
                ("RIGHTPADDING", (0, 0), (-1, -1), 8),
            ]
            style += [("BOX", (n, 0), (n, 0), 0.7, LINE) for n in range(len(cells))]
            out += [Table([cells], colWidths=[each] * len(cells), style=style, hAlign="LEFT"), Spacer(1, 6)]
        return out

    def _grid(self, e: Element, width: float, at: Path) -> list[Any]:
        """Small drawings and small tables side by side; what could outgrow a page goes below one another."""
        out: list[Any] = []
        waiting: list[Element] = []
        across = 3 if "tables" in e.classes else 2
        each = width / across

        def flush() -> None:
            cells = [(self._figure if c.tag == "figure" else self._block)(c, each - 14, at) for c in waiting]
            cells += [[]] * (across - len(cells))
            if waiting:
                style = [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0), ("RIGHTPADDING", (0, 0), (-1, -1), 14)]
                out.append(Table([cells], colWidths=[each] * across, style=style, hAlign="LEFT"))
            waiting.clear()

        for child in e.elements:
            if small(child):
                waiting.append(child)
                if len(waiting) == across:
                    flush()
            else:
                flush()
                out += self._block(child, width, at)
        flush()
        return out

    def _turned(self, e: Element, width: float, at: Path) -> list[Any]:
        """On pages of their own, on their side."""
        inside = self._blocks(e, self._landscape, at)
        return [NextPageTemplate("landscape"), PageBreak(), *inside, NextPageTemplate("portrait"), PageBreak()]

    def _figure(self, e: Element, width: float, at: Path) -> list[Any]:
        out: list[Any] = []
        caption = e.first("figcaption")
        for child in e.walk():
            if "legend" in child.classes:
                out += [Legend(child)] if child.elements else []
            elif child.tag == "svg" and "chart" in child.classes:
                drawing = Drawing(child)
                out.append(Marked(drawing, self._path("Figure", at), drawing.alternative))
            elif child.tag == "img":
                out += self._picture(child, width, at)
        if caption is not None:
            out.append(Text(self._inline(caption.inside), STYLES["figcaption"], path=self._path("Caption", at)))
        return out

    def _picture(self, e: Element, width: float, at: Path) -> list[Any]:
        _, found, data = e.attributes.get("src", "").partition("data:image/png;base64,")
        try:
            image = Image(io.BytesIO(base64.b64decode(data, validate=True)))
        except Exception:  # whatever Pillow makes of a broken picture: the page's words are still worth printing
            image = None
        alternative = e.attributes.get("alt", "")
        if not found or image is None:
            return [Text(escape(drawable(f"[picture cannot be shown: {alternative}]")), STYLES["small"], path=self._path("P", at))]
        scale = min(1.0, width / image.imageWidth, 220 / image.imageHeight)
        image.drawWidth, image.drawHeight = image.imageWidth * scale, image.imageHeight * scale
        return [Marked(image, self._path("Figure", at), alternative)]

    # ---- tables ------------------------------------------------------------------------------------------------------------------

    def _table(self, e: Element, width: float, at: Path) -> list[Any]:
        place = self._path("Table", at)
        caption = e.first("caption")
        rows = [r for part in e.elements if part.tag in ("thead", "tbody") for r in part.elements if r.tag == "tr"]
        heads = sum(1 for part in e.elements if part.tag == "thead" for r in part.elements if r.tag == "tr")
        if not rows:
            return []
        columns = max(sum(int(c.attributes.get("colspan", 1)) for c in r.elements) for r in rows)
        size = 6.3 if columns > 10 else 7.6
        widths = widths_of(rows, columns, width, size)
        cells: list[list[Any]] = []
        style: list[Any] = [
            ("VALIGN", (0, 0), (-1, -1), "TOP"), ("LINEBELOW", (0, 0), (-1, -1), 0.4, GRID), ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 6), ("TOPPADDING", (0, 0), (-1, -1), 1.6), ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
        ]  # fmt: skip
        if heads:
            style.append(("LINEBELOW", (0, heads - 1), (-1, heads - 1), 1, LINE))
        for y, row in enumerate(rows):
            row_path = self._path("TR", place)
            line: list[Any] = []
            for c in row.elements:
                spanned = int(c.attributes.get("colspan", 1))
                if spanned > 1:
                    style.append(("SPAN", (len(line), y), (len(line) + spanned - 1, y)))
                line += [self._cell(c, size, y < heads, row_path), *[""] * (spanned - 1)]
            cells.append(line + [""] * (columns - len(line)))
        said = caption is not None and "hidden" not in (caption.elements[0].classes if caption.elements else [])
        out: list[Any] = []
        if said and caption is not None:
            out.append(Text(self._inline(caption.inside), STYLES["caption"], path=self._path("Caption", place)))
        # a row is kept whole unless it could outgrow a page
        long = max(len(c.text) for r in rows for c in r.elements) > MOST_TEXT
        table = Table(cells, colWidths=widths, style=style, repeatRows=heads, hAlign="LEFT", splitInRow=int(long))
        room = [CondPageBreak(75)] if width >= self._width else []
        table.spaceAfter = 7
        return [*room, *out, table]

    def _cell(self, c: Element, size: float, head: bool, at: Path) -> Any:
        if bar := c.first("svg", "bar"):
            return Bar(bar)
        number = "n" in c.classes
        style = ParagraphStyle(
            "cell",
            BASE,
            fontName=BOLD if head else SANS,
            fontSize=size,
            leading=size * 1.28,
            spaceAfter=0,
            alignment=TA_RIGHT if number else 0,
        )
        if "missing" in c.classes:
            style.textColor = MUTED
        text = self._inline(c.inside)
        if c.tag == "th" and not head:
            text = f"<b>{text}</b>" if c.attributes.get("colspan") else text
        return Text(text, style, path=self._path(c.tag.upper(), at), once=head) if text.strip() else ""

    # ---- words -------------------------------------------------------------------------------------------------------------------

    def _inline(self, inside: Sequence[Element | str]) -> str:
        """ReportLab's mark-up of a run of text."""
        return "".join(self._run(x) for x in inside).replace("\n", " ").strip()

    def _run(self, x: Element | str) -> str:
        if isinstance(x, str):
            flat = " ".join(x.replace("\u00a0", "\x01").replace("\u202f", "\x02").split())
            flat = (" " if x[:1].isspace() else "") + flat + (" " if x[-1:].isspace() and flat else "")
            return escape(drawable(flat.replace("\x01", "\u00a0").replace("\x02", "\u00a0")), quote=False)
        inner = "".join(self._run(c) for c in x.inside)
        kinds = x.classes
        if "hidden" in kinds or "skip" in kinds or x.tag in ("svg", "title"):
            return ""
        if "key" in kinds:
            tone = next((k for k in kinds if k in TONES), "reference")
            shape = {"local": "\u25a0", "pooled": "\u25c6"}.get(tone, "\u25cf")
            return f'<font color="{TONES[tone].hexval().replace("0x", "#")}">{shape}</font> '
        if "limits" in kinds:
            return f'<br/><font size="-1" color="#52606d">{inner}</font>'
        if "small" in kinds or "lacks" in kinds or "missing" in kinds:
            return f'<font color="#52606d">{inner}</font>'
        if "best" in kinds:
            return f"<b>\u25b8\u00a0{inner}</b>" if inner != "marks" else f"<b>\u25b8</b> {inner}"
        if "gap" in kinds:
            return f'<font color="#b3261e"><b>{inner}</b></font>'
        if x.tag == "a":
            target = x.attributes.get("href", "")[1:]
            return f'<a href="#{escape(target)}" color="#0b5394">{inner}</a>' if target in self._headings else inner
        return {
            "strong": f"<b>{inner}</b>", "em": f"<i>{inner}</i>", "code": f'<font name="{MONO}" size="-1">{inner}</font>',
            "sup": f"<super>{inner}</super>", "br": "<br/>",
        }.get(x.tag, inner)  # fmt: skip
