"""Image network on the crops of each patient's image, trained by federated averaging; its logit is
the mean over the patient's crops.

First the classes of the labelled cases with an image are counted; classes weigh by the inverse of
their federated counts, up to a cap, and what a network trained so says is corrected for the prior
(Elkan 2001) before anybody sees it. A site counts with its labelled cases that have an image, and
with no others. A case without an image gets the prior of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from common.data.cohort import Cohort, Fold, pooled
from common.data.imaging_of import imaging_of
from common.data.schema import Floats, Schema
from common.errors import RefusedError
from common.federated.array_rules import ArrayRule, ArrayRules, counts, parameters, whole
from common.federated.hyper_limits import grid_rules
from common.federated.learner import (
    Contribution,
    Federated,
    Phase,
    Plan,
    Step,
    Traits,
    demand,
    fit,
    load,
    local_plan,
)
from common.federated.multinomial import softmax
from common.federated.states import States
from common.networks import classifier_files, federated_averaging
from common.networks.classifier_files import trained
from common.networks.crops import CaseCrops, Grid, case_crops, patient_logits
from common.networks.dp_sgd import PrivateTraining, Records, sampled
from common.networks.training import LocalTraining
from common.runtime.cache import Cache, array_bytes
from common.types import Array, Arrays, Probs, State, digest

if TYPE_CHECKING:
    from torch import Tensor

INITIAL = ("random", "autoencoder")
CERTAIN = 10.0
"""Log-odds beyond which mean and spread do not follow a patient: 22000 to 1."""


@dataclass(frozen=True)
class Image:
    """Arrays: `round`, `network` (its number), `grid` (3,), `w/...` (float32, torch's names and
    shapes), `mean` and `spread` (classes - 1,) of the training cases' log-odds; once counted also
    `counts` and `weights` (classes,)."""

    name: str = "image"
    modality: ClassVar[frozenset[str]] = frozenset({"image"})
    traits: ClassVar[Traits] = Traits(trains=True, spares=("segmentation",))
    network: str = "compact3d"
    """One of the networks in `common/networks/classifiers/`, such as `compact3d` and
    `efficientnet_b3`, the original study's, which wants a grid of at least 64 x 64."""
    grid: tuple[int, ...] = (16, 24, 24)
    """Voxels (z, y, x) that a crop is laid onto."""
    training: LocalTraining = LocalTraining(
        rounds=8, epochs=3, batch=8, learning_rate=0.01, weight_decay=0.05
    )
    private: PrivateTraining = PrivateTraining()
    weight_cap: float = 5.0
    """How many times as much as another a class may weigh; 1: all the same."""
    segmentation: bool = True
    """Whether lesions come from the segmentation network where no expert outlined any."""
    initial: str = "random"
    """`autoencoder`: the encoder starts from the autoencoder's of the same training set."""
    pretrained: str = ""
    """A file at the coordinator with parameters to start from, by name: .npz, or a state dict of
    torch."""
    pretrained_sha256: str = ""
    """SHA-256 of that file; another content is refused."""

    @property
    def needs(self) -> tuple[str, ...]:
        return (
            *(("segmentation",) if self.segmentation else ()),
            *(("autoencoder",) if self.initial == "autoencoder" else ()),
        )

    def __post_init__(self) -> None:
        whole = len(self.grid) == 3 and all(isinstance(g, int) and g >= 4 for g in self.grid)
        grid = {"grid: three whole numbers of at least 4": whole, **grid_rules(self.grid)}
        networks = {name: classifier_files.load(name) for name in classifier_files.names()}
        network = networks.get(self.network)
        smallest = network.smallest if network else (0, 0, 0)
        encoders = " or ".join(name for name, c in networks.items() if c.encoder)
        chosen = {
            f"network: one of {', '.join(networks)}": network is not None,
            f"initial: one of {', '.join(INITIAL)}": self.initial in INITIAL,
            f"grid of at least {' x '.join(map(str, smallest))} for {self.network}": not whole
            or all(g >= least for g, least in zip(self.grid, smallest, strict=True)),
            f"network {encoders} for initial autoencoder": self.initial == "random"
            or (network is not None and network.encoder),
            "initial random where there is a pretrained file": self.initial == "random"
            or not self.pretrained,
            "pretrained_sha256 (64 hex digits) with pretrained, and neither without the other": bool(
                self.pretrained
            )
            == (len(self.pretrained_sha256) == 64),
        }
        demand(
            self.name,
            {
                **self.training.rules,
                **self.private.rules(self.training.epochs),
                "weight_cap >= 1": self.weight_cap >= 1,
                **grid,
                **chosen,
            },
        )

    def start(self, schema: Schema, seed: int) -> Arrays:
        network = classifier_files.load(self.network)
        how = network.name, len(imaging_of(self.name, schema).channels), len(schema.label.classes)
        weights = federated_averaging.drawn(_classifier, how, seed)
        if self.pretrained:
            from common.networks.pretrained import adopt

            own = federated_averaging.bare(weights)
            weights = federated_averaging.prefixed(
                adopt(self.pretrained, self.pretrained_sha256, own, network.prefix)
            )
        sizes: Arrays = {
            "network": np.array(network.number),
            "grid": np.array(self.grid, np.int64),
        }
        others = len(schema.label.classes) - 1
        return {
            "round": np.array(0),
            "mean": np.zeros(others),
            "spread": np.ones(others),
            **sizes,
            **weights,
        }

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        classes = len(schema.label.classes)
        rules = {
            "round": whole(),
            "network": whole(),
            "grid": federated_averaging.GRID,
            "mean": parameters(classes - 1),
            "spread": ArrayRule(np.float64, (classes - 1,), 1e-6),
            **federated_averaging.rules(_classifier, own["grid"], _how(own, schema)),
        }
        if "counts" in own:
            rules["counts"] = counts(classes)
            rules["weights"] = ArrayRule(np.float64, (classes,), 1e-9)
        return rules

    def phase(self, arrays: Arrays) -> str:
        if "counts" not in arrays:
            return "count"
        return "train" if int(arrays["round"]) < self.training.rounds else "spread"

    def parameters(self, arrays: Arrays) -> Arrays:
        """The global parameters: what is averaged."""
        return federated_averaging.parameters(arrays)

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        state = states[plan.fold]
        arrays, rows = state[self.name], with_images(cohort.train(plan.fold, plan.seed, plan.parts))
        if plan.phase == "count":
            counts = np.bincount(rows.labels, minlength=len(cohort.schema.label.classes)).astype(
                np.float64
            )
            return Contribution({"classes": counts}, len(rows))
        if plan.phase == "spread":
            logits = np.clip(np.nan_to_num(self.logits(state, rows)), -CERTAIN, CERTAIN)
            return Contribution(
                {"sum": logits.sum(axis=0), "squares": (logits**2).sum(axis=0)}, len(rows)
            )
        task = self._local(arrays, cohort.schema)
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

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        state = states[plan.fold]
        arrays = state[self.name]
        if plan.phase == "count":
            counts = np.maximum(total.sums["classes"], 0)  # noise may take them below
            counted: Arrays = {
                **arrays,
                "counts": counts,
                "weights": class_weights(counts, self.weight_cap),
            }
            if self.initial == "autoencoder":
                encoder = {
                    k: v for k, v in state["autoencoder"].items() if k.startswith("w/trunk.")
                }
                counted |= {k: np.array(v) for k, v in encoder.items()}
            return Step(counted, total.cases == 0)
        if plan.phase == "spread":
            return Step({**arrays, **_moments(total)}, True)
        return Step(
            {
                **arrays,
                **federated_averaging.mean(arrays, total),
                "round": np.array(int(arrays["round"]) + 1),
            },
            False,
        )

    @property
    def phases(self) -> Mapping[str, Phase]:
        train = (
            "its parameters times its labelled cases with an image; with noise, DP-SGD's as "
            "they are"
        )
        return {
            "count": Phase("`classes`: labelled cases with an image, by class", 1, lambda _: 1.0),
            "train": Phase(
                train,
                self.training.rounds,
                lambda _: sampled(self.training.epochs, self.private.rate),
            ),
            "spread": Phase("`sum` and `squares` of the network's log-odds", 1, _spread_bound),
        }

    def predict(self, state: State, cohort: Cohort) -> Probs:
        """(cases, classes); for a case without an image the prior."""
        return softmax(self.scores(state, cohort))

    def logits(self, state: State, cohort: Cohort) -> Floats:
        """(cases, classes - 1): log-odds against class 0, corrected for the class weights."""
        scores = self.scores(state, cohort)
        return np.asarray(scores[:, 1:] - scores[:, :1])

    def standardised(self, state: State, cohort: Cohort) -> Floats:
        """(cases, classes - 1): the log-odds in units of their spread over the training cases, 0 at
        their mean."""
        return np.asarray(
            (self.logits(state, cohort) - state[self.name]["mean"]) / state[self.name]["spread"]
        )

    def scores(self, state: State, cohort: Cohort) -> Floats:
        """(cases, classes): log-probabilities up to a number for each case."""
        arrays = state[self.name]
        out = np.tile(np.log(prior(arrays["counts"])), (len(cohort), 1))
        if cohort.imaged.any():
            out[cohort.imaged] = self._raw(state, with_images(cohort)) - np.log(arrays["weights"])
        return out

    def alone(
        self,
        cohorts: Sequence[Cohort],
        fold: Fold,
        seed: int,
        parts: int,
        prepare: Federated | None = None,
        ready: State | None = None,
    ) -> State:
        """The same model from the cases of `cohorts` together, with all it needs; `ready`: what of
        that is fitted already."""
        plan = local_plan(Fold(parts=fold.parts), seed, parts)
        kept = [c for c in cohorts if c.site not in fold.sites]
        together = [pooled(kept, kept[0].site if len(kept) == 1 else "pooled")]
        state = dict(ready or {})
        for need in self.needs:
            if need not in state:
                state = fit(load(need), state, together, plan)
        return fit(self, state, together, plan)

    def crops(self, state: State, rows: Cohort) -> CaseCrops:
        """What the network sees of cases that all have an image."""
        imaging = imaging_of(self.name, rows.schema)
        regions, key = None, ""
        if state.get("segmentation"):
            from common.learners.segmentation import regions_of

            regions, key = regions_of(state["segmentation"], imaging)
        return case_crops(
            rows, cast(Grid, tuple(int(g) for g in state[self.name]["grid"])), regions, key
        )

    def built(self, state: State, schema: Schema, device: Any) -> Any:
        """The network with its parameters, ready to predict."""
        from common.networks.training import load as set_parameters

        made = federated_averaging.network(_classifier, *_how(state[self.name], schema)).to(device)
        set_parameters(made, federated_averaging.bare(state[self.name]))
        return made.eval()

    def _examples(self, state: State, rows: Cohort) -> Records:
        from common.networks.augmentation import Augment
        from common.networks.datasets import Cases

        held, varied = self.crops(state, rows), Augment(imaging_of(self.name, rows.schema).crop_mm)
        return Cases(held, held.counts, cast(Any, rows.pictures), rows.labels, varied)

    def _local(self, arrays: Arrays, schema: Schema) -> federated_averaging.Local:
        weights = np.array(arrays["weights"], np.float32)
        if weights.shape != (
            len(schema.label.classes),
        ):  # looked up by patients, it would be refused for some of them only
            raise RefusedError(
                "P02",
                f"there are {len(schema.label.classes)} classes, and class weights of shape "
                f"{weights.shape}",
            )

        def loss(network: Any, batch: Any) -> Tensor:
            import torch

            x, present, mean, labels = batch
            each = torch.nn.functional.cross_entropy(
                patient_logits(network(x, present), mean), labels, reduction="none"
            )
            return (each * torch.from_numpy(weights).to(labels.device)[labels]).sum()

        # over the rounds the rate falls along half a cosine
        slower = 0.5 * (1 + np.cos(np.pi * int(arrays["round"]) / self.training.rounds))
        how = replace(
            self.training, learning_rate=float(self.training.learning_rate * slower)
        ).schedule("adamw")
        return federated_averaging.Local(_classifier, _how(arrays, schema), loss, how, self.private)

    def _raw(self, state: State, rows: Cohort) -> Floats:
        """(cases, classes): the network's logits, one patient at a time, so that no patient's
        depend on who else is asked for."""
        import torch

        from common.networks.datasets import Cases
        from common.networks.devices import choose, repeatable

        held = self.crops(state, rows)
        model = digest(state[self.name]), held.key, held.name
        keys = [(*model, p.key) for p in rows.pictures if p]
        found = [SCORES.get(k) for k in keys]
        if any(f is None for f in found):
            device = choose()
            cases = Cases(held, held.counts, cast(Any, rows.pictures), rows.labels, None)
            with repeatable(device), torch.inference_mode():
                network = self.built(state, rows.schema, device)
                for i, key in enumerate(keys):
                    if found[i] is None:
                        x, present, mean, _ = cases.batch(np.array([i]), device, None)
                        one = patient_logits(network(x, present), mean)[0].double().cpu().numpy()
                        SCORES[key] = one
                        found[i] = one
        return np.stack(cast(Any, found))


