"""Guards E01 to E08 and E11: what the report must refuse to say, and its figures worked out again
from what was written."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from common.data.cohort import UNKNOWN, Cohort, Fold
from common.metrics.definitions import METRICS
from common.metrics.resampling import bootstrap_weights
from common.metrics.score_histogram import youden
from server.app import Outcome
from server.report.content import federated_sums, model_metrics
from simulation.__main__ import parser
from simulation.evaluation import split_checks
from simulation.evaluation.predictions import Comparison
from simulation.evaluation.sums import Sums
from simulation.federation.setting import Setting
from simulation.phantom.colorectal import writer
from simulation.report import record, terminal
from tests.guards.drill import PARTS, STUDY, Done, begin, command, judge, people, train

MODELS, ARMS = ("clinical", "logistic", "boosting"), ("local", "federated", "pooled")
SILENT = ("Cedar", "Dogwood")
"""One class, and three events."""

Row = dict[str, Any]


def rows_of(done: Done, **keys: str) -> list[Row]:
    return [r for r in done.report["results"] if all(r[k] == v for k, v in keys.items())]


def one(done: Done, **keys: str) -> Row:
    (row,) = rows_of(done, **keys)
    return row


@dataclasses.dataclass(frozen=True)
class Written:
    """`predictions.tsv` of all sites: labels (n,), sites (n,), and column -> (n, classes), NaN
    where there is no prediction."""

    patients: list[str]
    labels: np.ndarray
    sites: np.ndarray
    probs: Mapping[str, np.ndarray]

    def known(self, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score of the event, truth, site of the labelled patients that have a prediction."""
        p = self.probs[column]
        keep = (self.labels != UNKNOWN) & ~np.isnan(p[:, 1])
        return p[keep, 1], self.labels[keep], self.sites[keep]


@pytest.fixture(scope="module")
def written(whole: Done) -> Written:
    names = {s["name"] for s in whole.report["sites"]}
    patients, labels, sites = [], [], []
    probs: dict[str, list[list[float]]] = {}
    for path in sorted((whole.folder / "sites").glob(f"*/{split_checks.FILE}")):
        site = next(n for n in names if path.parent.name.endswith(n.lower()))
        with path.open(newline="", encoding="utf-8") as f:
            for line in csv.DictReader(f, delimiter="\t"):
                patients.append(line["patient"])
                labels.append(int(line["label"]))
                sites.append(site)
                for column in line:
                    if "|" in column:
                        probs.setdefault(column, []).append(
                            [float(x) for x in line[column].split()] or [np.nan, np.nan]
                        )
    return Written(
        patients, np.array(labels), np.array(sites), {k: np.array(v) for k, v in probs.items()}
    )


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Setting, Outcome, list[Cohort], Comparison]:
    setting = begin(
        tmp_path_factory.mktemp("trained") / "town",
        people(),
        "--learners",
        "logistic,boosting",
        "--set",
        "boosting.trees=2",
    )
    outcome = train(setting)
    return setting, outcome, *judge(setting, outcome)


# ---- E01 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SILENT)
def test_e01_nothing_is_estimated_from_one_class_or_a_few_events(whole: Done, site: str) -> None:
    rows = rows_of(whole, site=site)
    assert {(r["model"], r["arm"]) for r in rows} == {(m, a) for m in MODELS for a in ARMS}
    for r in rows:
        assert r["estimable"] is False
        assert r["events"] < 10
        if r["metric"] != "no_information_rate":
            assert (r["value"], r["low"], r["high"]) == (None, None, None), r


def test_e01_the_others_are_estimated(whole: Done) -> None:
    for site in ("Ash", "Beech", "all"):
        row = one(
            whole,
            model="clinical",
            arm="federated",
            evaluation="within_site",
            site=site,
            metric="auc",
        )
        assert row["estimable"] is True
        assert row["low"] < row["value"] < row["high"]


