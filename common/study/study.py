"""Study, one clinical question: a Schema, prediction times, the learners that answer it, and what
must be said beside the answer.

A third study is one new file in `common/studies/`, or a TOML or Python file of one's own anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.data.schema import Choice, Schema
from common.errors import LeakError, UsageError
from common.study.outcomes import ALWAYS_DENIED, denied_of, spelled, vital_status


@dataclass(frozen=True)
class Task:
    """One prediction time of a study, with what a reader must be told about it."""

    time: str
    caution: str = ""
    """Printed on page 1."""
    alarm: float | None = None
    """Guard E11: on real collections, an AUC whose whole interval lies above this is implausible
    and said to be so."""


@dataclass(frozen=True)
class Study:
    """`source`, where given, is a mapping (see `client/table/mapping.py`) that says where a table
    of one's own holds the features."""

    name: str
    question: str
    schema: Schema
    tasks: Mapping[str, Task]
    learners: tuple[str, ...] = ("logistic", "boosting")
    hyper: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Learner name -> hyperparameters that differ from the learner's defaults."""
    clinical: str | None = None
    """The head reported as `clinical`; None: the one with the lower out-of-fold log loss on the
    training rows."""
    denied: tuple[str, ...] = ()
    """Guard L02: regular expressions of source columns and feature names that are outcomes or
    encode the label."""
    source: Mapping[str, Any] | None = None
    virtual: str = ""
    """Where one hospital's patients are split into virtual sites: the sentence that says so on page
    1."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Feature -> the reason why guard L02 does not apply to it; printed in the report."""

    def schema_at(self, task: str) -> Schema:
        if task not in self.tasks:
            raise UsageError(
                "C01",
                f"study '{self.name}' has no task '{task}'; its tasks are {', '.join(self.tasks)}",
            )
        return self.schema.at(self.tasks[task].time)


def denied_by(study: Study) -> Callable[[str], str]:
    """Guard L02 of `study`: the regular expression that refuses a name, '' where none does. The
    study's own are searched in the name as it is written, the others as it is `spelled`; these are
    the ones of every study and, where the label is a part of the stage, what says that part
    again."""
    label = study.schema.label
    told = study.source.get("label", {}).get("column", "") if study.source is not None else ""
    columns = told if isinstance(told, list | tuple) else (told,)
    names = (label.name, label.title, *map(str, columns))
    usual = (*ALWAYS_DENIED, *denied_of(names, label.classes))

    def denied(name: str) -> str:
        word = spelled(name)
        hits = [p for p in usual if re.search(p, word)]
        hits += [p for p in study.denied if re.search(p, name, re.IGNORECASE)]
        return hits[0] if hits else ""

    return denied


def guard_denied(study: Study, columns: Mapping[str, str]) -> None:
    """Guard L02: refuse features whose name, source column or vocabulary is that of an outcome.
    `columns`: feature name -> its column's name."""
    denied = denied_by(study)
    vocabularies = {f.name: f.values for f in study.schema.features if isinstance(f, Choice)}
    faults = []
    for feature, column in columns.items():
        if feature in study.overrides:
            continue
        hits = [
            f"'{text}' matches {pattern!r}"
            for text in (feature, column)
            if (pattern := denied(text))
        ]
        if vital_status(vocabularies.get(feature, ())):
            hits.append(f"its values {', '.join(vocabularies[feature])} are a vital status")
        if hits:
            faults.append(
                f"L02 feature '{feature}' (column '{column}') is an outcome or encodes the "
                f"label '{study.schema.label.name}' ({hits[0]}); remove it from the features"
            )
    if faults:
        raise LeakError("L02", *faults)
