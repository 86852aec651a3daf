"""Patients: who was read, left out and kept, over all and at each site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from server.report.charts.figures import Figure
from server.report.charts.flow_diagram import MOST_SITES, Place, Step, flow
from server.report.content import wording
from server.report.content.rows import Report, rows
from server.report.content.totals import totals
from server.report.content.wording import Row, finite, whole

Context = dict[str, Any]


def _figure(report: Report) -> Figure | None:
    """None where nobody recorded who was read."""
    told = report.get("flow")
    if not isinstance(told, Mapping) or finite(told.get("read")) is None:
        return None
    places = rows(report, "sites")
    _, labelled, events = totals(report)
    out = [f"{n} {reason}" for reason, n in _excluded(told)]
    unknown = (
        f"{whole(told.get('unknown_label'))} without a known label: never filled in, never scored"
    )
    small = report.get("small_sites") or {}
    held = [f"{whole(v)} of {wording.name(k)}" for k, v in (small.get("held_out") or {}).items()]
    steps = [
        Step(
            f"{whole(told.get('read'))} patients read",
            "Excluded:" if out else "Nobody excluded",
            out,
        ),
        Step(
            f"{whole(told.get('kept'))} kept",
            unknown,
            [f"Labelled, of small institutions held out: {', '.join(held)}"] if held else [],
        ),
        Step(f"{whole(labelled)} labelled, {whole(events)} with the event"),
    ]
    boxes = [
        Place(
            wording.name(s.get("name")),
            f"{whole(s.get('n'))} labelled, {wording.count(s.get('events'), 'event')}",
        )
        for s in places
    ]
    shown = [f"{p.name} {p.note}" for p in boxes[:MOST_SITES]] + (
        [f"and {len(boxes) - MOST_SITES} more"] if len(boxes) > MOST_SITES else []
    )
    text = (
        f"{steps[0].text}; {'; '.join(out) + ' excluded' if out else 'nobody excluded'}; "
        f"{steps[1].text}, {unknown}; {steps[2].text}, "
        f"at {wording.count(len(boxes), 'site')}: {'; '.join(shown)}."
    )
    drawn = flow(
        "patients", "Flow of patients", text, steps, wording.count(len(boxes), "site"), boxes
    )
    return Figure("Flow of patients", drawn, Markup(""), text)


def _excluded(flow: Row) -> list[tuple[str, str]]:
    return [
        (wording.name(e.get("reason")), whole(e.get("n")))
        for e in flow.get("excluded") or []
        if isinstance(e, Mapping)
    ]


def patients(report: Report) -> Context:
    told, small = report.get("flow") or {}, report.get("small_sites") or {}
    own = {s.get("name"): s for s in rows(told, "sites")}
    known = finite(told.get("kept")), finite(told.get("unknown_label"))
    groups = []
    for key, what in (
        ("pooled", f"pooled into the site '{small.get('pooled_site') or 'other'}'"),
        ("held_out", "held out, taking no part"),
    ):
        if members := small.get(key):
            names = ", ".join(f"{k} ({whole(v)})" for k, v in members.items())
            groups.append(
                f"{wording.count(len(members), 'institution')} under "
                f"{whole(small.get('minimum'))} labelled cases, {what}: {names}."
            )
    return {
        "figure": _figure(report),
        **{k: whole(told.get(k)) for k in ("read", "kept", "unknown_label")},
        "labelled": whole(known[0] - known[1])
        if known[0] is not None and known[1] is not None
        else wording.NOT_RECORDED,
        "excluded": _excluded(told),
        "notes": [wording.name(n) for n in told.get("notes") or []],
        "source": told.get("label_source")
        or (report.get("label") or {}).get("source")
        or wording.NOT_RECORDED,
        # between hospitals each site keeps its own account
        "accounts": bool(own) or report.get("setting") != "deployment",
        "small": groups,
        "sites": [
            {
                "name": wording.name(s.get("name")),
                **{k: _told(report, s.get(k)) for k in ("patients", "n", "events")},
                **{
                    k: _told(report, own.get(s.get("name"), {}).get(k))
                    for k in ("read", "kept", "unknown_label")
                },
                "excluded": _excluded(own.get(s.get("name"), {})),
                "recorded": (own.get(s.get("name")) or {}).get("excluded") is not None,
            }
            for s in rows(report, "sites")
        ],
    }


def _told(report: Report, count: object) -> str:
    """Between hospitals a count that is not there was kept by its site, or is hidden by masks."""
    return "withheld" if count is None and report.get("setting") == "deployment" else whole(count)
