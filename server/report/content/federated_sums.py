"""Federated sums, and whatever else a report says that needs no patient: from the ledger, and from
the sums that the learners ended with. The same in a simulation and between hospitals."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common import __version__
from common.data.cohort import Fold
from common.federated.learner import Averaged, Federated
from common.federated.states import States
from common.metrics.kaplan_meier import kaplan_meier
from common.networks.gradcam_maps import focus
from common.study.study import Study
from common.types import State
from server.config.run_config import Run
from server.ledger.ledger import NAME, read
from server.rounds import strategies

SCHEMA_VERSION = "1.3"
Row = dict[str, Any]


def asked(study: Study, task: str, seed: int, label_source: str) -> Row:
    """The question, and what must stand beside the answer."""
    schema = study.schema_at(task)
    return {
        "schema_version": SCHEMA_VERSION,
        "fedmets": __version__,
        "study": study.name,
        "question": study.question,
        "task": task,
        "caution": study.tasks[task].caution,
        "virtual": study.virtual,
        "synthetic": False,
        "research_use_only": "Research use only. Not a medical device; not for decisions about "
        "patients.",
        "seed": seed,
        "label": {
            "name": schema.label.name,
            "classes": list(schema.label.classes),
            "title": schema.label.title,
            "source": label_source,
        },
        "features": [
            {
                "name": f.name,
                "title": f.title,
                "unit": getattr(f, "unit", "choice"),
                "available_at": f.available_at,
            }
            for f in schema.features
        ],
    }


def trace(folder: Path, state_hash: str, ledger_head: str) -> Row:
    """From the ledger: hashes, exchanges, who took part, what the guards found and what was
    overridden."""
    lines = read(folder / NAME)
    exchanges = [line for line in lines if line["kind"] == "exchange"]
    guard = next((line for line in lines if line["kind"] == "guard"), None)
    closed = next((line for line in reversed(lines) if line["kind"] == "close"), lines[-1])
    return {
        "date": datetime.datetime.fromtimestamp(closed["time"], datetime.UTC).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        ),
        "versions": lines[0]["versions"],
        "ledger_head": ledger_head,
        "state_hash": state_hash,
        "exchanges": len(exchanges),
        "bytes": {
            "sent": sum(e["sent"] for e in exchanges),
            "received": sum(e["received"] for e in exchanges),
        },
        "participation": participation(exchanges),
        "guards": {"L03": guard},
        "overrides": {"L03": guard["accepted"] if guard else []},
    }


def masked(folder: Path) -> list[str]:
    """Over which sites the sums of a masked run were, and what that leaves to be told of one."""
    exchanges = [line for line in read(folder / NAME) if line["kind"] == "exchange"]
    fewest = max((e.get("fewest", 0) for e in exchanges), default=0)
    if not fewest:
        return []
    sites = len(exchanges[0]["sites"])
    if fewest >= sites:
        return [f"the sites masked their sums: each sum was over all {sites} sites, and no fewer"]
    return [
        f"the sites masked their sums, and all of them allowed sums over fewer than the {sites}, "
        f"down to {fewest} (dropouts = continue): a coordinator that says a site has dropped out "
        "can tell what that site's sums are"
    ]


def participation(exchanges: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Site -> exchanges answered, and the codes by which it took no part in a step: nobody is
    missing in silence."""
    rows: dict[str, Row] = {}
    for e in exchanges:
        for site, outcome in e["sites"].items():
            row = rows.setdefault(site, {"site": site, "contributed": 0, "not": {}})
            if outcome == "contributed":
                row["contributed"] += 1
            else:
                row["not"][outcome] = row["not"].get(outcome, 0) + 1
        for w in e["work"]:
            for site, code in w["refused"].items():
                if e["sites"].get(site) == code:
                    continue  # it did not answer at all: counted above, once
                row = rows.setdefault(site, {"site": site, "contributed": 0, "not": {}})
                row["not"][code] = row["not"].get(code, 0) + len(w["folds"])
    return list(rows.values())


BEYOND = {
    "image": "The image network's log-odds",
    "latent code": "The autoencoder's code of the image",
}


