"""Segmentation by a compact UNet that outlines the study's regions on the coarse whole volume,
learnt from the experts' masks by federated averaging.

With it a patient whose image nobody outlined gets a region to crop round. A site counts with its
training cases that have a mask, whether their label is known or not; a region that the mask does
not speak about costs nothing. In a study without regions there is nothing to learn: every site
sends zero cases, and the learner is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort
from common.data.imaging_of import imaging_of
from common.data.picture import Picture
from common.data.schema import Floats, Imaging, Schema
from common.federated.array_rules import COUNT, ArrayRule, ArrayRules, whole
from common.federated.hyper_limits import grid_rules
from common.federated.learner import Contribution, Phase, Plan, Step, Traits, demand
from common.federated.states import States
from common.networks import federated_averaging
from common.networks.augmentation import Augment
from common.networks.crops import Bits, Grid, Halves, Regions, on_grid, resample
from common.networks.dp_sgd import PrivateTraining, sampled
from common.networks.training import LocalTraining
from common.types import Arrays, State, digest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SOFT_TISSUE = (80.0, 40.0)
"""Middle and half width, HU, of the narrow window that CT is also seen through: a lesion is a few
tens of HU below the liver."""
DEEPEST, WIDEST = 6, 1024
"""The most levels of a network, and channels of one."""
VERSION = 2
"""Of how a picture becomes an example; part of the name under which examples are kept."""


@dataclass(frozen=True)
class Segmentation:
    """Arrays: `round`, `grid` (3,), `widths`, `cases` of the last round, and `w/...` (float32,
    MONAI's names) if there are regions.

    Tally: `dice` (regions, 2): the sum over the site's training cases of the Dice of the model that
    came, and their number."""

    name: str = "segmentation"
    needs: ClassVar[tuple[str, ...]] = ()
    modality: ClassVar[frozenset[str]] = frozenset({"image"})
    traits: ClassVar[Traits] = Traits(trains=True, unlabelled=True)
    grid: tuple[int, ...] = (16, 32, 32)
    """Voxels (z, y, x) of the coarse volume."""
    widths: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of each level; each but the first halves the grid."""
    training: LocalTraining = LocalTraining(
        rounds=4, epochs=2, batch=4, learning_rate=0.02, weight_decay=0.01
    )
    private: PrivateTraining = PrivateTraining()

    def __post_init__(self) -> None:
        levels = 2 <= len(self.widths) <= 8 and all(
            isinstance(w, int) and 1 <= w <= 1024 for w in self.widths
        )
        step = 2 ** (len(self.widths) - 1)
        grid = len(self.grid) == 3 and all(
            isinstance(g, int) and g >= 2 * step and g % step == 0 for g in self.grid
        )
        shapes = {
            "widths: two to eight whole numbers from 1 to 1024": levels,
            f"grid: three multiples of {step}, twice that or more": grid,
            **grid_rules(self.grid),
        }
        demand(
            self.name, {**self.training.rules, **self.private.rules(self.training.epochs), **shapes}
        )

    def start(self, schema: Schema, seed: int) -> Arrays:
        imaging = imaging_of(self.name, schema)
        weights = (
            federated_averaging.drawn(
                _network, (_channels(imaging), len(imaging.regions), self.widths), seed
            )
            if imaging.regions
            else {}
        )
        sizes: Arrays = {
            "grid": np.array(self.grid, np.int64),
            "widths": np.array(self.widths, np.int64),
        }
        return {"round": np.array(0), "cases": np.array(0), **sizes, **weights}

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        imaging = imaging_of(self.name, schema)
        rules: dict[str, ArrayRule] = {
            "round": whole(),
            "cases": whole(low=-COUNT),
            "grid": federated_averaging.GRID,
            "widths": whole("levels", low=1, high=WIDEST),
        }
        if not imaging.regions:
            return rules
        if not (2 <= len(own["widths"]) <= DEEPEST and own["widths"].max() <= WIDEST):
            raise ValueError(f"widths {own['widths']}")
        return {
            **rules,
            **federated_averaging.rules(_network, own["grid"], _how(own, imaging)),
        }

    def phase(self, arrays: Arrays) -> str:
        return "train"

    def parameters(self, arrays: Arrays) -> Arrays:
        """The global parameters: what is averaged."""
        return federated_averaging.parameters(arrays)

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        arrays, imaging = states[plan.fold][self.name], imaging_of(self.name, cohort.schema)
        rows = outlined(cohort.train(plan.fold, plan.seed, plan.parts, labelled=False))
        varied = Augment(dropout=0.25 if imaging.modality.sequences else 0.0)
        examples = federated_averaging.examples_of(
            lambda own: _examples(list(compress(rows, own)), imaging, _sizes(arrays)[0], varied),
            len(rows),
            plan,
        )
        how = self.training.schedule("adamw")
        task = federated_averaging.Local(
            _network, _how(arrays, imaging), dice_and_entropy, how, self.private
        )
        sent = federated_averaging.train(task, arrays, examples, plan, cohort.site, len(rows))
        if plan.privacy is not None:
            return sent
        dice = _dice(arrays, imaging, examples) if examples else np.zeros((len(imaging.regions), 2))
        return replace(sent, tally={**sent.tally, "dice": dice})

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
        sends = "its parameters times its outlined cases; with noise, DP-SGD's as they are"
        return {
            "train": Phase(
                sends,
                self.training.rounds,
                lambda _: sampled(self.training.epochs, self.private.rate),
            )
        }

    def lesion_mask(self, state: State, picture: Picture, imaging: Imaging) -> Bits | None:
        """(z, y, x) on the grid of `picture.voxels`: where a lesion is likelier than not; None
        where nothing has been learnt."""
        regions, _ = regions_of(state[self.name], imaging)
        return regions(picture) if regions else None


def regions_of(arrays: Arrays, imaging: Imaging) -> tuple[Regions | None, str]:
    """Predicted lesions by a trained segmentation, and the name of its parameters; None, '' where
    it has seen no mask."""
    if not imaging.lesion or not int(arrays["cases"]):
        return None, ""

    def regions(picture: Picture) -> Bits:
        lesion = probabilities(arrays, imaging, picture)[
            [imaging.regions.index(r) for r in imaging.lesion]
        ].max(axis=0)
        return on_grid(lesion, picture.box, picture.voxels.shape[1:]) > 0.5

    return regions, digest(arrays)


def probabilities(arrays: Arrays, imaging: Imaging, picture: Picture) -> Floats:
    """(regions, *grid) over the whole field of view."""
    import torch

    from common.networks.devices import choose, repeatable

    device = choose()
    grid, _ = _sizes(arrays)
    x = seen(picture, imaging, grid)
    with repeatable(device), torch.inference_mode():
        logits = _loaded(arrays, imaging, device)(torch.from_numpy(x)[None].to(device))
        return np.asarray(torch.sigmoid(logits.float())[0].cpu().numpy(), np.float64)


def seen(picture: Picture, imaging: Imaging, grid: Grid) -> NDArray[np.float32]:
    """(channels, *grid): the whole field of view; CT through the study's window and through a
    narrow one of soft tissue."""
    values = resample(picture.coarse, grid) * np.float32(picture.unit)
    if not imaging.modality.hounsfield:
        return values
    low, high = imaging.window_hu
    middle, half = SOFT_TISSUE
    narrow = np.tanh(((values + 1) / 2 * (high - low) + low - middle) / half)
    return np.concatenate(
        [values, narrow * np.array(picture.present, np.float32)[:, None, None, None]]
    )


def outlined(cohort: Cohort) -> list[Picture]:
    """The pictures in which an expert marked anything."""
    return [
        p for p in cohort.pictures if p is not None and p.coarse_mask is not None and any(p.marked)
    ]


def dice_and_entropy(network: Any, batch: Any) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, eq. 1, without squares) and cross-entropy, means over
    the marked regions, summed over cases."""
    import torch

    x, target, marked = batch
    logits = network(x).float()
    p = torch.sigmoid(logits)
    overlap, size = (p * target).sum((2, 3, 4)), (p + target).sum((2, 3, 4))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, target, reduction="none"
    ).mean((2, 3, 4))
    each = (entropy + 1 - (2 * overlap + 1) / (size + 1)) * marked
    return (each.sum(dim=1) / marked.sum(dim=1)).sum()


class _Outlined:
    """Rows are cases; a batch is (coarse volumes, regions, which regions are marked)."""

    inputs = 1

    def __init__(
        self, arrays: Sequence[Halves], pictures: Sequence[Picture], regions: int, augment: Any
    ) -> None:
        import torch

        from common.networks.datasets import Store, presence

        self._store = Store(arrays, np.ones(len(arrays), np.int64))
        self.patient = self._store.case
        bits, channels = presence(pictures), len(arrays[0][0]) - regions
        self._present, self._augment = bits.repeat(1, channels // bits.shape[1]), augment
        self._marked = torch.tensor([p.marked for p in pictures], dtype=torch.float32)
        self.noise = int(augment.draws(self._present.shape[1], 1))

    def __len__(self) -> int:
        return len(self._marked)

    def batch(
        self, rows: NDArray[np.int64], device: torch.device, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        x = self._store.gather(rows, device)
        if noise is not None:
            nth = torch.arange(len(rows), device=device)
            x, _ = self._augment(
                x, self._present[rows].to(device), noise.to(device), nth, torch.zeros_like(nth)
            )
        channels = self._present.shape[1]
        return x[:, :channels], x[:, channels:], self._marked[rows].to(device)


def _examples(pictures: Sequence[Picture], imaging: Imaging, grid: Grid, augment: Any) -> _Outlined:
    return _Outlined(
        [_example(p, imaging, grid)[None] for p in pictures],
        pictures,
        len(imaging.regions),
        augment,
    )


def _example(picture: Picture, imaging: Imaging, grid: Grid) -> Halves:
    """(channels as seen + regions, *grid): values, and the share of each region."""

    def make() -> Halves:
        assert picture.coarse_mask is not None
        bits = np.stack(
            [(picture.coarse_mask >> i) & 1 for i in range(len(imaging.regions))]
        ).astype(np.float32)
        return np.concatenate([seen(picture, imaging, grid), resample(bits, grid)]).astype(
            np.float16
        )

    return np.asarray(
        picture.kept(
            f"segmentation v{VERSION} window {imaging.window} grid {'x'.join(map(str, grid))} "
            f"regions {'+'.join(imaging.regions)}",
            make,
        )
    )


def _dice(arrays: Arrays, imaging: Imaging, examples: _Outlined) -> Floats:
    """(regions, 2): the sum over cases of the Dice of regions cut at one half, and in how many
    cases each is marked."""
    import torch

    from common.networks.devices import choose, repeatable

    device = choose()
    out = np.zeros((len(imaging.regions), 2))
    with repeatable(device), torch.inference_mode():
        network = _loaded(arrays, imaging, device)
        for at in range(0, len(examples), 16):
            x, target, marked = examples.batch(
                np.arange(at, min(at + 16, len(examples))), device, None
            )
            found, truth = network(x).float() > 0, target > 0.5
            both, size = (found & truth).sum((2, 3, 4)), found.sum((2, 3, 4)) + truth.sum((2, 3, 4))
            dice = torch.where(size > 0, 2 * both / size.clamp(min=1), 1.0) * marked
            out += torch.stack([dice.sum(dim=0), marked.sum(dim=0)], dim=1).double().cpu().numpy()
    return out


def _loaded(arrays: Arrays, imaging: Imaging, device: Any) -> Any:
    from common.networks.training import load

    made = federated_averaging.network(_network, *_how(arrays, imaging)).to(device)
    load(made, federated_averaging.bare(arrays))
    return made.eval()


def _how(arrays: Arrays, imaging: Imaging) -> tuple[object, ...]:
    return _channels(imaging), len(imaging.regions), _sizes(arrays)[1]


def _channels(imaging: Imaging) -> int:
    return len(imaging.channels) * (2 if imaging.modality.hounsfield else 1)


def _sizes(arrays: Arrays) -> tuple[Grid, tuple[int, ...]]:
    return cast(Grid, tuple(int(g) for g in arrays["grid"])), tuple(
        int(w) for w in arrays["widths"]
    )


def _network(channels: int, regions: int, widths: tuple[int, ...]) -> Any:
    from common.networks import architectures

    return architectures.unet(channels, regions, widths)


LEARNER = Segmentation()
