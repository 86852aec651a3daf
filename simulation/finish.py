"""After the last round: the comparison, the report in its faces, the model; all of it can be made again from the run's folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.station import open_station
from common.cohort import Cohort, Fold
from server import store
from server.app import Outcome
from server.jobs import build_jobs, clinical_head
from server.ledger import NAME, Ledger
from server.report import model as model_files
from server.report import page
from simulation import results, show, splits
from simulation.audit import audit
from simulation.compare import Comparison, compare
from simulation.options import epsilons
from simulation.record import record
from simulation.run import Setting, cohorts, federate
from simulation.utility import Utility, utility

PICTURES = 6
"""Patients on a virtual site's own page of pictures."""


def finish(setting: Setting, outcome: Outcome, console: Console, started: float) -> dict[str, Any]:
    """Write report.json, report.html and model/, print the tables; returns the report."""
    sites = cohorts(setting)
    run, args = setting.run, setting.args
    folds = run.folds(outcome.groups)
    splits.verify(sites, folds, run.seed, run.parts)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        line = bar.add_task("comparing", total=None)

        def tell(what: str, done: int, of: int) -> None:
            bar.update(line, description=f"local and pooled models: {what}", completed=done, total=of)

        comparison = compared(setting, outcome, sites, tell)
        models = [*(["clinical"] if comparison.chosen else []), *(h.name for h in outcome.heads)]
        bar.update(line, description="bootstrap intervals")
        rows = results.results(
            comparison, models, repeats=args.bootstraps, seed=run.seed, tell=lambda a, b: bar.update(line, completed=a, total=b)
        )
        different = results.differences(comparison, models, repeats=args.bootstraps, seed=run.seed)
    priced = _priced(setting, outcome, comparison, sites, console)
    found = {"results": rows, "differences": different, "utility": priced.points, "privacy": priced.spent, "unbounded": priced.unbounded}
    found |= audit(setting, outcome, sites, priced.models, lambda what: console.print(what, highlight=False))
    report = record(setting, outcome, comparison, found, sites, models)
    report["seconds"] = round(time.monotonic() - started, 1)
    splits.write(setting.folder, sites, comparison, models, run.seed)
    splits.verify_written(setting.folder, setting.sites)
    text = json.dumps(report, indent=1, allow_nan=False)  # a NaN in a report would be a figure that nobody can read: fail instead
    store.write(setting.folder / "report.json", text.encode())
    store.write(setting.folder / "report.html", page.render(report).encode())
    final = outcome.states[Fold().key]
    model_files.write(setting.folder / "model", run, setting.study, setting.task, final, outcome.heads, report)
    _own_pages(setting, sites)
    ledger = Ledger(setting.folder / NAME)
    sha = hashlib.sha256(text.encode()).hexdigest()
    if not any(line["kind"] == "report" and line["sha256"] == sha for line in ledger.lines):
        ledger.append("report", time=time.time(), file="report.json", sha256=sha)
    ledger.close()
    show.closing(console, report)
    return report


def _priced(setting: Setting, outcome: Outcome, comparison: Comparison, sites: Sequence[Cohort], console: Console) -> Utility:
    """What each epsilon that was asked for costs; empty without any."""
    args = setting.args
    asked, _ = epsilons(args.epsilon)
    if not asked:
        return Utility([], [], [], [])
    return utility(
        setting.run,
        setting.study,
        setting.study.schema_at(setting.task),
        outcome,
        comparison,
        sites,
        lambda run: federate(replace(setting, run=run), console),
        epsilons=asked,
        delta=args.delta,
        repeats=args.bootstraps,
        tell=lambda what, at, of: console.print(f"what privacy costs, {at + 1} of {of}: {what}", highlight=False),
    )


def _own_pages(setting: Setting, sites: Sequence[Cohort]) -> None:
    """Each site's own page of pictures, in the site's folder: it is no part of the report, for it shows patients."""
    model = setting.folder / "model"
    if "image" in json.loads((model / "model.json").read_bytes())["heads"]:
        from client.explain import explain
        from client.model import open_networks

        networks = open_networks(model)
        homes = {open_station(str(p)).site.name: p.parent for p in setting.sites.values()}
        for cohort in sites:
            if cohort.imaged.any():
                explain(cohort, networks, homes[cohort.site] / "images.html", PICTURES, lambda at, of: None)


def compared(
    setting: Setting, outcome: Outcome, sites: Sequence[Cohort], tell: Callable[[str, int, int], None] = lambda what, done, of: None
) -> Comparison:
    """Local and pooled models of the run's own jobs, and everybody's predictions."""
    run, study = setting.run, setting.study
    mine = {n for h in outcome.heads for n in (h.name, *h.needs)} - {"preprocessing"}
    jobs = [j for j in build_jobs(run, study, outcome.groups, outcome.heads) if j.learner.name in mine]
    return compare(
        sites,
        jobs,
        outcome.states,
        seed=run.seed,
        parts=run.parts,
        clinical=clinical_head(study, outcome.heads),
        prepare=run.preprocessing(study),
        pooled_site=setting.parted.pooled_site,
        tell=tell,
    )
