"""Model card: Hugging Face's front matter, then what the Coalition for Health AI's applied model
card asks for (and Mitchell et al. 2019, arXiv 1810.03993), from the report alone. What nothing has
told reads MISSING; nothing is invented."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from common.data.schema import Schema
from common.federated.learner import Federated, hyper_of
from common.study.study import Study
from common.trees.leaves import Leaves
from server.export import onnx_export
from server.export.card_metadata import front_matter
from server.report.content import wording
from server.report.content.totals import totals

MISSING = "MISSING"
Report = Mapping[str, Any]


def card(
    study: Study,
    task: str,
    schema: Schema,
    heads: Sequence[Federated],
    report: Report,
    lost: Sequence[str] = (),
    leaves: Leaves | None = None,
) -> str:
    """`model/README.md`. `lost`: networks that could not be exported, with the reason. `leaves`:
    those of the trees, where there are any and their sums are without noise."""
    parts = [
        front_matter(study, task, heads, report),
        f"\n# {study.name}, {task}\n\n{study.question}\n",
        _warnings(study, task, report),
        _basic(study, task, report),
        _uses(study, task, schema, report),
        _inputs(schema, report),
        _models(heads, lost, leaves),
        _data(schema, report),
        _figures(heads, report),
        _limits(report),
        _upkeep(report),
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def _warnings(study: Study, task: str, report: Report) -> str:
    sentences = [report["research_use_only"], study.tasks[task].caution, study.virtual]
    sentences += (
        ["Trained on a synthetic cohort: of no clinical meaning."] if report["synthetic"] else []
    )
    return "".join(f"**{s}**\n\n" for s in sentences if s)


def _basic(study: Study, task: str, report: Report) -> str:
    return _section(
        "Basic information",
        {
            "Name": f"{study.name}, {task}",
            "Developer": f"{MISSING}. The sites that trained it: "
            f"{', '.join(s['name'] for s in report['sites'])}",
            "Contact": MISSING,
            "Release": f"fedmets {report['fedmets']}, state `{report['state_hash']}`, ledger head "
            f"`{report['ledger_head']}`",
            "Release stage": "research",
            "Regulatory approval": f"none told ({MISSING}); "
            f"{report['research_use_only'][0].lower()}{report['research_use_only'][1:]}",
            "Licence": MISSING,
            "Funding, conflicts of interest": MISSING,
        },
    )


def _uses(study: Study, task: str, schema: Schema, report: Report) -> str:
    times = ", ".join(dict.fromkeys(f["available_at"] for f in report["features"]))
    return _section(
        "Uses and directions",
        {
            "Intended use": f"research on the question: {study.question}",
            "Workflow": f"at the prediction time `{study.tasks[task].time}`, from what is "
            f"available by then ({times}); "
            "`fedmets client predict` beside the data. The place in a clinical workflow: "
            f"{MISSING}",
            "Primary users": f"researchers; clinical users: {MISSING}",
            "Target population": f"patients like those of the sites ({MISSING}: criteria of "
            "inclusion)",
            "Out of scope, cautions": " ".join(
                filter(
                    None, (study.tasks[task].caution, "Decisions about patients.", study.virtual)
                )
            ),
        },
    )


def _inputs(schema: Schema, report: Report) -> str:
    lines = [
        f"- {f['title'] or f['name']} (`{f['name']}`, {f['unit']}), available {f['available_at']}"
        for f in report["features"]
    ]
    if schema.imaging is not None:
        for c in schema.imaging.channels:
            lines.append(
                f"- {c.title or c.name} (`{c.name}`, {c.modality}); "
                f"{onnx_export.scaling(schema.imaging)}"
            )
    return "\n".join(
        [
            "## Inputs and outputs",
            "",
            *lines,
            "",
            f"Output: a probability of each class of {schema.label.title or schema.label.name} "
            f"({', '.join(schema.label.classes)}), "
            f"by each model.",
            "",
        ]
    )


def _models(heads: Sequence[Federated], lost: Sequence[str], leaves: Leaves | None) -> str:
    lines = [f"- `{h.name}`: {json.dumps(hyper_of(h), sort_keys=True)}" for h in heads]
    lines += [f"- Not exported for other programs: {failure}" for failure in lost]
    if leaves is not None:
        lines.append(f"- {_told_by(leaves)}")
    return "\n".join(
        [
            "## Models",
            "",
            *lines,
            "",
            "Foundation models: none, unless a learner above names a file (`pretrained`).",
            "",
        ]
    )


def _told_by(leaves: Leaves) -> str:
    """What whoever has the trees can tell of the patients that they were grown on."""
    pure = "none holds patients of one class alone"
    if leaves.pure:
        pure = (
            f"{len(leaves.pure)} hold patients of one class alone, the smallest of them "
            f"{leaves.pure[0]}"
        )
    return (
        f"What the trees tell of the patients: {leaves.count} leaves, none of fewer than "
        f"{leaves.fewest} over all sites. The first round's values give the counts of each leaf "
        f"exactly: {pure}. Whoever knows that a patient took part, and the patient's row, knows "
        "the class where a leaf holds one alone."
    )


def _data(schema: Schema, report: Report) -> str:
    whole = totals(report)
    sites = [
        f"- {s['name']}: n = {_known(s['n'])}, events = {_known(s['events'])}"
        for s in report["sites"]
    ]
    return "\n".join(
        [
            "## Training data",
            "",
            f"{wording.whole(whole.labelled)} labelled cases ({wording.whole(whole.events)} "
            f"events) of {len(report['sites'])} sites; "
            "label: "
            f"{schema.label.title or schema.label.name} ({', '.join(schema.label.classes)}), from "
            f"{report['label']['source']}.",
            "",
            *sites,
            "",
            f"Consent, ethics approval, period and demography of the cohort: {MISSING}.",
            "",
        ]
    )


def _figures(heads: Sequence[Federated], report: Report) -> str:
    def rows(metrics: Sequence[str]) -> list[str]:
        out = []
        for r in report["results"]:
            if r["metric"] in metrics and r["arm"] == "federated" and r["site"] == "all":
                out.append(
                    f"- {r['model']}, {r['evaluation']}, {r['metric']}: {_value(r)}, n = "
                    f"{r['n']}, events = {r['events']}"
                )
        return out or [MISSING]

    sites = [
        f"- {r['model']}, {r['site']}: {_value(r)}, n = {r['n']}, events = {r['events']}"
        for r in report["results"]
        if (r["metric"], r["arm"], r["evaluation"]) == ("auc", "federated", "within_site")
        and r["site"] != "all"
        and r["model"] in {h.name for h in heads}
    ]
    return "\n".join(
        [
            "## Key metrics",
            "",
            f"Federated models. {report['interval']}.",
            "",
            "### Usefulness",
            "",
            "AUC: pairs of patients within sites.",
            "",
            *rows(("auc", "average_precision")),
            "",
            "### Safety and reliability",
            "",
            *rows(
                (
                    "brier",
                    "calibration_slope",
                    "calibration_intercept",
                    "sensitivity",
                    "specificity",
                )
            ),
            "",
            "### Fairness",
            "",
            *_subgroups(report),
            "",
            "AUC by site:",
            "",
            *(sites or [MISSING]),
            "",
        ]
    )


def _subgroups(report: Report) -> list[str]:
    """The lead model's AUC in each group."""
    listed = [r for r in report.get("subgroups") or [] if isinstance(r, Mapping)]
    if not listed:
        return [f"Subgroups of patients: {MISSING}."]
    out = []
    for r in listed:
        value = _value({**r, "value": r.get("auc", r.get("value"))})
        counts = ", ".join(
            f"{k} = {'suppressed' if r.get(k) is None else r[k]}" for k in ("n", "events")
        )
        out.append(
            f"- {r.get('title') or r.get('by') or MISSING}, {r.get('group', MISSING)}: AUC "
            f"{value}, {counts}"
        )
    return out


