"""The studies with images as a user runs them: synthetic cohort, networks, report, the site's own
pages, what is left out and said."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import openpyxl
import pytest

from client.local_model.model_folder import open_networks
from client.station.station import cohort_of, open_site
from common.data.cohort import Cohort, Fold
from common.federated.learner import Head
from common.learners.evaluation import scorable
from server.config.run_config import Run
from server.ledger import ledger
from server.rounds.resume import restore
from tests.paths import ROOT

QUICK = (
    "segmentation.rounds=1",
    "segmentation.epochs=1",
    "autoencoder.rounds=1",
    "autoencoder.epochs=1",
    "image.rounds=3",
    "image.epochs=2",
)
pytestmark = pytest.mark.slow


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500
    )


def simulate(
    out: Path, *more: str, learners: str = "logistic,image,fusion", quick: Sequence[str] = QUICK
) -> tuple[dict[str, Any], Path]:
    settings = [x for q in quick for x in ("--set", q)]
    options = [
        "--out",
        str(out),
        "--bootstraps",
        "100",
        "--json",
        "--learners",
        learners,
        *settings,
        *more,
    ]
    done = launch("simulation", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    folders = [p for p in out.iterdir() if (p / "report.json").exists()]
    folder = next(
        p
        for p in folders
        if json.loads((p / "report.json").read_text())["ledger_head"] == report["ledger_head"]
    )
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    return report, folder


def value(
    report: dict[str, Any], model: str, arm: str = "federated", evaluation: str = "within_site"
) -> dict[str, Any]:
    wanted = (model, arm, evaluation, "all", "auc")
    return next(
        r
        for r in report["results"]
        if (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]) == wanted
    )


@pytest.fixture(scope="module")
def liver(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return simulate(
        tmp_path_factory.mktemp("liver"),
        "--study",
        "liver_recurrence",
        "--phantom-patients",
        "150",
        "--virtual-sites",
        "2",
    )


def test_the_report_has_all_models_in_all_arms(liver: tuple[dict[str, Any], Path]) -> None:
    report, _ = liver
    for model in ("clinical", "image", "fusion"):
        for arm in ("federated", "pooled"):
            assert value(report, model, arm)["n"] > 100
    assert (
        value(report, "image")["n"] < value(report, "fusion")["n"] == value(report, "clinical")["n"]
    )
    assert any("leave_one_site_out not run, --full asks for it" in n for n in report["not_run"])
    assert {r["than"] for r in report["images"]["adds"]} == {"clinical", "image"}
    assert (
        sum(r["n"] for r in report["images"]["roi_source"] if r["model"] == "image")
        == value(report, "image")["n"]
    )
    assert report["images"]["explanation"]["cases"] > 50
    assert {r["feature"] for r in report["importance"] if r["model"] == "fusion"} >= {
        "image",
        "latent code",
        "cea",
    }
    assert not [a for a in report["alarms"] if a.startswith("E11")]


def test_the_page_shows_no_patient_and_the_sites_own_page_does(
    liver: tuple[dict[str, Any], Path],
) -> None:
    _, folder = liver
    page = (folder / "report.html").read_text()
    assert "Images: who has them, and what they add" in page
    assert "CRLM-CT-9" not in page
    assert "CRLM-CT-9" not in (folder / "report.json").read_text()
    assert "CRLM-CT-9" not in (folder / "ledger.jsonl").read_text()
    for home in (folder / "sites").iterdir():
        own = home / "images.html"
        assert "CRLM-CT-9" in own.read_text()
        assert stat.S_IMODE(own.stat().st_mode) == 0o600


def test_a_site_embeds_and_explains_with_the_model(
    liver: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    _, folder = liver
    site = next((folder / "sites").iterdir()) / "site.toml"
    given = [
        "--site",
        str(site),
        "--study",
        "liver_recurrence",
        "--model",
        str(folder / "model"),
        "--json",
    ]
    embedded = launch("client", "embed", *given, "--out", str(tmp_path / "embeddings"))
    assert embedded.returncode == 0, embedded.stderr
    assert json.loads(embedded.stdout)["patients"] > 50
    explained = launch(
        "client", "explain", *given, "--out", str(tmp_path / "page.html"), "--patients", "2"
    )
    assert explained.returncode == 0, explained.stderr
    assert (tmp_path / "page.html").read_text().count("<figure>") == 2
    copied = launch(
        "client",
        "explain",
        *given,
        "--report",
        str(folder / "report.json"),
        "--out",
        str(tmp_path / "mine.html"),
    )
    assert copied.returncode == 0, copied.stderr
    assert stat.S_IMODE((tmp_path / "mine.html").stat().st_mode) == 0o600


def test_a_second_start_opens_no_image(liver: tuple[dict[str, Any], Path]) -> None:
    _, folder = liver
    data, cache = folder / "data", folder.parent / "cache"
    code = f"""
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" and str(args[0]).endswith(".dcm") else None)
from pathlib import Path
from client.cohort.reader import read_table
from common.study import load as studies
cohort = read_table(studies.load("liver_recurrence"), "preop", Path({str(data)!r}), cache=Path({str(cache)!r})).cohort
assert cohort.imaged.sum() > 100, cohort.imaged.sum()
for p in cohort.pictures:
    p is None or p.voxels.sum()
