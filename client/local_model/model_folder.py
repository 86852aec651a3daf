"""Model folder: a federation's final model, as a run leaves it in `model/`, opened at a site for
its own use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from common.errors import DataError, FedmetsError, UsageError
from common.federated.learner import Head, load
from common.federated.model_state import READ, opened
from common.learners.image import Image
from common.study import load as studies
from common.study.study import Study
from common.types import State


@dataclass(frozen=True)
class Model:
    """`state`: learner -> arrays; `heads`: those that predict, configured; `sha256` of the
    parameters' file."""

    study: Study
    task: str
    state: State
    heads: tuple[Head, ...]
    clinical: str
    """The head that stands for the clinical model; empty: none was named."""
    thresholds: Mapping[str, float]
    """Head -> the probability from which a patient is called positive; two classes only."""
    declared: Mapping[str, Any]
    """All of model.json."""
    sha256: str
    folder: Path


@dataclass(frozen=True)
class Networks:
    """`state`: learner -> arrays; `image`: the image learner with the run's settings; `sha256` of
    the parameters' file."""

    state: State
    image: Image
    sha256: str


def open_model(folder: Path, study: str = "") -> Model:
    """Read `model.json` and `model.state`, compared with `SHA256SUMS` beside them.

    `study`: a name or file in place of the study that the model names. DataError D00 where a file
    is not there, altered, or of another version, D07 where the study here is not the one that the
    model was trained for.
    """
    declared, state, sha256 = _read(folder)
    own_study = folder / declared["study_file"] if declared["study_file"] else None
    loaded = studies.load(study or (str(own_study) if own_study else declared["study"]))
    schema = loaded.schema_at(declared["task"])
    if schema.hash != declared["schema"]:
        raise DataError(
            "D07",
            f"D07 {folder}: the model is for study '{declared['study']}' with the schema "
            f"{declared['schema'][:12]}, "
            f"here it is {schema.hash[:12]}. "
            f"Use fedmets {declared['fedmets']}, or give the study file that it was trained with "
            "(--study)",
        )
    try:
        heads = tuple(cast(Head, load(n, declared["learners"][n])) for n in declared["heads"])
    except (UsageError, KeyError) as error:
        raise _foreign(folder, declared, error) from error
    return Model(
        loaded,
        declared["task"],
        state,
        heads,
        declared["clinical"],
        declared["thresholds"],
        declared,
        sha256,
        folder,
    )


def open_networks(folder: Path) -> Networks:
    """The networks alone. DataError D00, too, where the run trained none."""
    declared, state, sha256 = _read(folder)
    if "image" not in declared["learners"]:
        raise DataError(
            "D00",
            f"D00 {folder}: the model has no image network. Give the folder model/ of a run that "
            "trained one",
        )
    try:
        image = cast(Image, load("image", declared["learners"]["image"]))
    except UsageError as error:
        raise _foreign(folder, declared, error) from error
    return Networks(state, image, sha256)


def _read(folder: Path) -> tuple[dict[str, Any], State, str]:
    blobs = {}
    for name in ("model.state", "model.json", "SHA256SUMS"):
        try:
            blobs[name] = (folder / name).read_bytes()
        except OSError as error:
            raise DataError(
                "D00",
                f"D00 {folder / name}: cannot be read ({error.strerror}). Give the folder model/ "
                "of a run, as it was written",
            ) from error
    lines = blobs.pop("SHA256SUMS").decode("utf-8", "replace").splitlines()
    checksums = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    altered = [
        name
        for name, blob in blobs.items()
        if checksums.get(name) != hashlib.sha256(blob).hexdigest()
    ]
    if altered:
        raise DataError(
            "D00",
            *(
                f"D00 {folder / n}: not the file that SHA256SUMS names. Copy the run's model/ again"
                for n in altered
            ),
        )
    declared: dict[str, Any] = {}
    try:
        declared = json.loads(blobs["model.json"])
        if declared["format"] not in READ:
            raise ValueError(
                f"format {declared['format']}, this version reads {' and '.join(map(str, READ))}"
            )
        missing = {
            "study",
            "study_file",
            "task",
            "schema",
            "learners",
            "heads",
            "clinical",
            "thresholds",
        } - set(declared)
        if missing:
            raise ValueError(f"model.json lacks {', '.join(sorted(missing))}")
        for hyper in declared["learners"].values():
            if isinstance(hyper.get("learners"), str):  # format 1
                hyper["learners"] = json.loads(hyper["learners"])
        return declared, opened(blobs["model.state"]), checksums["model.state"]
    except (FedmetsError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _foreign(folder, declared, error) from error


def _foreign(folder: Path, declared: Any, error: Exception) -> DataError:
    version = declared.get("fedmets", "?") if isinstance(declared, dict) else "?"
    return DataError(
        "D00",
        f"D00 {folder}: not a model that this version reads ({error}). Use the fedmets that made "
        f"it ({version})",
    )
