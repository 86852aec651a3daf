"""After the last round: the comparison, the report in its faces, the model; all of it can be made again from the run's folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import common
from common import tally
from common.cohort import UNKNOWN, Cohort, Fold
from common.learner import Head
from common.survival import kaplan_meier
from server import store
from server.app import Outcome
from server.ledger import NAME, Ledger, read
from server.report import model as model_files
from server.report import page
from simulation import results, show, splits
from simulation.compare import Comparison, compare, heads_of
from simulation.run import Setting, cohorts
from simulation.site_probe import site_probe

SCHEMA_VERSION = "1.0"


def finish(setting: Setting, outcome: Outcome, console: Console, started: float) -> dict[str, Any]:
    """Write report.json, report.html and model/, print the tables; returns the report."""
    sites = cohorts(setting)
    run, args = setting.run, setting.args
    heads = heads_of(run.heads(setting.study))
    folds = run.folds(outcome.groups)
    splits.verify(sites, folds, run.seed, run.parts)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        line = bar.add_task("comparing", total=None)

        def tell(what: str, done: int, of: int) -> None:
            bar.update(line, description=f"local and pooled models: {what}", completed=done, total=of)

        comparison = compare(
            sites, heads, outcome.states, folds, seed=run.seed, parts=run.parts, clinical=setting.study.clinical, tell=tell
        )
        models = ["clinical", *(h.name for h in heads)]
        bar.update(line, description="bootstrap intervals")
        rows = results.results(
            comparison, models, repeats=args.bootstraps, seed=run.seed, tell=lambda a, b: bar.update(line, completed=a, total=b)
        )
        different = results.differences(comparison, models, repeats=args.bootstraps, seed=run.seed)
    splits.write(setting.folder, sites, comparison, models, run.seed)
    splits.verify_written(setting.folder, setting.sites)
    report = _report(setting, outcome, comparison, rows, different, heads, sites, models, started)
    text = json.dumps(report, indent=1, allow_nan=False)  # a NaN in a report would be a figure that nobody can read: fail instead
    store.write(setting.folder / "report.json", text.encode())
    store.write(setting.folder / "report.html", page.render(report).encode())
    model_files.write(setting.folder / "model", setting.study, setting.task, outcome.states[Fold().key], heads, report)
    ledger = Ledger(setting.folder / NAME)
    sha = hashlib.sha256(text.encode()).hexdigest()
    if not any(line["kind"] == "report" and line["sha256"] == sha for line in ledger.lines):
        ledger.append("report", time=time.time(), file="report.json", sha256=sha)
    ledger.close()
    show.closing(console, report)
    return report


def _report(
    setting: Setting,
    outcome: Outcome,
    comparison: Comparison,
    rows: list[dict[str, Any]],
    different: list[dict[str, Any]],
    heads: Sequence[Head],
    sites: Sequence[Cohort],
    models: Sequence[str],
    started: float,
) -> dict[str, Any]:
    study, run, args = setting.study, setting.run, setting.args
    task = study.tasks[setting.task]
    flow = setting.reading.cohort.flow
    lines = read(setting.folder / NAME)
    exchanges = [line for line in lines if line["kind"] == "exchange"]
    guard = next((line for line in lines if line["kind"] == "guard"), None)
    schema = study.schema_at(setting.task)
    aggregated = federated_metrics(outcome, [h.name for h in heads])
    design = np.concatenate([c.design for c in sites])
    known = comparison.labels != UNKNOWN
    probe = site_probe(design[known], comparison.sites[known], run.seed) if len(sites) > 1 else None
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "fedmets": common.__version__,
        "versions": next(line["versions"] for line in lines if line["kind"] == "open"),
        "study": study.name,
        "question": study.question,
        "task": setting.task,
        "caution": task.caution,
        "virtual": study.virtual,
        "synthetic": setting.phantom,
        "research_use_only": "Research use only. Not a medical device; not for decisions about patients.",
        "seed": run.seed,
        "label": {
            "name": schema.label.name,
            "classes": list(schema.label.classes),
            "title": schema.label.title,
            "source": flow.label_source,
        },
        "features": [
            {"name": f.name, "title": f.title, "unit": getattr(f, "unit", "choice"), "available_at": f.available_at}
            for f in schema.features
        ],
        "flow": {
            "read": flow.read,
            "excluded": [{"reason": r, "n": n} for r, n in flow.excluded],
            "kept": flow.kept,
            "unknown_label": flow.unknown_label,
            "label_source": flow.label_source,
            "notes": list(flow.notes),
            "sites": [
                {
                    "name": c.site,
                    "read": c.flow.read,
                    "excluded": [{"reason": r, "n": n} for r, n in c.flow.excluded],
                    "kept": c.flow.kept,
                    "unknown_label": c.flow.unknown_label,
                }
                for c in sites
            ],
        },
        "sites": show.site_rows(setting),
        "partition": setting.parted.kind,
        "small_sites": {
            "minimum": setting.parted.minimum,
            "pooled_site": setting.parted.pooled_site,
            "pooled": dict(setting.parted.pooled),
            "held_out": dict(setting.parted.held_out),
        },
        "groups": [list(g) for g in outcome.groups],
        "trainable_sites": list(comparison.trainable),
        "ledger_head": outcome.ledger_head,
        "state_hash": outcome.state_hash,
        "exchanges": len(exchanges),
        "bytes": {"sent": sum(e["sent"] for e in exchanges), "received": sum(e["received"] for e in exchanges)},
        "participation": participation(exchanges),
        "guards": {"L03": guard},
        "bootstraps": args.bootstraps,
        "interval": "95 % percentile interval; patients resampled within site and class, models fixed",
        "results": rows,
        "differences": different,
        "between_sites": results.between_sites(
            comparison, "clinical", pooled_site=setting.parted.pooled_site, repeats=args.bootstraps, seed=run.seed
        ),
        "chosen": [{"arm": a, "evaluation": e, "predictions": dict(c)} for (a, e), c in comparison.chosen.items()],
        "curves": results.curves(comparison, models),
        "importance": importance(outcome, schema.features, [h.name for h in heads]),
        "federated_tallies": aggregated,
        "survival": survival(outcome, study, setting.task),
        "site_probe": probe._asdict() if probe is not None else None,
        "unknown_labels": results.unknown_labels(comparison, "clinical") if args.unknown_label == "sensitivity" else None,
        "permuted_labels": args.permute_labels,
        "overrides": {"L03": list(guard["accepted"]) if guard else [], "L02": dict(setting.reading.overrides)},
        "not_run": not_run(setting, outcome),
        "alarms": [],
        "configuration": asdict(run),
        "seconds": round(time.monotonic() - started, 1),
    }
    report["alarms"] = alarms(setting, report) + show.too_small(setting)
    return report


def participation(exchanges: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Site -> exchanges answered, and the codes by which it took no part in a step: nobody is missing in silence."""
    out: dict[str, dict[str, Any]] = {}
    for e in exchanges:
        for site, what in e["sites"].items():
            row = out.setdefault(site, {"site": site, "contributed": 0, "not": {}})
            if what == "contributed":
                row["contributed"] += 1
            else:
                row["not"][what] = row["not"].get(what, 0) + 1
        for w in e["work"]:
            for site, code in w["refused"].items():
                row = out.setdefault(site, {"site": site, "contributed": 0, "not": {}})
                row["not"][code] = row["not"].get(code, 0) + len(w["folds"])
    return list(out.values())


