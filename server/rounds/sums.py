"""Federated sums: what a step asks of the sites, and what their contributions come to, open or
masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from common.data.schema import Schema
from common.errors import FederationError
from common.federated.learner import Contribution, Plan, identity
from common.federated.states import States
from common.types import Arrays
from server.config.jobs import Job
from server.rounds.state_delivery import Lot


@dataclass(frozen=True)
class Question:
    """What one job asks in one step."""

    job: Job
    step: int
    phase: str
    plans: Mapping[str, Plan]
    """Site -> what it is asked; they differ in the site and the head of its budget."""
    states: States
    """What the learner reads, and of its own fold its arrays before the step."""
    schema: Schema

    @property
    def arrays(self) -> Arrays:
        return self.states[self.job.fold][self.job.learner.name]

    @property
    def plan(self) -> Plan:
        """Any site's."""
        return next(iter(self.plans.values()))

    def zero(self) -> Contribution:
        """What an answer looks like."""
        zero = identity(self.job.learner, self.states, self.schema, self.plan)
        # with noise a tally would be one more release
        return zero if self.plan.privacy is None else replace(zero, tally={})

    def failed(self, why: str) -> FederationError:
        return FederationError(
            "R01",
            f"exchange {self.step}, {self.job.learner.name} on fold '{self.job.fold.key}': {why}",
        )


@dataclass(frozen=True)
class Total:
    """What one question came to."""

    summands: Sequence[Contribution]
    """Checked, in site order; a single one where nobody's own is known; none where no site can do
    what is optional."""
    contributed: list[str]
    refused: dict[str, str]
    doubted: dict[str, str] = field(default_factory=dict)
    """Site -> in words, why its update is not believed (X03)."""
    watched: Contribution | None = None
    """Where no noise is in it: the sum over all sites, as far as a metric is made of it; `by_site`:
    each site's where sums are open."""
    by_site: Mapping[str, Contribution] = field(default_factory=dict)


@dataclass(frozen=True)
class Collected:
    """What one step came to."""

    totals: Iterator[Total]
    """One a question, each made when it is its turn. FederationError R01 where it has not its
    quorum."""
    outcome: Mapping[str, str]
    """Site -> `contributed`, `refused` (codes only), or the code of why some of what was asked is
    not there."""
    budgets: Mapping[str, str]
    """Site -> the head of its budget chain, where it keeps one."""
    fewest: int = 0
    """The fewest sites of a masked sum, as all sites have vouched; 0: sums are open."""


class Sums(Protocol):
    """How a run sums."""

    def participants(self, job: Job) -> tuple[str, ...]:
        """The sites that get a plan for a job."""
        ...

    def collect(self, questions: Sequence[Question], lot: Lot) -> Collected:
        """Ask until the sites have answered or are given up. FederationError R01 where no sum can
        be had of those that have."""
        ...


def by_site(questions: Sequence[Question]) -> dict[str, list[Plan]]:
    """Site -> its plans, in the order of the questions."""
    plans: dict[str, list[Plan]] = {}
    for question in questions:
        for site, plan in question.plans.items():
            plans.setdefault(site, []).append(plan)
    return plans
