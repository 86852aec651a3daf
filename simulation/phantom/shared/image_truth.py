"""Ground truth of an imaging phantom (`truth.json` beside the data): what its generator knows of
the cohort."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import DataError, UsageError

TRUTH: Final = "truth.json"
"""Written last: a folder without it holds no whole phantom."""
MARK: Final = ".phantom"
"""Written first, so that what an interrupt leaves is known to be nobody's data."""


@dataclass(frozen=True)
class Case:
    """One patient."""

    label: str
    """The class; empty where the follow-up leaves it unknown."""
    maker: str
    image: bool
    mask: bool
    """Whether an expert has outlined the image."""
    table: bool
    """Whether the clinical row holds any feature."""
    latent: tuple[float, ...]
    """What the image shows, in standard deviations; it is nowhere else."""


@dataclass(frozen=True)
class Truth:
    """Counts are of patients; a ceiling is an AUC (of several classes: the mean of one against the
    rest)."""

    study: str
    seed: int
    patients: int
    null: bool
    """True: the image shows latents that have nothing to do with the label."""
    missing: bool
    """True: whole makers lack a modality (`holdings.ABSENT`)."""
    known: int
    classes: Mapping[str, int]
    """Class -> patients with that label known."""
    model: Mapping[str, tuple[float, ...]]
    """The numbers of the generator: coefficients of a logit, or a class's means."""
    ceilings: Mapping[str, float]
    """'clinical', 'image', 'fusion' -> AUC of the true posterior in the population, given the
    table, the image or both (Monte Carlo)."""
    cohort_ceilings: Mapping[str, float]
    """The same on this cohort's patients of known label: who have the table, the image; of the
    fusion all, each by what there is."""
    ceilings_without: Mapping[str, Mapping[str, float]]
    """Clinical feature -> `ceilings` where the table lacks it."""
    cases: Mapping[str, Case]
    """Patient's id -> what is true of the patient."""


def keep(truth: Truth, folder: Path) -> None:
    (folder / TRUTH).write_text(
        json.dumps(dataclasses.asdict(truth), indent=1) + "\n", encoding="utf-8"
    )


def read_truth(folder: Path, study: str) -> Truth | None:
    """The truth beside a phantom of `study`, or None where `folder` holds none. Raises DataError
    D00 for a file that is not one."""
    path = Path(folder) / TRUTH
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["model"] = {name: tuple(values) for name, values in raw["model"].items()}
        raw["cases"] = {
            i: Case(**(case | {"latent": tuple(case["latent"])}))
            for i, case in raw["cases"].items()
        }
        truth = Truth(**raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "D00",
            f"D00 {path}: not the truth of an imaging phantom ({error}). Write the phantom again",
        ) from error
    if truth.study != study:
        raise DataError(
            "D00",
            f"D00 {path}: the truth of a phantom of '{truth.study}', not of '{study}'. Take the "
            "other folder",
        )
    return truth


def clear(folder: Path, collection: str) -> None:
    """Make room for a phantom: an older one in `folder`, or what an interrupt left of it, is
    removed, its truth first.

    Raises UsageError C01 for images that are no phantom's.
    """
    tree, mark, truth = folder / collection, folder / MARK, folder / TRUTH
    if tree.exists() and not (mark.is_file() or truth.is_file()):
        raise UsageError(
            "C01", f"{tree} is there already and belongs to no phantom; give another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    truth.unlink(missing_ok=True)
    if tree.exists():
        shutil.rmtree(tree)
    tree.mkdir()