@pytest.mark.parametrize("site", SILENT)
def test_e01_the_terminal_says_not_estimable(whole: Done, site: str) -> None:
    lines = [line for line in whole.said.splitlines() if line.startswith(f"│ {site}")]
    compared = [line for line in lines if "not estimable" in line]
    assert len(compared) == 2  # within site, leave one site out
    assert all("0." not in line for line in compared)


def test_e01_the_terminal_gives_no_figure_where_there_is_none() -> None:
    row = {
        "model": "m",
        "arm": "federated",
        "site": "S",
        "value": None,
        "low": None,
        "high": None,
        "n": 12,
        "estimable": False,
    }
    assert terminal._cell([row], "m", "federated", "S") == "not estimable"
    assert terminal._cell([row | {"n": 0}], "m", "federated", "S") == "no model"


def test_e01_the_page_says_not_estimable(whole: Done) -> None:
    import re

    page = (whole.folder / "report.html").read_text(encoding="utf-8")
    for site in SILENT:
        lines = re.findall(rf"<tr>\s*<t[hd][^>]*>\s*{site}\b.*?</tr>", page, re.DOTALL)
        assert any("not estimable" in line for line in lines), site


def test_e01_a_site_that_is_not_estimable_is_never_ranked_nor_left_out_alone(whole: Done) -> None:
    for row in whole.report["between_sites"]:
        assert row["worst_site"] not in SILENT
        assert row["estimable_sites"] == 2
        assert (
            row["random_effects"] is None
        )  # fewer than three sites say nothing about their spread
    assert whole.report["groups"] == [["Ash"], ["Beech"], list(SILENT)]


@pytest.mark.parametrize(("events", "can"), [(9, False), (10, True)])
def test_e01_ten_of_each_class(
    trained: tuple[Setting, Outcome, list[Cohort], Comparison],
    monkeypatch: pytest.MonkeyPatch,
    events: int,
    can: bool,
) -> None:
    *_, comparison = trained
    labels = comparison.labels.copy()
    beech = np.flatnonzero(comparison.sites == "Beech")
    labels[beech] = 0
    labels[beech[:events]] = 1
    found = model_metrics.results(
        Sums(dataclasses.replace(comparison, labels=labels), 100, 0).models(["logistic"])
    )
    (row,) = (
        r
        for r in found
        if (r["arm"], r["evaluation"], r["site"], r["metric"])
        == ("federated", "within_site", "Beech", "auc")
    )
    assert row["events"] == events
    assert row["estimable"] is can
    assert (row["value"] is not None) is can


def test_e01_accuracy_stands_beside_the_no_information_rate(whole: Done) -> None:
    for model in MODELS:
        rate = one(
            whole,
            model=model,
            arm="federated",
            evaluation="within_site",
            site="all",
            metric="no_information_rate",
        )
        assert rate["value"] == pytest.approx(1 - rate["events"] / rate["n"])
        assert one(
            whole,
            model=model,
            arm="federated",
            evaluation="within_site",
            site="all",
            metric="accuracy",
        )["estimable"]


# ---- E02 -----------------------------------------------------------------------------------------


def test_e02_each_patient_is_predicted_exactly_once(whole: Done, written: Written) -> None:
    assert len(set(written.patients)) == len(written.patients) == whole.report["flow"]["kept"]
    for model in MODELS:
        for arm in ("federated", "pooled"):
            for evaluation in ("within_site", "leave_one_site_out"):
                p = written.probs[f"{model}|{arm}|{evaluation}"]
                assert np.isfinite(p).all()
                assert p.sum(axis=1) == pytest.approx(1)
        local = written.probs[f"{model}|local|within_site"]
        assert (
            set(written.sites[np.isfinite(local[:, 1])])
            == set(whole.report["trainable_sites"])
            == {"Ash", "Beech"}
        )


