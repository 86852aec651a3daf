"""`report.html`: the run on one page that needs nothing else, for a clinician or a reviewer. Made from the report alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from server.guards import LIMIT
from server.report import figures, words
from server.report.charts import bar
from server.report.comparison import Index, differences, headline, sites, table
from server.report.figures import Report, rows
from server.report.pictures import pictures
from server.report.privacy import privacy
from server.report.words import ARMS, EVALUATIONS, Row, finite, percent, whole

Context = dict[str, Any]
RARE = 0.30
"""Below this share of events, accuracy says next to nothing: the page says so (guard E01)."""


def render(report: Mapping[str, Any]) -> str:
    """One self-contained HTML file: no script, no asset from elsewhere; the same report gives the same bytes.

    `report`: as in report.json. A key that is missing or None leaves its place saying so ("not recorded", "not estimable").
    """
    return _template().render(**_context(report))


@cache
def _template() -> Template:
    here = FileSystemLoader(Path(__file__).parent)
    env = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return env.get_template("template.html")


def _context(report: Report) -> Context:
    index = Index(report)
    present = [e for e in EVALUATIONS if index.has(e)]
    drawn = next((e for e in present if figures.curves(report, e)), None)
    return {
        **_first(report),
        "headlines": [headline(report, index, e) for e in present],
        "flow": _flow(report),
        "tables": [table(index, e) for e in present],
        "differences": [differences(report, e) for e in present],
        "sites": [sites(report, index, e) | {"figure": figures.sites(report, e, index.lead(e))} for e in present],
        "images": pictures(report),
        "curves": figures.curves(report, drawn, index.lead(drawn)) if drawn else [],
        "drawn_model": words.model(index.lead(drawn)) if drawn else "",
        "drawn_evaluation": EVALUATIONS[drawn] if drawn else "",
        "confusion": _confusion(report, present[0], index.lead(present[0])) if present else [],
        "importance": _importance(report),
        "survival": figures.survival(report),
        "privacy": privacy(report),
        "methods": _methods(report, index),
        "trace": _trace(report),
    }


# ---- page 1 ----------------------------------------------------------------------------------------------------------------------


def _classes(report: Report) -> list[str]:
    return [words.name(c) for c in (report.get("label") or {}).get("classes") or []]


def _first(report: Report) -> Context:
    classes, label = _classes(report), report.get("label") or {}
    sites = rows(report, "sites")
    patients, n, events = (sum(int(finite(s.get(k)) or 0) for s in sites) for k in ("patients", "n", "events"))
    event = classes[1] if len(classes) == 2 else f"any class but {classes[0]}" if classes else "event"
    return {
        "question": report.get("question") or "Question not recorded",
        "study": report.get("study") or words.NOT_RECORDED,
        "task": report.get("task") or words.NOT_RECORDED,
        "research_use_only": report.get("research_use_only") or "Research use only.",
        "label": label.get("title") or label.get("name") or words.NOT_RECORDED,
        "classes": classes,
        "event": event,
        "boxes": _boxes(report),
        "totals": {"patients": patients, "labelled": n, "events": events, "sites": len(sites)},
        "prevalence": percent(events / n, 1) if n else words.NOT_RECORDED,
        "rare": len(classes) == 2 and n > 0 and events / n < RARE,
        "synthetic": bool(report.get("synthetic")),
        "permuted": report.get("permuted_labels") is not None,
        "caution": report.get("caution") or "",
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
                [f"The labels were shuffled within sites (seed {seed}). Every AUC should lie about 0.5; nothing here is a result."],
            )
        )
    overrides = report.get("overrides") or {}
    over = [f"Guard L03 (a single feature that almost equals the label) was overridden for '{f}'." for f in overrides.get("L03") or []]
    over += [
        f"Guard L02 (an outcome, or a code of the label) was overridden for '{f}': {words.name(why)}"
        for f, why in (overrides.get("L02") or {}).items()
    ]
    # an override has its own box
    alarms = [words.name(a) for a in report.get("alarms") or []]
    if alarms := [a for a in alarms if not (over and a.startswith(("guard L02 was overridden", "guard L03 was overridden")))]:
        out.append(("alarm", "Alarms", alarms))
    if over:
        out.append(("alarm", "Guards that were overridden", over))
    if report.get("synthetic"):
        out.append(
            (
                "caution",
                "Synthetic cohort",
                ["These patients were generated. The figures say how the software works, not how patients fare."],
            )
        )
    virtual = report.get("virtual") or ""
    if (
        not virtual
        and (names := [words.name(s.get("name")) for s in rows(report, "sites")])
        and all(n.startswith("virtual ") for n in names)
    ):
        virtual = "The sites are virtual: the simulation drew them from one table. They are not hospitals."
    if virtual:
        out.append(("caution", "Virtual sites", [words.name(virtual)]))
    if report.get("caution"):
        out.append(("caution", "About this task", [words.name(report["caution"])]))
    return out


# ---- flow ------------------------------------------------------------------------------------------------------------------------


def _excluded(flow: Row) -> list[tuple[str, str]]:
    return [(words.name(e.get("reason")), whole(e.get("n"))) for e in flow.get("excluded") or [] if isinstance(e, Mapping)]


def _flow(report: Report) -> Context:
    flow, small = report.get("flow") or {}, report.get("small_sites") or {}
    own = {s.get("name"): s for s in rows(flow, "sites")}
    known = finite(flow.get("kept")), finite(flow.get("unknown_label"))
    groups = []
    for key, what in (
        ("pooled", f"pooled into the site '{small.get('pooled_site') or 'other'}'"),
        ("held_out", "held out, taking no part"),
    ):
        if members := small.get(key):
            names = ", ".join(f"{k} ({whole(v)})" for k, v in members.items())
            groups.append(
                f"{words.count(len(members), 'institution')} under {whole(small.get('minimum'))} labelled cases, {what}: {names}."
            )
    return {
        **{k: whole(flow.get(k)) for k in ("read", "kept", "unknown_label")},
        "labelled": whole(known[0] - known[1]) if known[0] is not None and known[1] is not None else words.NOT_RECORDED,
        "excluded": _excluded(flow),
        "notes": [words.name(n) for n in flow.get("notes") or []],
        "source": flow.get("label_source") or words.NOT_RECORDED,
        "small": groups,
        "sites": [
            {
                "name": words.name(s.get("name")),
                **{k: whole(s.get(k)) for k in ("patients", "n", "events")},
                **{k: whole(own.get(s.get("name"), {}).get(k)) for k in ("read", "kept", "unknown_label")},
                "excluded": _excluded(own.get(s.get("name"), {})),
            }
            for s in rows(report, "sites")
        ],
    }


# ---- models ----------------------------------------------------------------------------------------------------------------------


def _confusion(report: Report, evaluation: str, model: str) -> list[Context]:
    """Counts by true and called class of a model, one table an arm."""
    classes, out = _classes(report), []
    for arm, title in ARMS.items():
        for r in rows(report, "curves"):
            counts = r.get("confusion")
            if (r.get("model"), r.get("arm"), r.get("evaluation")) == (model, arm, evaluation) and counts and len(counts) == len(classes):
                out.append({"arm": title, "rows": [(c, [whole(v) for v in row]) for c, row in zip(classes, counts, strict=True) if row]})
    return out


def _importance(report: Report) -> list[Context]:
    """Features by mean |SHAP|, one table a head, the bar relative to that head's largest."""
    described = {f.get("name"): f for f in rows(report, "features")}
    heads: dict[str, list[Row]] = {}
    for r in rows(report, "importance"):
        heads.setdefault(words.name(r.get("model")), []).append(r)
    out = []
    for head, mine in heads.items():
        largest = max((finite(r.get("mean_absolute_shap")) or 0.0 for r in mine), default=0.0)
        lines = []
        for r in mine:
            value, feature = finite(r.get("mean_absolute_shap")), described.get(r.get("feature"), {})
            lines.append(
                {
                    "title": r.get("title") or r.get("feature") or words.NOT_RECORDED,
                    "unit": "category" if feature.get("unit") == "choice" else feature.get("unit") or "",
                    "available": feature.get("available_at") or "",
                    "value": words.NOT_RECORDED if value is None else f"{value:.3f}",
                    "bar": bar(value / largest) if value is not None and largest > 0 else "",
                }
            )
        out.append({"head": words.model(head), "rows": lines})
    return out


