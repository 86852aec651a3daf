"""Generative model of the brain phantom: the primary tumour sets the odds of what the table says
and of how the lesions look.

    y ~ the collection's shares of primary tumours
    age | y ~ N     sex | y, smoking | y ~ Bernoulli           in the table only
    u | y ~ N(mean_y, 1), independent, three of them           in the image only: ring, T1, T2 (`anatomy`)

Given y, table and image are independent, so the posterior given either or both follows by Bayes'
rule; for each class against the rest it orders patients as well as can be (Neyman and Pearson
1933). Number, size and place of the lesions say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from common.data.schema import Floats
from simulation.phantom.shared.draws import Bools, Ints, auc

CLASSES: Final = ("nsclc", "breast", "melanoma", "sclc", "other")
SHARES: Final = np.array([0.43, 0.13, 0.20, 0.08, 0.16])
AGE: Final = np.array([67.0, 54.0, 59.0, 66.0, 63.0])
AGE_SD: Final = 7.0
FEMALE: Final = np.array([0.50, 0.97, 0.25, 0.45, 0.25])
SMOKING: Final = np.array([0.90, 0.20, 0.15, 0.95, 0.40])
LATENTS: Final = ("ring", "t1", "t2")
MEANS: Final = 0.85 * np.array([
    [1.3, -0.5, 0.2],
    [-0.1, -0.5, 1.9],
    [-0.2, 2.0, -0.3],
    [-2.0, -0.7, 0.1],
    [0.1, -0.3, -1.7],
])  # fmt: skip
"""(classes, latents) of u, whose standard deviation is 1."""
SMOKING_KNOWN: Final = 0.93
KNOWN: Final = 0.96
"""Share of patients whose primary tumour is known."""
DRAWS: Final = 60_000
"""Patients of the Monte-Carlo draw for the population's ceilings; standard error of an AUC about
0.003."""


@dataclass(frozen=True)
class Draw:
    """One cohort; every array has the patients as its first axis."""

    y: Ints
    """Index into CLASSES, known or not."""
    age: Floats
    """Whole years."""
    female: Ints
    smoking: Ints
    smoking_known: Bools
    u: Floats
    """(patients, latents)."""
    known: Bools

    def __len__(self) -> int:
        return len(self.y)

    def where(self, mask: Bools) -> Draw:
        return Draw(**{name: array[mask] for name, array in vars(self).items()})


def draw(patients: int, seed: int | tuple[int, ...], *, null: bool = False) -> Draw:
    """`null`: what the image shows belongs to another primary tumour, drawn apart."""
    rng = np.random.default_rng(seed)
    y = rng.choice(len(CLASSES), patients, p=SHARES)
    d = Draw(
        y=y,
        age=np.clip(np.round(rng.normal(AGE[y], AGE_SD)), 22, 92),
        female=(rng.random(patients) < FEMALE[y]).astype(np.int64),
        smoking=(rng.random(patients) < SMOKING[y]).astype(np.int64),
        smoking_known=rng.random(patients) < SMOKING_KNOWN,
        u=rng.normal(MEANS[y]),
        known=rng.random(patients) < KNOWN,
    )
    return (
        replace(d, u=rng.normal(MEANS[rng.choice(len(CLASSES), patients, p=SHARES)])) if null else d
    )


def posteriors(d: Draw, *, null: bool = False, smoking: bool = True) -> dict[str, Floats]:
    """'clinical', 'image', 'fusion' -> (patients, classes) P(primary | what is seen). `smoking`:
    whether the table has that column."""
    table = -0.5 * ((d.age[:, None] - AGE) / AGE_SD) ** 2 + _log_likelihood_of(d.female, FEMALE)
    if smoking:
        table += np.where(d.smoking_known[:, None], _log_likelihood_of(d.smoking, SMOKING), 0.0)
    image = np.zeros_like(table) if null else -0.5 * ((d.u[:, None, :] - MEANS) ** 2).sum(-1)
    return {
        "clinical": _normalised(table),
        "image": _normalised(image),
        "fusion": _normalised(table + image),
    }


def macro_auc(p: Floats, y: Ints) -> float:
    """The mean over the classes that are there of the AUC of one against the rest."""
    each = [auc(p[:, k], (y == k).astype(np.int64)) for k in range(p.shape[1])]
    return float(np.nanmean(each))


def ceilings(
    d: Draw, known: Bools, table: Bools, image: Bools, *, null: bool = False, smoking: bool = True
) -> dict[str, float]:
    """The macro AUC of each posterior: among the patients of known label who have what it looks at;
    of the fusion, among all who have a table or an image, each by what there is."""
    scores = posteriors(d, null=null, smoking=smoking)
    best_available = np.select(
        [(table & image)[:, None], table[:, None]],
        [scores["fusion"], scores["clinical"]],
        scores["image"],
    )
    predictors = {
        "clinical": (scores["clinical"], table),
        "image": (scores["image"], image),
        "fusion": (best_available, table | image),
    }
    return {
        name: macro_auc(p[known & available], d.y[known & available])
        for name, (p, available) in predictors.items()
    }


@lru_cache(maxsize=4)
def population(null: bool = False, smoking: bool = True) -> dict[str, float]:
    """The ceilings in a large draw."""
    everyone = np.ones(DRAWS, np.bool_)
    return ceilings(
        draw(DRAWS, (2**31, 3), null=null), everyone, everyone, everyone, null=null, smoking=smoking
    )


def numbers() -> dict[str, tuple[float, ...]]:
    """The generator's numbers by name, each for the classes in order."""
    table = {"share": SHARES, "age": AGE, "female": FEMALE, "smoking": SMOKING}
    return {
        name: tuple(values.tolist())
        for name, values in (*table.items(), *zip(LATENTS, MEANS.T, strict=True))
    }


def _log_likelihood_of(yes: Ints, share: Floats) -> Floats:
    """(patients, classes): log probability of an answer."""
    return np.asarray(np.where(yes[:, None] == 1, np.log(share), np.log1p(-share)))


def _normalised(log_likelihood: Floats) -> Floats:
    joint = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True)) * SHARES
    return np.asarray(joint / joint.sum(1, keepdims=True))