def test_e02_the_prediction_of_a_part_is_that_of_the_model_without_it(
    trained: tuple[Setting, Outcome, list[Cohort], Comparison],
) -> None:
    setting, outcome, sites, comparison = trained
    (head, _) = setting.run.heads(setting.study)
    (within,), (left_out,) = (
        comparison.scores["logistic", "federated", e] for e in ("within_site", "leave_one_site_out")
    )
    at = 0
    for c in sites:
        mine = slice(at, at + len(c))
        for part in range(PARTS):
            inside = c.parts(setting.run.seed, PARTS) == part
            expected = head.predict(outcome.states[Fold(parts=(part,))], c)[inside]  # type: ignore[attr-defined]
            assert np.array_equal(within.probs[mine][inside], expected)
        group = next(
            f for f in setting.run.folds(outcome.groups) if c.site in f.sites and not f.parts
        )
        assert np.array_equal(left_out.probs[mine], head.predict(outcome.states[group], c))  # type: ignore[attr-defined]
        at += len(c)


def pairs_within_sites(score: np.ndarray, truth: np.ndarray, sites: np.ndarray) -> float:
    """scikit-learn's AUC of each site, weighted by its pairs of an event and a non-event."""
    from sklearn.metrics import roc_auc_score

    total = weight = 0.0
    for site in set(sites):
        here = sites == site
        pairs = float((truth[here] == 1).sum() * (truth[here] == 0).sum())
        if pairs:
            total += pairs * roc_auc_score(truth[here], score[here])
            weight += pairs
    return total / weight


@pytest.mark.parametrize("evaluation", ["within_site", "leave_one_site_out"])
@pytest.mark.parametrize("model", MODELS)
def test_e02_the_headline_is_the_share_of_pairs_within_sites(
    whole: Done, written: Written, model: str, evaluation: str
) -> None:
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    for arm in ("federated", "pooled"):
        score, truth, sites = written.known(f"{model}|{arm}|{evaluation}")
        keys = {"model": model, "arm": arm, "evaluation": evaluation, "site": "all"}
        expected = {
            "auc": pairs_within_sites(score, truth, sites),
            "auc_pooled": roc_auc_score(truth, score),
            "average_precision": average_precision_score(truth, score),
            "brier": brier_score_loss(truth, score),
            "log_loss": log_loss(truth, score),
        }
        for metric, value in expected.items():
            assert one(whole, **keys, metric=metric)["value"] == pytest.approx(value, abs=2e-6), (
                metric
            )
        assert expected["auc"] != pytest.approx(expected["auc_pooled"], abs=1e-4)
        for site in ("Ash", "Beech"):
            here = sites == site
            assert one(whole, **{**keys, "site": site}, metric="auc")["value"] == pytest.approx(
                roc_auc_score(truth[here], score[here]), abs=2e-6
            )


def test_e02_small_sites_pooled_into_one_are_not_left_out_alone_however_many_events_they_have(
    tmp_path: Path,
) -> None:
    """`other` goes with the sites that are not estimable, as decision 7 says."""
    rows = people(sizes={"Ash": 60, "Beech": 60, "Cedar": 60, "Elm": 34, "Fir": 34})
    setting = begin(tmp_path / "town", rows, "--minimum-site", "40")
    outcome = train(setting)
    assert setting.parted.pooled_site == "other"
    assert sum(row["spread"] == "1" for row in rows if row["hospital"] in ("Elm", "Fir")) >= 10
    assert outcome.groups == (("Ash",), ("Beech",), ("Cedar", "other"))


# ---- E03 -----------------------------------------------------------------------------------------


def test_e03_resamples_keep_the_classes_of_every_site(
    trained: tuple[Setting, Outcome, list[Cohort], Comparison],
) -> None:
    *_, comparison = trained
    known = comparison.labels != UNKNOWN
    labels, sites = comparison.labels[known], comparison.sites[known]
    weights = bootstrap_weights(labels, sites, 50, 0)
    assert (weights.std(axis=0) > 0).sum() > len(labels) / 2
    for site in set(sites):
        for k in (0, 1):
            mine = (sites == site) & (labels == k)
            assert (weights[:, mine].sum(axis=1) == mine.sum()).all()


def test_e03_a_thousand_resamples_unless_told_otherwise_and_the_report_says_what_they_mean(
    whole: Done,
) -> None:
    assert parser().parse_args([]).bootstraps == 1000
    assert whole.report["bootstraps"] == 100
    assert "models fixed" in whole.report["interval"]
    assert "within site and class" in whole.report["interval"]


