"""Linear decoder of coins from noisy sums: the adversary of a one-run audit, who sees all releases
of a fit and knows every canary, every state and the noise; the coins alone he does not.

A release is y = b + T' c + noise, T (canaries, numbers) the canaries' own summands at its state, b
the bystanders' and c the coins. With coins of variance 1/4 the best linear guess has, over all
releases, precision P = sum T T' / s^2 + 4 and mean P^-1 sum T (y - b - T' 1/2) / s^2; what it says
of one coin beyond the prior is, in log odds, mean_i / (P^-1)_ii.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, hstack, issparse, vstack

from common.data.cohort import Cohort, empty
from common.data.schema import Floats
from common.federated.learner import Contribution, Federated, Plan, configured
from common.federated.protected_sums import Summing
from common.federated.states import States
from common.privacy.mechanism import Privacy, Sampled
from common.privacy.patient_sums import Block, Cells
from common.types import Arrays
from simulation.attack.observed_fit import Release

_FAINT = Privacy(1e-6)
_LEAST, _SEEN = 1e-12, 1e-3


class Decoder:
    """Takes in one release after another of a fit on `bystanders` and some of `canaries`."""

    def __init__(self, canaries: Cohort, bystanders: Cohort) -> None:
        self._canaries, self._bystanders = Patients(canaries), Patients(bystanders)
        self._precision = np.zeros((len(canaries), len(canaries)))
        self._evidence = np.zeros(len(canaries))
        # of all releases together, in units of what was said: whoever looks sees how much there is
        self._noise, self._numbers = 0.0, 0
        self._steps: dict[str, Any] = {}

    def see(self, release: Release) -> None:
        bound = release.learner.phases[release.plan.phase].sensitivity(self._canaries.all.schema)
        assert bound is not None
        assert release.plan.privacy is not None
        if isinstance(bound, Sampled):
            self._add(*self._trained(release), None)
            return
        asked = release.learner, release.states, release.plan
        seen = _vector(release.answer.sums)
        if self._bystanders.each:
            seen = seen - np.asarray(shares(*asked, self._bystanders).sum(axis=0)).ravel()
        self._add(shares(*asked, self._canaries), seen, bound * release.plan.privacy.spread)

    def log_odds(self) -> Floats:
        """(canaries,): of being in against being out."""
        least = _LEAST * self._numbers
        noise = max(self._noise, least) / self._numbers
        spread = np.linalg.inv(self._precision / noise + 4 * np.eye(len(self._evidence)))
        return np.asarray(spread @ (self._evidence / noise) / np.diag(spread))

    def _add(self, own: Any, seen: Floats, stated: float | None) -> None:
        """stated: standard deviation of the noise in each number; None: as it shows."""
        seen = seen - np.asarray(own.sum(axis=0)).ravel() / 2
        left = float(seen @ seen) - _squares(own) / 4
        variance = max(left, _LEAST) / len(seen) if stated is None else stated**2
        self._noise += left / variance
        self._numbers += len(seen)
        products = own @ own.T
        self._precision += (products.toarray() if issparse(products) else products) / variance
        self._evidence += own @ seen / variance

    def _trained(self, release: Release) -> tuple[Any, Floats]:
        """DP-SGD: how far parameters have moved beyond what they do by themselves, against what a
        step on one canary alone moves them at the fit's first state; as large as it is on
        average."""
        learner, plan, states = release.learner, release.plan, release.states
        if learner.name not in self._steps:
            self._steps[learner.name] = _steps(learner, states, plan, self._canaries)
        own = self._steps[learner.name]
        nobody = empty(self._canaries.all.schema)
        moved = _vector(release.answer.sums) / max(release.answer.cases, 1)
        seen = moved - _vector(_faintly(learner, states, nobody, plan).sums)
        middle = np.asarray(own.sum(axis=0)).ravel() / 2
        return own * max(float(seen @ middle / (middle @ middle)), _LEAST), seen


class Patients:
    """Some patients, together and one by one."""

    def __init__(self, cohort: Cohort) -> None:
        n = np.arange(len(cohort))
        self.all, self.each = cohort, [cohort.where(n == i) for i in n]


def shares(learner: Federated, states: States, plan: Plan, patients: Patients) -> Any:
    """(patients, numbers): what each adds to the sums, one name after another."""
    if isinstance(learner, Summing):
        blocks = [_rows(b.sums) for b in learner.summands(states, patients.all, plan)]
        return np.concatenate(blocks) if isinstance(blocks[0], np.ndarray) else vstack(blocks)
    rows = (learner.contribute(states, patient, plan) for patient in patients.each)
    return np.stack([_vector(r.sums) for r in rows])


def _rows(block: Block) -> Any:
    """As they are, or sparse where some are cells."""
    values = [block[name] for name in sorted(block)]
    if any(isinstance(v, Cells) for v in values):
        return hstack([_sparse(v) for v in values], format="csr")
    flat = [v.reshape(len(v), -1) for v in values if not isinstance(v, Cells)]
    return np.concatenate(flat, axis=1)


def _sparse(values: Floats | Cells) -> Any:
    """(patients, numbers)"""
    if not isinstance(values, Cells):
        return csr_matrix(values.reshape(len(values), -1))
    inside = (values.cell >= 0) & (values.cell < values.widths)
    patient, group = np.nonzero(inside)
    first = np.concatenate([[0], np.cumsum(values.widths)[:-1]])
    at = values.cell[patient, group] + first[group]
    if values.places is not None:
        at = values.places[at]
    shape = len(values), int(values.widths.sum())
    return coo_matrix((values.value[patient, group], (patient, at)), shape).tocsr()


def _squares(own: Any) -> float:
    return float(np.square(own.data if issparse(own) else own).sum())


def _steps(learner: Federated, states: States, plan: Plan, canaries: Patients) -> Any:
    """(canaries, parameters), sparse: how far one step on each alone moves the parameters."""
    single = replace(plan, hyper={**plan.hyper, "rate": 1.0, "epochs": 1})
    asked = configured(learner, single.hyper)
    still = _vector(_faintly(asked, states, empty(canaries.all.schema), single).sums)
    rows = []
    for patient in canaries.each:
        moved = _vector(_faintly(asked, states, patient, single).sums) - still
        rows.append(csr_matrix(np.where(np.abs(moved) > _SEEN * np.abs(moved).max(), moved, 0.0)))
    return vstack(rows, format="csr")


def _faintly(learner: Federated, states: States, cohort: Cohort, plan: Plan) -> Contribution:
    """The learner's own answer, beside whose noise a patient is seen as he is."""
    return learner.contribute(states, cohort, replace(plan, privacy=_FAINT))


def _vector(sums: Arrays) -> Floats:
    return np.concatenate([np.ravel(sums[name]) for name in sorted(sums)]).astype(np.float64)
