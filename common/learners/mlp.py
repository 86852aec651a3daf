"""A perceptron on the clinical table, trained by federated averaging (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).

A site sends its parameters times its number of training cases; the coordinator divides the sum by all cases. Flower's strategies
(FedProx, FedAdam, FedYogi, trimmed mean, Krum ...) take the place of that mean when a run names one. Approximate: compare with pooled.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort, Fold, pooled
from common.data.schema import Floats, Schema
from common.federated.learner import Contribution, Federated, Phase, Plan, Step, Traits, demand, fit, local_plan
from common.federated.multinomial import softmax
from common.learners.preprocessing import LEARNER as PREPARE
from common.learners.preprocessing import standardise
from common.networks import federated_averaging
from common.networks.dp_sgd import Private, bounds, learn, sampled
from common.networks.training import Schedule, Table, cross_entropy, train
from common.privacy.mechanism import Privacy
from common.types import Arrays, Probs, State

if TYPE_CHECKING:
    from torch import nn

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Perceptron:
    """Arrays: `round`, and `w/<layer>.weight`, `w/<layer>.bias` (float32, torch's shapes); `memory/...` belongs to the strategy."""

    name: str = "mlp"
    needs: ClassVar[tuple[str, ...]] = ("preprocessing",)
    modality: ClassVar[frozenset[str]] = frozenset({"table"})
    traits: ClassVar[Traits] = Traits(trains=True)
    hidden: tuple[int, ...] = (16,)
    """Units of each hidden layer (tanh: linear for small weights); none: multinomial logistic regression."""
    rounds: int = 20
    """Rounds of federated averaging."""
    epochs: int = 2
    """Passes over a site's rows in a round."""
    batch: int = 32
    """Patients in a step."""
    learning_rate: float = 0.05
    """The optimiser's step size at a site."""
    weight_decay: float = 0.02
    """Decay of the weights."""
    proximal: float = 0.0
    """FedProx's mu."""
    rate: float = 0.1
    """With noise: the chance of a patient to be in a step; `batch` is then what a step's sum is divided by."""
    clip: float = 1.0
    """With noise: the L2 norm to which a patient's gradient is cut."""

    def start(self, schema: Schema, seed: int) -> Arrays:
        widths = (len(schema.columns), *self.hidden, len(schema.label.classes))
        rng = np.random.default_rng(seed)
        arrays: Arrays = {"round": np.array(0)}
        for i, (a, b) in enumerate(pairwise(widths)):
            bound = 1 / np.sqrt(max(a, 1))  # torch.nn.Linear's default, drawn here so that a coordinator needs no torch
            arrays[f"w/{2 * i}.weight"] = rng.uniform(-bound, bound, (b, a)).astype(np.float32)
            arrays[f"w/{2 * i}.bias"] = rng.uniform(-bound, bound, b).astype(np.float32)
        return arrays

    def phase(self, arrays: Arrays) -> str:
        return "train"

    def parameters(self, arrays: Arrays) -> Arrays:
        """The global parameters: what is averaged."""
        return {k: v for k, v in arrays.items() if k.startswith("w/")}

    def contribute(self, state: State, cohort: Cohort, plan: Plan) -> Contribution:
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        arrays = state[self.name]
        weights, loss = self.parameters(arrays), 0.0
        if plan.privacy is not None:
            noised = self._privately(weights, standardise(state["preprocessing"], rows), rows.labels, plan.privacy)
            return Contribution({k: v.astype(np.float64) for k, v in noised.items()}, len(rows))
        if len(rows):
            x = standardise(state["preprocessing"], rows)
            seed = int.from_bytes(hashlib.sha256(f"{plan.seed}:{int(arrays['round'])}:{cohort.site}".encode()).digest()[:8], "big")
            weights, loss = self._train(weights, x, rows.labels, seed)
        sums: Arrays = {k: v.astype(np.float64) * len(rows) for k, v in weights.items()}
        return Contribution(sums, len(rows), {"loss": np.array(loss * len(rows))})

    def apply(self, state: State, total: Contribution, plan: Plan) -> Step:
        arrays = state[self.name]
        done = int(arrays["round"]) + 1
        mean = {k: (v / max(total.cases, 1)).astype(np.float32) for k, v in total.sums.items()}
        return Step({**arrays, **mean, "round": np.array(done)}, done >= self.rounds)

    @property
    def phases(self) -> Mapping[str, Phase]:
        sends = "its parameters times its training cases; with noise, DP-SGD's as they are"
        return {"train": Phase(sends, self.rounds, lambda _: sampled(self.epochs, self.rate))}

    def predict(self, state: State, cohort: Cohort) -> Probs:
        return softmax(_layers(self.parameters(state[self.name]), standardise(state["preprocessing"], cohort))[-1])

    def alone(self, cohorts: Sequence[Cohort], fold: Fold, seed: int, parts: int, prepare: Federated = PREPARE) -> State:
        # the sites that the fold leaves out are left out here: together the others have a name of their own
        plan = local_plan(Fold(parts=fold.parts), seed, parts)
        kept = [c for c in cohorts if c.site not in fold.sites]
        together = [pooled(kept, kept[0].site if len(kept) == 1 else "pooled")]
        return fit(self, fit(prepare, {}, together, plan), together, plan)

    def __post_init__(self) -> None:
        whole = {f"{name} >= 1": getattr(self, name) >= 1 for name in ("rounds", "epochs", "batch")}
        rates = {f"{name} >= 0": getattr(self, name) >= 0 for name in ("weight_decay", "proximal")}
        layers = {"hidden layers of at least 1 unit": all(isinstance(h, int) and h >= 1 for h in self.hidden)}
        demand(self.name, {**bounds(self.rate, self.clip), **whole, **rates, **layers, "learning_rate > 0": self.learning_rate > 0})

    def explain(self, state: State, cohort: Cohort) -> Floats:
        """Integrated gradients from the average patient (Sundararajan et al. 2017, eq. 1; 32 midpoints): they add up to the change
        of the log-odds against class 0, as SHAP values do; for no hidden layer they are the linear SHAP values."""
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

    def _train(self, weights: Arrays, x: Floats, y: Labels, seed: int) -> tuple[Arrays, float]:
        trained, loss = train(
            _built(weights),
            federated_averaging.bare(weights),
            x,
            y,
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            proximal=self.proximal,
            seed=seed,
        )
        return federated_averaging.prefixed(trained), loss

    def _privately(self, weights: Arrays, x: Floats, y: Labels, privacy: Privacy) -> Arrays:
        import torch

        how = Schedule(self.epochs, self.batch, self.learning_rate, self.weight_decay, self.proximal)
        private = Private(privacy.noise, self.clip, sampled(self.epochs, self.rate))
        start, device = federated_averaging.bare(weights), torch.device("cpu")
        return federated_averaging.prefixed(learn(_built(weights), start, Table(x, y), cross_entropy, how, private, device=device))


def _built(weights: Arrays) -> nn.Module:
    shapes = tuple((int(w.shape[1]), int(w.shape[0])) for i in range(len(weights) // 2) for w in [weights[f"w/{2 * i}.weight"]])
    return _network(shapes, threading.get_ident())


@lru_cache(maxsize=8)
def _network(shapes: tuple[tuple[int, int], ...], thread: int) -> nn.Module:
    """A network to train in, one a thread: making one takes as long as some steps, and `train` sets every parameter anew."""
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
        out.append(x @ weights[f"w/{2 * i}.weight"].T.astype(np.float64) + weights[f"w/{2 * i}.bias"])
        x = np.tanh(out[-1])
    return out


def _gradient(weights: Arrays, z: Floats) -> Floats:
    """(cases, columns, classes): derivative of each logit by each input."""
    depth = len(weights) // 2
    pre = _layers(weights, z)
    back = np.broadcast_to(
        weights[f"w/{2 * (depth - 1)}.weight"].T.astype(np.float64), (len(z), *weights[f"w/{2 * (depth - 1)}.weight"].T.shape)
    )
    for i in reversed(range(depth - 1)):
        back = weights[f"w/{2 * i}.weight"].T.astype(np.float64) @ (back * (1 - np.tanh(pre[i]) ** 2)[:, :, None])
    return np.asarray(back)


LEARNER = Perceptron()
