"""Gaussian noise in what leaves a site, added to whole numbers and rounded to such."""

from __future__ import annotations

import numpy as np

from common.federated.learner import Contribution
from common.privacy.mechanism import COUNTS, Privacy, Sampled
from common.privacy.patient_sums import grid
from common.privacy.random import rounded_normal


def noised(contribution: Contribution, bound: float | Sampled, privacy: Privacy) -> Contribution:
    """One release: the sums, which a patient changes by at most `bound` (L2), and the count of
    cases beside them. The sums come in steps of their grid (`common.privacy.patient_sums`), and
    leave as numbers.

    Two releases of sqrt(2) times the noise each cost what one does. What a learner has noised
    itself (`Sampled`) it gives for one case; here it is weighed with a noisy number of them. The
    tally is left out: it would be a third.
    """
    if isinstance(bound, Sampled):
        cases = max(contribution.cases + int(rounded_normal(1, COUNTS)[0]), 0)
        return Contribution({k: v * cases for k, v in contribution.sums.items()}, cases)
    on = grid(bound, privacy.spread)
    size = sum(v.size for v in contribution.sums.values())
    spread = privacy.spread * on.sensitivity(bound, size) / on.step
    sums = {
        k: on.values(np.asarray(v + rounded_normal(v.size, spread).reshape(v.shape)))
        for k, v in contribution.sums.items()
    }
    cases = contribution.cases + int(rounded_normal(1, privacy.spread)[0])
    return Contribution(sums, max(cases, 0))
