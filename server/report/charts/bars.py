"""Bar charts of the models by one metric, with intervals: what a paper's summary figure shows, not
to be over-read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from server.report.charts import svg


@dataclass(frozen=True)
class Bar:
    name: str
    value: float | None
    low: float | None
    high: float | None
    text: str
    rival: float | None = None
    """What a model must beat (the no-information rate): a line across the bar."""


def bars(key: str, title: str, text: str, found: Sequence[Bar], axis: str) -> Markup:
    """Horizontal bars from 0 to 1, name and figure above each; a bar without an estimate is not
    drawn, and its place says so."""
    row, top, bottom, left, right, width = 42, 4, 42, 4, 436, 440
    height = top + len(found) * row + bottom
    at = svg.scale(0, 1, left, right)
    out = [svg.opened(key, title, text, width, height)]
    for v in (0, 0.25, 0.5, 0.75, 1):
        place = "tick" if v == 0 else "tick end" if v == 1 else "tick middle"
        out.append(
            svg.line("grid", at(v), top, at(v), height - bottom)
            + svg.words_at(place, at(v), height - bottom + 16, f"{v:g}")
        )
    for k, b in enumerate(found):
        y = top + k * row
        out.append(
            svg.words_at("label", left, y + 15, svg.short(b.name, 32), b.name)
            + svg.words_at("tick end", right, y + 15, b.text)
        )
        if b.value is None:
            continue
        out.append(Markup('<rect class="bar-fill" x="{0}" y="{1}" width="{2}" height="14"/>').format(
            svg.n(at(0)), svg.n(y + 21), svg.n(max(at(min(max(b.value, 0), 1)) - at(0),
            0))))  # fmt: skip
        if b.low is not None and b.high is not None:
            low, high = at(max(b.low, 0)), at(min(b.high, 1))
            out.append(svg.line("limits-line", low, y + 28, high, y + 28))
            out += [svg.line("limits-line", x, y + 24, x, y + 32) for x in (low, high)]
        if b.rival is not None:
            out.append(svg.line("rival", at(min(b.rival, 1)), y + 18, at(min(b.rival, 1)), y + 38))
    out.append(svg.line("axis", left, height - bottom, right, height - bottom))
    out.append(svg.words_at("label middle", width / 2, height - 6, axis))
    return Markup("").join([*out, Markup("</svg>")])
