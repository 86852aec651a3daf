"""One answer a question, one question a place; on disk before it leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.station import answer_store
from client.station.answer_store import Answered, Answers
from common.data.cohort import Fold
from common.errors import RefusedError, RunError
from common.federated.learner import Contribution, Plan
from common.types import digest
from common.wire.messages import Update

FOLD = Fold(parts=(1,))


def plan(**changes: Any) -> Plan:
    first = Plan(
        "run",
        "S1",
        "study",
        "now",
        "0" * 64,
        4,
        "logistic",
        "newton",
        FOLD,
        (FOLD,),
        "1" * 64,
        ("S1",),
        1e9,
        {"l2": 1.0},
        3,
        5,
    )
    return dataclasses.replace(first, **changes)


def update(of: Plan, value: float = 1.0) -> Update:
    return Update(of.hash, Contribution({"a": np.full(3, value)}, 30, {"t": np.array(2)}))


@pytest.fixture(params=["memory", "disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "answers" if request.param == "disk" else None


def refused(kept: Answers, asked: Plan) -> str:
    with pytest.raises(RefusedError) as caught:
        kept.of(asked)
    assert caught.value.code == "P06"
    return str(caught.value)


def test_the_same_plan_gets_the_same_answer_and_more_time_is_the_same_plan(
    folder: Path | None,
) -> None:
    kept = Answers(folder)
    assert kept.of(plan()) is None
    kept.keep([Answered(plan(), update(plan()))])
    for asked in (plan(), plan(expires=2e9)):
        again = kept.of(asked)
        assert again is not None
        assert again.contribution is not None
        assert again.plan_hash == asked.hash
        assert digest(again.contribution.sums) == digest({"a": np.full(3, 1.0)})


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "other"},
        {"hyper": {"l2": 2.0}},
        {"state_hash": "2" * 64},
        {"participants": ("S1", "S2")},
        {"seed": 4},
        {"task": "then"},
    ],
)
def test_another_plan_for_the_same_place_is_refused(
    folder: Path | None, change: dict[str, Any]
) -> None:
    kept = Answers(folder)
    kept.keep([Answered(plan(), update(plan()))])
    assert "answered to another plan" in refused(kept, plan(**change))


@pytest.mark.parametrize(
    "change", [{"step": 5}, {"learner": "mlp"}, {"fold": Fold()}, {"run": "run2"}]
)
def test_another_place_is_another_question(folder: Path | None, change: dict[str, Any]) -> None:
    kept = Answers(folder)
    kept.keep([Answered(plan(), update(plan()))])
    assert kept.of(plan(**change)) is None


def test_a_run_never_goes_back(folder: Path | None) -> None:
    kept = Answers(folder)
    for step in (4, 5, 6):
        kept.keep([Answered(plan(step=step), update(plan(step=step)))])
    for step in (4, 5):
        assert "never goes back" in refused(kept, plan(step=step))
    assert kept.of(plan(step=6)) is not None
    if folder is not None:
        assert len(list(folder.rglob("*.answers"))) == answer_store.KEPT + 1


def test_a_refusal_is_not_kept_since_its_reason_may_be_mended(folder: Path | None) -> None:
    kept = Answers(folder)
    kept.keep([Answered(plan(), Update(plan().hash, None, "D00"))])
    assert kept.of(plan()) is None
    assert kept.of(plan(phase="other")) is None


def test_an_answer_outlives_its_station(tmp_path: Path) -> None:
    both = [plan(), plan(learner="mlp")]
    Answers(tmp_path).keep([Answered(p, update(p, k)) for k, p in enumerate(both)])
    later = Answers(tmp_path)
    for k, p in enumerate(both):
        again = later.of(p)
        assert again is not None
        assert again.contribution is not None
        assert (
            again.contribution.cases,
            float(again.contribution.sums["a"][0]),
            int(again.contribution.tally["t"]),
        ) == (30, k, 2)
    refused(later, plan(phase="other"))
    assert {p.stat().st_mode & 0o777 for p in tmp_path.rglob("*.answers")} == {0o600}


def test_an_answer_that_was_altered_on_disk_is_not_given(tmp_path: Path) -> None:
    Answers(tmp_path).keep([Answered(plan(), update(plan()))])
    (path,) = tmp_path.rglob("*.answers")
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(RunError) as caught:
        Answers(tmp_path).of(plan())
    assert caught.value.code == "S02"


def test_a_run_with_a_name_like_a_path_stays_in_the_folder(tmp_path: Path) -> None:
    Answers(tmp_path / "in").keep([Answered(plan(run="../../out"), update(plan(run="../../out")))])
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a file")
    with pytest.raises(RunError) as caught:
        Answers(tmp_path / "in").keep([Answered(plan(), update(plan()))])
    assert caught.value.code == "S03"
