"""A sparse graph of masks: regular, symmetric, in an order that nobody chose; sums as with the full
graph, and no part of one where the sites that are left hang together by too little."""

from __future__ import annotations

import math
from collections.abc import Collection
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, hypergeom

from common.errors import RefusedError
from common.secure_aggregation import graph as secagg_graph
from common.secure_aggregation import group as secagg_group
from common.secure_aggregation import shamir
from common.secure_aggregation.graph import SPARSE, Assumed, Degree, Graph
from common.secure_aggregation.group import FEWEST, Group
from tests.common.secure_aggregation.test_group import Step, code

NAMES = tuple(f"s{i:02}" for i in range(14))


def keys(sites: int, salt: str = "") -> dict[str, str]:
    return {f"site {i:03}": f"{salt}{i}" for i in range(sites)}


def made(sites: int, run: str = "run") -> Graph:
    graph = secagg_graph.declared(run, keys(sites))
    assert graph
    return graph


def connected(graph: Graph, sites: Collection[str]) -> bool:
    """By its edges alone, none of which the product looks at."""
    left, front = set(sites), list(sites)[:1]
    left -= set(front)
    while front:
        reached = left.intersection(graph.near(front.pop()))
        left -= reached
        front += reached
    return not left


# ---- the graph -----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(SPARSE, 260), st.text(max_size=8))
def test_the_graph_is_regular_symmetric_and_connected(sites: int, run: str) -> None:
    graph = made(sites, run)
    k = graph.degree.neighbours
    assert set(graph.ring) == set(keys(sites))
    for site in graph.ring:
        near = graph.near(site)
        assert len(set(near)) == k + 1
        assert site in near
        assert list(near) == sorted(near)
        assert all(site in graph.near(other) for other in near)
    assert connected(graph, graph.ring)
    graph.demand(graph.ring)


@pytest.mark.parametrize("sites", [3, 10, SPARSE - 1])
def test_few_sites_share_all_with_all(sites: int) -> None:
    assert secagg_graph.declared("run", keys(sites)) is None
    group = secagg_group.group(dict.fromkeys(keys(sites), FEWEST))
    assert (group.near("site 001"), group.shares) == (group.sites, group.threshold)


def test_everybody_computes_it_alike_and_any_key_or_run_changes_it() -> None:
    ours = keys(SPARSE)
    ring = made(SPARSE).ring
    backwards = secagg_graph.declared("run", dict(reversed(ours.items())))
    assert backwards
    assert backwards.ring == ring
    for other in (
        secagg_graph.declared("run", ours | {"site 042": "new"}),
        secagg_graph.declared("run 2", ours),
    ):
        assert other
        assert other.ring != ring


def test_the_order_is_uniform_enough() -> None:
    """How far apart two sites stand, and which site stands first, over rings of other keys."""
    trials, apart, first = 1500, np.zeros(SPARSE - 1), np.zeros(SPARSE)
    names = list(keys(SPARSE))
    for t in range(trials):
        graph = secagg_graph.declared("run", keys(SPARSE, f"{t} "))
        assert graph
        places = [graph.ring.index(names[k]) for k in (0, 1)]
        apart[(places[1] - places[0]) % SPARSE - 1] += 1
        first[names.index(graph.ring[0])] += 1
    for counts in (apart, first):
        expected = trials / counts.size
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert 1e-6 < chi2.sf(statistic, counts.size - 1) < 1 - 1e-6


# ---- its degree ----------------------------------------------------------------------------------


def log2_chance(events: float, sites: int, marked: int, drawn: int, least: int) -> float:
    """Of `least` marked ones or more, by another's tail."""
    if least > min(marked, drawn):
        return -math.inf
    return float(math.log2(events) + hypergeom.logsf(least - 1, sites, marked, drawn) / math.log(2))


