import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from common.errors import DataError, UsageError
from common.metrics.calibration import logit
from common.metrics.meta_analysis import across_sites, random_effects
from simulation.evaluation.bootstrap import (
    METRICS,
    Predictions,
    bootstrap_weights,
    by_site,
    decision_curve,
    estimable,
    evaluate,
    interval,
    paired_difference,
    prior_correct,
    standard_error,
    unknown_label_bounds,
)


def predictions(seed=0, n=240, classes=2, sites=4, digits=2):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.2, (n, classes))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=p) for p in probs])
    # rounded, so that there are ties
    probs = np.round(probs, digits)
    probs[:, 0] = 1 - probs[:, 1:].sum(1)
    site = np.array([f"site {s}" for s in rng.integers(0, sites, n)])
    return Predictions(np.clip(probs, 0, 1), labels, site, rng.choice([0.4, 0.5], n))


def take(p, rows):
    return Predictions(p.probs[rows], p.labels[rows], p.sites[rows], p.thresholds[rows])


def slowly(p):
    """Every metric, patient by patient and from scikit-learn, for two classes."""
    y, s = p.labels, p.probs[:, 1]
    concordant = pairs = 0.0
    for site in set(p.sites):
        here = p.sites == site
        for a in s[here & (y == 1)]:
            for b in s[here & (y == 0)]:
                concordant += (a > b) + 0.5 * (a == b)
                pairs += 1
    called = s >= p.thresholds
    x = logit(s)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slope = LogisticRegression(C=1e10, tol=1e-10, solver="newton-cholesky").fit(x[:, None], y).coef_[0, 0]
    low, high = -20.0, 20.0
    for _ in range(80):
        a = (low + high) / 2
        low, high = (a, high) if (1 / (1 + np.exp(-(a + x)))).sum() < y.sum() else (low, a)
    return {
        "auc": concordant / pairs,
        "macro_auc": concordant / pairs,
        "auc_pooled": metrics.roc_auc_score(y, s),
        "average_precision": metrics.average_precision_score(y, s),
        "accuracy": metrics.accuracy_score(y, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, called),
        "f1": metrics.f1_score(y, called),
        "sensitivity": metrics.recall_score(y, called),
        "specificity": metrics.recall_score(1 - y, ~called),
        "brier": metrics.brier_score_loss(y, s),
        "log_loss": metrics.log_loss(y, p.probs),
        "calibration_slope": slope,
        "calibration_intercept": a,
        "no_information_rate": max(np.mean(y), 1 - np.mean(y)),
    }


def test_every_metric_equals_scikit_learn_and_every_replicate_explicitly_repeated_patients():
    p = predictions()
    w = bootstrap_weights(p.labels, p.sites, 12, seed=3)
    got = evaluate(p, w)
    assert set(got) == set(METRICS)
    for metric, value in slowly(p).items():
        assert got[metric][0] == pytest.approx(value, rel=1e-6 if "slope" in metric else 1e-9), metric
    for b in range(12):
        for metric, value in slowly(take(p, np.repeat(np.arange(240), w[b].astype(int)))).items():
            assert got[metric][1][b] == pytest.approx(value, rel=1e-6 if "slope" in metric else 1e-9), (metric, b)


