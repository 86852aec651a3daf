"""Privacy page of the report: what each epsilon costs, what the sites spent, and what attacks
find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report.content import wording
from server.report.content.rows import Report, rows
from server.report.content.wording import finite

Context = dict[str, Any]
NOT_ESTIMABLE = "not estimable"
ACCOUNTANTS = {
    "pld": "Gaussian sums by their exact law (Balle & Wang 2018), DP-SGD by the distribution of the "
    "privacy loss on a grid that errs upwards, for a patient removed and for one added, whichever "
    "is more; never above what R\u00e9nyi divergences allow (Mironov 2017).",
    "rdp": "R\u00e9nyi divergences (Mironov 2017).",
}


def privacy(report: Report) -> Context:
    """What protected the patients in plain words; then tables of `--epsilon` (a line a model, a
    column an epsilon) and of `--audit`."""
    points, attacks, found, fitted = (
        rows(report, key) for key in ("utility", "audit", "canary", "one_run")
    )
    asked = list(dict.fromkeys(finite(p.get("epsilon")) for p in points))
    names = list(dict.fromkeys(wording.name(p.get("model")) for p in points))
    cells = {(wording.name(p.get("model")), finite(p.get("epsilon"))): _cell(p) for p in points}
    spent: dict[tuple[str, float | None], list[float]] = {}
    for r in rows(report, "privacy"):
        if (value := finite(r.get("epsilon"))) is not None:
            spent.setdefault((wording.name(r.get("learner")), finite(r.get("allowed"))), []).append(
                value
            )
    most = {key: max(v) for key, v in spent.items()}
    lower = _by_asked(found, [e for e in asked if e is not None])
    return {
        "plain": _plain(report, bool(points), bool(attacks or found or fitted)),
        "columns": ["no noise" if e is None else f"epsilon {e:g}" for e in asked],
        "lines": [
            {"model": wording.model(n), "cells": [cells.get((n, e), _cell({})) for e in asked]}
            for n in names
        ],
        "delta": "not recorded"
        if not points or (delta := finite(points[0].get("delta"))) is None
        else f"{delta:g}",
        "guarantee": _guarantee(report, noised=bool(asked) and asked != [None]),
        "spent": [
            {
                "model": wording.model(n),
                "allowed": f"{e:g}",
                "most": f"{max(v):.2f}",
                "sites": len(v),
            }
            for (n, e), v in spent.items()
            if e is not None
        ],
        "attacks": [_attack(r, cells, most, lower) for r in attacks],
        "canaries": [_canary(r) for r in found],
        "fits": [_fit(r) for r in fitted],
    }


def _plain(report: Report, priced: bool, attacked: bool) -> list[str]:
    """What was protected and what was not, whatever was asked for."""
    c = report.get("configuration")
    settings = c if isinstance(c, Mapping) else {}
    out = [
        "Protected: no row, picture or id of a patient left a site. What left are sums over "
        "patients; a site refuses a sum over too few."
    ]
    if report.get("setting") == "simulation":
        out[0] += (
            " In this simulation the sites are folders of one machine; between hospitals the same "
            "code keeps to the same rules."
        )
    secure, noise = settings.get("secure"), finite(settings.get("noise"))
    if secure is None:
        out.append("Whether the sums were masked is not recorded.")
    elif secure:
        out.append(
            "Protected: the sites masked their sums, so that the coordinator could read those "
            "over all sites alone."
        )
    else:
        out.append(
            "Not protected: the sums were not masked. The coordinator could read each site's own."
        )
    if noise is None:
        out.append("Whether noise was added to the sums is not recorded.")
    elif noise > 0:
        out.append("Protected: the sites added noise to what left them, and counted its epsilon.")
        if settings.get("shared_noise") is True:
            out.append(
                "The sites shared one noise under the masks: its epsilon holds as long as no more of "
                "them are in league with the coordinator than each site allows for in its policy."
            )
    else:
        out.append(
            "Not protected: no noise was added to the sums of the models above. Cells of few "
            "patients and many rounds can tell "
            "near-individual values to a coordinator who looks for them, and a final model can "
            "tell of those it was trained on."
        )
    if priced:
        out.append(
            "Apart from these models, others were trained with noise, to see what it costs: below."
        )
    if not attacked:
        out.append(
            "No attack on membership was tried on these models; nothing is known of what one "
            "would find."
        )
    return out


def _guarantee(report: Report, *, noised: bool) -> list[tuple[str, str]]:
    """What an epsilon is of: term and meaning; nothing where no sum of this report had noise."""
    c = report.get("configuration")
    if not noised and not (finite(c.get("noise") if isinstance(c, Mapping) else None) or 0) > 0:
        return []
    named = {wording.name(r.get("accountant")) for r in rows(report, "privacy")}
    counted = [ACCOUNTANTS[name] for name in sorted(named & set(ACCOUNTANTS))]
    virtual = report.get("setting") == "simulation"
    return [
        ("Unit", "A patient, with all rows, images and crops."),
        ("Adjacency", "Cohorts that differ by one patient, added or removed."),
        (
            "Mechanism",
            "Each patient\u2019s values are cut to a public length, rounded to whole steps of a "
            "public grid and added as whole numbers; to each sum comes a normal value of public "
            "spread, rounded to whole steps and drawn exactly. Networks by DP-SGD: the same for "
            "each patient\u2019s gradient, in steps for which patients are drawn by chance."
            + (
                " In this simulation noise comes from the seed, to be repeated: it hides nobody."
                if virtual
                else " Noise comes from the operating system of the site."
            ),
        ),
        (
            "Released",
            "The noisy sums of every exchange of a fit, and a noisy number of patients beside "
            "each; no tally. Refusals, times and greetings are by noisy counts or public bounds.",
        ),
        ("Accountant", " ".join(counted) or wording.NOT_RECORDED),
    ]


def _cell(point: Mapping[str, Any]) -> Context:
    value, low, high = (finite(point.get(k)) for k in ("value", "low", "high"))
    told = point.get("told")
    seen = finite(told.get("value")) if isinstance(told, Mapping) else None
    if value is None or low is None or high is None:
        return {"auc": NOT_ESTIMABLE, "limits": "", "told": ""}
    return {
        "auc": f"{value:.3f}",
        "limits": f"{low:.3f} to {high:.3f}",
        "told": "" if seen is None else f"told {seen:.2f}",
    }


def _attack(
    row: Mapping[str, Any],
    cells: Mapping[tuple[str, float | None], Context],
    most: Mapping[tuple[str, float | None], float],
    lower: Mapping[tuple[str, float], str],
) -> Context:
    """One attack beside what the same models cost and are worth."""
    name, asked = wording.name(row.get("learner")), finite(row.get("epsilon"))
    spent = most.get((name, asked), asked)
    return {
        "model": wording.model(name),
        "epsilon": "no noise" if spent is None or asked is None else f"{spent:.2f}",
        "attack": wording.name(row.get("attack")),
        "utility": cells.get((name, asked), {}).get(
            "auc", "see results" if asked is None else NOT_ESTIMABLE
        ),
        "auc": _limits(*(finite(row.get(k)) for k in ("auc", "low", "high"))),
        "found": _limits(*(finite(row.get(k)) for k in ("tpr", "tpr_low", "tpr_high"))),
        "lower": "" if asked is None else lower.get((name, asked), ""),
        "nonmembers": wording.name(row.get("nonmembers")),
    }


def _limits(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return NOT_ESTIMABLE
    return (
        f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
    )


def _by_asked(found: list[Mapping[str, Any]], asked: list[float]) -> dict[tuple[str, float], str]:
    """(learner, epsilon that was asked for) -> the bound: what was accounted lies below it, but not
    below the next."""
    out = {}
    for r in found:
        accounted, lower = finite(r.get("epsilon")), finite(r.get("lower"))
        above = [e for e in asked if accounted is not None and e >= accounted]
        if above and lower is not None:
            out[wording.name(r.get("learner")), min(above)] = f"{lower:.2f}"
    return out


def _canary(row: Mapping[str, Any]) -> Context:
    lower, accounted, sure = (finite(row.get(k)) for k in ("lower", "epsilon", "confidence"))
    return {
        "model": wording.model(row.get("learner")),
        "lower": wording.NOT_RECORDED if lower is None else f"{lower:.2f}",
        "epsilon": wording.NOT_RECORDED if accounted is None else f"{accounted:.2f}",
        "releases": wording.name(row.get("releases")),
        "confidence": wording.NOT_RECORDED if sure is None else f"{100 * sure:g} %",
    }


def _fit(row: Mapping[str, Any]) -> Context:
    """A whole fit that was audited: besides, how many guessed what."""
    counts = ("canaries", "guesses", "right", "unit")
    delta = finite(row.get("delta"))
    return {
        **_canary(row),
        **{key: wording.name(row.get(key)) for key in counts},
        "delta": wording.NOT_RECORDED if delta is None else f"{delta:g}",
    }
