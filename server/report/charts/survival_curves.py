"""Kaplan-Meier curves of the patients' follow-up, drawn for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from server.report.charts.charts import (
    Axis,
    Series,
    legend,
    plot,
    points,
)
from server.report.charts.figures import CLASS_STYLES, Figure
from server.report.content import wording
from server.report.content.rows import Report, rows
from server.report.content.wording import Row, finite, percent


class Survival(NamedTuple):
    figure: Figure
    times: list[str]
    at_risk: list[tuple[str, list[str]]]
    """Class name, number followed at each of `times`."""


def survival(report: Report) -> Survival | None:
    """Kaplan-Meier curves by class with bands and numbers at risk; None where the report has
    none."""
    described = report.get("survival")
    found = rows(described, "curves") if isinstance(described, Mapping) else []
    series, curves = [], []
    for r, style in zip(found, CLASS_STYLES * len(found), strict=False):
        drawn = points(r.get("times"), r.get("survival"))
        if drawn:
            triples = zip(*(r.get(k) or [] for k in ("times", "low", "high")), strict=False)
            band = [(finite(a), finite(b), finite(c)) for a, b, c in triples]
            whole = [
                (a, b, c) for a, b, c in band if a is not None and b is not None and c is not None
            ]
            series.append(
                Series(
                    wording.name(r.get("class")),
                    style,
                    [(0.0, 1.0), *drawn],
                    steps=True,
                    band=whole,
                )
            )
            curves.append(r)
    if not isinstance(described, Mapping) or not series:
        return None
    unit = str(described.get("unit") or "")
    last = max(x for s in series for x, _ in s.points)
    x = Axis(f"{unit} of follow-up".strip(), 0, last, lambda v: f"{v:g}")
    ticks = [t for t in x.ticks() if t < last]
    alive = [
        f"{s.name} {percent(next(y for a, y in reversed(s.points) if a <= ticks[-1]))}"
        for s in series
    ]
    text = (
        f"Share alive after {ticks[-1]:g} {unit}: {', '.join(alive)}. Bands: 95\u00a0% "
        "intervals (log-log)."
    )
    name = str(described.get("name") or "survival").replace("_", " ")
    figure = Figure(
        f"Kaplan-Meier curves, {name}",
        plot(
            "survival",
            f"Kaplan-Meier curves of {name} by class",
            text,
            series,
            x,
            Axis("share alive"),
        ),
        legend((s.name, s.style) for s in series),
        text,
    )
    return Survival(
        figure,
        [f"{t:g}" for t in ticks],
        [(s.name, [_at_risk(r, t) for t in ticks]) for s, r in zip(series, curves, strict=True)],
    )


def _at_risk(curve: Row, time: float) -> str:
    """Followed at the start of the interval that `time` falls into."""
    passed = sum((finite(t) or 0.0) <= time + 1e-9 for t in curve.get("times") or [])
    counts = curve.get("at_risk") or []
    return wording.whole(counts[passed]) if passed < len(counts) else "0"