def test_many_classes_equal_scikit_learn():
    p = predictions(1, classes=4, sites=1)
    got = {m: v for m, (v, _) in evaluate(p, bootstrap_weights(p.labels, p.sites, 2, 0)).items()}
    y, called = p.labels, p.probs.argmax(1)
    rest = [metrics.recall_score(y != k, called != k) for k in range(4)]
    slopes = []
    for k in range(4):
        model = LogisticRegression(C=1e10, tol=1e-10, solver="newton-cholesky").fit(logit(p.probs[:, [k]]), y == k)
        slopes.append(model.coef_[0, 0])
    expected = {
        "auc": metrics.roc_auc_score(y, p.probs, multi_class="ovr"),
        "auc_pooled": metrics.roc_auc_score(y, p.probs, multi_class="ovr"),
        "macro_auc": metrics.roc_auc_score(y, p.probs, multi_class="ovr"),
        "average_precision": metrics.average_precision_score(np.eye(4)[y], p.probs),
        "accuracy": metrics.accuracy_score(y, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, called),
        "f1": metrics.f1_score(y, called, average="macro"),
        "sensitivity": metrics.recall_score(y, called, average="macro"),
        "specificity": np.mean(rest),
        "brier": metrics.brier_score_loss(y, p.probs),
        "log_loss": metrics.log_loss(y, p.probs),
        "calibration_slope": np.mean(slopes),
    }
    for metric, value in expected.items():
        assert got[metric] == pytest.approx(value, rel=1e-6 if "slope" in metric else 1e-9), metric
    assert got["calibration_intercept"] is None


