"""A drawing of the page on paper: the SVG's few elements as vectors, styled by the same classes."""

from __future__ import annotations

import re
from typing import Any

from reportlab.lib.colors import Color, HexColor
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.platypus import Flowable

from server.report.pdf.fonts import BOLD, SANS, drawable, register
from server.report.pdf.tree import Element

INK, MUTED, PAPER = HexColor(0x17212B), HexColor(0x52606D), HexColor(0xFFFFFF)
GRID, PANEL, LINE, REFERENCE = HexColor(0xE7EBEF), HexColor(0xF3F6F8), HexColor(0xD3DAE0), HexColor(0x6A7681)
ALARM, ALARM_PAPER = HexColor(0xB3261E), HexColor(0xFDECEA)
CAUTION, CAUTION_PAPER = HexColor(0xB07A00), HexColor(0xFFF6DF)
TONES = {
    "federated": HexColor(0x0B5CAD), "local": HexColor(0xB34700), "pooled": HexColor(0x00715B), "reference": REFERENCE, "nobody": REFERENCE,
    "first": HexColor(0x0B5CAD), "second": HexColor(0xB34700), "third": HexColor(0x00715B), "fourth": HexColor(0x8A2B7C),
    "fifth": HexColor(0x6B5D00), "sixth": HexColor(0x3F4A55),
}  # fmt: skip
_DASHES = {
    "local": (7, 4),
    "second": (7, 4),
    "third": (2, 3),
    "fourth": (9, 3, 2, 3),
    "fifth": (4, 2),
    "sixth": (12, 4),
    "reference": (4, 4),
}
_THIN = {"reference": 1.3, "nobody": 1.3}
MOST_SCALE = 0.82
"""Points a unit of the drawing at most: its text is then no larger than the page's."""


class Drawing(Flowable):
    """An `<svg>` scaled to the width at hand."""

    def __init__(self, svg: Element, width: float | None = None) -> None:
        super().__init__()
        self.svg = svg
        box = [float(v) for v in svg.attributes.get("viewbox", "0 0 100 10").split()]
        self._size = box[2], box[3]
        self._wanted = width
        described = svg.first("desc")
        self.alternative = described.text if described else ""

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        wide, high = self._size
        self._scale = min((self._wanted or width) / wide, height / high if height > 100 else 1, MOST_SCALE)
        return wide * self._scale, high * self._scale

    def draw(self) -> None:
        register()
        canvas = self.canv
        canvas.saveState()
        canvas.scale(self._scale, self._scale)
        _paint(canvas, self.svg, self._size[1])
        canvas.restoreState()


def _paint(canvas: Any, element: Element, height: float) -> None:
    """`height`: of the drawing; its axis points down, the paper's up."""
    for e in element.elements:
        if e.tag == "g":
            canvas.saveState()
            _clip(canvas, element, height)
            _paint(canvas, e, height)
            canvas.restoreState()
        elif e.tag in _ELEMENTS:
            canvas.saveState()
            _ELEMENTS[e.tag](canvas, e, height)
            canvas.restoreState()


def _clip(canvas: Any, svg: Element, height: float) -> None:
    clip = svg.first("clippath")
    rect = clip.first("rect") if clip else None
    if rect is not None:
        x, y, w, h = (float(rect.attributes[k]) for k in ("x", "y", "width", "height"))
        path = canvas.beginPath()
        path.rect(x, height - y - h, w, h)
        canvas.clipPath(path, stroke=0, fill=0)


def _tone(e: Element) -> Color:
    return next((TONES[c] for c in e.classes if c in TONES), INK)


def _stroke(canvas: Any, e: Element) -> None:
    """Colour, width and dash by the class of a line."""
    kinds = e.classes
    tone = next((c for c in kinds if c in TONES), "")
    plain = {"grid": (GRID, 1), "axis": (MUTED, 1), "arrow": (REFERENCE, 1.5), "limits-line": (INK, 1.3), "rival": (ALARM, 2)}
    found = next((plain[c] for c in kinds if c in plain), None)
    colour, width = found or (_tone(e), _THIN.get(tone, 1.5 if "predicted" in kinds else 2))
    canvas.setStrokeColor(colour)
    if "line" in kinds:
        if tone in _DASHES:
            canvas.setDash(*[list(_DASHES[tone])])
        if tone == "pooled":
            width = 5
            canvas.setStrokeAlpha(0.5)
    if "predicted" in kinds:
        canvas.setDash([3, 3])
    canvas.setLineWidth(width)
    canvas.setLineJoin(1)


def _line(canvas: Any, e: Element, height: float) -> None:
    _stroke(canvas, e)
    x1, y1, x2, y2 = (float(e.attributes[k]) for k in ("x1", "y1", "x2", "y2"))
    canvas.line(x1, height - y1, x2, height - y2)


def _points(e: Element, height: float) -> list[tuple[float, float]]:
    values = [float(v) for v in re.split(r"[ ,]+", e.attributes.get("points", "").strip()) if v]
    return [(x, height - y) for x, y in zip(values[::2], values[1::2], strict=False)]


