"""Bayes-optimal AUC of the colorectal phantom: the posterior of M by Bayes' rule, which no model
can beat.

No score orders patients better than the true posterior given what the score may look at (Neyman and
Pearson 1933), so the AUC of the posterior is an upper bound, in expectation, for every model of
that task. What is observed includes *which* values are missing: the habits of a hospital are
visible in that. The hospital itself is no feature, and is summed out; the *within* ceiling knows
it, and counts only pairs of patients of one hospital.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats
from simulation.phantom.colorectal import generative_model as g
from simulation.phantom.colorectal.generative_model import MISSING, Draw
from simulation.phantom.colorectal.hospitals import HOSPITALS
from simulation.phantom.shared import draws
from simulation.phantom.shared.draws import Ints, auc, pair_counts

TASKS = ("preop", "postresection")
DRAWS = 60_000
"""Patients of the Monte-Carlo draw for the population's ceilings; standard error of its AUC about
0.003."""


def posterior(d: Draw, task: str) -> tuple[Floats, Floats]:
    """(patients,) P(M1 | what the task sees), and (patients,) the same given the patient's hospital
    too. Among patients with known M."""
    joint = _preoperative(d)
    if task == "postresection":
        joint = (
            joint * _resection(d)[:, None, :] * _habit(d.invaded >= 0, g.INVASION_KNOWN)[:, :, None]
        )
    joint = joint * (_share() * g.M_KNOWN)[:, None]
    mixed = joint.sum(1)
    own = joint[np.arange(len(d)), d.hospital]
    return mixed[:, 1] / mixed.sum(1), own[:, 1] / own.sum(1)


def ceilings(d: Draw) -> tuple[dict[str, float], dict[str, float]]:
    """Task -> AUC of the posterior among the patients with known M; and task -> the AUC over pairs
    within one hospital."""
    labelled = d.where(d.known)
    free, within = {}, {}
    for task in TASKS:
        mixed, own = posterior(labelled, task)
        free[task] = auc(mixed, labelled.m)
        pairs = [
            pair_counts(own[labelled.hospital == h], labelled.m[labelled.hospital == h])
            for h in range(len(HOSPITALS))
        ]
        total = sum(n for _, n in pairs)
        within[task] = sum(won for won, _ in pairs) / total if total else float("nan")
    return free, within


@lru_cache(maxsize=2)
def population(null: bool = False) -> tuple[dict[str, float], dict[str, float], float]:
    """`ceilings` of a large draw from the same generator, and the prevalence of M1 among its
    patients with known M."""
    d = g.draw(DRAWS, (2**31, 1), null=null)
    return *(flat() if null else ceilings(d)), float(d.m[d.known].mean())


def flat() -> tuple[dict[str, float], dict[str, float]]:
    """The ceilings where M is permuted: nothing can be known."""
    return dict.fromkeys(TASKS, 0.5), dict.fromkeys(TASKS, 0.5)


def _preoperative(d: Draw) -> Floats:
    """(patients, hospitals, M): density of location, histology, CEA, its presence, and of M, given
    the hospital."""
    out = np.zeros((len(d), len(HOSPITALS), 2))
    full = d.location != MISSING
    out[full] = _seen(d.where(full), d.location[full], d.histology[full])
    blank = d.where(~full)
    if len(blank):
        for place, tissue in product(range(len(g.LOCATIONS)), range(len(g.HISTOLOGIES))):
            out[~full] += _seen(blank, np.full(len(blank), place), np.full(len(blank), tissue))
    return out


def _seen(d: Draw, location: Ints, histology: Ints) -> Floats:
    hospitals = np.arange(len(HOSPITALS))[None, :]
    odds = (1 - g.RECTAL)[None, :] * g.COLON[location][:, None] + g.RECTAL[None, :] * (
        location == 2
    )[:, None]
    odds = odds * g.HISTOLOGY[histology][:, None]
    logit = g.preoperative_logit(d.age[:, None], location[:, None], histology[:, None], hospitals)
    measured = np.isfinite(d.cea)
    value = np.where(measured, d.cea, 1.0)[:, None] / g.ASSAY[None, :]
    # the factor of the change of variable (1 / CEA) is the same for every hospital and M, and
    # cancels
    density = np.exp(-0.5 * ((np.log(value) - g.CEA_MEAN) / g.CEA_SD) ** 2)
    p = np.where(
        measured[:, None], draws.sigmoid(logit + g.CEA * np.log1p(value)), _unmeasured(logit)
    )
    odds = odds * np.where(measured[:, None], g.CEA_KNOWN * density, 1 - g.CEA_KNOWN)
    return np.stack([odds * (1 - p), odds * p], -1)


def _unmeasured(logit: Floats) -> Floats:
    """P(M1) with CEA integrated out (Gauss-Hermite, 60 nodes), interpolated on a fine grid of the
    logit."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    grid = np.linspace(-25, 10, 3501)
    effect = g.CEA * np.log1p(np.exp(g.CEA_MEAN + g.CEA_SD * nodes))
    mean = draws.sigmoid(grid[:, None] + effect[None, :]) @ (weights / weights.sum())
    return np.asarray(np.interp(logit, grid, mean))


def _resection(d: Draw) -> Floats:
    """(patients, M): probability of the recorded T, N, positive nodes and invasions; N is summed
    over where it is not recorded."""
    out = np.zeros((len(d), 2))
    for m in range(2):
        for n in range(3):
            p = g.N[m, n] * ((d.n == n) | (d.n == MISSING))
            p = p * np.where(d.positive == MISSING, 1.0, g.node_probability(n, m)[d.positive])
            yes = draws.sigmoid(g.invasion_logit(np.array([n]), np.array([m])))
            each = np.where(d.invaded == 1, yes, 1 - yes)
            out[:, m] += p * np.where(d.invaded == MISSING, 1.0, each).prod(1)
        out[:, m] *= np.where(d.t == MISSING, 1.0, g.T[m][d.t])
    return out


def _habit(recorded: NDArray[np.bool_], rate: Floats) -> Floats:
    """(patients, hospitals): probability of what is recorded, for `rate` (hospitals, things)."""
    return np.asarray(np.where(recorded[:, None, :], rate[None], 1 - rate[None]).prod(-1))


def _share() -> Floats:
    sizes = np.array([h.size for h in HOSPITALS], np.float64)
    return np.asarray(sizes / sizes.sum())
