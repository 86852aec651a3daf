"""Figures of the report (ROC, precision-recall, calibration and decision curves, forest plots of
the sites' AUCs, Kaplan-Meier curves), each with a caption that says in words what the drawing
shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from server.report.charts.charts import (
    Axis,
    Estimate,
    Group,
    Points,
    Series,
    forest,
    legend,
    plot,
    points,
)
from server.report.content import wording
from server.report.content.rows import Report, rows
from server.report.content.wording import ARMS, Row, finite, interval, number, percent

CLASS_STYLES = ("first", "second", "third", "fourth", "fifth", "sixth")


class Figure(NamedTuple):
    title: str
    svg: Markup
    legend: Markup
    text: str


# ---- discrimination, calibration, net benefit ----------------------------------------------------


def curves(report: Report, evaluation: str, model: str = "clinical") -> list[Figure]:
    """ROC, precision-recall, calibration and decision curves of the arms that have them; empty with
    more than two classes."""
    mine = {
        r.get("arm"): r
        for r in rows(report, "curves")
        if r.get("model") == model and r.get("evaluation") == evaluation
    }
    found = {arm: mine[arm] for arm in ARMS if arm in mine}
    tested = {
        r.get("arm"): r
        for r in rows(report, "results")
        if (r.get("model"), r.get("evaluation"), r.get("site"), r.get("metric"))
        == (model, evaluation, "all", "auc")
    }

    def name(arm: str) -> str:
        return (
            f"{ARMS[arm]} ({wording.count(tested[arm].get('n'), 'patient')})"
            if arm in tested
            else ARMS[arm]
        )

    names = {arm: name(arm) for arm in found}
    one = tested.get("federated") or next(iter(tested.values()), {})
    n, events = finite(one.get("n")), finite(one.get("events"))
    out = [
        _roc(found, names),
        _precision_recall(found, names, events / n if n and events is not None else None),
    ]
    out += [_calibration(found, names), _decision(found, names)]
    return [f for f in out if f is not None]


def _lines(found: Mapping[str, Row], key: str) -> dict[str, Points]:
    pairs = {arm: r.get(key) for arm, r in found.items()}
    out = {
        arm: points(*p) for arm, p in pairs.items() if isinstance(p, list | tuple) and len(p) == 2
    }
    return {arm: p for arm, p in out.items() if p}


def _drawn(
    lines: Mapping[str, Points], names: Mapping[str, str], marked: bool = False
) -> list[Series]:
    """The federated arm last, so that it lies on top of a pooled one that it equals."""
    return [
        Series(names[arm], arm, lines[arm], marked=marked) for arm in reversed(ARMS) if arm in lines
    ]


def _swatches(series: Sequence[Series], *more: tuple[str, str], marked: bool = False) -> Markup:
    return legend([*((s.name, s.style) for s in reversed(series)), *more], marked)


def _each(values: Mapping[str, str]) -> str:
    return ", ".join(f"{ARMS[arm].lower()} {text}" for arm, text in values.items())


def _roc(found: Mapping[str, Row], names: Mapping[str, str]) -> Figure | None:
    lines = _lines(found, "roc")
    if not lines:
        return None
    at = {arm: percent(max((y for x, y in p if x <= 0.1), default=0.0)) for arm, p in lines.items()}
    text = (
        f"At a specificity of at least 90\u00a0%, sensitivity is: {_each(at)}. The diagonal is "
        "chance."
    )
    series = _drawn(lines, names)
    svg = plot(
        "roc",
        "ROC curve",
        text,
        [Series("chance", "reference", [(0, 0), (1, 1)]), *series],
        Axis("1 - specificity"),
        Axis("sensitivity"),
    )
    return Figure(
        "Receiver operating characteristic", svg, _swatches(series, ("chance", "reference")), text
    )


def _precision_recall(
    found: Mapping[str, Row], names: Mapping[str, str], prevalence: float | None
) -> Figure | None:
    lines = _lines(found, "precision_recall")
    if not lines:
        return None
    at = {arm: percent(max((y for x, y in p if x >= 0.8), default=0.0)) for arm, p in lines.items()}
    text = (
        "When at least 80\u00a0% of the events are found, this share of those called positive "
        f"is right: {_each(at)}."
    )
    series, base, more = _drawn(lines, names), [], []
    if prevalence is not None:
        text += (
            " The horizontal line is the share of patients with the event, "
            f"{percent(prevalence, 1)}: what chance gives."
        )
        base, more = (
            [Series("chance", "reference", [(0, prevalence), (1, prevalence)])],
            [("chance", "reference")],
        )
    svg = plot(
        "pr",
        "Precision-recall curve",
        text,
        [*base, *series],
        Axis("recall (sensitivity)"),
        Axis("precision"),
    )
    return Figure("Precision and recall", svg, _swatches(series, *more), text)


def _calibration(found: Mapping[str, Row], names: Mapping[str, str]) -> Figure | None:
    lines: dict[str, Points] = {}
    for arm, r in found.items():
        bins = [b for b in r.get("calibration") or [] if isinstance(b, Mapping)]
        mine = points([b.get("predicted") for b in bins], [b.get("observed") for b in bins])
        if mine:
            lines[arm] = mine
    if not lines:
        return None
    top = min(
        1.0, math.ceil(10 * max(v for p in lines.values() for pair in p for v in pair) + 0.2) / 10
    )
    ends = "; ".join(
        f"{ARMS[arm].lower()} {_group(p[0])} and {_group(p[-1])}" for arm, p in lines.items()
    )
    text = (
        "Patients in groups of equal size by predicted risk; lowest and highest group: "
        f"{ends}. On the diagonal, predicted equals observed."
    )
    series = _drawn(lines, names, marked=True)
    diagonal = Series("perfect", "reference", [(0, 0), (top, top)])
    svg = plot(
        "calibration",
        "Calibration",
        text,
        [diagonal, *series],
        Axis("predicted risk", 0, top),
        Axis("observed share", 0, top),
    )
    return Figure(
        "Calibration",
        svg,
        _swatches(series, ("predicted = observed", "reference"), marked=True),
        text,
    )


def _group(pair: tuple[float, float]) -> str:
    return f"{percent(pair[0])} predicted, {percent(pair[1])} observed"


def _decision(found: Mapping[str, Row], names: Mapping[str, str]) -> Figure | None:
    parts: dict[str, Row] = {
        arm: d for arm, r in found.items() if isinstance(d := r.get("decision"), Mapping)
    }
    lines = {arm: points(d.get("thresholds"), d.get("model")) for arm, d in parts.items()}
    lines = {arm: p for arm, p in lines.items() if p}
    if not lines:
        return None
    # each arm is tested on its own patients; the references are those of the first arm, the
    # federated one where there is one
    first = parts[next(iter(lines))]
    everybody, nobody = (
        points(first.get("thresholds"), first.get(k)) for k in ("treat_all", "treat_none")
    )
    highest = max((v for p in [*lines.values(), everybody] for _, v in p), default=0.1)
    useful = [t for p in lines.values() for t, v in p if v > 0.1 * highest]
    right = min(1.0, max(0.3, math.ceil(10 * max(useful, default=0.0)) / 10))
    top = max(0.02, highest * 1.08)
    said = {arm: _above(p, parts[arm]) for arm, p in lines.items()}
    text = f"Net benefit above both acting on everybody and acting on nobody: {_each(said)}."
    series = _drawn(lines, names)
    references = [
        Series("act on everybody", "reference", everybody),
        Series("act on nobody", "nobody", nobody),
    ]
    x, y = (
        Axis("risk threshold for acting", 0, right, lambda v: f"{100 * v:.0f} %"),
        Axis("net benefit per patient", -top / 4, top),
    )
    svg = plot("decision", "Decision curve", text, [*references, *series], x, y)
    return Figure(
        "Decision curve",
        svg,
        _swatches(series, ("act on everybody", "reference"), ("act on nobody", "nobody")),
        text,
    )


def _above(model: Points, decision: Row) -> str:
    everybody = dict(points(decision.get("thresholds"), decision.get("treat_all")))
    better = [v > max(0.0, everybody.get(t, 0.0)) + 1e-9 for t, v in model]
    at = [t for (t, _), b in zip(model, better, strict=True) if b]
    if not at:
        return "at no threshold"
    inside = [b for (t, _), b in zip(model, better, strict=True) if at[0] <= t <= at[-1]]
    many = "all" if all(inside) else f"{sum(inside)} of the {len(inside)}"
    return f"at {many} thresholds drawn from {percent(at[0])} to {percent(at[-1])}"


# ---- sites ---------------------------------------------------------------------------------------


MOST_SITES = 14
"""Sites in one drawing, so that it fits a page of paper."""


def sites(report: Report, evaluation: str, model: str = "clinical") -> list[Figure]:
    """Forest plots of the AUC of each site that is estimable in some arm, and of the random-effects
    means; none without any.

    Many sites are drawn in several plots with one axis.
    """
    mine = [
        r
        for r in rows(report, "results")
        if (r.get("model"), r.get("evaluation"), r.get("metric")) == (model, evaluation, "auc")
    ]
    by = {
        (r["site"], r.get("arm")): r
        for r in mine
        if isinstance(r.get("site"), str) and r["site"] != "all"
    }
    groups = []
    for site in dict.fromkeys(s for s, _ in by):
        arms = {arm: by[site, arm] for arm in ARMS if (site, arm) in by}
        if all(wording.standing(r) for r in arms.values()):
            continue
        one = next(iter(arms.values()))
        note = f"n = {wording.whole(one.get('n'))}, {wording.count(one.get('events'), 'event')}"
        groups.append(Group(site, note, [_estimate(arm, r) for arm, r in arms.items()]))
    if not groups:
        return []
    shown, means = len(groups), _means(report, evaluation, model)
    if means.rows:
        groups.append(means)
    limits = [
        v
        for g in groups
        for r in g.rows
        for v in (r.value, r.low, *(r.predicted or ()))
        if v is not None
    ]
    low = max(0.0, math.floor(10 * min([0.5, *limits]) + 1e-9) / 10)
    text = (
        f"{wording.count(shown, 'estimable site')}; the figures stand at the right and in the "
        "table. Vertical line at 0.5: chance."
    )
    drawn_arms = [a for a in ARMS if any(arm == a for _, arm in by)]
    swatches = legend([(ARMS[a], a) for a in drawn_arms], marked=True, line="whisker")
    pieces = [groups[k : k + MOST_SITES] for k in range(0, len(groups), MOST_SITES)]
    out = []
    for k, piece in enumerate(pieces, start=1):
        part = f", part {k} of {len(pieces)}" if len(pieces) > 1 else ""
        title = f"AUC by site, {wording.EVALUATIONS.get(evaluation, evaluation).lower()}{part}"
        drawn = forest(
            f"forest-{evaluation}-{k}",
            title,
            text,
            piece,
            Axis("AUC, 95 % interval", low, 1.0),
            0.5,
        )
        out.append(Figure(f"AUC by site{part}", drawn, swatches, text))
    return out


def _estimate(arm: str, r: Row) -> Estimate:
    if missing := wording.standing(r):
        return Estimate(arm, ARMS[arm].lower(), None, text=missing)
    return Estimate(
        arm,
        ARMS[arm].lower(),
        finite(r.get("value")),
        finite(r.get("low")),
        finite(r.get("high")),
        wording.estimate(r),
    )


def _means(report: Report, evaluation: str, model: str) -> Group:
    out = []
    found = {
        r.get("arm"): r.get("random_effects")
        for r in rows(report, "between_sites")
        if (r.get("model"), r.get("evaluation")) == (model, evaluation)
    }
    for arm in ARMS:
        s = found.get(arm)
        if not isinstance(s, Mapping) or finite(s.get("mean")) is None:
            continue
        low, high = finite(s.get("predicted_low")), finite(s.get("predicted_high"))
        text = f"{number(s.get('mean'))} ({interval(s.get('low'), s.get('high'))})"
        predicted = (low, high) if low is not None and high is not None else None
        out.append(
            Estimate(
                arm,
                ARMS[arm].lower(),
                finite(s.get("mean")),
                finite(s.get("low")),
                finite(s.get("high")),
                text,
                predicted,
                mean=True,
            )
        )
    return Group("Mean over sites", "dashed: prediction interval", out)


# ---- survival ------------------------------------------------------------------------------------
