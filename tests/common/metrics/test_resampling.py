"""Resamples within site and class, and percentile intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics.resampling import bootstrap_weights, percentiles, resampled_counts, variance


def patients(seed=0, n=200, classes=2, sites=2):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, n), rng.integers(0, sites, n)


@given(st.integers(0, 10_000), st.integers(2, 3), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_resamples_keep_every_site_and_class_at_its_size(seed, classes, sites):
    labels, site = patients(seed, 60, classes, sites)
    w = bootstrap_weights(labels, site, 7, seed)
    assert (w >= 0).all()
    assert (w == np.round(w)).all()
    for s in set(site):
        for k in range(classes):
            here = (site == s) & (labels == k)
            assert (w[:, here].sum(1) == here.sum()).all()


def test_resamples_are_determined_by_the_seed_and_resemble_drawing_with_replacement():
    labels, site = patients()
    a, b = (bootstrap_weights(labels, site, 500, seed=1) for _ in range(2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, bootstrap_weights(labels, site, 500, seed=2))
    assert a.mean(0) == pytest.approx(1, abs=0.2)
    # a patient is missed with probability (1 - 1/m)^m, about 1/e
    assert (a == 0).mean() == pytest.approx(np.exp(-1), abs=0.01)


def test_counts_are_resampled_as_their_patients_would_be():
    counts = np.array([[30.0, 10, 0], [5, 5, 20], [0, 0, 0]])
    drawn = resampled_counts(counts, np.random.default_rng(0), 4000)
    assert np.array_equal(drawn[0], counts)
    assert (drawn.sum(2) == counts.sum(1)).all()
    labels, what = np.repeat([0, 1], [40, 30]), np.repeat([0, 1, 0, 1, 2], [30, 10, 5, 5, 20])
    weights = bootstrap_weights(labels, np.zeros(70), 4000, 1)
    for stratum in (0, 1):
        patients_of = [weights[:, (labels == stratum) & (what == cell)].sum(1) for cell in range(3)]
        np.testing.assert_allclose(
            drawn[1:, stratum].std(0), np.std(patients_of, axis=1), rtol=0.05
        )


def test_interval_is_withheld_where_replicates_are_undefined():
    values = np.r_[np.full(5, np.nan), np.linspace(0, 1, 95)]
    assert percentiles(np.r_[0.5, values]) == (None, None, None)
    assert np.isnan(variance(np.r_[0.5, values]))
    assert percentiles(np.r_[np.nan, values[5:]]) == (None, None, None)
    value, low, high = percentiles(np.r_[0.5, np.linspace(0, 1, 1001)])
    assert (value, low, high) == (0.5, pytest.approx(0.025), pytest.approx(0.975))
    assert variance(np.r_[0.5, np.linspace(0, 1, 1001)]) == pytest.approx(1 / 12, rel=0.01)
