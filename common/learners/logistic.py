"""Multinomial logistic regression by federated Newton: equal to Newton on the pooled rows, whatever the split.

A site sends the gradient, the Hessian and the log-likelihood of its own rows at the current coefficients (Newton-Raphson /
IRLS: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 2nd ed., eq. 4.21-4.27). The coordinator adds an L2
penalty on the slopes once, takes the Newton step, and halves it when the penalised likelihood did not rise (separation).

With standardised rows x (clipped to +-c by preprocessing, so ||x||^2 <= R^2 = 1 + columns * c^2) and mu the class
probabilities, one patient adds x (y - mu)' to the gradient and xx' (x) (diag mu - mu mu') to the Hessian; ||y - mu|| <= sqrt 2
and ||diag mu - mu mu'||_F <= 1/2 over the classes but the reference one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.cohort import Cohort, Fold
from common.learner import Contribution, Plan, Step, fit, local_plan
from common.learners.preprocessing import Preprocessing, standardise
from common.schema import Floats, Schema
from common.types import Arrays, Probs, State


@dataclass(frozen=True)
class Logistic:
    """Arrays: `coefficients` (classes - 1, 1 + columns): intercept first, on the standardised scale, against class 0."""

    name: str = "logistic"
    needs: tuple[str, ...] = ("preprocessing",)
    modality: frozenset[str] = frozenset({"table"})
    phases: frozenset[str] = frozenset({"newton"})
    l2: float = 1.0
    """Penalty l2 / 2 * (sum of squared slopes) on the summed log-likelihood; must be > 0."""
    tolerance: float = 1e-7
    """Stop when half the squared Newton decrement falls below it: the step then taken leaves an error of its order squared."""
    rounds: int = 30
    prior: float = 1e-6
    """A ridge on the intercepts, only so that a class that nobody has leaves the system solvable."""

    def start(self, schema: Schema, seed: int) -> Arrays:
        shape = (len(schema.label.classes) - 1, 1 + len(schema.columns))
        return {
            "coefficients": np.zeros(shape),
            "base": np.zeros(shape),
            "step": np.zeros(shape),
            "objective": np.array(-np.inf),
            "rounds": np.array(0),
            "converged": np.array(False),
        }

    def phase(self, arrays: Arrays) -> str:
        return "newton"

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> Contribution:
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        x = _with_one(standardise(state["preprocessing"], rows))
        logits = x @ state[self.name]["coefficients"].T
        log_mu = _log_softmax(logits)
        mu = np.exp(log_mu[:, 1:])
        y = np.eye(logits.shape[1] + 1)[rows.labels]
        k, p = logits.shape[1], x.shape[1]
        hessian = np.empty((k, p, k, p))
        for a in range(k):
            for b in range(a + 1):
                w = mu[:, a] * ((a == b) - mu[:, b])
                hessian[a, :, b, :] = hessian[b, :, a, :] = (x * w[:, None]).T @ x
        likelihood = np.array((y * log_mu).sum())
        return Contribution(
            {"gradient": (y[:, 1:] - mu).T @ x, "hessian": hessian.reshape(k * p, k * p), "likelihood": likelihood}, len(rows)
        )

    def apply(self, state: State, total: Contribution, plan: Plan) -> Step:
        arrays = state[self.name]
        beta, done = arrays["coefficients"], int(arrays["rounds"]) + 1
        penalty = np.full(beta.shape, self.l2)
        penalty[:, 0] = self.prior
        objective = float(total.sums["likelihood"]) - 0.5 * float((penalty * beta**2).sum())
        if objective < float(arrays["objective"]) - 1e-9 * abs(objective):
            # the last step overshot: half of it, from where it started
            step = arrays["step"] / 2
            result = {**arrays, "coefficients": arrays["base"] + step, "step": step, "rounds": np.array(done)}
            return Step(result, done >= self.rounds)
        gradient = total.sums["gradient"] - penalty * beta
        hessian = total.sums["hessian"] + np.diag(penalty.ravel())
        step = np.linalg.solve(hessian, gradient.ravel()).reshape(beta.shape)
        converged = 0.5 * float((gradient * step).sum()) < self.tolerance
        result = {
            "coefficients": beta + step,
            "base": beta,
            "step": step,
            "objective": np.array(objective),
            "rounds": np.array(done),
            "converged": np.array(converged),
        }
        return Step(result, converged or done >= self.rounds)

    def sensitivity(self, schema: Schema, plan: Plan) -> float | None:
        radius2 = 1 + len(schema.columns) * Preprocessing().clip ** 2
        # the log-likelihood of one patient is unbounded: it is not releasable under a finite budget and not counted here
        return float(np.sqrt(2 * radius2 + 0.25 * radius2**2))

    def predict(self, state: State, cohort: Cohort) -> Probs:
        x = _with_one(standardise(state["preprocessing"], cohort))
        return np.exp(_log_softmax(x @ state[self.name]["coefficients"].T))

    def alone(self, cohorts: Sequence[Cohort], fold: Fold, seed: int, parts: int) -> State:
        plan = local_plan(fold, seed, parts)
        return fit(self, fit(Preprocessing(), {}, cohorts, plan), cohorts, plan)

    def explain(self, state: State, cohort: Cohort) -> Floats:
        """Linear SHAP (Lundberg & Lee 2017, cor. 1): coefficient times standardised value, summed over a feature's columns."""
        z = standardise(state["preprocessing"], cohort)
        slopes = state[self.name]["coefficients"][:, 1:]
        names = [f.name for f in cohort.schema.features]
        out = np.zeros((len(cohort), len(names), len(slopes)))
        for j, column in enumerate(cohort.schema.columns):
            out[:, names.index(column.feature.name), :] += z[:, j, None] * slopes[:, j]
        return out


def _with_one(z: Floats) -> Floats:
    return np.concatenate([np.ones((len(z), 1)), z], axis=1)


def _log_softmax(logits: Floats) -> Floats:
    """(cases, classes - 1) logits against the reference class -> (cases, classes) log-probabilities."""
    full = np.concatenate([np.zeros((len(logits), 1)), logits], axis=1)
    top = full.max(axis=1, keepdims=True)
    return np.asarray(full - top - np.log(np.exp(full - top).sum(axis=1, keepdims=True)))


LEARNER = Logistic()
