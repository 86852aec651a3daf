"""Preparation: averages keep what they average, places stay where they are, and what is no image of
a body is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.imaging.geometry.image_preprocessing import prepare
from client.imaging.geometry.resampling import averaged, onto
from client.imaging.geometry.volumes import Geometry, Mask, Volume
from common.errors import DataError
from tests.client.imaging.pipeline.exams import CT, MR, body, brain

sizes = st.integers(1, 12)
shapes = st.tuples(sizes, sizes, sizes)


def grid(
    shape: tuple[int, ...],
    spacing: tuple[float, float, float] = (2.5, 0.8, 0.8),
    origin: tuple[float, float, float] = (0, 0, 0),
) -> Geometry:
    z, y, x = spacing
    return Geometry(
        (shape[0], shape[1], shape[2]),
        origin,
        np.array([[0, 0, z], [0, y, 0], [x, 0, 0]], np.float64),
    )


def ct(hu: Any, spacing: tuple[float, float, float] = (2.5, 0.8, 0.8)) -> dict[str, Volume]:
    return {"ct": Volume(hu.astype(np.float32), grid(hu.shape, spacing))}


def plain(x: Any) -> Any:
    return x


@given(shapes, st.tuples(*[st.floats(1, 4)] * 3), st.floats(-5, 5))
def test_a_constant_stays_constant(
    shape: tuple[int, int, int], steps: tuple[float, float, float], value: float
) -> None:
    counts = tuple(max(1, int(n / s)) for n, s in zip(shape, steps, strict=True))
    steps = tuple(min(s, n) for n, s in zip(shape, steps, strict=True))  # type: ignore[assignment]
    whole = tuple((0.0, float(n)) for n in shape)
    out = averaged(np.full(shape, value, np.float32), whole, counts, steps, plain)
    assert np.allclose(out, value, atol=1e-5)


@given(shapes, st.tuples(sizes, sizes, sizes), st.integers(0, 9))
def test_the_mean_is_kept(
    shape: tuple[int, int, int], counts: tuple[int, int, int], seed: int
) -> None:
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    whole = tuple((0.0, float(n)) for n in shape)
    out = averaged(
        array, whole, counts, tuple(n / c for n, c in zip(shape, counts, strict=True)), plain
    )
    assert out.shape == counts
    assert float(out.mean()) == pytest.approx(float(array.mean()), abs=1e-4)


def test_blocks_are_averaged_exactly() -> None:
    array = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    out = averaged(array, ((0, 4), (0, 6), (0, 8)), (2, 3, 2), (2, 2, 4), plain)
    assert np.allclose(out, array.reshape(2, 2, 3, 2, 2, 4).mean((1, 3, 5)))


@settings(max_examples=30)
@given(st.tuples(st.integers(2, 5), st.integers(8, 30), st.integers(8, 38)), st.floats(0.4, 1.3))
def test_a_marker_keeps_its_place(at: tuple[int, int, int], pixel: float) -> None:
    hu = body()
    hu[at] = 30_000
    volume = Volume(
        np.where(hu > 3000, 3000, hu).astype(np.float32), grid(hu.shape, (2.5, pixel, pixel))
    )
    done = prepare({"ct": volume}, None, replace(CT, window=(-200, 3000)))
    field = [n * s for n, s in zip(hu.shape, (2.5, pixel, pixel), strict=True)]
    brightest = np.unravel_index(int(done.voxels[0].argmax()), done.voxels[0].shape)
    for axis in range(3):
        low, high = done.box[axis]
        step = (high - low) * field[axis] / done.voxels.shape[axis + 1]
        found = low * field[axis] + (brightest[axis] + 0.5) * step
        true = (at[axis] + 0.5) * field[axis] / hu.shape[axis]
        assert step == pytest.approx(done.spacing_mm[axis])
        # half of the output's voxel, and half of the file's, which has a size too
        assert abs(found - true) <= step / 2 + field[axis] / hu.shape[axis] / 2 + 1e-6


@given(st.integers(0, 50))
def test_values_stay_within_the_window(seed: int) -> None:
    hu = body() + np.random.default_rng(seed).integers(-400, 2000, body().shape)
    hu[:, :4] = -1000
    done = prepare(ct(hu), None, CT)
    assert done.voxels.dtype == np.int16
    for x in (done.voxels, done.coarse):
        assert np.abs(x * done.unit).max() <= 1
    assert done.unit == CT.modality.unit


def test_the_window_maps_to_minus_one_and_one() -> None:
    done = prepare(ct(body(), (2.5, 1.0, 1.0)), None, CT)
    inside = done.voxels[0] * done.unit
    assert done.spacing_mm == (2.5, 1.0, 1.0)
    assert done.voxels.shape == (1, 8, 28, 36)
    assert inside.min() == 0
    assert np.allclose(inside[3, 6, 4], (110 + 160) / 200 - 1, atol=CT.modality.unit)


def test_a_file_is_never_made_finer() -> None:
    hu = body()
    assert prepare(ct(hu, (5.0, 1.5, 2.0)), None, CT).spacing_mm == (5.0, 1.5, 2.0)
    done = prepare(ct(hu, (1.25, 0.5, 0.5)), None, CT)
    assert done.spacing_mm == pytest.approx((2.5, 1.0, 1.0))
    assert done.voxels.shape == (1, 4, 14, 18)


def test_it_is_cut_to_the_organ_with_its_margin() -> None:
    bits = np.zeros(body().shape, np.uint8)
    bits[2:7, 12:22, 10:22] = 1
    bits[4, 15, 14] |= 2
    done = prepare(ct(body(), (2.5, 1.0, 1.0)), Mask(bits, (True, True)), replace(CT, margin_mm=3))
    assert done.box == ((0, 1), (9 / 40, 25 / 40), (7 / 48, 25 / 48))
    assert done.mask is not None
    assert done.coarse_mask is not None
    assert done.mask.shape == done.voxels.shape[1:]
    assert int((done.mask & 1).sum()) == 5 * 10 * 12
    assert np.argwhere(done.mask & 2).tolist() == [[4, 15 - 9, 14 - 7]]
    # a lesion of one voxel covers no coarse voxel by half, and is still there
    assert int((done.coarse_mask & 2 > 0).sum()) == 1
    assert done.marked == (True, True)


def test_an_organ_that_is_not_outlined_falls_back_to_the_body_and_says_so() -> None:
    bits = np.zeros(body().shape, np.uint8)
    bits[4, 15, 14] = 2
    done = prepare(ct(body(), (2.5, 1.0, 1.0)), Mask(bits, (False, True)), CT)
    assert done.voxels.shape == (1, 8, 28, 36)
    assert any("not outlined" in n for n in done.notes)


def test_a_region_is_where_it_covers_half() -> None:
    bits = np.zeros((8, 40, 48), np.uint8)
    bits[:, 12:22, 10:22] = 1
    done = prepare(ct(body(), (2.5, 0.5, 0.5)), Mask(bits, (True, False)), replace(CT, margin_mm=0))
    assert done.mask is not None
    assert done.mask.shape == (8, 5, 6)
    assert (done.mask == 1).all()


@pytest.mark.parametrize("shift", [1024, -3000])
def test_values_that_are_no_hounsfield_units_are_refused(shift: int) -> None:
    with pytest.raises(DataError, match="RescaleIntercept") as caught:
        prepare(ct(body() + shift), None, CT)
    assert caught.value.code == "D06"


def brains(**origins: tuple[float, float, float]) -> dict[str, Volume]:
    return {
        name: Volume(brain(seed=n), grid(brain().shape, (1, 1, 1), origins.get(name, (0, 0, 0))))
        for n, name in enumerate(("t1n", "t1c", "t2w", "t2f"))
    }


def test_sequences_are_scored_inside_the_brain() -> None:
    done = prepare(brains(), None, MR)
    for c in range(4):
        x = done.voxels[c] * done.unit
        inside = x[brain(seed=c)[_cut(done.box)] != 0]
        assert abs(inside.mean()) < 1e-3
        assert inside.std() == pytest.approx(1, abs=1e-3)
        assert (x[brain(seed=c)[_cut(done.box)] == 0] == 0).all()
    assert done.unit == MR.modality.unit
    assert done.notes == ()


def _cut(box: Any) -> tuple[slice, ...]:
    return tuple(
        slice(round(a * n), round(b * n)) for (a, b), n in zip(box, brain().shape, strict=True)
    )


def test_bright_spots_are_clipped() -> None:
    volumes = brains()
    volumes["t1n"].array[8, 10, 9] = 1e6
    assert np.abs(prepare(volumes, None, MR).voxels * MR.modality.unit).max() <= 5


def test_a_head_with_a_skull_is_found_and_told() -> None:
    volumes = brains()
    noise = np.random.default_rng(1).uniform(1, 20, brain().shape).astype(np.float32)
    volumes["t1n"] = Volume(np.maximum(volumes["t1n"].array, noise), volumes["t1n"].geometry)
    done = prepare(volumes, None, MR)
    inside = (done.voxels[0] * done.unit)[brain()[_cut(done.box)] != 0]
    assert abs(inside.mean()) < 0.05
    assert any("skull" in n for n in done.notes)


def test_a_missing_sequence_is_zero_and_said_to_be_missing() -> None:
    volumes = brains()
    del volumes["t1c"]
    done = prepare(volumes, None, MR)
    assert done.present == (True, False, True, True)
    assert not done.voxels[1].any()
    assert not done.coarse[1].any()


def test_a_shifted_sequence_is_laid_onto_the_first_one() -> None:
    straight = prepare(brains(), None, MR)
    volumes = brains(t2f=(2.0, 0.0, 1.0))
    shifted = np.zeros_like(volumes["t2f"].array)
    shifted[:-1, :, :-2] = volumes["t2f"].array[1:, :, 2:]
    volumes["t2f"] = Volume(shifted, volumes["t2f"].geometry)
    done = prepare(volumes, None, MR)
    assert done.box == straight.box
    middle = (slice(3, -3),) * 3
    assert np.allclose(
        done.voxels[3][middle] * MR.modality.unit,
        straight.voxels[3][middle] * MR.modality.unit,
        atol=0.05,
    )
    assert any("resampled" in n for n in done.notes)


def test_a_finer_sequence_is_averaged_onto_a_coarser_grid() -> None:
    volumes = brains()
    fine = np.repeat(np.repeat(np.repeat(volumes["t2w"].array, 2, 0), 2, 1), 2, 2)
    volumes["t2w"] = Volume(fine, grid(fine.shape, (0.5, 0.5, 0.5), (-0.25, -0.25, -0.25)))
    straight, done = prepare(brains(), None, MR), prepare(volumes, None, MR)
    # the percentiles of eight times as many values differ a little
    assert np.abs(done.voxels[2] - straight.voxels[2]).max() * MR.modality.unit < 0.03


@given(st.floats(-0.4, 0.4), st.tuples(*[st.floats(0.7, 1.8)] * 3), st.integers(0, 5))
def test_an_oblique_sequence_is_laid_where_it_is(
    angle: float, spacing: tuple[float, float, float], seed: int
) -> None:
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), np.sin(angle)], [0, -np.sin(angle), np.cos(angle)]]
    )
    steps = grid((1, 1, 1), spacing).steps_mm @ turn
    own = Geometry((24, 26, 28), (0.0, 0.0, 0.0), steps)
    slope = np.random.default_rng(seed).normal(size=3)
    every = (
        np.stack(np.meshgrid(*map(np.arange, own.shape), indexing="ij"), -1)
        .reshape(-1, 3)
        .astype(np.float64)
    )
    array = (own.to_mm(every) @ slope).reshape(own.shape).astype(np.float32)
    middle = own.to_mm(np.array([[n / 2 for n in own.shape]]))[0] - 4
    wanted = grid(
        (6, 5, 4), (1.9, 1.9, 1.9), (float(middle[0]), float(middle[1]), float(middle[2]))
    )
    found = onto(wanted, Volume(array, own), plain, "t2f", 0.0)
    at = (
        np.stack(np.meshgrid(*map(np.arange, wanted.shape), indexing="ij"), -1)
        .reshape(-1, 3)
        .astype(np.float64)
    )
    assert np.allclose(found.ravel(), wanted.to_mm(at) @ slope, atol=1e-3)


def test_sequences_of_different_places_are_refused() -> None:
    with pytest.raises(DataError, match="t2f") as caught:
        prepare(brains(t2f=(60.0, 0.0, 0.0)), None, MR)
    assert caught.value.code == "D07"


def test_a_constant_sequence_is_refused() -> None:
    volumes = brains()
    volumes["t2w"] = Volume(np.full_like(volumes["t2w"].array, 7), volumes["t2w"].geometry)
    with pytest.raises(DataError, match="t2w"):
        prepare(volumes, None, MR)


def test_a_mask_of_another_grid_is_refused() -> None:
    with pytest.raises(DataError, match="mask") as caught:
        prepare(ct(body()), Mask(np.zeros((3, 4, 5), np.uint8), (True, True)), CT)
    assert caught.value.code == "D07"