def _limits(report: Report) -> str:
    sentences = [
        *(f"- {a}" for a in report["alarms"] or ["no alarm"]),
        *(f"- {n}" for n in report["not_run"]),
    ]
    return "\n".join(
        [
            "## Known risks and limits",
            "",
            *sentences,
            "",
            "Bias mitigation: AUCs count pairs within sites, so that no model is rewarded for "
            "telling hospitals apart; classes of the "
            "image network weigh by their inverse counts, and its probabilities are corrected "
            f"for it. Beyond that: {MISSING}.",
            "",
            f"Clinical risk level, and what to do when it fails: {MISSING}.",
            "",
        ]
    )


def _upkeep(report: Report) -> str:
    return _section(
        "Maintenance",
        {
            "Monitoring and updates": MISSING,
            "At a site": "`fedmets client finetune` adapts it to the site's own patients and says "
            "what that is worth",
            "Traceable to": f"state hash `{report['state_hash']}`, ledger head "
            f"`{report['ledger_head']}`, seed {report['seed']}, "
            f"fedmets {report['fedmets']}",
        },
    )


def _section(title: str, rows: Mapping[str, str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- **{k}**: {v}" for k, v in rows.items()), ""])


def _value(row: Mapping[str, Any]) -> str:
    if not row.get("estimable") or row.get("value") is None:
        return "not estimable"
    if row.get("low") is None or row.get("high") is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _known(value: Any) -> str:
    return "kept by the site" if value is None else str(value)
