"""Folds are judged by a number of patients that is told anyway, and by what is expected of a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.site import public_counts
from client.site.privacy_policy import Policy
from client.site.site_file import Site
from common.data.cohort import Fold
from common.errors import FederationError, RefusedError
from common.federated.learner import load, local_plan
from common.privacy.limits import SPLIT
from common.wire.messages import Hello
from server.config.jobs import demand_parts
from server.config.run_config import Run
from tests.synthetic import cohort

HERE = cohort(60, seed=1)
LEARNER = load("preprocessing")
KEYS = {n: 64 * d for n, d in (("A", "a"), ("B", "b"))}
OPEN = Policy()
MASKED = Policy(require="secagg", peers=KEYS)


def refused(
    parts: int, fold: Fold, minimum: int, policy: Policy = OPEN, noised: int | None = None
) -> bool:
    def counts(_: str, exact: Sequence[int]) -> list[int]:
        return [noised or 0, *[0] * (len(exact) - 1)]

    site = Site("S", Path(), (), minimum=minimum, privacy=policy)
    plan = local_plan(fold, 0, parts)
    try:
        public_counts.demand_fold(plan, LEARNER, site, HERE, counts if noised else None)
    except RefusedError as error:
        return error.code == "P01"
    return False


@given(st.integers(1, 40), st.integers(2, 20), st.integers(1, 19))
def test_what_a_fold_leaves_in_and_out_is_expected_to_be_no_fewer_than_the_minimum(
    minimum: int, parts: int, left: int
) -> None:
    left = min(left, parts)
    share = min(left, parts - left) * 60 / parts
    fold = Fold(parts=tuple(range(left)))
    assert refused(parts, fold, minimum) == (share <= minimum - 1)
    assert not refused(parts, Fold(), minimum), "nobody is left out"


@given(st.integers(0, 500), st.integers(1, 40), st.integers(2, 20))
def test_a_site_says_into_how_many_parts_it_may_be_folded(
    patients: int, minimum: int, parts: int
) -> None:
    policy = Policy(patients=(max(patients, 1), 1000))
    site = Site("S", Path(), (), minimum=minimum, privacy=policy)
    most = public_counts.most_parts(site, max(patients, 1))
    if most:
        assert refused(parts, Fold(parts=(0,)), minimum, policy) == (parts > most)


def test_a_site_may_allow_smaller_parts() -> None:
    loose = Policy(small_folds=True)
    assert refused(5, Fold(parts=(0,)), 40)
    assert not refused(5, Fold(parts=(0,)), 40, loose)
    site = Site("S", Path(), (), minimum=40, privacy=loose)
    assert public_counts.most_parts(site, 50) == 20


def test_folds_are_judged_by_the_number_that_is_told_and_by_no_other() -> None:
    fold = Fold(parts=(0,))
    assert not refused(5, fold, 10)
    assert refused(5, fold, 10, noised=40), "the noised one, whoever is there"
    assert refused(5, fold, 10, Policy(patients=(40, 80)))
    assert not refused(20, fold, 10, MASKED), "none is told"
    assert refused(20, fold, 10, replace(MASKED, patients=(40, 80)))


def test_a_coordinator_is_told_before_the_run_that_parts_are_too_many() -> None:
    run = Run(parts=5)
    hellos = {n: Hello(n, "", "", (), (), 60, parts=p) for n, p in (("A", 20), ("B", 4), ("C", 0))}
    with pytest.raises(FederationError, match="site 'B' has patients for 4 parts") as caught:
        demand_parts(run, (), hellos)
    assert caught.value.code == "P01"
    assert "--parts 4" in str(caught.value)
    demand_parts(Run(parts=4), (), hellos)
    demand_parts(replace(run, evaluations=""), (), hellos)
    assert SPLIT.most == 20


@given(st.integers(-100, 100), st.integers(1, 40))
def test_a_delta_is_judged_by_the_minimum_at_least_however_the_noise_falls(
    noised: int, minimum: int
) -> None:
    site = Site("S", Path(), (), minimum=minimum)

    def counts(_: str, exact: Sequence[int]) -> list[int]:
        return [noised, *[0] * (len(exact) - 1)]

    assert public_counts.most(site, HERE, counts) == max(noised, minimum)
