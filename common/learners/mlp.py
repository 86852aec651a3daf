"""Multilayer perceptron on the clinical table, trained by federated averaging (McMahan et al. 2017,
arXiv 1602.05629, algorithm 1).

A site sends its parameters times its number of training cases; the coordinator divides the sum by
all cases. Flower's strategies (FedProx, FedAdam, FedYogi, trimmed mean, Krum ...) take the place of
that mean when a run names one. Approximate: compare with pooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort, Fold, pooled
from common.data.schema import Floats, Schema
from common.federated.array_rules import ArrayRule, ArrayRules, whole
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
from common.federated.multinomial import softmax
from common.federated.states import States
from common.learners.preprocessing import LEARNER as PREPARE
from common.learners.preprocessing import standardise
from common.networks import federated_averaging
from common.networks.dp_sgd import PrivateTraining, sampled
from common.networks.training import LocalTraining, Table, cross_entropy
from common.types import Arrays, Probs, State

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Perceptron:
    """Arrays: `round`, and `w/<layer>.weight`, `w/<layer>.bias` (float32, torch's shapes);
    `memory/...` belongs to the strategy."""

    name: str = "mlp"
    needs: ClassVar[tuple[str, ...]] = ("preprocessing",)
    modality: ClassVar[frozenset[str]] = frozenset({"table"})
    traits: ClassVar[Traits] = Traits(trains=True)
    hidden: tuple[int, ...] = (16,)
    """Units of each hidden layer (tanh: linear for small weights); none: multinomial logistic
    regression."""
    training: LocalTraining = LocalTraining(
        rounds=20, epochs=2, batch=32, learning_rate=0.05, weight_decay=0.02
    )
    private: PrivateTraining = PrivateTraining()

    def start(self, schema: Schema, seed: int) -> Arrays:
        widths = (len(schema.columns), *self.hidden, len(schema.label.classes))
        rng = np.random.default_rng(seed)
        arrays: Arrays = {"round": np.array(0)}
        for i, (a, b) in enumerate(pairwise(widths)):
            bound = 1 / np.sqrt(
                max(a, 1)
            )  # torch.nn.Linear's default, drawn here so that a coordinator needs no torch
            arrays[f"w/{2 * i}.weight"] = rng.uniform(-bound, bound, (b, a)).astype(np.float32)
            arrays[f"w/{2 * i}.bias"] = rng.uniform(-bound, bound, b).astype(np.float32)
        return arrays

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        rules, last = {"round": whole()}, (len(own) - 1) // 2 - 1
        inputs: int | str = len(schema.columns)
        for i in range(last + 1):
            units = len(schema.label.classes) if i == last else f"units {i}"
            rules[f"w/{2 * i}.weight"] = ArrayRule(np.float32, (units, inputs))
            rules[f"w/{2 * i}.bias"] = ArrayRule(np.float32, (units,))
            inputs = units
        return rules

    def phase(self, arrays: Arrays) -> str:
        return "train"

    def parameters(self, arrays: Arrays) -> Arrays:
        """The global parameters: what is averaged."""
        return federated_averaging.parameters(arrays)

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        state = states[plan.fold]
        arrays, rows = state[self.name], cohort.train(plan.fold, plan.seed, plan.parts)

        def made(own: NDArray[np.bool_]) -> Table:
            chosen = rows.where(own)
            return Table(standardise(state["preprocessing"], chosen), chosen.labels)

        examples = federated_averaging.examples_of(made, len(rows), plan)
        shapes = _shapes(self.parameters(arrays))
        task = federated_averaging.Local(
            _network, shapes, cross_entropy, self.training.schedule(), self.private, table=True
        )
        return federated_averaging.train(task, arrays, examples, plan, cohort.site, len(rows))

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        arrays = states[plan.fold][self.name]
        done = int(arrays["round"]) + 1
        new = {**arrays, **federated_averaging.mean(arrays, total), "round": np.array(done)}
        return Step(new, done >= self.training.rounds)

    @property
    def phases(self) -> Mapping[str, Phase]:
        sends = "its parameters times its training cases; with noise, DP-SGD's as they are"
        return {
            "train": Phase(
                sends,
                self.training.rounds,
                lambda _: sampled(self.training.epochs, self.private.rate),
            )
        }

    def predict(self, state: State, cohort: Cohort) -> Probs:
        return softmax(
            _layers(self.parameters(state[self.name]), standardise(state["preprocessing"], cohort))[
                -1
            ]
        )

    def alone(
        self,
        cohorts: Sequence[Cohort],
        fold: Fold,
        seed: int,
        parts: int,
        prepare: Federated = PREPARE,
    ) -> State:
        # the sites that the fold leaves out are left out here: together the others have a name of
        # their own
        plan = local_plan(Fold(parts=fold.parts), seed, parts)
        kept = [c for c in cohorts if c.site not in fold.sites]
        together = [pooled(kept, kept[0].site if len(kept) == 1 else "pooled")]
        return fit(self, fit(prepare, {}, together, plan), together, plan)

    def __post_init__(self) -> None:
        layers = {
            "hidden layers of at least 1 unit": all(
                isinstance(h, int) and h >= 1 for h in self.hidden
            )
        }
        demand(
            self.name, {**self.training.rules, **self.private.rules(self.training.epochs), **layers}
        )

    def explain(self, state: State, cohort: Cohort) -> Floats:
        """Integrated gradients from the average patient (Sundararajan et al. 2017, eq. 1; 32
        midpoints): they add up to the change of the log-odds against class 0, as SHAP values do;
        for no hidden layer they are the linear SHAP values."""
        z = standardise(state["preprocessing"], cohort)
        weights = self.parameters(state[self.name])
        names = [f.name for f in cohort.schema.features]
        classes = len(cohort.schema.label.classes)
        gradient = np.zeros((len(z), z.shape[1], classes))
        steps = 32
        for s in range(steps):
            gradient += _gradient(weights, z * ((s + 0.5) / steps)) / steps
        values = z[:, :, None] * (gradient[:, :, 1:] - gradient[:, :, :1])
        out = np.zeros((len(cohort), len(names), classes - 1))
        for j, column in enumerate(cohort.schema.columns):
            out[:, names.index(column.feature.name), :] += values[:, j, :]
        return out


def _shapes(weights: Arrays) -> tuple[tuple[int, int], ...]:
    """(inputs, units) of each layer."""
    layers = [weights[f"w/{2 * i}.weight"].shape for i in range(len(weights) // 2)]
    return tuple((int(inputs), int(units)) for units, inputs in layers)


def _network(*shapes: tuple[int, int]) -> nn.Module:
    from torch import nn

    layers: list[nn.Module] = []
    for width, units in shapes:
        layers += [nn.Tanh(), nn.Linear(width, units)] if layers else [nn.Linear(width, units)]
    return nn.Sequential(*layers)


def _layers(weights: Arrays, z: Floats) -> list[Floats]:
    """Pre-activations of each layer; the last are the logits (cases, classes)."""
    out: list[Floats] = []
    x = z
    for i in range(len(weights) // 2):
        out.append(
            x @ weights[f"w/{2 * i}.weight"].T.astype(np.float64) + weights[f"w/{2 * i}.bias"]
        )
        x = np.tanh(out[-1])
    return out


def _gradient(weights: Arrays, z: Floats) -> Floats:
    """(cases, columns, classes): derivative of each logit by each input."""
    depth = len(weights) // 2
    pre = _layers(weights, z)
    back = np.broadcast_to(
        weights[f"w/{2 * (depth - 1)}.weight"].T.astype(np.float64),
        (len(z), *weights[f"w/{2 * (depth - 1)}.weight"].T.shape),
    )
    for i in reversed(range(depth - 1)):
        back = weights[f"w/{2 * i}.weight"].T.astype(np.float64) @ (
            back * (1 - np.tanh(pre[i]) ** 2)[:, :, None]
        )
    return np.asarray(back)


LEARNER = Perceptron()
