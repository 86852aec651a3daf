"""What has to be known of an element before it is set: how much room it needs, and how wide a table's columns are."""

from __future__ import annotations

from collections.abc import Sequence

from reportlab.pdfbase.pdfmetrics import stringWidth

from server.report.pdf.fonts import BOLD, MONO, SANS, drawable
from server.report.pdf.tree import Element

WIDEST = 440
"""Drawings of at most this width stand two in a row."""
MOST_WORD = 90.0
"""Points of a table's narrowest column at most: longer words are broken."""


def follows(parent: Element, heading: Element) -> float:
    """Points that a heading needs below it, so that it does not stand alone: its sentences, and the beginning of what they introduce."""
    after = parent.elements[next(k for k, e in enumerate(parent.elements) if e is heading) + 1 :]
    need = 30.0
    for e in after[:4]:
        if e.tag in ("h2", "h3", "h4"):
            need += 25.0
        elif "landscape" in e.classes:
            return need
        elif e.tag == "p":
            need += 14.0 * (1 + len(e.text) // 110)
        else:
            drawn = e.first("svg", "chart") or e.first("img")
            return need + (330.0 if drawn is not None else 80.0)
    return need


def small(e: Element) -> bool:
    """Does it surely fit half a page's width and a part of its height?"""
    if e.tag == "figure":
        svg = e.first("svg", "chart")
        box = svg.attributes.get("viewbox", "").split() if svg else []
        return e.first("img") is not None or (len(box) == 4 and float(box[2]) <= WIDEST)
    table = e.first("table")
    if table is None:
        return False
    cells = [c for c in table.walk() if c.tag in ("td", "th")]
    rows = sum(1 for r in table.walk() if r.tag == "tr")
    return 0 < rows <= 16 and all(len(c.text) <= 60 for c in cells) and len(cells) / rows <= 4


def widths(rows: Sequence[Element], columns: int, width: float, size: float) -> list[float]:
    """Column widths by what stands in them: all in one line where there is room, else at least the longest word."""
    least, most = [12.0] * columns, [12.0] * columns
    for row in rows:
        at = 0
        for c in row.elements:
            spanned = int(c.attributes.get("colspan", 1))
            if spanned == 1 and at < columns:
                if c.first("svg", "bar") is not None:
                    least[at], most[at] = max(least[at], 50), max(most[at], 110)
                mark = 12.0 if c.first("span", "key") or c.first("span", "best") else 0.0
                text = drawable(" ".join(_shown(c).split()))
                font = MONO if c.first("code") else BOLD if c.tag == "th" else SANS
                word = max((stringWidth(w, font, size) for w in text.split(" ")), default=0.0)
                least[at] = max(least[at], min(word, MOST_WORD) + 7.5 + mark)
                most[at] = max(most[at], min(stringWidth(text, font, size), 4 * MOST_WORD) + 7.5 + mark)
            at += spanned
    if sum(most) <= width:
        return most
    if sum(least) >= width:
        return [v * width / sum(least) for v in least]
    room, wanted = width - sum(least), [b - a for a, b in zip(least, most, strict=True)]
    return [a + room * w / (sum(wanted) or 1) for a, w in zip(least, wanted, strict=True)]


def _shown(e: Element | str) -> str:
    """The words of a cell that are set, those on a line of their own apart."""
    if isinstance(e, str):
        return e
    if "hidden" in e.classes or e.tag in ("svg", "title"):
        return ""
    inner = "".join(_shown(x) for x in e.inside)
    return f" {inner} " if e.tag == "br" or "limits" in e.classes else inner
