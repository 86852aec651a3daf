"""Front page: what was asked, of whom, and everything that must be read before a figure is."""

from __future__ import annotations

from typing import Any

from server.report.content import wording
from server.report.content.rows import Report, rows
from server.report.content.totals import totals
from server.report.content.wording import percent, whole

Context = dict[str, Any]
RARE = 0.30
"""Below this share of events, accuracy says next to nothing: the page says so (guard E01)."""


def classes_of(report: Report) -> list[str]:
    return [wording.name(c) for c in (report.get("label") or {}).get("classes") or []]


def first(report: Report) -> Context:
    classes, label = classes_of(report), report.get("label") or {}
    sites, (patients, n, events) = rows(report, "sites"), totals(report)
    event = (
        classes[1] if len(classes) == 2 else f"any class but {classes[0]}" if classes else "event"
    )
    return {
        "question": report.get("question") or "Question not recorded",
        "study": report.get("study") or wording.NOT_RECORDED,
        "task": report.get("task") or wording.NOT_RECORDED,
        "research_use_only": report.get("research_use_only") or "Research use only.",
        "label": label.get("title") or label.get("name") or wording.NOT_RECORDED,
        "classes": classes,
        "event": event,
        "boxes": _boxes(report),
        "totals": {
            "patients": whole(patients),
            "labelled": whole(n),
            "events": whole(events),
            "sites": len(sites),
        },
        "prevalence": percent(events / n, 1) if n and events is not None else wording.NOT_RECORDED,
        "rare": len(classes) == 2 and bool(n) and events is not None and events / (n or 1) < RARE,
        "synthetic": bool(report.get("synthetic")),
        "permuted": report.get("permuted_labels") is not None,
        "caution": report.get("caution") or "",
        "setting": report.get("setting") or "",
        "date": str(report.get("date") or "")[:10] or "date not recorded",
        "run": str(report.get("ledger_head") or "")[:16] or wording.NOT_RECORDED,
        "interval": report.get("interval") or "intervals: not recorded",
        "bootstraps": whole(report.get("bootstraps")),
    }


def _boxes(report: Report) -> list[tuple[str, str, list[str]]]:
    """(kind, heading, sentences): everything that must be read before a figure is."""
    out: list[tuple[str, str, list[str]]] = []
    if (seed := report.get("permuted_labels")) is not None:
        out.append(
            (
                "alarm",
                "Permuted labels",
                [
                    f"The labels were shuffled within sites (seed {seed}). Every AUC should lie "
                    "about 0.5; nothing here is a result."
                ],
            )
        )
    overrides = report.get("overrides") or {}
    over = [
        f"Guard L03 (a single feature that almost equals the label) was overridden for '{f}'."
        for f in overrides.get("L03") or []
    ]
    over += [
        f"Guard L02 (an outcome, or a code of the label) was overridden for '{f}': "
        f"{wording.name(why)}"
        for f, why in (overrides.get("L02") or {}).items()
    ]
    # an override has its own box
    alarms = [wording.name(a) for a in report.get("alarms") or []]
    if alarms := [
        a
        for a in alarms
        if not (over and a.startswith(("guard L02 was overridden", "guard L03 was overridden")))
    ]:
        out.append(("alarm", "Alarms", alarms))
    if over:
        out.append(("alarm", "Guards that were overridden", over))
    if report.get("synthetic"):
        out.append(
            (
                "caution",
                "Synthetic cohort",
                [
                    "These patients were generated. The figures say how the software works, not "
                    "how patients fare."
                ],
            )
        )
    virtual = report.get("virtual") or ""
    if (
        not virtual
        and (names := [wording.name(s.get("name")) for s in rows(report, "sites")])
        and all(n.startswith("virtual ") for n in names)
    ):
        virtual = (
            "The sites are virtual: the simulation drew them from one table. They are not "
            "hospitals."
        )
    if virtual:
        out.append(("caution", "Virtual sites", [wording.name(virtual)]))
    if report.get("caution"):
        out.append(("caution", "About this task", [wording.name(report["caution"])]))
    return out