def test_a_rare_class_is_left_out_of_macro_averages_and_not_of_the_rest():
    p = predictions(2, classes=3, sites=1)
    rare = np.flatnonzero(p.labels == 2)
    kept = take(p, np.sort(np.concatenate([np.flatnonzero(p.labels != 2), rare[:9]])))
    none = np.empty((0, len(kept.labels)), np.float32)
    got = {m: v for m, (v, _) in evaluate(kept, none).items()}
    aucs = [metrics.roc_auc_score(kept.labels == k, kept.probs[:, k]) for k in (0, 1)]
    recalls = [(kept.probs.argmax(1) == k)[kept.labels == k].mean() for k in (0, 1)]
    assert got["auc"] == pytest.approx(np.mean(aucs))
    assert got["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert got["accuracy"] == pytest.approx((kept.probs.argmax(1) == kept.labels).mean())


@given(st.integers(0, 10_000), st.integers(2, 3), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_resamples_keep_every_site_and_class_at_its_size(seed, classes, sites):
    p = predictions(seed, 60, classes, sites)
    w = bootstrap_weights(p.labels, p.sites, 7, seed)
    assert (w >= 0).all()
    assert (w == np.round(w)).all()
    for site in set(p.sites):
        for k in range(classes):
            here = (p.sites == site) & (p.labels == k)
            assert (w[:, here].sum(1) == here.sum()).all()


def test_resamples_are_determined_by_the_seed_and_resemble_drawing_with_replacement():
    p = predictions(n=200, sites=2)
    a, b = (bootstrap_weights(p.labels, p.sites, 500, seed=1) for _ in range(2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, bootstrap_weights(p.labels, p.sites, 500, seed=2))
    assert a.mean(0) == pytest.approx(1, abs=0.2)
    # a patient is missed with probability (1 - 1/m)^m, about 1/e
    assert (a == 0).mean() == pytest.approx(np.exp(-1), abs=0.01)


def test_blocks_of_replicates_change_nothing(monkeypatch):
    p = predictions(4)
    w = bootstrap_weights(p.labels, p.sites, 20, 0)
    whole = evaluate(p, w)
    monkeypatch.setattr("simulation.evaluation.bootstrap._CELLS", 3 * 240)
    for m, (value, replicates) in evaluate(p, w).items():
        assert value == pytest.approx(whole[m][0], rel=1e-12)
        np.testing.assert_allclose(replicates, whole[m][1], rtol=1e-9)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    # binormal scores: AUC = Phi(1 / sqrt 2)
    truth, covered = stats.norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], [90, 60])
        s = 1 / (1 + np.exp(-(rng.normal(0, 1, 150) + labels)))
        p = Predictions(np.stack([1 - s, s], 1), labels, np.zeros(150), np.full(150, 0.5))
        _, low, high = interval(*evaluate(p, bootstrap_weights(labels, p.sites, 300, seed), ("auc",))["auc"])
        covered += low <= truth <= high
    assert 106 <= covered <= 120


@pytest.mark.parametrize("positives", [0, 9, 111, 120])
def test_fewer_than_ten_of_a_class_is_not_estimable(positives):
    labels = (np.arange(120) < positives).astype(np.int64)
    s = np.random.default_rng(0).random(120)
    p = Predictions(np.stack([1 - s, s], 1), labels, np.zeros(120), np.full(120, 0.5))
    assert not estimable(labels)
    for metric, (value, replicates) in evaluate(p, bootstrap_weights(labels, p.sites, 20, 0)).items():
        if metric == "no_information_rate":
            assert value == max(positives, 120 - positives) / 120
        else:
            assert interval(value, replicates) == (None, None, None), metric
            assert standard_error(replicates) is None


def test_positives_at_sites_without_negatives_do_not_make_the_within_site_auc_estimable():
    p = predictions(5, n=120, sites=1)
    sites = np.where(p.labels == 1, "only positives", "mixed")
    mixed = np.flatnonzero(p.labels == 1)
    for count, given_ in ((9, False), (10, True)):
        sites[mixed[:count]] = "mixed"
        got = evaluate(Predictions(p.probs, p.labels, sites, p.thresholds), bootstrap_weights(p.labels, sites, 5, 0))
        assert (got["auc"][0] is not None) == given_
        assert got["auc_pooled"][0] is not None


def test_interval_is_withheld_where_replicates_are_undefined():
    values = np.r_[np.full(5, np.nan), np.linspace(0, 1, 95)]
    assert interval(0.5, values) == (0.5, None, None)
    assert interval(0.5, values[4:])[1] is None
    value, low, high = interval(0.5, np.linspace(0, 1, 1001))
    assert (value, low, high) == (0.5, pytest.approx(0.025), pytest.approx(0.975))


def test_a_resample_that_misses_a_subgroup_is_undefined_and_not_an_error():
    p = predictions(12, n=60, sites=1)
    w = bootstrap_weights(p.labels, p.sites, 4, 0)
    w[1, p.labels == 1] = 0
    w[2] = 0
    got = evaluate(p, w)
    for metric in ("auc", "auc_pooled", "average_precision", "sensitivity", "balanced_accuracy", "calibration_slope"):
        assert np.isnan(got[metric][1]).tolist() == [False, True, True, False], metric


def test_perfect_separation_has_an_auc_and_no_calibration_slope():
    labels = np.repeat([0, 1], 20)
    s = np.linspace(0.1, 0.9, 40)
    p = Predictions(np.stack([1 - s, s], 1), labels, np.zeros(40), np.full(40, 0.5))
    got = evaluate(p, bootstrap_weights(labels, p.sites, 10, 0))
    assert interval(*got["auc"]) == (1.0, 1.0, 1.0)
    assert interval(*got["calibration_slope"]) == (None, None, None)


def test_paired_difference_is_narrower_than_an_unpaired_one_and_zero_for_equals():
    p = predictions(6)
    noisy = np.clip(p.probs[:, 1] + np.random.default_rng(6).normal(0, 0.05, 240), 0, 1)
    q = Predictions(np.stack([1 - noisy, noisy], 1), p.labels, p.sites, p.thresholds)
    w = bootstrap_weights(p.labels, p.sites, 400, 0)
    assert paired_difference(p, p, w) == (0, 0, 0)
    value, low, high = paired_difference(p, q, w)
    a, b = (evaluate(x, w, ("auc",))["auc"] for x in (p, q))
    assert value == pytest.approx(a[0] - b[0])
    assert low < value < high
    unpaired = a[1] - evaluate(q, bootstrap_weights(p.labels, p.sites, 400, 1), ("auc",))["auc"][1]
    assert high - low < 0.5 * np.subtract(*np.quantile(unpaired, [0.975, 0.025]))
    with pytest.raises(DataError, match="same patients"):
        paired_difference(p, take(p, np.arange(239)), w)


def test_each_site_on_its_own():
    p = predictions(7, n=200, sites=2)
    small = np.r_[np.flatnonzero(p.sites == "site 0"), np.flatnonzero(p.sites == "site 1")[:15]]
    p = take(p, small)
    found = by_site(p, bootstrap_weights(p.labels, p.sites, 50, 0))
    here = p.sites == "site 0"
    assert found["site 0"][0] == pytest.approx(metrics.roc_auc_score(p.labels[here], p.probs[here, 1]))
    assert found["site 1"][0] is None


# 13 trials of BCG vaccine (Colditz et al. 1994): cases and non-cases, vaccinated and not
BCG = np.array(
    [
        [4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619], [33, 5036, 47, 5761],
        [180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892], [29, 7470, 45, 7232], [17, 1699, 65, 1600],
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
    assert (fit.predicted_low, fit.predicted_high) == pytest.approx((-0.7141 - half, -0.7141 + half), abs=2e-4)


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


def test_prior_correction_undoes_class_weights():
    rng = np.random.default_rng(8)
    x = rng.normal(0, 1, (40_000, 1))
    y = (rng.random(40_000) < 1 / (1 + np.exp(3 - x[:, 0]))).astype(int)
    weighted = LogisticRegression(C=1e6, class_weight="balanced").fit(x, y).predict_proba(x)
    plain = LogisticRegression(C=1e6).fit(x, y).predict_proba(x)
    corrected = prior_correct(weighted, np.array([0.5, 0.5]), np.bincount(y) / len(y))
    assert np.abs(corrected - plain).max() < 0.03 < np.abs(weighted - plain).max()
    np.testing.assert_allclose(corrected.sum(1), 1)
    np.testing.assert_allclose(prior_correct(plain, np.array([0.3, 0.7]), np.array([0.3, 0.7])), plain)
    with pytest.raises(UsageError, match="positive training share"):
        prior_correct(plain, np.array([0.0, 1.0]), np.array([0.5, 0.5]))


def test_unknown_labels_are_bounded_by_counting_them_either_way():
    p = predictions(9, sites=1)
    labels = p.labels.copy()
    labels[:20] = -1
    found = unknown_label_bounds(Predictions(p.probs, labels, p.sites, p.thresholds))
    assert found.unknown == 20
    assert found.excluded == pytest.approx(metrics.roc_auc_score(labels[20:], p.probs[20:, 1]))
    assert found.negative == pytest.approx(metrics.roc_auc_score(np.where(labels < 0, 0, labels), p.probs[:, 1]))
    assert found.positive == pytest.approx(metrics.roc_auc_score(np.where(labels < 0, 1, labels), p.probs[:, 1]))


def test_decision_curve_leaves_unknown_labels_out():
    p = predictions(10)
    labels = p.labels.copy()
    labels[:20] = -1
    curve = decision_curve(Predictions(p.probs, labels, p.sites, p.thresholds))
    t, known = curve.thresholds[50], labels >= 0
    called, truth = p.probs[known, 1] >= t, labels[known] == 1
    assert curve.model[50] == pytest.approx((called & truth).mean() - (called & ~truth).mean() * t / (1 - t))


def test_what_does_not_belong_together_is_refused():
    p = predictions(11)
    w = bootstrap_weights(p.labels, p.sites, 3, 0)
    with pytest.raises(UsageError, match="aucc"):
        evaluate(p, w, ("aucc",))
    with pytest.raises(DataError, match="weights have shape"):
        evaluate(p, w[:, 1:])
    with pytest.raises(DataError, match="1 of 240 labels"):
        evaluate(Predictions(p.probs, np.r_[-1, p.labels[1:]], p.sites, p.thresholds), w)
    with pytest.raises(DataError, match="239 sites"):
        Predictions(p.probs, p.labels, p.sites[1:], p.thresholds)
    with pytest.raises(DataError, match="no threshold"):
        Predictions(p.probs, p.labels, p.sites, np.r_[np.nan, p.thresholds[1:]])
