"""Public counts of a site: how many patients a plan is judged by, where the exact number is not to
be told.

What is refused for a number of patients tells that number, plan by plan. So it is one that is told
anyway: declared in the site file, else the greeting's (exact without an epsilon, noised once with
one). Masked sites tell none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from client.site.site_file import Site
from common.data.cohort import UNKNOWN, Cohort
from common.errors import RefusedError
from common.federated.learner import Federated, Plan
from common.privacy.limits import SPLIT

Noised = Callable[[str, Sequence[int]], list[int]]
"""Hash of a cohort and its counts -> the noised ones, the same each time."""


def by_class(cohort: Cohort, noised: Noised | None) -> tuple[list[int], list[int]]:
    """Labelled cases of each class, and those of them with an image."""
    labelled, classes = cohort.labels != UNKNOWN, len(cohort.schema.label.classes)
    exact = [
        int(n)
        for mask in (labelled, labelled & cohort.imaged)
        for n in np.bincount(cohort.labels[mask], minlength=classes)
    ]
    counts = exact if noised is None else noised(cohort.hash, exact)
    return counts[:classes], counts[classes:]


def fewest(
    site: Site, cohort: Cohort, noised: Noised | None, *, unlabelled: bool = False
) -> int | None:
    """The patients that folds are judged by; None where no number is told. unlabelled: those of
    unknown label count, too."""
    if site.privacy.patients is not None:
        return site.privacy.patients[0]
    if site.privacy.require == "secagg":
        return None
    if noised is None and unlabelled:
        return len(cohort)
    return sum(by_class(cohort, noised)[0])


def most(site: Site, cohort: Cohort, noised: Noised) -> int:
    """The patients that a delta is judged by, at a site with an epsilon: `minimum` at least, for
    with fewer nothing is told, and a noised count may come out below."""
    if site.privacy.patients is not None:
        return site.privacy.patients[1]
    return max(sum(by_class(cohort, noised)[0]), site.minimum, 1)


def most_parts(site: Site, patients: int | None) -> int:
    """Into how many parts a site's patients may be folded: each is expected to hold `minimum`,
    unless the site allows smaller ones. 0 where they are fewer than that all together."""
    minimum = site.minimum
    if patients is None or site.privacy.small_folds:
        return int(SPLIT.most)
    if patients < minimum:
        return 0
    return (
        int(SPLIT.most) if minimum <= 1 else min((patients - 1) // (minimum - 1), int(SPLIT.most))
    )


def demand_fold(
    plan: Plan, learner: Federated, site: Site, cohort: Cohort, noised: Noised | None
) -> None:
    """RefusedError P01 where a fold that the plan is on, or reads, is expected to leave fewer
    patients than `minimum` in, or out: what is in one part is the difference of two sums. By the
    expectation, so that nothing is told of how many a part holds."""
    left_out = {len(set(f.parts)) for f in (plan.fold, *plan.reads)} - {0}
    if not left_out or site.privacy.small_folds:
        return
    patients = fewest(site, cohort, noised, unlabelled=learner.traits.unlabelled)
    if patients is None:
        return
    share = min(min(k, plan.parts - k) for k in left_out)
    if share * patients <= (site.minimum - 1) * plan.parts:
        raise RefusedError(
            "P01",
            f"{share} of {plan.parts} parts of {patients} patients are expected to hold "
            f"{share * patients / plan.parts:.1f}, the site's minimum is {site.minimum}",
        )
