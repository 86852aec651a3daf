"""Line charts and forest plots as inline SVG, whatever curves they show (`figures` draws ROC,
calibration, Kaplan-Meier and the others with them): they scale, print, follow the page's colours
and can be read aloud.

Colours are CSS classes that the page defines (federated, local, pooled, reference, first to sixth),
never literals; a series is told apart by dash and marker too, so that a grey print stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup

from server.report.charts import svg
from server.report.content.wording import finite

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    title: str
    low: float = 0.0
    high: float = 1.0
    write: Callable[[float], str] = lambda v: f"{v:g}"

    def ticks(self, about: int = 5) -> list[float]:
        """Round values within the axis."""
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 10) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Series:
    name: str
    style: str
    points: Points
    steps: bool = False
    """Horizontal, then vertical, from point to point."""
    marked: bool = False
    band: list[tuple[float, float, float]] = field(default_factory=list)
    """(x, low, high)."""


def points(xs: object, ys: object) -> Points:
    """Pairs of two lists that are both numbers."""
    if not isinstance(xs, list | tuple) or not isinstance(ys, list | tuple):
        return []
    pairs = ((finite(x), finite(y)) for x, y in zip(xs, ys, strict=False))
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def plot(key: str, title: str, text: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Curves over two axes. `key`: unique on the page. Later series lie on top; what leaves the
    axes is clipped."""
    width, height, left, right, top, bottom = 440, 330, 52, 14, 12, 48
    across, up = (
        svg.scale(x.low, x.high, left, width - right),
        svg.scale(y.low, y.high, height - bottom, top),
    )
    out = [svg.opened(key, title, text, width, height)]
    out.append(Markup('<clipPath id="{0}-clip"><rect x="{1}" y="{2}" width="{3}" '
                      'height="{4}"/></clipPath>').format(
        key, left, top - 3, width - right - left + 3, height - bottom - top + 6))  # fmt: skip
    for v in y.ticks():
        out.append(
            svg.line("grid", left, up(v), width - right, up(v))
            + svg.words_at("tick end", left - 7, up(v) + 4, y.write(v))
        )
    for v in x.ticks():
        out.append(
            svg.line("grid", across(v), top, across(v), height - bottom)
            + svg.words_at("tick middle", across(v), height - bottom + 17, x.write(v))
        )
    out.append(
        svg.line("axis", left, height - bottom, width - right, height - bottom)
        + svg.line("axis", left, top, left, height - bottom)
    )
    out.append(svg.words_at("label middle", (left + width - right) / 2, height - 8, x.title))
    middle = (top + height - bottom) / 2
    out.append(
        Markup(
            '<text class="label middle" transform="translate(13 {0}) rotate(-90)">{1}</text>'
        ).format(svg.n(middle), y.title)
    )
    out.append(Markup('<g clip-path="url(#{0}-clip)">').format(key))
    out += [_series(s, across, up) for s in series]
    return Markup("").join([*out, Markup("</g></svg>")])


def _series(s: Series, across: Callable[[float], float], up: Callable[[float], float]) -> Markup:
    out = Markup("")
    if s.band:
        edge = [(across(a), up(h)) for a, _, h in s.band] + [
            (across(a), up(low)) for a, low, _ in reversed(s.band)
        ]
        out += Markup('<polygon class="band {0}" points="{1}"/>').format(s.style, svg.path(edge))
    drawn = _thin([(across(a), up(b)) for a, b in (_stairs(s.points) if s.steps else s.points)])
    out += Markup('<polyline class="line {0}" points="{1}"/>').format(s.style, svg.path(drawn))
    if s.marked:
        out += Markup("").join(marker(s.style, across(a), up(b)) for a, b in s.points)
    return out


def _stairs(points: Points) -> Points:
    out = points[:1]
    for (_, before), (x, y) in pairwise(points):
        out += [(x, before), (x, y)]
    return out


def _thin(points: Points) -> Points:
    """Without points that lie on the straight run between their neighbours, at a tenth of a
    pixel."""
    out: Points = []
    for a, b in points:
        p = (round(a, 1), round(b, 1))
        if out and p == out[-1]:
            continue
        if len(out) > 1 and (out[-2][0] == out[-1][0] == p[0] or out[-2][1] == out[-1][1] == p[1]):
            out[-1] = p
        else:
            out.append(p)
    return out


