"""Finish of a run, after the last round: the comparison, the report in its faces, the model; all of
it can be made again from the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from common.data.cohort import Cohort, Fold
from common.runtime.console import Console, progress
from server.app import Outcome
from server.config.jobs import build_jobs, clinical_head
from server.export import model_folder as model_files
from server.report import write
from simulation.attack.privacy_audit import audit
from simulation.attack.privacy_cost import Sweep, Trained, Utility, utility
from simulation.evaluation import split_checks
from simulation.evaluation.predictions import Comparison, FederatedFit, compare
from simulation.evaluation.sums import Sums
from simulation.federation.options import epsilons
from simulation.federation.setting import Setting, cohorts, federate
from simulation.report import picture_panel, terminal
from simulation.report.record import record


def finish(setting: Setting, outcome: Outcome, console: Console, started: float) -> dict[str, Any]:
    """Write the report in its three faces and model/, print the tables; returns the report."""
    sites = cohorts(setting)
    run, args = setting.run, setting.args
    folds = run.folds(outcome.groups)
    split_checks.verify(sites, folds, run.seed, run.parts)
    with progress(console) as bar:
        line = bar.add_task("comparing", total=None)

        def tell(what: str, done: int, of: int) -> None:
            bar.update(
                line, description=f"local and pooled models: {what}", completed=done, total=of
            )

        comparison = compared(setting, outcome, sites, tell)
    models = [*(["clinical"] if comparison.chosen else []), *(h.name for h in outcome.heads)]
    sums = Sums(comparison, args.bootstraps, run.seed)
    priced = _priced(setting, outcome, sums, sites, console)
    found = {"utility": priced.points, "privacy": priced.spent, "unbounded": priced.unbounded}
    found |= audit(
        setting, outcome, sites, priced.models, lambda what: console.print(what, highlight=False)
    )
    with console.status("intervals"):
        report = record(setting, outcome, sums, found, sites, models)
    split_checks.write(setting.folder, sites, comparison, models, run.seed)
    split_checks.verify_written(setting.folder, setting.sites)
    final = outcome.states[Fold()]
    report["model_files"] = model_files.write(
        setting.folder / "model", run, setting.study, setting.task, final, outcome.heads, report
    )
    shown = picture_panel.own_pages(setting, sites)
    if report["images"]:
        report["images"]["pictures"] = shown
    report["seconds"] = round(time.monotonic() - started, 1)
    write.publish(setting.folder, report)
    terminal.closing(console, report)
    return report


def _priced(
    setting: Setting, outcome: Outcome, sums: Sums, sites: Sequence[Cohort], console: Console
) -> Utility:
    """What each epsilon that was asked for costs; empty without any."""
    args = setting.args
    asked, _ = epsilons(args.epsilon)
    if not asked:
        return Utility([], [], [], [])
    trained = Trained(
        setting.run, setting.study, setting.study.schema_at(setting.task), outcome, sums, sites
    )
    return utility(
        trained,
        Sweep(asked, args.delta),
        lambda run: federate(replace(setting, run=run), console),
        tell=lambda what, at, of: console.print(
            f"what privacy costs, {at + 1} of {of}: {what}", highlight=False
        ),
    )


def compared(
    setting: Setting,
    outcome: Outcome,
    sites: Sequence[Cohort],
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Comparison:
    """Local and pooled models of the run's own jobs, and everybody's predictions."""
    run, study = setting.run, setting.study
    mine = {n for h in outcome.heads for n in (h.name, *h.needs)} - {"preprocessing"}
    jobs = [
        j for j in build_jobs(run, study, outcome.groups, outcome.heads) if j.learner.name in mine
    ]
    return compare(
        sites,
        FederatedFit(jobs, outcome.states, run.seed, run.parts, run.preprocessing(study)),
        clinical=clinical_head(study, outcome.heads),
        pooled_site=setting.parted.pooled_site,
        tell=tell,
    )