def federated_metrics(outcome: Outcome, heads: Sequence[str]) -> list[dict[str, Any]]:
    """What the coordinator knows without seeing a patient: metrics from added tallies, each AUC with its exact binning bound."""
    arrays = outcome.states[Fold().key].get("evaluation", {})
    out = []
    for head in heads:
        for kind, evaluation in (("within", "within_site"), ("left_out", "leave_one_site_out")):
            names = [n for n in arrays if n.startswith(f"{head}/{kind}/")]
            if not names:
                continue
            mine = {n.removeprefix(f"{head}/{kind}/"): arrays[n] for n in names}
            pairs = mine.pop("pairs")[-1]
            total = tally.Tally.from_arrays(mine)
            if not float(total.n):
                continue
            histogram = total.histogram[1]
            out.append(
                {
                    "model": head,
                    "evaluation": evaluation,
                    "n": int(total.n),
                    "auc": float(pairs[0] / pairs[1]) if pairs[1] else None,
                    "auc_pooled": tally.auc(histogram),
                    "bound": tally.auc_bound(histogram),
                    "brier": total.mean_brier,
                    "log_loss": total.mean_log_loss,
                }
            )
    return out


def importance(outcome: Outcome, features: Sequence[Any], heads: Sequence[str]) -> list[dict[str, Any]]:
    """Mean absolute SHAP value of each feature of each final model, from the federated sums."""
    arrays = outcome.states[Fold().key]["importance"]
    return [
        {"model": h, "feature": f.name, "title": f.title or f.name, "mean_absolute_shap": float(v)}
        for h in heads
        for f, v in sorted(zip(features, arrays[h], strict=True), key=lambda pair: -pair[1])
    ]


