"""Gaussian noise in what leaves a site, added to whole numbers: rounded to such, or, where sites
share it, a share of it that is discrete.

What the grid and the masks must hold of a shared one is judged by what is public, and then held
whatever a site's rows are: that a sum did not fit would be told by a code, and be an answer about
patients that no noise hides.
"""

from __future__ import annotations

import numpy as np

from common.errors import RefusedError
from common.federated.learner import Contribution, Plan
from common.privacy.mechanism import COUNTS, Privacy, Sampled
from common.privacy.patient_sums import Grid, grid_of
from common.privacy.random import discrete_normal, rounded_normal
from common.privacy.shared_noise import LEAST_SHARE
from common.secure_aggregation.fixed_point import Scale

_STEPS = 2.0**40
"""The most that one patient changes a sum by, in steps: eight million of them stay below 2^63."""
_EXACT = 2.0**52
"""Whole numbers up to here are exact as numbers that leave a site, with noise on them."""
_ROOM = 64
"""Standard deviations of noise; beyond, less than once in 10^800 draws."""


def noised(contribution: Contribution, bound: float | Sampled, privacy: Privacy) -> Contribution:
    """One release: the sums, which a patient changes by at most `bound` (L2), and the count of
    cases beside them. The sums come in steps of their grid (`common.privacy.patient_sums`), and
    leave as numbers.

    Two releases of sqrt(2) times the noise each cost what one does. What a learner has noised
    itself (`Sampled`) it gives for one case; here it is weighed with a noisy number of them. The
    tally is left out: it would be a third. Of noise that is shared a site adds its share, which
    alone hides nobody: a count stays as it comes, below zero too, for only sums of it are told.
    """
    if isinstance(bound, Sampled):
        cases = max(contribution.cases + int(rounded_normal(1, COUNTS)[0]), 0)
        return Contribution({k: v * cases for k, v in contribution.sums.items()}, cases)
    on = grid_of(bound, privacy)
    draw = discrete_normal if privacy.shared else rounded_normal
    spread = steps(bound, on, sum(v.size for v in contribution.sums.values()), privacy)
    sums = {
        k: on.values(np.asarray(v + draw(v.size, spread).reshape(v.shape)))
        for k, v in contribution.sums.items()
    }
    if privacy.shared:
        share = max(privacy.share, LEAST_SHARE)
        return Contribution(sums, contribution.cases + int(draw(1, share)[0]))
    cases = contribution.cases + int(draw(1, privacy.spread)[0])
    return Contribution(sums, max(cases, 0))


def steps(bound: float, on: Grid, size: int, privacy: Privacy) -> float:
    """The standard deviation, in steps of the grid, of what a site adds to each of `size` sums."""
    return privacy.share * on.sensitivity(bound, size) / on.step


def demand_steps(plan: Plan, bound: float) -> None:
    """RefusedError P08 where a share of the noise is below `LEAST_SHARE` steps of the grid, or a sum
    does not fit into it or under the masks."""
    assert plan.privacy is not None
    on = grid_of(bound, plan.privacy)
    share = plan.privacy.share * bound
    if not share >= LEAST_SHARE * on.step:
        raise RefusedError(
            "P08",
            f"learner '{plan.learner}': a share of the noise is {share / on.step:.3g} steps of the "
            f"masks' grid, and {LEAST_SHARE:g} are the least; ask for more noise",
        )
    if bound > _STEPS * on.step or share * _ROOM > _most(plan, on):
        raise RefusedError(
            "P08",
            f"learner '{plan.learner}': what one patient adds, up to {bound:.3g}, or noise of "
            f"{share:.3g} does not fit under the masks; ask for another noise or bound",
        )


def within_masks(contribution: Contribution, bound: float, plan: Plan) -> Contribution:
    """Each sum, in steps, cut to half of what a site may send. A patient changes a sum that is cut
    by no more than one that is not."""
    assert plan.privacy is not None
    on = grid_of(bound, plan.privacy)
    most = int(_most(plan, on) / on.step)
    sums = {k: np.clip(v, -most, most) for k, v in contribution.sums.items()}
    return Contribution(sums, min(contribution.cases, int(_most(plan, Grid(0)))))


def _most(plan: Plan, on: Grid) -> float:
    return min(Scale(len(plan.participants)).bound / 2, _EXACT / 2 * on.step)
