"""A ranking is read as a verdict: what may not be ranked is not, and an order within intervals is
said to be none."""

import pytest

from server.report.content.index import Index
from server.report.page import page
from server.report.page.ranking import ranking
from tests.server.report.made_report import make
from tests.server.report.page.test_page import text_of


def report(**values):
    """model -> (value, low, high, n) of the AUC, federated, within sites."""
    rows = []
    for m, (value, low, high, n) in values.items():
        head = {
            "model": m,
            "arm": "federated",
            "evaluation": "within_site",
            "site": "all",
            "n": n,
            "events": 20,
            "estimable": value is not None,
        }
        rows.append({**head, "metric": "auc", "value": value, "low": low, "high": high})
        rows.append({**head, "metric": "accuracy", "value": value, "low": low, "high": high})
        rows.append(
            {**head, "metric": "no_information_rate", "value": 0.84, "low": 0.84, "high": 0.84}
        )
    return {"results": rows}


def test_by_auc_and_never_what_is_not_estimable():
    made = report(
        a=(0.7, 0.6, 0.8, 100),
        b=(0.8, 0.75, 0.85, 100),
        c=(None, None, None, 100),
        d=(0.99, 0.9, 1.0, 28),
    )
    out = ranking(Index(made), "within_site")
    assert [name for _, name, _ in out["lines"]] == ["b", "a"]
    assert dict(out["apart"])["c"] == "not estimable, not ranked"
    assert "on 28 patients instead of 100: not ranked" in dict(out["apart"])["d"]


@pytest.mark.parametrize(
    ("low", "said"), [(0.6, "does not show that it is better"), (0.81, "overlaps with no other's")]
)
def test_an_overlap_is_said(low, said):
    out = ranking(Index(report(a=(0.7, 0.6, 0.8, 100), b=(0.85, low, 0.9, 100))), "within_site")
    assert said in out["overlap"]


def test_accuracy_stands_beside_the_no_information_rate_wherever_it_is():
    out = ranking(Index(report(a=(0.7, 0.6, 0.8, 100), b=(0.85, 0.8, 0.9, 100))), "within_site")
    best = {b["metric"]: b for b in out["best"]}
    assert "no-information rate 0.840" in best["Accuracy"]["value"]
    accuracy = out["figures"][-1]
    assert "against a no-information rate of 0.840" in accuracy.text
    assert "rival" in accuracy.svg


def test_a_slope_is_best_nearest_to_one():
    made = make()
    for r in made["results"]:
        if (
            r["metric"] == "calibration_slope"
            and r["arm"] == "federated"
            and r["site"] == "all"
            and r["evaluation"] == "within_site"
        ):
            r["value"] = {"clinical": 1.4, "logistic": 0.9, "boosting": 0.5}[r["model"]]
    best = {b["metric"]: b["model"] for b in ranking(Index(made), "within_site")["best"]}
    assert best["Calibration slope"] == "Logistic regression"


def test_nothing_estimable_nothing_ranked():
    text = text_of(page.render(make(estimable=0)))
    assert "No model is estimable, so none is ranked" in text
