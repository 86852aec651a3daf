"""Generative model of the colorectal phantom: what is known before surgery sets the odds of M1, M
shifts what the resection shows.

    x = age, CEA, location, histology | hospital
    M ~ Bernoulli(sigmoid(b0 + shift_hospital + b'x))                    CEA enters as log(1 + concentration in ng/mL)
    T | M     N | M     positive nodes | N, M     each invasion | N, M
    what is recorded (CEA, M, nodes, invasions) ~ Bernoulli(the hospital's habit), whatever its value

So the posterior of M given anything observed follows by Bayes' rule (`ceiling`). Sex, earlier
malignancy and the number of nodes examined are noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from common.data.schema import Floats
from simulation.phantom.colorectal.hospitals import CODES, HOSPITALS, allocate
from simulation.phantom.shared.draws import Bools, Ints, sigmoid

LOCATIONS: Final = ("right colon", "left colon", "rectum", "colon, unspecified")
COLON: Final = np.array([0.46, 0.36, 0.0, 0.18])
"""Location of a colon cancer; a rectal one is in the rectum."""
HISTOLOGIES: Final = ("adenocarcinoma", "mucinous", "other")
HISTOLOGY: Final = np.array([0.86, 0.12, 0.02])
INVASIONS: Final = ("lymphatic", "vascular", "perineural", "deposits")

INTERCEPT: Final = -5.8
AGE: Final = -0.45
"""Per 10 years from 66."""
CEA: Final = 1.6
"""Per unit of log(1 + CEA)."""
PLACE: Final = np.array([0.0, 0.8, 0.8, 0.3])
TISSUE: Final = np.array([0.0, 1.1, 0.0])
CEA_MEAN: Final = 1.15
CEA_SD: Final = 1.5
"""Of the natural log of the concentration in ng/mL."""

T: Final = np.array([[0.003, 0.04, 0.21, 0.65, 0.097], [0.001, 0.006, 0.05, 0.663, 0.28]])
"""(M, T): probability of Tis, T1 .. T4."""
N: Final = np.array([[0.62, 0.24, 0.14], [0.2, 0.36, 0.44]])
FEW: Final = np.array([[0.52, 0.3, 0.18], [0.4, 0.33, 0.27]])
"""(M, 1 .. 3 nodes) of N1."""
MORE: Final = np.array([0.3, 0.2])
"""N2 has 4 + Geometric(this) nodes, cut at `MOST`."""
MOST: Final = 30
INVADED: Final = np.array([[-1.2, 0.7, 0.4], [-1.7, 0.5, 0.8], [-1.9, 0.4, 0.8], [-2.5, 0.6, 0.8]])
"""(invasion, (intercept, per N, M1)) on the logit scale."""
NODES_KNOWN: Final = 0.94
TN_KNOWN: Final = 0.992
BLANK: Final = 0.005
"""Share of patients whose sex, location, histology and earlier malignancy are 'not reported'."""


@dataclass(frozen=True)
class Draw:
    """One cohort. Every array has the patients as its first axis; -1 and NaN mean: not recorded."""

    code: Ints
    hospital: Ints
    age: Floats
    """Years."""
    male: Ints
    location: Ints
    histology: Ints
    prior: Ints
    cea: Floats
    """ng/mL as the hospital's assay read it."""
    m: Ints
    """0 or 1, known or not."""
    known: Bools
    """Whether M is recorded."""
    t: Ints
    n: Ints
    positive: Ints
    tested: Ints
    invaded: Ints
    """(patients, 4), in the order of INVASIONS."""

    def __len__(self) -> int:
        return len(self.m)

    def where(self, mask: Bools) -> Draw:
        """The patients that `mask` marks."""
        return Draw(**{name: array[mask] for name, array in vars(self).items()})


def per_hospital(of: Callable[[int], object]) -> Floats:
    """(hospitals, ...): a property of each hospital, by its index."""
    return np.array([of(i) for i in range(len(HOSPITALS))], np.float64)


SHIFT: Final = per_hospital(lambda i: HOSPITALS[i].shift)
ASSAY: Final = per_hospital(lambda i: HOSPITALS[i].assay)
CEA_KNOWN: Final = per_hospital(lambda i: HOSPITALS[i].cea)
M_KNOWN: Final = per_hospital(lambda i: HOSPITALS[i].known)
INVASION_KNOWN: Final = per_hospital(lambda i: HOSPITALS[i].invasion)
RECTAL: Final = per_hospital(lambda i: HOSPITALS[i].rectal)
MISSING: Final = -1