def _shape(canvas: Any, points: list[tuple[float, float]]) -> Any:
    path = canvas.beginPath()
    for k, (x, y) in enumerate(points):
        (path.lineTo if k else path.moveTo)(x, y)
    return path


def _polyline(canvas: Any, e: Element, height: float) -> None:
    if points := _points(e, height):
        _stroke(canvas, e)
        canvas.drawPath(_shape(canvas, points), stroke=1, fill=0)


def _polygon(canvas: Any, e: Element, height: float) -> None:
    points = _points(e, height)
    if not points:
        return
    path = _shape(canvas, points)
    path.close()
    marked = _fill(canvas, e)
    canvas.drawPath(path, stroke=int(marked), fill=1)


def _fill(canvas: Any, e: Element) -> bool:
    """Colours of an area; returns whether it has an edge."""
    kinds = e.classes
    if "box" in kinds:
        canvas.setFillColor(PANEL if len(kinds) == 1 else PAPER)
        canvas.setStrokeColor(REFERENCE if "out" in kinds else LINE)
        if "out" in kinds:
            canvas.setDash([4, 3])
        return True
    canvas.setFillColor(REFERENCE if "head" in kinds else TONES["federated"] if "bar-fill" in kinds else _tone(e))
    if "band" in kinds:
        canvas.setFillAlpha(0.14)
    if "bar-fill" in kinds:
        canvas.setFillAlpha(0.55)
    canvas.setStrokeColor(PAPER)
    canvas.setLineWidth(1)
    return "mark" in kinds


def _rect(canvas: Any, e: Element, height: float) -> None:
    x, y = (float(e.attributes.get(k, 0)) for k in ("x", "y"))
    w, h = (float(e.attributes[k]) for k in ("width", "height"))
    edged = _fill(canvas, e)
    canvas.roundRect(x, height - y - h, w, h, float(e.attributes.get("rx", 0)), stroke=int(edged), fill=1)


def _circle(canvas: Any, e: Element, height: float) -> None:
    x, y, r = (float(e.attributes[k]) for k in ("cx", "cy", "r"))
    _fill(canvas, e)
    canvas.circle(x, height - y, r, stroke=1, fill=1)


def _text(canvas: Any, e: Element, height: float) -> None:
    kinds = e.classes
    text = drawable("".join(t for t in e.inside if isinstance(t, str)))
    font, size, colour = (BOLD, 12.0, INK) if "name" in kinds else (SANS, 10.5, MUTED) if "tick" in kinds else (SANS, 11.0, INK)
    moved = re.match(r"translate\(([-\d.]+) ([-\d.]+)\) rotate\((-?\d+)\)", e.attributes.get("transform", ""))
    if moved:
        canvas.translate(float(moved[1]), height - float(moved[2]))
        canvas.rotate(-float(moved[3]))
        x, y = 0.0, 0.0
    else:
        x, y = float(e.attributes.get("x", 0)), height - float(e.attributes.get("y", 0))
    wide = stringWidth(text, font, size)
    x -= wide / 2 if "middle" in kinds else wide if "end" in kinds else 0
    canvas.setFillColor(colour)
    canvas.setFont(font, size)
    canvas.drawString(x, y, text)


_ELEMENTS = {"line": _line, "polyline": _polyline, "polygon": _polygon, "rect": _rect, "circle": _circle, "text": _text}


class Bar(Flowable):
    """The bar in a table's cell: a share of the cell's width."""

    def __init__(self, svg: Element) -> None:
        super().__init__()
        rect = svg.first("rect")
        self._share = float(rect.attributes.get("width", 0)) / 100 if rect else 0.0
        self.alternative = ""

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        self._width = width
        return width, 8

    def draw(self) -> None:
        self.canv.setFillColor(TONES["federated"])
        self.canv.rect(0, 0, self._width * self._share, 7, stroke=0, fill=1)


class Legend(Flowable):
    """Swatches and names in as many lines as they need."""

    SIZE, STEP = 8.0, 13.0

    def __init__(self, paragraph: Element) -> None:
        super().__init__()
        self._swatches = [(e.first("svg"), drawable(e.text)) for e in paragraph.elements if "swatch" in e.classes]
        self.alternative = ""

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        register()
        self._at, x, line = [], 0.0, 0
        for _, name in self._swatches:
            wide = 30 + stringWidth(name, SANS, self.SIZE) + 12
            if x and x + wide > width:
                x, line = 0.0, line + 1
            self._at.append((x, line))
            x += wide
        self._height = (line + 1) * self.STEP
        return width, self._height

    def draw(self) -> None:
        canvas = self.canv
        for (svg, name), (x, line) in zip(self._swatches, self._at, strict=True):
            y = self._height - (line + 1) * self.STEP + 2
            canvas.saveState()
            canvas.translate(x, y)
            canvas.scale(0.8, 0.8)
            if svg is not None:
                _paint(canvas, svg, 14)
            canvas.restoreState()
            canvas.setFillColor(MUTED)
            canvas.setFont(SANS, self.SIZE)
            canvas.drawString(x + 30, y + 2.5, name)
