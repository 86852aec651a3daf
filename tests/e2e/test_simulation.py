"""The command as a researcher runs it: its report, its repeatability, its resumption after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from server import ledger
from simulation.statistics import METRICS

ROOT = Path(__file__).parent.parent.parent
SMALL = ["--set", "boosting.trees=6", "--bootstraps", "100"]


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "simulation", *options]


def run(cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options), cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One undisturbed run on the default cohort."""
    cwd = tmp_path_factory.mktemp("town")
    done = run(cwd, *SMALL)
    assert done.returncode == 0, done.stderr
    folder = cwd / done.stdout.strip().splitlines()[-1]
    return folder, json.loads((folder / "report.json").read_text())


def test_the_last_line_names_the_folder_in_runs(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = whole
    assert folder.parent.name == "runs"
    for name in ("report.html", "report.json", "ledger.jsonl", "model/coefficients.csv", "model/boosting.json", "model/README.md"):
        assert (folder / name).stat().st_size > 0


def test_results_are_complete(whole: tuple[Path, dict[str, Any]]) -> None:
    _, report = whole
    sites = {s["name"] for s in report["sites"]} | {"all"}
    rows = {(r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]): r for r in report["results"]}
    assert len(rows) == len(report["results"])
    for model in ("clinical", "logistic", "boosting"):
        for arm in ("local", "federated", "pooled"):
            for evaluation in ("within_site", "leave_one_site_out"):
                for site in sites:
                    for metric in METRICS:
                        row = rows[model, arm, evaluation, site, metric]
                        assert row["estimable"] == (row["low"] is not None) or metric == "no_information_rate" or row["value"] is not None


def test_the_report_keeps_its_schema(whole: tuple[Path, dict[str, Any]]) -> None:
    import jsonschema

    _, report = whole
    jsonschema.validate(report, json.loads((ROOT / "docs/report.schema.json").read_text()))


def test_federated_logistic_is_pooled_logistic(whole: tuple[Path, dict[str, Any]]) -> None:
    _, report = whole
    rows = {(r["arm"], r["evaluation"], r["site"], r["metric"]): r["value"] for r in report["results"] if r["model"] == "logistic"}
    for (arm, *rest), value in rows.items():
        if arm == "federated" and value is not None:
            assert value == pytest.approx(rows["pooled", *rest], abs=1e-6)


