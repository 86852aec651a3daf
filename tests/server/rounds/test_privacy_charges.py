"""The coordinator's account of what a run with noise costs is the sites' own, to five digits, where
nothing else is charged."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from common.data.cohort import Fold
from common.federated.learner import load
from common.privacy.mechanism import epsilon, gaussian
from server.config.jobs import Job
from server.rounds.privacy_charges import DELTA, Charges, planned
from tests.server.rounds.test_driver import driven, federation
from tests.server.rounds.test_noised_runs import NOISED, at
from tests.synthetic import schema

MODEL = load("private_logistic")
FOLDS = (Fold(), Fold(parts=(0,)), Fold(parts=(1,)), Fold(parts=(2,)))
JOBS = [
    *(
        Job(learner, fold, (fold,))
        for fold in FOLDS
        for learner in (load("preprocessing"), MODEL, load("mlp", {"rounds": 2}))
    ),
    Job(load("scores", {"heads": [MODEL.name]}), Fold(parts=(1, 2)), (Fold(parts=(0,)),)),
]


def test_it_is_what_the_sites_have_charged(tmp_path: Path) -> None:
    charges = Charges(JOBS, schema(), NOISED.noise, NOISED.parts)
    with ExitStack() as opened:
        stations = [at(tmp_path, opened, s) for s in ("S0", "S1", "S2")]
        _, told = driven(federation(stations), NOISED, JOBS)
        for e in told:
            charges.take(e.work)
        for station in stations:
            budget = station._memory.budget
            assert budget is not None
            budget.policy = replace(budget.policy, delta=DELTA)
            mine = charges.spent()[station.site.name]
            assert mine["epsilon"] == pytest.approx(budget.spent, rel=1e-5)
            assert set(mine["learners"]) == {"preprocessing", "private_logistic", "mlp", "scores"}
            assert all(0 < e < mine["epsilon"] for e in mine["learners"].values())
    assert planned(JOBS, schema(), NOISED.noise, NOISED.parts) == pytest.approx(
        mine["epsilon"], rel=1e-5
    )


def test_a_refusal_for_too_few_patients_costs_as_much_as_an_answer_and_others_nothing() -> None:
    charges = Charges(JOBS, schema(), 5.0, 3)
    work = {
        "learner": MODEL.name,
        "phase": "newton",
        "folds": ["all"],
        "contributed": ["A"],
        "refused": {"B": "P01", "C": "P09"},
    }
    charges.take([work])
    told = charges.spent()
    assert set(told) == {"A", "B"}
    assert told["A"] == told["B"]
    assert told["A"]["learners"][MODEL.name] == pytest.approx(
        epsilon(gaussian(5.0), DELTA), rel=1e-5
    )
