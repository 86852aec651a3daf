"""Subgroups (guard E09): the lead model's AUC apart, small cells suppressed. A difference is a finding to look into, no more."""

from __future__ import annotations

from typing import Any

from server.report import words
from server.report.figures import Report, rows
from server.report.words import Row, finite, number, whole

Context = dict[str, Any]


def subgroups(report: Report) -> list[Context]:
    """One table a feature, in the report's order."""
    found: dict[str, Context] = {}
    for r in rows(report, "subgroups"):
        one = found.setdefault(
            words.name(r.get("by")),
            {"title": words.name(r.get("title") or r.get("by")), "note": words.name(r.get("note")) if r.get("note") else "", "rows": []},
        )
        known = bool(r.get("estimable")) and finite(r.get("auc")) is not None
        one["rows"].append(
            {
                "group": words.name(r.get("group")),
                "n": _count(r, "n"),
                "events": _count(r, "events"),
                "auc": f"{number(r.get('auc'))} ({words.interval(r.get('low'), r.get('high'))})" if known else words.NOT_ESTIMABLE,
                "missing": not known,
            }
        )
    return list(found.values())


def lead(report: Report) -> str:
    return next((words.model(r.get("model")) for r in rows(report, "subgroups")), "")


def _count(r: Row, key: str) -> str:
    """A count, or why it is not told: it is small, or would tell a small one."""
    if finite(r.get(key)) is not None:
        return whole(r.get(key))
    return "suppressed" if r.get("suppressed") else words.NOT_RECORDED
