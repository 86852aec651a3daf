"""Feature importance, what moves the models: the features of each head by their mean absolute SHAP
value."""

from __future__ import annotations

from typing import Any

from server.report.charts.charts import bar
from server.report.content import wording
from server.report.content.rows import Report, rows
from server.report.content.wording import Row, finite

Context = dict[str, Any]


def importance(report: Report) -> list[Context]:
    """Features by mean |SHAP|, one table a head, the bar relative to that head's largest."""
    described = {f.get("name"): f for f in rows(report, "features")}
    heads: dict[str, list[Row]] = {}
    for r in rows(report, "importance"):
        heads.setdefault(wording.name(r.get("model")), []).append(r)
    out = []
    for head, mine in heads.items():
        largest = max((finite(r.get("mean_absolute_shap")) or 0.0 for r in mine), default=0.0)
        lines = []
        for r in mine:
            value, feature = (
                finite(r.get("mean_absolute_shap")),
                described.get(r.get("feature"), {}),
            )
            lines.append(
                {
                    "title": r.get("title") or r.get("feature") or wording.NOT_RECORDED,
                    "unit": "category"
                    if feature.get("unit") == "choice"
                    else feature.get("unit") or "",
                    "available": feature.get("available_at") or "",
                    "value": wording.NOT_RECORDED if value is None else f"{value:.3f}",
                    "bar": bar(value / largest) if value is not None and largest > 0 else "",
                }
            )
        out.append({"head": wording.model(head), "rows": lines})
    return out
