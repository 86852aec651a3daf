"""Random-effects meta-analysis against the published analysis of the BCG trials."""

import numpy as np
import pytest
from scipy import stats

from common.metrics.calibration import logit
from common.metrics.meta_analysis import across_sites, random_effects

# 13 trials of BCG vaccine (Colditz et al. 1994): cases and non-cases, vaccinated and not
BCG = np.array(
    [
        [4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619], [33, 5036,
        47, 5761],
        [180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892], [29, 7470, 45, 7232],
        [17, 1699, 65, 1600],
        [186, 50448, 141, 27197], [5, 2493, 3, 2338], [27, 16886, 29, 17825],
    ],
    float,
)  # fmt: skip


def test_random_effects_equal_the_published_analysis_of_the_bcg_trials():
    a, b, c, d = BCG.T
    effect = np.log(a / (a + b)) - np.log(c / (c + d))
    fit = random_effects(effect, np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)))
    # metafor, rma(method = "DL"): estimate -0.7141, CI -1.0644 to -0.3638, tau^2 0.3088
    assert (fit.mean, fit.low, fit.high) == pytest.approx((-0.7141, -1.0644, -0.3638), abs=5e-5)
    assert fit.tau**2 == pytest.approx(0.3088, abs=5e-5)
    half = stats.t.ppf(0.975, 11) * np.sqrt(0.3088 + 0.1787**2)
    assert (fit.predicted_low, fit.predicted_high) == pytest.approx(
        (-0.7141 - half, -0.7141 + half), abs=2e-4
    )


def test_sites_are_summarised_on_the_logit_scale():
    fit = across_sites([0.8, 0.8, None, 0.8, 1.0], [0.05, 0.05, None, 0.05, 0.0])
    assert fit.sites == 3
    assert fit.tau == 0
    assert fit.mean == pytest.approx(0.8)
    half = 1.959964 * 0.05 / (0.8 * 0.2) / np.sqrt(3)
    assert fit.high == pytest.approx(1 / (1 + np.exp(-(logit(np.array([0.8]))[0] + half))))
    assert 0 < fit.predicted_low < fit.low < fit.mean < fit.high < fit.predicted_high < 1
    assert across_sites([0.8, 0.7, None], [0.05, 0.05, None]) is None
    assert across_sites([0.6, 0.75, 0.9], [0.02, 0.02, 0.02]).tau > 0.3
