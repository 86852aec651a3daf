import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import CensoredData, ecdf

from common.errors import DataError
from common.metrics.kaplan_meier import kaplan_meier, survival_counts


def follow_up(seed, n=120):
    rng = np.random.default_rng(seed)
    return np.ceil(rng.exponential(30, n)).clip(1), (rng.random(n) < 0.6).astype(float)


def test_equals_scipy_where_times_are_whole_months():
    time, event = follow_up(0)
    # some are followed beyond the horizon and die there: within it they are at risk to the end
    assert ((time > 60) & (event == 1)).any()
    km = kaplan_meier(survival_counts(time, event, 60.0, 60), 60.0)
    reference = ecdf(CensoredData(uncensored=time[event == 1], right=time[event == 0])).sf
    np.testing.assert_allclose(km.survival, reference.evaluate(km.times), rtol=1e-12)
    with pytest.warns(RuntimeWarning, match="undefined at some"):
        limits = reference.confidence_interval(0.95, method="log-log")
    np.testing.assert_allclose(km.low, limits.low.evaluate(km.times), rtol=1e-9)
    np.testing.assert_allclose(km.high, limits.high.evaluate(km.times), rtol=1e-9)
    assert km.at_risk.tolist() == [(time >= t).sum() for t in km.times]


def test_a_worked_example_by_hand():
    # deaths at 1, 3; censored at 2; two followed past 4
    time, event = np.array([1, 2, 3, 9, 9.0]), np.array([1, 0, 1, 1, 0.0])
    km = kaplan_meier(survival_counts(time, event, 4.0, 4), 4.0)
    assert km.at_risk.tolist() == [5, 4, 3, 2]
    np.testing.assert_allclose(km.survival, [4 / 5, 4 / 5, 4 / 5 * 2 / 3, 4 / 5 * 2 / 3])
    variance = 1 / (5 * 4) + 1 / (3 * 2)
    wide = 1.959963984540054 * np.sqrt(variance) / np.log(8 / 15)
    np.testing.assert_allclose(
        [km.low[-1], km.high[-1]], [(8 / 15) ** np.exp(-wide), (8 / 15) ** np.exp(wide)]
    )
    assert km.low[-1] < 8 / 15 < km.high[-1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=50, max_size=50), st.integers(0, 50))
def test_counts_add_over_any_partition(parts, seed):
    (time, event), at = follow_up(seed, 50), np.array(parts)
    split = sum(survival_counts(time[at == k], event[at == k], 24.0, 12) for k in range(4))
    assert np.array_equal(split, survival_counts(time, event, 24.0, 12))
    assert split.sum() == 50


def test_no_interval_before_the_first_death_nor_after_the_last_patient():
    km = kaplan_meier(survival_counts(np.array([2, 3.0]), np.array([1, 1.0]), 4.0, 4), 4.0)
    assert km.survival[:3].tolist() == [1, 0.5, 0]
    assert np.isnan(km.survival[3])
    assert np.isnan(km.low[[0, 2, 3]]).all()
    assert np.isfinite(km.low[1])
    assert np.isnan(
        kaplan_meier(survival_counts(np.empty(0), np.empty(0), 4.0, 4), 4.0).survival
    ).all()


def test_unknown_follow_up_is_not_counted_and_nonsense_is_refused():
    assert (
        survival_counts(np.array([np.nan, 1.0, 0.0]), np.array([1.0, np.nan, 1.0]), 4.0, 4).sum()
        == 1
    )
    with pytest.raises(DataError, match="2 of 3 follow-ups"):
        survival_counts(np.array([-1.0, 1.0, 2.0]), np.array([1.0, 2.0, 0.0]), 4.0, 4)
