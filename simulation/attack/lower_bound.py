"""Lower bound on epsilon by trials: the least that explains how well two sides are told apart.

Half of the trials choose a threshold, the other half bounds both of its error rates (Clopper &
Pearson 1934). (epsilon, delta)-privacy allows none below FPR * e^epsilon + FNR = 1 - delta, nor
with the two exchanged (Kairouz et al. 2015, arXiv 1311.0776, theorem 2.1); audits so: Jagielski et
al. 2020, arXiv 2006.07709; Nasr et al. 2021, arXiv 2101.04535.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from common.data.schema import Floats

CONFIDENCE = 0.999


def lower_bound(without: Floats, with_canary: Floats, delta: float) -> float:
    """Whatever lets itself be told apart so well has no less epsilon at `delta`, with `CONFIDENCE`;
    0 where nothing is shown."""
    half = len(without) // 2
    thresholds = np.unique(np.concatenate([without[:half], with_canary[:half]]))
    bounds = [_epsilon(without[:half], with_canary[:half], t, delta) for t in thresholds]
    return max(
        _epsilon(
            without[half:], with_canary[half:], float(thresholds[int(np.argmax(bounds))]), delta
        ),
        0.0,
    )


def _epsilon(without: Floats, with_canary: Floats, threshold: float, delta: float) -> float:
    false, missed = (
        _upper(int((without > threshold).sum()), len(without)),
        _upper(int((with_canary <= threshold).sum()), len(with_canary)),
    )
    return float(np.log(max((1 - delta - missed) / false, (1 - delta - false) / missed, 1e-9)))


def _upper(errors: int, trials: int) -> float:
    """Clopper-Pearson's upper limit; both rates' together hold with `CONFIDENCE`."""
    return (
        1.0
        if errors == trials
        else float(betaincinv(errors + 1, trials - errors, 1 - (1 - CONFIDENCE) / 2))
    )
