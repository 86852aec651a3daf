"""Resume: states come back for the training sets that they were learnt on, also where a set's text
does not say which sites it leaves out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from common.data.cohort import Fold
from common.study import load as studies
from server.app import _to_arrays
from server.config.jobs import build_jobs
from server.config.run_config import Run
from server.ledger import state_store
from server.rounds.driver import Progress
from server.rounds.resume import STATES, restore

GROUPS = (("A",), ("B", "C"))
CONFIGS = (
    {"evaluations": "within_site,leave_one_site_out"},
    {"evaluations": "within_site"},
    {"evaluations": ""},
    {"evaluations": "within_site", "noise": 5.0, "learners": "logistic"},
    {"noise": 5.0, "learners": "logistic"},
)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_job_of_a_run_is_found_again(config: dict[str, object], tmp_path: Path) -> None:
    study = studies.load("colorectal_metastasis")
    run = Run.parse({"study": "colorectal_metastasis", **config})
    progress = Progress(step=7)
    for n, job in enumerate(build_jobs(run, study, GROUPS, run.heads(study))):
        progress.states.setdefault(job.fold, {})[job.learner.name] = {"n": np.array(n)}
        progress.done.add(job.key)
    if "leave_one_site_out" in run.evaluations:
        assert Fold(("B", "C"), (0,)) in progress.states
    sha = state_store.save(tmp_path / STATES, 7, _to_arrays(progress))
    lines = [
        {"kind": "open", "config": asdict(run), "groups": [list(g) for g in GROUPS]},
        {"kind": "exchange", "step": 6, "state": sha},
    ]
    again = restore(lines, tmp_path)
    assert (again.states, again.done, again.step) == (progress.states, progress.done, 7)
