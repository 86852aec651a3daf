"""Record of a report: `report.json`, assembled once, of a run that is done and the evaluation of
its models.

A simulation and a run between hospitals differ in who has added the sums of the evaluation, and in
what only they know; that part replaces and adds keys (docs/report.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.data.cohort import ESTIMABLE, Fold
from common.federated.learner import Federated
from common.federated.states import States
from common.study.study import Study
from server.config.run_config import Run
from server.report.content import federated_sums, model_metrics
from server.report.content.model_metrics import EVALUATIONS, Model, Paired
from server.rounds.round_metrics import evaluated

Row = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A run that is done."""

    run: Run
    study: Study
    task: str
    folder: Path
    states: States
    heads: Sequence[Federated]
    """Those that were trained."""
    groups: Sequence[Sequence[str]]
    """Sites that were left out in turn."""
    state_hash: str
    ledger_head: str


@dataclass(frozen=True)
class Evaluation:
    """The run's models, whoever has added their sums."""

    models: Sequence[Model]
    paired: Sequence[Paired]
    final: Sequence[Model]
    """The models that leave, on everybody."""
    resamples: int
    interval: str
    """What an interval means."""
    pooled_site: str = ""
    """It stands for several small institutions, and is not ranked."""


@dataclass(frozen=True)
class Setting:
    """What is known in a simulation, or between hospitals, alone."""

    keys: Mapping[str, Any]
    """Of the report; `images` without what the final models say of them."""
    label_source: str
    imaged: bool
    """Does any site hold images?"""
    not_run: Sequence[str]
    alarms: Sequence[str]
    limit: Callable[[str], float | None]
    """The largest AUC of a model that can be believed (guard E11),"""
    limit_of: str
    """and what sets it."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Guard -> what was overridden, beside what the ledger has."""


def record(done: Finished, evaluation: Evaluation, setting: Setting) -> Row:
    """The whole of docs/report.md but for `model_files`, which are written with it in them."""
    run, study, final = done.run, done.study, done.states[Fold()]
    differences = model_metrics.differences(evaluation.paired)
    images = setting.keys["images"]
    trace = federated_sums.trace(done.folder, done.state_hash, done.ledger_head)
    report: Row = {
        **federated_sums.asked(study, done.task, run.seed, setting.label_source),
        "groups": [list(g) for g in done.groups],
        **trace,
        "bootstraps": evaluation.resamples,
        "interval": evaluation.interval,
        "results": model_metrics.results(evaluation.models),
        "differences": differences,
        "final_model": model_metrics.results(evaluation.final, [model_metrics.FINAL]),
        **{key: [] for key in ("utility", "privacy", "audit", "canary", "one_run", "chosen")},
        "between_sites": model_metrics.between_sites(evaluation.models, evaluation.pooled_site),
        "curves": model_metrics.curves(evaluation.models),
        "importance": federated_sums.importance(
            done.states, done.heads, study.schema_at(done.task).features
        ),
        "federated_tallies": evaluated(done.states, [h.name for h in done.heads]),
        "survival": federated_sums.survival(done.states, study, done.task),
        **dict.fromkeys(("small_sites", "site_probe", "unknown_labels", "permuted_labels")),
        "configuration": asdict(run),
        **setting.keys,
        "overrides": {**trace["overrides"], **setting.overrides},
        "not_run": [*_not_run(done, setting.imaged), *setting.not_run],
    }
    if images is not None:
        of_final = {
            "fusion": federated_sums.fusion_weights(final),
            "explanation": federated_sums.energy(final),
        }
        report["images"] = {**images, "adds": federated_sums.adds(differences), **of_final}
    report["alarms"] = [
        *(f"guard L03 was overridden for feature '{f}'" for f in report["overrides"]["L03"]),
        *federated_sums.implausible(report["results"], setting.limit, setting.limit_of),
        *federated_sums.undefended(run, study),
        *federated_sums.unconverged(done.states),
        *federated_sums.masked(done.folder),
        *setting.alarms,
    ]
    return report


def _not_run(done: Finished, imaged: bool) -> list[str]:
    """What a reader might look for and will not find."""
    out, run = [], done.run
    asked = run.heads(done.study)
    lost = [h.name for h in asked if h not in done.heads]
    if done.study.schema.imaging is None:
        out.append("image models and fusion: not run, this study looks at tables only")
    elif lost:
        why = (
            f"no site holds images of {ESTIMABLE} labelled patients of each of two classes"
            if imaged
            else "no site holds images"
        )
        out.append(f"{', '.join(lost)}: not run, {why}")
    elif not any("image" in h.modality for h in asked):
        out.append("image models and fusion: not run, not asked for")
    out += [
        f"{evaluation}: not run, not asked for"
        for evaluation in EVALUATIONS
        if evaluation not in run.evaluations
    ]
    if "leave_one_site_out" in run.evaluations and not done.groups:
        out.append(
            f"leave_one_site_out: not run, it needs two sites or more, and one with {ESTIMABLE} "
            "cases of each of two classes"
        )
    for group in done.groups:
        if len(group) > 1:
            out.append(
                f"leave_one_site_out one by one for {', '.join(group)}: not run, these "
                f"{len(group)} sites were left out together"
            )
    return out
