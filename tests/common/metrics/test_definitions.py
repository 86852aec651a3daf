"""One table of metrics: the report's schema has its names, and what follows from sums alone equals
scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from common.metrics.calibration import logit
from common.metrics.definitions import METRICS, Draws, ScoreTable, from_draws
from common.metrics.estimability import estimable, judged, judged_in_pairs
from common.metrics.score_histogram import middles, score_histogram
from tests.paths import ROOT

BY_DRAWS = {m.name for m in METRICS if m.source in ("scores", "calls", "losses")}


def test_the_schema_of_the_report_knows_the_same_metrics() -> None:
    schema = json.loads((ROOT / "docs/report.schema.json").read_text())
    assert set(schema["$defs"]["result"]["properties"]["metric"]["enum"]) == {
        m.name for m in METRICS
    }
    assert len({m.name for m in METRICS}) == len(METRICS)
    assert {m.best for m in METRICS} == {"high", "low", "one", "zero", ""}


def test_a_histogram_and_confusion_counts_give_what_scikit_learn_gives_on_the_middles_of_the_bins() -> (
    None
):
    rng = np.random.default_rng(0)
    truth = rng.random(400) < 0.3
    middle = middles()
    score = middle[rng.integers(0, 1000, 400)] * 0.5 + 0.3 * truth
    histogram = score_histogram(score, truth)
    score = np.repeat(np.tile(middle, 2), histogram.T.ravel())
    truth = np.repeat([False, True], histogram.sum(0))
    confusion = metrics.confusion_matrix(truth, score >= 0.4)
    found = from_draws(
        Draws(
            confusion[None].astype(float),
            {1: ScoreTable(logit(middle), [histogram[None].astype(float)])},
        )
    )
    assert set(found) == BY_DRAWS
    slope = (
        LogisticRegression(C=1e10, tol=1e-10, solver="newton-cholesky")
        .fit(logit(score)[:, None], truth)
        .coef_[0, 0]
    )
    expected = {
        "auc_pooled": metrics.roc_auc_score(truth, score),
        "average_precision": metrics.average_precision_score(truth, score),
        "calibration_slope": slope,
        "sensitivity": metrics.recall_score(truth, score >= 0.4),
        "f1": metrics.f1_score(truth, score >= 0.4),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, score >= 0.4),
    }
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, rel=1e-6), name
    assert np.isnan(found["brier"]).all(), "nobody told the losses"


def test_what_is_estimable_is_one_rule() -> None:
    assert [estimable([a, b]) for a, b in ((10, 10), (9, 50), (50, 9), (0, 0))] == [
        True,
        False,
        False,
        False,
    ]
    assert estimable([5, 10, 10])
    assert not estimable([5, 5, 10])
    assert judged([10, 10]) == [1]
    assert judged([9, 50]) == []
    assert judged([10, 9, 40]) == [0, 2]
    few = from_draws(Draws(np.array([[[9.0, 0], [0, 50]]]), {}))
    assert set(few) == BY_DRAWS
    assert all(np.isnan(v).all() for v in few.values())


def test_patients_without_a_partner_at_their_own_site_do_not_count() -> None:
    counts = np.array([[30, 0], [20, 9]])
    pairs = counts[:, [0]] * counts[:, [1]]
    assert judged_in_pairs(counts, pairs) == []
    more = np.array([[30, 5], [20, 9]])
    assert judged_in_pairs(more, more[:, [0]] * more[:, [1]]) == [1]