def test_the_ledger_is_whole_and_names_every_site(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, report = whole
    lines = ledger.read(folder / "ledger.jsonl")
    assert [line["kind"] for line in lines[:1] + lines[-2:]] == ["open", "close", "report"]
    assert lines[-2]["hash"] == report["ledger_head"]
    assert lines[-2]["state_hash"] == report["state_hash"]
    exchanges = [line for line in lines if line["kind"] == "exchange"]
    assert len(exchanges) == report["exchanges"]
    for line in exchanges:
        assert set(line["sites"]) == {s["name"] for s in report["sites"]}


def test_the_model_is_a_native_booster(whole: tuple[Path, dict[str, Any]]) -> None:
    import xgboost

    folder, _ = whole
    booster = xgboost.Booster()
    booster.load_model(folder / "model" / "boosting.json")
    assert booster.num_boosted_rounds() == 6
    assert set(booster.feature_names or ()) >= {"age", "cea"}


@pytest.mark.slow
def test_hyperparameters_reach_every_arm_and_the_tallies(tmp_path: Path) -> None:
    options = ["--learners", "logistic", "--set", "preprocessing.clip=0.5", "--set", "logistic.clip=0.4", "--bootstraps", "100", "--json"]
    report = json.loads(run(tmp_path, *options, "--evaluations", "within_site").stdout)
    rows = {(r["arm"], r["metric"]): r["value"] for r in report["results"] if r["model"] == "logistic" and r["site"] == "all"}
    assert rows["federated", "log_loss"] == pytest.approx(rows["pooled", "log_loss"], abs=1e-6)
    (tally,) = report["federated_tallies"]
    assert rows["federated", "log_loss"] == pytest.approx(tally["log_loss"], abs=1e-9)
    assert rows["federated", "auc"] == pytest.approx(tally["auc"], abs=0.002)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_hash(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    done = run(tmp_path, *SMALL, "--json")
    again = json.loads(done.stdout)
    assert again["state_hash"] == whole[1]["state_hash"]
    assert again["results"] == whole[1]["results"]


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 4, 12])
def test_killed_and_resumed_gives_the_same_hash(whole: tuple[Path, dict[str, Any]], tmp_path: Path, lines: int) -> None:
    process = subprocess.Popen(
        command(*SMALL), cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = list(tmp_path.glob("runs/*/ledger.jsonl"))
        if found and found[0].read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = tmp_path.glob("runs/*")
    done = run(tmp_path, "--resume", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["state_hash"] == whole[1]["state_hash"]
    assert report["results"] == whole[1]["results"]


@pytest.mark.slow
def test_an_audit_attacks_every_model_and_can_be_repeated(tmp_path: Path) -> None:
    import jsonschema

    small = ["--learners", "logistic", "--set", "logistic.rounds=3", "--partition", "even", "--virtual-sites", "3", "--folds", "3"]
    asked = ["--bootstraps", "100", "--evaluations", "within_site", "--audit", "--epsilon", "5,inf", "--noise-seed", "4"]
    folders = []
    for name in ("a", "b"):
        done = run(tmp_path, *small, *asked, "--out", name)
        assert done.returncode == 0, done.stderr
        folders.append(tmp_path / done.stdout.strip().splitlines()[-1])
    report, again = (json.loads((f / "report.json").read_text()) for f in folders)
    jsonschema.validate(report, json.loads((ROOT / "docs/report.schema.json").read_text()))
    assert report["audit"] == again["audit"]
    assert report["canary"] == again["canary"]
    attacks = {(r["learner"], r["epsilon"], r["attack"]): r for r in report["audit"]}
    models = ("logistic", "private_logistic")
    assert set(attacks) == {(m, e, a) for m in models for e, a in ((None, "loss"), (None, "calibrated"), (5.0, "loss"))}
    for row in attacks.values():
        assert row["estimable"]
        assert row["nonmembers"] == row["members"] == sum(s["n"] for s in report["sites"])
        assert 0.4 < row["low"] <= row["auc"] <= row["high"] < 0.7
        assert 0 <= row["tpr_low"] <= row["tpr_high"] < 0.2
    assert {r["learner"] for r in report["canary"]} == {"preprocessing", "scores", *models}
    assert all(0 <= r["lower"] <= r["epsilon"] <= 5 and r["delta"] == 1e-5 for r in report["canary"])
    page = (folders[0] / "report.html").read_text()
    assert "What an attack finds" in page
    assert "Canaries" in page
    assert "attack on membership" in done.stdout
    assert "canary, scores: epsilon at least" in done.stdout


def test_an_audit_needs_no_epsilon(tmp_path: Path) -> None:
    small = ["--learners", "private_logistic", "--partition", "even", "--virtual-sites", "3", "--folds", "3", "--bootstraps", "100"]
    done = run(tmp_path, *small, "--evaluations", "within_site", "--audit", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {r["epsilon"] for r in report["audit"]} == {None}
    assert {r["learner"] for r in report["canary"]} == {"private_logistic", "scores"}
    assert all(2.9 < r["epsilon"] <= 3 for r in report["canary"])
    assert report["utility"] == report["privacy"] == []
    (folder,) = tmp_path.glob("runs/2*")
    assert 'id="privacy">What an attack finds' in (folder / "report.html").read_text()


def test_what_privacy_costs_is_drawn_and_can_be_repeated(tmp_path: Path) -> None:
    import jsonschema

    small = ["--learners", "logistic", "--set", "logistic.rounds=3", "--partition", "even", "--virtual-sites", "3", "--folds", "3"]
    asked = ["--bootstraps", "100", "--evaluations", "within_site", "--epsilon", "5,inf", "--noise-seed", "4"]
    folders = []
    for name in ("a", "b"):
        done = run(tmp_path, *small, *asked, "--out", name)
        assert done.returncode == 0, done.stderr
        folders.append(tmp_path / done.stdout.strip().splitlines()[-1])
    report, again = (json.loads((f / "report.json").read_text()) for f in folders)
    jsonschema.validate(report, json.loads((ROOT / "docs/report.schema.json").read_text()))
    assert report["utility"] == again["utility"]
    assert report["privacy"] == again["privacy"]
    points = {(p["model"], p["epsilon"]): p for p in report["utility"]}
    assert set(points) == {(m, e) for m in ("logistic", "private_logistic") for e in (None, 5.0)}
    plain = next(r for r in report["results"] if (r["model"], r["arm"], r["site"], r["metric"]) == ("logistic", "federated", "all", "auc"))
    assert points["logistic", None]["value"] == pytest.approx(plain["value"])
    for model in ("logistic", "private_logistic"):
        assert points[model, 5.0]["value"] < points[model, None]["value"]
        assert points[model, 5.0]["told"]["cases"] == pytest.approx(points[model, 5.0]["n"], rel=0.5)
    assert {(r["site"], r["learner"]) for r in report["privacy"] if r["allowed"] is None} == {
        (s["name"], m) for s in report["sites"] for m in ("logistic", "private_logistic")
    }
    for row in (r for r in report["privacy"] if r["allowed"]):
        assert 4.8 < row["epsilon"] <= row["allowed"] == 5.0
    noised = ledger.read(folders[0] / "private" / "private_logistic-5" / ledger.NAME)[-1]
    assert noised["scores"] == {"private_logistic": points["private_logistic", 5.0]["told"]}
    assert any("the run is not private" in a for a in report["alarms"])
    assert "What privacy costs" in (folders[0] / "report.html").read_text()
    # without a seed it cannot be repeated
    done = run(tmp_path, *small, *asked[:-2], "--out", "c", "--json")
    free = json.loads(done.stdout)
    assert [p["value"] for p in free["utility"]] != [p["value"] for p in report["utility"]]
    assert not any("not private" in a for a in free["alarms"])


def test_masked_sums_give_the_same_model_and_the_same_bits_again(tmp_path: Path) -> None:
    small = ["--learners", "logistic", "--partition", "even", "--virtual-sites", "3", "--folds", "3", "--bootstraps", "100"]
    reports = []
    for more in (["--secure"], ["--secure"], []):
        done = run(tmp_path, *small, "--evaluations", "within_site", *more, "--json")
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    masked, again, plain = reports
    assert masked["state_hash"] == again["state_hash"] != plain["state_hash"], "whole numbers round a little"
    of = [
        {(r["model"], r["metric"]): r["value"] for r in report["results"] if r["arm"] == "federated" and r["site"] == "all"}
        for report in (masked, plain)
    ]
    assert of[0] == pytest.approx(of[1], abs=1e-6)
    assert any("the sites masked their sums" in a for a in masked["alarms"])
