"""A small town of hospitals in one table of one's own, and the whole program on it, in this
process."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from common.data.cohort import Cohort
from server.app import Outcome
from simulation.__main__ import main, parser
from simulation.evaluation.predictions import Comparison
from simulation.federation.options import checked
from simulation.federation.setting import Setting, cohorts, federate, prepare
from simulation.report.finish import compared

Row = dict[str, str]

SIZES = {"Ash": 120, "Beech": 90, "Cedar": 40, "Dogwood": 30}
"""Cedar holds one class only, Dogwood three events."""
FEW = {"Cedar": 0, "Dogwood": 3}
PARTS = 3

STUDY = """
name = "town"
question = "Has it spread?"
table = "patients.csv"
id = "patient"
site = "hospital"
nulls = ["NA"]
times = ["admission", "surgery"]
learners = ["logistic"]

[task.early]
time = "admission"
alarm = 0.99

[task.late]
time = "surgery"
alarm = 0.55

[label]
column = "spread"
classes = ["no", "yes"]
values = ["0", "1"]
unknown = ["9"]

[survival]
time = "months"
event = "status"
dead = ["dead"]
alive = ["alive"]
unit = "months"
horizon = 60

[[feature]]
name = "age"
unit = "years"
low = 18
high = 110
available_at = "admission"

[[feature]]
name = "marker"
unit = "ng/mL"
low = 0
high = 100000
scale = "log"
available_at = "admission"

[[feature]]
name = "kind"
values = ["a", "b", "c"]
available_at = "admission"

[[feature]]
name = "nodes"
unit = "nodes"
low = 0
high = 50
available_at = "surgery"
"""


def people(seed: int = 0, sizes: dict[str, int] | None = None) -> list[Row]:
    """Patients whose label depends on every feature; one in twenty has an unknown label, one value
    in twelve is missing."""
    r = np.random.default_rng(seed)
    rows = []
    for hospital, n in (sizes or SIZES).items():
        x = r.normal(size=(n, 4))
        kind = r.integers(0, 3, n)
        risk = (
            x[:, 0] + 0.8 * x[:, 1] + 0.8 * (kind == 1) + 0.6 * x[:, 2] + 0.8 * r.logistic(size=n)
        )
        events = FEW.get(hospital, n // 3)
        sick = np.argsort(np.argsort(-risk)) < events
        for i in range(n):
            values = {
                "age": f"{60 + 9 * x[i, 0].clip(-4, 4):.0f}",
                "marker": f"{np.exp(2 + x[i, 1]):.2f}",
                "kind": "abc"[kind[i]],
                "nodes": f"{(10 + 4 * x[i, 2]).clip(0, 50):.0f}",
            }
            rows.append(
                {
                    "patient": f"{hospital[0]}{i:04d}",
                    "hospital": hospital,
                    "spread": "9" if r.random() < 0.05 else str(int(sick[i])),
                    **{k: "NA" if r.random() < 0.08 else v for k, v in values.items()},
                    "months": str(int(r.integers(1, 90))),
                    "status": "dead" if r.random() < 0.3 + 0.3 * sick[i] else "alive",
                }
            )
    return rows


def write(folder: Path, rows: Iterable[Row], study: str = STUDY) -> Path:
    """`town.toml` and `data/patients.csv` in a new folder; returns the study file."""
    rows = list(rows)
    (folder / "data").mkdir(parents=True)
    with (folder / "data" / "patients.csv").open("w", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    (folder / "town.toml").write_text(study, encoding="utf-8")
    return folder / "town.toml"


def changed(rows: Iterable[Row], when: Callable[[Row], bool], **values: str) -> list[Row]:
    """The rows, with `values` in place of theirs where `when` holds."""
    return [row | values if when(row) else row for row in rows]


def options(folder: Path, *more: str) -> list[str]:
    base = [
        "--study",
        str(folder / "town.toml"),
        "--data",
        str(folder / "data"),
        "--out",
        str(folder / "runs"),
    ]
    return [*base, "--folds", str(PARTS), "--bootstraps", "100", *more]


def begin(folder: Path, rows: Iterable[Row], *more: str, study: str = STUDY) -> Setting:
    """Everything that a run decides before its first round."""
    write(folder, rows, study)
    (folder / "run").mkdir()
    return prepare(checked(parser().parse_args(options(folder, *more)), folder / "run"))


def train(setting: Setting) -> Outcome:
    return federate(setting, Console(file=io.StringIO()))


def judge(setting: Setting, outcome: Outcome) -> tuple[list[Cohort], Comparison]:
    """What the report's figures are made of."""
    sites = cohorts(setting)
    return sites, compared(setting, outcome, sites)


@dataclass(frozen=True)
class Done:
    """What the command left: exit status, all it printed, its folder and its report where there is
    one."""

    status: int
    said: str
    folder: Path
    report: dict[str, Any]


def command(folder: Path, rows: Iterable[Row], *more: str, study: str = STUDY) -> Done:
    """The whole program."""
    write(folder, rows, study)
    return launch(*options(folder, *more), runs=folder / "runs")


def launch(*arguments: str, runs: Path) -> Done:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(arguments)
    home = max(runs.iterdir(), default=runs)  # a run that came to nothing leaves no folder
    report = home / "report.json"
    return Done(
        status, said.getvalue(), home, json.loads(report.read_text()) if report.exists() else {}
    )
