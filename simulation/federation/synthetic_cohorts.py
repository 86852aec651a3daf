"""Synthetic cohorts: which one stands in for a study's patients, and the best AUC that any model
could reach on it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import UsageError
from common.federated.learner import Federated
from simulation import phantom

MODES = ("default", "null", "missing", "images")
"""null: the image carries nothing (a study of tables: the table neither); missing: sites without a
table, without images, without a sequence; images: a cohort of tables with CT of a few patients."""
IMAGED_PATIENTS = 28
"""Patients of TCGA-COAD and TCGA-READ whom TCIA holds CT of."""
_MODULES: Mapping[str, str] = {
    "colorectal_metastasis": "colorectal",
    "liver_recurrence": "liver",
    "brain_primary": "brain",
}


def exists(study: str) -> bool:
    return study in _MODULES


def write(
    study: str,
    folder: Path,
    *,
    seed: int,
    mode: str,
    patients: int | None,
    tell: Callable[[int, int], None],
) -> None:
    """Write the cohort to `folder`; one that a run to be resumed has written whole is left as it
    is."""
    writer = _module(study)
    if mode == "images" and _MODULES[study] != "colorectal":
        raise UsageError(
            "C01",
            f"--phantom images: the synthetic cohort of '{study}' has images by default; leave "
            "the option out",
        )
    if writer.read_truth(folder) is not None:
        return  # the truth is written last
    size: dict[str, Any] = {} if patients is None else {"patients": patients}
    if _MODULES[study] == "colorectal":
        if mode == "missing":
            raise UsageError(
                "C01",
                "--phantom missing: the synthetic colorectal cohort is a table only; there is no "
                "image to be missing",
            )
        writer.write(
            folder,
            seed=seed,
            null=mode == "null",
            images=IMAGED_PATIENTS if mode == "images" else 0,
            tell=tell,
            **size,
        )
    else:
        writer.write(
            folder, seed=seed, null=mode == "null", missing=mode == "missing", tell=tell, **size
        )


def ceilings(study: str, folder: Path, task: str, heads: tuple[Federated, ...]) -> dict[str, float]:
    """Model -> the generator's own ceiling of its AUC; empty without a truth beside the cohort."""
    truth = _module(study).read_truth(folder)
    if truth is None:
        return {}
    by_kind = truth.ceilings
    if task in by_kind:
        by_kind = {"clinical": by_kind[task], "image": by_kind[task], "fusion": by_kind[task]}
    out = {"clinical": by_kind["clinical"]}
    return out | {h.name: by_kind[h.name if h.name in by_kind else "clinical"] for h in heads}


def _module(study: str) -> Any:
    return importlib.import_module(f"{phantom.__name__}.{_MODULES[study]}.writer")
