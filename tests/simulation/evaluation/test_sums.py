"""Sums of a simulation: every metric against scikit-learn, every replicate against explicitly
repeated patients."""

import tracemalloc
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from common.data.cohort import UNKNOWN
from common.errors import DataError, RefusedError
from common.metrics.calibration import logit
from common.metrics.definitions import METRICS, from_draws
from server.report.content import model_metrics
from simulation.evaluation import score_tables
from simulation.evaluation.predictions import Comparison, Scores
from simulation.evaluation.sums import Sums

KEY = ("m", "federated", "within_site")
NAMES = [m.name for m in METRICS]
ALONE = ("auc", "macro_auc", "no_information_rate")
"""Metrics that follow from the sites' sums."""


@dataclass(frozen=True)
class Case:
    """One model's predictions, each patient once."""

    probs: np.ndarray
    labels: np.ndarray
    sites: np.ndarray
    thresholds: np.ndarray

    def where(self, rows):
        return Case(self.probs[rows], self.labels[rows], self.sites[rows], self.thresholds[rows])

    @property
    def scores(self):
        return Scores(self.probs, self.thresholds, np.ones(len(self.labels), bool))

    def sums(self, repeats=2, seed=0, **more):
        scored = {KEY: [self.scores], **more}
        return Sums(
            Comparison(self.labels, self.sites, np.zeros(len(self.labels), int), (), scored, {}),
            repeats,
            seed,
        )

    def rows(self, repeats=2, seed=0, site="all"):
        found = model_metrics.results(self.sums(repeats, seed).models(["m"]))
        return {r["metric"]: r for r in found if r["site"] == site}

    def values(self):
        return {name: row["value"] for name, row in self.rows().items()}


def predictions(seed=0, n=240, classes=2, sites=4, digits=2):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.2, (n, classes))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=p) for p in probs])
    # rounded, so that there are ties
    probs = np.round(probs, digits)
    probs[:, 0] = 1 - probs[:, 1:].sum(1)
    site = np.array([f"site {s}" for s in rng.integers(0, sites, n)])
    return Case(np.clip(probs, 0, 1), labels, site, rng.choice([0.4, 0.5], n))


def replicates(sums, mask=None):
    """Metric -> (1 + repeats,)."""
    (scores,) = sums.scores(*KEY)
    mask = np.ones(len(sums.known), bool) if mask is None else mask
    aucs = sums.of([scores], mask)._aucs()[:, 0]
    return {"auc": aucs, "macro_auc": aucs, **from_draws(sums._draws(scores, mask & sums.known))}


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
        slope = (
            LogisticRegression(C=1e10, tol=1e-10, solver="newton-cholesky")
            .fit(x[:, None], y)
            .coef_[0, 0]
        )
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
    got = p.rows(12, seed=3)
    assert set(got) == set(NAMES)
    for metric, value in slowly(p).items():
        assert got[metric]["value"] == pytest.approx(
            value, rel=1e-6 if "slope" in metric else 1e-9
        ), metric
    sums = p.sums(12, seed=3)
    drawn = replicates(sums)
    for b in range(1, 13):
        repeated = p.where(np.repeat(np.arange(240), sums.weights[b].astype(int)))
        for metric, value in slowly(repeated).items():
            if metric != "no_information_rate":
                assert drawn[metric][b] == pytest.approx(
                    value, rel=1e-6 if "slope" in metric else 1e-9
                ), (metric, b)
    for metric, values in drawn.items():
        limits = np.quantile(values[1:], [0.025, 0.975])
        assert (got[metric]["low"], got[metric]["high"]) == pytest.approx(tuple(limits)), metric


def test_many_classes_equal_scikit_learn():
    p = predictions(1, classes=4, sites=1)
    got = p.values()
    y, called = p.labels, p.probs.argmax(1)
    rest = [metrics.recall_score(y != k, called != k) for k in range(4)]
    slopes = []
    for k in range(4):
        model = LogisticRegression(C=1e10, tol=1e-10, solver="newton-cholesky").fit(
            logit(p.probs[:, [k]]), y == k
        )
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
    kept = p.where(np.sort(np.concatenate([np.flatnonzero(p.labels != 2), rare[:9]])))
    got = kept.values()
    aucs = [metrics.roc_auc_score(kept.labels == k, kept.probs[:, k]) for k in (0, 1)]
    recalls = [(kept.probs.argmax(1) == k)[kept.labels == k].mean() for k in (0, 1)]
    assert got["auc"] == pytest.approx(np.mean(aucs))
    assert got["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert got["accuracy"] == pytest.approx((kept.probs.argmax(1) == kept.labels).mean())


def test_interval_covers_the_truth_about_as_often_as_it_says():
    # binormal scores: AUC = Phi(1 / sqrt 2)
    truth, covered = stats.norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], [90, 60])
        s = 1 / (1 + np.exp(-(rng.normal(0, 1, 150) + labels)))
        p = Case(np.stack([1 - s, s], 1), labels, np.zeros(150), np.full(150, 0.5))
        row = p.sums(300, seed).of([p.scores]).row()
        covered += row["low"] <= truth <= row["high"]
    assert 106 <= covered <= 120


