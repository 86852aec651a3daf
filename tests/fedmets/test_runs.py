"""Runs from Python: the same as the command's, as DataFrames."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import fedmets
from common.errors import RunError, UsageError
from simulation.__main__ import main

SMALL: Mapping[str, object] = {
    "phantom_patients": 300, "learners": "logistic", "evaluations": "within_site",
    "bootstraps": 100, "folds": 3,
    "virtual_sites": 2, "partition": "even",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fedmets.Run:
    return fedmets.simulate(out=tmp_path_factory.mktemp("runs"), **SMALL)


def test_it_is_what_the_command_makes(
    run: fedmets.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state_hash"] == run.state_hash


def test_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fedmets.simulate(out=tmp_path, **SMALL)
    assert capsys.readouterr() == ("", "")


def test_the_predictions_are_those_that_the_results_are_of(run: fedmets.Run) -> None:
    """scikit-learn's AUC of one site's out-of-fold probabilities is the report's."""
    rows = run.predictions.query(
        "model == 'logistic' and arm == 'federated' and evaluation == 'within_site' and "
        "label.notna()"
    )
    told = run.results.query(
        "model == 'logistic' and arm == 'federated' and evaluation == 'within_site' and metric == "
        "'auc'"
    )
    estimable = told[told["estimable"] & (told["site"] != "all")]
    assert len(estimable)
    for row in estimable.itertuples():
        those = rows[rows["site"] == row.site]
        assert len(those) == row.n
        assert roc_auc_score(those["label"] == "M1", those["p_M1"]) == pytest.approx(
            row.value, abs=1e-9
        )
    assert np.allclose(run.predictions[["p_M0", "p_M1"]].sum(axis=1), 1)
    assert set(rows["site"]) == {str(s["name"]) for s in run.report["sites"]}


def test_a_site_has_the_same_name_in_predictions_and_results(
    run: fedmets.Run, tmp_path: Path
) -> None:
    """Its own, whatever its folder is called: a name with a full stop is no folder's."""
    copy = shutil.copytree(run.folder, tmp_path / "run")
    for number, folder in enumerate(sorted((copy / "sites").iterdir())):
        folder.rename(folder.with_name(f"{number:03d}-st-mary-s"))
    names = {str(site["name"]) for site in run.report["sites"]}
    assert set(fedmets.load_run(copy).predictions["site"]) == names


def test_a_folder_opens_as_the_run_that_it_is_of(run: fedmets.Run) -> None:
    again = fedmets.load_run(run.folder)
    assert again.differences.equals(run.differences)
    assert again.page.is_file()
    assert (again.model / "model.json").is_file()


def test_a_run_that_is_taken_up_again_ends_in_the_same(run: fedmets.Run) -> None:
    assert fedmets.simulate(resume=run.folder).state_hash == run.state_hash


@pytest.mark.parametrize("name", ["colorectal_metastasis", "liver_recurrence", "brain_primary"])
def test_a_study_from_python_is_the_one_that_sites_read(name: str, tmp_path: Path) -> None:
    from fedmets.runs import _reference

    study = replace(fedmets.load_study(name), question="Asked from Python?")
    assert fedmets.load_study(_reference(study, str(tmp_path))) == study


def test_whatever_is_wrong_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'foldz' \(did you mean 'folds'\?\)"):
        fedmets.simulate(foldz=3)
    with pytest.raises(UsageError, match="--folds"):
        fedmets.simulate(folds="many", out=tmp_path)
    with pytest.raises(RunError, match="is not there"):
        fedmets.load_run(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        fedmets.load_run(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(RunError, match="not the report of a run"):
        fedmets.load_run(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        fedmets.simulat  # noqa: B018
