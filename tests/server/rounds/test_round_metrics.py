"""What an exchange's ledger line says of losses and metrics, and what it must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.site.privacy_policy import Policy
from client.station.answer_store import Answers
from client.station.durable_state import Memory
from common.data.cohort import Fold
from common.federated.learner import Contribution, load
from server.config.jobs import Job
from server.rounds.driver import Exchange
from server.rounds.round_metrics import Measured, values
from tests.server.rounds.test_driver import RUN, Local, driven, federation
from tests.server.rounds.test_noised_runs import JOBS as NOISY_JOBS
from tests.server.rounds.test_noised_runs import NOISED, at
from tests.synthetic import sites

HEADS = ("logistic", "boosting", "mlp")
JOBS = [
    Job(load(n, {"trees": 3} if n == "boosting" else None), f, (f,))
    for f in (Fold(), Fold(parts=(0,)))
    for n in ("preprocessing", *HEADS)
]


@pytest.fixture
def told(tmp_path: Path) -> list[Exchange]:
    open_ = Policy(open_trees=True)
    stations = [Local(c, tmp_path, 1, policy=open_) for c in sites(90, 3, seed=2)]
    return driven(federation(stations), replace(RUN, evaluations="within_site"), JOBS)[1]


def test_every_head_has_a_curve_over_all_sites_and_by_site(told: list[Exchange]) -> None:
    metric = {"logistic": "log_loss", "boosting": "log_loss", "mlp": "loss"}
    for head in HEADS:
        rows = [row for e in told for row in e.metrics if row["learner"] == head]
        curve = [row["all"][metric[head]] for row in rows]
        assert len(curve) >= 3
        assert curve[-1] < curve[0]
        assert all(row["fold"] == "all" for row in rows[:2]), (
            "the training set of everybody, while it is among them"
        )
        assert all(set(row["sites"]) == {"S0", "S1", "S2"} for row in rows)
        # the mean over all is that of the sites', weighed by their cases, which are equal here
        assert curve[0] == pytest.approx(
            np.mean([rows[0]["sites"][s][metric[head]] for s in rows[0]["sites"]]), rel=0.2
        )
    assert not [row for e in told for row in e.metrics if row["learner"] == "preprocessing"]


def test_a_run_with_noise_tells_none(tmp_path: Path) -> None:
    from contextlib import ExitStack

    with ExitStack() as opened:
        stations = [at(tmp_path, opened, s) for s in ("S0", "S1", "S2")]
        _, told = driven(
            federation(stations), NOISED, [*NOISY_JOBS, Job(load("logistic"), Fold(), (Fold(),))]
        )
    assert all(e.metrics == [] for e in told)


def test_masked_sums_tell_what_is_over_all_sites_and_nothing_by_site(tmp_path: Path) -> None:
    from tests.server.rounds import test_masked_sums as secure

    stations = [
        secure.station(
            tmp_path, n, memory=Memory(Answers(tmp_path / n), masks=tmp_path / n / "secure")
        )
        for n in secure.NAMES
    ]
    _, told = secure.driven(secure.federation(stations), tmp_path)
    rows = [row for e in told for row in e.metrics]
    assert rows
    assert all(row["sites"] == {} and row["all"]["log_loss"] > 0 for row in rows)


def test_what_is_no_number_or_of_nobody_is_left_out() -> None:
    assert values(Contribution({"likelihood": np.array(-30.0)}, 60)) == {"log_loss": 0.5}
    assert values(
        Contribution({"likelihood": np.array([-30.0, 9.0])}, 60, {"halved": np.array(2)})
    ) == {"log_loss": 0.5}
    assert values(
        Contribution({}, 4, {"loss": np.array(2.0), "dice": np.array([[3.0, 4.0], [1.0, 4.0]])})
    ) == {"loss": 0.5, "dice": 0.5}
    assert values(Contribution({"likelihood": np.array(0.0)}, 0, {"dice": np.zeros((2, 2))})) == {}
    assert values(Contribution({"likelihood": np.array(np.inf)}, 3)) == {}
    measured = Measured()
    for fold, loss in (("part:0", 2.0), ("part:1", 4.0)):
        c = Contribution({}, 2, {"loss": np.array(loss)})
        measured.add("mlp", fold, c, {"S0": c})
    assert measured.rows() == [
        {
            "learner": "mlp",
            "folds": 2,
            "fold": "",
            "all": {"loss": 1.5},
            "sites": {"S0": {"loss": 1.5}},
        }
    ]