# ---- how it was evaluated --------------------------------------------------------------------------------------------------------


def _methods(report: Report, index: Index) -> Context:
    trainable = [words.name(s) for s in report.get("trainable_sites") or []]
    configuration = report.get("configuration") or {}
    guard = (report.get("guards") or {}).get("L03") or {}
    return {
        "parts": whole(configuration.get("parts")),
        "groups": [[words.name(s) for s in g] for g in report.get("groups") or [] if g],
        "trainable": trainable,
        "chosen": [_chosen(r) for r in rows(report, "chosen") if r.get("predictions")],
        "tallies": [_tally(r, index, len(_classes(report))) for r in rows(report, "federated_tallies")],
        "probe": _probe(report.get("site_probe")),
        "unknown": [_unknown(r) for r in rows(report, "unknown_labels")],
        "exchanges": whole(report.get("exchanges")),
        "participation": [_participation(r) for r in rows(report, "participation")],
        "single": _single(guard.get("auc") or {}, report),
        "limit": f"{LIMIT:g}",
        "not_run": [words.name(n) for n in report.get("not_run") or []],
    }


def _chosen(r: Row) -> str:
    where = f"{words.arm(r.get('arm'))}, {words.evaluation(r.get('evaluation')).lower()}"
    shares = [f"{words.model(head)} for {words.count(n, 'prediction')}" for head, n in r["predictions"].items()]
    return f"{where}: {', '.join(shares)}"


