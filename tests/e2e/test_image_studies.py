"""The studies with images as a user runs them: synthetic cohort, networks, report, the site's own pages, what is left out and said."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
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
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500)


def simulate(out: Path, *more: str, learners: str = "logistic,image,fusion", quick: Sequence[str] = QUICK) -> tuple[dict[str, Any], Path]:
    settings = [x for q in quick for x in ("--set", q)]
    options = ["--out", str(out), "--bootstraps", "100", "--json", "--learners", learners, *settings, *more]
    done = launch("simulation", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    folders = [p for p in out.iterdir() if (p / "report.json").exists()]
    folder = next(p for p in folders if json.loads((p / "report.json").read_text())["ledger_head"] == report["ledger_head"])
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    return report, folder


def value(report: dict[str, Any], model: str, arm: str = "federated", evaluation: str = "within_site") -> dict[str, Any]:
    wanted = (model, arm, evaluation, "all", "auc")
    return next(r for r in report["results"] if (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]) == wanted)


@pytest.fixture(scope="module")
def liver(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return simulate(tmp_path_factory.mktemp("liver"), "--study", "liver_recurrence", "--phantom-patients", "150", "--virtual-sites", "2")


def test_the_report_has_all_models_in_all_arms(liver: tuple[dict[str, Any], Path]) -> None:
    report, _ = liver
    for model in ("clinical", "image", "fusion"):
        for arm in ("federated", "pooled"):
            assert value(report, model, arm)["n"] > 100
    assert value(report, "image")["n"] < value(report, "fusion")["n"] == value(report, "clinical")["n"]
    assert any("leave_one_site_out not run, --full asks for it" in n for n in report["not_run"])
    assert {r["than"] for r in report["images"]["adds"]} == {"clinical", "image"}
    assert sum(r["n"] for r in report["images"]["roi_source"] if r["model"] == "image") == value(report, "image")["n"]
    assert report["images"]["explanation"]["cases"] > 50
    assert {r["feature"] for r in report["importance"] if r["model"] == "fusion"} >= {"image", "latent code", "cea"}
    assert not [a for a in report["alarms"] if a.startswith("E11")]


def test_the_page_shows_no_patient_and_the_sites_own_page_does(liver: tuple[dict[str, Any], Path]) -> None:
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


def test_a_site_embeds_and_explains_with_the_model(liver: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, folder = liver
    site = next((folder / "sites").iterdir()) / "site.toml"
    given = ["--site", str(site), "--study", "liver_recurrence", "--model", str(folder / "model"), "--json"]
    embedded = launch("client", "embed", *given, "--out", str(tmp_path / "embeddings"))
    assert embedded.returncode == 0, embedded.stderr
    assert json.loads(embedded.stdout)["patients"] > 50
    explained = launch("client", "explain", *given, "--out", str(tmp_path / "page.html"), "--patients", "2")
    assert explained.returncode == 0, explained.stderr
    assert (tmp_path / "page.html").read_text().count("<figure>") == 2
    copied = launch("client", "explain", *given, "--report", str(folder / "report.html"), "--out", str(tmp_path / "mine.html"))
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
from client.intake import read_table
from common import study
cohort = read_table(study.load("liver_recurrence"), "preop", Path({str(data)!r}), cache=Path({str(cache)!r})).cohort
assert cohort.imaged.sum() > 100, cohort.imaged.sum()
for p in cohort.pictures:
    p is None or p.voxels.sum()
print("OPENED", len(opened))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "OPENED 0" in done.stdout, done.stdout + done.stderr


def test_sites_without_a_table_or_without_images_take_part_in_what_they_can(tmp_path: Path) -> None:
    report, _ = simulate(
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
    assert value(report, "fusion")["n"] > max(value(report, "clinical")["n"], value(report, "image")["n"])


def test_where_the_image_carries_nothing_the_report_says_so(tmp_path: Path) -> None:
    report, folder = simulate(
        tmp_path, "--study", "liver_recurrence", "--phantom", "null", "--phantom-patients", "150", "--virtual-sites", "2",
        "--evaluations", "within_site",
    )  # fmt: skip
    told = next(r for r in report["images"]["adds"] if r["than"] == "clinical")
    assert told["answer"] in ("not better", "worse")
    assert "improves on clinical" not in (folder / "report.html").read_text()
    assert abs(value(report, "image")["value"] - 0.5) < 0.15
