"""How many honest peers a site counts on to share noise with: never more than are there, whatever
the plan names and whoever is in league."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.site.privacy_policy import Policy
from common.data.cohort import Fold
from common.errors import RefusedError
from common.federated.learner import Plan, local_plan
from common.privacy.mechanism import Privacy

OWN, KEY, TODAY = "S0", "0a" * 32, datetime.date(2026, 1, 1)
NAMES = [f"S{n}" for n in range(7)]


def plan(participants: tuple[str, ...], shared: int, secure: bool = True) -> Plan:
    base = local_plan(Fold(), 0, 5)
    told: dict[str, Any] = vars(base) | {
        "site": OWN,
        "participants": participants,
        "secure": secure,
        "privacy": Privacy(3.0, shared),
        "learner": "private_logistic",
    }
    return Plan(**told)


def policy(peers: set[str], colluders: int | None, fewest: int | None) -> Policy:
    return Policy(
        peers=dict.fromkeys(sorted(peers), KEY),
        colluders=colluders,
        fewest_sites=fewest,
        dropouts="continue" if fewest else "stop",
    )


@given(
    peers=st.sets(st.sampled_from(NAMES)),
    participants=st.lists(st.sampled_from([*NAMES, "made up", "made up, too"])).map(tuple),
    colluders=st.none() | st.integers(0, 7),
    fewest=st.none() | st.integers(3, 7),
    signed=st.none() | st.integers(3, 7),
)
def test_a_reader_in_league_with_as_many_sites_lacks_as_many_shares(
    peers: set[str],
    participants: tuple[str, ...],
    colluders: int | None,
    fewest: int | None,
    signed: int | None,
) -> None:
    """Of each sum that may come about, by each choice of the sites that are in league: strangers,
    whom the site has no key of, are with the coordinator anyway."""
    mine = policy(peers, colluders, fewest)
    honest = mine.honest_peers(plan(participants, 1), signed)
    if not honest:
        return
    assert colluders is not None
    others = sorted(set(participants) & peers - {OWN})
    least = min(fewest or len(others) + 1, signed or len(others) + 1, len(others) + 1)
    for online in itertools.chain.from_iterable(
        itertools.combinations(others, n) for n in range(least - 1, len(others) + 1)
    ):
        for league in itertools.combinations(online, min(colluders, len(online))):
            lacks = {OWN, *online} - set(league)
            assert len(lacks) >= honest + 1, "the coordinator with its sites"
            for reader in lacks - {OWN}:
                # a site that reads knows its own share
                assert len(lacks - {reader}) >= honest


@given(shared=st.integers(1, 7), colluders=st.none() | st.integers(0, 7), secure=st.booleans())
def test_a_plan_that_counts_on_more_is_refused(
    shared: int, colluders: int | None, secure: bool
) -> None:
    mine = policy(set(NAMES) - {OWN}, colluders, None)
    asked = plan(tuple(NAMES), shared, secure)
    if secure and colluders is not None and shared <= 6 - colluders:
        mine.admit(asked, TODAY)
        return
    with pytest.raises(RefusedError) as caught:
        mine.admit(asked, TODAY)
    assert caught.value.code == "P07"


def test_what_the_sites_of_a_run_have_signed_counts_where_it_is_less() -> None:
    mine, asked = policy(set(NAMES) - {OWN}, 0, None), plan(tuple(NAMES), 4)
    mine.demand_shares(asked, 5)
    with pytest.raises(RefusedError, match=r"counts on 4 .* this site on 3"):
        mine.demand_shares(asked, 4)


@pytest.mark.parametrize(
    ("peers", "colluders", "fewest"), [(2, 2, None), (6, 2, 3), (0, 0, None), (6, 6, None)]
)
def test_a_policy_that_leaves_nobody_to_share_with_is_a_fault(
    peers: int, colluders: int, fewest: int | None
) -> None:
    mine = policy(set(NAMES[1 : 1 + peers]), colluders, fewest)
    assert [key for key, _ in mine.faults()] == ["colluders"]


def test_a_site_tells_with_whom_it_shares() -> None:
    peers = set(NAMES) - {OWN}
    assert policy(peers, None, None).shares == ()
    assert policy(peers, 1, None).shares == (0, 1)
    assert policy(peers, 2, 5).shares == (5, 2)
