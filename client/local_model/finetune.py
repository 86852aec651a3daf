"""`python -m client finetune`: the federation's model on a site's own patients, what that is worth, and a folder to predict with.

The folder has the form of a run's `model/` and says what it is: `site_local`, whose patients it has seen, what it was made from. It is
written at the end, checksums last: what an interruption leaves is no model. Readable by its owner alone, and not to be sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from client.local_model import adaptation_value
from client.local_model.adaptation import NETWORKS, How, enough, usable
from client.local_model.adaptation_value import Compared, Tell
from client.local_model.model_folder import Model
from client.site.site_file import Site
from common.data.cohort import UNKNOWN, Cohort
from common.errors import DataError, UsageError
from common.federated.local_baseline import TRAINABLE
from common.federated.model_state import FORMAT, model_state
from common.runtime.atomic_files import durable
from common.study import load as studies
from common.types import digest, flatten

SEEN = (
    "The federation's model was trained on this site's patients, too: it has seen those that it is judged on here, and so has what the "
    "fine-tuned models start from. Both are flattered; the local model is not."
)
UNSEEN = "This site took no part in the training: neither model has seen the patients that it is judged on."
UNTOLD = "The model does not say which sites trained it. If this one did, the federation's model and the fine-tuned ones are flattered."
OURS = "Made by a site for itself, from its own patients: it stays at the site and is not to be sent. Research use only."


def finetune(model: Model, cohort: Cohort, folder: Path, how: How, tell: Tell, *, local: bool = True) -> dict[str, Any]:
    """Write the folder; returns the comparison. D07 for another schema, D09 for too few labelled patients, C01 where it would be written
    over another model, and RunError S03 where it cannot be written."""
    _admit(model, cohort, folder, how)
    seed, parts = int(model.told.get("seed", 0)), int(model.told.get("parts", 5))
    done = adaptation_value.compare(model, cohort, seed, parts, how, tell, local=local)
    told = {
        "site": cohort.site,
        "base": {"state_hash": model.told.get("state_hash", ""), "sha256": model.sha256},
        "seed": seed,
        "parts": parts,
        "how": asdict(how),
        "seen": _seen(model, cohort.site),
        "interval": "95 %, DeLong, on the logit scale; differences are paired on the same patients; within this site",
        "heads": done.rows,
    }
    _write(model, cohort, folder, done, told)
    return told


def named(model: Model, site: Site) -> str:
    """The study as the site's own file names it: a study of one's own is a path there."""
    name = str(model.told["study"])
    return next((s for s in site.studies if s == name or (Path(s).suffix and studies.load(s).name == name)), name)


def _admit(model: Model, cohort: Cohort, folder: Path, how: How) -> None:
    if cohort.schema.hash != model.told["schema"]:
        raise DataError("D07", f"D07 the site's schema is {cohort.schema.hash[:12]}, the model is for {model.told['schema'][:12]}")
    for head in model.heads:
        if head.name in NETWORKS:
            how.tuned(head)
    if not how.ridge > 0:
        raise UsageError("C01", f"--ridge {how.ridge} must be above 0")
    known = cohort.where(cohort.labels != UNKNOWN)
    if not any(enough(h, known) for h in model.heads):
        most = max((np.bincount(known.labels[usable(h, known)], minlength=2) for h in model.heads), key=lambda c: int(c.sum()))
        names = ", ".join(f"{n} {c}" for c, n in zip(cohort.schema.label.classes, most, strict=False))
        raise DataError(
            "D09", f"site '{cohort.site}': {names}; fine-tuning needs {TRAINABLE} labelled patients of each of two classes. Predict instead"
        )
    told = folder / "model.json"
    if told.exists():
        try:
            ours = bool(json.loads(told.read_bytes()).get("site_local"))
        except (OSError, ValueError, AttributeError):
            ours = False
        if not ours:
            raise UsageError("C01", f"--out {folder} holds a model that is not a site's own; give another folder")


def _seen(model: Model, site: str) -> str:
    sites = model.told.get("sites")
    return UNTOLD if sites is None else SEEN if site in sites else UNSEEN


def _write(model: Model, cohort: Cohort, folder: Path, done: Compared, told: Mapping[str, Any]) -> None:
    state = flatten(done.state)
    mine = {
        **model.told,
        "format": FORMAT,
        "state_hash": digest(state),
        "thresholds": dict(done.thresholds),
        "site_local": True,
        "site": cohort.site,
        "base": told["base"],
        "fine_tuning": {r["head"]: r["fine_tuning"] for r in done.rows},
        "use": OURS,
    }
    files = {
        "model.state": model_state(done.state),
        "model.json": _json(mine),
        "comparison.json": _json(told),
        "README.md": _readme(model, cohort, told).encode(),
    }
    if model.told["study_file"]:
        files["study.toml"] = (model.folder / model.told["study_file"]).read_bytes()
    sums = "".join(f"{hashlib.sha256(b).hexdigest()}  {n}\n" for n, b in sorted(files.items()))
    for name, blob in (*files.items(), ("SHA256SUMS", sums.encode())):
        durable(folder / name, blob, "free space or mend permissions, and start again", mode=0o600, folder=0o700)


def _readme(model: Model, cohort: Cohort, told: Mapping[str, Any]) -> str:
    lines = [f"- {r['head']}: {r['fine_tuning']}" for r in told["heads"]]
    return "\n".join(
        [
            f"# {model.told['study']}, {model.task}, fine-tuned at {cohort.site}",
            "",
            f"**{OURS}**",
            "",
            f"Made from the model with the parameters {model.sha256}.",
            "",
            *lines,
            "",
            told["seen"],
            "",
            "What it is worth at this site: comparison.json. `python -m client predict --model` takes this folder.",
            "",
        ]
    )


def table(told: Mapping[str, Any]) -> Any:
    """The comparison for a terminal."""
    from rich.table import Table

    out = Table("Head", "Model", "n", "AUC within the site", "Calibration slope", "intercept", "Fine-tuned minus it")
    for row in told["heads"]:
        apart = {d["b"]: d for d in row["differences"] if d["a"] == adaptation_value.TUNED}
        for name, m in row["models"].items():
            value = _interval(m["auc"], m["low"], m["high"])
            less = apart.get(name)
            shown = _interval(less["difference"], less["low"], less["high"], "+.3f") if less else ""
            out.add_row(row["head"], name, str(row["n"]), value, _number(m["slope"]), _number(m["intercept"]), shown)
    return out


def notes(told: Mapping[str, Any]) -> Sequence[str]:
    """What must be said beside the table."""
    few = [r["head"] for r in told["heads"] if not r["estimable"]]
    said = [f"not estimable: {', '.join(few)}; it takes 10 labelled patients of each of two classes"] if few else []
    return [*said, told["seen"], told["interval"]]


def _interval(value: float | None, low: float | None, high: float | None, form: str = ".3f") -> str:
    if value is None:
        return "not estimable"
    return f"{value:{form}} ({low:{form}} to {high:{form}})" if low is not None and high is not None else f"{value:{form}}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
