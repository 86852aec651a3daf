"""Means, scales and bin edges from sums against numpy on the pooled rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.cohort import Cohort, Fold
from common.data.schema import Label, Number, Schema
from common.federated.learner import fit, local_plan
from common.learners.preprocessing import COARSE, FINE, Preprocessing, standardise
from common.trees.binning import bin_indices
from common.types import Arrays
from tests.synthetic import cohort, sites, split

PLAN = local_plan(Fold(), 3, 5)
Matrix = np.ndarray[Any, Any]


def fitted(those: list[Cohort], bins: int = 64) -> Arrays:
    return fit(Preprocessing(bins=bins), {}, those, PLAN)["preprocessing"]


def model_scale(those: list[Cohort]) -> Matrix:
    """Pooled columns on the model scale, written out: log(1 + x - low) for a log-scale number."""
    x = np.concatenate([c.design for c in those])
    return np.stack(
        [
            np.log1p(x[:, j] - c.low) if c.scale == "log" else x[:, j]
            for j, c in enumerate(those[0].schema.columns)
        ],
        axis=1,
    )


def edges(arrays: Arrays, column: int) -> Matrix:
    return np.asarray(arrays["edges"][arrays["offsets"][column] : arrays["offsets"][column + 1]])


def one_column(
    values: Matrix,
    low: float = 0.0,
    high: float = 1.0,
    scale: Any = "linear",
    labels: Matrix | None = None,
) -> Cohort:
    s = Schema(
        "one", (Number("x", "u", low, high, "now", scale),), Label("y", ("no", "yes")), ("now",)
    )
    y = np.arange(len(values)) % 2 if labels is None else labels
    return Cohort(
        "S0",
        s,
        tuple(f"p{i:06d}" for i in range(len(values))),
        np.asarray(values, float)[:, None],
        y,
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 200), st.integers(1, 6), st.sampled_from([0.0, 0.3]))
def test_mean_and_scale_are_numpys(seed: int, n: int, count: int, missing: float) -> None:
    those = split(
        cohort(n, seed=seed, missing=missing),
        np.random.default_rng(seed).integers(0, count, n),
        count,
    )
    arrays, t = fitted(those), model_scale(those)
    for j in range(t.shape[1]):
        known = t[~np.isnan(t[:, j]), j]
        assert arrays["count"][j] == len(known)
        if len(known):
            assert arrays["mean"][j] == pytest.approx(known.mean(), rel=1e-12, abs=1e-12)
        varies = len(known) > 0 and known.std() > 0
        assert arrays["scale"][j] == pytest.approx(known.std() if varies else 1.0, rel=1e-8)


def test_a_narrow_column_far_from_zero_keeps_its_digits() -> None:
    """Sums of squares about zero would have lost them: the deviation is a millionth of the span."""
    x = 0.7 + 1e-6 * np.random.default_rng(0).normal(size=5000)
    arrays = fitted(split(one_column(x), np.arange(5000) % 4))
    assert arrays["scale"][0] == pytest.approx(x.std(), rel=1e-9)


def test_standardised_rows_have_mean_0_and_deviation_1_and_missing_is_the_mean() -> None:
    those = sites(300, 3, missing=0.2)
    arrays = fitted(those)
    z = np.concatenate([standardise(arrays, c) for c in those])
    gone = np.isnan(np.concatenate([c.design for c in those]))
    assert not z[gone].any()
    for j in range(z.shape[1]):
        assert z[~gone[:, j], j].mean() == pytest.approx(0, abs=1e-9)
        assert z[~gone[:, j], j].std() == pytest.approx(1, abs=1e-6)


def test_standardised_rows_are_clipped() -> None:
    values = np.full(2000, 0.5) + np.tile([1e-3, -1e-3], 1000)
    values[0] = 1.0
    c = one_column(values)
    z = standardise(fitted([c]), c)
    assert z.max() == 10.0


@settings(max_examples=80, deadline=None)
@given(st.floats(0, 1), st.integers(1, 400), st.integers(1, 30))
def test_a_column_that_never_varies_is_left_at_zero_and_has_no_edge(
    value: float, n: int, count: int
) -> None:
    """Whatever the value and however the sum of squares was rounded; another value later on is not
    blown up."""
    those = split(one_column(np.full(n, value)), np.arange(n) % count, count)
    arrays = fitted(those)
    assert arrays["scale"][0] == 1.0
    assert len(arrays["edges"]) == 0
    assert np.abs(standardise(arrays, one_column(np.array([0.0, 1.0])))).max() <= 1.0


def test_a_column_missing_throughout_has_no_edge_and_one_bin() -> None:
    whole = cohort(60)
    values = whole.values.copy()
    values[:, 0] = np.nan
    those = split(dataclasses.replace(whole, values=values), np.arange(60) % 2)
    arrays = fitted(those)
    assert arrays["count"][0] == 0
    assert arrays["scale"][0] == 1.0
    assert len(edges(arrays, 0)) == 0
    assert (bin_indices(arrays, those[0])[:, 0] == -1).all()
    known = dataclasses.replace(those[0], values=np.zeros_like(those[0].values))
    assert (bin_indices(arrays, known)[:, 0] == 0).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(30, 3000),
    st.sampled_from([2, 8, 64]),
    st.sampled_from(["uniform", "normal", "heavy", "ties"]),
)
def test_edges_are_the_exact_pooled_quantiles_to_half_a_fine_cell_of_patients(
    seed: int, n: int, bins: int, shape: str
) -> None:
    """The rank of each edge among the pooled values is a quantile's, k / bins, but for half of the
    fullest cell beside it."""
    r = np.random.default_rng(seed)
    x = {
        "uniform": lambda: r.random(n),
        "normal": lambda: (0.5 + r.normal(size=n) / 20).clip(0, 1),
        "heavy": lambda: (np.exp(2 * r.normal(size=n)) / 1e4).clip(0, 1),
        "ties": lambda: np.round(r.random(n), 1),
    }[shape]()
    c = one_column(x)
    arrays = fitted(split(c, r.integers(0, 3, n), 3), bins)
    cuts = edges(arrays, 0)
    assert len(cuts) <= bins - 1
    assert (np.diff(cuts) > 0).all()
    state = fit_coarse(c)
    cells = np.bincount(fine_cell(x, state), minlength=int(state.sum()))
    held = cells[cells > 0]
    rank = np.array([(x < e).sum() for e in cuts.astype(float)])
    if len(held) <= bins:
        np.testing.assert_array_equal(rank, np.cumsum(held)[:-1])
    else:
        k = np.round(rank / n * bins)
        assert (np.abs(rank / n - k / bins) <= held.max() / 2 / n + 1.5 / n).all()


def fit_coarse(c: Cohort) -> Matrix:
    """How many fine cells each coarse cell is divided into: in proportion to its mass, at least
    one."""
    mass = np.histogram(c.values[:, 0], COARSE, (0, 1))[0]
    return np.maximum(np.ceil(mass / mass.sum() * FINE), 1).astype(int)


def fine_cell(x: Matrix, cells: Matrix) -> Matrix:
    coarse = np.minimum((x * COARSE).astype(int), COARSE - 1)
    inside = np.minimum(((x * COARSE - coarse) * cells[coarse]).astype(int), cells[coarse] - 1)
    return np.asarray((np.cumsum(cells) - cells)[coarse] + inside)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_edges_of_a_dense_column_lie_within_a_fine_cell_of_numpys_quantiles(scale: str) -> None:
    high = 1.0 if scale == "linear" else 1e4
    u = (np.arange(200_000) + 0.5) / 200_000
    x = u if scale == "linear" else np.expm1(u * np.log1p(high))
    cuts = edges(fitted(split(one_column(x, 0, high, scale), np.arange(len(x)) % 7)), 0).astype(
        float
    )
    want = np.quantile(x, np.arange(1, 64) / 64)
    on_scale = (lambda v: v) if scale == "linear" else (lambda v: np.log1p(v) / np.log1p(high))
    assert len(cuts) == 63
    assert np.abs(on_scale(cuts) - on_scale(want)).max() <= 1 / FINE + 1e-6


def test_few_values_get_an_edge_between_each_two() -> None:
    c = one_column(np.array([0.0, 0.1, 0.1, 0.5, 1.0, np.nan]))
    arrays = fitted([c])
    assert len(arrays["edges"]) == 3
    assert bin_indices(arrays, c)[:, 0].tolist() == [0, 1, 1, 2, 3, -1]


def test_a_value_equal_to_an_edge_is_right_of_it() -> None:
    c = one_column(np.array([0.0, 1.0] * 10))
    arrays = fitted([c])
    at = one_column(arrays["edges"].astype(float))
    assert bin_indices(arrays, at)[0, 0] == 1


def test_classes_are_counted() -> None:
    those = sites(200, 3, missing=0.3, unknown=0.1)
    labels = np.concatenate([c.labels for c in those])
    assert fitted(those)["classes"].tolist() == [int((labels == 0).sum()), int((labels == 1).sum())]


def test_values_at_and_beyond_the_bounds_stay_in_the_end_cells() -> None:
    c = one_column(np.array([-1.0, 0.0, 1.0, 2.0]))
    arrays = fitted([c])
    assert arrays["count"][0] == 4
    assert arrays["mean"][0] == 0.5
