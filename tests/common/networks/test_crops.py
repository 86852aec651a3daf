"""Crops: where they are centred, what a cell holds, where the region is from, and that they are cut
once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.picture import EXPERT, PREDICTED, WHOLE, InMemory, Picture
from common.data.schema import Channel, Imaging
from common.networks import crops as module
from common.networks.crops import (
    CaseCrops,
    around,
    crops,
    expert_lesions,
    name,
    on_grid,
    resample,
    whole,
)
from common.runtime.cache import Cache, array_bytes
from common.types import Array

CT = Imaging(
    channels=(Channel("ct", "CT"),),
    regions=("liver", "lesion"),
    organ="liver",
    lesion=("lesion",),
    window=(-160, 240),
    crop_mm=(8, 8, 8),
    crops=2,
)
MR = dataclasses.replace(CT, channels=(Channel("a", "MR"), Channel("b", "MR")), window=None)
GRID = (4, 4, 4)


def picture(
    values: Any = 0.5,
    *,
    boxes: tuple[tuple[int, ...], ...] = (),
    shape: tuple[int, int, int] = (20, 24, 28),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    channels: int = 1,
    present: tuple[bool, ...] | None = None,
    marked: tuple[bool, bool] = (True, True),
    masked: bool = True,
) -> Picture:
    """A picture whose lesions are boxes (z0, z1, y0, y1, x0, x1)."""
    voxels = np.round(np.broadcast_to(np.asarray(values) / 1e-3, (channels, *shape))).astype(
        np.int16
    )
    mask = np.zeros(shape, np.uint8)
    for z0, z1, y0, y1, x0, x1 in boxes:
        mask[z0:z1, y0:y1, x0:x1] |= 2
    coarse = np.zeros((channels, 2, 2, 2), np.int16)
    held = (mask, coarse[0].astype(np.uint8)) if masked else (None, None)
    return Picture("k", voxels, 1e-3, spacing, present or (True,) * channels, coarse, *held, marked)


def test_cubes_are_centred_on_the_largest_connected_lesions() -> None:
    p = picture(boxes=((8, 12, 8, 12, 8, 12), (2, 4, 2, 4, 20, 22), (15, 16, 20, 21, 4, 5)))
    cut, source = crops(p, CT, (8, 8, 8))
    assert source == EXPERT
    assert cut.shape == (2, 2, 8, 8, 8)
    assert cut.dtype == np.float16
    for one, size in zip(cut, (4, 2), strict=True):
        where = np.argwhere(one[-1] > 0.5)
        assert len(where) == size**3
        np.testing.assert_allclose(where.mean(axis=0) + 0.5, 4, atol=0.01)


def test_diagonal_neighbours_are_one_lesion_and_equals_come_lowest_first() -> None:
    p = picture(boxes=((4, 6, 4, 6, 4, 6), (6, 8, 6, 8, 6, 8)))
    assert len(crops(p, CT, GRID)[0]) == 1
    apart = picture(boxes=((14, 16, 14, 16, 14, 16), (4, 6, 4, 6, 4, 6), (9, 11, 18, 20, 22, 24)))
    values = np.arange(20)[:, None, None] * np.ones((1, 24, 28)) * 0.01
    apart = dataclasses.replace(apart, voxels=np.round(values / 1e-3).astype(np.int16)[None])
    cut, _ = crops(apart, CT, (8, 8, 8))
    np.testing.assert_allclose(cut[:, 0].mean(axis=(1, 2, 3)), [0.045, 0.095], atol=0.004)


def test_a_cell_holds_the_mean_of_what_it_covers_and_the_share_of_lesion() -> None:
    r = np.random.default_rng(0)
    values = r.uniform(-1, 1, (20, 24, 28))
    p = picture(values, boxes=((8, 12, 8, 12, 8, 11),))
    (cut,), _ = crops(p, CT, GRID)
    (z, y, x) = (6, 6, 5.5)  # the cube's corner: the middle (10, 10, 9.5) less 4
    for i, j, k in np.ndindex(GRID):
        a, b, c = int(z + 2 * i), int(y + 2 * j), x + 2 * k
        rows = values[a : a + 2, b : b + 2].mean(axis=(0, 1))
        first = int(c)
        want = (rows[first] / 2 + rows[first + 1] + rows[first + 2] / 2) / 2
        assert cut[0, i, j, k] == pytest.approx(want, abs=2e-3)
    assert cut[1].sum() == pytest.approx(4 * 4 * 3 / 8, abs=0.01)


def test_coarse_voxels_are_interpolated() -> None:
    values = np.arange(20)[:, None, None] * np.ones((1, 24, 28)) * 0.04
    p = picture(values, boxes=((8, 10, 8, 12, 8, 12),), spacing=(4.0, 1.0, 1.0))
    (cut,), _ = crops(p, CT, (8, 4, 4))
    at = 9 + (np.arange(8) + 0.5 - 4) / 4 - 0.5  # cells of 1 mm, slices of 4 mm
    np.testing.assert_allclose(cut[0, :, 2, 2], at * 0.04, atol=2e-3)


def test_outside_lies_air_or_the_mean_of_the_brain_and_a_missing_sequence_is_zero() -> None:
    corner = ((0, 2, 0, 2, 0, 2),)
    (ct,), _ = crops(picture(0.5, boxes=corner), CT, (8, 8, 8))
    assert set(np.round(np.unique(ct[0].astype(float)), 3)) == {-1.0, 0.5}
    assert (ct[0] == 0.5).mean() == pytest.approx((5 / 8) ** 3)
    p = picture(0.5, boxes=corner, channels=2, present=(True, False))
    (mr,), _ = crops(p, MR, (8, 8, 8))
    assert set(np.round(np.unique(mr[0].astype(float)), 3)) == {0.0, 0.5}
    assert not mr[1].any()


def test_the_whole_field_where_no_lesion_is_known() -> None:
    r = np.random.default_rng(1)
    values = r.uniform(-1, 1, (20, 24, 28))
    for p in (
        picture(values, masked=False, marked=(False, False)),
        picture(values),
        picture(values, marked=(True, False)),
    ):
        cut, source = crops(p, CT, GRID)
        assert (cut.shape, source) == ((1, 2, *GRID), WHOLE)
        assert cut[0, 0].mean() == pytest.approx(values.mean(), abs=2e-3)
        assert not cut[0, 1].any()


def test_predicted_lesions_serve_where_no_expert_looked() -> None:
    predicted = np.zeros((20, 24, 28), np.bool_)
    predicted[3:7, 3:7, 3:7] = True
    bare = picture(masked=False, marked=(False, False))
    cut, source = crops(bare, CT, GRID, predicted)
    assert (len(cut), source) == (1, PREDICTED)
    assert crops(bare, CT, GRID, np.zeros_like(predicted))[1] == WHOLE
    assert crops(picture(boxes=((8, 12, 8, 12, 8, 12),)), CT, GRID, predicted)[1] == EXPERT
    nothing_found = picture()  # an expert looked and saw none
    many = CaseCrops([nothing_found, bare], CT, GRID, lambda p: predicted, "network")
    assert many.sources == (WHOLE, PREDICTED)
    np.testing.assert_array_equal(many[1], cut)


def test_predicted_crops_are_cut_again_when_they_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PREDICTIONS", Cache(1, array_bytes))
    asked = []
    predicted = np.zeros((20, 24, 28), np.bool_)
    predicted[3:7, 3:7, 3:7] = True

    def regions(p: Picture) -> Array:
        asked.append(p.key)
        return predicted

    pictures = [
        dataclasses.replace(picture(masked=False, marked=(False, False)), key=k, kept=InMemory())
        for k in ("a", "b")
    ]
    many = CaseCrops(pictures, CT, GRID, regions, "n")
    np.testing.assert_array_equal(many[0], many[1])
    assert asked == ["a", "b", "a", "b"]
    assert list(many.counts) == [1, 1]


class Counting:
    """Keeps, and counts what it had to make."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def __call__(self, name: str, make: Callable[[], Array]) -> Array:
        if name not in self.arrays:
            self.arrays[name] = make()
        return self.arrays[name]