def _tally(r: Row, index: Index, classes: int) -> Context:
    """The pooled-scores AUC from added histograms beside the exact one; two classes only, for more it is the second against the rest."""
    exact = index.get(str(r.get("model")), "federated", str(r.get("evaluation")), "auc_pooled")
    binned, bound = finite(r.get("auc_pooled")), finite(r.get("bound"))
    true = finite(exact.get("value")) if exact is not None and classes == 2 else None
    verdict = words.NOT_ESTIMABLE
    if true is not None and binned is not None and bound is not None:
        apart = abs(true - binned)
        verdict = f"{apart:.5f} apart: {'within' if apart <= bound + 1e-9 else 'OUTSIDE'} the bound"
    return {
        "model": words.model(r.get("model")), "evaluation": words.evaluation(r.get("evaluation")), "n": whole(r.get("n")),
        "auc": words.number(r.get("auc"), 4), "binned": words.number(binned, 5), "exact": words.number(true, 5),
        "bound": words.number(bound, 5), "verdict": verdict,
    }  # fmt: skip


def _probe(probe: Any) -> list[str]:
    """Guard L07 in sentences."""
    if not isinstance(probe, Mapping):
        return []
    out, apart = [], False
    for key, what in (("features", "the features"), ("missingness", "the mere pattern of missing values")):
        value, limit = finite(probe.get(key)), finite(probe.get(f"{key}_limit"))
        if value is None or limit is None:
            continue
        named = f"From {what}, a probe names the right site with a balanced accuracy of {percent(value)}"
        chance = f"95th percentile under permuted site names {percent(limit)}"
        if value > limit:
            apart = True
            out.append(f"{named}, where chance gives {percent(probe.get('chance'))} ({chance}): the sites can be told apart.")
        else:
            out.append(f"{named}, no better than chance ({chance}).")
    if apart:
        out.append("A model may therefore recognise the site instead of the disease. The AUC within sites does not reward that;")
        out[-1] += " the AUC of pooled scores does."
    return out


def _unknown(r: Row) -> Context:
    return {
        "model": words.model(r.get("model")), "arm": words.arm(r.get("arm")), "unknown": whole(r.get("unknown")),
        **{k: words.number(r.get(k)) for k in ("excluded", "negative", "positive")},
    }  # fmt: skip


def _participation(r: Row) -> Context:
    codes = r.get("not") or {}
    return {
        "site": words.name(r.get("site")),
        "contributed": whole(r.get("contributed")),
        "not": [f"{code} ({words.count(n, 'time')}): {words.code(code)}" for code, n in codes.items()],
    }


def _single(auc: Mapping[str, Any], report: Report) -> list[tuple[str, str, bool]]:
    """(feature, its AUC alone, above the limit), the highest first."""
    titles = {f.get("name"): words.name(f.get("title") or f.get("name")) for f in rows(report, "features")}
    known = [(name, v) for name, v in ((n, finite(v)) for n, v in auc.items()) if v is not None]
    return [(titles.get(name, name), f"{v:.3f}", v > LIMIT) for name, v in sorted(known, key=lambda pair: -pair[1])]


def _trace(report: Report) -> Context:
    size = report.get("bytes") or {}
    seconds = finite(report.get("seconds"))
    facts: Sequence[tuple[str, Any]] = (
        ("Ledger head (SHA-256)", report.get("ledger_head")),
        ("State hash (SHA-256)", report.get("state_hash")),
        ("Seed", report.get("seed")),
        ("fedmets", report.get("fedmets")),
        ("Form of the report", report.get("schema_version")),
        ("Exchanges", whole(report.get("exchanges"))),
        ("Sent to sites", words.size(size.get("sent"))),
        ("Received from sites", words.size(size.get("received"))),
        ("Duration", None if seconds is None else f"{seconds:.0f} s"),
    )
    return {
        "facts": [(k, words.name(v)) for k, v in facts],
        "versions": [(words.name(k), words.name(v)) for k, v in (report.get("versions") or {}).items()],
        "configuration": [(words.name(k), _plain(v)) for k, v in (report.get("configuration") or {}).items()],
    }


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "(empty)"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
