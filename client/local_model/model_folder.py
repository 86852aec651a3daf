"""Model folder: a federation's final model, as a run leaves it in `model/`, opened at a site for
its own use.

It is data: `client.local_model.folder_files` reads its files, and here they become a study, learners
and arrays, each checked before it is used. No program is run that it names, and no path is followed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from client.local_model import folder_files
from client.local_model.folder_files import Files, Trust
from common.data.cohort import empty
from common.data.schema import Schema
from common.errors import DataError, FedmetsError, UsageError
from common.federated.learner import Head, Hyper, lacks, load, validate
from common.federated.model_state import READ, opened
from common.learners.image import Image
from common.study import load as studies
from common.study.image_sections import ImagesSpec
from common.study.study import Study
from common.study.study_file import from_toml
from common.types import State

MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What arrays of other names, kinds and shapes come to where they are used."""
ELSEWHERE = ("pretrained", "pretrained_sha256")
"""Hyperparameters that name a file: what was started from is in the parameters already."""


Text = Annotated[str, StringConstraints(pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\z", max_length=200)]
"""It is printed: a terminal would obey control characters."""


class ModelJson(BaseModel):
    """model.json, as far as it is used; what else stands there is not looked at."""

    model_config = ConfigDict(strict=True, extra="ignore")
    format: Literal[READ]  # type: ignore[valid-type]
    fedmets: Text = "?"
    study: Text
    study_file: Literal["", "study.toml"]
    task: Text
    schema_hash: Text = Field(alias="schema")
    learners: dict[Text, dict[str, Any]]
    heads: list[Text]
    clinical: Text
    thresholds: dict[Text, Annotated[float, Field(ge=0, le=1)]]
    state_hash: Text = ""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    parts: Annotated[int, Field(ge=2, le=100)] = 5
    sites: list[Text] | None = None
    site_local: bool = False
    site: Text = ""

    @field_validator("heads")
    @classmethod
    def _once(cls, heads: list[str]) -> list[str]:
        if len(set(heads)) < len(heads):
            raise ValueError("names a head twice")
        return heads


@dataclass(frozen=True)
class Model:
    """`state`: learner -> arrays; `heads`: those that predict, configured."""

    study: Study
    task: str
    state: State
    heads: tuple[Head, ...]
    clinical: str
    """The head that stands for the clinical model; empty: none was named."""
    thresholds: Mapping[str, float]
    """Head -> the probability from which a patient is called positive; two classes only."""
    declared: Mapping[str, Any]
    """All of model.json, what `ModelJson` takes of it as that takes it."""
    files: Files
    """What was read, and whose it is."""

    @property
    def sha256(self) -> str:
        """Of the parameters' file."""
        return self.files.sha256


@dataclass(frozen=True)
class Networks:
    """`state`: learner -> arrays; `image`: the image learner with the run's settings."""

    state: State
    image: Image
    declared: Mapping[str, Any]
    """All of model.json."""
    files: Files

    @property
    def sha256(self) -> str:
        """Of the parameters' file."""
        return self.files.sha256

    def demand(self, schema: Schema) -> None:
        """DataError D00 where the arrays are none that the networks of this schema's images have:
        before any of them is used."""
        try:
            validate(self.state, schema)
        except (FedmetsError, *MALFORMED) as error:
            raise _foreign(self.files.folder, self.declared, error) from error


def open_model(folder: Path, study: str = "", trust: Trust | None = None) -> Model:
    """The model in a folder, whoever of `trust` has signed it.

    `study`: a name or file in place of the study that the model names. DataError D00 where a file
    is not there, altered, or of another version, P05 where the model is another's, D07 where the
    study here is not the one that the model was trained for.
    """
    files = folder_files.read(folder, trust or Trust())
    declared, state = _read(files)
    loaded = studies.load(study) if study else _study(files, declared)
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
        heads = tuple(cast(Head, _learner(declared, name)) for name in declared["heads"])
        _demand_state(heads, state, schema)
    except (FedmetsError, *MALFORMED) as error:
        raise _foreign(folder, declared, error) from error
    clinical, thresholds = declared["clinical"], declared["thresholds"]
    return Model(loaded, declared["task"], state, heads, clinical, thresholds, declared, files)


def open_networks(folder: Path, trust: Trust | None = None) -> Networks:
    """The networks alone. DataError D00, too, where the run trained none."""
    files = folder_files.read(folder, trust or Trust())
    declared, state = _read(files)
    if "image" not in declared["learners"] or not state.get("image"):
        raise DataError(
            "D00",
            f"D00 {folder}: the model has no image network. Give the folder model/ of a run that "
            "trained one",
        )
    try:
        image = cast(Image, _learner(declared, "image"))
    except UsageError as error:
        raise _foreign(folder, declared, error) from error
    return Networks(state, image, declared, files)


def _study(files: Files, declared: Mapping[str, Any]) -> Study:
    """The study.toml beside the model, or the one of that name among fedmets' own: never a program,
    and no path that the model names."""
    name = declared["study"]
    if declared["study_file"]:
        try:
            text = files.blobs[folder_files.STUDY].decode("utf-8")
            study = from_toml(tomllib.loads(text), str(files.folder / folder_files.STUDY))
            images = ImagesSpec(**(study.source or {}).get("images", {}))
            if images.searches:
                raise ValueError(
                    f"[images] has regular expressions ({', '.join(images.searches)}), which are "
                    "not taken from a model. Give the study file that it was trained with (--study)"
                )
            # a pattern can be one whose search never ends; what is an outcome was judged in training
            return replace(study, denied=())
        except (KeyError, ValueError, RecursionError) as error:
            why = f"{folder_files.STUDY}: {error}"
            raise _foreign(files.folder, declared, ValueError(why)) from error
    if name not in studies.names():
        raise DataError(
            "D00",
            f"D00 {files.folder}: the model is for study {name[:80]!r}, which neither it nor "
            f"fedmets brings (there are {', '.join(studies.names())}). Give the study file that it "
            "was trained with (--study)",
        )
    return studies.load(name)


def _learner(declared: Mapping[str, Any], name: str) -> Any:
    hyper: Hyper = declared["learners"][name]
    return load(name, {k: v for k, v in hyper.items() if k not in ELSEWHERE})


def _demand_state(heads: tuple[Head, ...], state: State, schema: Schema) -> None:
    """An error, of FedmetsError or `MALFORMED`, where the arrays are none that these heads predict
    with: by what learners say of them, and by the prediction of nobody."""
    for head in heads:
        if not isinstance(head, Head):
            raise UsageError("C02", f"learner '{getattr(head, 'name', head)}' predicts nothing")
        if lacks(head, state) or not state.get(head.name):
            raise UsageError("C02", f"model.state lacks what head '{head.name}' predicts with")
    validate(state, schema)
    for head in heads:
        head.predict(state, empty(schema))


def _read(files: Files) -> tuple[dict[str, Any], State]:
    folder, declared = files.folder, dict[str, Any]()
    try:
        declared = json.loads(files.blobs[folder_files.JSON])
        declared |= ModelJson.model_validate(declared).model_dump(by_alias=True)
        for hyper in declared["learners"].values():
            if isinstance(hyper.get("learners"), str):  # format 1
                hyper["learners"] = json.loads(hyper["learners"])
        state = opened(files.blobs[folder_files.STATE])
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        why = f"model.json: {'; '.join(faults[:5])}"
        raise _foreign(folder, declared, ValueError(why)) from error
    except (FedmetsError, *MALFORMED) as error:
        raise _foreign(folder, declared, error) from error
    return declared, state


def _foreign(folder: Path, declared: Any, error: Exception) -> DataError:
    version = declared.get("fedmets", "?") if isinstance(declared, dict) else "?"
    return DataError(
        "D00",
        f"D00 {folder}: not a model that this version reads ({error}). Use the fedmets that made "
        f"it ({str(version)[:40]})",
    )
