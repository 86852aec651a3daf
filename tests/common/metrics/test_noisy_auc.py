"""An AUC from noisy counts: right without noise, honest about itself with it, silent where there is
too little."""

from __future__ import annotations

import numpy as np
import pytest

from common.metrics.noisy_auc import noisy_auc
from common.metrics.score_histogram import auc, score_histogram


def histogram(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + 1.2 * positive)))
    return score_histogram(scores, positive, 20)


def test_without_noise_it_is_the_auc_of_the_histogram() -> None:
    told = histogram(500, 1)
    found = noisy_auc(told, 0.0, 0)
    assert found.value == auc(told)
    assert (found.cases, found.positives) == (500, told[:, 1].sum())
    assert found.low is not None
    assert found.high is not None
    assert found.low < auc(histogram(200_000, 2)) < found.high  # type: ignore[operator]


def test_with_noise_the_interval_covers_what_the_patients_at_hand_and_others_would_give() -> None:
    truth = auc(histogram(200_000, 3))
    assert truth is not None
    rng = np.random.default_rng(4)
    covered, widths = [], []
    for seed in range(200):
        told = histogram(1500, 100 + seed) + 5.0 * rng.normal(size=(20, 2))
        found = noisy_auc(told, 5.0, seed)
        assert found.low is not None
        assert found.high is not None
        covered.append(found.low <= truth <= found.high)
        widths.append(found.high - found.low)
    assert 0.9 <= np.mean(covered) <= 0.99
    plain = noisy_auc(histogram(1500, 100), 0.0, 0)
    assert plain.low is not None
    assert plain.high is not None
    assert np.mean(widths) > 1.2 * (plain.high - plain.low)


@pytest.mark.parametrize(("n", "spread"), [(20, 0.0), (60, 20.0), (0, 1.0)])
def test_too_few_cases_for_the_noise_give_no_figure(n: int, spread: float) -> None:
    found = noisy_auc(histogram(n, 5), spread, 0)
    assert (found.value, found.low, found.high) == (None, None, None)
