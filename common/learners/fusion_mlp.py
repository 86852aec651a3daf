"""Late fusion as a small perceptron by federated averaging, for a study that doubts the linear one.

    eta_k = z_clin_k + mlp_k(z_clin, z_img, latent)        (a case without an image: z_clin alone, the clinical prediction)

The inputs, and who is scored by which model, are the linear fusion's (`fusion.py`). The last layer
starts at zero, so that training starts at the clinical prediction. A site sends parameters times
its cases with an image and a label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from common.data.cohort import Cohort
from common.data.schema import Floats, Schema
from common.federated.array_rules import ArrayRule, ArrayRules, parameters, whole
from common.federated.coverage import Cover, Covers
from common.federated.learner import Contribution, Hyper, Phase, Plan, Step, Traits, demand
from common.federated.states import States
from common.learners.fusion import Fusion, Inputs
from common.networks.training import LocalTraining
from common.types import Arrays, Probs, State

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class FusionPerceptron:
    """Arrays: `round`; `mean`, `scale` of the latent code; `w/<v>/...`: the layers fitted on all
    training cases (v = 0) and without part v - 1; `memory/...` belongs to the strategy."""

    name: str = "fusion_mlp"
    modality: ClassVar[frozenset[str]] = frozenset({"image"})
    clinical: str = "logistic"
    """The head whose log-odds are the offset."""
    latent: bool = True
    """Whether the autoencoder's latent code is an input."""
    learners: Mapping[str, Hyper] = field(default_factory=dict, hash=False)
    """The hyperparameters of the learners it reads, where they are not the defaults."""
    hidden: int = 8
    """Units of the hidden layer."""
    training: LocalTraining = LocalTraining(
        rounds=15, epochs=4, batch=32, learning_rate=0.02, weight_decay=0.02
    )

    @property
    def _linear(self) -> Fusion:
        return Fusion(
            name=self.name, clinical=self.clinical, latent=self.latent, learners=self.learners
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return self._linear.needs

    @property
    def traits(self) -> Traits:
        return Traits(spares=self._linear.traits.spares)

    @property
    def outer(self) -> tuple[str, ...]:
        return self._linear.outer

    def start(self, schema: Schema, seed: int) -> Arrays:
        return {"round": np.array(0), "seed": np.array(seed)}

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        if "mean" not in own:
            return {"round": whole(high=0), "seed": ArrayRule(np.integer, (), -(2**63), 2**64)}
        latent, others = len(own["mean"]), len(schema.label.classes) - 1
        layers: dict[str, tuple[int | str, ...]] = {
            "0.weight": ("units", 2 * others + latent),
            "0.bias": ("units",),
            "2.weight": (others, "units"),
            "2.bias": (others,),
        }
        variants = sum(name.endswith("/2.bias") for name in own)
        return {
            "round": whole(),
            "mean": parameters(latent),
            "scale": ArrayRule(np.float64, (latent,), 1e-9),
            **{
                f"w/{v}/{name}": ArrayRule(np.float32, shape)
                for v in range(variants)
                for name, shape in layers.items()
            },
        }

    def phase(self, arrays: Arrays) -> str:
        return "train" if "mean" in arrays else "moments"

    def parameters(self, arrays: Arrays) -> Arrays:
        """The global parameters: what is averaged."""
        return {k: v for k, v in arrays.items() if k.startswith("w/")}

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        arrays = states[plan.fold][self.name]
        if self.phase(arrays) == "moments":
            return self._linear.contribute(states, cohort, plan)
        rows, parts, inputs = self._linear.training(states, cohort, plan)
        weights, loss = self.parameters(arrays), 0.0
        if len(rows):
            out: Arrays = {}
            for v in range(1 + plan.parts):
                keep = parts != v - 1
                mine, spent = self._fit(
                    weights, v, inputs, rows.labels, keep, self._seed(plan, arrays, cohort, v)
                )
                out |= mine
                loss += spent if v == 0 else 0.0
            weights = out
        return Contribution(
            {k: v.astype(np.float64) * len(rows) for k, v in weights.items()},
            len(rows),
            {"loss": np.array(loss * len(rows))},
        )

    def covers(self, states: States, cohort: Cohort, plan: Plan) -> Covers:
        """Of each variant the cases outside the part that it is fitted without."""
        if self.phase(states[plan.fold][self.name]) == "moments":
            return {}
        rows = self._linear.variants(states, cohort, plan)
        each = zip(rows.rows, rows.most, strict=True)
        return {f"w/{v}": Cover(here, most) for v, (here, most) in enumerate(each)}

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        arrays = states[plan.fold][self.name]
        if self.phase(arrays) == "moments":
            begun = self._linear.apply(states, total, plan).arrays
            fresh = self._drawn(begun["coefficients"].shape, int(arrays["seed"]))
            return Step(
                {"round": np.array(0), "mean": begun["mean"], "scale": begun["scale"], **fresh},
                False,
            )
        done = int(arrays["round"]) + 1
        mean = {k: (v / max(total.cases, 1)).astype(np.float32) for k, v in total.sums.items()}
        return Step({**arrays, **mean, "round": np.array(done)}, done >= self.training.rounds)

    def __post_init__(self) -> None:
        demand(self.name, {**self.training.rules, "hidden >= 1": self.hidden >= 1})
        _ = self._linear

    @property
    def phases(self) -> Mapping[str, Phase]:
        # local epochs are not a bounded sum over patients
        return {
            "moments": Phase("`sum` and `squares` of the latent code", 1, None),
            "train": Phase(
                "its parameters times its cases with an image and a label",
                self.training.rounds,
                None,
            ),
        }

    def predict(self, state: State, cohort: Cohort) -> Probs:
        """(cases, classes). Of a case without an image: the clinical head's, to the last bit."""
        return self._linear.blend(
            state, state, cohort, lambda inputs: self._eta(state[self.name], 0, inputs)
        )

    def predict_inside(self, outer: State, inner: State, cohort: Cohort, part: int) -> Probs:
        return self._linear.blend(
            outer, inner, cohort, lambda inputs: self._eta(outer[self.name], 1 + part, inputs)
        )

    def _eta(self, arrays: Arrays, variant: int, inputs: Inputs) -> Floats:
        first, bias, last, end = (arrays[f"w/{variant}/{n}"].astype(np.float64) for n in _LAYERS)
        return np.asarray(inputs.offset + np.tanh(_columns(inputs) @ first.T + bias) @ last.T + end)

    def _fit(
        self, weights: Arrays, variant: int, inputs: Inputs, labels: Any, keep: Any, seed: int
    ) -> tuple[Arrays, float]:
        import torch

        from common.networks.training import learn

        start = {n: weights[f"w/{variant}/{n}"] for n in _LAYERS}
        if not keep.any():
            return {f"w/{variant}/{n}": v for n, v in start.items()}, 0.0
        examples = _Rows(_columns(inputs)[keep], inputs.offset[keep], labels[keep])
        how = self.training.schedule()
        trained = learn(
            _network(start), start, examples, _loss, how, seed=seed, device=torch.device("cpu")
        )
        return {f"w/{variant}/{n}": v for n, v in trained.arrays.items()}, trained.loss

    def _drawn(self, shape: tuple[int, ...], seed: int) -> Arrays:
        variants, classes, columns = shape
        width = columns - 2 + 2 * classes
        r = np.random.default_rng(seed)
        first = r.normal(size=(self.hidden, width)).astype(np.float32) / np.float32(np.sqrt(width))
        layers = (
            first,
            np.zeros(self.hidden, np.float32),
            np.zeros((classes, self.hidden), np.float32),
            np.zeros(classes, np.float32),
        )
        return {
            f"w/{v}/{n}": a for v in range(variants) for n, a in zip(_LAYERS, layers, strict=True)
        }

    def _seed(self, plan: Plan, arrays: Arrays, cohort: Cohort, variant: int) -> int:
        text = f"{plan.seed}:{int(arrays['round'])}:{cohort.site}:{variant}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


_LAYERS = ("0.weight", "0.bias", "2.weight", "2.bias")


class _Rows:
    """Columns, offset and class of each case, for the training loop."""

    noise = 0

    def __init__(self, x: Floats, offset: Floats, labels: Any) -> None:
        import torch

        self._tensors = tuple(torch.from_numpy(np.asarray(a, np.float32)) for a in (x, offset))
        self._labels = torch.from_numpy(np.array(labels, np.int64))

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, rows: Any, device: Any, noise: Any) -> tuple[Any, ...]:
        return (*(t[rows].to(device) for t in self._tensors), self._labels[rows].to(device))


def _network(start: Mapping[str, Any]) -> nn.Module:
    from torch import nn

    hidden, width = start["0.weight"].shape
    return nn.Sequential(
        nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, len(start["2.bias"]))
    )


def _loss(network: Any, batch: Any) -> Tensor:
    import torch

    x, offset, labels = batch
    eta = offset + network(x)
    return torch.nn.functional.cross_entropy(
        torch.cat([torch.zeros_like(eta[:, :1]), eta], dim=1), labels, reduction="sum"
    )


def _columns(inputs: Inputs) -> Floats:
    """Offset, image log-odds and latent code: (cases, 2 * (classes - 1) + latent). Log-odds are cut
    at +-10."""
    latent = inputs.columns[:, 0, 2:]
    return np.concatenate(
        [np.clip(inputs.offset, -10, 10), np.clip(inputs.columns[:, :, 1], -10, 10), latent], axis=1
    )


LEARNER = FusionPerceptron()
