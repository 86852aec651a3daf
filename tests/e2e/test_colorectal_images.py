"""CT by barcode as a user runs it: few of the table's patients have one, so that no network is
trained, and the report says why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from simulation.federation import synthetic_cohorts
from tests.paths import ROOT

PATIENTS = 150
pytestmark = pytest.mark.slow


def simulate(out: Path, phantom: str) -> tuple[dict[str, Any], Path]:
    options = [
        "--phantom",
        phantom,
        "--phantom-patients",
        str(PATIENTS),
        "--bootstraps",
        "100",
        "--set",
        "boosting.trees=6",
    ]
    command = [
        sys.executable,
        "-m",
        "simulation",
        "--study",
        "colorectal_metastasis",
        *options,
        "--json",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    return report, next(p.parent for p in out.glob("*/report.json"))


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return simulate(tmp_path_factory.mktemp("images"), "images")


def test_the_report_says_that_image_and_fusion_were_not_run_and_why(
    pictured: tuple[dict[str, Any], Path],
) -> None:
    report, folder = pictured
    why = (
        "image, fusion: not run, no site holds images of 10 labelled patients of each of two "
        "classes"
    )
    assert why in report["not_run"]
    assert why in (folder / "report.html").read_text()
    assert {r["model"] for r in report["results"]} == {"clinical", "logistic", "boosting"}
    assert "image" not in json.loads((folder / "model" / "model.json").read_text())["learners"]
    assert not [a for a in report["alarms"] if a.startswith("E11")]


def test_the_flow_and_the_sites_account_for_the_images(
    pictured: tuple[dict[str, Any], Path],
) -> None:
    report, folder = pictured
    flow = report["flow"]
    assert (
        f"images: {synthetic_cohorts.IMAGED_PATIENTS} cases with an image, "
        f"{flow['kept'] - synthetic_cohorts.IMAGED_PATIENTS - 1} "
        "without, 1 quarantined "
        "(D06: 1)" in flow["notes"]
    )
    assert "D05: 1 patients with images are not in the table" in flow["notes"]
    sites = report["images"]["sites"]
    assert (
        sum(s["with_image"] for s in sites)
        == synthetic_cohorts.IMAGED_PATIENTS
        > sum(s["labelled_with_image"] for s in sites)
    )
    assert sum(s["expert_outlines"] for s in sites) == 0
    assert report["images"]["adds"] == report["images"]["roi_source"] == []
    assert report["images"]["fusion"] is report["images"]["explanation"] is None
    for name in ("report.html", "report.json", "ledger.jsonl"):
        assert "TCGA-AA-Z" not in (folder / name).read_text()


def test_the_clinical_models_are_those_of_the_cohort_without_images(
    pictured: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    report, _ = pictured
    plain, _ = simulate(tmp_path, "default")
    assert plain["images"] is None
    assert any(
        n.startswith("image, fusion: not run, no site holds images") for n in plain["not_run"]
    )
    assert report["results"] == plain["results"]
    assert report["differences"] == plain["differences"]
