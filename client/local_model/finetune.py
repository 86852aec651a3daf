"""Fine-tuning at a site (`fedmets client finetune`): the federation's model on its own patients,
the gain, a folder to predict with.

The folder has the form of a run's `model/` and says what it is: `site_local`, whose patients it has
seen, what it was made from. It is written at the end, checksums last: what an interruption leaves
is no model. Readable by its owner alone, and not to be sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from client.local_model import adaptation_value
from client.local_model.adaptation import NETWORK_HEADS, FineTuning, enough, usable
from client.local_model.adaptation_value import Comparison, Tell
from client.local_model.folder_files import STUDY
from client.local_model.model_folder import Model
from client.site.site_file import Site
from common.data.cohort import UNKNOWN, Cohort
from common.errors import DataError, UsageError
from common.federated.local_baseline import TRAINABLE
from common.federated.model_state import FORMAT, model_state
from common.runtime.atomic_files import durable
from common.study import load as studies
from common.types import digest, flatten
from common.wire.model_signature import SIGNATURE, sealed
from common.wire.signing import Signer

SEEN = (
    "The federation's model was trained on this site's patients, too: it has seen those that it "
    "is judged on here, and so has what the "
    "fine-tuned models start from. Both are flattered; the local model is not."
)
UNSEEN = (
    "This site took no part in the training: neither model has seen the patients that it is "
    "judged on."
)
UNTOLD = (
    "The model does not say which sites trained it. If this one did, the federation's model "
    "and the fine-tuned ones are flattered."
)
OURS = (
    "Made by a site for itself, from its own patients: it stays at the site and is not to be "
    "sent. Research use only."
)


def finetune(
    model: Model,
    cohort: Cohort,
    folder: Path,
    settings: FineTuning,
    tell: Tell,
    *,
    local: bool = True,
    signer: Signer | None = None,
) -> dict[str, Any]:
    """Write the folder, signed by the site's own key where there is one; returns the comparison.
    D07 for another schema, D09 for too few labelled
    patients, C01 where it would be written over another model, and RunError S03 where it cannot be
    written."""
    _admit(model, cohort, folder, settings)
    seed, parts = int(model.declared.get("seed", 0)), int(model.declared.get("parts", 5))
    comparison = adaptation_value.compare(model, cohort, seed, parts, settings, tell, local=local)
    record = {
        "site": cohort.site,
        "base": {"state_hash": model.declared.get("state_hash", ""), "sha256": model.sha256},
        "seed": seed,
        "parts": parts,
        "how": asdict(settings),
        "seen": _seen(model, cohort.site),
        "signed": model.files.signed,
        "interval": "95 %, DeLong, on the logit scale; differences are paired on the same "
        "patients; within this site",
        "heads": comparison.rows,
    }
    _write(folder, _files(model, cohort, comparison, record), signer)
    return record


def named(model: Model, site: Site) -> str:
    """The study as the site's own file names it: a study of one's own is a path there."""
    name = str(model.declared["study"])
    return next(
        (s for s in site.studies if s == name or (Path(s).suffix and studies.load(s).name == name)),
        name,
    )


def _admit(model: Model, cohort: Cohort, folder: Path, settings: FineTuning) -> None:
    if cohort.schema.hash != model.declared["schema"]:
        raise DataError(
            "D07",
            f"D07 the site's schema is {cohort.schema.hash[:12]}, the model is for "
            f"{model.declared['schema'][:12]}",
        )
    for head in model.heads:
        if head.name in NETWORK_HEADS:
            settings.tuned(head)
    if not settings.ridge > 0:
        raise UsageError("C01", f"--ridge {settings.ridge} must be above 0")
    labelled = cohort.where(cohort.labels != UNKNOWN)
    if not any(enough(h, labelled) for h in model.heads):
        counts = max(
            (np.bincount(labelled.labels[usable(h, labelled)], minlength=2) for h in model.heads),
            key=lambda c: int(c.sum()),
        )
        names = ", ".join(
            f"{n} {c}" for c, n in zip(cohort.schema.label.classes, counts, strict=False)
        )
        raise DataError(
            "D09",
            f"site '{cohort.site}': {names}; fine-tuning needs {TRAINABLE} labelled patients of "
            "each of two classes. Predict instead",
        )
    existing = folder / "model.json"
    if existing.exists():
        try:
            ours = bool(json.loads(existing.read_bytes()).get("site_local"))
        except (OSError, ValueError, AttributeError):
            ours = False
        if not ours:
            raise UsageError(
                "C01", f"--out {folder} holds a model that is not a site's own; give another folder"
            )


def _seen(model: Model, site: str) -> str:
    sites = model.declared.get("sites")
    if sites is None:
        return UNTOLD
    return SEEN if site in sites else UNSEEN


def _files(
    model: Model, cohort: Cohort, comparison: Comparison, record: Mapping[str, Any]
) -> dict[str, bytes]:
    state = flatten(comparison.state)
    model_json = {
        **model.declared,
        "format": FORMAT,
        "state_hash": digest(state),
        "thresholds": dict(comparison.thresholds),
        "site_local": True,
        "site": cohort.site,
        "base": record["base"],
        "fine_tuning": {r["head"]: r["fine_tuning"] for r in comparison.rows},
        "use": OURS,
    }
    files = {
        "model.state": model_state(comparison.state),
        "model.json": _json(model_json),
        "comparison.json": _json(record),
        "README.md": _readme(model, cohort, record).encode(),
    }
    if STUDY in model.files.blobs:
        files[STUDY] = model.files.blobs[STUDY]
    return files


def _write(folder: Path, files: Mapping[str, bytes], signer: Signer | None) -> None:
    for name, blob in {**files, **sealed(files, signer)}.items():
        durable(
            folder / name,
            blob,
            "free space or mend permissions, and start again",
            mode=0o600,
            folder=0o700,
        )
    if signer is None:  # of another model that lay here
        (folder / SIGNATURE).unlink(missing_ok=True)


def _readme(model: Model, cohort: Cohort, record: Mapping[str, Any]) -> str:
    lines = [f"- {r['head']}: {r['fine_tuning']}" for r in record["heads"]]
    return "\n".join(
        [
            f"# {model.declared['study']}, {model.task}, fine-tuned at {cohort.site}",
            "",
            f"**{OURS}**",
            "",
            f"Made from the model with the parameters {model.sha256}.",
            "",
            *lines,
            "",
            record["seen"],
            "",
            "What it is worth at this site: comparison.json. `fedmets client predict --model` "
            "takes this folder.",
            "",
        ]
    )


def table(record: Mapping[str, Any]) -> Any:
    """The comparison for a terminal."""
    from rich.table import Table

    out = Table(
        "Head",
        "Model",
        "n",
        "AUC within the site",
        "Calibration slope",
        "intercept",
        "Fine-tuned minus it",
    )
    for row in record["heads"]:
        differences = {d["b"]: d for d in row["differences"] if d["a"] == adaptation_value.TUNED}
        for name, m in row["models"].items():
            value = _interval(m["auc"], m["low"], m["high"])
            difference = differences.get(name)
            shown = (
                _interval(difference["difference"], difference["low"], difference["high"], "+.3f")
                if difference
                else ""
            )
            out.add_row(
                row["head"],
                name,
                str(row["n"]),
                value,
                _number(m["slope"]),
                _number(m["intercept"]),
                shown,
            )
    return out


def notes(record: Mapping[str, Any]) -> Sequence[str]:
    """What must be said beside the table."""
    not_estimable = [r["head"] for r in record["heads"] if not r["estimable"]]
    sentences = (
        [
            f"not estimable: {', '.join(not_estimable)}; it takes 10 labelled patients of each of "
            "two classes"
        ]
        if not_estimable
        else []
    )
    return [*sentences, record["seen"], record["interval"], f"model: {record['signed']}"]


def _interval(value: float | None, low: float | None, high: float | None, form: str = ".3f") -> str:
    if value is None:
        return "not estimable"
    return (
        f"{value:{form}} ({low:{form}} to {high:{form}})"
        if low is not None and high is not None
        else f"{value:{form}}"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