def test_crops_are_kept_under_a_name_that_tells_what_they_depend_on() -> None:
    kept = Counting()
    p = dataclasses.replace(picture(boxes=((8, 12, 8, 12, 8, 12),)), kept=kept)
    first, _ = crops(p, CT, GRID)
    assert crops(p, CT, GRID)[0] is first
    assert len(kept.arrays) == 1
    others = [
        dataclasses.replace(CT, crop_mm=(9, 8, 8)),
        dataclasses.replace(CT, crops=1),
        dataclasses.replace(CT, regions=("lesion", "liver")),
        dataclasses.replace(CT, lesion=("liver",)),
        dataclasses.replace(CT, window=None),
        dataclasses.replace(CT, channels=(Channel("mr", "MR"),)),
    ]
    names = {
        name(EXPERT, CT, GRID),
        name(EXPERT, CT, (4, 4, 5)),
        *(name(EXPERT, o, GRID) for o in others),
    }
    assert len(names) == 2 + len(others)
    assert name(WHOLE, CT, GRID) not in names


@settings(max_examples=40)
@given(
    st.lists(st.integers(3, 12), min_size=3, max_size=3),
    st.lists(st.integers(2, 12), min_size=3, max_size=3),
    st.integers(0, 99),
)
def test_resampling_keeps_the_mean_where_it_averages(
    shape: list[int], grid: list[int], seed: int
) -> None:
    small = tuple(min(a, b) for a, b in zip(shape, grid, strict=True))
    volumes = np.random.default_rng(seed).normal(size=(2, *shape))
    np.testing.assert_allclose(
        resample(volumes, small).mean(axis=(1, 2, 3)), volumes.mean(axis=(1, 2, 3)), atol=1e-5
    )  # type: ignore[arg-type]


def test_a_coarse_field_comes_back_to_the_voxels_of_its_part() -> None:
    field = np.arange(8.0)[:, None, None] * np.ones((1, 4, 4))
    back = on_grid(field, ((0.25, 0.75), (0, 1), (0, 1)), (8, 3, 5))
    np.testing.assert_allclose(back[:, 0, 0], 1.75 + 0.5 * np.arange(8), atol=1e-6)
    ends = on_grid(field, ((0, 1), (0, 1), (0, 1)), (16, 3, 5))
    np.testing.assert_allclose(ends[[0, -1], 0, 0], [0, 7])  # nothing is extrapolated


def test_a_lesion_at_an_edge_and_one_larger_than_the_picture() -> None:
    tiny = picture(boxes=((0, 1, 0, 24, 0, 28),), shape=(1, 24, 28))
    cut = around(tiny, CT, GRID, expert_lesions(tiny, CT))
    assert np.isfinite(cut).all()
    assert 0 < cut[0, 1].mean() < 0.2
    np.testing.assert_allclose(whole(tiny, CT, GRID)[0, 0], 0.5, atol=1e-3)
