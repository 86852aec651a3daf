"""Comparison tables of the page: headline, every model by arm, paired differences, sites. What is
not estimable is never ranked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.metrics.definitions import Metric
from server.report.content import wording
from server.report.content.index import Index
from server.report.content.rows import Report, rows
from server.report.content.wording import ARMS, EVALUATIONS, METRICS, Row, finite, number, whole

Context = dict[str, Any]
_EXPLAINED = {
    "within_site": "Each patient is scored once, by models trained without this patient; other "
    "patients of the same hospital took part.",
    "leave_one_site_out": "Each hospital is scored by models that never saw one of its patients: "
    "what a new hospital may expect.",
}


def headline(report: Report, index: Index, evaluation: str) -> Context:
    """The leading model's AUC in its three arms, each with whom it was tested on; the differences
    in words."""
    arms, aucs = [], {}
    lead = index.lead(evaluation)
    for arm, title in ARMS.items():
        r = index.get(lead, arm, evaluation, "auc")
        tested = [
            s
            for s in index.sites
            if (one := index.get(lead, arm, evaluation, "auc", s)) is not None and one.get("n")
        ]
        aucs[arm] = r
        arms.append(
            {
                "arm": title,
                "style": arm,
                "auc": _told(report, arm, evaluation, r),
                "tested": "" if r is None else _tested(r, len(tested)),
            }
        )
    main = aucs["federated"]
    missing = wording.standing(main)
    value = None if missing or main is None else finite(main.get("value"))
    differences = []
    for d in rows(report, "differences"):
        (a_model, a), (b_model, b) = wording.arm_of(d.get("a")), wording.arm_of(d.get("b"))
        if d.get("evaluation") == evaluation and a_model == b_model == lead:
            differences.append(
                (f"{a.capitalize()} minus {b}", wording.difference({**d, "a": a, "b": b}))
            )
    return {
        "title": EVALUATIONS[evaluation],
        "model": wording.model(lead),
        "explained": _EXPLAINED[evaluation],
        "value": missing or number(value),
        "interval": ""
        if missing or main is None
        else wording.interval(main.get("low"), main.get("high")),
        "pairs": None if value is None else wording.percent(value),
        "arms": arms,
        "other_patients": len(
            {(r.get("n"), r.get("events")) for r in aucs.values() if r is not None and r.get("n")}
        )
        > 1,
        "averaged": evaluation == "leave_one_site_out",
        "differences": differences,
    }


def _told(report: Report, arm: str, evaluation: str, r: Row | None) -> str:
    return (
        wording.ONLY_SIMULATED
        if r is None and wording.untold(report, arm, evaluation)
        else wording.estimate(r)
    )


def _tested(r: Row, sites: int) -> str:
    of = f", {wording.count(sites, 'site')}" if sites else ""
    return f"{wording.count(r.get('n'), 'patient')}, {wording.count(r.get('events'), 'event')}{of}"


def table(index: Index, evaluation: str) -> Context:
    """Every model and arm by every metric; the best value of a metric marked among those estimated
    on the most patients."""
    keys = [
        (m, a)
        for m in index.models
        for a in ARMS
        if any((m, a, evaluation) == k[:3] for k in index.rows)
    ]
    columns = []
    for metric in METRICS:
        cells = [index.get(m, a, evaluation, metric.name) for m, a in keys]
        columns.append(
            [_cell(r, best) for r, best in zip(cells, _best(metric, cells), strict=True)]
        )
    out = []
    for i, (m, a) in enumerate(keys):
        one = index.get(m, a, evaluation, "auc") or {}
        out.append(
            {
                "model": wording.model(m),
                "arm": ARMS[a],
                "style": a,
                "n": whole(one.get("n")),
                "events": whole(one.get("events")),
                "cells": [c[i] for c in columns],
            }
        )
    return {"title": EVALUATIONS[evaluation], "metrics": METRICS, "rows": out}


def _cell(r: Row | None, best: bool) -> Context:
    if missing := wording.standing(r):
        return {"missing": missing, "value": "", "interval": "", "best": False}
    assert r is not None
    low, high = finite(r.get("low")), finite(r.get("high"))
    same = r.get("metric") == "no_information_rate"
    return {
        "missing": "",
        "value": number(r.get("value")),
        "interval": "" if same else wording.interval(low, high),
        "best": best,
    }


def _best(metric: Metric, cells: Sequence[Row | None]) -> list[bool]:
    """Which cells hold the best value, as written. None are marked where there is nothing to choose
    between."""
    values = [None if r is None or wording.standing(r) else finite(r.get("value")) for r in cells]
    most = max(
        (
            r.get("n") or 0
            for r, v in zip(cells, values, strict=True)
            if r is not None and v is not None
        ),
        default=0,
    )
    distance = {
        "high": lambda v: -v,
        "low": lambda v: v,
        "one": lambda v: abs(v - 1),
        "zero": abs,
    }.get(metric.best)
    if distance is None:
        return [False] * len(cells)
    loss = [
        round(distance(round(v, 3)), 3)
        if r is not None and v is not None and r.get("n") == most
        else None
        for r, v in zip(cells, values, strict=True)
    ]
    ranked = [x for x in loss if x is not None]
    if len(set(ranked)) < 2:
        return [False] * len(cells)
    return [x == min(ranked) for x in loss]


def differences(report: Report, evaluation: str) -> Context:
    """All paired differences in AUC of an evaluation."""
    out = []
    for r in rows(report, "differences"):
        if r.get("evaluation") == evaluation:
            names = [
                f"{wording.model(m)}, {a}"
                for m, a in (wording.arm_of(r.get("a")), wording.arm_of(r.get("b")))
            ]
            out.append((*names, wording.difference({**r, "a": names[0], "b": names[1]})))
    return {"title": EVALUATIONS[evaluation], "rows": out}


def sites(report: Report, index: Index, evaluation: str) -> Context:
    """The leading model at each site in its three arms, in the report's order, and what is said
    across sites."""
    out = []
    lead = index.lead(evaluation)
    for site in index.sites:
        found = {arm: index.get(lead, arm, evaluation, "auc", site) for arm in ARMS}
        # a site without a local model still has patients: those of the arm that scored most
        tested = max(
            (r for r in found.values() if r is not None),
            key=lambda r: r.get("n") or 0,
            default=None,
        )
        if tested is not None:
            out.append(
                {
                    "site": site,
                    "n": whole(tested.get("n")),
                    "events": whole(tested.get("events")),
                    "cells": [
                        wording.ONLY_SIMULATED
                        if r is None and wording.untold(report, a, evaluation)
                        else wording.estimate(r)
                        for a, r in found.items()
                    ],
                }
            )
    said = []
    for r in rows(report, "between_sites"):
        if (r.get("model"), r.get("evaluation")) != (lead, evaluation):
            continue
        arm = wording.arm(r.get("arm"))
        said.append(f"{arm}: {_across(r)}{_worst(r)}")
    return {
        "title": EVALUATIONS[evaluation],
        "model": wording.model(lead),
        "rows": out,
        "said": said,
    }


def _across(r: Row) -> str:
    s = r.get("random_effects")
    if not s or finite(s.get("mean")) is None:
        few = (finite(r.get("estimable_sites")) or 0) < 3
        return (
            "fewer than 3 "
            f"{'estimable sites' if few else 'sites with an AUC below 1 and a standard error'}: "
            "no summary across sites."
        )
    return (
        f"random-effects mean {number(s.get('mean'))} "
        f"({wording.interval(s.get('low'), s.get('high'))}) "
        f"over {wording.count(s.get('sites'), 'site')}; "
        "prediction interval for a new, similar site "
        f"{wording.interval(s.get('predicted_low'), s.get('predicted_high'))}."
    )


def _worst(r: Row) -> str:
    if r.get("worst_site") is None or finite(r.get("worst_auc")) is None:
        return " No site is estimable."
    return (
        f" Lowest of {wording.count(r.get('estimable_sites'), 'estimable site')}: "
        f"{r['worst_site']}, {number(r['worst_auc'])}."
    )


def confusion(report: Report, classes: Sequence[str], evaluation: str, model: str) -> list[Context]:
    """Counts by true and called class of a model, one table an arm."""
    out = []
    for arm, title in ARMS.items():
        for r in rows(report, "curves"):
            counts = r.get("confusion")
            if (
                (r.get("model"), r.get("arm"), r.get("evaluation")) == (model, arm, evaluation)
                and counts
                and len(counts) == len(classes)
            ):
                out.append(
                    {
                        "arm": title,
                        "rows": [
                            (c, [whole(v) for v in row])
                            for c, row in zip(classes, counts, strict=True)
                            if row
                        ],
                    }
                )
    return out
