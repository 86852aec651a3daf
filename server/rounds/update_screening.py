"""Update screening (X03), whose update is not believed: one too far from where it started, too far
beside the others', or of more cases than its site has.

What is measured is the L2 norm of the change of a learner's parameters (Sun et al. 2019, arXiv
1911.07963, cut updates to a bound on it). Here an update beyond the bound is refused by name, for
whoever sends such a thing is to be asked. Sums of other learners have no such norm; of them only
the number of cases is judged. Pure functions, of one exchange's answers to one learner on one fold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from common.errors import UsageError
from common.federated.learner import Averaged, Contribution, Federated
from common.types import Arrays
from common.wire import compression
from server.config.jobs import Job
from server.config.run_config import Run
from server.rounds.registration import Roster

CODE = "X03"
FEW = 4
"""Updates below which nobody is called an outlier: of three, two colluding sites would be the rule,
and the honest one the exception."""


def find(
    run: Run,
    learner: Federated,
    arrays: Arrays,
    contributions: Mapping[str, Contribution],
    rounded: Arrays | None,
    cases: Mapping[str, int],
) -> dict[str, str]:
    """Site -> why its contribution is not taken.

    arrays: the learner's, before this step; rounded: its parameters, where the contributions are
    rounded changes of them; cases: site -> the labelled cases of its greeting. Of each contribution
    only a norm is kept: those that wait on disk are read one at a time.
    """
    doubted = {
        s: claim
        for s, c in contributions.items()
        if (claim := _claims(run, learner, s, c, cases.get(s, 0)))
    }
    if (run.norm_bound or run.outliers) and isinstance(learner, Averaged):
        current = learner.parameters(arrays)
        parameter_updates = {
            s: c
            for s, c in contributions.items()
            if s not in doubted and (rounded is not None or set(c.sums) == set(current))
        }
        doubted |= _far(
            run,
            {
                s: norm(c, current) if rounded is None else compression.norm(c.sums, run.transfer)
                for s, c in parameter_updates.items()
            },
        )
    return doubted


def norm(contribution: Contribution, current: Arrays) -> float:
    """L2 norm of mean parameters minus `current`; infinite where it is too large for a number."""
    square = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for name, parameter in current.items():
            # who has no case has nothing to add: whatever it sends all the same is its change
            change = np.ravel(
                contribution.sums[name] / contribution.cases - parameter
                if contribution.cases
                else contribution.sums[name]
            )
            square += float(np.vdot(change, change))
    return math.sqrt(square) if math.isfinite(square) else math.inf


def _claims(
    run: Run, learner: Federated, site: str, contribution: Contribution, labelled_cases: int
) -> str:
    """A greeting with noise says no exact number; some learners count cases of unknown label, of
    whom a greeting says nothing."""
    if run.noise or learner.traits.unlabelled or contribution.cases <= labelled_cases:
        return ""
    return (
        f"{site} sums over {contribution.cases} cases and has told of {labelled_cases} "
        "labelled ones; ask the site, or resume the run if its table has grown since"
    )


def _far(run: Run, norms: Mapping[str, float]) -> dict[str, str]:
    doubted = {}
    usual = float(np.median(list(norms.values()))) if len(norms) >= FEW else 0.0
    for site, size in norms.items():
        if run.norm_bound and size > run.norm_bound:
            doubted[site] = (
                f"{site} changes the parameters by {size:.4g}, norm_bound={run.norm_bound:g}; ask "
                "the site, or raise the bound"
            )
        elif run.outliers and usual and size > run.outliers * usual:
            doubted[site] = (
                f"{site} changes the parameters by {size:.4g}, the median of {len(norms)} sites "
                f"is {usual:.4g}, "
                f"outliers={run.outliers:g} times that; ask the site, or raise the factor"
            )
    return doubted


def demand(run: Run, jobs: Sequence[Job], roster: Roster) -> None:
    """UsageError C01 where what the run asks for could never refuse anybody: it would be taken for
    a defence."""
    sizes = [len(roster.able(job)) for job in jobs if isinstance(job.learner, Averaged)]
    if (run.norm_bound or run.outliers) and not sizes:
        raise UsageError(
            "C01",
            "norm_bound and outliers judge learners that send parameters, and this run has none; "
            "leave them out",
        )
    if run.outliers and max(sizes) < FEW:
        raise UsageError(
            "C01",
            f"outliers={run.outliers:g} needs {FEW} sites that train together, there are "
            f"{max(sizes)}; use norm_bound",
        )
