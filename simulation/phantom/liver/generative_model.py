"""Generative model of the liver phantom: a recurrence sets the odds of what the table says and of
how the lesions look.

    y ~ Bernoulli                                     recurrence within 24 months
    log CEA | y ~ N      node, extrahepatic, synchronous, chemotherapy | y ~ Bernoulli      in the table only
    u | y ~ N(+-`IMAGE` / 2, 1)                       the attenuation of the lesions' cores against their rims: in the image only

Given y, table and image are independent, so the log-odds of a recurrence are those of the table,
plus those of u: Bayes' rule. What table and image share (number and size of the lesions, body mass)
is drawn apart from y, and so is whether the follow-up is long enough to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from common.data.schema import Floats
from simulation.phantom.shared.draws import Bools, Ints, auc, sigmoid

RECURRED: Final = 0.44
CEA: Final = (1.5, 2.9)
"""Mean of log(ng/mL) without and with a recurrence. One strong marker rather than five weak ones:
what 200 patients can teach."""
CEA_SD: Final = 0.95
SHARES: Final[Mapping[str, tuple[float, float]]] = {
    "node": (0.32, 0.50),
    "extrahepatic": (0.09, 0.16),
    "synchronous": (0.52, 0.59),
    "chemotherapy": (0.57, 0.63),
}
"""P(yes) without and with a recurrence."""
IMAGE: Final = 1.3
"""How far apart the means of u are without and with a recurrence, in its standard deviations."""
CEA_KNOWN: Final = 0.95
KNOWN: Final = 0.9
"""Share of patients followed long enough."""
HORIZON: Final = 24.0
DRAWS: Final = 60_000
"""Patients of the Monte-Carlo draw for the population's ceilings; standard error of an AUC about
0.002."""


@dataclass(frozen=True)
class Draw:
    """One cohort; every array is (patients,). Choices are 0/1."""

    age: Floats
    """Years."""
    male: Ints
    body_mass: Floats
    """kg/m2."""
    comorbidity: Ints
    node: Ints
    synchronous: Ints
    extrahepatic: Ints
    chemotherapy: Ints
    cea: Floats
    """ng/mL, known or not."""
    cea_known: Bools
    u: Floats
    """As the image shows it."""
    recurred: Ints
    """Within 24 months, known or not."""
    known: Bools

    def __len__(self) -> int:
        return len(self.recurred)

    def where(self, mask: Bools) -> Draw:
        return Draw(**{name: array[mask] for name, array in vars(self).items()})


def draw(patients: int, seed: int | tuple[int, ...], *, null: bool = False) -> Draw:
    """`null`: what the image shows belongs to another outcome, drawn apart."""
    rng = np.random.default_rng(seed)
    recurred = (rng.random(patients) < RECURRED).astype(np.int64)
    # both are drawn anyway, so that the table is the same in both modes
    outcomes = recurred, (rng.random(patients) < RECURRED).astype(np.int64)
    u = [rng.normal(IMAGE * (y - 0.5)) for y in outcomes]

    def flag(share: float | Floats) -> Ints:
        return (rng.random(patients) < share).astype(np.int64)

    flags = {name: flag(np.array(shares)[recurred]) for name, shares in SHARES.items()}
    return Draw(
        age=np.clip(np.round(rng.normal(60, 12, patients)), 28, 90),
        male=flag(0.59),
        body_mass=np.clip(np.round(rng.normal(27.3, 4.6, patients), 1), 17.0, 44.0),
        comorbidity=flag(0.55),
        **flags,
        cea=np.maximum(np.round(np.exp(rng.normal(np.array(CEA)[recurred], CEA_SD)), 1), 0.1),
        cea_known=rng.random(patients) < CEA_KNOWN,
        u=u[1] if null else u[0],
        recurred=recurred,
        known=rng.random(patients) < KNOWN,
    )


def log_odds(d: Draw) -> dict[str, Floats]:
    """'clinical', 'image', 'fusion' -> (patients,) log-odds of a recurrence given the table, the
    image, both."""
    prior = float(np.log(RECURRED / (1 - RECURRED)))
    none, some = CEA
    table = np.where(
        d.cea_known, (np.log(d.cea) - (none + some) / 2) * (some - none) / CEA_SD**2, 0.0
    )
    for name, (without, with_) in SHARES.items():
        table = table + np.where(
            getattr(d, name) == 1, np.log(with_ / without), np.log((1 - with_) / (1 - without))
        )
    return {
        "clinical": prior + table,
        "image": prior + IMAGE * d.u,
        "fusion": prior + table + IMAGE * d.u,
    }


def posteriors(d: Draw, *, null: bool = False) -> dict[str, Floats]:
    """'clinical', 'image', 'fusion' -> (patients,) P(recurrence | what is seen)."""
    probabilities = {name: sigmoid(z) for name, z in log_odds(d).items()}
    return (
        probabilities
        if not null
        else {
            **probabilities,
            "image": np.full(len(d), RECURRED),
            "fusion": probabilities["clinical"],
        }
    )


def ceilings(
    d: Draw, known: Bools, table: Bools, image: Bools, *, null: bool = False
) -> dict[str, float]:
    """The AUC of each posterior: among the patients of known label who have what it looks at; of
    the fusion, among all who have a table or an image, each by what there is."""
    scores = posteriors(d, null=null)
    best_available = np.select(
        [table & image, table], [scores["fusion"], scores["clinical"]], scores["image"]
    )
    predictors = {
        "clinical": (scores["clinical"], table),
        "image": (scores["image"], image),
        "fusion": (best_available, table | image),
    }
    return {
        name: auc(p[known & available], d.recurred[known & available])
        for name, (p, available) in predictors.items()
    }


@lru_cache(maxsize=2)
def population(null: bool = False) -> dict[str, float]:
    """The ceilings in a large draw."""
    d = draw(DRAWS, (2**31, 2), null=null)
    everyone = np.ones(DRAWS, np.bool_)
    return ceilings(d, everyone, everyone, everyone, null=null)


def coefficients() -> dict[str, tuple[float, ...]]:
    """The model's numbers by name: without and with a recurrence."""
    return {
        "recurred": (1 - RECURRED, RECURRED),
        "log cea": CEA,
        **SHARES,
        "image": (-IMAGE / 2, IMAGE / 2),
    }
