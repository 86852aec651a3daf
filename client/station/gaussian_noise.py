"""Gaussian noise in what leaves a site, added to whole numbers: rounded to such, or, where sites
share it, a share of it that is discrete."""

from __future__ import annotations

import numpy as np

from common.federated.learner import Contribution
from common.privacy.mechanism import COUNTS, Privacy, Sampled
from common.privacy.patient_sums import Grid, grid_of
from common.privacy.random import discrete_normal, rounded_normal
from common.privacy.shared_noise import LEAST_SHARE


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
