"""Sums over patients for noise and masks: whatever the values are, a patient changes the sum by its
own rounded values, which are no longer than declared, and by nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.privacy.patient_sums import Block, Cells, Grid, grid, patient_sums

WIDTHS = np.array([3, 1, 4])
SHAPES = {"a": (2, 2), "cells": (8,)}
hostile = st.floats(width=64) | st.sampled_from([1e308, -1e308, np.inf, -np.inf, np.nan, 5e-324])


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    patients = draw(st.integers(1, 6))
    return {
        "a": draw(hnp.arrays(np.float64, (patients, 2, 2), elements=hostile)),
        "cells": Cells(
            WIDTHS,
            draw(hnp.arrays(np.int64, (patients, 3), elements=st.integers(-3, 6))),
            draw(hnp.arrays(np.float64, (patients, 3), elements=hostile)),
        ),
    }


def only(block: Block, chosen: list[int]) -> Block:
    return {
        k: Cells(v.widths, v.cell[chosen], v.value[chosen]) if isinstance(v, Cells) else v[chosen]
        for k, v in block.items()
    }


def sums(block: Block, bound: float, on: Grid) -> np.ndarray:
    out = patient_sums([block], SHAPES, bound, on)
    return np.concatenate([out[k].ravel() for k in sorted(out)])


@settings(max_examples=300, deadline=None)
@given(blocks(), st.floats(1e-6, 1e9), st.floats(0.1, 1e4))
def test_a_cohorts_sum_is_that_of_its_patients_and_each_is_within_the_bound(
    block: Block, bound: float, noise: float
) -> None:
    on = grid(bound, noise)
    each = [sums(only(block, [i]), bound, on) for i in range(len(block["a"]))]
    assert (np.sum(each, axis=0) == sums(block, bound, on)).all()
    for own in each:
        length = float(np.linalg.norm(own.astype(np.float64))) * on.step
        assert length <= on.sensitivity(bound, 12) * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(blocks(), st.randoms(use_true_random=False))
def test_order_and_blocks_do_not_matter(block: Block, random: object) -> None:
    on = grid(1.0, 1.0)
    order = list(range(len(block["a"])))
    random.shuffle(order)  # type: ignore[attr-defined]
    whole = patient_sums([block], SHAPES, 1.0, on)
    parts = patient_sums([only(block, [i]) for i in order], SHAPES, 1.0, on)
    assert all((whole[k] == parts[k]).all() for k in SHAPES)


def test_values_within_the_bound_arrive() -> None:
    block: Block = {
        "a": np.array([[[0.25, 0.0], [0.0, -0.5]], [[np.nan, 0.0], [0.0, 0.0]]]),
        "cells": Cells(WIDTHS, np.array([[2, 0, -1], [0, 0, 0]]), np.full((2, 3), 0.5)),
    }
    on = grid(1.0, 1.0)
    out = patient_sums([block], SHAPES, 1.0, on)
    assert on.values(out["a"]).tolist() == [[0.25, 0.0], [0.0, -0.5]]
    # the second patient has a value that is no number, and adds nowhere
    assert on.values(out["cells"]).tolist() == [0, 0, 0.5, 0.5, 0, 0, 0, 0]


def test_the_grid_follows_from_what_is_public() -> None:
    assert grid(1.0, 1.0).exponent == -30
    assert grid(2.0**10, 1.0).exponent == -22
    for bound in (0.01, 1.0, 3e7):
        for noise in (0.3, 20.0, 1e6):
            on = grid(bound, noise)
            assert bound * noise / on.step <= 2.0**32
