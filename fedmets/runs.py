"""Runs as pandas DataFrames: simulate a federation from Python, or open the folder of a run."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from common.errors import RunError, UsageError
from common.runtime import environment
from common.study.study import Study

if TYPE_CHECKING:
    import pandas as pd

REPORT, PREDICTIONS = "report.json", "predictions.tsv"


@dataclass(frozen=True)
class Run:
    """A finished run, simulated or between hospitals, as its folder has it."""

    folder: Path
    report: Mapping[str, Any]
    """What `report.json` says; docs/report.md names every key."""

    @property
    def state_hash(self) -> str:
        """SHA-256 of the final models: the same for the same data, options and machine."""
        return str(self.report["state_hash"])

    @property
    def page(self) -> Path:
        """The report for reading, an HTML file."""
        return self.folder / "report.html"

    @property
    def model(self) -> Path:
        """The folder that `fedmets client predict --model` and other programs take."""
        return self.folder / "model"

    @cached_property
    def results(self) -> pd.DataFrame:
        """A row for each metric of each model: model, arm, evaluation, site, metric, value, low,
        high, n, events, estimable."""
        return self._table("results")

    @cached_property
    def differences(self) -> pd.DataFrame:
        """A row for each comparison on the same patients: a, b, evaluation, metric, difference,
        low, high, n, events, sites."""
        return self._table("differences")

    @cached_property
    def importance(self) -> pd.DataFrame:
        """A row for each feature of each head: model, feature, title, mean_absolute_shap."""
        return self._table("importance")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row for each patient, model, arm and evaluation that scored the patient: site, patient
        (salted), part, label, p_<class>.

        `label` is a class's name, missing where it is not known. RunError S01 for a run between
        hospitals: what it predicted for whom is known at each site alone.
        """
        import pandas as pd

        from client.site import site_file

        files = sorted(self.folder.glob(f"sites/*/{PREDICTIONS}"))
        if not files:
            raise RunError(
                "S01",
                f"'{self.folder}' holds no predictions: a run between hospitals leaves them at "
                "its sites; use results",
            )
        classes = list(self.report["label"]["classes"])
        tables = []
        for path in files:
            table = _long(pd.read_csv(path, sep="\t", dtype=str), classes)
            tables.append(table.assign(site=site_file.load(path.parent / "site.toml").name))
        together = pd.concat(tables, ignore_index=True)
        return together[
            [
                "site",
                "patient",
                "part",
                "label",
                "model",
                "arm",
                "evaluation",
                *(f"p_{c}" for c in classes),
            ]
        ]

    def _table(self, key: str) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(list(self.report.get(key) or []))


def _long(wide: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """One site's file, a column a model, as rows; a model that has not scored a patient has no row
    of the patient."""
    import pandas as pd

    keys = ["patient", "part", "label"]
    rows = wide.melt(id_vars=keys, var_name="key", value_name="probabilities").dropna(
        subset=["probabilities"]
    )
    key = rows["key"].str.split("|", expand=True)
    values = rows["probabilities"].str.split(" ", expand=True).astype(float)
    known = rows["label"].astype(int)
    out = pd.DataFrame({"patient": rows["patient"], "part": rows["part"].astype(int)})
    out["label"] = known.map(dict(enumerate(classes)))
    out[["model", "arm", "evaluation"]] = key.to_numpy()
    for number, name in enumerate(classes):
        out[f"p_{name}"] = values[number].to_numpy()
    return out


def load_run(folder: str | Path) -> Run:
    """The run in `folder`. RunError S01 where it holds no report, or one that cannot be read."""
    path = Path(folder) / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            "S01", f"'{path}' is not there: give the folder of a finished run, or resume it first"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            "S01", f"'{path}' cannot be read ({error}); resume the run, which writes it again"
        ) from error
    if not isinstance(report, dict) or "state_hash" not in report:
        raise RunError(
            "S01", f"'{path}' is not the report of a run; give the folder that the run printed"
        )
    return Run(Path(folder), report)


def simulate(
    study: str | Path | Study = "colorectal_metastasis",
    data: str | Path | None = None,
    *,
    progress: bool = False,
    **options: object,
) -> Run:
    """Run a federation of virtual hospitals in this process, and return what came of it.

    `study`: its name, the path of a `.toml` or `.py` file, or a Study; `data`: the folder or table
    of its patients, None for a synthetic cohort. `options`: those of `fedmets simulate --help`,
    with underscores: `task="preop"`, `virtual_sites=5`, `learners="logistic"`,
    `set=["boosting.trees=40"]`, `out="runs"`, `resume="runs/..."`. The same options give the same
    bits as the command. `progress`: tables and progress on stderr. UsageError C01 for an option
    that is not there or out of range, and whatever else the command ends with.
    """
    environment.prepare()
    from common.runtime.console import Console
    from simulation.federation.options import settle
    from simulation.run import carry_out

    words = dict(options)
    if "resume" not in words:
        words["study"] = _reference(study, str(words.get("out", "runs")))
    if data is not None:
        words["data"] = str(data)
    asked = settle(_arguments(words))
    carry_out(asked, Console(stderr=True, quiet=not progress))
    return load_run(asked.folder)


def _reference(study: str | Path | Study, out: str) -> str:
    """How a site names the study; one that was made in Python is written to a file, for each site
    reads it for itself."""
    if not isinstance(study, Study):
        return str(study)
    from common.study.load import load
    from server.ledger import state_store

    path = Path(out) / "studies" / f"{study.name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = "Channel, Choice, Imaging, Label, Number, Schema, Study, Survival, Task"
    state_store.write(path, f"from fedmets import {names}\n\nSTUDY = {study!r}\n".encode())
    try:
        same = load(str(path)) == study
    except UsageError:
        same = False
    if not same:
        path.unlink()
        raise UsageError(
            "C02",
            f"study '{study.name}' is not made of plain values: save it as a .py file and give "
            "its path",
        )
    return str(path)


def _arguments(words: Mapping[str, object]) -> argparse.Namespace:
    """The options as the command line would have them; a fault is raised instead of ending the
    process."""
    from simulation.__main__ import parser

    command = parser()
    names = {action.dest for action in command._actions} - {"help", "json", "draft", "prepare"}
    strange = sorted(set(words) - names)
    if strange:
        near = [difflib.get_close_matches(word, names, 1) for word in strange]
        texts = [
            f"'{word}'" + (f" (did you mean '{n[0]}'?)" if n else "")
            for word, n in zip(strange, near, strict=True)
        ]
        raise UsageError(
            "C01",
            f"simulate has no option {', '.join(texts)}; `fedmets simulate --help` lists them",
        )

    def fault(message: str) -> NoReturn:
        raise UsageError("C01", f"{message}; `fedmets simulate --help` lists the options")

    command.error = fault  # type: ignore[method-assign]
    argv: list[str] = []
    for word, value in words.items():
        option = f"--{word.replace('_', '-')}"
        if value is True:
            argv.append(option)
        elif isinstance(value, list | tuple):
            argv += [f"{option}={item}" for item in value]
        elif value is not None and value is not False:
            argv.append(f"{option}={value}")
    args = command.parse_args(argv)
    args.given = sorted(words)
    return args
