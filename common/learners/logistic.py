"""Multinomial logistic regression by federated Newton: equal to Newton on the pooled rows, whatever
the split.

A site sends the gradient, the Hessian and the log-likelihood of its own rows at the current
coefficients (Newton-Raphson / IRLS: Hastie, Tibshirani, Friedman, The Elements of Statistical
Learning, 2nd ed., eq. 4.21-4.27). The coordinator adds an L2 penalty on the slopes once and takes
the Newton step: half of it again when the penalised likelihood did not rise, and up to twice as far
where the classes separate, for there Newton gains one logit a round. The first step starts at the
intercepts of the class counts, which preprocessing has summed.

With standardised rows x (clipped to +-c, so ||x||^2 <= R^2 = 1 + columns * c^2) and mu the class
probabilities, one patient adds x (y - mu)' to the gradient, xx' (x) (diag mu - mu mu') to the
Hessian and log mu(y), cut at -50, to the log-likelihood, which serves the control of steps only;
||y - mu|| <= sqrt 2 and ||diag mu - mu mu'||_F <= 1/2 over the classes but the reference one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.data.cohort import Cohort, Fold
from common.data.schema import Floats, Schema
from common.federated.array_rules import (
    COUNT,
    ArrayRule,
    ArrayRules,
    flags,
    parameters,
    sums,
    whole,
)
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
from common.federated.multinomial import (
    LEAST,
    Ascent,
    Derivatives,
    against_reference,
    derivatives,
    log_softmax,
    summands,
)
from common.federated.protected_sums import Summands, row_blocks
from common.federated.states import States
from common.learners.preprocessing import LEARNER as PREPARE
from common.learners.preprocessing import standardise
from common.privacy.limits import CLIP
from common.types import Arrays, Probs, State

LONGEST = 2.0
"""The most Newton steps taken at once."""


@dataclass(frozen=True)
class Logistic:
    """Arrays: `coefficients` (classes - 1, 1 + columns): intercept first, on the standardised
    scale, against class 0; `base` and `step`: where the last step began and what it added; `along`
    (2,): the likelihood's slope and curvature along it at its start."""

    name: str = "logistic"
    needs: ClassVar[tuple[str, ...]] = ("preprocessing",)
    modality: ClassVar[frozenset[str]] = frozenset({"table"})
    traits: ClassVar[Traits] = Traits(trains=True)
    l2: float = 1.0
    """Penalty l2 / 2 * (sum of squared slopes) on the summed log-likelihood; must be > 0."""
    tolerance: float = 1e-6
    """Stop when a Newton step changes no coefficient by more: taking it leaves an error of the
    order of its square."""
    rounds: int = 30
    """The most Newton steps."""
    prior: float = 1e-12
    """A ridge on the intercepts, only so that a class that nobody has leaves the system
    solvable."""
    clip: float = 10.0
    """Rows are cut to +- this many standard deviations, whatever preprocessing did: it bounds what
    a patient can add."""

    def start(self, schema: Schema, seed: int) -> Arrays:
        shape = (len(schema.label.classes) - 1, 1 + len(schema.columns))
        return {
            "coefficients": np.zeros(shape),
            "base": np.zeros(shape),
            "step": np.zeros(shape),
            "along": np.zeros(2),
            "objective": np.array(-np.inf),
            "rounds": np.array(0),
            "converged": np.array(False),
            "cases": np.array(0),
            "clip": np.array(self.clip),
        }

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        shape = (len(schema.label.classes) - 1, 1 + len(schema.columns))
        return {
            "coefficients": parameters(*shape),
            "base": parameters(*shape),
            "step": parameters(*shape),
            "along": sums(2),
            "objective": sums(unless=(-np.inf,)),
            "rounds": whole(),
            "converged": flags(),
            "cases": whole(low=-COUNT),
            "clip": ArrayRule(np.float64, (), CLIP.least, CLIP.most),
        }

    def phase(self, arrays: Arrays) -> str:
        return "newton"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        state = states[plan.fold]
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        # by its own clip, not only by the one that came with the state: it bounds what a patient
        # adds
        x = _with_one(np.clip(self._rows(state, rows), -self.clip, self.clip))
        sums = derivatives(x, rows.labels, self._coefficients(state))
        return Contribution(
            {"gradient": sums.gradient, "hessian": sums.hessian, "likelihood": sums.likelihood},
            len(rows),
        )

    def summands(self, states: States, cohort: Cohort, plan: Plan) -> Iterator[Summands]:
        """What each patient adds to the same sums."""
        state = states[plan.fold]
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        x = _with_one(np.clip(self._rows(state, rows), -self.clip, self.clip))
        beta = self._coefficients(state)
        for b in row_blocks(len(rows), beta.size**2):
            yield Summands(len(x[b]), vars(summands(x[b], rows.labels[b], beta)))

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        state = states[plan.fold]
        arrays = state[self.name]
        beta, done = self._coefficients(state), int(arrays["rounds"]) + 1
        penalty = np.full(beta.shape, self.l2)
        penalty[:, 0] = self.prior
        # a site may have been lost for an exchange
        same = total.cases == int(arrays["cases"])
        sums = Derivatives(total.sums["gradient"], total.sums["hessian"], total.sums["likelihood"])
        at = Ascent(beta, arrays["base"], arrays["step"], float(arrays["objective"]))
        there, fresh = at.next(sums, penalty, same=same)
        if not fresh:
            along = arrays["along"] * (0.5, 0.25)
            halved = {
                "coefficients": there.coefficients,
                "step": there.step,
                "along": along,
                "rounds": np.array(done),
            }
            return Step({**arrays, **halved}, done >= self.rounds)
        newton, rise = there.step.ravel(), sums.gradient
        along = np.array([newton @ rise.ravel(), newton @ sums.hessian @ newton])
        shift = float((penalty * beta).ravel() @ newton), float(penalty.ravel() @ newton**2)
        converged = bool(np.abs(newton).max() < self.tolerance)
        saturated = (
            same
            and not converged
            and _saturated(arrays["along"], float((rise * arrays["step"]).sum()))
        )
        length = _length(along, shift) if saturated else 1.0
        step = length * newton.reshape(beta.shape)
        result = {
            "coefficients": beta + step,
            "base": beta,
            "step": step,
            "along": along * (length, length**2),
            "objective": np.array(there.objective),
            "rounds": np.array(done),
            "converged": np.array(converged),
            "cases": np.array(total.cases),
            "clip": arrays["clip"],
        }
        return Step(result, converged or done >= self.rounds)

    def __post_init__(self) -> None:
        positive = ("l2", "tolerance", "prior")
        demand(
            self.name,
            {
                **{f"{name} > 0": getattr(self, name) > 0 for name in positive},
                "rounds >= 1": self.rounds >= 1,
                CLIP.rule: CLIP.holds(self.clip),
            },
        )

    def _rows(self, state: State, cohort: Cohort) -> Floats:
        clip = float(state[self.name]["clip"])
        return np.clip(standardise(state["preprocessing"], cohort), -clip, clip)

    def _coefficients(self, state: State) -> Floats:
        """The current coefficients; before the first step, the intercepts of the class counts that
        preprocessing has summed."""
        beta = state[self.name]["coefficients"]
        if int(state[self.name]["rounds"]):
            return np.asarray(beta)
        # the ridge holds the intercept of a class that nobody has near log(30 * prior / cases): 30
        # is about minus that number
        counts = state["preprocessing"]["classes"] + 30 * self.prior
        return np.concatenate([np.log(counts[1:] / counts[0])[:, None], beta[:, 1:]], axis=1)

    @property
    def phases(self) -> Mapping[str, Phase]:
        sends = "`gradient`, `hessian` and `likelihood` of its rows at the current coefficients"
        return {"newton": Phase(sends, self.rounds, self._bound)}

    def _bound(self, schema: Schema) -> float:
        radius2 = 1 + len(schema.columns) * self.clip**2
        return float(np.sqrt(2 * radius2 + 0.25 * radius2**2 + LEAST**2))

    def predict(self, state: State, cohort: Cohort) -> Probs:
        x = _with_one(self._rows(state, cohort))
        return np.exp(log_softmax(against_reference(x @ state[self.name]["coefficients"].T)))

    def alone(
        self,
        cohorts: Sequence[Cohort],
        fold: Fold,
        seed: int,
        parts: int,
        prepare: Federated = PREPARE,
    ) -> State:
        plan = local_plan(fold, seed, parts)
        return fit(self, fit(prepare, {}, cohorts, plan), cohorts, plan)

    def explain(self, state: State, cohort: Cohort) -> Floats:
        """Linear SHAP (Lundberg & Lee 2017, cor. 1): coefficient times standardised value, summed
        over a feature's columns."""
        z = self._rows(state, cohort)
        slopes = state[self.name]["coefficients"][:, 1:]
        names = [f.name for f in cohort.schema.features]
        out = np.zeros((len(cohort), len(names), len(slopes)))
        for j, column in enumerate(cohort.schema.columns):
            out[:, names.index(column.feature.name), :] += z[:, j, None] * slopes[:, j]
        return out