def test_e03_differences_are_of_the_same_patients(whole: Done, written: Written) -> None:
    difference = {(d["a"], d["b"], d["evaluation"]): d for d in whole.report["differences"]}
    d = difference["clinical federated", "clinical local", "within_site"]
    score, truth, sites = written.known("clinical|local|within_site")
    have = np.isfinite(written.probs["clinical|local|within_site"][:, 1]) & (
        written.labels != UNKNOWN
    )
    federated = written.probs["clinical|federated|within_site"][have, 1]
    assert d["difference"] == pytest.approx(
        pairs_within_sites(federated, truth, sites) - pairs_within_sites(score, truth, sites),
        abs=2e-6,
    )
    assert (d["n"], d["events"], d["sites"]) == (len(truth), int(truth.sum()), 2)
    assert d["low"] <= d["difference"] <= d["high"]
    same = difference["logistic federated", "logistic pooled", "within_site"]
    assert same["difference"] == pytest.approx(0, abs=1e-9)
    assert same["high"] - same["low"] == pytest.approx(0, abs=1e-9)


# ---- E04, E05 ------------------------------------------------------------------------------------


def test_e04_calibration_stands_in_the_report(whole: Done, written: Written) -> None:
    from sklearn.linear_model import LogisticRegression

    score, truth, _ = written.known("logistic|federated|within_site")
    keys = {"model": "logistic", "arm": "federated", "evaluation": "within_site", "site": "all"}
    x = np.log(score / (1 - score))[:, None]
    fit = LogisticRegression(C=np.inf, tol=1e-8).fit(x, truth)
    slope = one(whole, **keys, metric="calibration_slope")
    assert slope["value"] == pytest.approx(fit.coef_[0, 0], abs=1e-3)
    assert slope["low"] < slope["value"] < slope["high"]
    intercept = one(whole, **keys, metric="calibration_intercept")["value"]
    # with the slope held at 1, the intercept makes the mean prediction the observed share
    assert (1 / (1 + np.exp(-(x[:, 0] + intercept)))).mean() == pytest.approx(
        truth.mean(), abs=1e-5
    )
    groups = next(
        c
        for c in whole.report["curves"]
        if all(c[k] == keys[k] for k in ("model", "arm", "evaluation"))
    )["calibration"]
    assert sum(g["n"] for g in groups) == len(truth)
    assert sum(g["n"] * g["observed"] for g in groups) == pytest.approx(truth.sum())


def test_e05_the_decision_curve_has_treat_all_and_treat_none(whole: Done, written: Written) -> None:
    score, truth, _ = written.known("logistic|federated|within_site")
    curve = next(
        c for c in whole.report["curves"] if (c["model"], c["arm"], c["evaluation"]) == ("logistic",
        "federated", "within_site")
    )["decision"]  # fmt: skip
    t = np.array(curve["thresholds"])
    # the first threshold is where so many patients lie below that a step shows none of them
    assert t[0] < 0.1
    assert t[-1] > 0.9
    odds = t / (1 - t)
    called = score[None] >= t[:, None]
    model = ((called & (truth == 1)).sum(1) - (called & (truth == 0)).sum(1) * odds) / len(truth)
    everybody = truth.mean() - (1 - truth.mean()) * odds
    # scores were written with nine digits and thresholds with six: one patient may fall on the
    # other side of an edge
    assert np.abs(np.array(curve["model"]) - model) == pytest.approx(
        0, abs=1.5 * (1 + odds.max()) / len(truth)
    )
    assert np.median(np.abs(np.array(curve["model"]) - model)) < 1e-5
    assert np.array(curve["treat_all"]) == pytest.approx(everybody, abs=1e-4 * (1 + odds.max()))
    assert set(curve["treat_none"]) == {0.0}


# ---- E06 -----------------------------------------------------------------------------------------


