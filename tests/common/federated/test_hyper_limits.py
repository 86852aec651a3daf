"""Hyperparameters come from elsewhere: every learner takes its own defaults, and none takes a number
that would take a site's memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from common.federated import learner
from common.federated.hyper_limits import GRID_VOXELS, LARGEST, MOST_COUNT, MOST_ITEMS, fault

EVERY = [(name, key) for name in learner.names() for key in learner.hyper_of(learner.load(name))]


def numbers(default: object) -> st.SearchStrategy[object]:
    """Values of the default's kind, most of them far out."""
    whole = st.integers(MOST_COUNT + 1, 10**30) | st.integers(-(10**30), -MOST_COUNT - 1)
    if isinstance(default, list):
        return st.lists(whole, min_size=1, max_size=4) | st.just([1] * (MOST_ITEMS + 1))
    if isinstance(default, float):
        return st.floats(min_value=LARGEST, exclude_min=True) | st.just(math.nan)
    return whole


@pytest.mark.parametrize("name", learner.names())
def test_a_learner_takes_what_it_says_of_itself(name: str) -> None:
    made = learner.load(name)
    assert learner.load(name, learner.hyper_of(made)) == made


@given(st.sampled_from(EVERY), st.data())
def test_no_learner_takes_a_number_without_a_bound(
    which: tuple[str, str], data: st.DataObject
) -> None:
    name, key = which
    default = learner.hyper_of(learner.load(name))[key]
    if isinstance(default, str | dict | bool):
        return
    with pytest.raises(UsageError) as caught:
        learner.load(name, {key: data.draw(numbers(default))})
    assert caught.value.code == "C01"
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["image", "autoencoder", "segmentation"])
@given(side=st.integers(1, 4096 // 8).map(lambda n: 8 * n))
def test_a_grid_has_no_more_voxels_than_a_site_can_hold(name: str, side: int) -> None:
    grid = {"grid": [side, side, side]}
    if side**3 <= GRID_VOXELS:
        return
    with pytest.raises(UsageError, match="voxels"):
        learner.load(name, grid)


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_value_is_judged(value: object) -> None:
    assert isinstance(fault(value), str)
