"""Feature importance by SHAP, which features move the final model, and how far the image does: sums
of absolute SHAP values over the training cases of all sites.

Lundberg & Lee 2017 (arXiv 1705.07874); per-patient values never leave a site, only their sum and
the number of patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, cast

import numpy as np

from common.data.cohort import Cohort, Fold
from common.data.schema import Floats, Schema
from common.federated.array_rules import COUNT, ArrayRules, parameters, whole
from common.federated.coverage import Cover, Covers
from common.federated.learner import (
    Contribution,
    Explained,
    Hyper,
    Phase,
    Plan,
    Step,
    Traits,
    demand,
    load,
    names,
)
from common.federated.states import States
from common.privacy.limits import CLIP
from common.types import Arrays


@dataclass(frozen=True)
class Importance:
    """Arrays once done: `<head>` (features,), and for a head that looks beyond the table what it
    names there: mean absolute contribution to the log-odds (summed over classes); `cases`."""

    name: str = "importance"
    modality: ClassVar[frozenset[str]] = frozenset({"table"})
    traits: ClassVar[Traits] = Traits(trains=True)
    heads: tuple[str, ...] = ()
    """The heads that are explained; the driver names them."""
    learners: Mapping[str, Hyper] = field(default_factory=dict, hash=False)
    """The heads' hyperparameters, where they are not the defaults."""
    clip: float = 0.0
    """What a patient's values of one head are cut to (L2 norm), so that their sum can have noise;
    0: they are not."""

    def __post_init__(self) -> None:
        rule = f"{CLIP.rule}, or clip = 0"
        demand(self.name, {rule: self.clip == 0 or CLIP.holds(self.clip)})

    @property
    def needs(self) -> tuple[str, ...]:
        heads = [self._head(n) for n in self.heads]
        return tuple(
            dict.fromkeys(["preprocessing", *(n for h in heads for n in h.needs), *self.heads])
        )

    def start(self, schema: Schema, seed: int) -> Arrays:
        return {}

    def phase(self, arrays: Arrays) -> str:
        return "explain"

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        """A number for each feature of each head."""
        heads = [n for n in own if n != "cases"]
        if not set(heads) <= set(names()):
            raise ValueError(f"{sorted(heads)} are not all heads")
        many = len(schema.features)
        widths = {n: many + len(self._head(n).traits.beyond) for n in heads}
        return {**{n: parameters(w) for n, w in widths.items()}, "cases": whole(low=-COUNT)}

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        state = states[plan.fold]
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        sums: Arrays = {}
        for name in self.heads:
            head = self._head(name)
            sums[name] = np.zeros(len(rows.schema.features) + len(head.traits.beyond))
            if len(rows) and state.get(name):
                sums[name] = self._cut(
                    np.abs(head.explain(state, rows)).sum(axis=2).astype(np.float64)
                ).sum(axis=0)
        return Contribution(sums, len(rows))

    def covers(self, states: States, cohort: Cohort, plan: Plan) -> Covers:
        """Beyond the features of the table a head looks at the cases with an image."""
        state, out = states[plan.fold], dict[str, Cover]()
        here, most = (cohort.train(f, plan.seed, plan.parts) for f in (plan.fold, Fold()))
        for name in self.heads:
            table, beyond = len(cohort.schema.features), len(self._head(name).traits.beyond)
            rows, whole = (
                np.array([len(c)] * table + [int(c.imaged.sum())] * beyond) for c in (here, most)
            )
            there = int(bool(state.get(name)))
            out[name] = Cover(rows * there, whole * there)
        return out

    def _cut(self, values: Floats) -> Floats:
        """(cases, features): each row at most `clip` long; one that is no number counts as none."""
        if not self.clip:
            return values
        length = np.linalg.norm(values, axis=1, keepdims=True)
        return np.where(
            np.isfinite(length), values * (self.clip / np.maximum(length, self.clip)), 0.0
        )

    def _head(self, name: str) -> Explained:
        return cast(Explained, load(name, self.learners.get(name, {})))

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        return Step(
            {
                **{k: v / max(total.cases, 1) for k, v in total.sums.items()},
                "cases": np.array(total.cases),
            },
            True,
        )

    @property
    def phases(self) -> Mapping[str, Phase]:
        # contributions to the log-odds have no bound of their own; the factor covers rounding
        longest = self.clip * float(np.sqrt(len(self.heads))) * (1 + 1e-9)
        bound = (lambda _: longest) if longest else None
        return {
            "explain": Phase("sums of absolute SHAP values, by feature, for each head", 1, bound)
        }


LEARNER = Importance()
