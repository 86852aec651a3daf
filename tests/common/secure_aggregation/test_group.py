"""Sums without parts: exact with any sites missing, nothing by fewer than must answer, nothing from
another step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from common.errors import FederationError, RefusedError, WireError
from common.secure_aggregation import fixed_point, masking, pairwise_keys, shamir
from common.secure_aggregation import group as secagg_group
from common.secure_aggregation.fixed_point import Scale, Words
from common.secure_aggregation.group import ALL, FEWEST, Group
from common.secure_aggregation.pairwise_keys import Pair

NAMES = ("Charité", "Ghent", "H1", "H10", "H2", "Yale", "a", "b", "ß")
PLACE, LATER = (hashlib.sha256(text).digest() for text in (b"run, step 1", b"run, step 2"))
LIKE = {"gradient": np.zeros((2, 3)), "cases": np.array(0.0)}


@cache
def agreed(names: tuple[str, ...]) -> dict[str, dict[str, Pair]]:
    """What each site has with each, itself too."""
    keys = {name: pairwise_keys.new() for name in names}
    return {
        me: {k: pairwise_keys.agree(keys[me], keys[k].public, me, k, "run") for k in names}
        for me in names
    }


@dataclass
class Site:
    """One step at one site, as a station will go through it."""

    group: Group
    me: str
    values: np.ndarray
    place: bytes = PLACE
    seeds: dict[str, bytes] = field(init=False)
    vector: Words = field(init=False)
    blobs: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        pairs = agreed(self.group.sites)[self.me]
        self.seeds = secagg_group.seeds(
            self.group, self.me, pairs, self.place, secagg_group.own_seed()
        )
        self.blobs = secagg_group.seal(self.group, self.me, self.seeds, pairs, self.place)
        sums = {"gradient": self.values[1:].reshape(2, 3), "cases": self.values[0]}
        self.vector = fixed_point.encode(sums, LIKE, Scale(len(self.group.sites)))
        masking.mask(self.vector, self.me, self.seeds)

    def held(self, blobs: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
        pairs = agreed(self.group.sites)[self.me]
        return {
            k: secagg_group.unseal(self.group, self.me, k, blob, pairs[k], self.place)
            for k, blob in blobs.items()
        }


@dataclass
class Step:
    """All sites', and the coordinator's."""

    group: Group
    values: np.ndarray
    place: bytes = PLACE
    sites: dict[str, Site] = field(init=False)

    def __post_init__(self) -> None:
        self.sites = {
            me: Site(self.group, me, v, self.place)
            for me, v in zip(self.group.sites, self.values, strict=True)
        }

    def told(
        self, online: Collection[str], by: Collection[str]
    ) -> dict[str, dict[str, dict[str, bytes]]]:
        near = {me: set(online) & set(self.group.near(me)) for me in by}
        blobs = {me: {k: self.sites[k].blobs[me] for k in near[me]} for me in by}
        return {
            me: secagg_group.reveal(self.group, me, online, self.sites[me].held(blobs[me]))
            for me in by
        }

    def total(self, online: Collection[str]) -> Words:
        return np.sum([self.sites[k].vector for k in online], axis=0, dtype=np.uint64)

    def sums(self, online: Collection[str], by: Collection[str]) -> np.ndarray:
        total = self.total(online)
        secagg_group.unmask(self.group, online, self.told(online, by), total)
        out = fixed_point.decode(total, LIKE, Scale(len(self.group.sites)), len(online))
        return np.concatenate([out["cases"].reshape(1), out["gradient"].ravel()])


def step(n: int, place: bytes = PLACE, **changes: int) -> Step:
    made = secagg_group.group(dict.fromkeys(NAMES[:n], FEWEST))
    return Step(Group(**{**vars(made), **changes}), np.arange(7.0 * n).reshape(n, 7) - 20.25, place)


def code(work: Callable[[], object]) -> str:
    with pytest.raises(FederationError) as caught:
        work()
    return caught.value.code


# ---- sums ----------------------------------------------------------------------------------------


@st.composite
def steps(draw: st.DrawFn) -> tuple[Step, list[str], list[str]]:
    """A step, the sites that were online, and those that answered: some of either kind fell silent
    before they did."""
    n = draw(st.integers(3, 9))
    names = NAMES[:n]
    threshold = draw(
        st.sampled_from([secagg_group.group(dict.fromkeys(names, FEWEST)).threshold, n // 2 + 1, n])
    )
    fewest = max(3, threshold)
    online = draw(
        st.permutations(names).flatmap(lambda p: st.integers(fewest, n).map(lambda m: list(p[:m])))
    )
    by = draw(
        st.permutations(names).flatmap(
            lambda p: st.integers(threshold, n).map(lambda m: list(p[:m]))
        )
    )
    values = draw(st.lists(st.floats(-1e6, 1e6), min_size=7 * n, max_size=7 * n))
    return Step(Group(tuple(sorted(names)), threshold), np.reshape(values, (n, 7))), online, by


@settings(max_examples=60)
@given(steps())
def test_the_sum_is_exact_whoever_is_missing(drawn: tuple[Step, list[str], list[str]]) -> None:
    one, online, by = drawn
    units = Scale(len(one.group.sites)).fraction
    whole = [sum(round(float(one.sites[k].values[i]) * 2**units) for k in online) for i in range(7)]
    assert one.sums(online, by).tolist() == [w / 2**units for w in whole]


@pytest.mark.parametrize("n", range(3, 10))
def test_with_the_default_a_third_may_be_missing_and_another_third_fall_silent(n: int) -> None:
    one = step(n)
    names = one.group.sites
    online, by = names[: max(n - n // 3, 3)], names[n // 3 :]
    assert one.sums(online, by).tolist() == one.values[: len(online)].sum(axis=0).tolist()


# ---- the rule ------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(steps())
def test_of_an_online_site_what_does_not_cancel_is_told_and_of_others_nothing(
    drawn: tuple[Step, list[str], list[str]],
) -> None:
    one, online, by = drawn
    everything = {
        me: one.sites[me].held({k: s.blobs[me] for k, s in one.sites.items()}) for me in by
    }
    for me, held in everything.items():
        told = secagg_group.reveal(one.group, me, online, held)
        assert set(told) == set(online)
        for site, shares in told.items():
            assert set(shares) == {site} | set(one.group.sites) - set(online)
            assert all(share == held[site][k] for k, share in shares.items())


def test_too_few_online_are_refused_by_the_site_and_by_the_coordinator() -> None:
    one = step(6)
    names = one.group.sites
    held = one.sites["H1"].held({k: s.blobs["H1"] for k, s in one.sites.items()})
    for online in (
        names[:3],
        names[:1],
        (),
        ("H1",) * 6,
        (*names[:4], "stranger"),
        (*names, "stranger"),
    ):
        assert (
            code(lambda online=online: secagg_group.reveal(one.group, "H1", online, held)) == "M01"
        )
        assert (
            code(lambda online=online: secagg_group.unmask(one.group, online, {}, one.total(names)))
            == "M01"
        )


def test_a_sum_over_fewer_sites_than_a_site_allows_is_refused() -> None:
    one = step(6, minimum=5)
    held = one.sites["H1"].held({k: s.blobs["H1"] for k, s in one.sites.items()})
    assert code(lambda: secagg_group.reveal(one.group, "H1", one.group.sites[:4], held)) == "M01"
    assert len(secagg_group.reveal(one.group, "H1", one.group.sites[:5], held)) == 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=3, max_size=9))
def test_a_sum_is_over_all_sites_unless_each_has_vouched_for_fewer(fewest: list[int]) -> None:
    vouched = dict(zip(NAMES, fewest, strict=False))
    if max(fewest) > len(fewest):
        assert code(lambda: secagg_group.group(vouched)) == "M01"
        return
    made = secagg_group.group(vouched)
    if ALL in fewest:
        assert made.minimum == len(fewest)
    for n in range(1, len(fewest) + 1):
        online = made.sites[:n]
        wanted = max(made.minimum, made.threshold, FEWEST)
        if n >= wanted:
            made.demand(online)
        else:
            assert code(lambda online=online: made.demand(online)) == "M01"


@pytest.mark.parametrize(
    ("sites", "threshold", "minimum"),
    [
        (("A", "B"), 2, 0),  # each would have the other's
        (("A", "B", "C"), 1, 0),
        (("A", "B", "C", "D"), 2, 0),  # half is not more than half
        (("A", "B", "C"), 4, 0),
        (("A", "B", "C"), 2, 4),
        (("A", "B", "B", "C"), 3, 0),
        (("B", "A", "C"), 2, 0),
        ((), 1, 0),
    ],
)
def test_a_group_in_which_parts_could_be_had_is_refused(
    sites: tuple[str, ...], threshold: int, minimum: int
) -> None:
    with pytest.raises(RefusedError) as caught:
        Group(sites, threshold, minimum)
    assert caught.value.code == "M01"


@pytest.mark.parametrize("n", range(3, 201))
def test_two_sets_of_answers_share_a_site_that_is_no_accomplice(n: int) -> None:
    """While fewer than a third are: each answers once, so no two sets of online sites are both
    unmasked."""
    threshold = secagg_group.group({f"{i:03}": FEWEST for i in range(n)}).threshold
    accomplices = -(-n // 3) - 1
    assert 2 * threshold - 2 * accomplices > n - accomplices


def test_an_online_site_whose_shares_were_kept_back_is_named() -> None:
    one = step(4)
    blobs = {k: one.sites[k].blobs["H1"] for k in ("H1", "H10", "Ghent")}
    with pytest.raises(WireError, match="Charité") as caught:
        secagg_group.reveal(one.group, "H1", one.group.sites, one.sites["H1"].held(blobs))
    assert caught.value.code == "M02"


# ---- what is not what it should be ---------------------------------------------------------------


def test_shares_that_were_altered_or_are_for_another_site_or_step_are_refused() -> None:
    one, later = step(4), step(4, LATER)
    mine, theirs = one.sites["H1"], one.sites["Ghent"]
    altered = bytes([theirs.blobs["H1"][0] ^ 1]) + theirs.blobs["H1"][1:]
    for blob in (
        altered,
        theirs.blobs["H1"][:-1],
        b"",
        theirs.blobs["H10"],
        mine.blobs["H1"],
        later.sites["Ghent"].blobs["H1"],
    ):
        assert code(lambda blob=blob: mine.held({"Ghent": blob})) == "M02"
    assert code(lambda: mine.held({"Charité": theirs.blobs["H1"]})) == "M02"
    assert mine.held({"Ghent": theirs.blobs["H1"]})["Ghent"].keys() == set(one.group.sites)


def test_shares_for_a_group_of_another_size_are_refused() -> None:
    one = step(4)
    pairs = agreed(one.group.sites)
    text = pairwise_keys.seal(
        pairs["Ghent"]["H1"], PLACE, "Ghent", "H1", bytes(shamir.SHARE_BYTES * 5)
    )
    assert code(lambda: one.sites["H1"].held({"Ghent": text})) == "M02"


def test_answers_that_were_not_asked_for_leave_the_sum_as_it_was() -> None:
    one = step(6)
    names = one.group.sites
    online = names[:5]
    right = one.told(online, names)
    total, was = one.total(online), one.total(online)
    share = right["H1"]["Ghent"]["Ghent"]
    wrong = {
        "fewer sites": {k: v for k, v in right["H1"].items() if k != "Ghent"},
        "more sites": {**right["H1"], names[5]: {}},
        "fewer shares": {**right["H1"], "Ghent": {"Ghent": share}},
        "an altered share": {
            **right["H1"],
            "Ghent": {**right["H1"]["Ghent"], "Ghent": bytes([0, share[1] ^ 1]) + share[2:]},
        },
        "another site's": right["H10"],
        "none": {},
    }
    for answer in wrong.values():
        assert (
            code(
                lambda answer=answer: secagg_group.unmask(
                    one.group, online, {**right, "Charité": answer, "H1": answer}, total
                )
            )
            == "M02"
        )
    assert (
        code(
            lambda: secagg_group.unmask(
                one.group, online, {**right, "stranger": right["H1"]}, total
            )
        )
        == "M02"
    )
    few = {k: right[k] for k in names[:3]}
    assert code(lambda: secagg_group.unmask(one.group, online, few, total)) == "M01"
    assert (total == was).all()


def test_masks_that_do_not_come_off_are_noticed() -> None:
    """The vector of a site that is said to be missing is in the sum."""
    n = 6
    like = {"x": np.zeros(1000)}
    group = secagg_group.group(dict.fromkeys(NAMES[:n], FEWEST))
    pairs = agreed(group.sites)
    seeds = {
        me: secagg_group.seeds(group, me, pairs[me], PLACE, secagg_group.own_seed())
        for me in group.sites
    }
    total = np.zeros(1000, np.uint64)
    for me in group.sites:
        masking.mask(total, me, seeds[me])
    online = group.sites[:5]
    for me in online:
        masking.unmask(total, me, {k: seeds[me][k] for k in group.owed(me, online)})
    assert code(lambda: fixed_point.decode(total, like, Scale(n), 5)) == "M02"


# ---- what a coordinator can do with what it is told ----------------------------------------------


def uniform(words: Words) -> bool:
    """Chi-square of the bytes; a chance of 1e-6 of a false alarm."""
    counts = np.bincount(words.astype("<u8").view(np.uint8), minlength=256)
    return bool(chi2.sf(((counts - counts.mean()) ** 2 / counts.mean()).sum(), 255) > 1e-6)


def zeros(group: Group, seeds: Mapping[str, bytes], me: str) -> Words:
    """What leaves a site whose sums are all 0."""
    vector = np.zeros(50_000, np.uint64)
    masking.mask(vector, me, seeds)
    return vector


def test_with_all_that_is_told_a_part_is_still_masked_and_so_is_any_sum_over_fewer() -> None:
    group = secagg_group.group(dict.fromkeys(NAMES[:6], FEWEST))
    pairs = agreed(group.sites)
    seeds = {
        me: secagg_group.seeds(group, me, pairs[me], PLACE, secagg_group.own_seed())
        for me in group.sites
    }
    online = group.sites[:4]
    parts = {me: zeros(group, seeds[me], me) for me in group.sites}
    for me in online:
        assert uniform(parts[me])
        masking.unmask(parts[me], me, {k: seeds[me][k] for k in group.owed(me, online)})
        assert uniform(parts[me])
    assert uniform(sum(parts[me] for me in online[:3]))
    assert not sum(parts[me] for me in online).any()
    # a site that was said to be missing, and whose vector came all the same: what others tell of it
    # is not enough
    late = group.sites[5]
    masking.unmask(parts[late], late, {k: seeds[late][k] for k in online})
    assert uniform(parts[late])


def test_what_one_step_tells_unmasks_no_other() -> None:
    """Even if every seed of a site had been told in it."""
    group = secagg_group.group(dict.fromkeys(NAMES[:4], FEWEST))
    pairs = agreed(group.sites)["H1"]
    first, second = (
        secagg_group.seeds(group, "H1", pairs, place, secagg_group.own_seed())
        for place in (PLACE, LATER)
    )
    assert not set(first.values()) & set(second.values())
    vector, other = zeros(group, second, "H1"), zeros(group, first, "H1")
    assert uniform(vector - other)
    assert uniform(vector ^ other)
    masking.unmask(vector, "H1", first)
    assert uniform(vector)
    # the seeds of pairs come again for the same place; its own a site must remember
    again = secagg_group.seeds(group, "H1", pairs, PLACE, secagg_group.own_seed())
    assert {k for k in again if again[k] != first[k]} == {"H1"}


def test_fewer_sites_than_must_answer_cannot_unmask_the_sum_together() -> None:
    one = step(6)
    online = one.group.sites
    few = one.told(online, online[: one.group.threshold - 1])
    assert code(lambda: secagg_group.unmask(one.group, online, few, one.total(online))) == "M01"
    for site in online:
        shares = {online.index(k) + 1: v[site][site] for k, v in few.items()}
        assert code(lambda shares=shares: shamir.combine(shares, len(shares))) == "M02"
