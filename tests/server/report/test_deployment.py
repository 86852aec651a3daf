"""The report of a run between hospitals, from ledger and states alone: what it says, and what it
leaves open."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from common.data.cohort import Cohort, Flow
from common.errors import RunError, UsageError
from common.study.study import Study, Task
from server import app
from server.config.run_config import Run
from server.ledger import ledger
from server.report import deployment
from tests import ring
from tests.paths import ROOT
from tests.server.rounds.test_driver import Local, federation
from tests.synthetic import schema, sites

STUDY = Study(
    "synthetic",
    "does it work?",
    schema(),
    {"now": Task("now", caution="A test.", alarm=0.5)},
    ("logistic",),
)


@pytest.fixture
def held() -> list[Cohort]:
    return sites(240, 3, seed=2)


def trained(
    held: list[Cohort], folder: Path, monkeypatch: pytest.MonkeyPatch, minimum: int = 1, **how: Any
) -> Path:
    monkeypatch.setattr(Run, "load_study", lambda self: STUDY)
    monkeypatch.setattr(app.enrolled_sites, "load", lambda keys: ring.enrolled(["S0", "S1", "S2"]))
    folder.mkdir(exist_ok=True)
    stations = [Local(c, folder, minimum) for c in held]
    run = Run.parse(
        {
            "study": "synthetic",
            "task": "now",
            "seed": 3,
            "parts": 3,
            "expect": 3,
            "out": str(folder / "run"),
            **how,
        }
    )
    app.coordinate(federation(stations), run)
    return folder / "run"


def ran(
    held: list[Cohort], folder: Path, monkeypatch: pytest.MonkeyPatch, minimum: int = 1, **how: Any
) -> dict[str, Any]:
    return published(trained(held, folder, monkeypatch, minimum, **how))


def published(folder: Path) -> dict[str, Any]:
    report = deployment.publish(folder)
    jsonschema.validate(report, json.loads((ROOT / "docs/report.schema.json").read_text()))
    return report


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run over `held`, without its report."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return trained(sites(240, 3, seed=2), tmp_path_factory.mktemp("finished"), monkeypatch)


@pytest.fixture
def finished(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Any]]:
    """The folder of that run with its report, to do with as one likes; and the report."""
    monkeypatch.setattr(Run, "load_study", lambda self: STUDY)
    shutil.copytree(run_folder, tmp_path / "run")
    return tmp_path / "run", published(tmp_path / "run")


def test_it_says_local_against_federated_and_what_it_cannot_say(
    held: list[Cohort], finished: tuple[Path, dict[str, Any]]
) -> None:
    folder, report = finished
    assert report["setting"] == "deployment"
    assert [(s["name"], s["n"]) for s in report["sites"]] == [
        (c.site, int((c.labels >= 0).sum())) for c in held
    ]
    assert report["totals"]["labelled"] == sum(s["n"] for s in report["sites"])
    assert {(d["a"], d["b"]) for d in report["differences"]} == {
        ("clinical federated", "clinical local"),
        ("logistic federated", "logistic local"),
    }
    assert all(
        d["estimable"] and d["low"] < d["difference"] < d["high"] for d in report["differences"]
    )
    assert any("pooled models: not run" in n for n in report["not_run"])
    assert {r["arm"] for r in report["results"]} == {"federated", "local"}
    assert any(a.startswith("E11") for a in report["alarms"]), (
        "the planted signal is above what the task calls plausible"
    )
    page = (folder / "report.html").read_text()
    assert "does it work?" in page
    assert "The final model at every site" in page
    assert "only a simulation can know it" in page
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads((folder / "report.json").read_text()) == report


def test_it_can_be_written_again_in_the_same_bytes(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = finished
    first = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    deployment.publish(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == first
    assert [line["kind"] for line in ledger.read(folder / ledger.NAME)].count("report") == 1


def test_what_only_people_know_is_kept_with_the_run(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, file = finished[0], tmp_path / "mine.toml"
    assert "Funded by nobody" not in (folder / "report.html").read_text()
    file.write_text('[tripod]\n18z = "x"\n')
    with pytest.raises(UsageError, match=r"tripod.18z is no item"):
        deployment.publish(folder, str(file))
    file.write_text('[tripod]\n18a = "Funded by nobody."\n')
    deployment.publish(folder, str(file))
    file.unlink()
    deployment.publish(folder)
    assert json.loads((folder / "report.json").read_text())["statements"] == {
        "tripod": {"18a": "Funded by nobody."}
    }
    assert "Funded by nobody" in (folder / "report.html").read_text()


def test_the_flow_is_what_the_sites_tell_of_theirs(
    held: list[Cohort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site with a few patients left out keeps its account, and then there is no sum over all that
    would tell it."""
    several = [dataclasses.replace(c, flow=Flow(120, (("no consent", 40),), 80)) for c in held]
    report = ran(several, tmp_path / "all", monkeypatch, minimum=10)
    assert {k: report["flow"][k] for k in ("read", "kept", "unknown_label")} == {
        "read": 360,
        "kept": 240,
        "unknown_label": 0,
    }
    assert [e["n"] for e in report["flow"]["excluded"]] == [120]
    assert [s["patients"] for s in report["sites"]] == [80, 80, 80]
    page = (tmp_path / "all" / "run" / "report.html").read_text()
    assert "360 patients read" in page
    assert "no consent" not in page, "a site's words for its reasons stay there"
    few = [*several[:2], dataclasses.replace(held[2], flow=Flow(83, (("no consent", 3),), 80))]
    report = ran(few, tmp_path / "few", monkeypatch, minimum=10)
    assert report["flow"]["read"] is None
    assert [s["read"] for s in report["flow"]["sites"]] == [120, 120, None]
    assert [s["patients"] for s in report["sites"]] == [80, 80, None]
    assert "1 of 3 sites keep" in (tmp_path / "few" / "run" / "report.html").read_text()
    assert "kept by each site" not in " ".join(report["not_run"])


