"""Multinomial logistic regression made for noise: few exchanges, few numbers, each patient's row
cut to a small norm.

Rows are scaled by the schema's bounds, of which no patient says anything, and cut so that, with the
1 for the intercept, their L2 norm is at most `norm`. A site sends gradient and Hessian of its rows
at the current coefficients (Newton's method, as in `logistic`), whose share a patient is at most
sqrt 2 * norm and norm^2 / 2. Both arrive with noise, so the Hessian is made symmetric, its negative
eigenvalues are 0 (its true ones are not below), and a ridge of the size of the noise's largest
eigenvalue keeps steps from following it: about sqrt(2 p) standard deviations for a symmetrised p x
p matrix (Wigner's semicircle). Noisy Newton steps converge in a few rounds (Avella-Medina,
Bradshaw, Loh 2023, arXiv 2103.11003), and few rounds are few releases. Without noise it is the
ridge regression of the cut rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.data.cohort import Cohort, Fold
from common.data.schema import Floats, Schema
from common.federated.learner import (
    Contribution,
    Federated,
    Phase,
    Plan,
    Step,
    Traits,
    demand,
    fit,
    local_plan,
)
from common.federated.multinomial import against_reference, derivatives, softmax, summands
from common.federated.protected_sums import Summands, row_blocks
from common.federated.states import States
from common.privacy.limits import CLIP
from common.types import Arrays, Probs, State


@dataclass(frozen=True)
class PrivateLogistic:
    """Arrays: `coefficients` (classes - 1, 1 + columns) on cut rows, intercept first, against class
    0; `norm` of rows; `rounds` done."""

    name: str = "private_logistic"
    needs: ClassVar[tuple[str, ...]] = ()
    modality: ClassVar[frozenset[str]] = frozenset({"table"})
    traits: ClassVar[Traits] = Traits(trains=True)
    norm: float = 2.0
    """L2 norm to which a patient's row, with the 1 for the intercept, is cut; above 1."""
    l2: float = 1.0
    """Penalty l2 / 2 * (sum of squared coefficients) on the summed log-likelihood."""
    rounds: int = 3
    """Newton steps, each a release."""

    def __post_init__(self) -> None:
        demand(
            self.name,
            {
                f"1 < norm <= {CLIP.most:g}": 1 < self.norm <= CLIP.most,
                "l2 > 0": self.l2 > 0,
                "rounds >= 1": self.rounds >= 1,
            },
        )

    def start(self, schema: Schema, seed: int) -> Arrays:
        shape = (len(schema.label.classes) - 1, 1 + len(schema.columns))
        return {"coefficients": np.zeros(shape), "norm": np.array(self.norm), "rounds": np.array(0)}

    def phase(self, arrays: Arrays) -> str:
        return "newton"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        x = _rows(rows, self.norm)  # the site's own norm, whatever the state says
        sums = derivatives(x, rows.labels, states[plan.fold][self.name]["coefficients"])
        return Contribution({"gradient": sums.gradient, "hessian": sums.hessian}, len(rows))

    def summands(self, states: States, cohort: Cohort, plan: Plan) -> Iterator[Summands]:
        """What each patient adds to the same sums."""
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        x = _rows(rows, self.norm)
        beta = states[plan.fold][self.name]["coefficients"]
        for b in row_blocks(len(rows), beta.size**2):
            each = summands(x[b], rows.labels[b], beta)
            yield Summands(len(x[b]), {"gradient": each.gradient, "hessian": each.hessian})

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        arrays = states[plan.fold][self.name]
        beta, done = arrays["coefficients"], int(arrays["rounds"]) + 1
        hessian = (total.sums["hessian"] + total.sums["hessian"].T) / 2
        values, vectors = np.linalg.eigh(hessian)
        ridge = self.l2 + self._spread(plan) * np.sqrt(2 * len(hessian))
        rise = (total.sums["gradient"] - self.l2 * beta).ravel()
        step = vectors @ ((vectors.T @ rise) / (np.maximum(values, 0) + ridge))
        now = {
            "coefficients": beta + step.reshape(beta.shape),
            "norm": arrays["norm"],
            "rounds": np.array(done),
        }
        return Step(now, done >= self.rounds)

    def _spread(self, plan: Plan) -> float:
        """Standard deviation of the noise in each number of the sum over all sites."""
        if plan.privacy is None:
            return 0.0
        return plan.privacy.total(len(plan.participants)) * self._bound

    @property
    def _bound(self) -> float:
        return float(np.sqrt(2 * self.norm**2 + 0.25 * self.norm**4))

    @property
    def phases(self) -> Mapping[str, Phase]:
        return {
            "newton": Phase(
                "`gradient` and `hessian` of its cut rows",
                self.rounds,
                lambda _: self._bound * (1 + 1e-9),
            )
        }

    def predict(self, state: State, cohort: Cohort) -> Probs:
        arrays = state[self.name]
        return softmax(
            against_reference(_rows(cohort, float(arrays["norm"])) @ arrays["coefficients"].T)
        )

    def alone(
        self,
        cohorts: Sequence[Cohort],
        fold: Fold,
        seed: int,
        parts: int,
        prepare: Federated | None = None,
    ) -> State:
        return fit(self, {}, cohorts, local_plan(fold, seed, parts))

    def explain(self, state: State, cohort: Cohort) -> Floats:
        """Coefficient times value of the cut row, summed over a feature's columns: 0 is a value in
        the middle of its bounds."""
        arrays = state[self.name]
        x, slopes = _rows(cohort, float(arrays["norm"]))[:, 1:], arrays["coefficients"][:, 1:]
        names = [f.name for f in cohort.schema.features]
        out = np.zeros((len(cohort), len(names), len(slopes)))
        for j, column in enumerate(cohort.schema.columns):
            out[:, names.index(column.feature.name), :] += x[:, j, None] * slopes[:, j]
        return out


def _rows(cohort: Cohort, norm: float) -> Floats:
    """(cases, 1 + columns): 1 and the values in standard deviations of a uniform one between the
    bounds, cut to `norm`; missing: 0."""
    z = np.zeros((len(cohort), len(cohort.schema.columns)))
    for j, column in enumerate(cohort.schema.columns):
        low, high = column.span
        middle = (column.to_model(cohort.design[:, j]) - (low + high) / 2) / (
            (high - low) / np.sqrt(12)
        )
        z[:, j] = np.nan_to_num(middle, nan=0.0)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    cut = np.sqrt(norm**2 - 1) / np.maximum(length, np.sqrt(norm**2 - 1))
    return np.concatenate([np.ones((len(z), 1)), z * cut], axis=1)


LEARNER = PrivateLogistic()
