"""Privacy charges, what a run with noise has cost each site's patients at the most, by what the
coordinator has asked and got.

A site keeps its own account, over all runs, and its limit to itself. This one is of one run: the
dearest part of the cross-fitting counts, and a refusal for too few patients costs as much as an
answer, as at the site (`client.station.privacy_budget`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from common.data.schema import Floats, Schema
from common.federated.accounting import charge, cost
from common.federated.learner import Federated
from common.privacy.mechanism import COUNTS, ORDERS, epsilon, gaussian
from server.config.jobs import Job

DELTA = 1e-5
"""At which a run's epsilon is told; a site's policy may have another one."""


class Charges:
    """Of one run, by site."""

    def __init__(self, jobs: Iterable[Job], schema: Schema, noise: float, parts: int) -> None:
        self._jobs = {(j.fold.key, j.learner.name): j for j in jobs}
        self._schema, self._noise, self._parts = schema, noise, parts
        self._spent: dict[str, dict[str, Floats]] = {}

    def take(self, work: Iterable[Mapping[str, Any]]) -> None:
        """Of one exchange, as its ledger line has it."""
        for w in work:
            for fold in w["folds"]:
                job = self._jobs.get((fold, w["learner"]))
                if job is None:
                    continue
                for site in (
                    *w["contributed"],
                    *(s for s, code in w["refused"].items() if code == "P01"),
                ):
                    by_learner = self._spent.setdefault(site, {})
                    by_learner[w["learner"]] = by_learner.get(w["learner"], 0.0) + self._paid(
                        job, w["phase"]
                    )

    def _paid(self, job: Job, phase: str) -> Floats:
        """(parts, orders): to whom one answer is charged."""
        charged = np.ones((self._parts, 1))
        if job.learner.traits.trains:
            charged[list(job.fold.parts)] = 0
        return charged * charge(job.learner, phase, self._schema, self._noise)

    def spent(self) -> dict[str, dict[str, Any]]:
        """Site -> epsilon so far, and what each learner alone would have cost."""
        figures = {}
        for site, by_learner in self._spent.items():
            rdp = sum(by_learner.values(), np.zeros((self._parts, len(ORDERS)))) + gaussian(COUNTS)
            figures[site] = {
                "epsilon": _worst(rdp),
                "learners": {n: _worst(v) for n, v in by_learner.items()},
            }
        return figures


def planned(jobs: Iterable[Job], schema: Schema, noise: float, parts: int) -> float:
    """The most that the whole run can cost one patient."""
    by_fold: dict[tuple[int, ...], list[Federated]] = {}
    for job in jobs:
        by_fold.setdefault(job.fold.parts, []).append(job.learner)
    total = np.tile(gaussian(COUNTS), (parts, 1))
    for left_out, learners in by_fold.items():
        charged = np.ones((parts, 1))
        charged[list(left_out)] = 0
        total = total + charged * cost(learners, schema, noise)
    return _worst(total)


def _worst(rdp: Floats) -> float:
    return float(f"{max(epsilon(row, DELTA) for row in rdp):.6g}")
