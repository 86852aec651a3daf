"""Canary cohorts: many patients made for an audit of a whole fit, whose summands lie as far apart
as a learner lets them.

On a table for sums: as many columns as give cells and directions enough, every value anywhere
between its bounds, so that hardly two canaries share more than a few cells. For DP-SGD, whose sum
has a direction for each weight: a column for each canary, all others missing, so that their
gradients are at right angles but for the bias (the "Dirac" canaries of Nasr et al. 2023, arXiv
2302.07956, made of patients); the preprocessing that comes with the plan is the coordinator's own
choice, and tells of nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.data.cohort import Cohort, empty
from common.data.schema import Label, Number, Schema
from common.federated.learner import Federated
from common.learners.preprocessing import LEARNER as PREPROCESSING
from common.privacy.mechanism import Sampled
from common.types import Arrays, State

SITE = "audited"
COLUMNS, CLASSES, BYSTANDERS = 32, 3, 50
_HIGHEST = 8.0


@dataclass(frozen=True)
class Canaries:
    """Who may be in, who is in anyhow, and what is fitted on them."""

    chain: tuple[Federated, ...]
    """Learners in the order in which they are fitted."""
    given: State
    """What the coordinator sends of learners that are not fitted."""
    patients: Cohort
    bystanders: Cohort


def arranged(chain: Sequence[Federated], count: int, seed: int) -> Canaries:
    """Canaries for the last of `chain`, and what it needs."""
    schema = _schema(COLUMNS)
    sampled = [f for f in chain if _sampled(f, schema)]
    if not sampled:
        rng = np.random.default_rng(seed)
        return Canaries(
            tuple(chain),
            {},
            _anywhere("c", schema, count, rng),
            _anywhere("p", schema, BYSTANDERS, rng),
        )
    wide = _schema(count)
    given = {PREPROCESSING.name: _standard(wide)}
    return Canaries(tuple(sampled), given, _alone(wide), empty(wide))


def _sampled(learner: Federated, schema: Schema) -> bool:
    return any(isinstance(p.sensitivity(schema), Sampled) for p in learner.phases.values())


def _schema(columns: int) -> Schema:
    numbers = tuple(Number(f"x{j:05d}", "u", -_HIGHEST, _HIGHEST, "audit") for j in range(columns))
    label = Label("y", tuple(f"class {k}" for k in range(CLASSES)))
    return Schema("audit", numbers, label, ("audit",))


def _cohort(prefix: str, schema: Schema, values: np.ndarray, labels: np.ndarray) -> Cohort:
    ids = tuple(f"{prefix}{i:05d}" for i in range(len(values)))
    return Cohort(SITE, schema, ids, values, labels)


def _anywhere(prefix: str, schema: Schema, count: int, rng: np.random.Generator) -> Cohort:
    values = rng.uniform(-_HIGHEST, _HIGHEST, (count, len(schema.features)))
    return _cohort(prefix, schema, values, rng.integers(0, CLASSES, count))


def _alone(schema: Schema) -> Cohort:
    """A patient for each column, whose one known value it is."""
    count = len(schema.features)
    values = np.full((count, count), np.nan)
    np.fill_diagonal(values, _HIGHEST)
    return _cohort("c", schema, values, np.arange(count) % CLASSES)


def _standard(schema: Schema) -> Arrays:
    """Preprocessing under which the schema's values stay as they are."""
    columns = schema.columns
    zeros, ones = np.zeros(len(columns)), np.ones(len(columns))
    return {
        "bounds": PREPROCESSING.start(schema, 0)["bounds"],
        "pass": np.array(2),
        "auc": zeros,
        "classes": np.zeros(CLASSES),
        "count": ones,
        "mean": zeros,
        "scale": ones,
        "clip": np.array(_HIGHEST),
        "offsets": np.zeros(len(columns) + 1, np.int64),
        "edges": np.empty(0, np.float32),
    }