def test_e06_the_threshold_is_the_one_that_added_histograms_give(
    trained: tuple[Setting, Outcome, list[Cohort], Comparison],
) -> None:
    _, outcome, _, comparison = trained
    evaluated = outcome.states[Fold()]["evaluation"]
    for name in ("logistic", "boosting"):
        (within,) = comparison.scores[name, "federated", "within_site"]
        histograms = evaluated[f"{name}/thresholds/within"]
        assert len(histograms) == PARTS
        for part in range(PARTS):
            best = youden(histograms[part])
            assert best is not None
            assert set(within.thresholds[comparison.parts == part]) == {best.threshold}
            # they cover the training rows of the part, each once, and nobody else
            assert (
                histograms[part].sum()
                == ((comparison.labels != UNKNOWN) & (comparison.parts != part)).sum()
            )
        (left_out,) = comparison.scores[name, "federated", "leave_one_site_out"]
        for i, group in enumerate(outcome.groups):
            best = youden(evaluated[f"{name}/thresholds/left_out"][i])
            assert best is not None
            assert set(left_out.thresholds[np.isin(comparison.sites, group)]) == {best.threshold}


def test_e06_what_the_coordinator_knows_agrees_with_the_patients_scores(
    whole: Done, written: Written
) -> None:
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    tallies = {(t["model"], t["evaluation"]): t for t in whole.report["federated_tallies"]}
    assert set(tallies) == {
        (m, e) for m in ("logistic", "boosting") for e in ("within_site", "leave_one_site_out")
    }
    for (model, evaluation), t in tallies.items():
        score, truth, sites = written.known(f"{model}|federated|{evaluation}")
        assert t["n"] == len(truth)
        assert (
            0 < t["bound"] < (0.01 if model == "logistic" else 0.05)
        )  # four trees have few scores
        assert abs(t["auc_pooled"] - roc_auc_score(truth, score)) <= t["bound"] + 1e-9
        assert abs(t["auc"] - pairs_within_sites(score, truth, sites)) <= 0.01
        assert t["brier"] == pytest.approx(brier_score_loss(truth, score), abs=1e-6)
        assert t["log_loss"] == pytest.approx(log_loss(truth, score), abs=1e-6)


def test_e06_sensitivity_and_specificity_are_those_of_the_confusion_counts(whole: Done) -> None:
    for curve in whole.report["curves"]:
        (tn, fp), (fn, tp) = curve["confusion"]
        keys = {k: curve[k] for k in ("model", "arm", "evaluation")} | {"site": "all"}
        expected = {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
        }
        for metric, value in expected.items():
            assert one(whole, **keys, metric=metric)["value"] == pytest.approx(value, abs=1e-6)


# ---- E07 -----------------------------------------------------------------------------------------


def kaplan_meier(times: list[int], dead: list[bool], at: float) -> float:
    """The product over the times of death up to `at`, one by one (Kaplan & Meier 1958)."""
    alive = 1.0
    for t in sorted({t for t, d in zip(times, dead, strict=True) if d and t <= at}):
        risk = sum(x >= t for x in times)
        alive *= 1 - sum(d and x == t for x, d in zip(times, dead, strict=True)) / risk
    return alive


def test_e07_survival_equals_kaplan_meier_of_the_pooled_rows(whole: Done) -> None:
    described = whole.report["survival"]
    assert (described["unit"], [c["class"] for c in described["curves"]]) == (
        "months",
        ["no", "yes"],
    )
    for code, curve in zip("01", described["curves"], strict=True):
        mine = [row for row in people() if row["spread"] == code]
        times, dead = (
            [int(row["months"]) for row in mine],
            [row["status"] == "dead" for row in mine],
        )
        assert curve["at_risk"][0] == len(mine)
        for k in (0, 5, 17, 40, 59):
            assert curve["survival"][k] == pytest.approx(
                kaplan_meier(times, dead, curve["times"][k]), abs=1e-6
            )
            assert curve["at_risk"][k] == sum(t > curve["times"][k] - 1 for t in times)


# ---- E08 -----------------------------------------------------------------------------------------


