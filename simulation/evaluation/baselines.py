"""Local and pooled baselines, the run's own jobs without federation: on one hospital's cases, and
on everybody's put together.

A table's heads have their ordinary form (`alone`: Newton, XGBoost's own trainer). Networks, and
what is stacked on them, are fitted by the same code on one cohort, which is what training without
federation means for them: as many passes, no averaging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from common.data.cohort import Cohort, Fold, pooled
from common.errors import RefusedError
from common.federated.learner import Federated, Stacked, TableHead, fit, lacks, local_plan
from common.federated.states import States
from common.types import State
from server.config.jobs import Job

Tell = Callable[[str, int, int], None]
WORKERS = 2
"""Networks are trained side by side: torch leaves Python's lock, and each training is on one
thread, so the bits stay the same."""


@dataclass(frozen=True)
class Task:
    """What one arm trains: a site's own models, or the pooled ones."""

    title: str
    cohorts: Sequence[Cohort]
    jobs: Sequence[Job]


def local(jobs: Sequence[Job], heads: Sequence[str], folds: Sequence[Fold]) -> list[Job]:
    """The jobs of a site by itself: those of `heads` and what they need, on the folds that leave
    out no site."""
    names = {n for j in jobs if j.learner.name in heads for n in (j.learner.name, *j.learner.needs)}
    return [j for j in jobs if j.fold in folds and j.learner.name in names]


def train(
    tasks: Mapping[str, Task], prepare: Federated, seed: int, parts: int, tell: Tell
) -> Mapping[str, States]:
    """The states of every task, by its key."""
    states: dict[str, dict[Fold, State]] = {key: {} for key in tasks}
    job_count = sum(len(t.jobs) for t in tasks.values())
    done = 0

    def count_job(title: str) -> None:
        nonlocal done
        done += 1
        tell(title, done, job_count)

    def chain(key: str, fold: Fold) -> None:
        task = tasks[key]
        state = states[key].setdefault(fold, {})
        for job in task.jobs:
            if job.fold == fold and _is_network(job):
                if not lacks(job.learner, state):
                    state |= _alone(job, {fold: state}, task, seed, parts)
                count_job(task.title)

    for key, task in tasks.items():
        tables = [c for c in task.cohorts if "table" in c.modalities]
        for head, fold in _heads(task):
            trained = head.alone(tables, fold, seed, parts, prepare)
            states[key].setdefault(fold, {}).update(trained)
            count_job(task.title)
    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(chain, *arguments) for arguments in _chains(tasks)]:
            future.result()
    for key, task in tasks.items():
        for job in _stacked(task):
            if not lacks(job.learner, states[key][job.fold]):
                states[key][job.fold] |= _alone(job, states[key], task, seed, parts)
            count_job(task.title)
    tell("", job_count, job_count)
    return states


def _heads(task: Task) -> list[tuple[TableHead, Fold]]:
    return [(j.learner, j.fold) for j in task.jobs if isinstance(j.learner, TableHead)]


def _stacked(task: Task) -> list[Job]:
    return [j for j in task.jobs if isinstance(j.learner, Stacked)]


def _is_network(job: Job) -> bool:
    return not isinstance(job.learner, Stacked | TableHead) and "image" in job.learner.modality


def _chains(tasks: Mapping[str, Task]) -> list[tuple[str, Fold]]:
    """Task and fold of the networks, which are trained one after the other within each."""
    return [
        (key, fold)
        for key, task in tasks.items()
        for fold in dict.fromkeys(j.fold for j in task.jobs if "image" in j.learner.modality)
    ]


def _alone(job: Job, states: States, task: Task, seed: int, parts: int) -> State:
    """The learner's own arrays, fitted on the task's cases as one cohort; none where nobody has
    what it needs."""
    cohorts = [
        c
        for c in task.cohorts
        if c.site not in job.fold.sites and job.learner.modality <= c.modalities
    ]
    if not cohorts:
        return {job.learner.name: {}}
    together = cohorts[0] if len(cohorts) == 1 else pooled(cohorts)
    # the sites that the fold leaves out are left out here, and their name must not be looked for
    # among the others'
    plan = replace(local_plan(job.fold, seed, parts), reads=job.reads)
    read = {f: states[f] for f in job.reads if f in states}
    try:
        fitted = fit(job.learner, states[job.fold], [together], plan, inner=read)
        return {job.learner.name: fitted[job.learner.name]}
    except RefusedError:
        return {job.learner.name: {}}
