"""Folds and cohorts: who trains where depends on the split seed and the patient's id alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.cohort import UNKNOWN, Flow, Fold, empty, part_of, pooled
from common.errors import UsageError
from tests import pictures
from tests.synthetic import cohort, schema, split


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 999), st.integers(2, 10), st.lists(st.integers(0, 3), min_size=30, max_size=30)
)
def test_a_patients_part_is_the_same_at_every_site_and_in_every_order(
    seed: int, count: int, at: list[int]
) -> None:
    whole = cohort(30, seed=1)
    want = dict(zip(whole.ids, whole.parts(seed, count), strict=True))
    order = np.random.default_rng(seed).permutation(30)
    shuffled = dataclasses.replace(whole, ids=tuple(whole.ids[i] for i in order))
    assert dict(zip(shuffled.ids, shuffled.parts(seed, count), strict=True)) == want
    for c in split(whole, at, 4):
        assert [want[i] for i in c.ids] == c.parts(seed, count).tolist()
        assert all(part_of(seed, i, count) == want[i] for i in c.ids)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(2, 6))
def test_each_labelled_patient_is_left_out_once_and_never_trained_on_then(
    seed: int, count: int
) -> None:
    whole = cohort(60, seed=seed, unknown=0.2)
    known = {i for i, y in zip(whole.ids, whole.labels, strict=True) if y != UNKNOWN}
    left_out = [known - set(whole.train(Fold(parts=(p,)), seed, count).ids) for p in range(count)]
    assert sum(map(len, left_out)) == len(known)
    assert set().union(*left_out) == known
    both = set(whole.train(Fold(parts=(0, 1)), seed, count).ids)
    assert both == known - left_out[0] - left_out[1]
    assert set(whole.train(Fold(), seed, count).ids) == known


def test_a_left_out_site_trains_on_nobody_and_the_others_on_everybody() -> None:
    a, b = split(cohort(20), np.arange(20) % 2)
    assert len(a.train(Fold(("S0",)), 0, 5)) == 0
    assert len(b.train(Fold(("S0",)), 0, 5)) == 10
    assert 0 < len(b.train(Fold(("S0",), (1,)), 0, 5)) < 10


def test_parts_are_about_equal_and_change_with_the_seed() -> None:
    whole = cohort(5000)
    counts = np.bincount(whole.parts(0, 5), minlength=5)
    assert (np.abs(counts - 1000) < 120).all()
    assert (whole.parts(0, 5) != whole.parts(1, 5)).any()
    with pytest.raises(UsageError) as caught:
        whole.parts(0, 1)
    assert caught.value.code == "C01"


@given(
    st.lists(
        st.builds(
            Fold,
            st.lists(st.text(max_size=3), max_size=3).map(tuple),
            st.lists(st.integers(0, 9), max_size=3).map(tuple),
        )
    )
)
def test_fold_keys_tell_folds_apart(folds: list[Fold]) -> None:
    different = {f for f in folds if not any("|" in s or not s for s in f.sites)}
    assert len({f.key for f in different}) == len(different)


def test_the_hash_follows_values_labels_and_ids() -> None:
    c = cohort(10)
    values, labels = c.values.copy(), c.labels.copy()
    values[3, 0], labels[3] = 0.123, 1 - labels[3]
    others = [
        dataclasses.replace(c, values=values),
        dataclasses.replace(c, labels=labels),
        dataclasses.replace(c, ids=(*c.ids[:-1], "q")),
    ]
    assert len({c.hash, *(o.hash for o in others)}) == 4
    assert dataclasses.replace(c, site="elsewhere").hash == c.hash


def test_pooling_undoes_a_split() -> None:
    whole = cohort(30, unknown=0.1)
    parts = split(whole, np.repeat([0, 1, 2], 10))
    together = pooled(parts)
    assert together.ids == whole.ids
    assert together.hash == whole.hash
    assert together.survival is not None
    assert whole.survival is not None
    np.testing.assert_array_equal(together.survival, whole.survival)
    assert pooled([parts[0], dataclasses.replace(parts[1], survival=None)]).survival is None


def test_nobody_has_a_design_matrix_of_the_right_width() -> None:
    nobody = empty(schema())
    assert nobody.design.shape == (0, len(schema().columns))
    assert len(nobody.train(Fold(), 0, 5)) == 0


def test_the_design_matrix_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        cohort(5).design[0, 0] = 1.0


def test_a_flow_account_must_add_up() -> None:
    Flow(10, (("no consent", 3),), 7)
    with pytest.raises(AssertionError, match="read 10"):
        Flow(10, (("no consent", 3),), 8)


@pytest.mark.parametrize("imaged", [False, True])
def test_only_one_case_is_what_a_mask_of_it_gives(imaged: bool) -> None:
    rows = cohort(6, seed=2)
    rows = pictures.with_pictures(rows, share=0.5) if imaged else rows
    for i in range(6):
        one, masked = rows.only(i), rows.where(np.arange(6) == i)
        assert one.hash == masked.hash
        assert one.pictures == masked.pictures
        assert one.survival is not None
        np.testing.assert_array_equal(one.survival, masked.survival)
        assert not np.shares_memory(one.values, rows.values)
