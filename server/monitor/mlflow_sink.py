"""MLflow sink: configuration as parameters, curves and metrics by step, hashes and paths as tags.
Needs the extra `[mlflow]`.

Only the ledger is read. What MLflow has of a run already is not written again: a run that is
resumed, or written twice, is one run there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common import __version__
from common.errors import FederationError, UsageError
from server.ledger import ledger
from server.monitor.ledger_follower import Follower, Line

_TAG = "fedmets.run"
_LINES = "fedmets.lines"
"""Tag: how many ledger lines MLflow has had."""
_BATCH = 900
"""Metrics in one call; MLflow takes 1000."""
_LONGEST_PARAMETER = 500
"""Characters of a parameter."""


class Sink:
    """`take` hands over what is new. Nothing is lost by an MLflow that is away for a while: the
    next call brings it."""

    def __init__(self, folder: Path, uri: str) -> None:
        try:
            import os

            # a folder is what a hospital's own machine has; MLflow asks for a word since it would
            # rather have a database
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            # it greets its makers otherwise
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            import mlflow
        except ImportError as error:
            raise UsageError(
                "C01",
                f"--mlflow needs the package mlflow-skinny ({error}): pip install "
                "'fedmets[mlflow]'",
            ) from error
        self._client: Any = None
        self._mlflow: Any = mlflow
        self._uri, self._folder = uri, folder
        self._waiting: list[Line] = []
        self._ledger = Follower(folder / ledger.NAME, self._waiting.append, self._waiting.clear)
        self._run = ""
        self._had = 0

    def take(self) -> None:
        """FederationError R06 where MLflow does not do it."""
        self._ledger.read()
        try:
            self._client = self._client or self._mlflow.MlflowClient(tracking_uri=self._uri)
            for line in self._waiting:
                self._line(line)
            if self._waiting and self._run:
                self._client.set_tag(self._run, _LINES, str(self._had))
        except Exception as error:  # whatever MLflow, its transport or its store raises
            raise FederationError(
                "R06",
                f"MLflow at '{self._uri}' did not take the run ({error}); the run itself is not "
                "touched",
            ) from error
        self._waiting.clear()

    def _line(self, line: Line) -> None:
        if not self._run:
            self._begin(line)
        number = int(line["n"]) + 1
        if number <= self._had:
            return
        when = line.get("time")
        stamp = int(1000 * (float(when) if when is not None else time.time()))
        metrics = list(values(line))
        for start in range(0, len(metrics), _BATCH):
            self._log(
                metrics[start : start + _BATCH],
                stamp,
                int(line["step"] if "step" in line else line.get("exchanges") or 0),
            )
        if line["kind"] == "close":
            self._client.set_tag(self._run, "fedmets.state_hash", line["state_hash"])
            self._client.set_tag(self._run, "fedmets.ledger_head", line["hash"])
            for name in ("model", "report.html", "report.json"):
                if (self._folder / name).exists():
                    self._client.set_tag(
                        self._run, f"fedmets.{name}", str((self._folder / name).resolve())
                    )
        if line["kind"] == "report":
            self._client.set_tag(self._run, "fedmets.report_sha256", line["sha256"])
        if line["kind"] in _STATUS:
            self._client.set_terminated(self._run, _STATUS[line["kind"]])
        if line["kind"] == "resume" and self._had:
            self._client.update_run(self._run, "RUNNING")
        self._had = number

    def _log(self, metrics: list[tuple[str, float]], stamp: int, step: int) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(
            self._run, metrics=[Metric(key, value, stamp, step) for key, value in metrics]
        )
        # with each batch, so that a process that ends here does not repeat more than one
        self._client.set_tag(self._run, _LINES, str(self._had))

    def _begin(self, line: Line) -> None:
        """The run's own at MLflow: found again by its name, or made."""
        name, config = str(line["name"]), line["config"]
        experiment_there = self._client.get_experiment_by_name(config["study"])
        experiment = (
            experiment_there.experiment_id
            if experiment_there
            else self._client.create_experiment(config["study"])
        )
        runs = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{name}'", max_results=1)
        if runs:
            self._run = runs[0].info.run_id
            self._had = int(runs[0].data.tags.get(_LINES, "0"))
            return
        tags = {
            _TAG: name,
            "fedmets.folder": str(self._folder.resolve()),
            "fedmets.version": __version__,
            "fedmets.run_id": line["run"],
        }
        created = self._client.create_run(
            experiment, start_time=int(1000 * line["time"]), tags=tags, run_name=self._folder.name
        )
        self._run = created.info.run_id
        for key, value in {
            **parameters(config),
            "sites": str(len(line["sites"])),
            "schema": line["schema"],
        }.items():
            self._client.log_param(self._run, key, value)


_STATUS = {"close": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """The configuration; not where keys and folders lie."""
    return {
        k: str(v)[:_LONGEST_PARAMETER]
        for k, v in config.items()
        if k not in ("keys", "sites", "out", "resume") and v != ""
    }


def values(line: Line) -> Iterator[tuple[str, float]]:
    """Metric -> value of one ledger line. A site's metrics are named after the site."""
    if line["kind"] == "exchange":
        yield from _exchanged(line)
    if line["kind"] == "close":
        for model, score in line.get("scores", {}).items():
            if score.get("value") is not None:
                yield f"{model}.holdout.auc_pooled", float(score["value"])


def _exchanged(line: Line) -> Iterator[tuple[str, float]]:
    yield "seconds", float(line["seconds"])
    yield "sent_bytes", float(line["sent"])
    yield "received_bytes", float(line["received"])
    yield "jobs_done", float(line["done"])
    contributed = sum(what == "contributed" for what in line["sites"].values())
    yield "sites_contributed", float(contributed)
    for row in line.get("metrics", []):
        for metric, value in row["all"].items():
            yield f"{row['learner']}.{metric}", float(value)
        for site, site_metrics in row["sites"].items():
            for metric, value in site_metrics.items():
                yield f"site/{_key(site)}/{row['learner']}.{metric}", float(value)
    for site, spent in line.get("spent", {}).items():
        yield f"site/{_key(site)}/epsilon", float(spent["epsilon"])
    for row in line.get("evaluation", []):
        for metric in ("auc", "auc_pooled", "brier", "log_loss"):
            if row.get(metric) is not None:
                yield f"{row['model']}.{row['evaluation']}.{metric}", float(row[metric])


def _key(site: str) -> str:
    """What MLflow allows in a name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in site) or "_"


def write(folder: Path, uri: str) -> dict[str, object]:
    """All that the ledger has. Returns MLflow's id of the run."""
    sink = Sink(folder, uri)
    sink.take()
    return {"folder": str(folder), "run": sink._run, "lines": sink._had}
