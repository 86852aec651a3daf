"""The account of a site's patients: it composes over everything, outlives the station, and cannot
be altered, shared or set back."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.site.privacy_policy import Policy
from client.station.charge import Charge
from client.station.privacy_budget import NAME, Budget, Spending, begin, read
from common.errors import FedmetsError, RefusedError, RunError, UsageError
from common.privacy.mechanism import (
    ACCOUNTANT,
    COUNTS,
    Cost,
    Sampled,
    epsilon,
    gaussian,
    subsampled,
)
from common.runtime.hash_chain import GENESIS, Chain
from tests.hospital import account

POLICY = Policy(3.0, 1e-5)


@pytest.fixture
def budget(tmp_path: Path) -> Iterator[Budget]:
    there = account(tmp_path, POLICY)
    yield there
    there.close()


def charge(
    noise: float = 10.0,
    split: tuple[int, int] = (0, 5),
    spared: tuple[int, ...] = (),
    run: str = "r",
) -> Charge:
    return Charge(run, 0, "logistic", "all", "q", noise, split, spared)


CHARGES = st.lists(
    st.builds(
        charge,
        st.floats(5, 100),
        st.tuples(st.integers(0, 2), st.just(3)),
        st.lists(st.integers(0, 2), unique=True, max_size=2).map(tuple),
    ),
    max_size=12,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(them=CHARGES)
def test_what_was_spent_is_no_patients_less_than_it_was(
    them: list[Charge], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A patient stands in one part of each split; the dearest choice of parts is what counts."""
    there = account(tmp_path_factory.mktemp("b"), Policy(100.0, 1e-5))
    for c in them:
        there.reserve(c)
    there.settle()
    worst = 0.0
    for parts in np.ndindex(3, 3, 3):
        cost = Cost()
        for c in them:
            if parts[c.split[0]] not in c.spared:
                cost = cost + c.cost
        worst = max(worst, epsilon(cost, 1e-5))
    # sums alone: of each split one part is the worst, whatever the others'
    assert there.spent == worst
    there.close()


def test_folds_are_charged_as_what_they_are(tmp_path: Path, budget: Budget) -> None:
    """The full model, and each fold that a patient is in: of five folds four."""
    budget.reserve(charge())
    for part in range(5):
        budget.reserve(charge(spared=(part,)))
    assert budget.spent == pytest.approx(epsilon(5 * gaussian(10.0), 1e-5))


def test_spending_outlives_the_station_and_its_runs(tmp_path: Path, budget: Budget) -> None:
    budget.reserve(charge(run="one"))
    head = budget.settle()
    budget.close()
    again = Budget(tmp_path, POLICY)
    again.reserve(charge(run="two"))
    assert again.settle() != head
    assert again.knows(head)
    assert again.spent == pytest.approx(epsilon(2 * gaussian(10.0), 1e-5))
    again.close()


def test_more_than_is_left_is_refused_and_not_charged(budget: Budget) -> None:
    done = 0
    while epsilon((done + 1) * gaussian(10.0), 1e-5) <= 3.0:
        budget.affordable(charge())
        budget.reserve(charge())
        done += 1
    assert done > 10
    for use in (budget.affordable, budget.reserve):
        with pytest.raises(RefusedError) as caught:
            use(charge())
        assert caught.value.code == "P09"
    assert budget.spent == pytest.approx(epsilon(done * gaussian(10.0), 1e-5))


def test_a_lower_epsilon_of_today_counts_what_was_spent_before(
    tmp_path: Path, budget: Budget
) -> None:
    budget.reserve(charge(3.0))
    budget.settle()
    budget.close()
    less = Budget(tmp_path, Policy(1.0, 1e-5))
    with pytest.raises(RefusedError):
        less.affordable(charge(1000.0))
    less.close()


def test_counts_are_noised_once_and_charged_once(tmp_path: Path, budget: Budget) -> None:
    told = budget.counts("a" * 64, [60, 30])
    assert told == budget.counts("a" * 64, [60, 30])
    assert told != [60, 30]
    assert budget.spent == pytest.approx(epsilon(gaussian(COUNTS), 1e-5))
    budget.close()
    again = Budget(tmp_path, POLICY)
    assert again.counts("a" * 64, [60, 30]) == told
    assert again.counts("b" * 64, [60, 30]) != told
    assert again.spent == pytest.approx(epsilon(2 * gaussian(COUNTS), 1e-5))
    again.close()
    none = Budget(tmp_path, Policy(0.01, 1e-5))
    with pytest.raises(RefusedError):
        none.counts("c" * 64, [60, 30])
    none.close()


