"""A whole fit at one site, as a coordinator sees it: every plan through the station's own doors
(`client.station.guard`) and its account on disk, every release as it leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from client.site.privacy_policy import Policy
from client.site.site_file import Site
from client.station import guard
from client.station.privacy_budget import Budget, begin
from common.data.cohort import Cohort, Fold
from common.federated.learner import Contribution, Federated, Plan, hyper_of
from common.federated.states import States, named_arrays
from common.privacy.mechanism import Privacy
from common.types import State, digest
from simulation.attack.canary_cohort import SITE

_HOUR = 3600.0


@dataclass(frozen=True)
class Release:
    """One exchange: what was asked at which states, and what left."""

    learner: Federated
    plan: Plan
    states: States
    answer: Contribution


@contextmanager
def account(epsilon: float, delta: float) -> Iterator[tuple[Site, Budget]]:
    """A site that allows so much, and its account."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory(prefix="fedmets-audit-")))
        # the number of patients is declared, so that no count is charged beside the fit
        policy = Policy(
            epsilon=epsilon, delta=delta, patients=(100, 50_000), small_folds=True, smallest_leaf=0
        )
        site = Site(name=SITE, data=folder, studies=("audit",), state=folder, privacy=policy)
        begin(folder)
        yield site, opened.enter_context(closing(Budget(folder, policy)))


def releases(
    chain: Sequence[Federated],
    given: State,
    cohort: Cohort,
    privacy: Privacy,
    at: tuple[Site, Budget],
) -> Iterator[Release]:
    """All of a fit of `chain` on everybody in `cohort`, in order; charged to the account."""
    (site, budget), fold, state, step = at, Fold(), dict(given), 0
    for learner in chain:
        arrays, done = learner.start(cohort.schema, 0), False
        while not done:
            states: States = {fold: {**state, learner.name: arrays}}
            plan = Plan(
                run="audit", site=site.name, study="audit", task="", schema=cohort.schema.hash,
                step=step, learner=learner.name, phase=learner.phase(arrays), fold=fold,
                reads=(fold,), state_hash=digest(named_arrays(states)), participants=(site.name,),
                expires=time.time() + _HOUR, hyper=hyper_of(learner), seed=0, parts=2,
                privacy=privacy, budget=budget.head,
            )  # fmt: skip
            answer = answered(plan, states, cohort, site, budget)
            yield Release(learner, plan, states, answer)
            result = learner.apply(states, answer, plan)
            arrays, done, step = result.arrays, result.done, step + 1
        state[learner.name] = arrays


def answered(
    plan: Plan, states: States, cohort: Cohort, site: Site, budget: Budget
) -> Contribution:
    """As `client.station.station.Station` works a plan off, and writes its charge."""
    learner = guard.admit(plan, site, cohort, budget)
    guard.sound(plan, states, cohort.schema)
    asked = guard.states_for(plan, states)
    contribution = guard.contributed(learner, asked, cohort, plan, lambda _: None)
    answer = guard.release(contribution, learner, asked, plan, cohort, site.minimum, budget)
    budget.settle()
    return answer
