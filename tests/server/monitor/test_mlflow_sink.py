"""A run in MLflow: once, whatever is repeated; with every step, in a folder on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from server.__main__ import main
from server.coordinator import launch
from server.ledger import ledger
from server.monitor.mlflow_sink import Sink
from tests.server.monitor import ledgers

mlflow = pytest.importorskip("mlflow", reason="the extra [mlflow] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ["North", "Zürich / 2"]


def runs(uri: str) -> Any:
    client = mlflow.MlflowClient(tracking_uri=uri)
    return client, client.search_runs([e.experiment_id for e in client.search_experiments()])


def test_a_run_is_one_run_there_however_often_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, uri = ledgers.run(tmp_path / "r", 6, names=NAMES), f"file:{tmp_path}/ml"
    raw = (folder / ledger.NAME).read_bytes().splitlines(keepends=True)
    (folder / ledger.NAME).write_bytes(b"".join(raw[:4]))
    sink = Sink(folder, uri)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true", (
        "MLflow tells its makers of each use unless it is told not to"
    )
    sink.take()
    (folder / ledger.NAME).write_bytes(b"".join(raw[:5]))
    sink.take()
    # another process, as after a restart of the coordinator
    (folder / ledger.NAME).write_bytes(b"".join(raw))
    for _ in range(2):
        assert main(["mlflow", str(folder), "--uri", uri, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["lines"] == len(raw)
    client, (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    assert (run.data.params["task"], run.data.params["seed"]) == ("preop", "0")
    assert "keys" not in run.data.params
    history = client.get_metric_history(run.info.run_id, "mlp.loss")
    assert [m.step for m in history] == [0, 1, 2, 3, 4, 5]
    assert len(client.get_metric_history(run.info.run_id, "site/Z_rich _ 2/mlp.loss")) == 6
    assert run.data.metrics["mlp.within_site.auc"] == 0.81
    assert run.data.tags["fedmets.state_hash"] == "b" * 64


def test_an_mlflow_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ledgers.run(tmp_path / "r", 2, names=NAMES)
    (tmp_path / "file").write_text("")
    assert main(["mlflow", str(folder), "--uri", f"file:{tmp_path}/file/under"]) == 5
    assert "[R06] MLflow at" in capsys.readouterr().err


def test_a_run_that_is_started_with_it_is_handed_over_as_it_goes_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, seen = f"file:{tmp_path}/ml", list[int]()

    def new(flower: Any, run: Any, tell: Any) -> dict[str, object]:
        path = ledgers.run(Path(run.out), 3, names=NAMES) / ledger.NAME
        lines = path.read_bytes().splitlines(keepends=True)
        for steps in (1, 2, 3):
            path.write_bytes(b"".join(lines[: 1 + steps]))
            tell(launch.summary(path.parent))
            client, (there,) = runs(uri)
            seen.append(len(client.get_metric_history(there.info.run_id, "mlp.loss")))
        path.write_bytes(b"".join(lines))
        return launch.summary(path.parent)

    monkeypatch.setattr(launch, "new", new)
    words = [
        "run",
        "--study",
        "colorectal_metastasis",
        "--expect",
        "3",
        "--set",
        "secure=true",
        "--state",
        str(tmp_path),
        "--out",
        str(tmp_path / "runs"),
    ]
    assert main([*words, "--mlflow", uri, "--log", str(tmp_path / "log")]) == 0
    assert seen == [1, 2, 3]
    _, (there,) = runs(uri)
    assert there.info.status == "FINISHED"
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events[-1] == "run_finished"
    assert capsys.readouterr().out.strip().startswith(str(tmp_path / "runs"))