def test_two_stations_on_one_account_are_refused(tmp_path: Path, budget: Budget) -> None:
    with pytest.raises(UsageError, match="another station") as caught:
        Budget(tmp_path, POLICY)
    assert caught.value.code == "C05"


def test_an_account_edited_by_hand_is_refused(tmp_path: Path, budget: Budget) -> None:
    budget.reserve(charge())
    budget.settle()
    budget.reserve(charge())
    budget.settle()
    budget.close()
    path = tmp_path / NAME
    path.write_text(path.read_text().replace('"noise":10.0', '"noise":90.0', 1))
    with pytest.raises(RunError, match="restore this very file") as caught:
        Budget(tmp_path, POLICY)
    assert caught.value.code == "S02"


def test_a_clock_that_was_set_back_is_refused(
    tmp_path: Path, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget.reserve(charge())
    budget.settle()
    budget.reserve(charge())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    with pytest.raises(RunError, match="set the clock") as caught:
        budget.settle()
    assert caught.value.code == "S04"
    budget.close()
    with pytest.raises(RunError):
        Budget(tmp_path, POLICY)


def test_an_old_copy_does_not_know_the_newest_head(tmp_path: Path, budget: Budget) -> None:
    budget.reserve(charge())
    first = budget.settle()
    old = {path: path.read_bytes() for path in tmp_path.glob(f"{NAME}*")}
    budget.reserve(charge())
    second = budget.settle()
    budget.close()
    (tmp_path / NAME).write_bytes(old[tmp_path / NAME])
    with pytest.raises(RunError, match="1 line at its end was cut off"):
        Budget(tmp_path, POLICY)
    (tmp_path / NAME).unlink()
    for look in (Budget, read):
        with pytest.raises(RunError, match="3 lines at its end were cut off"):
            look(tmp_path, POLICY)
    for path, raw in old.items():
        path.write_bytes(raw)
    restored = Budget(tmp_path, POLICY)
    assert restored.knows(first)
    assert not restored.knows(""), "a coordinator that was told nothing is a new one's"
    assert not restored.knows(second)
    restored.close()


def test_an_account_that_nobody_has_begun_is_refused(tmp_path: Path) -> None:
    """A file that is missing was lost, until its owner says that there was none."""
    with pytest.raises(RunError, match="--new") as caught:
        Budget(tmp_path, POLICY)
    assert caught.value.code == "S05"
    begun = account(tmp_path, POLICY)
    with pytest.raises(UsageError, match="another station"):
        begin(tmp_path)
    begun.close()
    with pytest.raises(RunError, match="an account already") as caught:
        begin(tmp_path)
    assert caught.value.code == "S01"
    # deleted, it cannot be begun again unless what stands beside it is deleted, too; and then it is
    # another account
    (tmp_path / NAME).unlink()
    with pytest.raises(RunError, match="1 line at its end was cut off"):
        begin(tmp_path)
    (tmp_path / f"{NAME}.end").unlink()
    assert begin(tmp_path) != begun.head


def test_no_head_is_known_before_the_first_charge_and_none_is_not_after_it(budget: Budget) -> None:
    assert budget.settle() == ""
    budget.counts("a" * 64, [60, 30])
    budget.pin("b" * 64)
    assert budget.settle() == ""
    assert budget.knows("")
    assert not budget.knows(GENESIS)
    budget.reserve(charge())
    assert budget.knows(""), "nothing is told before it is on disk"
    assert budget.knows(budget.settle())
    assert not budget.knows("")
    assert not budget.knows(GENESIS)


STEPS = st.lists(st.sampled_from(["charge", "counts", "pin", "again", "copy"]), max_size=12)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, which=st.integers(0, 20))
def test_any_earlier_copy_is_found_out_by_who_remembers_a_later_head(
    steps: list[str], which: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the site did, whichever copy is put back: with what a coordinator was told last the
    copy is refused, unless nothing was charged since it was made; and without a head it is, unless
    none had been told when it was made."""
    folder = tmp_path_factory.mktemp("b")
    there, last = account(folder, Policy(100.0, 1e-5)), ""
    copies: list[tuple[dict[Path, bytes], str]] = []
    for n, step in enumerate(["copy", *steps]):
        if step == "charge":
            there.reserve(charge(50.0))
            last = there.settle()
        elif step == "counts":
            there.counts(f"{n:064}", [30, 30])
        elif step == "pin":
            there.pin(f"{n:064}")
        elif step == "again":
            there.close()
            there = Budget(folder, Policy(100.0, 1e-5))
        else:
            copies.append(({p: p.read_bytes() for p in folder.glob(f"{NAME}*")}, last))
        assert there.knows(last)
    there.close()
    files, then = copies[which % len(copies)]
    for path, raw in files.items():
        path.write_bytes(raw)
    with closing(Budget(folder, Policy(100.0, 1e-5))) as old:
        assert old.knows(last) == (then == last)
        assert old.knows("") == (not then)


def test_a_full_disk_charges_in_memory_and_lets_nothing_leave(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget.reserve(charge())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError) as caught:
        budget.settle()
    assert caught.value.code == "S03"
    monkeypatch.undo()
    spent = budget.spent
    budget.settle()
    assert budget.spent == spent > 0


@pytest.mark.parametrize("moment", ["write", "fsync"])
def test_a_crash_never_counts_too_little(moment: str, tmp_path: Path, budget: Budget) -> None:
    """Whatever is cut off the file's end was never paid for and never left."""
    budget.reserve(charge())
    budget.settle()
    whole, end = (tmp_path / NAME).read_bytes(), (tmp_path / f"{NAME}.end").read_bytes()
    budget.reserve(charge())
    budget.settle()
    both = (tmp_path / NAME).read_bytes()
    budget.close()
    for cut in range(len(whole), len(both), 37):
        (tmp_path / NAME).write_bytes(both[:cut])
        (tmp_path / f"{NAME}.end").write_bytes(end)
        torn = Budget(tmp_path, POLICY)
        assert torn.spent == pytest.approx(epsilon(gaussian(10.0), 1e-5))
        torn.close()


def test_a_line_of_another_version_is_refused(tmp_path: Path, budget: Budget) -> None:
    budget.close()
    strange = Chain(tmp_path / NAME)
    strange.append("charge", time=time.time(), charges=[{"run": "r", "cost": 3}])
    strange.close()
    with pytest.raises(FedmetsError, match="another version"):
        Budget(tmp_path, POLICY)


def test_the_file_says_who_asked_and_what_it_cost(tmp_path: Path, budget: Budget) -> None:
    budget.reserve(charge())
    budget.settle()
    line = json.loads((tmp_path / NAME).read_text().splitlines()[-1])
    assert line["charges"][0]["run"] == "r"
    assert (line["epsilon"], line["delta"]) == (3.0, 1e-5)
    assert line["spent"] == pytest.approx(budget.spent)


def test_training_with_dp_sgd_is_charged_by_its_steps_and_the_count_beside_them(
    tmp_path: Path,
) -> None:
    rounds = [replace(charge(1.1, run=f"r{n}"), sampled=Sampled(0.1, 20)) for n in range(3)]
    with closing(account(tmp_path, Policy(30.0, 1e-5))) as budget:
        for one in rounds[:2]:
            budget.reserve(one)
            budget.settle()
    # restored from disk, it goes on as if it had never stopped
    with closing(Budget(tmp_path, Policy(30.0, 1e-5))) as budget:
        budget.reserve(rounds[2])
        whole = subsampled(1.1, Sampled(0.1, 60)) + 3 * gaussian(COUNTS)
        assert budget.spent == epsilon(whole, 1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"noise": n} for n in (0.0, -1.0, 1e-160, 1e-7, 1e7, math.nan, math.inf, 3, True, "3")),
        *(
            {"split": s}
            for s in ((0, 0), (0, -1), (0, 10**12), (0, 2.0), (0.5, 3), (0, True), (0,))
        ),
        *({"spared": s} for s in ((5,), (-1,), (True,), (0.0,), ("a",))),
    ],
    ids=repr,
)
def test_a_charge_outside_of_its_limits_is_none_and_an_account_that_has_it_is_not_opened(
    wrong: dict[str, Any], tmp_path: Path, budget: Budget
) -> None:
    """What an earlier version has written can still be read, and says why nothing is left."""
    with pytest.raises(ValueError, match=r"must be|not all among|no whole number|unpack"):
        replace(charge(), **wrong)
    budget.reserve(charge(run="before"))
    budget.settle()
    budget.close()
    append(tmp_path, {**asdict(charge()), **wrong}, spent=0.3)
    with pytest.raises(RunError, match="line 3 charges for what has no bound") as caught:
        Budget(tmp_path, POLICY)
    assert caught.value.code == "S06"
    assert "epsilon = inf" in str(caught.value)
    account = read(tmp_path, POLICY)
    assert (account["spent"], account["left"]) == (math.inf, 0.0)
    assert account["runs"] == {"before": 1, "r": 1}
    assert len(account["faults"]) == 1


