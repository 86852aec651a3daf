"""Model card metadata: the YAML that opens it, which the Hugging Face hub reads, model-index and
its metrics included."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from common.federated.learner import Federated
from common.study.study import Study

CARD_METRICS = {
    "auc": ("roc_auc", "AUC of patient pairs within sites"),
    "average_precision": ("average_precision", "average precision"),
    "brier": ("brier_score", "Brier score"),
    "calibration_slope": ("calibration_slope", "calibration slope"),
    "calibration_intercept": ("calibration_intercept", "calibration intercept"),
}


def front_matter(
    study: Study, task: str, heads: Sequence[Federated], report: Mapping[str, Any]
) -> str:
    """Between two lines of dashes. Figures that are not estimable are in no index; the card says
    so."""
    image = any("image" in h.modality for h in heads)
    metadata = {
        "license": "other",
        "license_name": "MISSING",
        "library_name": "fedmets",
        "tags": [
            "federated-learning",
            "medical",
            "oncology",
            "metastasis",
            *(["medical-imaging", "monai", "onnx"] if image else []),
        ],
        "pipeline_tag": "image-classification"
        if [h.name for h in heads] == ["image"]
        else "tabular-classification",
        "metrics": [kind for kind, _ in CARD_METRICS.values()],
        "model-index": [
            {"name": f"{study.name}-{task}", "results": _results(study, task, heads, report)}
        ],
    }
    return "---\n" + "".join(_yaml(metadata)) + "---\n"


def _results(
    study: Study, task: str, heads: Sequence[Federated], report: Mapping[str, Any]
) -> list[dict[str, Any]]:
    out = []
    for head in heads:
        kind = "image-classification" if head.name == "image" else "tabular-classification"
        own_rows = [
            r
            for r in report["results"]
            if (r["model"], r["arm"], r["site"]) == (head.name, "federated", "all")
        ]
        for evaluation in dict.fromkeys(r["evaluation"] for r in own_rows):
            rows = [
                r
                for r in own_rows
                if r["evaluation"] == evaluation and r["metric"] in CARD_METRICS and r["estimable"]
            ]
            if rows:
                data = {
                    "type": study.name,
                    "name": f"{study.name}, {_data(report)}",
                    "config": task,
                    "split": evaluation,
                }
                out.append(
                    {
                        "task": {
                            "type": kind,
                            "name": f"{head.name}: "
                            f"{report['label']['title'] or report['label']['name']}",
                        },
                        "dataset": data,
                        "metrics": [_metric(r) for r in rows],
                    }
                )
    return out


def _data(report: Mapping[str, Any]) -> str:
    return (
        f"{'a synthetic cohort' if report['synthetic'] else 'patients'} of "
        f"{len(report['sites'])} sites"
    )


def _metric(row: Mapping[str, Any]) -> dict[str, Any]:
    kind, title = CARD_METRICS[row["metric"]]
    limits = {"low": row["low"], "high": row["high"], "n": row["n"], "events": row["events"]}
    return {
        "type": kind,
        "name": title,
        "value": row["value"],
        "args": {k: v for k, v in limits.items() if v is not None},
    }


def _yaml(value: Mapping[str, Any], depth: int = 0) -> list[str]:
    """Block style; each scalar is JSON's, which is YAML's too."""
    pad, out = "  " * depth, []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            out += [f"{pad}{key}:\n", *_yaml(item, depth + 1)]
        elif isinstance(item, list) and item:
            out.append(f"{pad}{key}:\n")
            for element in item:
                if isinstance(element, Mapping):
                    lines = _yaml(element, depth + 1)
                    out += [f"{pad}- {lines[0].lstrip()}", *lines[1:]]
                else:
                    out.append(f"{pad}- {json.dumps(element)}\n")
        else:
            out.append(f"{pad}{key}: {json.dumps(item)}\n")
    return out