@pytest.mark.parametrize("positives", [0, 9, 111, 120])
def test_fewer_than_ten_of_a_class_is_not_estimable(positives):
    labels = (np.arange(120) < positives).astype(np.int64)
    s = np.random.default_rng(0).random(120)
    p = Case(np.stack([1 - s, s], 1), labels, np.zeros(120), np.full(120, 0.5))
    for metric, row in p.rows(20).items():
        assert row["estimable"] is False
        if metric == "no_information_rate":
            assert row["value"] == max(positives, 120 - positives) / 120
        else:
            assert (row["value"], row["low"], row["high"]) == (None, None, None), metric
    assert (
        model_metrics.between_sites(
            [replace(m, name="clinical") for m in p.sums(20).models(["m"])]
        )[0]["estimable_sites"]
        == 0
    )


def test_positives_at_sites_without_negatives_do_not_make_the_within_site_auc_estimable():
    p = predictions(5, n=120, sites=1)
    sites = np.where(p.labels == 1, "only positives", "mixed")
    mixed = np.flatnonzero(p.labels == 1)
    for count, given in ((9, False), (10, True)):
        sites[mixed[:count]] = "mixed"
        got = replace(p, sites=sites).values()
        assert (got["auc"] is not None) == given
        assert got["auc_pooled"] is not None


def test_a_resample_that_misses_a_subgroup_is_undefined_and_not_an_error():
    p = predictions(12, n=60, sites=1)
    sums = p.sums(4)
    sums.weights[2, p.labels == 1] = 0
    sums.weights[3] = 0
    drawn = replicates(sums)
    for metric in (
        "auc",
        "auc_pooled",
        "average_precision",
        "sensitivity",
        "balanced_accuracy",
        "calibration_slope",
    ):
        assert np.isnan(drawn[metric][1:]).tolist() == [False, True, True, False], metric


def test_perfect_separation_has_an_auc_and_no_calibration_slope():
    labels = np.repeat([0, 1], 20)
    s = np.linspace(0.1, 0.9, 40)
    got = Case(np.stack([1 - s, s], 1), labels, np.zeros(40), np.full(40, 0.5)).rows(10)
    assert [got["auc"][k] for k in ("value", "low", "high")] == [1.0, 1.0, 1.0]
    assert [got["calibration_slope"][k] for k in ("value", "low", "high", "estimable")] == [
        None,
        None,
        None,
        False,
    ]


def test_paired_difference_is_narrower_than_an_unpaired_one_and_zero_for_equals():
    p = predictions(6)
    noisy = np.clip(p.probs[:, 1] + np.random.default_rng(6).normal(0, 0.05, 240), 0, 1)
    q = replace(p, probs=np.stack([1 - noisy, noisy], 1))
    sums = p.sums(400, n=[q.scores])
    assert sums.of([p.scores, p.scores]).difference() == (0, 0, 0)
    value, low, high = sums.of([p.scores, q.scores]).difference()
    a, b = (sums.of([x.scores])._aucs()[:, 0] for x in (p, q))
    assert value == pytest.approx(a[0] - b[0])
    assert low < value < high
    unpaired = a[1:] - p.sums(400, seed=1).of([q.scores])._aucs()[1:, 0]
    assert high - low < 0.5 * np.subtract(*np.quantile(unpaired, [0.975, 0.025]))


def test_a_difference_is_of_the_patients_that_both_score():
    p = predictions(13)
    some = np.random.default_rng(0).random(240) < 0.7
    scored = {("m", "pooled", "within_site"): [replace(p.scores, seen=some)]}
    sums = Sums(
        Comparison(p.labels, p.sites, np.zeros(240, int), (), {KEY: [p.scores], **scored}, {}),
        50,
        0,
    )
    (row,) = model_metrics.differences(sums.paired(["m"]))
    assert (row["a"], row["b"], row["n"], row["events"]) == (
        "m federated",
        "m pooled",
        some.sum(),
        p.labels[some].sum(),
    )
    assert row["difference"] == pytest.approx(0)


