"""Methods, how it was evaluated: splits, tallies, guards, who took part, what was not run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report.content import wording
from server.report.content.index import Index
from server.report.content.rows import Report, rows
from server.report.content.wording import Row, finite, percent, whole
from server.report.page.front import classes_of
from server.rounds.leak_guard import LIMIT

Context = dict[str, Any]


def methods(report: Report, index: Index) -> Context:
    trainable = [wording.name(s) for s in report.get("trainable_sites") or []]
    configuration = report.get("configuration") or {}
    guard = (report.get("guards") or {}).get("L03") or {}
    return {
        "parts": whole(configuration.get("parts")),
        "groups": [[wording.name(s) for s in g] for g in report.get("groups") or [] if g],
        "trainable": trainable,
        "chosen": [_chosen(r) for r in rows(report, "chosen") if r.get("predictions")],
        "tallies": [
            _tally(r, index, len(classes_of(report))) for r in rows(report, "federated_tallies")
        ],
        "probe": _probe(report.get("site_probe")),
        "unknown": [_unknown(r) for r in rows(report, "unknown_labels")],
        "exchanges": whole(report.get("exchanges")),
        "participation": [_participation(r) for r in rows(report, "participation")],
        "single": _single(guard.get("auc") or {}, report),
        "limit": f"{LIMIT:g}",
        "not_run": [wording.name(n) for n in report.get("not_run") or []],
    }


def _chosen(r: Row) -> str:
    where = f"{wording.arm(r.get('arm'))}, {wording.evaluation(r.get('evaluation')).lower()}"
    shares = [
        f"{wording.model(head)} for {wording.count(n, 'prediction')}"
        for head, n in r["predictions"].items()
    ]
    return f"{where}: {', '.join(shares)}"


def _tally(r: Row, index: Index, classes: int) -> Context:
    """The pooled-scores AUC from added histograms beside the exact one; two classes only, for more
    it is the second against the rest."""
    exact = index.get(str(r.get("model")), "federated", str(r.get("evaluation")), "auc_pooled")
    binned, bound = finite(r.get("auc_pooled")), finite(r.get("bound"))
    true = finite(exact.get("value")) if exact is not None and classes == 2 else None
    verdict = wording.NOT_ESTIMABLE
    if true is not None and binned is not None and bound is not None:
        apart = abs(true - binned)
        verdict = f"{apart:.5f} apart: {'within' if apart <= bound + 1e-9 else 'OUTSIDE'} the bound"
    return {
        "model": wording.model(r.get("model")),
        "evaluation": wording.evaluation(r.get("evaluation")), "n": whole(r.get("n")),
        "auc": wording.number(r.get("auc"), 4), "binned": wording.number(binned, 5),
        "exact": wording.number(true, 5),
        "bound": wording.number(bound, 5), "verdict": verdict,
    }  # fmt: skip


def _probe(probe: Any) -> list[str]:
    """Guard L07 in sentences."""
    if not isinstance(probe, Mapping):
        return []
    out, apart = [], False
    for key, what in (
        ("features", "the features"),
        ("missingness", "the mere pattern of missing values"),
    ):
        value, limit = finite(probe.get(key)), finite(probe.get(f"{key}_limit"))
        if value is None or limit is None:
            continue
        named = (
            f"From {what}, a probe names the right site with a balanced accuracy of "
            f"{percent(value)}"
        )
        chance = f"95th percentile under permuted site names {percent(limit)}"
        if value > limit:
            apart = True
            out.append(
                f"{named}, where chance gives {percent(probe.get('chance'))} ({chance}): the "
                "sites can be told apart."
            )
        else:
            out.append(f"{named}, no better than chance ({chance}).")
    if apart:
        out.append(
            "A model may therefore recognise the site instead of the disease. The AUC within "
            "sites does not reward that;"
        )
        out[-1] += " the AUC of pooled scores does."
    return out


def _unknown(r: Row) -> Context:
    return {
        "model": wording.model(r.get("model")), "arm": wording.arm(r.get("arm")),
        "unknown": whole(r.get("unknown")),
        **{k: wording.number(r.get(k)) for k in ("excluded", "negative", "positive")},
    }  # fmt: skip


def _participation(r: Row) -> Context:
    codes = r.get("not") or {}
    return {
        "site": wording.name(r.get("site")),
        "contributed": whole(r.get("contributed")),
        "not": [
            f"{code} ({wording.count(n, 'time')}): {wording.code(code)}"
            for code, n in codes.items()
        ],
    }


def _single(auc: Mapping[str, Any], report: Report) -> list[tuple[str, str, bool]]:
    """(feature, its AUC alone, above the limit), the highest first."""
    titles = {
        f.get("name"): wording.name(f.get("title") or f.get("name"))
        for f in rows(report, "features")
    }
    known = [(name, v) for name, v in ((n, finite(v)) for n, v in auc.items()) if v is not None]
    return [
        (titles.get(name, name), f"{v:.3f}", v > LIMIT)
        for name, v in sorted(known, key=lambda pair: -pair[1])
    ]