@pytest.mark.parametrize("sites", [100, 137, 300])
def test_the_degree_holds_what_is_assumed_and_two_neighbours_fewer_do_not(sites: int) -> None:
    assumed = Assumed(secure=40, grinding=0)
    found = secagg_graph.degree_of(sites, assumed)
    assert found
    corrupt, away = sites // 5, sites // 10

    def threshold_holds(k: int, threshold: int) -> bool:
        told = log2_chance(sites, sites - 1, corrupt, k, threshold)
        return told <= -41 and log2_chance(sites, sites, away, k + 1, k + 2 - threshold) <= -31

    def margin_holds(k: int, margin: int) -> bool:
        pairs = sites * (sites - k - 1) / 2
        cut = log2_chance(pairs, sites, corrupt, k, margin)
        return cut <= -41 and log2_chance(pairs, sites, away, k, k + 1 - margin) <= -31

    k = found.neighbours
    assert threshold_holds(k, found.threshold)
    assert margin_holds(k, found.margin)
    fewer = range(1, k)
    assert not (
        any(threshold_holds(k - 2, t) for t in fewer) and any(margin_holds(k - 2, m) for m in fewer)
    )


ASSUMPTIONS = st.builds(
    Assumed,
    st.fractions(0, Fraction(3, 10), max_denominator=50),
    st.fractions(0, Fraction(1, 5), max_denominator=50),
    st.integers(1, 80),
    st.integers(0, 64),
    st.integers(1, 40),
)


@settings(max_examples=25, deadline=None)
@given(st.integers(SPARSE, 150), ASSUMPTIONS, ASSUMPTIONS)
def test_who_assumes_worse_has_no_fewer_neighbours(sites: int, one: Assumed, two: Assumed) -> None:
    worse = Assumed(*(max(getattr(one, f), getattr(two, f)) for f in vars(one)))
    degrees = [secagg_graph.degree_of(sites, a) for a in (one, worse)]
    fewer, more = (d.neighbours if d else sites for d in degrees)
    assert fewer <= more


def test_neighbours_grow_slower_than_sites_by_far() -> None:
    found = {n: secagg_graph.degree_of(n) for n in (100, 200, 400, 800)}
    share = [d.neighbours / n for n, d in found.items() if d]
    assert len(share) == 4
    assert share == sorted(share, reverse=True)
    assert share[-1] < share[0] / 2


def test_graphs_that_those_in_league_can_try_cost_as_many_bits() -> None:
    ground = secagg_graph.degree_of(200, Assumed(secure=40, grinding=64))
    assert ground == secagg_graph.degree_of(200, Assumed(secure=104, grinding=0))
    assert ground == Degree(62, 43, 42)


@pytest.mark.parametrize("sites", [100, 101, 150, 199, 200, 263, 264])
def test_of_some_hundred_sites_a_fifth_gains_nothing_wherever_it_stands(sites: int) -> None:
    found = secagg_graph.degree_of(sites)
    assert found
    assert min(found.threshold, found.margin) > sites // 5


def test_a_third_in_league_is_no_assumption() -> None:
    with pytest.raises(ValueError, match="less than a third"):
        secagg_graph.degree_of(100, Assumed(corrupt=Fraction(1, 3)))


