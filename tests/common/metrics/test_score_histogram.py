import functools
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from common.errors import RefusedError
from common.metrics import score_histogram
from common.metrics.score_histogram import Tally


def sample(seed, n=300, classes=2, spread=1.5):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, classes))
    logits[:, 0] += 1.0
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=p) for p in probs])
    labels[:classes] = np.arange(classes)
    return probs, labels


scores = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 1.0])), st.booleans()),
    min_size=2,
    max_size=80,
).filter(lambda rows: len({truth for _, truth in rows}) == 2)


@settings(deadline=None)
@given(scores, st.sampled_from([1, 2, 7, 50, 1000]))
def test_binned_auc_lies_within_its_bound_of_the_raw_auc(rows, bins):
    score, truth = np.array([s for s, _ in rows]), np.array([t for _, t in rows])
    h = score_histogram.score_histogram(score, truth, bins)
    assert h.sum() == len(rows)
    assert (
        abs(score_histogram.auc(h) - metrics.roc_auc_score(truth, score))
        <= score_histogram.auc_bound(h) + 1e-12
    )


def test_bound_is_small_on_the_default_grid_and_total_with_one_bin():
    probs, labels = sample(0)
    assert (
        score_histogram.auc_bound(score_histogram.score_histogram(probs[:, 1], labels == 1)) < 0.002
    )
    assert (
        score_histogram.auc_bound(score_histogram.score_histogram(probs[:, 1], labels == 1, 1))
        == 0.5
    )


@pytest.mark.parametrize("bins", [1, 2, 5, 10, 999, 1000])
def test_edges_rise_from_0_to_1_and_are_symmetric(bins):
    e = score_histogram.edges(bins)
    assert (e[0], e[-1], len(e)) == (0, 1, bins + 1)
    assert (np.diff(e) > 0).all()
    np.testing.assert_allclose(e + e[::-1], 1, atol=1e-12)
    # every edge opens its own bin
    assert (score_histogram.score_histogram(e[:-1], np.zeros(bins, bool), bins)[:, 0] == 1).all()


def test_curves_equal_scikit_learn_on_the_binned_scores():
    probs, labels = sample(1)
    truth = labels == 1
    h = score_histogram.score_histogram(probs[:, 1], truth)
    binned = score_histogram.edges()[
        np.searchsorted(score_histogram.edges(), probs[:, 1], "right") - 1
    ]
    assert score_histogram.auc(h) == pytest.approx(metrics.roc_auc_score(truth, binned), abs=1e-12)
    assert score_histogram.average_precision(h) == pytest.approx(
        metrics.average_precision_score(truth, binned), abs=1e-12
    )
    roc = score_histogram.roc(h)
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(score_histogram.auc(h), abs=1e-12)
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    for t in (roc.thresholds[400], roc.thresholds[700]):
        i = int(np.flatnonzero(roc.thresholds == t)[0])
        assert roc.y[i] == pytest.approx(metrics.recall_score(truth, probs[:, 1] >= t))
    pr = score_histogram.precision_recall(h)
    i = len(pr.thresholds) // 2
    assert pr.y[i] == pytest.approx(metrics.precision_score(truth, probs[:, 1] >= pr.thresholds[i]))


def test_youden_takes_the_best_edge_and_the_lowest_of_equals():
    probs, labels = sample(3)
    truth = labels == 1
    h = score_histogram.score_histogram(probs[:, 1], truth)
    js = [
        (probs[truth, 1] >= e).mean() - (probs[~truth, 1] >= e).mean()
        for e in score_histogram.edges()[:-1]
    ]
    best = score_histogram.youden(h)
    assert best.sensitivity + best.specificity - 1 == pytest.approx(max(js))
    called = probs[:, 1] >= best.threshold
    assert [[best.tn, best.fp], [best.fn, best.tp]] == metrics.confusion_matrix(
        truth, called
    ).tolist()
    assert best.sensitivity == pytest.approx(metrics.recall_score(truth, called))
    assert best.specificity == pytest.approx(metrics.recall_score(~truth, ~called))
    clean = score_histogram.score_histogram(np.array([0.1, 0.9]), np.array([False, True]), 10)
    assert (
        score_histogram.youden(clean).threshold
        == score_histogram.edges(10)[np.searchsorted(score_histogram.edges(10), 0.1)]
    )