@pytest.mark.parametrize("sampled", [(0.5, 10**9), (5e-324, 3), (math.nan, 3), (2.0, 1), (0.5, 0)])
def test_so_is_training_outside_of_its_limits(
    sampled: tuple[float, int], tmp_path: Path, budget: Budget
) -> None:
    budget.close()
    rate, steps = sampled
    append(tmp_path, {**asdict(charge()), "sampled": {"rate": rate, "steps": steps}}, spent=0.3)
    with pytest.raises(RunError) as caught:
        Budget(tmp_path, POLICY)
    assert caught.value.code == "S06"


@pytest.mark.parametrize("spent", [math.nan, math.inf, None, "3"])
def test_an_account_that_says_no_number_was_spent_is_not_opened(
    spent: object, tmp_path: Path, budget: Budget
) -> None:
    """As one did whose noise had made 0 times infinity of it, and that answered ever after."""
    budget.close()
    append(tmp_path, asdict(charge()), spent=spent)
    with pytest.raises(RunError, match="was spent") as caught:
        Budget(tmp_path, POLICY)
    assert caught.value.code == "S06"
    assert read(tmp_path, POLICY)["left"] == 0


def test_an_account_that_comes_to_less_than_it_did_is_not_opened(
    tmp_path: Path, budget: Budget
) -> None:
    budget.reserve(charge())
    budget.settle()
    spent = budget.spent
    budget.close()
    append(tmp_path, asdict(charge()), spent=5 * spent, accountant="another")
    Budget(tmp_path, POLICY).close()
    append(tmp_path, asdict(charge()), spent=5 * spent, accountant=ACCOUNTANT)
    with pytest.raises(RunError, match="its charges come to") as caught:
        Budget(tmp_path, POLICY)
    assert caught.value.code == "S06"