print("OPENED", len(opened))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "OPENED 0" in done.stdout, done.stdout + done.stderr


@pytest.fixture(scope="module")
def unlabelled(
    liver: tuple[dict[str, Any], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run's data as a later patient's is: nothing is known of what came after the operation."""
    data = tmp_path_factory.mktemp("new") / "data"
    shutil.copytree(liver[1] / "data", data)
    for path in data.rglob("*.xlsx"):
        book = openpyxl.load_workbook(path)
        sheet = book.worksheets[0]
        for i in reversed(range(1, sheet.max_column + 1)):
            if re.search(r"vital|DFS|progression|survival", str(sheet.cell(1, i).value)):
                sheet.delete_cols(i)
        book.save(path)
    return data


def predict(model: Path, data: Path, out: Path, cache: Path) -> dict[str, dict[str, str]]:
    done = launch(
        "client",
        "predict",
        "--model",
        str(model),
        "--data",
        str(data),
        "--out",
        str(out),
        "--cache",
        str(cache),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    return {
        row["patient"]: row
        for row in csv.DictReader((out / "predictions.csv").read_text().splitlines())
    }


def test_new_patients_are_scored_as_at_the_stations(
    liver: tuple[dict[str, Any], Path], unlabelled: Path, tmp_path: Path
) -> None:
    report, folder = liver
    told = predict(folder / "model", unlabelled, tmp_path / "out", tmp_path / "cache")
    assert len(told) == report["flow"]["kept"]
    for home in agree(told, folder, {"logistic", "image", "fusion"}):
        for i in np.array(home.ids)[~home.imaged]:
            assert told[i]["image: recurred"] == "" == told[i]["region"]
            assert told[i]["fusion: recurred"] == told[i]["logistic: recurred"]


def agree(told: Mapping[str, Mapping[str, str]], folder: Path, names: set[str]) -> list[Cohort]:
    """What was predicted offline is what the stations' own learners predict of the same patients;
    returns the stations' cohorts."""
    lines = ledger.read(folder / ledger.NAME)
    state, run = restore(lines, folder).states[Fold()], Run.parse(lines[0]["config"])
    study = run.load_study()
    heads = [h for h in run.heads(study) if isinstance(h, Head)]
    assert {h.name for h in heads} == names
    homes = [
        cohort_of(open_site(h / "site.toml"), run.study, run.task_of(study))
        for h in sorted((folder / "sites").iterdir())
    ]
    for cohort in homes:
        for head in heads:
            rows = cohort.where(scorable(head, cohort))
            for k, name in enumerate(cohort.schema.label.classes):
                if f"{head.name}: {name}" in next(iter(told.values())):
                    mine = [float(told[i][f"{head.name}: {name}"]) for i in rows.ids]
                    assert mine == pytest.approx(head.predict(state, rows)[:, k], abs=1e-5)
    return homes


def test_who_has_an_unusable_image_is_predicted_by_the_table_and_told_why(
    liver: tuple[dict[str, Any], Path], unlabelled: Path, tmp_path: Path
) -> None:
    _, folder = liver
    whole = predict(folder / "model", unlabelled, tmp_path / "whole", tmp_path / "cache")
    harmed = [i for i, row in whole.items() if row["region"] == "expert"][:3]
    data = tmp_path / "data"
    shutil.copytree(unlabelled, data)
    for how, patient in zip(("a slice", "a header", "pixels"), harmed, strict=True):
        series: dict[Path, list[Path]] = {}
        for file in sorted(data.rglob("*.dcm")):
            if patient in str(file):
                series.setdefault(file.parent, []).append(file)
        slices = max(series.values(), key=len)
        file = slices[len(slices) // 2]
        if how == "a slice":
            file.unlink()
        else:
            file.write_bytes(
                file.read_bytes()[: 1000 if how == "a header" else file.stat().st_size * 2 // 3]
            )
    told = predict(folder / "model", data, tmp_path / "out", tmp_path / "cache")
    notes = (tmp_path / "out" / "notes.txt").read_text().splitlines()
    for patient in harmed:
        assert told[patient]["image: recurred"] == "" == told[patient]["region"]
        assert (
            told[patient]["fusion: recurred"]
            == told[patient]["logistic: recurred"]
            == whole[patient]["logistic: recurred"]
        )
        assert [n for n in notes if f"patient {patient} set aside: " in n]
    assert {i: told[i] for i in told if i not in harmed} == {
        i: whole[i] for i in whole if i not in harmed
    }


def test_a_site_fine_tunes_for_itself_and_predicts_with_what_it_made(
    liver: tuple[dict[str, Any], Path], unlabelled: Path, tmp_path: Path
) -> None:
    _, folder = liver
    site = next(p for p in sorted((folder / "sites").iterdir())) / "site.toml"
    own = tmp_path / "own"
    words = ["--site", str(site), "--model", str(folder / "model"), "--out", str(own)]
    done = launch("client", "finetune", *words, "--no-local", "--epochs", "1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {r["head"] for r in told["heads"]} == {"logistic", "image", "fusion"}
    assert all(
        r["estimable"] and set(r["models"]) == {"federation", "fine-tuned"} for r in told["heads"]
    )
    assert "flattered" in told["seen"]
    ours = predict(own, unlabelled, tmp_path / "out", tmp_path / "cache")
    theirs = predict(folder / "model", unlabelled, tmp_path / "out2", tmp_path / "cache")
    moved = [
        abs(float(ours[i]["fusion: recurred"]) - float(theirs[i]["fusion: recurred"])) for i in ours
    ]
    assert 0 < max(moved) < 0.5
    shown = launch("client", "finetune", *words, "--no-local", "--epochs", "1")
    assert shown.returncode == 0, shown.stderr
    assert (
        "AUC within the site" in re.sub(r"\s+", " ", shown.stdout) or "fine-tuned" in shown.stdout
    )


def test_a_site_writes_crops_and_the_bundle_scores_them_as_the_learner_does(
    liver: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    _, folder = liver
    home = tmp_path / "site"
    shutil.copytree(next(p for p in sorted((folder / "sites").iterdir())), home)
    shutil.copytree(folder / "model", home / "model")
    code = next(
        b
        for b in re.findall(
            r"```python\n(.*?)```", (ROOT / "docs" / "model.md").read_text(), re.DOTALL
        )
        if "site.toml" in b
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    words = [
        "run",
        "--config_file",
        "configs/inference.json",
        "--meta_file",
        "configs/metadata.json",
    ]
    words += ["--dataset_dir", str(home / "crops"), "--output_dir", str(home / "scored")]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words],
        cwd=folder / "model" / "bundle",
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    told = {
        r["patient"]: float(r["recurred"])
        for r in csv.DictReader((home / "scored" / "predictions.csv").read_text().splitlines())
    }
    networks = open_networks(folder / "model")
    cohort = cohort_of(open_site(home / "site.toml"), "liver_recurrence", "preop")
    imaged = cohort.where(cohort.imaged)
    assert [told[i] for i in imaged.ids] == pytest.approx(
        networks.image.predict(networks.state, imaged)[:, 1], abs=1e-5
    )
    assert len(told) == len(imaged) > 50


def test_what_cannot_be_predicted_leaves_nothing_half_written(
    liver: tuple[dict[str, Any], Path], unlabelled: Path, tmp_path: Path
) -> None:
    _, folder = liver
    table = tmp_path / "table"
    table.mkdir()
    for file in unlabelled.glob("*.xlsx"):
        shutil.copy(file, table)
    images = tmp_path / "images"
    (images / "some").mkdir(parents=True)
    shutil.copy(next(unlabelled.rglob("*.dcm")), images / "some")
    days = tmp_path / "days"
    shutil.copytree(table, days)
    for file in days.glob("*.xlsx"):
        book = openpyxl.load_workbook(file)
        book.worksheets[0].cell(2, 3).value = 20_000
        book.save(file)
    cut = tmp_path / "cut"
    shutil.copytree(folder / "model", cut)
    (cut / "model.state").write_bytes((cut / "model.state").read_bytes()[:100_000])
    (tmp_path / "file").write_text("mine")

    def refused(
        status: int, data: Path, out: Path, model: Path = folder / "model", *more: str
    ) -> str:
        words = [
            *more,
            "--model",
            str(model),
            "--data",
            str(data),
            "--out",
            str(out),
            "--cache",
            str(tmp_path / "cache"),
        ]
        done = launch("client", "predict", *words)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert not list(out.glob("*")) or not out.is_dir()
        return re.sub(r"\s+", " ", done.stderr)

    assert "none of the tables is there" in refused(3, images, tmp_path / "a")
    strict = folder / "model", "--strict"
    assert "outside 0 to 120 years" in refused(3, days, tmp_path / "b", *strict)
    assert "not the file that SHA256SUMS names" in refused(3, table, tmp_path / "c", cut)
    assert "cannot be written" in refused(6, table, tmp_path / "file" / "out")
    assert "cannot be written" in refused(6, table, tmp_path / "file")
    # without images the table speaks, and what else lies in the folder stays
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    told = predict(folder / "model", table, tmp_path / "out", tmp_path / "cache")
    assert {row["image: recurred"] for row in told.values()} == {""}
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_sites_without_a_table_or_without_images_take_part_in_what_they_can(tmp_path: Path) -> None:
    report, folder = simulate(
        tmp_path, "--study", "brain_primary", "--phantom", "missing", "--phantom-patients", "170",
        "--evaluations", "within_site", "--minimum-patients", "5",
    )  # fmt: skip
    sites = {s["name"]: s for s in report["images"]["sites"]}
    assert any(s["with_image"] == 0 for s in sites.values())
    assert any(s["with_table"] == 0 < s["with_image"] for s in sites.values())
    assert any(c["channel"] == "t2w" for s in sites.values() for c in s["channels_missing"])
    codes = {r["site"]: r["not"] for r in report["participation"]}
    for name, s in sites.items():
        if not s["with_image"] or not s["with_table"]:
            assert codes[name]["D06"] > 0
    assert value(report, "fusion")["n"] > max(
        value(report, "clinical")["n"], value(report, "image")["n"]
    )
    told = predict(folder / "model", folder / "data", tmp_path / "out", tmp_path / "cache")
    homes = agree(told, folder, {"logistic", "image", "fusion"})
    assert sum(int((h.imaged & ~h.tabled).sum()) for h in homes) > 0, "some have an image alone"


def test_where_the_image_carries_nothing_the_report_says_so(tmp_path: Path) -> None:
    report, folder = simulate(
        tmp_path, "--study", "liver_recurrence", "--phantom", "null", "--phantom-patients", "150",
        "--virtual-sites", "2",
        "--evaluations", "within_site",
    )  # fmt: skip
    told = next(r for r in report["images"]["adds"] if r["than"] == "clinical")
    assert told["answer"] in ("not better", "worse")
    assert "improves on clinical" not in (folder / "report.html").read_text()
    assert abs(value(report, "image")["value"] - 0.5) < 0.15
