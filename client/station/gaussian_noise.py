"""Gaussian noise in what leaves a site."""

from __future__ import annotations

from common.federated.learner import Contribution
from common.privacy.mechanism import COUNTS, Privacy, Sampled
from common.privacy.random import normal


def noised(contribution: Contribution, bound: float | Sampled, privacy: Privacy) -> Contribution:
    """One release: the sums, which a patient changes by at most `bound` (L2), and the count of
    cases beside them.

    Two releases of sqrt(2) times the noise each cost what one does. What a learner has noised
    itself (`Sampled`) it gives for one case; here it is weighed with a noisy number of them. The
    tally is left out: it would be a third.
    """
    if isinstance(bound, Sampled):
        cases = max(round(contribution.cases + COUNTS * float(normal(1)[0])), 0)
        return Contribution({k: v * cases for k, v in contribution.sums.items()}, cases)
    spread = privacy.spread
    sums = {
        k: (v + spread * bound * normal(v.size).reshape(v.shape)).astype(v.dtype)
        for k, v in contribution.sums.items()
    }
    return Contribution(sums, max(round(contribution.cases + spread * float(normal(1)[0])), 0))