SCORES: Cache[tuple[str, ...], Array] = Cache(16 * 2**20, array_bytes)
"""Patients' logits, by network and picture."""


def _spread_bound(schema: Schema) -> float:
    return float(np.sqrt((len(schema.label.classes) - 1) * (CERTAIN**2 + CERTAIN**4)))


def _moments(total: Contribution) -> Arrays:
    """Mean and spread of summed log-odds; log-odds that are all the same have the spread 1."""
    n = max(total.cases, 1)
    mean = total.sums["sum"] / n
    spread = np.sqrt(np.maximum(total.sums["squares"] / n - mean**2, 0))
    return {"mean": mean, "spread": np.where(spread > 1e-6, spread, 1.0)}


def class_weights(counts: Floats, cap: float) -> Floats:
    """(classes,): inverse to the counts, none more than `cap` times another, 1 on average over the
    cases; 1 for a class of nobody."""
    held = counts > 0
    if not held.any():
        return np.ones(len(counts))
    inverse = np.where(held, counts[held].max() / np.maximum(counts, 1), 1.0)
    weights = np.minimum(inverse, cap)
    return np.asarray(np.where(held, weights * counts.sum() / (weights * counts).sum(), 1.0))


def prior(counts: Floats) -> Floats:
    """(classes,) probabilities; half a case is added to each class, so that none is impossible."""
    return np.asarray((counts + 0.5) / (counts + 0.5).sum())


def with_images(cohort: Cohort) -> Cohort:
    """The cases that have an image."""
    # its training rows are asked for round after round
    return cohort.selected("with images", lambda: cohort.imaged)


def _how(arrays: Arrays, schema: Schema) -> tuple[object, ...]:
    """What the network is built from; the arrays tell, whatever this learner's own hyperparameters
    are."""
    return (
        trained(arrays).name,
        len(imaging_of("image", schema).channels),
        len(schema.label.classes),
    )


def _classifier(name: str, channels: int, classes: int) -> Any:
    from common.networks import architectures

    return architectures.ClassifierNetwork(classifier_files.load(name), channels, classes)


LEARNER = Image()