def importance(states: States, heads: Sequence[Federated], features: Sequence[Any]) -> list[Row]:
    """Mean absolute SHAP value of each feature of each final model, from the federated sums; of the
    fusion, of the image too."""
    arrays = states[Fold()].get("importance", {})
    rows = []
    for head in (h for h in heads if h.name in arrays):
        titles = {f.name: f.title or f.name for f in features} | {
            n: BEYOND[n] for n in head.traits.beyond
        }
        pairs = sorted(zip(titles, arrays[head.name], strict=True), key=lambda pair: -pair[1])
        rows += [
            {"model": head.name, "feature": f, "title": titles[f], "mean_absolute_shap": float(v)}
            for f, v in pairs
        ]
    return rows


def survival(states: States, study: Any, task: str) -> Row | None:
    """Kaplan-Meier curves by class, from federated counts (a description; no model is judged by
    it)."""
    arrays = states[Fold()].get("survival")
    described = study.schema.survival
    if described is None or not arrays or not arrays["counts"].any():
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


def implausible(
    results: Sequence[Row], limit: Callable[[str], float | None], kind: str
) -> list[str]:
    """Guard E11: AUCs whose whole interval lies above what is believable of a model."""
    headline = [
        r for r in results if r["metric"] == "auc" and r["site"] == "all" and r["low"] is not None
    ]
    return [
        f"E11: {r['model']} {r['arm']} {r['evaluation']}: the AUC's whole interval "
        f"({r['low']:.3f} to {r['high']:.3f}) "
        f"lies above {most:.3f}, {kind}; suspect leakage"
        for r in headline
        if (most := limit(r["model"])) is not None and r["low"] > most
    ]


def undefended(run: Run, study: Study) -> list[str]:
    """What a robust strategy does not cover."""
    if run.strategy not in strategies.LEAST:
        return []
    summed = ["preprocessing", *(h.name for h in run.heads(study) if not isinstance(h, Averaged))]
    return [
        f"strategy {run.strategy} withstands a site that sends wrong parameters; what sends sums "
        f"({', '.join(summed)}) is added as it is, and not defended"
    ]


def unconverged(states: States) -> list[str]:
    """Fits that used up their rounds: their coefficients are not those of the pooled rows."""
    folds: dict[str, list[str]] = {}
    for fold, state in states.items():
        for name, arrays in state.items():
            if "converged" in arrays and not bool(arrays["converged"]):
                folds.setdefault(name, []).append(fold.key)
    return [
        f"{name} did not converge on {len(f)} training sets ({', '.join(f[:3])} ...): raise "
        f"{name}.rounds"
        for name, f in folds.items()
    ]


def adds(differences: Sequence[Row]) -> list[Row]:
    """Does the fusion predict better than its parts, on the same patients? Said in words, whichever
    way it is."""
    answers = []
    for d in differences:
        a, b = d["a"].split(" "), d["b"].split(" ")
        if a[0] != "fusion" or b[0] not in ("clinical", "image") or a[1] != "federated":
            continue
        if not d["estimable"] or d["low"] is None:
            answer, sentence = (
                None,
                f"{d['evaluation']}: whether the fusion improves on {b[0]} alone is not estimable",
            )
        else:
            figure = (
                f"AUC {d['difference']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f}) on the "
                f"same {d['n']} patients"
            )
            answer = "better" if d["low"] > 0 else "worse" if d["high"] < 0 else "not better"
            verb = {
                "better": "improves on",
                "worse": "is worse than",
                "not better": "does not improve on",
            }[answer]
            sentence = f"{d['evaluation']}: fusion {verb} {b[0]} alone: {figure}"
        answers.append(
            {"evaluation": d["evaluation"], "than": b[0], "answer": answer, "told": sentence}
        )
    return answers


def fusion_weights(state: State) -> Row | None:
    """How much the final fusion makes of the image: the coefficient of its log-odds, and the size
    of the latent code's."""
    arrays = state.get("fusion")
    if not arrays or "coefficients" not in arrays:
        return None
    final = arrays["coefficients"][0]
    return {
        "intercept": [round(float(v), 6) for v in final[:, 0]],
        "image_log_odds": [round(float(v), 6) for v in final[:, 1]],
        "latent_norm": [round(float(np.linalg.norm(v)), 6) for v in final[:, 2:]],
        "cases": int(arrays["cases"]),
    }


def energy(state: State) -> Row | None:
    """Grad-CAM's energy inside the expert's lesions against chance, from the sites' sums (guard
    X03)."""
    arrays = state.get("gradcam")
    energy_share = focus(arrays) if arrays else None
    return None if energy_share is None else asdict(energy_share)