def test_subgroups_are_looked_at_where_sites_hold_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = ran(sites(600, 3, seed=2), tmp_path, monkeypatch)
    rows = report["subgroups"]
    assert {r["by"] for r in rows} >= {"x0", "marker", "place"}
    for by in {r["by"] for r in rows}:
        mine = [r for r in rows if r["by"] == by]
        told = sum(r["n"] or 0 for r in mine)
        assert told == 600 or all(
            f"sites tell of {told} of 600 patients" in r["note"] for r in mine
        )
        assert any(r["estimable"] and r["low"] < r["auc"] < r["high"] for r in mine)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Subgroups by place" in page
    assert "no site told of a subgroup" not in page
    left_out = ran(
        sites(90, 3, seed=2), tmp_path / "left out", monkeypatch, evaluations="leave_one_site_out"
    )
    assert left_out["subgroups"] == [], "they are looked at within sites alone"
    small = ran(sites(60, 3, seed=2), tmp_path / "small", monkeypatch)
    assert small["subgroups"] == []
    assert any("subgroups: not told" in n for n in small["not_run"])


def test_a_simulation_s_report_is_not_written_over(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = finished
    file = folder / "report.json"
    file.write_text(json.dumps({**report, "setting": "simulation"}))
    with pytest.raises(RunError, match="fedmets simulate --resume"):
        deployment.publish(folder)
    file.write_text("torn")
    assert deployment.publish(folder) == report


def test_a_site_of_one_class_has_no_local_model_and_is_not_ranked(
    held: list[Cohort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dataclasses.replace(held[2], labels=held[2].labels * 0)
    report = ran([*held[:2], one], tmp_path, monkeypatch)
    assert report["trainable_sites"] == ["S0", "S1"]
    mine = {
        r["metric"]: r
        for r in report["results"]
        if r["site"] == "S2" and r["arm"] == "federated" and r["model"] == "logistic"
    }
    assert not mine["auc"]["estimable"]
    assert mine["auc"]["value"] is None
    assert next(s for s in report["sites"] if s["name"] == "S2")["events"] == 0
    assert all(b["worst_site"] != "S2" for b in report["between_sites"])


def test_nothing_is_said_of_models_that_were_not_compared(
    held: list[Cohort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = ran(held, tmp_path, monkeypatch, comparison=False)
    assert not report["results"]
    assert any("comparison of the models" in n for n in report["not_run"])
    assert report["federated_tallies"], "what the evaluation added is there"


def test_with_noise_there_is_the_noisy_score_alone(
    held: list[Cohort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = ran(held, tmp_path, monkeypatch, noise=2.0, learners="private_logistic")
    assert not report["results"]
    assert [s["model"] for s in report["noisy_scores"]] == ["private_logistic"]
    assert (tmp_path / "run" / "model" / "private_logistic.json").exists()
    assert "Every sum of this run had noise" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_that_is_not_done_has_no_report(
    held: list[Cohort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(held, tmp_path, monkeypatch)
    path = tmp_path / "run" / ledger.NAME
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    with pytest.raises(RunError, match="server resume") as caught:
        deployment.record(tmp_path / "run")
    assert caught.value.code == "S01"
