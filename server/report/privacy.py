"""The report's privacy page: what each epsilon costs, and what the sites spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report import words
from server.report.figures import Report, rows
from server.report.words import finite

Context = dict[str, Any]


def privacy(report: Report) -> Context | None:
    """One table a run of `--epsilon`: a line a model, a column an epsilon; None where it was not asked for."""
    points = rows(report, "utility")
    if not points:
        return None
    asked = list(dict.fromkeys(finite(p.get("epsilon")) for p in points))
    names = list(dict.fromkeys(words.name(p.get("model")) for p in points))
    cells = {(words.name(p.get("model")), finite(p.get("epsilon"))): _cell(p) for p in points}
    spent: dict[tuple[str, float | None], list[float]] = {}
    for r in rows(report, "privacy"):
        if (value := finite(r.get("epsilon"))) is not None:
            spent.setdefault((words.name(r.get("learner")), finite(r.get("allowed"))), []).append(value)
    return {
        "columns": ["no noise" if e is None else f"epsilon {e:g}" for e in asked],
        "lines": [{"model": words.model(n), "cells": [cells.get((n, e), _cell({})) for e in asked]} for n in names],
        "delta": "not recorded" if (delta := finite(points[0].get("delta"))) is None else f"{delta:g}",
        "spent": [
            {"model": words.model(n), "allowed": f"{e:g}", "most": f"{max(v):.2f}", "sites": len(v)}
            for (n, e), v in spent.items()
            if e is not None
        ],
    }


def _cell(point: Mapping[str, Any]) -> Context:
    value, low, high = (finite(point.get(k)) for k in ("value", "low", "high"))
    told = point.get("told")
    seen = finite(told.get("value")) if isinstance(told, Mapping) else None
    if value is None or low is None or high is None:
        return {"auc": "not estimable", "limits": "", "told": ""}
    return {"auc": f"{value:.3f}", "limits": f"{low:.3f} to {high:.3f}", "told": "" if seen is None else f"told {seen:.2f}"}