def marker(style: str, x: float, y: float, size: float = 4.5) -> Markup:
    """Circle federated, square local, diamond pooled."""
    if style == "local":
        return Markup('<rect class="mark {0}" x="{1}" y="{2}" width="{3}" height="{3}"/>').format(
            style, svg.n(x - size + 0.5), svg.n(y - size + 0.5), svg.n(2 * size - 1)
        )
    if style == "pooled":
        corners = [
            (x, y - size - 0.5),
            (x + size + 0.5, y),
            (x, y + size + 0.5),
            (x - size - 0.5, y),
        ]
        return Markup('<polygon class="mark {0}" points="{1}"/>').format(style, svg.path(corners))
    return Markup('<circle class="mark {0}" cx="{1}" cy="{2}" r="{3}"/>').format(
        style, svg.n(x), svg.n(y), svg.n(size)
    )


def legend(series: Iterable[tuple[str, str]], marked: bool = False, line: str = "line") -> Markup:
    """(name, style) pairs as one line of swatches; `line`: `line` of a curve, `whisker` of a forest
    plot."""
    out = Markup("")
    for name, style in series:
        mark = marker(style, 16, 7) if marked and style != "reference" else ""
        out += Markup(
            '<span class="swatch"><svg viewBox="0 0 32 14" width="32" height="14" '
            'aria-hidden="true" focusable="false">'
            '<line class="{3} {0}" x1="1" y1="7" x2="31" y2="7"/>{1}</svg>{2}</span> '
        ).format(style, mark, name, line)
    return Markup('<p class="legend">{0}</p>').format(out) if out else out


# ---- forest plots --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """One row: a value with its interval, and, for a mean over sites, the prediction interval
    around it."""

    style: str
    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    text: str = ""
    predicted: tuple[float, float] | None = None
    mean: bool = False


@dataclass(frozen=True)
class Group:
    name: str
    note: str
    rows: Sequence[Estimate]


def forest(
    key: str,
    title: str,
    text: str,
    groups: Sequence[Group],
    axis: Axis,
    reference: float | None = None,
) -> Markup:
    """Groups (sites) of estimates (arms) on one axis, with the figures at the right; `reference`: a
    vertical line."""
    row, gap, top, bottom, left, right, width = 17, 14, 8, 44, 232, 560, 720
    height = top + sum(len(g.rows) * row + gap for g in groups) + bottom
    at = svg.scale(axis.low, axis.high, left, right)
    out = [svg.opened(key, title, text, width, height)]
    for v in axis.ticks():
        out.append(
            svg.line("grid", at(v), top, at(v), height - bottom)
            + svg.words_at("tick middle", at(v), height - bottom + 17, axis.write(v))
        )
    out.append(
        svg.line("axis", left, height - bottom, right, height - bottom)
        + svg.words_at("label middle", (left + right) / 2, height - 6, axis.title)
    )
    if reference is not None:
        out.append(svg.line("line reference", at(reference), top, at(reference), height - bottom))
    y = float(top)
    for g in groups:
        out.append(
            svg.words_at("name", 0, y + 14, svg.short(g.name, 25), g.name)
            + (svg.words_at("tick", 0, y + 29, g.note) if len(g.rows) > 1 else Markup(""))
        )
        for k, r in enumerate(g.rows):
            out.append(_estimate(r, at, y + 10 + k * row, axis, left, width))
        y += len(g.rows) * row + gap
        out.append(svg.line("grid", 0, y - gap / 2 + 1, width, y - gap / 2 + 1))
    return Markup("").join([*out, Markup("</svg>")])


def _estimate(
    r: Estimate, at: Callable[[float], float], y: float, axis: Axis, left: float, width: float
) -> Markup:
    out = svg.words_at("tick end", left - 10, y + 4, r.label) + svg.words_at(
        "tick end", width, y + 4, r.text
    )
    if r.value is None:
        return out

    def inside(v: float) -> float:
        return at(min(max(v, axis.low), axis.high))

    if r.predicted is not None:
        a, b = map(inside, r.predicted)
        out += (
            svg.line(f"predicted {r.style}", a, y, b, y)
            + svg.line(f"whisker {r.style}", a, y - 4, a, y + 4)
            + svg.line(f"whisker {r.style}", b, y - 4, b, y + 4)
        )
    if r.low is not None and r.high is not None:
        a, b = inside(r.low), inside(r.high)
        if r.mean:
            return out + Markup('<polygon class="mark {0}" points="{1}"/>').format(
                r.style,
                svg.path([(a, y), (inside(r.value), y - 6), (b, y), (inside(r.value), y + 6)]),
            )
        out += svg.line(f"whisker {r.style}", a, y, b, y)
    return out + marker(r.style, inside(r.value), y)


def bar(share: float) -> Markup:
    """A horizontal bar for a table cell: `share` of the cell's width. The cell beside it holds the
    number."""
    width = svg.n(100 * min(max(share, 0.0), 1.0))
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" '
        'focusable="false">'
        '<rect width="{0}" height="10"/></svg>'
    ).format(width)
