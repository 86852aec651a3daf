"""A hundred stations on a sparse graph: the exact sum with sites missing, and a coordinator that
would cut the graph, or name other neighbours, is refused by every one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from client.site.privacy_policy import Policy
from client.station.secure_aggregation import Secure
from common.data.cohort import Fold
from common.errors import FederationError
from common.federated.learner import Contribution, Plan, local_plan
from common.secure_aggregation import fixed_point, graph
from common.secure_aggregation import group as secagg_group
from common.secure_aggregation.fixed_point import Words
from common.secure_aggregation.group import Group
from common.wire import masked_messages, signing
from common.wire.masked_messages import Ask, Vouch
from tests.synthetic import cohort

NAMES = tuple(f"site {i:03}" for i in range(graph.SPARSE))
SIGNERS = {name: signing.new() for name in NAMES}
PEERS = {name: signer.public for name, signer in SIGNERS.items()}
RULES = Policy(peers=PEERS, dropouts="continue", fewest_sites=3)
PLAN: Plan = replace(local_plan(Fold(), 0, 5), run="run", participants=NAMES, secure=True)
ZERO = Contribution({"sums": np.zeros(3)}, 0)
COHORT = cohort(10, seed=3)


def part(site: str) -> Contribution:
    number = NAMES.index(site)
    return Contribution({"sums": np.array([1.5 * number, -number, 0.125])}, 10)


def station(site: str, policy: Policy = RULES) -> Secure:
    return Secure(site, partial(SIGNERS.__getitem__, site), policy, None)


@functools.cache
def keys() -> tuple[dict[str, Secure], dict[str, Vouch]]:
    sites = {site: station(site) for site in NAMES}
    told = {site: sites[site].answer(Ask("run", site, "key", 0.0)) for site in NAMES}
    vouches = {s: Vouch(t.public, t.fewest, t.signature) for s, t in told.items()}
    for site in NAMES:
        sites[site].answer(Ask("run", site, "group", 0.0, keys=vouches))
    return sites, vouches


@functools.cache
def group() -> Group:
    _, vouches = keys()
    masks = graph.declared("run", {site: vouch.public for site, vouch in vouches.items()})
    return secagg_group.group({site: vouch.fewest for site, vouch in vouches.items()}, masks)


def ring() -> tuple[str, ...]:
    masks = group().graph
    assert masks
    return masks.ring


class Step:
    """Of all stations, with a coordinator's hands."""

    def __init__(self, number: int) -> None:
        self.number, self.plan = number, replace(PLAN, step=number)
        self.place = masked_messages.place([self.plan], group())
        self.vectors: dict[str, Words] = {}
        self.sealed: dict[str, Mapping[str, bytes]] = {}
        for site, secure in keys()[0].items():
            plans = [replace(self.plan, site=site)]
            vector, sealed = secure.mask(plans, COHORT, [ZERO], [part(site)], {})
            self.vectors[site], self.sealed[site] = vector, sealed

    def ask(
        self, site: str, stage: masked_messages.Stage, online: Collection[str], **more: object
    ) -> masked_messages.Told:
        ask = Ask("run", site, stage, 0.0, self.number, self.place, tuple(sorted(online)))
        return keys()[0][site].answer(replace(ask, **more))  # type: ignore[arg-type]

    def sum(self, online: Collection[str], silent: Collection[str] = ()) -> Contribution:
        _, signatures = signed()
        shares = {}
        for site in set(online) - set(silent):
            blobs = {s: of[site] for s, of in self.sealed.items() if s in online and site in of}
            shares[site] = self.ask(site, "reveal", online, signed=signatures, sealed=blobs).shares
        total = np.sum([self.vectors[site] for site in online], axis=0, dtype=np.uint64)
        secagg_group.unmask(group(), online, shares, total)
        like = masked_messages.joined([ZERO])
        decoded = fixed_point.decode(total, like, masked_messages.scale(group()), len(online))
        return masked_messages.parted(dict(decoded), [ZERO])[0]


def code(work: Callable[[], object]) -> str:
    with pytest.raises(FederationError) as caught:
        work()
    return caught.value.code


@functools.cache
def step() -> Step:
    return Step(0)


@functools.cache
def signed() -> tuple[list[str], dict[str, str]]:
    """One site in twenty is gone."""
    online = [site for i, site in enumerate(ring()) if i % 20]
    return online, {site: step().ask(site, "online", online).signature for site in online}


def test_a_set_that_cuts_the_graph_is_refused_by_every_station() -> None:
    order, half = ring(), len(group().near(NAMES[0])) // 2
    cut = set(NAMES) - set(order[:half]) - set(order[50 : 50 + half])
    assert len(cut) >= group().threshold, "the number alone would be allowed"
    for site in cut:
        assert code(lambda site=site: step().ask(site, "online", cut)) == "M01"


def test_the_sum_is_exact_with_a_tenth_gone_or_silent() -> None:
    online, _ = signed()
    healed = step().sum(online, silent=ring()[1::20])
    numbers = [NAMES.index(site) for site in online]
    assert healed.sums["sums"].tolist() == [1.5 * sum(numbers), -sum(numbers), 0.125 * 95]
    assert healed.cases == 950


def test_a_station_shares_only_with_its_declared_neighbours() -> None:
    """Whatever a coordinator brings it: texts of others are not opened, those of neighbours are
    wanted."""
    (online, signatures), sealed = signed(), step().sealed
    me = online[0]
    assert {site for site in NAMES if me in sealed[site]} == set(group().near(me))
    near = set(group().near(me)) & set(online)
    blobs = {site: sealed[site][me] for site in near}
    far = next(site for site in online if site not in near)
    with_far = blobs | {far: next(iter(sealed[far].values()))}
    reveal = partial(step().ask, me, "reveal", online, signed=signatures)
    assert set(reveal(sealed=with_far).shares) == near
    assert code(lambda: reveal(sealed=dict(list(blobs.items())[1:]))) == "M02"


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({"fewest_sites": 33}, ""),
        ({"fewest_sites": 34}, "M01"),
        ({"colluders": 20}, ""),
        ({"colluders": 21}, "M01"),
    ],
)
def test_the_graph_is_no_weaker_than_the_policy_says(more: dict[str, int], refused: str) -> None:
    _, vouches = keys()
    site = "site 000"
    mine = station(site, replace(RULES, **more))
    told = mine.answer(Ask("run", site, "key", 0.0))
    changed = vouches | {site: Vouch(told.public, told.fewest, told.signature)}
    ask = Ask("run", site, "group", 0.0, keys=changed)
    if refused:
        assert code(lambda: mine.answer(ask)) == refused
    else:
        mine.answer(ask)


def test_a_neighbour_that_the_site_has_no_key_of_is_refused() -> None:
    site = "site 000"
    mine = station(site, replace(RULES, peers={k: v for k, v in PEERS.items() if k != "site 001"}))
    told = mine.answer(Ask("run", site, "key", 0.0))
    vouches = keys()[1] | {site: Vouch(told.public, told.fewest, told.signature)}
    assert code(lambda: mine.answer(Ask("run", site, "group", 0.0, keys=vouches))) == "P07"
