"""A quorum below 1: what a site that is lost for an exchange does to the learners, and to the
account of who took part."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error

from common.data.cohort import Fold
from common.errors import FederationError
from common.federated.learner import fit, load, local_plan
from common.learners.preprocessing import LEARNER as PREPARE
from common.wire.messages import NO_PLAN, Update
from server.config.jobs import Job
from server.report.content.federated_sums import participation
from tests.server.rounds.test_driver import RUN as STRICT
from tests.server.rounds.test_driver import Change, Local, driven, federation, registered, tasks
from tests.synthetic import sites

RUN = dataclasses.replace(STRICT, quorum=0.5, retries=0)


@pytest.fixture
def stations(tmp_path: Path) -> list[Local]:
    return [Local(c, tmp_path, 1) for c in sites(240, 3, seed=2)]


def lost(at: int) -> Change:
    """The reply to one request is an error of Flower's."""
    return lambda updates, turn: Error(5) if turn == at else updates


@pytest.mark.parametrize("at", [3, 4, 5])
def test_newton_goes_on_to_the_pooled_solution(stations: list[Local], at: int) -> None:
    progress, _ = driven(federation(stations, {"S1": lost(at)}), RUN, tasks((Fold(),)))
    plan, those = local_plan(Fold(), RUN.seed, RUN.parts), [s.held for s in stations]
    state = fit(load("logistic"), fit(PREPARE, {}, those, plan), those, plan)
    assert bool(progress.states[Fold()]["logistic"]["converged"])
    np.testing.assert_allclose(
        progress.states[Fold()]["logistic"]["coefficients"],
        state["logistic"]["coefficients"],
        atol=1e-8,
    )


def test_a_scale_is_that_of_the_cases_it_was_summed_over(stations: list[Local]) -> None:
    progress, _ = driven(federation(stations, {"S1": lost(2)}), RUN, tasks((Fold(),)))
    whole, _ = driven(federation(stations), RUN, tasks((Fold(),)))
    ratio = (
        progress.states[Fold()]["preprocessing"]["scale"]
        / whole.states[Fold()]["preprocessing"]["scale"]
    )
    assert np.all(np.abs(ratio - 1) < 0.3)


def test_a_lost_exchange_is_counted_once(stations: list[Local]) -> None:
    _, told = driven(federation(stations, {"S1": lost(3)}), RUN)
    (row,) = (r for r in participation([dataclasses.asdict(e) for e in told]) if r["site"] == "S1")
    assert row["contributed"] == len(told) - 1
    assert list(row["not"].values()) == [1]


def test_a_reply_to_no_plan_without_a_reason_is_a_named_refusal(stations: list[Local]) -> None:
    grid = federation(
        stations, {"S1": lambda updates, turn: [Update(NO_PLAN, updates[0].contribution)]}
    )
    with pytest.raises(FederationError, match="S1: P04"):
        driven(grid, STRICT)


def test_a_node_that_never_greets_is_not_missing_in_silence(stations: list[Local]) -> None:
    grid = federation(stations)
    grid.nodes[99] = lambda message: None
    with pytest.raises(FederationError, match="node 99") as caught:
        registered(grid, dataclasses.replace(STRICT, deadline=0.3))
    assert caught.value.code == "R03"


def test_a_description_that_nobody_may_give_is_left_out(stations: list[Local]) -> None:
    jobs = [*tasks((Fold(),)), Job(load("survival"), Fold(), (Fold(),), optional=True)]
    for s in stations:
        s.site = dataclasses.replace(s.site, minimum=2)
        s.held = dataclasses.replace(s.held, survival=None)
    progress, told = driven(federation(stations), STRICT, jobs)
    assert progress.states[Fold()]["survival"] == {}
    refused = [w["refused"] for e in told for w in e.work if w["learner"] == "survival"]
    assert refused == [{"S0": "P01", "S1": "P01", "S2": "P01"}]
