"""Privacy charges, what a run with noise has cost each site's patients at the most, by what the
coordinator has asked and got.

A site keeps its own account, over all runs, and its limit to itself. This one is of one run: the
dearest part of the cross-fitting counts, and a refusal for too few patients costs as much as an
answer, as at the site (`client.station.privacy_budget`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from common.data.schema import Schema
from common.federated.accounting import charge, cost
from common.federated.learner import Federated
from common.privacy.by_part import ByPart, Share
from common.privacy.mechanism import COUNTS, gaussian
from server.config.jobs import Job

DELTA = 1e-5
"""At which a run's epsilon is told; a site's policy may have another one."""
_GREETING = Share(gaussian(COUNTS))
_TOGETHER = ""
"""In place of a learner: all of them, and the greeting."""


class Charges:
    """Of one run, by site."""

    def __init__(
        self, jobs: Iterable[Job], schema: Schema, noise: float, parts: int, shared: int = 0
    ) -> None:
        """`shared`: of how many shares the noise is, 0 where no sites share it."""
        self._jobs = {(j.fold.key, j.learner.name): j for j in jobs}
        self._schema, self._noise, self._parts = schema, noise, parts
        self._shared = shared
        self._spent: dict[str, dict[str, ByPart]] = {}

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
                    spent = self._spent.setdefault(site, {_TOGETHER: ByPart([_GREETING])})
                    share = self._share(job, w["phase"])
                    for name in (_TOGETHER, w["learner"]):
                        spent.setdefault(name, ByPart()).add(share)

    def _share(self, job: Job, phase: str) -> Share:
        """Of one answer, and to whom it is charged."""
        spared = job.fold.parts if job.learner.traits.trains else ()
        cost = charge(job.learner, phase, self._schema, self._noise, self._shared)
        return Share(cost, (0, self._parts), frozenset(spared))

    def spent(self) -> dict[str, dict[str, Any]]:
        """Site -> epsilon so far, and what each learner alone would have cost."""
        figures = {}
        for site, spent in self._spent.items():
            epsilons = {name: _told(costs) for name, costs in spent.items()}
            together = epsilons.pop(_TOGETHER)
            figures[site] = {"epsilon": together, "learners": epsilons}
        return figures


def planned(
    jobs: Iterable[Job], schema: Schema, noise: float, parts: int, shared: int = 0
) -> float:
    """The most that the whole run can cost one patient."""
    by_fold: dict[tuple[int, ...], list[Federated]] = {}
    for job in jobs:
        by_fold.setdefault(job.fold.parts, []).append(job.learner)
    shares = [_GREETING]
    for left_out, learners in by_fold.items():
        cost_of_fold = cost(learners, schema, noise, shared)
        shares.append(Share(cost_of_fold, (0, parts), frozenset(left_out)))
    return _told(ByPart(shares))


def _told(costs: ByPart) -> float:
    return float(f"{costs.epsilon(DELTA):.6g}")
