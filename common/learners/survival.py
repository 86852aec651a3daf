"""Overall survival as a description: deaths and censored cases per interval and class, from which
Kaplan-Meier curves follow (E07)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.data.cohort import UNKNOWN, Cohort
from common.data.schema import Schema
from common.federated.array_rules import ArrayRules
from common.federated.learner import Contribution, Phase, Plan, Step, Traits
from common.federated.states import States
from common.metrics.kaplan_meier import survival_counts
from common.types import Arrays


@dataclass(frozen=True)
class SurvivalCounts:
    """Arrays once done: `counts` (classes, intervals, 2): events and censored cases; cases without
    follow-up are not counted."""

    name: str = "survival"
    needs: ClassVar[tuple[str, ...]] = ()
    modality: ClassVar[frozenset[str]] = frozenset({"table"})
    traits: ClassVar[Traits] = Traits()

    def start(self, schema: Schema, seed: int) -> Arrays:
        return {}

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        return {}

    def phase(self, arrays: Arrays) -> str:
        return "count"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        schema = cohort.schema
        intervals = schema.survival.intervals if schema.survival else 1
        counts, followed = np.zeros((len(schema.label.classes), intervals, 2)), 0
        if schema.survival and cohort.survival is not None:
            known = ~np.isnan(cohort.survival).any(axis=1) & (cohort.labels != UNKNOWN)
            followed = int(known.sum())
            for k in range(len(counts)):
                time, event = cohort.survival[known & (cohort.labels == k)].T
                counts[k] = survival_counts(time, event, schema.survival.horizon, intervals)
        return Contribution({"counts": counts}, followed)

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        return Step(dict(total.sums), True)

    @property
    def phases(self) -> Mapping[str, Phase]:
        # a patient stands in one cell
        return {
            "count": Phase(
                "`counts` of events and censored cases by class and interval", 1, lambda _: 1.0
            )
        }


LEARNER = SurvivalCounts()
