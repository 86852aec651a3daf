"""Subgroups (guard E09): the lead model's AUC apart, small cells suppressed. A difference is a
finding to look into, no more."""

from __future__ import annotations

from typing import Any

from server.report.content import wording
from server.report.content.rows import Report, rows
from server.report.content.wording import Row, finite, number, whole

Context = dict[str, Any]


def subgroups(report: Report) -> list[Context]:
    """One table a feature, in the report's order."""
    found: dict[str, Context] = {}
    for r in rows(report, "subgroups"):
        one = found.setdefault(
            wording.name(r.get("by")),
            {
                "title": wording.name(r.get("title") or r.get("by")),
                "note": wording.name(r.get("note")) if r.get("note") else "",
                "rows": [],
            },
        )
        known = bool(r.get("estimable")) and finite(r.get("auc")) is not None
        one["rows"].append(
            {
                "group": wording.name(r.get("group")),
                "n": _count(r, "n"),
                "events": _count(r, "events"),
                "auc": f"{number(r.get('auc'))} ({wording.interval(r.get('low'), r.get('high'))})"
                if known
                else wording.NOT_ESTIMABLE,
                "missing": not known,
            }
        )
    return list(found.values())


def lead(report: Report) -> str:
    return next((wording.model(r.get("model")) for r in rows(report, "subgroups")), "")


def _count(r: Row, key: str) -> str:
    """A count, or why it is not told: it is small, or would tell a small one."""
    if finite(r.get(key)) is not None:
        return whole(r.get(key))
    return "suppressed" if r.get("suppressed") else wording.NOT_RECORDED
