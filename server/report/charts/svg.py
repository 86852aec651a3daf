"""SVG primitives of a drawing, inline, styled by the page's classes; `server.report.pdf.pdf` reads
the same elements.

Lengths are SVG units, drawn at about one pixel each. The text alternative goes into `<title>` and
`<desc>`.
"""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda v: start + (v - low) / (high - low) * (end - start)


def opened(key: str, title: str, text: str, width: float, height: float) -> Markup:
    return Markup(
        '<svg role="img" aria-labelledby="{0}-title {0}-desc" viewBox="0 0 {1} {2}" class="chart">'
        '<title id="{0}-title">{3}</title><desc id="{0}-desc">{4}</desc>'
    ).format(key, n(width), n(height), title, text)


def line(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{0}" x1="{1}" y1="{2}" x2="{3}" y2="{4}"/>').format(
        style, *map(n, (x1, y1, x2, y2))
    )


def words_at(style: str, x: float, y: float, text: str, full: str = "") -> Markup:
    whole = Markup("<title>{0}</title>").format(full) if full and full != text else ""
    return Markup('<text class="{0}" x="{1}" y="{2}">{3}{4}</text>').format(
        style, n(x), n(y), whole, text
    )


def path(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{n(x)},{n(y)}" for x, y in points)


def n(v: float) -> str:
    return f"{v:.1f}".removesuffix(".0")


def short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
