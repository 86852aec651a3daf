"""Study, one clinical question: a Schema, prediction times, the learners that answer it, and what
must be said beside the answer.

A third study is one new file in `common/studies/`, or a TOML or Python file of one's own anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.data.schema import Schema
from common.errors import LeakError, UsageError


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


ALWAYS_DENIED = (
    r"vital_?status", r"days_to_(death|last|recurrence|progression)",
    r"(^|[._ ])(overall_)?survival",
    r"(^|[._ ])(os|dfs|pfs|dss|pfi)([._ ]|$)",
    r"_dfs", r"months_to_", r"progression", r"recurrence", r"cause_of_death", r"treatment_outcome",
    r"(^|[._ ])death", r"follow_?up",
)  # fmt: skip
"""Guard L02 for every study: later than any decision, wherever they are called so."""


STAGE_DENIED = (
    r"(?<![._ ][tn][._ ])(?<![._ ][cpy][tn][._ ])(?<!^[tn][._ ])(?<!^[cpy][tn][._ "
    r"])stag(e|ing)(?!r)", r"stadium",
    r"(^|[^a-z])[cpy]*tnm([^a-z]|$)", r"(^|[^a-z])duke'?s?([^a-z]|$)",
    r"ajcc.*[._ ]m$", r"(^|[._ ])[cpy]?m[._ ]?(categor|class|status)", r"metasta",
    r"(path|clin)[a-z]*[._ ]m([._ ]|$)",
)  # fmt: skip
"""Guard L02 where the label is a metastasis: the overall stage (IV) encodes M, and so does whatever
else names metastases."""

_SPEAKS_OF_M = (
    r"metasta|(^|[._ ])[cpy]?m([._ ]?stage|[._ ]categor|[._ "
    r"]?status|$)|stage.?iv|(^|[^a-z])m1([^a-z]|$)"
)


def denied_patterns(study: Study) -> tuple[str, ...]:
    """The regular expressions of guard L02 for `study`: always, its own, and stage-like columns
    where the label is a metastasis."""
    label = study.schema.label
    told = study.source.get("label", {}).get("column", "") if study.source is not None else ""
    texts = (
        label.name,
        label.title,
        *(told if isinstance(told, list | tuple) else (told,)),
        *label.classes,
    )
    of_m = any(re.search(_SPEAKS_OF_M, str(text), re.IGNORECASE) for text in texts)
    return (*ALWAYS_DENIED, *study.denied, *(STAGE_DENIED if of_m else ()))


def guard_denied(study: Study, columns: Mapping[str, str]) -> None:
    """Guard L02: refuse features whose name or source column is an outcome. `columns`: feature name
    -> its column's name."""
    faults = []
    for feature, column in columns.items():
        if feature in study.overrides:
            continue
        for pattern in denied_patterns(study):
            hit = next(
                (text for text in (feature, column) if re.search(pattern, text, re.IGNORECASE)),
                None,
            )
            if hit is not None:
                faults.append(
                    f"L02 feature '{feature}' (column '{column}') is an outcome or encodes the "
                    f"label '{study.schema.label.name}' "
                    f"('{hit}' matches {pattern!r}); remove it from the features"
                )
                break
    if faults:
        raise LeakError("L02", *faults)
