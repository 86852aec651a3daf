"""Score histograms of patients whom a model has not seen, for sums with noise: each adds one to a
cell for each head and class.

A job stands on the fold that leaves out all parts but those that are scored, and reads the model of
the fold that leaves out these: nobody is both trained on and scored, so a patient who is scored
pays for that alone. Bins are few, for each gets the same noise. Metrics follow in
`common.metrics.noisy_auc`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from common.data.cohort import Cohort, Fold
from common.data.schema import Schema
from common.federated.array_rules import ArrayRules
from common.federated.coverage import Cover, Covers
from common.federated.learner import Contribution, Hyper, Phase, Plan, Step, Traits, demand
from common.federated.states import States
from common.learners.evaluation import configured, scorable
from common.metrics.score_histogram import checked, score_histogram
from common.types import Arrays


@dataclass(frozen=True)
class Scores:
    """Arrays once done: `<head>` (judged classes, bins, 2), counts below and of the class; for two
    classes the second alone is judged. `spread` (): the standard deviation of the noise in each
    count, where there was any."""

    name: str = "scores"
    modality: ClassVar[frozenset[str]] = frozenset()
    traits: ClassVar[Traits] = Traits(trains=True)
    heads: tuple[str, ...] = ()
    """The heads that are scored; the driver names them."""
    learners: Mapping[str, Hyper] = field(default_factory=dict, hash=False)
    """The heads' hyperparameters, where they are not the defaults."""
    bins: int = 20
    """Cells of a score histogram; each gets the same noise."""

    def __post_init__(self) -> None:
        demand(self.name, {"2 <= bins <= 1000": 2 <= self.bins <= 1000})

    @property
    def needs(self) -> tuple[str, ...]:
        heads = configured(self.heads, self.learners)
        return tuple(dict.fromkeys([*(need for h in heads for need in h.needs), *self.heads]))

    def start(self, schema: Schema, seed: int) -> Arrays:
        return {}

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        return {}

    def phase(self, arrays: Arrays) -> str:
        return "score"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        fitted = states[plan.reads[0]]
        judged = _judged(cohort.schema)
        sums: Arrays = {}
        for head in configured(self.heads, self.learners):
            sums[head.name] = np.zeros((len(judged), self.bins, 2))
            able = scorable(head, rows)
            if able.any() and fitted.get(head.name):
                mine = rows.where(able)
                probs = checked(head.predict(fitted, mine), mine.labels)
                for i, k in enumerate(judged):
                    sums[head.name][i] = score_histogram(probs[:, k], mine.labels == k, self.bins)
        return Contribution(sums, len(rows))

    def covers(self, states: States, cohort: Cohort, plan: Plan) -> Covers:
        """By head the cases that it can say something about."""
        here, whole = (cohort.train(f, plan.seed, plan.parts) for f in (plan.fold, Fold()))
        fitted, out = states[plan.reads[0]], dict[str, Cover]()
        for head in configured(self.heads, self.learners):
            there = bool(fitted.get(head.name))
            out[head.name] = Cover.of(scorable(head, here) & there, scorable(head, whole) & there)
        return out

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        return Step({**total.sums, "spread": np.array(self._spread(plan, total))}, True)

    def _spread(self, plan: Plan, total: Contribution) -> float:
        if plan.privacy is None:
            return 0.0
        classes = max((len(v) for v in total.sums.values()), default=0)
        return plan.privacy.total(len(plan.participants)) * self._bound(classes)

    def _bound(self, classes: int) -> float:
        return float(np.sqrt(len(self.heads) * classes))

    @property
    def phases(self) -> Mapping[str, Phase]:
        return {
            "score": Phase(
                "a score histogram for each head",
                1,
                lambda schema: self._bound(len(_judged(schema))),
            )
        }


def scored_by(left_out: Fold, parts: int) -> Fold:
    """The training set whose patients are those that the model of `left_out` has not seen."""
    return Fold(parts=tuple(p for p in range(parts) if p not in left_out.parts))


def _judged(schema: Schema) -> range:
    """Classes with a histogram of their own; of two, one says it all."""
    classes = len(schema.label.classes)
    return range(1, 2) if classes == 2 else range(classes)


LEARNER = Scores()