# ---- who may be said to be online ----------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Of few sites, of any degree."""
    sites = draw(st.integers(7, 14))
    k = draw(st.integers(1, (sites - 3) // 2)) * 2
    ring = draw(st.permutations(NAMES[:sites]))
    threshold = draw(st.integers(1, k + 1))
    return Graph(tuple(ring), Degree(k, threshold, draw(st.integers(1, k))))


def cut_off(graph: Graph, gap: int, other: int) -> set[str]:
    """Without two windows of k/2 in a row, from two places on."""
    half = graph.degree.neighbours // 2
    gone = {(start + i) % len(graph.ring) for start in (gap, other) for i in range(half)}
    return {site for i, site in enumerate(graph.ring) if i not in gone}


@settings(max_examples=150, deadline=None)
@given(graphs(), st.data())
def test_honest_sites_that_are_online_hang_together_or_are_refused(
    graph: Graph, data: st.DataObject
) -> None:
    """Whoever is said to have dropped out, and whoever is in league, fewer than the margin."""
    online = data.draw(st.sets(st.sampled_from(sorted(graph.ring)), min_size=1))
    league = data.draw(
        st.lists(st.sampled_from(sorted(online)), max_size=graph.degree.margin - 1).map(set)
    )
    try:
        graph.demand(online)
    except RefusedError:
        return
    assert connected(graph, online - league)
    for site in online:
        assert len(online.intersection(graph.near(site))) >= graph.degree.threshold


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(0, 13), st.data())
def test_a_part_that_is_cut_off_is_refused(graph: Graph, gap: int, data: st.DataObject) -> None:
    half, sites = graph.degree.neighbours // 2, len(graph.ring)
    other = gap + data.draw(st.integers(half + 1, sites - half - 1))
    online = cut_off(graph, gap % sites, other % sites)
    assert not connected(graph, online)
    assert code(lambda: graph.demand(online)) == "M01"


# ---- sums ----------------------------------------------------------------------------------------


def sparse(graph: Graph, values: np.ndarray) -> Step:
    sites = tuple(sorted(graph.ring))
    return Step(Group(sites, len(sites) // 2 + 1, 0, graph), values)


@settings(max_examples=25, deadline=None)
@given(graphs(), st.data())
def test_sums_are_those_of_the_full_graph_to_the_bit(graph: Graph, data: st.DataObject) -> None:
    n = len(graph.ring)
    values = data.draw(st.lists(st.floats(-1e6, 1e6), min_size=7 * n, max_size=7 * n))
    one = sparse(graph, np.reshape(values, (n, 7)))
    full = Step(Group(one.group.sites, one.group.threshold), one.values)
    orders = st.permutations(one.group.sites)
    online = data.draw(orders)[: data.draw(st.integers(max(one.group.threshold, n - 3), n))]
    by = data.draw(orders)[: data.draw(st.integers(max(one.group.threshold, n - 3), n))]
    try:
        one.group.demand(online)
    except RefusedError:
        assert code(lambda: one.sums(online, by)) == "M01"
        return
    around = [len(set(by).intersection(graph.near(site))) for site in online]
    if min(around) < graph.degree.threshold:
        assert code(lambda: one.sums(online, by)) == "M01"
        return
    assert one.sums(online, by).tobytes() == full.sums(online, by).tobytes()


@settings(max_examples=15, deadline=None)
@given(graphs(), st.data())
def test_never_both_of_a_sites_own_seed_and_a_pairs_between_online_sites(
    graph: Graph, data: st.DataObject
) -> None:
    one = sparse(graph, np.zeros((len(graph.ring), 7)))
    online = data.draw(st.sets(st.sampled_from(one.group.sites), min_size=one.group.threshold))
    try:
        told = one.told(online, one.group.sites)
    except RefusedError:
        return
    for teller, shares in told.items():
        assert set(shares) == online.intersection(graph.near(teller))
        for site, of in shares.items():
            assert set(of) == {site} | set(graph.near(site)) - online


def test_a_cut_is_refused_by_sites_and_coordinator_before_a_share_is_told() -> None:
    graph = Graph(NAMES, Degree(4, 3, 2))
    one = sparse(graph, np.ones((len(NAMES), 7)))
    online = cut_off(graph, 0, 7)
    assert len(online) >= one.group.threshold
    assert code(lambda: secagg_group.reveal(one.group, "s03", online, {})) == "M01"
    assert code(lambda: secagg_group.unmask(one.group, online, {}, one.total(online))) == "M01"


def test_fewer_shares_than_the_threshold_around_a_site_give_no_seed() -> None:
    one = sparse(Graph(NAMES, Degree(6, 5, 3)), np.ones((len(NAMES), 7)))
    near = one.group.near("s05")
    held = {s: one.sites[s].held({"s05": one.sites["s05"].blobs[s]})["s05"]["s05"] for s in near}
    points = {i: held[s] for i, s in enumerate(near, start=1)}
    assert shamir.combine(points, 5) == one.sites["s05"].seeds["s05"]
    few = dict(list(points.items())[:4])
    assert code(lambda: shamir.combine(few, 4)) == "M02"
    assert set(one.sites["s05"].blobs) == set(near)


def test_a_graph_of_other_sites_is_refused() -> None:
    graph = Graph(NAMES[:9], Degree(4, 3, 2))
    assert code(lambda: Group(NAMES[1:10], 6, 0, graph)) == "M01"
