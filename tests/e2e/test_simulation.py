"""The command as a researcher runs it: its report, its repeatability, its resumption after a
kill."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from client.station.station import cohort_of, open_site
from common.data.cohort import UNKNOWN, Fold
from common.federated.learner import Head
from common.metrics.definitions import METRICS
from common.metrics.score_histogram import score_histogram
from server.config.run_config import Run
from server.ledger import ledger
from server.report import deployment
from server.rounds.resume import restore
from tests.paths import ROOT

SMALL = ["--set", "boosting.trees=6", "--bootstraps", "100", "--folds", "3", "--minimum-site", "40"]


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "simulation", *options]


def run(cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
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
    for name in (
        "report.html",
        "report.pdf",
        "report.json",
        "ledger.jsonl",
        "model/coefficients.csv",
        "model/boosting.json",
        "model/README.md",
    ):
        assert (folder / name).stat().st_size > 0


def test_results_are_complete(whole: tuple[Path, dict[str, Any]]) -> None:
    _, report = whole
    sites = {s["name"] for s in report["sites"]} | {"all"}
    rows = {
        (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]): r
        for r in report["results"]
    }
    assert len(rows) == len(report["results"])
    for model in ("clinical", "logistic", "boosting"):
        for arm in ("local", "federated", "pooled"):
            for evaluation in ("within_site", "leave_one_site_out"):
                for site in sites:
                    for metric in (m.name for m in METRICS):
                        row = rows[model, arm, evaluation, site, metric]
                        assert (
                            row["estimable"] == (row["low"] is not None)
                            or metric == "no_information_rate"
                            or row["value"] is not None
                        )


def test_the_report_keeps_its_schema(whole: tuple[Path, dict[str, Any]]) -> None:
    import jsonschema

    _, report = whole
    jsonschema.validate(report, json.loads((ROOT / "docs/report.schema.json").read_text()))


def test_federated_logistic_is_pooled_logistic(whole: tuple[Path, dict[str, Any]]) -> None:
    _, report = whole
    rows = {
        (r["arm"], r["evaluation"], r["site"], r["metric"]): r["value"]
        for r in report["results"]
        if r["model"] == "logistic"
    }
    for (arm, *rest), value in rows.items():
        if arm == "federated" and value is not None:
            assert value == pytest.approx(rows["pooled", *rest], abs=1e-6)


def test_a_coordinator_without_patients_reports_the_same(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    """Local against federated, at the same patients, from sums alone: the figures of the
    predictions themselves."""
    folder, report = whole
    told = deployment.record(folder)[1]
    exact = {
        (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]): r
        for r in report["results"]
    }
    # few trees, so that many patients share a bin of the histogram
    binned = dict.fromkeys(
        ("average_precision", "calibration_slope", "calibration_intercept", "auc_pooled"), 1e-2
    )
    assert {(r["model"], r["arm"]) for r in told["results"]} == {
        (m, a) for m in ("clinical", "logistic", "boosting") for a in ("federated", "local")
    }
    for r in told["results"]:
        is_ = exact[r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]]
        assert (r["n"], r["events"], r["estimable"]) == (is_["n"], is_["events"], is_["estimable"])
        assert r["value"] == (
            None
            if is_["value"] is None
            else pytest.approx(is_["value"], abs=binned.get(r["metric"], 1e-9))
        )
    apart = {(d["a"], d["b"], d["evaluation"]): d for d in report["differences"]}
    assert told["differences"]
    for d in told["differences"]:
        is_ = apart[d["a"], d["b"], d["evaluation"]]
        assert (d["n"], d["sites"]) == (is_["n"], is_["sites"])
        assert d["difference"] == pytest.approx(is_["difference"], abs=1e-9)
        # two ways to an interval: of the same width, more or less
        assert d["high"] - d["low"] == pytest.approx(is_["high"] - is_["low"], rel=0.35)
    assert [(s["name"], s["n"], s["events"]) for s in told["sites"]] == [
        (s["name"], s["n"], s["events"]) for s in report["sites"]
    ]
    final = {(r["model"], r["metric"]): r for r in told["final_model"] if r["site"] == "all"}
    within = {
        r["model"]: r
        for r in told["results"]
        if (r["arm"], r["evaluation"], r["site"], r["metric"])
        == ("federated", "within_site", "all", "auc")
    }
    # patients that it has seen: it does better there than it will
    assert final["boosting", "auc"]["value"] > within["boosting"]["value"]


def test_new_patients_are_scored_as_the_federation_scored_them(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, report = whole
    lines = ledger.read(folder / ledger.NAME)
    arrays = restore(lines, folder).states[Fold()]["comparison"]
    data = tmp_path / "new"
    shutil.copytree(folder / "data", data)
    for path in data.rglob("clinical.tsv"):
        # what is to be predicted is not known
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        keep = [
            i
            for i, name in enumerate(rows[0])
            if "ajcc_pathologic_m" not in name and "ajcc_clinical_m" not in name
        ]
        assert len(keep) < len(rows[0])
        path.write_text("".join("\t".join(row[i] for i in keep) + "\n" for row in rows))
    out = tmp_path / "out"
    words = [
        "-m",
        "client",
        "predict",
        "--model",
        str(folder / "model"),
        "--data",
        str(data),
        "--out",
        str(out),
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = {
        row["patient"]: row
        for row in csv.DictReader((out / "predictions.csv").read_text().splitlines())
    }
    assert json.loads(done.stdout)["patients"] == len(told) == report["flow"]["kept"]
    assert (
        len((out / "left_out.csv").read_text().splitlines()) - 1
        == report["flow"]["read"] - report["flow"]["kept"]
    )
    assert {stat.S_IMODE(f.stat().st_mode) for f in out.iterdir()} == {0o600}
    # each site's own station, with the model that the coordinator ended with
    states = restore(lines, folder).states[Fold()]
    run = Run.parse(lines[0]["config"])
    labels: dict[str, list[tuple[float, bool]]] = {}
    for home in sorted((folder / "sites").iterdir()):
        cohort = cohort_of(open_site(home / "site.toml"), run.study, run.task)
        for head in run.heads(run.load_study()):
            if head.name not in ("logistic", "boosting"):
                continue
            assert isinstance(head, Head)
            probs = head.predict(states, cohort)[:, 1]
            mine = [float(told[i][f"{head.name}: M1"]) for i in cohort.ids]
            assert mine == pytest.approx(probs, abs=1e-5)
            known = zip(mine, cohort.labels == 1, cohort.labels != UNKNOWN, strict=True)
            labels.setdefault(head.name, []).extend((p, bool(y)) for p, y, k in known if k)
    for name, pairs in labels.items():
        scores, truth = np.array([p for p, _ in pairs]), np.array([y for _, y in pairs])
        # what the sites told of their own patients in the run; nine digits may fall on the other
        # side of a bin's edge
        apart = np.abs(
            score_histogram(scores, truth) - arrays[f"final/federated/{name}/histogram"][1]
        ).sum()
        assert apart <= 0.02 * len(pairs)


def test_a_site_fine_tunes_the_model_for_itself(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, report = whole
    largest = max(report["sites"], key=lambda s: s["events"])["name"]
    site = (
        next(p for p in (folder / "sites").iterdir() if open_site(p / "site.toml").name == largest)
        / "site.toml"
    )
    words = [
        "--site",
        str(site),
        "--model",
        str(folder / "model"),
        "--out",
        str(tmp_path / "own"),
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "client", "finetune", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    within = {
        (r["model"], r["arm"]): r
        for r in report["results"]
        if (r["evaluation"], r["site"], r["metric"]) == ("within_site", largest, "auc")
    }
    for row in told["heads"]:
        # the run's own local models, on the same parts
        assert row["n"] == within[row["head"], "local"]["n"]
        assert row["models"]["local"]["auc"] == pytest.approx(
            within[row["head"], "local"]["value"], abs=1e-9
        )
        # the federation's has seen them
        assert row["models"]["federation"]["auc"] > within[row["head"], "federated"]["value"] - 0.02
    words = [
        "predict",
        "--model",
        str(tmp_path / "own"),
        "--data",
        str(folder / "data"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "client", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"a model that the site '{largest}' made for itself"
        in (tmp_path / "out" / "notes.txt").read_text()
    )


def test_a_model_for_another_schema_and_an_altered_one_are_refused(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = whole

    def refused(model: Path, *more: str) -> str:
        words = [
            "-m",
            "client",
            "predict",
            "--model",
            str(model),
            "--data",
            str(folder / "data"),
            "--out",
            str(tmp_path / "out"),
            *more,
        ]
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode in (2, 3)
        return done.stderr

    assert "[D07]" in refused(folder / "model", "--study", "brain_primary") or "no task" in refused(
        folder / "model", "--study", "brain_primary"
    )
    shutil.copytree(folder / "model", tmp_path / "model")
    (tmp_path / "model" / "model.state").write_bytes(
        (folder / "model" / "model.state").read_bytes()[:-1]
    )
    assert "model.state: not the file that SHA256SUMS names" in refused(tmp_path / "model")
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_the_ledger_is_whole_and_names_every_site(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, report = whole
    lines = ledger.read(folder / "ledger.jsonl")
    assert [line["kind"] for line in lines[:1] + lines[-2:]] == ["open", "close", "report"]
    assert lines[-2]["hash"] == report["ledger_head"]
    faces = {
        n: hashlib.sha256((folder / n).read_bytes()).hexdigest()
        for n in ("report.json", "report.html", "report.pdf")
    }
    assert lines[-1]["files"] == faces
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


def test_the_model_is_whole_and_its_card_tells_the_reports_figures(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = whole
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"],
        cwd=folder / "model",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = yaml.safe_load((folder / "model" / "README.md").read_text().split("---\n")[1])
    index = {
        (r["task"]["name"].partition(":")[0], r["dataset"]["split"]): r["metrics"]
        for r in told["model-index"][0]["results"]
    }
    for (model, evaluation), metrics in index.items():
        auc = next(m for m in metrics if m["type"] == "roc_auc")
        row = next(
            r
            for r in report["results"]
            if (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"])
            == (model, "federated", evaluation, "all", "auc")
        )
        assert (auc["value"], auc["args"]["low"], auc["args"]["high"]) == (
            row["value"],
            row["low"],
            row["high"],
        )
    assert {m for m, _ in index} == {"logistic", "boosting"}


@pytest.mark.slow
def test_hyperparameters_reach_every_arm_and_the_tallies(tmp_path: Path) -> None:
    options = [
        "--learners",
        "logistic",
        "--set",
        "preprocessing.clip=0.5",
        "--set",
        "logistic.clip=0.4",
        "--bootstraps",
        "100",
        "--json",
    ]
    report = json.loads(run(tmp_path, *options, "--evaluations", "within_site").stdout)
    rows = {
        (r["arm"], r["metric"]): r["value"]
        for r in report["results"]
        if r["model"] == "logistic" and r["site"] == "all"
    }
    assert rows["federated", "log_loss"] == pytest.approx(rows["pooled", "log_loss"], abs=1e-6)
    (tally,) = report["federated_tallies"]
    assert rows["federated", "log_loss"] == pytest.approx(tally["log_loss"], abs=1e-9)
    assert rows["federated", "auc"] == pytest.approx(tally["auc"], abs=0.002)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_hash(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    done = run(tmp_path, *SMALL, "--json")
    again = json.loads(done.stdout)
    assert again["state_hash"] == whole[1]["state_hash"]
    assert again["results"] == whole[1]["results"]


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 4, 12])
def test_killed_and_resumed_gives_the_same_hash(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, lines: int
) -> None:
    process = subprocess.Popen(
        command(*SMALL),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
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

    small = [
        "--learners",
        "logistic",
        "--set",
        "logistic.rounds=3",
        "--partition",
        "even",
        "--virtual-sites",
        "3",
        "--folds",
        "3",
    ]
    asked = [
        "--bootstraps",
        "100",
        "--evaluations",
        "within_site",
        "--audit",
        "--epsilon",
        "5,inf",
        "--noise-seed",
        "4",
    ]
    folders = []
    for name in ("a", "b"):
        done = run(tmp_path, *small, *asked, "--out", name)
        assert done.returncode == 0, done.stderr
        folders.append(tmp_path / done.stdout.strip().splitlines()[-1])
    report, again = (json.loads((f / "report.json").read_text()) for f in folders)
    jsonschema.validate(report, json.loads((ROOT / "docs/report.schema.json").read_text()))
    assert report["audit"] == again["audit"]
    assert report["canary"] == again["canary"]
    assert report["one_run"] == again["one_run"]
    attacks = {(r["learner"], r["epsilon"], r["attack"]): r for r in report["audit"]}
    models = ("logistic", "private_logistic")
    assert set(attacks) == {
        (m, e, a) for m in models for e, a in ((None, "loss"), (None, "calibrated"), (5.0, "loss"))
    }
    for row in attacks.values():
        assert row["estimable"]
        assert row["nonmembers"] == row["members"] == sum(s["n"] for s in report["sites"])
        assert 0.4 < row["low"] <= row["auc"] <= row["high"] < 0.7
        assert 0 <= row["tpr_low"] <= row["tpr_high"] < 0.2
    assert {r["learner"] for r in report["canary"]} == {"preprocessing", "scores", *models}
    assert all(
        0 <= r["lower"] <= r["epsilon"] <= 5 and r["delta"] == 1e-5 for r in report["canary"]
    )
    assert {r["learner"] for r in report["one_run"]} == set(models)
    for row in report["one_run"]:
        assert row["lower"] <= row["epsilon"] <= 5
        assert row["right"] <= row["guesses"] <= row["canaries"] == 1000
    page = (folders[0] / "report.html").read_text()
    assert "What an attack finds" in page
    assert "Canaries in whole fits" in page
    assert "Canaries" in page
    assert "attack on membership" in done.stdout
    assert "canary, scores: epsilon at least" in done.stdout
    assert "canaries in one whole fit, logistic: epsilon" in done.stdout


@pytest.mark.slow
def test_an_audit_needs_no_epsilon(tmp_path: Path) -> None:
    small = [
        "--learners",
        "private_logistic",
        "--partition",
        "even",
        "--virtual-sites",
        "3",
        "--folds",
        "3",
        "--bootstraps",
        "100",
    ]
    few = ["--phantom-patients", "300", "--evaluations", "within_site"]
    done = run(tmp_path, *small, *few, "--audit", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {r["epsilon"] for r in report["audit"]} == {None}
    assert {r["learner"] for r in report["canary"]} == {"private_logistic", "scores"}
    assert all(2.9 < r["epsilon"] <= 3 for r in report["canary"])
    assert report["utility"] == report["privacy"] == []
    (folder,) = tmp_path.glob("runs/2*")
    assert "What an attack finds" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_what_privacy_costs_is_drawn_and_can_be_repeated(tmp_path: Path) -> None:
    import jsonschema

    small = [
        "--learners",
        "logistic",
        "--set",
        "logistic.rounds=3",
        "--partition",
        "even",
        "--virtual-sites",
        "3",
        "--folds",
        "3",
    ]
    asked = [
        "--bootstraps",
        "100",
        "--evaluations",
        "within_site",
        "--epsilon",
        "5,inf",
        "--noise-seed",
        "4",
    ]
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
    plain = next(
        r
        for r in report["results"]
        if (r["model"], r["arm"], r["site"], r["metric"]) == ("logistic", "federated", "all", "auc")
    )
    assert points["logistic", None]["value"] == pytest.approx(plain["value"])
    for model in ("logistic", "private_logistic"):
        assert points[model, 5.0]["value"] < points[model, None]["value"]
        assert points[model, 5.0]["told"]["cases"] == pytest.approx(
            points[model, 5.0]["n"], rel=0.5
        )
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


@pytest.mark.slow
def test_masked_sums_give_the_same_model_and_the_same_bits_again(tmp_path: Path) -> None:
    small = [
        "--learners",
        "logistic",
        "--partition",
        "even",
        "--virtual-sites",
        "3",
        "--folds",
        "3",
        "--bootstraps",
        "100",
    ]
    reports = []
    for more in (["--secure"], ["--secure"], []):
        done = run(tmp_path, *small, "--evaluations", "within_site", *more, "--json")
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    masked, again, plain = reports
    assert masked["state_hash"] == again["state_hash"] != plain["state_hash"], (
        "whole numbers round a little"
    )
    of = [
        {
            (r["model"], r["metric"]): r["value"]
            for r in report["results"]
            if r["arm"] == "federated" and r["site"] == "all"
        }
        for report in (masked, plain)
    ]
    assert of[0] == pytest.approx(of[1], abs=1e-6)
    assert any("the sites masked their sums" in a for a in masked["alarms"])
