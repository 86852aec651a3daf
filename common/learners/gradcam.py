"""Grad-CAM energy inside the experts' masks, against chance, in sums over cases: does the image
network look at the lesion?

Each case is explained by a network that has not seen it: part p by the model that left part p out.
Maps are made at the site and dropped there; only sums of shares leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np

from common.data.cohort import UNKNOWN, Cohort
from common.data.imaging_of import imaging_of
from common.data.picture import EXPERT
from common.data.schema import Floats, Schema
from common.federated.array_rules import ArrayRules
from common.federated.learner import Contribution, Hyper, Phase, Plan, Step, Traits, load
from common.federated.states import States
from common.learners.image import Image
from common.networks.crops import speaks_of_lesions
from common.networks.gradcam_maps import TERMS, energy, heatmaps, terms
from common.types import Arrays, State


@dataclass(frozen=True)
class GradCam:
    """Arrays once done: `energy` (7,), the sums of `common.networks.gradcam_maps.TERMS`; its
    `focus` reads them."""

    name: str = "gradcam"
    modality: ClassVar[frozenset[str]] = frozenset({"image"})
    # cases with an expert's mask need no segmentation
    traits: ClassVar[Traits] = Traits(spares=("segmentation",))
    learners: Mapping[str, Hyper] = field(default_factory=dict, hash=False)
    """The learners' hyperparameters, where they are not the defaults."""

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self._image().needs, "image")

    def start(self, schema: Schema, seed: int) -> Arrays:
        return {}

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        return {}

    def phase(self, arrays: Arrays) -> str:
        return "explain"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        imaging_of(self.name, cohort.schema)
        parts, sums, cases = cohort.parts(plan.seed, plan.parts), np.zeros(len(TERMS)), 0
        for fold in plan.reads:
            if fold.sites or len(fold.parts) != 1:
                continue
            own = states.get(fold, {})
            if own.get("image") and int(own["image"]["round"]):
                held = cohort.where((parts == fold.parts[0]) & explainable(cohort))
                each = self._energies(own, held)
                sums, cases = sums + each.sum(axis=0), cases + len(each)
        return Contribution({"energy": sums}, cases)

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        return Step(dict(total.sums), True)

    @property
    def phases(self) -> Mapping[str, Phase]:
        # a case with a map: the shares, their squares and product, and 1; one without: 1
        sends = "`energy`: sums of the shares of Grad-CAM's energy inside and outside the outlines"
        return {"explain": Phase(sends, 1, lambda _: float(np.sqrt(6)))}

    def _image(self) -> Image:
        return cast(Image, load("image", self.learners.get("image", {})))

    def _energies(self, state: State, cohort: Cohort) -> Floats:
        """(cases with expert lesions, TERMS)."""
        if not len(cohort):
            return np.zeros((0, len(TERMS)))
        from common.networks.datasets import Cases
        from common.networks.devices import choose, repeatable

        image, device = self._image(), choose()
        held = image.crops(state, cohort)
        target = image.logits(state, cohort).argmax(axis=1) + 1
        cases, out = Cases(held, held.counts, cast(Any, cohort.pictures), cohort.labels, None), []
        with repeatable(device):
            network = image.built(state, cohort.schema, device)
            for i in np.flatnonzero(np.array(held.sources) == EXPERT):
                x, present, mean, _ = cases.batch(np.array([i]), device, None)
                maps = heatmaps(network, x, present, mean, int(target[i]))
                out.append(terms(*energy(maps.cpu().numpy(), x[:, -1].cpu().numpy())))
        return np.stack(out) if out else np.zeros((0, len(TERMS)))


def explainable(cohort: Cohort) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(cases,): of known label, with an image in which an expert looked for lesions."""
    imaging = imaging_of("gradcam", cohort.schema)
    seen = [p is not None and speaks_of_lesions(p, imaging) for p in cohort.pictures] or [
        False
    ] * len(cohort)
    return np.asarray(np.array(seen, np.bool_) & (cohort.labels != UNKNOWN))


LEARNER = GradCam()
