"""MONAI bundle of the image network: `model/bundle/`, which runs by `python -m monai.bundle run`
and needs nothing of fedmets.

What nobody has told (authors, copyright, licence) is said to be MISSING, never invented.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.data.schema import Schema
from common.networks.classifier import Classifier
from common.networks.classifier_files import trained
from common.study.study import Study
from common.types import State
from server.export import onnx_export
from server.export.bundle_sources import sources

MISSING = "MISSING"
SCRIPTS = '''"""What configs/inference.json names."""

from . import networks as networks
from . import score as score
'''
NETWORKS = '''"""What configs/inference.json builds."""

from scripts.common.networks.architectures import Scores
from scripts.common.networks.classifiers.{name} import CLASSIFIER


def scores(channels: int, classes: int) -> Scores:
    return Scores(CLASSIFIER, channels, classes)
'''
NO_LICENCE = (
    "MISSING: nobody has named a licence for these parameters. Ask the federation that "
    "trained them; research use only."
)


def files(
    study: Study,
    task: str,
    state: State,
    network: onnx_export.Network,
    program: Any,
    report: Mapping[str, Any],
) -> dict[str, bytes]:
    """Path below `bundle/` -> bytes."""
    schema = study.schema_at(task)
    return {
        **scripts(trained(state["image"])),
        "configs/metadata.json": _json(_metadata(study, task, schema, network, report)),
        "configs/inference.json": _json(_inference(schema)),
        "models/model.pt": _parameters(network),
        "models/model.pt2": onnx_export.pt2(program),
        "docs/README.md": _readme(study, task, network, report).encode(),
        "LICENSE": f"{NO_LICENCE}\n".encode(),
    }


def scripts(classifier: Classifier) -> dict[str, bytes]:
    """Path below `bundle/` -> source: the network's file, what it imports, and the scoring."""
    networks = ("architectures", f"classifiers.{classifier.name}")
    files = {
        path: source
        for module in networks
        for path, source in sources(f"common.networks.{module}", "scripts").items()
    }
    files |= {
        "__init__.py": SCRIPTS.encode(),
        "networks.py": NETWORKS.format(name=classifier.name).encode(),
        "score.py": Path(__file__).with_name("bundle_scoring.py").read_bytes(),
    }
    return {f"scripts/{path}": source for path, source in files.items()}


def _inference(schema: Schema) -> dict[str, Any]:
    assert schema.imaging is not None
    return {
        "imports": ["$import glob", "$import os", "$import torch", "$from scripts import score"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "classes": list(schema.label.classes),
        "network_def": {
            "_target_": "scripts.score.OneInput",
            "scores": {
                "_target_": "scripts.networks.scores",
                "channels": len(schema.imaging.channels),
                "classes": len(schema.label.classes),
            },
        },
        "network": "$@network_def.to(@device)",
        "parameters": "$torch.load(@bundle_root + '/models/model.pt', map_location=@device, "
        "weights_only=True)",
        "patients": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.npy')))",
        "initialize": ["$@network.load_state_dict(@parameters)"],
        "run": [
            "$score.write(@network, @patients, @classes, os.path.join(@output_dir, "
            "'predictions.csv'))"
        ],
    }


def _metadata(
    study: Study, task: str, schema: Schema, network: onnx_export.Network, report: Mapping[str, Any]
) -> dict[str, Any]:
    """By MONAI's metadata schema (meta_schema_20240725)."""
    imaging = schema.imaging
    assert imaging is not None
    channels = [c.name for c in imaging.channels]
    version = str(report["fedmets"])
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": version,
        "changelog": {version: f"as the run left it, state {report['state_hash']}"},
        "monai_version": importlib.metadata.version("monai"),
        "pytorch_version": importlib.metadata.version("torch"),
        "numpy_version": importlib.metadata.version("numpy"),
        "required_packages_version": {},
        "name": f"{study.name} {task}, image network",
        "task": study.question,
        "description": f"A classifier of crops of {', '.join(channels)}, trained by federated "
        f"averaging. {report['research_use_only']}",
        "authors": MISSING,
        "copyright": MISSING,
        "data_source": "synthetic" if report["synthetic"] else str(report["label"]["source"]),
        "data_type": "numpy",
        "image_classes": "; ".join((*channels, "share of lesion")),
        "label_classes": ", ".join(f"{i}: {c}" for i, c in enumerate(schema.label.classes)),
        "pred_classes": ", ".join(f"{i}: {c}" for i, c in enumerate(schema.label.classes)),
        "eval_metrics": _metrics(report),
        "intended_use": report["research_use_only"],
        "references": [],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": imaging.modality.values,
                    "modality": imaging.modality.name,
                    "num_channels": len(channels) + 1,
                    "spatial_shape": list(network.grid),
                    "dtype": "float32",
                    "value_range": list(imaging.modality.span),
                    "is_patch_data": True,
                    "channel_def": {
                        str(i): c for i, c in enumerate((*channels, "share of lesion"))
                    },
                    "crop_mm": list(imaging.crop_mm),
                    "intensity": onnx_export.scaling(imaging),
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": len(schema.label.classes),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "scale": "logits, one crop's; a patient's are their mean",
                    "channel_def": {str(i): c for i, c in enumerate(schema.label.classes)},
                }
            },
        },
        "fedmets": {
            "study": study.name,
            "task": task,
            "schema": schema.hash,
            "state_hash": report["state_hash"],
        },
    }


def _metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The image model's own, where they can be estimated."""
    out = {}
    for r in report["results"]:
        if (
            (r["model"], r["arm"], r["site"]) == ("image", "federated", "all")
            and r["metric"] in ("auc", "brier")
            and r["estimable"]
        ):
            out[f"{r['metric']}, {r['evaluation']}"] = float(r["value"])
    return out


def _parameters(network: onnx_export.Network) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(
        {f"scores.{k}": v.detach().clone() for k, v in network.module.state_dict().items()}, file
    )
    return file.getvalue()


def _readme(
    study: Study, task: str, network: onnx_export.Network, report: Mapping[str, Any]
) -> str:
    says = "\n".join(
        f"- `{n}` (n, {', '.join(map(str, shape))}): {what}"
        for n, (shape, what) in network.inputs.items()
    )
    return f"""# {study.name}, {task}: the image network

{study.question} **{report["research_use_only"]}**

A patient is one NumPy file (crops, channels + 1, z, y, x), float32; a missing channel is all zero. Run in this folder:

```
python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json --dataset_dir DIR --output_dir DIR
```

It writes `predictions.csv`, a line a patient: softmax of the mean of the crops' logits. It needs torch, MONAI, NumPy and fire.

`models/model.pt` is the state dict of `network_def`. `models/model.pt2` is the same network as a program, with no code beside it:
`torch.export.load("models/model.pt2").module()(crops, present)` gives logits and log-odds, a crop's. Its inputs:

{says}

How it was trained and judged: the model card two folders above. State {report["state_hash"]}. {NO_LICENCE}
"""


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