def test_decision_curve_is_the_net_benefit_of_acting():
    probs, labels = sample(4)
    truth = labels == 1
    curve = score_histogram.decision_curve(score_histogram.score_histogram(probs[:, 1], truth))
    for i in (3, len(curve.thresholds) // 2):
        t = curve.thresholds[i]
        called, odds = probs[:, 1] >= t, t / (1 - t)
        assert curve.model[i] == pytest.approx(
            (called & truth).mean() - (called & ~truth).mean() * odds
        )
        assert curve.treat_all[i] == pytest.approx(truth.mean() - (1 - truth.mean()) * odds)
    assert not curve.treat_none.any()
    assert curve.thresholds[0] >= 0.01
    assert curve.thresholds[-1] <= 0.99


@settings(max_examples=100, deadline=None)
@given(
    patients=st.integers(2, 300),
    least=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.01, 1.0, 8.0]),
)
def test_between_points_of_any_drawn_curves_are_enough_patients(
    patients: int, least: int, seed: int, spread: float
) -> None:
    """Those of all curves together, for a difference of two curves tells as much as one of two
    points; and what is drawn lies on the curve of single patients."""
    r = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-spread * r.normal(size=patients)))
    truth = r.random(patients) < 0.4
    truth[:2] = [True, False]
    h = score_histogram.score_histogram(scores, truth)
    curves = [score_histogram.roc(h, least), score_histogram.precision_recall(h, least)]
    thresholds = [c.thresholds for c in curves if c is not None]
    decision = score_histogram.decision_curve(h, least=least)
    assert decision is not None
    cuts = np.concatenate([*thresholds, decision.thresholds])
    groups = np.bincount(score_histogram.cells(h, least), h.sum(1))
    called = [int((scores >= t).sum()) for t in np.unique(cuts)]
    called += [int(n) for n in np.cumsum(groups[::-1])]
    steps = np.diff(np.unique([0, *called, patients]))
    assert (steps >= min(least, patients)).all()
    whole, drawn = score_histogram.roc(h), curves[0]
    assert whole is not None
    assert drawn is not None
    assert {*zip(drawn.x, drawn.y, strict=True)} <= {*zip(whole.x, whole.y, strict=True)}
    assert (drawn.x[0], drawn.y[0], drawn.x[-1], drawn.y[-1]) == (0, 0, 1, 1)
    if least == 1:
        for a, b in zip(whole, drawn, strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_class_gives_none_and_never_a_number():
    h = score_histogram.score_histogram(np.array([0.2, 0.7]), np.array([True, True]))
    assert score_histogram.auc(h) is None
    assert score_histogram.auc_bound(h) is None
    assert score_histogram.roc(h) is None
    assert score_histogram.youden(h) is None
    assert np.isnan(score_histogram.average_precision(h[:, ::-1]))
    assert score_histogram.decision_curve(np.zeros((1000, 2))) is None


def test_within_site_pairs_ignore_what_the_site_explains():
    # the score names the site and says nothing within it; one site has a single class
    score = np.array([0.2] * 10 + [0.8] * 10 + [0.99] * 5)
    truth = np.array([True] + [False] * 9 + [True] * 9 + [False] + [True] * 5)
    site = np.array([0] * 10 + [1] * 10 + [2] * 5)
    stack = np.stack(
        [score_histogram.score_histogram(score[site == s], truth[site == s]) for s in range(3)]
    )
    concordant, pairs, _ = score_histogram.pair_counts(stack).sum(0)
    assert (concordant / pairs, pairs) == (0.5, 18)
    pooled = score_histogram.auc(stack.sum(0))
    assert pooled == pytest.approx(metrics.roc_auc_score(truth, score))
    assert pooled > 0.85


def test_within_site_auc_weighs_sites_by_their_pairs():
    probs, labels = sample(5)
    site = np.random.default_rng(5).integers(0, 4, len(labels))
    stack = np.stack(
        [
            score_histogram.score_histogram(probs[site == s, 1], labels[site == s] == 1)
            for s in range(4)
        ]
    )
    aucs = [metrics.roc_auc_score(labels[site == s] == 1, probs[site == s, 1]) for s in range(4)]
    weights = [(labels[site == s] == 1).sum() * (labels[site == s] == 0).sum() for s in range(4)]
    concordant, pairs, tied = score_histogram.pair_counts(stack).sum(0)
    assert abs(concordant / pairs - np.average(aucs, weights=weights)) <= tied / 2 / pairs + 1e-12


@given(
    st.integers(0, 1000), st.integers(2, 4), st.lists(st.integers(0, 4), min_size=40, max_size=40)
)
@settings(max_examples=40, deadline=None)
def test_any_partition_gives_the_same_tally(seed, classes, parts):
    probs, labels = sample(seed, 40, classes)
    labels[7] = -1
    whole, at = Tally.of(probs, labels), np.array(parts)
    summed = functools.reduce(
        operator.add, [Tally.of(probs[at == k], labels[at == k]) for k in range(5)]
    )
    for name, array in whole.arrays().items():
        np.testing.assert_allclose(summed.arrays()[name], array, rtol=1e-12)
        assert summed.arrays()[name].dtype == array.dtype
    assert whole.n == 39


@pytest.mark.parametrize("classes", [2, 3])
def test_tally_equals_scikit_learn(classes):
    probs, labels = sample(6, 300, classes)
    t = Tally.from_arrays(Tally.of(probs, labels).arrays())
    assert t.confusion.tolist() == metrics.confusion_matrix(labels, probs.argmax(1)).tolist()
    assert t.mean_log_loss == pytest.approx(metrics.log_loss(labels, probs), rel=1e-12)
    brier = (
        metrics.brier_score_loss(labels, probs[:, 1])
        if classes == 2
        else metrics.brier_score_loss(labels, probs)
    )
    assert t.mean_brier == pytest.approx(brier, rel=1e-12)
    assert t.class_counts.tolist() == np.bincount(labels).tolist()


def test_nobody_is_a_zero_of_the_sum():
    probs, labels = sample(7)
    nobody = Tally.of(np.empty((0, 2)), np.empty(0, np.int64))
    assert nobody.mean_brier is None
    joined = Tally.of(probs, labels) + nobody
    assert all(
        np.array_equal(v, joined.arrays()[k]) for k, v in Tally.of(probs, labels).arrays().items()
    )


@pytest.mark.parametrize(
    ("probs", "labels", "word"),
    [
        (
            np.array([[0.5, 0.5], [np.nan, 0.5]]),
            np.array([0, 1]),
            "1 of 2 rows hold no probability",
        ),
        (np.array([[1.2, -0.2]]), np.array([0]), "row 0"),
        (np.array([[0.5, 0.4]]), np.array([0]), "do not sum to 1"),
        (np.array([[0.5, 0.5]]), np.array([2]), "none of 2 classes"),
        (np.array([0.5, 0.5]), np.array([0, 1]), "shape"),
    ],
)
def test_what_is_no_distribution_is_refused(probs, labels, word):
    with pytest.raises(RefusedError, match=word) as caught:
        Tally.of(probs, labels)
    assert caught.value.code == "P02"


def test_scores_outside_the_unit_interval_are_refused_and_rounding_is_not():
    with pytest.raises(RefusedError, match="P02"):
        score_histogram.score_histogram(np.array([0.1, 1.1]), np.array([True, False]))
    h = score_histogram.score_histogram(np.array([-1e-17, 1 + 1e-15]), np.array([True, False]))
    assert (h[0, 1], h[-1, 0]) == (1, 1)


def test_altered_tallies_are_refused():
    arrays = Tally.of(*sample(8)).arrays()
    with pytest.raises(RefusedError, match="holds"):
        Tally.from_arrays({k: v for k, v in arrays.items() if k != "n"})
    with pytest.raises(RefusedError, match=r"'confusion'|'histogram'"):
        Tally.from_arrays({**arrays, "confusion": np.zeros((3, 3))})
    with pytest.raises(RefusedError, match="not finite"):
        Tally.from_arrays({**arrays, "brier": np.array(np.inf)})
    with pytest.raises(RefusedError, match="cannot be added"):
        _ = Tally.of(*sample(8)) + Tally.of(*sample(8), bins=10)