def test_a_figure_that_is_no_number_is_refused(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.privacy.by_part.epsilon", lambda *_: math.nan)
    for use in (budget.affordable, budget.reserve):
        with pytest.raises(RefusedError) as caught:
            use(charge())
        assert caught.value.code == "P09"


@settings(deadline=None, max_examples=60)
@given(
    st.floats() | st.integers() | st.booleans() | st.floats(1e-7, 1e-5) | st.floats(0.1, 10),
    st.floats() | st.integers() | st.sampled_from([1e-4, 0.1, 0.5, 1.0]),
    st.integers() | st.floats() | st.integers(1, 2_000_000),
    st.booleans(),
)
def test_no_charge_makes_an_account_that_answers_whatever_comes_after(
    noise: Any, rate: Any, steps: Any, trained: bool
) -> None:
    """It is none, or it costs what it costs: after what is too much, nothing more is allowed."""
    spending = Spending()
    try:
        sampled = Sampled(rate, steps) if trained else None
        hostile = replace(charge(), noise=noise, sampled=sampled)
    except ValueError:
        return
    before = spending.epsilon(1e-5, charge())
    assert spending.epsilon(1e-5, hostile) >= 0
    spending.add(hostile)
    after = spending.epsilon(1e-5, charge())
    assert before * (1 - 1e-3) <= after < math.inf
    if spending.epsilon(1e-5) > 3.0:
        assert not after <= 3.0


def append(folder: Path, row: dict[str, Any], **more: Any) -> None:
    """A line as an earlier version would have written it."""
    chain = Chain(folder / NAME)
    limit = {"epsilon": 3.0, "delta": 1e-5}
    chain.append("charge", time=time.time(), **limit, **more, charges=[row])
    chain.close()