def test_foreign_models_are_judged_by_the_mean_of_their_figures_each_on_its_own_patients():
    p = predictions(14, n=400, sites=3)
    rng = np.random.default_rng(1)
    foreign = []
    for home in ("site 0", "site 1"):
        s = np.clip(p.probs[:, 1] + rng.normal(0, 0.1, 400), 0, 1)
        foreign.append(Scores(np.stack([1 - s, s], 1), p.thresholds, p.sites != home))
    left_out = "leave_one_site_out"
    scored = {("m", "federated", left_out): [p.scores], ("m", "local", left_out): foreign}
    sums = Sums(Comparison(p.labels, p.sites, np.zeros(400, int), (), scored, {}), 100, 0)
    (local,) = [m for m in sums.models(["m"]) if m.arm == "local"]
    rows = {(r["site"], r["metric"]): r for r in model_metrics.results([local])}
    apart = [p.where(s.seen) for s in foreign]
    apart = [replace(c, probs=s.probs[s.seen]) for c, s in zip(apart, foreign, strict=True)]
    for metric, value in slowly(apart[0]).items():
        mean = (value + slowly(apart[1])[metric]) / 2
        assert rows["all", metric]["value"] == pytest.approx(
            mean, rel=1e-6 if "slope" in metric else 1e-9
        ), metric
        assert rows["all", metric]["n"] == 400
    here = apart[1].where(apart[1].sites == "site 0")
    assert rows["site 0", "auc"]["value"] == pytest.approx(slowly(here)["auc"])
    assert model_metrics.between_sites([replace(local, name="clinical")]) == []
    # the federated model beside each of them, on that one's patients
    (row,) = model_metrics.differences(sums.paired(["m"]))
    federated = [slowly(p.where(s.seen))["auc"] for s in foreign]
    assert row["difference"] == pytest.approx(np.mean(federated) - rows["all", "auc"]["value"])
    assert row["low"] < row["difference"] < row["high"]


def test_each_site_on_its_own():
    p = predictions(7, n=200, sites=2)
    p = p.where(
        np.r_[np.flatnonzero(p.sites == "site 0"), np.flatnonzero(p.sites == "site 1")[:15]]
    )
    here = p.sites == "site 0"
    assert p.rows(site="site 0")["auc"]["value"] == pytest.approx(
        metrics.roc_auc_score(p.labels[here], p.probs[here, 1])
    )
    assert p.rows(site="site 1")["auc"]["value"] is None


def test_unknown_labels_are_bounded_by_counting_them_either_way():
    p = predictions(9, sites=1)
    labels = p.labels.copy()
    labels[:20] = UNKNOWN
    (found,) = replace(p, labels=labels).sums().unknown_labels("m")
    assert found["unknown"] == 20
    assert found["excluded"] == pytest.approx(metrics.roc_auc_score(labels[20:], p.probs[20:, 1]))
    assert found["negative"] == pytest.approx(
        metrics.roc_auc_score(np.where(labels < 0, 0, labels), p.probs[:, 1])
    )
    assert found["positive"] == pytest.approx(
        metrics.roc_auc_score(np.where(labels < 0, 1, labels), p.probs[:, 1])
    )


def test_decision_curve_leaves_unknown_labels_out():
    p = predictions(10)
    labels = p.labels.copy()
    labels[:20] = UNKNOWN
    (row,) = model_metrics.curves(replace(p, labels=labels).sums().models(["m"]))
    t, known = row["decision"]["thresholds"][50], labels >= 0
    called, truth = p.probs[known, 1] >= t, labels[known] == 1
    expected = (called & truth).mean() - (called & ~truth).mean() * t / (1 - t)
    assert row["decision"]["model"][50] == pytest.approx(expected, abs=1e-5)


def test_what_does_not_belong_together_is_refused():
    p = predictions(11)
    marks = np.ones(240, bool)
    with pytest.raises(DataError, match="239 thresholds"):
        Scores(p.probs, p.thresholds[1:], marks)
    with pytest.raises(DataError, match="no threshold"):
        Scores(p.probs, np.r_[np.nan, p.thresholds[1:]], marks)
    with pytest.raises(RefusedError, match="do not sum to 1"):
        Scores(p.probs * 0.9, p.thresholds, marks)
    with pytest.raises(RefusedError, match="none of 2 classes"):
        replace(p, labels=np.where(np.arange(240) == 3, 2, p.labels)).rows()


@pytest.mark.parametrize("classes", [2, 3])
def test_blocks_of_any_size_give_the_figures_of_one(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts of patients to the bit; what BLAS adds in another order, to its last digits."""
    case = predictions(n=300, classes=classes)
    whole = replicates(case.sums(repeats=150))
    monkeypatch.setattr(score_tables, "MOST", 1)
    sums = case.sums(repeats=150)
    assert len(score_tables.Blocks(sums.weights, np.arange(300))) == 10
    blocks = replicates(sums)
    assert blocks.keys() == whole.keys()
    for name, values in whole.items():
        if name in ("brier", "log_loss", "calibration_slope", "calibration_intercept"):
            np.testing.assert_allclose(blocks[name], values, rtol=1e-9)
        else:
            np.testing.assert_array_equal(blocks[name], values)


def test_memory_does_not_grow_with_patients_times_resamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for how often each patient was drawn, which is one number for all figures."""
    monkeypatch.setattr(score_tables, "MOST", 2**16)
    case = predictions(n=4000)
    sums = case.sums(repeats=400)
    drawn = sums.weights.nbytes
    tracemalloc.start()
    try:
        replicates(sums)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < drawn