def survival(outcome: Outcome, study: Any, task: str) -> dict[str, Any] | None:
    """Kaplan-Meier curves by class, from federated counts (a description; no model is judged by it)."""
    arrays = outcome.states[Fold().key].get("survival")
    described = study.schema.survival
    if arrays is None or described is None or not arrays["counts"].any():
        return None
    curves = []
    for name, counts in zip(study.schema.label.classes, arrays["counts"], strict=True):
        if counts.any():
            described_by = kaplan_meier(counts, described.horizon)._asdict()
            curves.append({"class": name, **{k: _numbers(v) for k, v in described_by.items()}})
    return {"name": described.name, "unit": described.unit, "curves": curves}


def _numbers(values: Any) -> list[float | None]:
    """Rounded; None where not defined (the limits before the first event)."""
    return [round(float(v), 6) if np.isfinite(v) else None for v in np.asarray(values, float)]


def not_run(setting: Setting, outcome: Outcome) -> list[str]:
    """What a reader might look for and will not find."""
    out = ["image models and fusion: not run, this study's sites brought tables only"]
    for evaluation in results.EVALUATIONS:
        if evaluation not in setting.run.evaluations:
            out.append(f"{evaluation}: not run, not asked for")
    if "leave_one_site_out" in setting.run.evaluations and not outcome.groups:
        out.append("leave_one_site_out: not run, fewer than two sites could be left out")
    for group in outcome.groups:
        if len(group) > 1:
            out.append(f"leave_one_site_out one by one for {', '.join(group)}: not run, these {len(group)} sites were left out together")
    return out


def alarms(setting: Setting, report: dict[str, Any]) -> list[str]:
    """Guard E11 on real collections, the generator's ceiling on synthetic ones, and overrides that a reader must know of."""
    out = [f"guard L03 was overridden for feature '{f}'" for f in report["overrides"]["L03"]]
    out += [f"guard L02 was overridden for feature '{f}': {why}" for f, why in report["overrides"]["L02"].items()]
    limit, kind = setting.study.tasks[setting.task].alarm, "the plausible limit of this study"
    if setting.phantom:
        from simulation.phantom.colorectal import read_truth

        truth = read_truth(setting.folder / "data")
        limit, kind = (truth.ceilings[setting.task], "the generator's own ceiling") if truth else (None, "")
    for r in report["results"]:
        if limit is not None and r["metric"] == "auc" and r["site"] == "all" and r["low"] is not None and r["low"] > limit:
            out.append(
                f"E11: {r['model']} {r['arm']} {r['evaluation']}: the AUC's whole interval ({r['low']:.3f} to {r['high']:.3f}) "
                f"lies above {limit:.3f}, {kind}; suspect leakage"
            )
    return out
