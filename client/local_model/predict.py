"""Prediction for new patients by the federation's final model, beside their data: same reading,
same refusals, no network.

`predictions.csv` has a line a patient, `left_out.csv` whom it does not speak about and why,
`notes.txt` what the reading had to say. Files are readable by their owner alone.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cohort.reader import Reading
from client.local_model.model_folder import Model
from common.data.cohort import Cohort
from common.data.picture import ROI_SOURCES
from common.errors import DataError
from common.federated.learner import Head
from common.learners.evaluation import scorable
from common.runtime.atomic_files import durable
from common.types import Probs

_CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f]")
_FORMULA = re.compile(r"\s*[=@|%]|\s*[+-](?![\d.e]*\Z)")


@dataclass(frozen=True)
class Scored:
    """What one head says: (cases, classes) probabilities, and which cases have any."""

    head: Head
    probs: Probs
    seen: NDArray[np.bool_]


def score(model: Model, cohort: Cohort) -> list[Scored]:
    """Every head on the cases that it can say something about. D07 where the cohort was read for
    another schema."""
    if cohort.schema.hash != model.declared["schema"]:
        raise DataError(
            "D07",
            f"D07 the cases were read for schema {cohort.schema.hash[:12]}, the model is for "
            f"{model.declared['schema'][:12]}",
        )
    classes = len(cohort.schema.label.classes)
    out = []
    for head in model.heads:
        probs, scorable_cases = np.full((len(cohort), classes), np.nan), scorable(head, cohort)
        if scorable_cases.any():
            probs[scorable_cases] = head.predict(model.state, cohort.where(scorable_cases))
            if not np.isfinite(probs[scorable_cases]).all():
                raise DataError(
                    "D00",
                    f"D00 {model.files.folder}: head '{head.name}' gives probabilities that are no "
                    "numbers. Ask for the run's model/ again",
                )
        out.append(Scored(head, probs, scorable_cases))
    return out


def write(model: Model, reading: Reading, folder: Path) -> dict[str, int]:
    """Write the three files; how many patients each head scored, how many were left out, and how
    many of these were set aside for a cell that cannot be read."""
    cohort = reading.cohort
    scored = score(model, cohort)
    if not any(s.seen.any() for s in scored):
        modalities = ", ".join(sorted(cohort.modalities)) or "nothing"
        raise DataError(
            "D06",
            f"D06 none of the model's heads can score these {len(cohort)} patients: the folder "
            f"holds {modalities}",
        )
    _put(folder / "left_out.csv", _table(["patient", "why"], sorted(reading.left_out.items())))
    _put(
        folder / "notes.txt",
        "".join(
            f"{line}\n"
            for line in (*cohort.flow.notes, *reading.image_log(cohort.ids), *_of(model))
        ),
    )
    # last, so that where there are predictions there is what must be read with them
    _put(folder / "predictions.csv", _table(_header(model), _rows(model, cohort, scored)))
    return {
        "patients": len(cohort),
        **{s.head.name: int(s.seen.sum()) for s in scored},
        "left out": len(reading.left_out),
        "set aside": len(reading.unreadable),
    }


def _header(model: Model) -> list[str]:
    classes = model.study.schema_at(model.task).label.classes
    columns = ["patient", "features_known", "features_missing", "region"]
    for head in model.heads:
        columns += [f"{head.name}: {c}" for c in (classes[1:] if len(classes) == 2 else classes)]
        columns += (
            [f"{head.name}: called"] if len(classes) > 2 or head.name in model.thresholds else []
        )
    return columns


def _rows(model: Model, cohort: Cohort, scored: Sequence[Scored]) -> list[list[str]]:
    classes, names = cohort.schema.label.classes, [f.name for f in cohort.schema.features]
    regions = _regions(model, cohort)
    out = []
    for i, patient in enumerate(cohort.ids):
        missing = [n for n, v in zip(names, cohort.values[i], strict=True) if np.isnan(v)]
        row = [patient, str(len(names) - len(missing)), " ".join(missing), regions[i]]
        for s in scored:
            probs, scorable = s.probs[i], bool(s.seen[i])
            row += [
                f"{p:.9g}" if scorable else "" for p in (probs[1:] if len(classes) == 2 else probs)
            ]
            if len(classes) > 2:
                row.append(classes[int(probs.argmax())] if scorable else "")
            elif s.head.name in model.thresholds:
                row.append(
                    classes[int(probs[1] >= model.thresholds[s.head.name])] if scorable else ""
                )
        out.append(row)
    return out


def _regions(model: Model, cohort: Cohort) -> list[str]:
    """Where the image model looked: a region by an expert, one found by the segmentation network,
    the whole; '' without an image."""
    out = [""] * len(cohort)
    image: Any = next((h for h in model.heads if h.name == "image"), None)
    if image is not None and cohort.imaged.any():
        sources = image.crops(model.state, cohort.where(cohort.imaged)).sources
        assert set(sources) <= set(ROI_SOURCES)
        for i, source in zip(np.flatnonzero(cohort.imaged), sources, strict=True):
            out[i] = source
    return out


def _of(model: Model) -> list[str]:
    """Which model it was."""
    declared = model.declared
    site_local = (
        [
            f"this is a model that the site '{declared['site']}' made for itself, and is not to "
            "be sent"
        ]
        if declared.get("site_local")
        else []
    )
    return [
        *site_local,
        f"model: study {declared['study']}, task {declared['task']}, parameters {model.sha256}, "
        f"fedmets {declared['fedmets']}; {model.files.signed}",
        "research use only: not a medical device, not for decisions about patients",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As CSV, the site's own ids first; texts of the model's study are for reading only."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [row[0], *map(_inert, row[1:])] for row in (header, *rows)
    )
    return text.getvalue()


def _inert(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: one could send the sheet elsewhere."""
    cell = _CONTROLS.sub(" ", cell)  # a carriage return would end a row for some readers
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _put(path: Path, text: str) -> None:
    durable(
        path,
        text.encode(),
        "free space or mend permissions, and start again",
        mode=0o600,
        folder=0o700,
    )