def _saturated(along: Floats, slope: float) -> bool:
    """Did the likelihood's slope along the last step fall as an exponential rather than as a
    straight line would?

    `along`: the slope and the curvature at the start of that step; `slope`: at its end.
    """
    first, bend = float(along[0]), float(along[1])
    return first > 0 and abs(slope - first * np.exp(-bend / first)) < 0.5 * abs(
        slope - (first - bend)
    )


def _length(along: Floats, shift: tuple[float, float]) -> float:
    """How many Newton steps to take where classes separate: the root of slope * exp(-curve / slope
    * t) = shift[0] + shift[1] * t.

    There each row's slope falls as an exponential, and the exponential of the mean rate is a lower
    bound of their sum (Jensen), so the root (>= 1) stops short of the maximum where every row is on
    its side. Newton alone gains one logit a round there.
    """
    first, bend = float(along[0]), float(along[1])
    t = 1.0
    if first <= 0:
        return t
    for _ in range(
        50
    ):  # a convex, falling function: Newton's method climbs to its root from the left
        e = first * np.exp(-bend / first * t)
        t += (e - shift[0] - shift[1] * t) / (bend / first * e + shift[1])
    return min(max(float(t), 1.0), LONGEST)


def _with_one(z: Floats) -> Floats:
    return np.concatenate([np.ones((len(z), 1)), z], axis=1)


LEARNER = Logistic()
