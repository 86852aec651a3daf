"""Who pays for what leaves: nothing leaves under noise without a bound, and only patients whom a
learner does not look at are spared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.site.privacy_policy import Policy
from client.site.site_file import Site
from client.station import guard
from client.station.privacy_budget import Budget, Charge
from common.data.cohort import Fold
from common.errors import RefusedError
from common.federated.learner import (
    Contribution,
    Federated,
    Plan,
    hyper_of,
    load,
    local_plan,
    names,
)
from common.privacy.mechanism import Privacy
from tests import hospital
from tests.pictures import imaging, sites

(COHORT,) = sites(40, 1, imaging(crops=1), seed=3)
SITE = Site(COHORT.site, Path(), ())
PHASES = [(name, phase) for name in names() for phase in load(name).phases]


def asked(learner: Federated, phase: str, fold: Fold, noise: float) -> Plan:
    plan = replace(
        local_plan(fold, 0, 5), site=SITE.name, schema=COHORT.schema.hash, privacy=Privacy(noise)
    )
    return replace(plan, learner=learner.name, phase=phase, hyper=hyper_of(learner))


@pytest.fixture
def budget(tmp_path: Path) -> Iterator[Budget]:
    with closing(hospital.account(tmp_path, Policy(3.0, 1e-5))) as there:
        yield there


@pytest.fixture
def any_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes are another test's."""
    monkeypatch.setattr(guard, "identity", lambda *_: None)
    monkeypatch.setattr(guard, "check", lambda *_: None)


@pytest.mark.parametrize(
    ("name", "phase"), [(n, p) for n, p in PHASES if load(n).phases[p].bound is None]
)
@pytest.mark.usefixtures("any_sums")
def test_a_phase_without_a_bound_is_refused_at_both_doors_and_costs_nothing(
    name: str, phase: str, budget: Budget
) -> None:
    learner = load(name)
    plan, before = asked(learner, phase, Fold(), 3.0), budget.spent
    with pytest.raises(RefusedError, match="no bound") as caught:
        guard.admit(plan, SITE, COHORT, budget)
    assert caught.value.code == "P08"
    for account in (budget, None):
        with pytest.raises(RefusedError, match="no bound") as caught:
            guard.release(Contribution({}, 40), learner, {}, plan, COHORT, 1, account)
        assert caught.value.code == "P08"
    assert budget.spent == before


@pytest.mark.usefixtures("any_sums")
@settings(max_examples=80, deadline=None)
@given(
    which=st.sampled_from([(n, p) for n, p in PHASES if load(n).phases[p].bound is not None]),
    parts=st.sets(st.integers(0, 4), max_size=3).map(lambda chosen: tuple(sorted(chosen))),
    noise=st.floats(0.5, 50),
)
def test_whoever_releases_pays_and_only_parts_it_does_not_look_at_are_spared(
    which: tuple[str, str], parts: tuple[int, ...], noise: float
) -> None:
    learner = load(which[0])
    plan = asked(learner, which[1], Fold(parts=parts), noise)
    charges: list[Charge] = []

    class Account:
        def reserve(self, charge: Charge) -> None:
            charges.append(charge)

    account: Any = Account()
    guard.release(Contribution({}, 10_000), learner, {}, plan, COHORT, 1, account)
    (charge,) = charges
    assert charge.noise == noise
    assert charge.spared == (parts if learner.traits.trains else ())
