"""Autoencoder on the crops of all training cases, those of unknown label too: no label is ever
looked at.

Its code is the fusion's input beside the image network's logits, and its encoder may be where that
network starts. One is trained for each outer training set, by federated averaging; a site counts
with its cases that have an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from common.data.cohort import Cohort
from common.data.imaging_of import imaging_of
from common.data.schema import Floats, Schema
from common.federated.array_rules import COUNT, ArrayRules, whole
from common.federated.hyper_limits import MOST_LATENT, grid_rules
from common.federated.learner import Contribution, Phase, Plan, Step, Traits, demand
from common.federated.states import States
from common.learners.image import with_images
from common.networks import federated_averaging
from common.networks.crops import CaseCrops, Grid, case_crops
from common.networks.dp_sgd import PrivateTraining, Records, sampled
from common.networks.training import LocalTraining
from common.runtime.cache import Cache, array_bytes
from common.types import Array, Arrays, State, digest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Autoencoder:
    """Arrays: `round`, `grid` (3,), `cases` of the last round, `w/...` (float32; `w/trunk....` are
    the image network's encoder)."""

    name: str = "autoencoder"
    needs: ClassVar[tuple[str, ...]] = ()
    modality: ClassVar[frozenset[str]] = frozenset({"image"})
    traits: ClassVar[Traits] = Traits(trains=True, unlabelled=True)
    dimensions: int = 32
    """Of the latent code."""
    grid: tuple[int, ...] = (16, 24, 24)
    """Voxels (z, y, x) that a crop is laid onto."""
    training: LocalTraining = LocalTraining(
        rounds=3, epochs=2, batch=32, learning_rate=0.002, weight_decay=0.01
    )
    private: PrivateTraining = PrivateTraining()

    def __post_init__(self) -> None:
        grid = {
            "grid: three whole numbers of at least 4": len(self.grid) == 3
            and all(isinstance(g, int) and g >= 4 for g in self.grid)
        }
        demand(
            self.name,
            {
                **self.training.rules,
                **self.private.rules(self.training.epochs),
                "dimensions >= 1": self.dimensions >= 1,
                **grid,
                **grid_rules(self.grid),
                f"dimensions times voxels at most {MOST_LATENT}": self.dimensions
                * abs(math.prod(g for g in self.grid if isinstance(g, int)))
                <= MOST_LATENT,
            },
        )

    def start(self, schema: Schema, seed: int) -> Arrays:
        how = len(imaging_of(self.name, schema).channels), self.dimensions, self.grid
        weights = federated_averaging.drawn(_network, how, seed)
        return {
            "round": np.array(0),
            "cases": np.array(0),
            "grid": np.array(self.grid, np.int64),
            **weights,
        }

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        return {
            "round": whole(),
            "cases": whole(low=-COUNT),
            "grid": federated_averaging.GRID,
            **federated_averaging.rules(_network, own["grid"], _how(own, schema)),
        }

    def phase(self, arrays: Arrays) -> str:
        return "train"

    def parameters(self, arrays: Arrays) -> Arrays:
        """The global parameters: what is averaged."""
        return federated_averaging.parameters(arrays)

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        state = states[plan.fold]
        arrays, rows = (
            state[self.name],
            with_images(cohort.train(plan.fold, plan.seed, plan.parts, labelled=False)),
        )
        how = self.training.schedule("adamw")
        task = federated_averaging.Local(
            _network, _how(arrays, cohort.schema), reconstruction, how, self.private
        )
        return federated_averaging.train(
            task,
            arrays,
            federated_averaging.examples_of(
                lambda own: self._examples(state, rows.where(own)), len(rows), plan
            ),
            plan,
            cohort.site,
            len(rows),
        )

    def _examples(self, state: State, rows: Cohort) -> Records:
        from common.networks.augmentation import Augment
        from common.networks.datasets import Singles

        held, varied = (
            self.crops(state, rows),
            Augment(imaging_of(self.name, rows.schema).crop_mm, dropout=0.0),
        )
        return Singles(held, held.counts, cast(Any, rows.pictures), varied)

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        arrays = states[plan.fold][self.name]
        done = int(arrays["round"]) + 1
        new: Arrays = {
            **arrays,
            **federated_averaging.mean(arrays, total),
            "round": np.array(done),
            "cases": np.array(total.cases),
        }
        return Step(new, done >= self.training.rounds or not total.cases)

    @property
    def phases(self) -> Mapping[str, Phase]:
        sends = "its parameters times its cases with an image; with noise, DP-SGD's as they are"
        return {
            "train": Phase(
                sends,
                self.training.rounds,
                lambda _: sampled(self.training.epochs, self.private.rate),
            )
        }

    def latent(self, state: State, cohort: Cohort) -> Floats:
        """(cases, dimensions): the mean code over each case's crops; zeros where there is no
        image."""
        import torch

        from common.networks.datasets import Cases
        from common.networks.devices import choose, repeatable
        from common.networks.training import load

        arrays = state[self.name]
        out = np.zeros((len(cohort), len(arrays["w/code.bias"])))
        rows = with_images(cohort)
        if not len(rows):
            return out
        held = self.crops(state, rows)
        network = digest(arrays)
        keys = [(network, held.name, p.key) for p in rows.pictures if p]
        found = [CODES.get(k) for k in keys]
        if any(f is None for f in found):
            device = choose()
            cases = Cases(held, held.counts, cast(Any, rows.pictures), rows.labels, None)
            with repeatable(device), torch.inference_mode():
                made = federated_averaging.network(_network, *_how(arrays, rows.schema)).to(device)
                load(made, federated_averaging.bare(arrays))
                for i, key in enumerate(
                    keys
                ):  # one patient at a time: a code depends on nobody else
                    if found[i] is None:
                        x, _, mean, _ = cases.batch(np.array([i]), device, None)
                        one = (mean @ made.encode(x))[0].double().cpu().numpy()
                        CODES[key] = one
                        found[i] = one
        out[cohort.imaged] = found
        return out

    def crops(self, state: State, rows: Cohort) -> CaseCrops:
        """What the network sees of cases that all have an image: no predicted lesions, for a
        segmentation would bring labels in."""
        imaging_of(self.name, rows.schema)
        return case_crops(rows, _grid(state[self.name]))


CODES: Cache[tuple[str, ...], Array] = Cache(32 * 2**20, array_bytes)
"""Patients' codes, by autoencoder and picture."""


def _how(arrays: Arrays, schema: Schema) -> tuple[object, ...]:
    """What the network is built from; the arrays tell, whatever this learner's own hyperparameters
    are."""
    return (
        len(imaging_of("autoencoder", schema).channels),
        len(arrays["w/code.bias"]),
        _grid(arrays),
    )


def _grid(arrays: Arrays) -> Grid:
    return cast(Grid, tuple(int(g) for g in arrays["grid"]))


def reconstruction(network: Any, batch: Any) -> Tensor:
    """Squared error, a mean over the voxels of the sequences that are there and of the lesion mask,
    summed over crops."""
    import torch

    x, present = batch
    there = torch.cat([present, torch.ones_like(present[:, :1])], dim=1)
    error = (network(x).float() - x).square().mean(dim=(2, 3, 4))
    return ((error * there).sum(dim=1) / there.sum(dim=1)).sum()


def _network(channels: int, latent: int, grid: Grid) -> Any:
    from common.networks import architectures

    return architectures.AutoEncoder(channels, latent, grid)


LEARNER = Autoencoder()