def draw(patients: int, seed: int | tuple[int, ...] = 0, *, null: bool = False) -> Draw:
    """`patients` patients in random order, with the hospitals' sizes in fixed proportion. `null`: M
    is permuted among all of them.

    Raises UsageError C01 for fewer than 100 or more than 100,000 patients.
    """
    rng = np.random.default_rng(seed)
    code = rng.permutation(np.repeat(np.arange(len(CODES)), allocate(patients)))
    hospital = np.array([at for _, _, at, _ in CODES])[code]
    rectal = np.array([folder == "rectum" for _, _, _, folder in CODES])[code]
    count = len(code)

    age = np.clip(np.round(rng.normal(66, 12.5, count)), 31, 90)
    location = np.where(rectal, 2, rng.choice(4, count, p=COLON))
    histology = rng.choice(3, count, p=HISTOLOGY)
    read = np.exp(rng.normal(CEA_MEAN, CEA_SD, count)) * ASSAY[hospital]
    cea = np.maximum(np.round(read, 2), 0.01)  # two decimals, as it will stand in the file
    odds = preoperative_logit(age, location, histology, hospital) + CEA * np.log1p(
        cea / ASSAY[hospital]
    )
    m = (rng.random(count) < sigmoid(odds)).astype(np.int64)

    n = _choose(rng, N[m])
    positive, tested = _nodes(rng, n, m)
    invaded = (rng.random((count, 4)) < sigmoid(invasion_logit(n, m))).astype(np.int64)
    full = Draw(
        code, hospital, age, rng.integers(0, 2, count), location, histology,
        (rng.random(count) < 0.11).astype(np.int64), cea,
        m, rng.random(count) < M_KNOWN[hospital], _choose(rng, T[m]), n, positive, tested, invaded,
    )  # fmt: skip
    out = _recorded(rng, full)
    return replace(out, m=rng.permutation(m)) if null else out


def preoperative_logit(age: Floats, location: Ints, histology: Ints, hospital: Ints) -> Floats:
    """The logit of M1 without the term of CEA."""
    return np.asarray(
        INTERCEPT + SHIFT[hospital] + AGE * (age - 66) / 10 + PLACE[location] + TISSUE[histology]
    )


def invasion_logit(n: Ints, m: Ints) -> Floats:
    """(patients, 4): the logit of each invasion."""
    return np.asarray(INVADED[:, 0] + INVADED[:, 1] * n[:, None] + INVADED[:, 2] * m[:, None])


def node_probability(n: int, m: int) -> Floats:
    """(MOST + 1,): the probability of 0 .. MOST positive nodes."""
    out = np.zeros(MOST + 1)
    if n == 0:
        out[0] = 1
    elif n == 1:
        out[1:4] = FEW[m]
    else:
        out[4:] = MORE[m] * (1 - MORE[m]) ** np.arange(MOST - 3)
        out[MOST] = 1 - out[:MOST].sum()
    return out


def coefficients() -> dict[str, float]:
    """Name -> coefficient of the logit of M1 before surgery, without the hospitals' shifts."""
    out = {"intercept": INTERCEPT, "age, per 10 years from 66": AGE, "log(1 + CEA in ng/mL)": CEA}
    names = zip((*LOCATIONS, *HISTOLOGIES), (*PLACE, *TISSUE), strict=True)
    return out | {name: float(b) for name, b in names}


def conditionals() -> dict[str, tuple[float, ...]]:
    """Name -> the numbers by which M decides what the resection shows."""
    out: dict[str, tuple[float, ...]] = {}
    for m in range(2):
        out |= {f"T | M{m}": tuple(T[m].tolist()), f"N | M{m}": tuple(N[m].tolist())}
        out |= {
            f"1 to 3 nodes | N1, M{m}": tuple(FEW[m].tolist()),
            f"4 + geometric nodes | N2, M{m}": (float(MORE[m]),),
        }
    return out | {
        f"{name} invasion": tuple(row.tolist())
        for name, row in zip(INVASIONS, INVADED, strict=True)
    }


def _nodes(rng: np.random.Generator, n: Ints, m: Ints) -> tuple[Ints, Ints]:
    positive = np.zeros(len(n), np.int64)
    for a in range(3):
        for b in range(2):
            mask = (n == a) & (m == b)
            positive[mask] = rng.choice(MOST + 1, int(mask.sum()), p=node_probability(a, b))
    # given the positive ones, the number examined says nothing more about M
    examined = np.maximum(np.round(np.exp(rng.normal(2.9, 0.55, len(n)))).astype(np.int64), 1)
    return positive, np.maximum(positive, examined)


def _recorded(rng: np.random.Generator, d: Draw) -> Draw:
    """What the hospitals wrote down."""
    count = len(d)
    nodes = rng.random(count) < NODES_KNOWN
    blank = rng.random(count) < BLANK
    return replace(
        d,
        cea=np.where(rng.random(count) < CEA_KNOWN[d.hospital], d.cea, np.nan),
        t=np.where(rng.random(count) < TN_KNOWN, d.t, MISSING),
        n=np.where(rng.random(count) < TN_KNOWN, d.n, MISSING),
        positive=np.where(nodes, d.positive, MISSING),
        tested=np.where(nodes, d.tested, MISSING),
        invaded=np.where(rng.random((count, 4)) < INVASION_KNOWN[d.hospital], d.invaded, MISSING),
        male=np.where(blank, MISSING, d.male),
        location=np.where(blank, MISSING, d.location),
        histology=np.where(blank, MISSING, d.histology),
        prior=np.where(blank, MISSING, d.prior),
    )


def _choose(rng: np.random.Generator, weights: Floats) -> Ints:
    """(patients, values) probabilities -> one value each."""
    return np.asarray(
        (rng.random((len(weights), 1)) > np.cumsum(weights, 1)[:, :-1]).sum(1), np.int64
    )
