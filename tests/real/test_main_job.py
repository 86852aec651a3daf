"""The main job on the real colorectal table, through the command: what a reviewer would look at
first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import DATA, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA / "tcga-coadread").is_dir(),
        reason=f"no tcga-coadread under {DATA}; set FEDMETS_DATA to the folder that has it",
    ),
]


def run(cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulation", "--data", str(DATA / "tcga-coadread"), *options]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )


def report(cwd: Path, *options: str) -> dict[str, Any]:
    done = run(cwd, "--json", *options)
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def auc(
    report: dict[str, Any], model: str, arm: str, evaluation: str, site: str = "all"
) -> dict[str, Any]:
    key = {"model": model, "arm": arm, "evaluation": evaluation, "site": site, "metric": "auc"}
    (row,) = (r for r in report["results"] if key.items() <= r.items())
    return row


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return report(tmp_path_factory.mktemp("post"), "--task", "postresection", "--bootstraps", "200")


def test_the_hospitals_are_the_sites(post: dict[str, Any]) -> None:
    sites = {s["name"]: (s["n"], s["events"]) for s in post["sites"]}
    assert sites["Indivumed"] == (253, 38)
    assert sites["Pittsburgh"] == (22, 10)
    assert sum(n for n, _ in sites.values()) == 555
    assert sum(e for _, e in sites.values()) == 89
    assert [g for g in post["groups"] if len(g) == 1] == [
        ["Christiana"],
        ["Indivumed"],
        ["Pittsburgh"],
    ]


def test_the_flow_adds_up(post: dict[str, Any]) -> None:
    flow = post["flow"]
    assert (flow["read"], flow["kept"], flow["unknown_label"]) == (633, 631, 76)
    assert sum(s["kept"] for s in flow["sites"]) == 631


def test_figures_are_where_the_literature_and_pooled_models_put_them(post: dict[str, Any]) -> None:
    for model in ("logistic", "boosting"):
        for evaluation in ("within_site", "leave_one_site_out"):
            assert 0.84 < auc(post, model, "federated", evaluation)["value"] < 0.95
            gap = (
                auc(post, model, "federated", evaluation)["value"]
                - auc(post, model, "pooled", evaluation)["value"]
            )
            assert abs(gap) < 0.02
    assert (
        auc(post, "clinical", "federated", "leave_one_site_out")["value"]
        > auc(post, "clinical", "local", "leave_one_site_out")["value"]
    )
    assert post["alarms"] == []


def test_small_sites_are_not_estimable_and_never_the_worst(post: dict[str, Any]) -> None:
    for site in ("Asterand", "Michigan", "Roswell", "MSKCC", "Greater Poland"):
        row = auc(post, "clinical", "federated", "within_site", site)
        assert (row["estimable"], row["value"]) == (False, None)
    assert {b["worst_site"] for b in post["between_sites"]} <= {
        "Indivumed",
        "Christiana",
        "Pittsburgh",
        None,
    }


def test_exchanges_are_trees_times_depth_plus_a_few(post: dict[str, Any]) -> None:
    assert 180 <= post["exchanges"] <= 190


def test_before_surgery_less_is_known(tmp_path: Path, post: dict[str, Any]) -> None:
    preop = report(tmp_path, "--task", "preop", "--learners", "logistic", "--bootstraps", "200")
    assert not {"t", "n", "nodes_positive"} & {f["name"] for f in preop["features"]}
    assert 0.68 < auc(preop, "logistic", "federated", "within_site")["value"] < 0.86


def test_stage_is_refused(tmp_path: Path) -> None:
    study = tmp_path / "leak.toml"
    study.write_text(
        """
name = "leak"
question = "Does stage tell M?"
table = "coad/clinical.tsv"
id = "cases.submitter_id"
site = "project.project_id"
nulls = ["'--", "not reported", "Unknown", "Not Reported"]
duplicates = "quarantine"
[label]
column = "diagnoses.ajcc_pathologic_m"
values = { M0 = "M0", M1 = "M1", M1a = "M1", M1b = "M1" }
unknown = ["MX"]
[[feature]]
name = "stage"
column = "diagnoses.ajcc_pathologic_stage"
values = [
  "Stage I", "Stage IA", "Stage II", "Stage IIA", "Stage IIB", "Stage IIC", "Stage III", "Stage IIIA", "Stage IIIB", "Stage IIIC",
  "Stage IV", "Stage IVA", "Stage IVB",
]
"""
    )
    done = run(tmp_path, "--study", str(study))
    assert done.returncode == 4, done.stderr
    assert "L02" in done.stderr
    assert "stage" in done.stderr
