"""DeLong's variance against the definition, against the bootstrap, and its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from common.metrics.delong import (
    Concordance,
    aucs,
    concordance,
    difference,
    limits,
    pooled_auc,
    pooled_moments,
)
from common.metrics.score_histogram import score_histogram
from simulation.evaluation.predictions import Comparison, Scores
from simulation.evaluation.sums import Sums


def scores(rng, n, models=2, classes=2, share=0.3, digits=2):
    labels = rng.choice(classes, n, p=[1 - share, *[share / (classes - 1)] * (classes - 1)])
    logits = rng.normal(0, 1, (n, models, classes)) + 1.2 * np.eye(classes)[labels][:, None, :]
    probs = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    probs = np.round(probs, digits)
    probs[..., 0] = np.round(1 - probs[..., 1:].sum(2), digits)
    return np.clip(probs, 0, 1), labels


def added(sites):
    parts = [concordance(p, y) for p, y in sites]
    return Concordance(*(sum(getattr(c, f) for c in parts) for f in Concordance._fields))


def by_definition(x, y, labels):
    """DeLong, DeLong & Clarke-Pearson 1988, eq. 5 to 7, pair by pair."""
    placed = []
    for s in (x, y):
        wins = (s[labels == 1][:, None] > s[labels == 0]) + 0.5 * (
            s[labels == 1][:, None] == s[labels == 0]
        )
        placed.append((wins.mean(1), wins.mean(0)))
    v10, v01 = np.stack([p[0] for p in placed]), np.stack([p[1] for p in placed])
    return v10.mean(1), np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 120))
def test_one_site_has_delongs_variance(seed, n):
    rng = np.random.default_rng(seed)
    probs, labels = scores(rng, n)
    if np.bincount(labels, minlength=2).min() < 2:
        return
    values, covariance = aucs(concordance(probs, labels), [1], 2)
    expected, of = by_definition(probs[:, 0, 1], probs[:, 1, 1], labels)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    np.testing.assert_allclose(
        values, [roc_auc_score(labels, probs[:, m, 1]) for m in (0, 1)], rtol=1e-12
    )
    np.testing.assert_allclose(covariance, of, rtol=1e-9, atol=1e-15)


def test_sites_add_as_weighted_aucs_do():
    rng = np.random.default_rng(3)
    sites = [scores(rng, n) for n in (30, 80, 150)]
    values, covariance = aucs(added(sites), [1], 2)
    each = [by_definition(p[:, 0, 1], p[:, 1, 1], y) for p, y in sites]
    pairs = np.array([(y == 1).sum() * (y == 0).sum() for _, y in sites], float)
    w = pairs / pairs.sum()
    np.testing.assert_allclose(
        values, sum(a * v for a, (v, _) in zip(w, each, strict=True)), rtol=1e-12
    )
    np.testing.assert_allclose(
        covariance, sum(a**2 * c for a, (_, c) in zip(w, each, strict=True)), rtol=1e-9
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_the_bootstrap_within_site_and_class_has_the_same_spread(classes):
    rng = np.random.default_rng(5)
    sites = [scores(rng, n, classes=classes, share=0.5, digits=4) for n in (150, 250, 400)]
    labels = np.concatenate([y for _, y in sites])
    where = np.repeat(np.arange(3), [len(y) for _, y in sites])
    judged = [1] if classes == 2 else list(range(classes))
    values, covariance = aucs(added(sites), judged, classes)
    reps = []
    for m in (0, 1):
        probs, everybody = np.concatenate([q[:, m] for q, _ in sites]), np.ones(len(labels), bool)
        scores_of = Scores(probs, np.full(len(labels), 0.5), everybody)
        comparison = Comparison(
            labels,
            where,
            np.zeros(len(labels), int),
            (),
            {("m", "federated", "within_site"): [scores_of]},
            {},
        )
        drawn = Sums(comparison, 3000, 0).of([scores_of])._aucs()[:, 0]
        assert values[m] == pytest.approx(drawn[0], abs=1e-12)
        reps.append(drawn[1:])
    # resampling n of n is short of (n - 1) / n, and 3000 draws are known to 3 %
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [r.std() for r in reps], rtol=0.08)
    apart = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert apart == pytest.approx((reps[0] - reps[1]).std(), rel=0.08)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_second_exchange_has_the_pooled_auc_of_the_bins_and_its_variance(classes):
    rng = np.random.default_rng(7)
    sites = [scores(rng, n, 1, classes, 0.6) for n in (60, 120, 200)]
    labels = np.concatenate([y for _, y in sites])
    probs = np.concatenate([p[:, 0] for p, _ in sites])
    histogram = np.stack([score_histogram(probs[:, k], labels == k) for k in range(classes)])
    moments = sum(pooled_moments(p[:, 0], y, histogram) for p, y in sites)
    judged = [1] if classes == 2 else list(range(classes))
    found = pooled_auc(moments, judged)
    # two decimals: nobody shares a bin but with equals
    assert found.value == pytest.approx(
        np.mean([roc_auc_score(labels == k, probs[:, k]) for k in judged]), abs=1e-9
    )
    _, covariance = aucs(concordance(probs[:, None, :], labels), judged, classes)
    alone = limits(found.value, float(covariance[0, 0]))
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=1e-9)


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(11)
    # two models of the same quality: scores shifted by 1 between classes, AUC = Phi(1 / sqrt(2))
    truth, inside, apart = 0.7602499389065233, 0, 0
    for _ in range(400):
        sites = []
        for n in (40, 60, 90):
            labels = (np.arange(n) < n // 3).astype(int)
            x = rng.normal(0, 1, (n, 2)) + labels[:, None]
            p = 1 / (1 + np.exp(-x))
            sites.append((np.stack([1 - p, p], 2), labels))
        values, covariance = aucs(added(sites), [1], 2)
        one, both = (
            limits(float(values[0]), float(covariance[0, 0])),
            difference(values, covariance),
        )
        inside += one.low <= truth <= one.high
        apart += both.low <= 0 <= both.high
    # 95 % of 400 is 380, give or take 4.4
    assert 364 <= inside <= 396
    assert 364 <= apart <= 396


def test_an_auc_of_one_has_an_interval_by_the_smaller_class():
    labels = np.array([0] * 30 + [1] * 12)
    p = labels * 0.8 + 0.1
    values, covariance = aucs(concordance(np.stack([1 - p, p], 1)[:, None], labels), [1], 2)
    one = limits(float(values[0]), float(covariance[0, 0]), 12)
    assert (one.value, one.high) == (1.0, 1.0)
    assert one.low == pytest.approx(0.025 ** (1 / 12))
    assert limits(0.0, 0.0, 12).high == pytest.approx(1 - one.low)


def test_a_lone_patient_of_a_class_is_taken_at_the_largest_variance_and_one_class_says_nothing():
    labels = np.array([0] * 20 + [1])
    p = np.linspace(0.1, 0.9, 21)
    values, covariance = aucs(concordance(np.stack([1 - p, p], 1)[:, None], labels), [1], 2)
    assert values[0] == 1.0
    assert covariance[0, 0] == pytest.approx(0.25)
    none, _ = aucs(concordance(np.stack([1 - p, p], 1)[:, None], np.zeros(21, int)), [1], 2)
    assert np.isnan(none[0])
    assert limits(float(none[0]), np.nan).value is None
