"""Cross-site evaluation of the final model, the one that leaves, on every site's patients. It has
seen most of them, and the table says so."""

from __future__ import annotations

from typing import Any

from server.report.content import wording
from server.report.content.rows import Report, rows
from server.report.content.wording import whole

Context = dict[str, Any]
SHOWN = ("auc", "brier", "sensitivity", "specificity")


def final(report: Report, lead: str) -> Context | None:
    """None where no site was asked. `lead`: the model of the headline."""
    mine = [r for r in rows(report, "final_model") if r.get("model") == lead]
    by = {(wording.name(r.get("site")), str(r.get("metric"))): r for r in mine}
    places = list(dict.fromkeys(place for place, _ in by))
    if not places:
        return None
    titles = {m.name: m.title for m in wording.METRICS}
    lines = []
    for place in places:
        one = by.get((place, "auc"), {})
        cells = [wording.estimate(by.get((place, m))) for m in SHOWN]
        lines.append(
            {
                "site": "all sites" if place == "all" else place,
                **{k: whole(one.get(k)) for k in ("n", "events")},
                "cells": cells,
            }
        )
    return {"model": wording.model(lead), "metrics": [titles[m] for m in SHOWN], "lines": lines}


def noisy(report: Report) -> list[Context]:
    """What a run with noise knows of its models: one AUC each, by noisy histograms of the scores of
    the part that was held out."""
    out = []
    for r in rows(report, "noisy_scores"):
        known = wording.finite(r.get("value")) is not None
        auc = (
            f"{wording.number(r.get('value'))} ({wording.interval(r.get('low'), r.get('high'))})"
            if known
            else wording.NOT_ESTIMABLE
        )
        out.append(
            {
                "model": wording.model(wording.name(r.get("model"))),
                "auc": auc,
                "n": whole(r.get("cases")),
                "events": whole(r.get("positives")),
            }
        )
    return out
