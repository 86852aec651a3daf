"""What moves the models: the features of each head by their mean absolute SHAP value."""

from __future__ import annotations

from typing import Any

from server.report import words
from server.report.charts import bar
from server.report.figures import Report, rows
from server.report.words import Row, finite

Context = dict[str, Any]


def importance(report: Report) -> list[Context]:
    """Features by mean |SHAP|, one table a head, the bar relative to that head's largest."""
    described = {f.get("name"): f for f in rows(report, "features")}
    heads: dict[str, list[Row]] = {}
    for r in rows(report, "importance"):
        heads.setdefault(words.name(r.get("model")), []).append(r)
    out = []
    for head, mine in heads.items():
        largest = max((finite(r.get("mean_absolute_shap")) or 0.0 for r in mine), default=0.0)
        lines = []
        for r in mine:
            value, feature = finite(r.get("mean_absolute_shap")), described.get(r.get("feature"), {})
            lines.append(
                {
                    "title": r.get("title") or r.get("feature") or words.NOT_RECORDED,
                    "unit": "category" if feature.get("unit") == "choice" else feature.get("unit") or "",
                    "available": feature.get("available_at") or "",
                    "value": words.NOT_RECORDED if value is None else f"{value:.3f}",
                    "bar": bar(value / largest) if value is not None and largest > 0 else "",
                }
            )
        out.append({"head": words.model(head), "rows": lines})
    return out
