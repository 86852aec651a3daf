"""A run with noise, over real stations: what each site is charged, what leaves, and what ends the
run."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.site.privacy_policy import Policy
from client.station.answer_store import Answers
from client.station.durable_state import Memory
from client.station.privacy_budget import NAME, Budget
from common.data.cohort import Fold
from common.errors import FederationError, UsageError
from common.federated.learner import Plan, hyper_of, load, local_plan
from common.privacy.mechanism import COUNTS, Privacy, Sampled, epsilon, gaussian, release
from common.study import load as studies
from common.types import digest
from common.wire.messages import Request
from common.wire.state_transfer import pack_states
from server.__main__ import main
from server.config.jobs import Job, build_jobs
from server.config.run_config import Run
from server.rounds.budget_heads import Accounts
from server.rounds.driver import Exchange, Federation, Progress, drive
from tests import hospital, ring
from tests.server.rounds.test_driver import RUN, Local, driven, federation, registered
from tests.synthetic import schema, sites

NOISE, DELTA = 20.0, 1e-3
NOISED = replace(RUN, noise=NOISE)
FOLDS = [Fold(), *(Fold(parts=(p,)) for p in range(3))]
JOBS = [Job(load("preprocessing"), fold, (fold,)) for fold in FOLDS]
KEYS = ring.enrolled(["S0", "S1", "S2"]).sites


@pytest.fixture
def stations(tmp_path: Path) -> Iterator[list[Local]]:
    with ExitStack() as opened:
        yield [at(tmp_path, opened, c.site) for c in sites(90, 3, seed=2)]


def at(folder: Path, opened: ExitStack, site: str, limit: float = 50.0) -> Local:
    cohort = next(c for c in sites(90, 3, seed=2) if c.site == site)
    begun = Budget if (folder / site / NAME).exists() else hospital.account
    budget = opened.enter_context(closing(begun(folder / site, Policy(limit, DELTA))))
    # no minimum: with so few patients and so much noise the count that is told may well be 0
    return Local(cohort, folder, 0, Memory(Answers(folder / site / "answers"), budget))


def run(
    stations: list[Local], accounts: Accounts, name: str = "run"
) -> tuple[Progress, list[Exchange]]:
    grid, progress, told = federation(stations), Progress(), list[Exchange]()
    roster = registered(grid, NOISED)
    drive(
        Federation(grid, NOISED, name, roster, JOBS, schema(), accounts=accounts),
        progress,
        lambda e, _: told.append(e),
    )
    return progress, told


def test_every_release_is_charged_for_the_folds_that_a_patient_is_in(stations: list[Local]) -> None:
    progress, told = driven(federation(stations), NOISED, JOBS)
    assert progress.done == {j.key for j in JOBS}
    for station in stations:
        assert station._memory.budget is not None
        # two passes of the full model and of three folds, two of which hold a patient
        assert station._memory.budget.spent == pytest.approx(
            epsilon(2 * 3 * gaussian(NOISE) + gaussian(COUNTS), DELTA)
        )
        assert told[-1].budgets[station.site.name] == station._memory.budget.head
        assert len({e.budgets[station.site.name] for e in told}) == len(told)


def test_the_sums_are_noisy(stations: list[Local], tmp_path: Path) -> None:
    accounts = Accounts(None, KEYS)
    first, _ = run(stations, accounts)
    plain, _ = driven(federation([Local(s.held, tmp_path, 1) for s in stations]), RUN, JOBS)
    off = (
        first.states[Fold()]["preprocessing"]["mean"]
        - plain.states[Fold()]["preprocessing"]["mean"]
    )
    assert np.abs(off).max() > 1e-3
    # nothing of it can be made again from the seeds: another run has other noise, and is charged
    # for itself
    spent = [s._memory.budget.spent for s in stations if s._memory.budget]
    again, _ = run(stations, accounts, "again")
    assert [s._memory.budget.spent for s in stations if s._memory.budget] > spent
    assert not np.array_equal(
        first.states[Fold()]["preprocessing"]["mean"], again.states[Fold()]["preprocessing"]["mean"]
    )


def test_a_plan_that_is_repeated_gets_the_stored_answer_and_is_not_charged(
    stations: list[Local],
) -> None:
    learner = load("preprocessing")
    states = {Fold(): {"preprocessing": learner.start(schema(), 3)}}
    plan = Plan(
        "r", "S0", "synthetic", "now", schema().hash, 0, "preprocessing", "coarse", Fold(), (Fold(),
        ), pack_states(states).hash,
        ("S0",), time.time() + 600, hyper_of(learner), 3, 3, privacy=Privacy(NOISE),
    )  # fmt: skip
    (first,) = stations[0].handle(Request((plan,), states))
    assert stations[0]._memory.budget is not None
    spent = stations[0]._memory.budget.spent
    (second,) = stations[0].handle(
        Request((replace(plan, expires=plan.expires + 60, budget=first.budget),), states)
    )
    assert first.contribution is not None
    assert second.contribution is not None
    assert digest(first.contribution.sums) == digest(second.contribution.sums)
    assert first.contribution.cases == second.contribution.cases
    assert stations[0]._memory.budget.spent == spent > 0


def test_a_run_without_noise_is_refused(stations: list[Local]) -> None:
    with pytest.raises(FederationError, match="P07"):
        driven(federation(stations), RUN, JOBS)
    assert all(
        s._memory.budget is not None and s._memory.budget.spent == epsilon(gaussian(COUNTS), DELTA)
        for s in stations
    )


def test_a_learner_without_a_bound_is_refused_before_any_work(
    stations: list[Local], tmp_path: Path
) -> None:
    jobs = [*JOBS[:1], Job(load("importance"), Fold(), (Fold(),))]
    with pytest.raises(FederationError, match="P08"):
        driven(federation(stations), NOISED, jobs)
    assert not any("importance" in path.read_text() for path in tmp_path.glob(f"*/{NAME}"))


def test_a_site_whose_budget_is_spent_ends_the_run_by_name(
    stations: list[Local], tmp_path: Path
) -> None:
    with ExitStack() as opened:
        little = at(
            tmp_path / "little",
            opened,
            "S1",
            limit=epsilon(3 * gaussian(NOISE) + gaussian(2 * NOISE) + gaussian(COUNTS), DELTA),
        )
        with pytest.raises(FederationError, match="S1: P09") as caught:
            driven(federation([stations[0], little, stations[2]]), NOISED, JOBS)
        assert caught.value.code == "R01"
        assert little._memory.budget is not None
        assert little._memory.budget.spent == pytest.approx(
            epsilon(3 * gaussian(NOISE) + gaussian(COUNTS), DELTA)
        ), "the first step's folds, and no more"


def test_a_station_restored_from_an_older_backup_refuses_in_the_next_run(
    stations: list[Local], tmp_path: Path
) -> None:
    accounts = Accounts(tmp_path / "budgets.json", KEYS)
    run(stations, accounts)
    with ExitStack() as opened:
        (tmp_path / "old" / "S2").mkdir(parents=True)
        whole = (tmp_path / "S2" / NAME).read_text().splitlines(keepends=True)
        (tmp_path / "old" / "S2" / NAME).write_text("".join(whole[:2]))
        restored = [*stations[:2], at(tmp_path / "old", opened, "S2")]
        # another run, another coordinator's process: what it was told is on disk
        with pytest.raises(FederationError, match="S2: P10"):
            run(restored, Accounts(tmp_path / "budgets.json", KEYS))
    shutil.rmtree(tmp_path / "old")


def test_the_coordinators_file_of_heads_is_checked(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "budgets.json", KEYS)
    accounts.record({"S0": "1" * 64})
    other = Accounts(tmp_path / "budgets.json", KEYS)
    other.record({"S1": "2" * 64})
    assert accounts.head("S1") == "2" * 64, "of a run that began beside this one"
    accounts.record({"S2": "3" * 64})
    found = Accounts(tmp_path / "budgets.json", KEYS)
    assert [found.head(s) for s in KEYS] == ["1" * 64, "2" * 64, "3" * 64]
    (tmp_path / "budgets.json").write_text('{"a": 3}')
    with pytest.raises(Exception, match="restore it from a backup"):
        Accounts(tmp_path / "budgets.json", KEYS)


def test_a_run_with_noise_trains_what_is_bounded_and_scores_those_whom_it_left_out() -> None:
    study = studies.load("colorectal_metastasis")
    run = Run.parse({"noise": 5.0, "learners": "logistic,boosting"})
    jobs = build_jobs(run, study, (), run.heads(study))
    assert {(j.learner.name, j.fold) for j in jobs} == {
        *((name, Fold(parts=(0,))) for name in ("preprocessing", "logistic", "boosting")),
        ("scores", Fold(parts=(1, 2, 3, 4))),
    }
    assert jobs[-1].reads == (Fold(parts=(0,)),)
    run = Run.parse({"noise": 5.0, "learners": "private_logistic", "evaluations": "within_site"})
    jobs = build_jobs(run, study, (), run.heads(study))
    assert [j.fold.key for j in jobs if j.learner.name == "private_logistic"] == [
        f.key for f in run.folds(())
    ]
    assert [j.learner.name for j in jobs].count("scores") == 5
    run = Run.parse({"noise": 5.0, "learners": "private_logistic", "evaluations": ""})
    assert [(j.learner.name, j.fold) for j in build_jobs(run, study, (), run.heads(study))] == [
        ("private_logistic", Fold())
    ]
    run = Run.parse({"noise": 5.0, "learners": "logistic,mlp,image"})
    jobs = build_jobs(run, study, (), run.heads(study))
    assert {"preprocessing", "logistic", "mlp", "segmentation", "image", "scores"} == {
        j.learner.name for j in jobs
    }
    run = Run.parse({"noise": 5.0, "learners": "logistic,image,fusion"})
    with pytest.raises(UsageError, match=r"leave these learners out: fusion$"):
        build_jobs(run, study, (), run.heads(study))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"noise": 5.0, "transfer": "int8"}, "noise=5 is for sums that are sent whole"),
        ({"noise": -1.0}, "noise = -1.0 must be at least 0"),
        (
            {"noise": 5.0, "evaluations": "leave_one_site_out"},
            "unknown leave_one_site_out with noise; allowed: holdout, within_site",
        ),
        ({"noise": 5.0, "evaluations": "holdout,within_site"}, "holdout goes with no other"),
        ({"evaluations": "holdout"}, "unknown holdout; allowed: within_site, leave_one_site_out"),
    ],
)
def test_what_does_not_go_with_noise_is_said(config: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        Run.parse(config)


def test_who_is_scored_pays_for_that_alone_and_who_is_not_for_the_training(
    stations: list[Local],
) -> None:
    model = load("private_logistic")
    jobs = [
        Job(model, Fold(parts=(0,)), (Fold(parts=(0,)),)),
        Job(load("scores", {"heads": [model.name]}), Fold(parts=(1, 2)), (Fold(parts=(0,)),)),
    ]
    progress, _ = driven(federation(stations), NOISED, jobs)
    for station in stations:
        assert station._memory.budget is not None
        # three exchanges of the fit; the one of the scores is another patient's
        assert station._memory.budget.spent == pytest.approx(
            epsilon(3 * gaussian(NOISE) + gaussian(COUNTS), DELTA)
        )
    told = progress.states[Fold(parts=(1, 2))]["scores"]
    assert told["spread"] == pytest.approx(NOISE * np.sqrt(2) * np.sqrt(3)), (
        "one head, two classes, three sites"
    )


def test_networks_train_with_noise_of_their_own_and_every_step_is_charged(
    stations: list[Local],
) -> None:
    network = load("mlp", {"rounds": 3, "rate": 0.2})
    jobs = [*JOBS[:1], Job(network, Fold(), (Fold(),))]
    progress, told = driven(federation(stations), NOISED, jobs)
    arrays, start = progress.states[Fold()]["mlp"], network.start(schema(), NOISED.seed)
    assert int(arrays["round"]) == 3
    assert all(np.isfinite(v).all() for v in arrays.values())
    moved = np.sqrt(
        sum(float(((arrays[k] - v) ** 2).sum()) for k, v in start.items() if k.startswith("w/"))
    )
    # thirty patients under noise of twenty times a patient's share: it is the noise that moves
    assert moved > 1
    want = 2 * gaussian(NOISE) + 3 * release(Privacy(NOISE), Sampled(0.2, 10)) + gaussian(COUNTS)
    for station in stations:
        assert station._memory.budget is not None
        assert station._memory.budget.spent == pytest.approx(epsilon(want, DELTA))
        assert told[-1].budgets[station.site.name] == station._memory.budget.head


def test_the_noise_that_an_epsilon_affords_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["noise", "--study", "colorectal_metastasis", "--epsilon", "3"]
    assert main([*words, "--learners", "private_logistic"]) == 0
    noise = float(capsys.readouterr().out)
    assert 2.9 < epsilon(3 * gaussian(noise), 1e-5) <= 3
    assert (
        main(
            [
                *words,
                "--learners",
                "private_logistic",
                "--set",
                'hyper={"private_logistic":{"rounds":6}}',
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["noise"] == pytest.approx(
        noise * np.sqrt(2), rel=0.01
    )
    assert main(["noise", "--study", "liver_recurrence", "--epsilon", "3"]) == 2
    assert "'fusion' has no bound" in capsys.readouterr().err
    assert main([*words[:-1], "nan"]) == 2


def test_the_minimum_is_held_against_the_count_that_is_told(tmp_path: Path) -> None:
    """Of the exact one a refusal would tell more than the epsilon allows: with as many patients as
    the minimum it goes either way."""
    codes, head = [], ""
    with ExitStack() as opened:
        station = at(tmp_path, opened, "S0")
        station.site = replace(station.site, minimum=int((station.held.labels >= 0).sum()))
        learner = load("private_logistic")
        states = {Fold(): {learner.name: learner.start(schema(), 3)}}
        for step in range(30):
            plan = Plan(
                "r", "S0", "synthetic", "now", schema().hash, step, learner.name, "newton", Fold(),
                (Fold(),), pack_states(states).hash,
                ("S0",), time.time() + 600, hyper_of(learner), 3, 3, privacy=Privacy(NOISE),
                budget=head,
            )  # fmt: skip
            (update,) = station.handle(Request((plan,), states))
            codes.append(update.code)
            head = update.budget
        assert {"", "P01"} == set(codes)
        assert station._memory.budget is not None
        # what was refused is charged as well: that it was is a release
        assert station._memory.budget.spent == pytest.approx(epsilon(30 * gaussian(NOISE), DELTA))


def test_what_moves_a_model_is_told_with_noise_where_it_is_asked_for(stations: list[Local]) -> None:
    study = studies.load("colorectal_metastasis")
    run = Run.parse(
        {"noise": 5.0, "learners": "private_logistic", "hyper": '{"importance": {"clip": 2.0}}'}
    )
    jobs = build_jobs(run, study, (), run.heads(study))
    assert [j.learner.name for j in jobs] == ["private_logistic", "importance", "scores"]
    model, clip = load("private_logistic"), 0.01
    look = load("importance", {"heads": [model.name], "clip": clip})
    progress, _ = driven(
        federation(stations), NOISED, [Job(model, Fold(), (Fold(),)), Job(look, Fold(), (Fold(),))]
    )
    told = progress.states[Fold()]["importance"]
    for station in stations:
        assert station._memory.budget is not None
        assert station._memory.budget.spent == pytest.approx(
            epsilon(4 * gaussian(NOISE) + gaussian(COUNTS), DELTA)
        )
        # a patient's share is cut: alone or among others, at any model
        rows = station.held.where(
            np.arange(len(station.held)) == int(np.flatnonzero(station.held.labels >= 0)[0])
        )
        for scale in (1.0, 1e6, np.nan):
            state = {model.name: {**progress.states[Fold()][model.name]}}
            state[model.name]["coefficients"] = state[model.name]["coefficients"] * scale
            one = look.contribute(
                {Fold(): state}, rows, replace(local_plan(Fold(), 3, 3), learner="importance")
            ).sums[model.name]
            assert np.linalg.norm(one) <= clip * (1 + 1e-9)
    assert np.isfinite(told[model.name]).all()
