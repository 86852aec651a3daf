"""Model folder of a run: coefficients with names and units, the native Booster, preprocessing, a
model card. It outlives the run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from common.data.schema import Schema
from common.errors import UsageError
from common.federated.learner import MEMORY, Federated, hyper_of
from common.federated.model_state import FORMAT, model_state
from common.metrics.score_histogram import youden
from common.study.study import Study
from common.trees.leaves import Leaves
from common.types import State
from common.wire import signing
from common.wire.model_signature import SIGNATURE, sealed
from common.wire.signing import Signer
from server.config.enrolled_sites import KEY
from server.config.jobs import clinical_head
from server.config.run_config import Run
from server.export import fusion_file, monai_bundle, onnx_export
from server.export.model_card import card
from server.ledger import state_store


def write(
    folder: Path,
    run: Run,
    study: Study,
    task: str,
    state: State,
    heads: Sequence[Federated],
    report: Mapping[str, Any],
) -> dict[str, str]:
    """`model/`: what a site predicts with (model.json, model.state as safetensors:
    `client.local_model.model_folder` opens them), and for other programs preprocessing.json,
    schema.json, coefficients.csv, boosting.json (a native Booster), fusion.json, other heads'
    arrays, the networks as ONNX files, a MONAI bundle; README.md, SHA256SUMS, and the
    coordinator's SIGNATURE over them.

    `state`: that of the final models. A study of one's own lies beside it, where it is a TOML file.
    Returns the SHA-256 of each file but the card.
    """
    schema = study.schema_at(task)
    fitted = [
        h for h in heads if state.get(h.name)
    ]  # what could not be fitted on everybody is not there; the report says so
    files: dict[str, bytes] = {
        # a head made for noise standardises nothing
        **(
            {"preprocessing.json": _json(preprocessing(schema, state))}
            if state.get("preprocessing")
            else {}
        ),
        "schema.json": _json(_schema(study, task, schema)),
        **_predicting(run, study, task, state, fitted, report),
    }
    for head in fitted:
        if head.name == "logistic":
            files["coefficients.csv"] = coefficients(schema, state).encode()
        elif head.name == "boosting":
            from common.learners.boosting import booster

            files["boosting.json"] = bytes(booster(state, schema).save_raw("json"))
        elif "image" not in head.modality:
            arrays = {
                k: {"dtype": str(v.dtype), "shape": list(v.shape), "values": v.ravel().tolist()}
                for k, v in state[head.name].items()
            }
            files[f"{head.name}.json"] = _json(arrays)
    if any(h.name == "fusion" for h in fitted):
        fusion = next(h for h in fitted if h.name == "fusion")
        files["fusion.json"] = _json(
            fusion_file.figures(schema, state, str(hyper_of(fusion)["clinical"]))
        )
    exported, failed = _networks(
        study, task, schema, {n: a for n, a in state.items() if _learnt(n, fitted)}, report
    )
    files |= exported
    hashes = {name: hashlib.sha256(blob).hexdigest() for name, blob in sorted(files.items())}
    leaves = None if run.noise else _leaves(schema, state, fitted)
    files["README.md"] = card(study, task, schema, heads, report, failed, leaves).encode()
    for name, blob in {**files, **sealed(files, _signer(run, folder))}.items():
        state_store.write(folder / name, blob)
    return hashes


def _signer(run: Run, folder: Path) -> Signer | None:
    """The coordinator's plan key, which sites have pinned. Where it does not lie here (the report of
    a run that was copied elsewhere), the model is not signed, and no signature of another stays."""
    try:
        return signing.load(Path(run.keys) / KEY) if run.keys else None
    except UsageError as error:
        logging.getLogger("fedmets").warning(
            "%s is not signed (%s); sites refuse it unless they are told --unsigned: write the "
            "report where the coordinator's keys lie",
            folder,
            "; ".join(error.faults),
        )
        with suppress(OSError):
            (folder / SIGNATURE).unlink()
        return None


def _leaves(schema: Schema, state: State, fitted: Sequence[Federated]) -> Leaves | None:
    """Those of the boosted trees."""
    from common.learners.boosting import Boosting

    head = next((h for h in fitted if isinstance(h, Boosting)), None)
    return None if head is None else head.leaves(state, schema)


def _learnt(name: str, fitted: Sequence[Federated]) -> bool:
    return any(name in (h.name, *h.needs) for h in fitted)


def _networks(
    study: Study, task: str, schema: Schema, state: State, report: Mapping[str, Any]
) -> tuple[dict[str, bytes], list[str]]:
    """ONNX files, and the bundle; nothing where no network on images was trained. And what could
    not be exported, with the reason.

    A run that took days must not be lost to an exporter: what fedmets itself predicts with is
    written whatever becomes of these.
    """
    files: dict[str, bytes] = {}
    failed = []
    for network in onnx_export.trained_networks(schema, state):
        try:
            program = onnx_export.traced(network)
            exported = {
                f"{network.name}.onnx": onnx_export.onnx(
                    network, program, _onnx_metadata(study, task, schema, report)
                )
            }
            if network.name == "image":
                bundle = monai_bundle.files(study, task, state, network, program, report)
                exported |= {f"bundle/{name}": blob for name, blob in bundle.items()}
            files |= exported
        except Exception as error:
            failed.append(
                f"{network.name}: {type(error).__name__}: "
                f"{str(error).strip().partition(chr(10))[0]}"
            )
            logging.getLogger("fedmets").warning(
                "not exported for other programs: %s; model.state has it", failed[-1]
            )
    return files, failed


def _onnx_metadata(
    study: Study, task: str, schema: Schema, report: Mapping[str, Any]
) -> dict[str, str]:
    """What an ONNX file says of itself."""
    imaging = schema.imaging
    assert imaging is not None
    metadata = {
        "study": study.name,
        "task": task,
        "classes": json.dumps(schema.label.classes),
        "channels": json.dumps([c.name for c in imaging.channels]),
        "spacing_mm": json.dumps(imaging.spacing_mm),
        "crop_mm": json.dumps(imaging.crop_mm),
        "intensity": onnx_export.scaling(imaging),
        "use": report["research_use_only"],
    }
    return {
        **metadata,
        "schema": schema.hash,
        "state_hash": report["state_hash"],
        "version": str(report["fedmets"]),
    }


def _predicting(
    run: Run,
    study: Study,
    task: str,
    state: State,
    heads: Sequence[Federated],
    report: Mapping[str, Any],
) -> dict[str, bytes]:
    names = list(dict.fromkeys(n for h in heads for n in (*h.needs, h.name) if state.get(n)))
    study_path = Path(run.study)
    model_json = {
        "format": FORMAT,
        "fedmets": report["fedmets"],
        "study": study.name,
        "study_file": "study.toml" if study_path.suffix == ".toml" else "",
        "task": task,
        "schema": study.schema_at(task).hash,
        "learners": {n: hyper_of(run.learner(n, study)) for n in names},
        "heads": [h.name for h in heads],
        "clinical": clinical_head(study, heads) or "",
        "thresholds": _thresholds(state, heads),
        "state_hash": report["state_hash"],
        "seed": run.seed,
        "parts": run.parts,
        "sites": [s["name"] for s in report["sites"]],
    }
    arrays = {n: {k: v for k, v in state[n].items() if not k.startswith(MEMORY)} for n in names}
    study_file = {"study.toml": study_path.read_bytes()} if model_json["study_file"] else {}
    return {"model.json": _json(model_json), "model.state": model_state(arrays), **study_file}


def _thresholds(state: State, heads: Sequence[Federated]) -> dict[str, float]:
    """For two classes: Youden's, on the predictions of everybody by models that had not seen
    them."""
    out = {}
    for head in heads:
        histogram = state.get("evaluation", {}).get(f"{head.name}/within/histogram")
        best = youden(histogram[1]) if histogram is not None and len(histogram) == 2 else None
        if best is not None:
            out[head.name] = best.threshold
    return out


def preprocessing(schema: Schema, state: State) -> dict[str, Any]:
    """What must be done to a value before a linear model sees it; trees take natural values, NaN
    where missing."""
    arrays = state["preprocessing"]
    columns = []
    for j, c in enumerate(schema.columns):
        columns.append(
            {
                "column": c.name,
                "feature": c.feature.name,
                "unit": c.unit,
                "low": c.low,
                "high": c.high,
                "transform": f"log(1 + x - {c.low:g})" if c.scale == "log" else "x",
                "mean": float(arrays["mean"][j]),
                "standard_deviation": float(arrays["scale"][j]),
                "known_training_cases": int(arrays["count"][j]),
            }
        )
    return {
        "columns": columns,
        "missing": "0 after standardisation (the training mean)",
        "clip": float(arrays["clip"]),
    }


def coefficients(schema: Schema, state: State) -> str:
    """CSV: for each class but the reference and each column, the log odds ratio per standard
    deviation and per unit of the transform."""
    arrays, beta = state["preprocessing"], state["logistic"]["coefficients"]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(
        [
            "class",
            "reference",
            "column",
            "unit",
            "transform",
            "per_standard_deviation",
            "per_unit_of_transform",
            "odds_ratio_per_standard_deviation",
        ]
    )
    for k, name in enumerate(schema.label.classes[1:]):
        out.writerow(
            [name, schema.label.classes[0], "(intercept)", "", "", repr(float(beta[k, 0])), "", ""]
        )
        for j, c in enumerate(schema.columns):
            b = float(beta[k, 1 + j])
            transform = f"log(1 + x - {c.low:g})" if c.scale == "log" else "x"
            out.writerow(
                [
                    name,
                    schema.label.classes[0],
                    c.name,
                    c.unit,
                    transform,
                    repr(b),
                    repr(b / float(arrays["scale"][j])),
                    repr(float(np.exp(b))),
                ]
            )
    return text.getvalue()


def _schema(study: Study, task: str, schema: Schema) -> dict[str, Any]:
    from dataclasses import asdict

    return {"study": study.name, "task": task, "hash": schema.hash, **asdict(schema)}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
