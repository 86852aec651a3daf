"""Noise is Gaussian, of the promised size, in whole steps, and never the same twice."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from client.station.gaussian_noise import noised
from common.federated.learner import Contribution
from common.privacy.mechanism import COUNTS, Privacy, Sampled
from common.privacy.patient_sums import grid
from common.privacy.random import repeatable, rounded_normal, uniform
from common.types import Array


def test_no_draw_is_repeated() -> None:
    assert not (rounded_normal(100, 1e9) == rounded_normal(100, 1e9)).any()


def test_a_sum_gets_noise_of_its_bound_and_the_count_of_one_and_no_tally_leaves() -> None:
    whole = Contribution(
        {"a": np.zeros((100, 100), np.int64), "b": np.zeros(20_000, np.int64)},
        500,
        {"loss": np.array(3.0)},
    )
    out = noised(whole, bound=5.0, privacy=Privacy(2.0))
    each = 2.0 * np.sqrt(2)
    assert out.tally == {}
    assert kstest(out.sums["a"].ravel() / (5 * each), "norm").pvalue > 1e-4
    assert out.sums["b"].std() == pytest.approx(5 * each, rel=0.05)
    assert out.sums["b"].dtype == np.float64
    counts = [noised(whole, 5.0, Privacy(2.0)).cases for _ in range(400)]
    assert np.std(counts) == pytest.approx(each, rel=0.2)
    assert np.mean(counts) == pytest.approx(500, abs=1)


def test_what_leaves_lies_on_the_grid() -> None:
    """Whatever the sum was: its low bits tell nothing of it."""
    on = grid(5.0, Privacy(2.0).spread)
    for first in (0, 1, 12_345):
        whole = Contribution({"a": np.full(1000, first, np.int64)}, 500)
        steps = noised(whole, 5.0, Privacy(2.0)).sums["a"] / on.step
        assert (steps == np.rint(steps)).all()


def test_a_count_is_never_below_zero() -> None:
    assert min(noised(Contribution({}, 0), 1.0, Privacy(50.0)).cases for _ in range(50)) == 0


def test_what_has_noise_already_is_weighed_with_a_noisy_count_and_nothing_else() -> None:
    whole = Contribution({"w/a": np.full(3, 2.0)}, 500, {"loss": np.array(3.0)})
    outs = [noised(whole, Sampled(0.1, 10), Privacy(1.0)) for _ in range(400)]
    assert all((o.sums["w/a"] == 2.0 * o.cases).all() and o.tally == {} for o in outs)
    assert np.std([o.cases for o in outs]) == pytest.approx(COUNTS, rel=0.2)


def test_a_simulation_can_be_repeated_and_nothing_else_can() -> None:
    def drawn() -> Array:
        return rounded_normal(50, 1e9)

    with repeatable(7, "S0 question"):
        first = drawn(), uniform(50)
    with repeatable(7, "S0 question"):
        again = drawn(), uniform(50)
    with repeatable(7, "S1 question"):
        other = drawn()
    with repeatable(None, "S0 question"):
        free = drawn()
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert not np.intersect1d(first[0], np.concatenate([other, free, drawn()])).size
    assert 0 < first[1].min() < first[1].max() < 1
