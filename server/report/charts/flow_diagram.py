"""Flow diagram of the patients: read, left out and why, kept, labelled, and the sites they are
at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from server.report.charts import svg

WIDTH, TRUNK, SIDE, LINE = 700, 150, 330, 17
MOST_SITES = 16
"""Sites with a box of their own; the table has them all."""
MOST_LINES = 14
"""Lines in a side box; what is more is counted."""


@dataclass(frozen=True)
class Step:
    """A box on the trunk, then what leaves it: a heading and its lines."""

    text: str
    leaves: str = ""
    reasons: Sequence[str] = ()


@dataclass(frozen=True)
class Place:
    name: str
    note: str


def flow(
    key: str, title: str, text: str, steps: Sequence[Step], heading: str, places: Sequence[Place]
) -> Markup:
    """`steps` from top to bottom, then the boxes of `places` under `heading`."""
    out, y = [], 4.0
    for step in steps:
        out.append(_box("box", 0, y, 2 * TRUNK, [step.text], strong=True))
        y += LINE + 16
        lines = _wrapped([step.leaves, *step.reasons]) if step.leaves else []
        gap = max(26.0, len(lines) * LINE + 16 + 20.0) if lines else 26.0
        out.append(_arrow(TRUNK, y, y + gap))
        if lines:
            middle = y + gap / 2
            out.append(
                svg.line("arrow", TRUNK, middle, SIDE, middle) + _head(SIDE, middle, right=True)
            )
            out.append(
                _box(
                    "box out", SIDE, middle - (len(lines) * LINE + 12) / 2, WIDTH - SIDE - 1, lines
                )
            )
        y += gap
    shown = list(places[:MOST_SITES])
    across = 4
    rows = -(-len(shown) // across)
    more = f"and {len(places) - len(shown)} more, see the table" if len(places) > len(shown) else ""
    height = 30 + rows * 44 + (LINE if more else 0)
    out.append(
        Markup('<rect class="box" x="0.5" y="{0}" width="{1}" height="{2}" rx="4"/>').format(
            svg.n(y), WIDTH - 1, svg.n(height)
        )
    )
    out.append(svg.words_at("name", 12, y + 19, heading))
    wide = (WIDTH - 12 * (across + 1)) / across
    for k, place in enumerate(shown):
        x, at = 12 + (k % across) * (wide + 12), y + 28 + (k // across) * 44
        out.append(
            Markup(
                '<rect class="box inner" x="{0}" y="{1}" width="{2}" height="38" rx="3"/>'
            ).format(svg.n(x), svg.n(at), svg.n(wide))
        )
        out.append(svg.words_at("label", x + 7, at + 16, svg.short(place.name, 20), place.name))
        out.append(svg.words_at("tick", x + 7, at + 31, place.note))
    if more:
        out.append(svg.words_at("tick", 12, y + height - 7, more))
    return Markup("").join(
        [svg.opened(key, title, text, WIDTH, y + height + 4), *out, Markup("</svg>")]
    )


def _wrapped(texts: Sequence[str]) -> list[str]:
    lines = [line for text in texts for line in textwrap.wrap(text, 48, subsequent_indent="   ")]
    return (
        lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "... and more, see below"]
    )


def _box(
    style: str, x: float, y: float, width: float, lines: Sequence[str], strong: bool = False
) -> Markup:
    height = len(lines) * LINE + 12
    out = Markup('<rect class="{0}" x="{1}" y="{2}" width="{3}" height="{4}" rx="4"/>').format(
        style, svg.n(x + 0.5), svg.n(y), svg.n(width), svg.n(height)
    )
    for k, line in enumerate(lines):
        out += svg.words_at("name" if strong else "label", x + 12, y + 18 + k * LINE, line)
    return out


def _arrow(x: float, top: float, bottom: float) -> Markup:
    return svg.line("arrow", x, top, x, bottom) + _head(x, bottom, right=False)


def _head(x: float, y: float, right: bool) -> Markup:
    corners = (
        [(x, y), (x - 8, y - 4.5), (x - 8, y + 4.5)]
        if right
        else [(x, y), (x - 4.5, y - 8), (x + 4.5, y - 8)]
    )
    return Markup('<polygon class="head" points="{0}"/>').format(svg.path(corners))
