"""Ranking of the federated models by AUC, and the best of each metric: never what is not estimable,
never further than intervals allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from common.metrics.definitions import Metric
from server.report.charts.bars import Bar, bars
from server.report.charts.figures import Figure
from server.report.content import wording
from server.report.content.index import Index
from server.report.content.wording import METRICS, Row, finite

Context = dict[str, Any]
DRAWN = ("auc", "f1", "accuracy")
ARM = "federated"


def ranking(index: Index, evaluation: str) -> Context:
    """Models in order of AUC among those estimated on the most patients; the others apart, with
    why."""
    found = {m: index.get(m, ARM, evaluation, "auc") for m in index.models}
    able = [m for m, r in found.items() if r is not None and not wording.standing(r)]
    most = max((_n(found[m]) for m in able), default=0)
    ranked = sorted(
        (m for m in able if _n(found[m]) == most), key=lambda m: -(_value(found[m]) or 0.0)
    )
    apart = [(m, _why(found[m], most)) for m in found if m not in ranked]
    return {
        "title": wording.evaluation(evaluation),
        "lines": [
            (k, wording.model(m), wording.estimate(found[m])) for k, m in enumerate(ranked, start=1)
        ],
        "apart": [(wording.model(m), why) for m, why in apart],
        "overlap": _overlap([(wording.model(m), found[m]) for m in ranked]),
        "figures": [
            _figure(index, evaluation, metric, ranked) for metric in METRICS if metric.name in DRAWN
        ]
        if ranked
        else [],
        "best": [_best(index, evaluation, metric, ranked) for metric in METRICS if metric.best],
    }


def _n(r: Row | None) -> float:
    return 0.0 if r is None else finite(r.get("n")) or 0.0


def _value(r: Row | None) -> float | None:
    return None if r is None or wording.standing(r) else finite(r.get("value"))


def _why(r: Row | None, most: float) -> str:
    if r is None:
        return "no result in this evaluation"
    if missing := wording.standing(r):
        return f"{missing}, not ranked"
    return (
        f"{wording.estimate(r)}, but on {wording.count(_n(r), 'patient')} instead of "
        f"{wording.whole(most)}: not ranked"
    )


def _overlap(ranked: Sequence[tuple[str, Row | None]]) -> str:
    """Which neighbours of the ranking have intervals that overlap; an overlap is no test, but an
    order within it is not shown."""
    if len(ranked) < 2:
        return ""
    first, best = ranked[0]
    same = [name for name, r in ranked[1:] if _touch(best, r)]
    if not same:
        return f"The interval of {first} overlaps with no other's."
    rest = "every other model's" if len(same) == len(ranked) - 1 else f"that of {', '.join(same)}"
    return (
        f"The interval of {first} overlaps with {rest}: this order alone does not show that it "
        "is better. See the paired differences."
    )


def _touch(a: Row | None, b: Row | None) -> bool:
    """An interval that is not known touches every other."""
    one, other = _limits(a), _limits(b)
    return one is None or other is None or (one[0] <= other[1] and other[0] <= one[1])


def _limits(r: Row | None) -> tuple[float, float] | None:
    low, high = (finite((r or {}).get(k)) for k in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _figure(index: Index, evaluation: str, metric: Metric, ranked: Sequence[str]) -> Figure:
    found, told = [], []
    for m in ranked:
        r = index.get(m, ARM, evaluation, metric.name)
        rival = (
            _value(index.get(m, ARM, evaluation, "no_information_rate"))
            if metric.name == "accuracy"
            else None
        )
        low, high = (
            (None, None)
            if r is None or wording.standing(r)
            else (finite(r.get("low")), finite(r.get("high")))
        )
        found.append(Bar(wording.model(m), _value(r), low, high, wording.estimate(r), rival))
        beside = (
            f" against a no-information rate of {wording.number(rival)}"
            if metric.name == "accuracy"
            else ""
        )
        told.append(f"{wording.model(m)} {wording.estimate(r)}{beside}")
    text = f"Models in order of their AUC: {'; '.join(told)}."
    if metric.name == "accuracy":
        text += (
            " The upright line is the no-information rate: the accuracy of naming the "
            "commonest class for everybody."
        )
    key = f"bars-{metric.name}-{evaluation}"
    return Figure(
        metric.title,
        bars(key, metric.title, text, found, f"{metric.title}, 95 % interval"),
        Markup(""),
        text,
    )


def _best(index: Index, evaluation: str, metric: Metric, ranked: Sequence[str]) -> Context:
    """The best model of one metric among those ranked, and whose interval overlaps with its."""
    distance = {"high": lambda v: -v, "low": lambda v: v, "one": lambda v: abs(v - 1), "zero": abs}[
        metric.best
    ]
    rows = {m: index.get(m, ARM, evaluation, metric.name) for m in ranked}
    able = {m: v for m, r in rows.items() if (v := _value(r)) is not None}
    if not able:
        return {"metric": metric.title, "model": wording.NOT_ESTIMABLE, "value": "", "same": ""}
    # as written: what looks the same on the page is the same
    least = min(round(distance(round(v, 3)), 3) for v in able.values())
    best = [m for m, v in able.items() if round(distance(round(v, 3)), 3) == least]
    shown = wording.estimate(rows[best[0]])
    if metric.name == "accuracy":
        shown += (
            "; no-information rate "
            f"{wording.number(_value(index.get(best[0], ARM, evaluation, 'no_information_rate')))}"
        )
    others = [wording.model(m) for m in able if m not in best and _touch(rows[best[0]], rows[m])]
    alone = "no other estimate" if len(able) == 1 else "none"
    same = (
        "all others" if len(others) == len(able) - len(best) > 1 else ", ".join(others)
    ) or alone
    return {
        "metric": metric.title,
        "model": " and ".join(wording.model(m) for m in best),
        "value": shown,
        "same": same,
    }