def test_e08_every_model_stands_side_by_side_in_three_arms(whole: Done) -> None:
    rows = {
        (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"])
        for r in whole.report["results"]
    }
    sites = ["all", *(s["name"] for s in whole.report["sites"])]
    evaluations = ("within_site", "leave_one_site_out")
    assert rows == {
        (m, a, e, s, k)
        for m in MODELS
        for a in ARMS
        for e in evaluations
        for s in sites
        for k in (m.name for m in METRICS)
    }


def test_e08_what_did_not_run_is_called_not_run(whole: Done, tmp_path: Path) -> None:
    assert any(
        line.startswith("image models and fusion: not run") for line in whole.report["not_run"]
    )
    assert not any(
        line.startswith("leave_one_site_out: not run") for line in whole.report["not_run"]
    )
    done = command(
        tmp_path / "town", people(sizes={"Ash": 45, "Beech": 42}), "--evaluations", "within_site"
    )
    assert any(line.startswith("leave_one_site_out: not run") for line in done.report["not_run"])
    assert not any(
        r["value"] is not None
        for r in done.report["results"]
        if r["evaluation"] == "leave_one_site_out"
    )
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    assert "leave_one_site_out: not run" in page or "not run" in page


# ---- E11 -----------------------------------------------------------------------------------------


def alarms(
    low: float | None,
    *,
    limit: float | None,
    phantom: Path | None = None,
    metric: str = "auc",
    site: str = "all",
) -> list[str]:
    """What is said of one row whose interval begins at `low`."""
    study = SimpleNamespace(
        name="colorectal_metastasis", tasks={"postresection": SimpleNamespace(alarm=limit)}
    )
    setting: Any = SimpleNamespace(
        study=study, task="postresection", phantom=phantom is not None, folder=phantom
    )
    head = {
        "model": "clinical",
        "arm": "federated",
        "evaluation": "within_site",
        "site": site,
        "metric": metric,
    }
    believable = record.believable(setting, cast(Any, SimpleNamespace(heads=())))
    return federated_sums.implausible([{**head, "low": low, "high": 0.999}], *believable)


def test_e11_fires_when_the_whole_interval_lies_above_the_limit_and_only_then() -> None:
    (said,) = alarms(0.751, limit=0.75)
    assert said.startswith("E11: clinical federated within_site")
    assert "0.751 to 0.999" in said
    assert (
        alarms(0.75, limit=0.75)
        == alarms(0.7, limit=0.75)
        == alarms(None, limit=0.75)
        == alarms(0.99, limit=None)
        == []
    )
    assert alarms(0.99, limit=0.75, metric="accuracy") == alarms(0.99, limit=0.75, site="Ash") == []


def test_e11_a_phantom_is_held_against_its_own_ceiling(tmp_path: Path) -> None:
    writer.write(tmp_path / "data")
    truth = writer.read_truth(tmp_path / "data")
    assert truth is not None
    ceiling = truth.ceilings["postresection"]
    assert 0.8 < ceiling < 0.99
    (said,) = alarms(ceiling + 1e-6, limit=0.1, phantom=tmp_path)
    assert "the generator's own ceiling" in said
    assert alarms(ceiling - 1e-6, limit=0.1, phantom=tmp_path) == []


def test_e11_in_the_whole_program(whole: Done, tmp_path: Path) -> None:
    """The town's late task is declared implausible above 0.55, its early one above 0.99."""
    limit = 0.55
    expected = [
        r
        for r in whole.report["results"]
        if r["metric"] == "auc" and r["site"] == "all" and (r["low"] or 0) > limit
    ]
    fired = [a for a in whole.report["alarms"] if a.startswith("E11")]
    assert len(fired) == len(expected) > 0
    assert "E11: logistic federated within_site" in whole.said
    quiet = command(
        tmp_path / "town",
        people(sizes={"Ash": 90, "Beech": 80}),
        "--task",
        "early",
        "--evaluations",
        "within_site",
        study=STUDY,
    )
    assert quiet.status == 0
    assert quiet.report["alarms"] == []
