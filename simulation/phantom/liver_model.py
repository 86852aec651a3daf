"""The model that the liver phantom is drawn from: half of what decides a recurrence stands in the table, half in the image.

    c = b'x        x = log(1 + CEA), positive nodes, extrahepatic disease, synchronous, chemotherapy: in the table only
    u ~ N(0, 1)    the attenuation of the lesions' cores against their rims: in the image only
    recurrence within 24 months ~ Bernoulli(sigmoid(a + c + b_u u))

x and u are independent. What table and image share (number and size of the lesions, body mass) has no part in the logit. Whether the
follow-up is long enough to know is drawn apart from everything. The true posterior is in closed form given table and image, an integral
over u (and over CEA where it is missing) given the table, and increases with u given the image: the ceilings are its AUCs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from common.schema import Floats
from simulation.phantom.ceiling import auc
from simulation.phantom.generator import Bools, Ints, sigmoid

INTERCEPT: Final = -8.0
COEFFICIENTS: Final[Mapping[str, float]] = {"cea": 2.9, "node": 1.5, "extrahepatic": 0.6, "synchronous": 0.4, "chemotherapy": 0.3}
"""CEA per unit of log(1 + ng/mL); the others no against yes. One strong marker rather than five weak ones: what 200 patients can teach."""
IMAGE: Final = 3.0
"""Per standard deviation of u."""
CEA_MEAN: Final = 2.1
CEA_SD: Final = 1.15
"""Of log(1 + CEA), before it is cut at `CEA_LEAST`."""
CEA_LEAST: Final = 0.15
CEA_KNOWN: Final = 0.93
KNOWN: Final = 0.9
"""Share of patients followed long enough."""
HORIZON: Final = 24.0
DRAWS: Final = 60_000
"""Patients of the Monte-Carlo draw for the population's ceilings; standard error of an AUC about 0.002."""


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
    """`null`: the u that decides is not the one that the image shows."""
    rng = np.random.default_rng(seed)

    def flag(share: float) -> Ints:
        return (rng.random(patients) < share).astype(np.int64)

    cea = np.maximum(np.round(np.expm1(np.maximum(rng.normal(CEA_MEAN, CEA_SD, patients), CEA_LEAST)), 1), 0.1)
    d = Draw(
        age=np.clip(np.round(rng.normal(60, 12, patients)), 28, 90),
        male=flag(0.59),
        body_mass=np.clip(np.round(rng.normal(27.3, 4.6, patients), 1), 17.0, 44.0),
        comorbidity=flag(0.55),
        node=flag(0.4),
        synchronous=flag(0.55),
        extrahepatic=flag(0.12),
        chemotherapy=flag(0.6),
        cea=cea,
        cea_known=rng.random(patients) < CEA_KNOWN,
        u=rng.normal(size=patients),
        recurred=np.zeros(patients, np.int64),
        known=rng.random(patients) < KNOWN,
    )
    recurred = rng.random(patients) < sigmoid(clinical_logit(d) + IMAGE * d.u)
    return replace(d, recurred=recurred.astype(np.int64), u=rng.normal(size=patients) if null else d.u)


def clinical_logit(d: Draw) -> Floats:
    """(patients,): the logit of a recurrence where u is 0, CEA known or not."""
    return np.asarray(_without_cea(d) + COEFFICIENTS["cea"] * np.log1p(d.cea))


def posteriors(d: Draw, *, null: bool = False) -> dict[str, Floats]:
    """'clinical', 'image', 'fusion' -> (patients,) a score that orders as P(recurrence | what is seen) does."""
    u, weight_u = _normal(41)
    z, weight_z = _normal(41)
    measured = np.log1p(d.cea)[:, None]
    # where CEA is missing its distribution takes its place: one node with weight 1 against many
    unseen = np.maximum(CEA_MEAN + CEA_SD * z, CEA_LEAST)
    base = _without_cea(d)[:, None]

    def expected(part: Floats, weights: Floats, rows: Bools, cea: Floats, cea_weights: Floats) -> Floats:
        logit = (base[rows] + COEFFICIENTS["cea"] * cea)[:, :, None] + part[rows][:, None, :]
        return np.asarray((sigmoid(logit) @ weights) @ cea_weights)

    def given(part: Floats, weights: Floats) -> Floats:
        out = np.empty(len(d))
        seen = d.cea_known
        out[seen] = expected(part, weights, seen, measured[seen], np.ones(1))
        out[~seen] = expected(part, weights, ~seen, unseen[None, :], weight_z)
        return out

    clinical = given(np.broadcast_to(IMAGE * u, (len(d), len(u))), weight_u)
    if null:
        return {"clinical": clinical, "image": np.zeros(len(d)), "fusion": clinical}
    return {"clinical": clinical, "image": d.u, "fusion": given(IMAGE * d.u[:, None], np.ones(1))}


@lru_cache(maxsize=2)
def population(null: bool = False) -> dict[str, float]:
    """The ceilings in a large draw."""
    d = draw(DRAWS, (2**31, 2), null=null)
    return {name: auc(score, d.recurred) for name, score in posteriors(d, null=null).items()}


def coefficients() -> dict[str, tuple[float, ...]]:
    """The logit's numbers by name."""
    return {"intercept": (INTERCEPT,), **{name: (b,) for name, b in COEFFICIENTS.items()}, "image": (IMAGE,)}


def _without_cea(d: Draw) -> Floats:
    return np.asarray(INTERCEPT + sum(b * getattr(d, name) for name, b in COEFFICIENTS.items() if name != "cea"))


def _normal(nodes: int) -> tuple[Floats, Floats]:
    """Gauss-Hermite nodes and weights of a standard normal distribution."""
    at, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return np.asarray(at), np.asarray(weights / weights.sum())
