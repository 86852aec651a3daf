"""Subgroups between hospitals: what the sites add is what one table gives, and no small cell leaves
a site."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.schema import Choice, Label, Number, Schema
from common.metrics.delong import Concordance, aucs, concordance
from common.metrics.subgroups import LEAST, NOT_KNOWN, cuts, groups, named, sums

FEATURES = (
    Number("age", "years", 18, 99, "now"),
    Number("marker", "ug/L", 0, 1e4, "now", scale="log"),
    Choice("sex", ("f", "m"), "now"),
)
SCHEMA = Schema("x", FEATURES, Label("y", ("no", "yes")), ("now",))
AT = {"age": 60.0, "marker": 12.0}


def site(
    n: int, rng: np.random.Generator, lack: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.column_stack(
        [rng.uniform(18, 99, n), rng.lognormal(2, 1, n), rng.integers(0, 2, n)]
    )
    values[rng.random(values.shape) < lack] = np.nan
    labels = (rng.random(n) < 0.4).astype(np.int64)
    p = np.clip(0.4 * labels + 0.6 * rng.random(n), 0, 1)
    return values, np.column_stack([1 - p, p]), labels


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_no_small_cell_leaves_a_site_and_none_can_be_worked_out(
    sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = named(SCHEMA, AT)
    for n in sizes:
        values, probs, labels = site(n, rng)
        told = sums(SCHEMA, AT, values, probs, labels, rng.permutation(n))
        assert {k: v.shape for k, v in told.items()} == {
            k: v.shape for k, v in sums(SCHEMA, AT, *nobody()).items()
        }
        counts, total = told["counts"], np.bincount(labels, minlength=2)
        assert ((counts == 0).all(1) | (counts >= LEAST).all(1)).all()
        for feature in FEATURES:
            mine = counts[[i for i, (f, _) in enumerate(rows) if f == feature]]
            rest = total - mine.sum(0)
            assert not rest.any() or (rest >= LEAST).all() or not mine.any()


def nobody() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return np.empty((0, 3)), np.empty((0, 2)), np.empty(0, np.int64), np.empty(0, np.int64)


def test_a_few_without_a_value_cost_a_few_others_and_no_group() -> None:
    """Who is left out with them does not hang on the value, and is the same whenever it is
    asked."""
    rng = np.random.default_rng(3)
    values, probs, labels = site(200, rng, lack=0.0)
    values[:3, 0] = np.nan
    order = rng.permutation(200)
    told = sums(SCHEMA, AT, values, probs, labels, order)
    ages = [i for i, (f, _) in enumerate(named(SCHEMA, AT)) if f.name == "age"]
    assert told["counts"][ages][:2].sum() == 200 - 2 * LEAST
    assert not told["counts"][ages[2]].any()
    assert all(
        (told[k] == v).all() for k, v in sums(SCHEMA, AT, values, probs, labels, order).items()
    )


def test_added_over_sites_it_is_the_auc_within_sites_of_each_group() -> None:
    rng = np.random.default_rng(1)
    sites = [site(n, rng, lack=0.0) for n in (300, 400, 500)]
    told = [sums(SCHEMA, AT, *s, np.arange(len(s[2]))) for s in sites]
    total = {k: sum(t[k] for t in told) for k in told[0]}
    for i, (feature, group) in enumerate(named(SCHEMA, AT)):
        j = FEATURES.index(feature)
        marked = [groups(feature, v[:, j], AT.get(feature.name))[group] for v, _, _ in sites]
        parts = [(p[m], y[m]) for (_, p, y), m in zip(sites, marked, strict=True)]
        if group == NOT_KNOWN:
            assert not total["counts"][i].any()
            continue
        above = below = ties = 0.0
        for p, y in parts:
            diff = p[y == 1, 1][:, None] - p[y == 0, 1][None, :]
            above, below, ties = (
                above + (diff > 0).sum(),
                below + (diff < 0).sum(),
                ties + (diff == 0).sum(),
            )
        one = Concordance(total["concordant"][i][None, :], total["pairs"][i], total["spread"][i])
        (value,), covariance = aucs(one, [1], 2)
        assert value == pytest.approx((above + ties / 2) / (above + below + ties), abs=1e-12)
        assert total["counts"][i].sum() == sum(len(y) for _, y in parts)
        spread = sum(concordance(p[:, None, :], y).spread for p, y in parts)
        assert covariance[0, 0] == pytest.approx(spread[0, 0] * (1000 / total["pairs"][i][0]) ** 2)


def test_a_value_that_is_called_not_known_is_in_that_group() -> None:
    found = groups(Choice("grade", ("low", NOT_KNOWN), "now"), np.array([0.0, 1.0, np.nan]), None)
    assert {k: v.tolist() for k, v in found.items()} == {
        "low": [True, False, False],
        NOT_KNOWN: [False, True, True],
    }


def test_numbers_are_cut_at_everybody_s_mean_in_their_own_unit() -> None:
    assert cuts(SCHEMA, {"mean": np.array([61.25, np.log1p(20.0), 0.4])}) == {
        "age": 61.25,
        "marker": pytest.approx(20.0),
    }
    x = np.array([61.2, 61.25, 61.26, np.nan])
    assert {k: v.tolist() for k, v in groups(FEATURES[0], x, 61.254).items()} == {
        "up to 61.25": [True, True, False, False],
        "above 61.25": [False, False, True, False],
        NOT_KNOWN: [False, False, False, True],
    }
