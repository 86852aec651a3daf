"""Costs by part: no choice of one part of each split costs more than what is told, and where the
choices are few, one costs as much."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.privacy import by_part
from common.privacy.by_part import ByPart, Share
from common.privacy.mechanism import Cost, Sampled, curve, epsilon, gaussian, subsampled

PARTS = 3
COSTS = st.sampled_from(
    [
        gaussian(4.0),
        gaussian(9.0),
        subsampled(1.0, Sampled(0.1, 20)),
        subsampled(2.0, Sampled(0.2, 10)),
        curve(gaussian(6.0).rdp),
    ]
)
SHARES = st.lists(
    st.builds(
        Share,
        COSTS,
        st.tuples(st.integers(0, 2), st.just(PARTS)),
        st.frozensets(st.integers(0, PARTS - 1)),
    ),
    max_size=8,
)


def brute(shares: list[Share]) -> float:
    """Of the patient worst off, over all choices of a part of each split."""
    dearest = 0.0
    for parts in itertools.product(range(PARTS), repeat=3):
        cost = sum((s.cost for s in shares if parts[s.split[0]] not in s.spared), Cost())
        dearest = max(dearest, epsilon(cost, 1e-5))
    return dearest


@settings(deadline=None, max_examples=40)
@given(SHARES)
def test_it_is_what_the_worst_off_patient_has_paid(shares: list[Share]) -> None:
    told = ByPart(shares).epsilon(1e-5)
    assert told >= brute(shares) * (1 - 1e-9)
    if len({s.split for s in shares}) <= 2:
        assert told == brute(shares)


@settings(deadline=None, max_examples=20)
@given(SHARES)
def test_where_the_choices_are_many_it_is_no_less(shares: list[Share]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_part, "CHOICES", 1)
        assert ByPart(shares).epsilon(1e-5) >= brute(shares) * (1 - 1e-3)


@settings(deadline=None, max_examples=20)
@given(SHARES, st.randoms(use_true_random=False))
def test_in_which_order_does_not_matter_and_one_more_may_be_asked_before(
    shares: list[Share], random: object
) -> None:
    other = list(shares)
    random.shuffle(other)  # type: ignore[attr-defined]
    assert ByPart(other).epsilon(1e-5) == ByPart(shares).epsilon(1e-5)
    if shares:
        account = ByPart(shares[:-1])
        asked = account.epsilon(1e-5, shares[-1])
        assert account.epsilon(1e-5) == ByPart(shares[:-1]).epsilon(1e-5)
        account.add(shares[-1])
        assert account.epsilon(1e-5) == asked


def test_who_is_trained_on_is_not_scored() -> None:
    """The dearer of the two counts, not their sum."""
    trained = Share(subsampled(1.0, Sampled(0.1, 50)), (7, 3), frozenset({2}))
    scored = Share(gaussian(2.0), (7, 3), frozenset({0, 1}))
    alone = [epsilon(s.cost, 1e-5) for s in (trained, scored)]
    assert ByPart([trained, scored]).epsilon(1e-5) == max(alone)


@pytest.mark.parametrize(
    ("split", "spared"),
    [
        ((0, 0), ()),
        ((0, 10**9), ()),
        ((0, 3), (3,)),
        ((0, 3), (-1,)),
        ((0.0, 3), ()),
        ((0, 3.0), ()),
    ],
)
def test_a_split_is_within_its_limits(split: tuple[int, int], spared: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"parts|seed"):
        Share(gaussian(3.0), split, frozenset(spared))


def test_thousands_of_releases_are_put_together_in_no_time() -> None:
    """Exactly: as one release."""
    account = ByPart()
    for n in range(3000):
        account.add(Share(gaussian(100.0 + n % 7), (n % 50, 5), frozenset({n % 5})))
    assert 0 < account.epsilon(1e-5) < math.inf
