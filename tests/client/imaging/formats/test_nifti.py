"""NIfTI volumes and label maps: turned exactly, and refused when they would have to be guessed
at."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.imaging.formats import readers as image_readers
from client.imaging.formats.segmentations import read_label_map
from client.imaging.geometry.volumes import Header, Series, Volume
from common.errors import DataError, Fault
from tests.client.imaging import scans

AFFINE = np.array([[-1.0, 0, 0, 120], [0, 1.5, 0, -100], [0, 0, 2.0, -70], [0, 0, 0, 1]])
REGIONS = {"necrosis": [1], "oedema": [2], "enhancing": [3, 4]}


def brain(seed: int = 0, shape: tuple[int, int, int] = (6, 7, 8)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32)


def series(path: Path) -> Series:
    found = image_readers.header(path)
    assert isinstance(found, Header), found
    return image_readers.group([found])[0]


def read(path: Path) -> Volume:
    made = series(path)
    assert made.faults == ()
    return image_readers.read(made)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(*[st.integers(3, 7)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 4)] * 3),
    mirrored=st.booleans(),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    kind=st.sampled_from(["f4", "i2", "u1", "f8"]),
)
def test_round_trip(
    tmp_path: Path, shape: Any, angles: Any, spacing: Any, mirrored: bool, suffix: str, kind: str
) -> None:
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = (
        Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        * spacing
        * [-1 if mirrored else 1, 1, 1]
    )
    affine[:3, 3] = [10, -20, 30]
    array = brain(0, shape).astype(kind)
    path = scans.nifti(tmp_path / f"a{suffix}", array, affine)
    made = read(path)
    index = np.argwhere(np.ones(shape))
    points = (index @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
    found = made.geometry.to_index(points)
    assert np.abs(found - np.rint(found)).max() < 1e-3
    z, y, x = np.rint(found).astype(int).T
    assert np.array_equal(made.array[z, y, x], array.ravel().astype(np.float32))
    assert (np.diag(made.geometry.steps_mm[:, ::-1]) >= 0).all()
    assert made.array.flags.c_contiguous


def test_scaling(tmp_path: Path) -> None:
    def edit(image: Any) -> None:
        image.header.set_slope_inter(0.5, -10)

    raw = np.arange(216, dtype=np.int16).reshape(6, 6, 6)
    path = scans.nifti(tmp_path / "a.nii", raw, AFFINE, edit)
    assert np.array_equal(
        read(path).array, (raw * 0.5 - 10).transpose(2, 1, 0)[:, ::-1].astype(np.float32)
    )


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("meter", 1000.0), ("micron", 0.001)],
)
def test_units_of_length(tmp_path: Path, unit: str, factor: float) -> None:
    path = scans.nifti(
        tmp_path / "a.nii", brain(), AFFINE, lambda image: image.header.set_xyzt_units(unit)
    )
    assert read(path).geometry.spacing_mm == pytest.approx((2 * factor, 1.5 * factor, factor))


def fault(path: Path, *words: str) -> None:
    made = series(path)
    assert len(made.faults) == 1, made.faults
    for word in (str(path), *words):
        assert word in made.faults[0]
    with pytest.raises(DataError):
        image_readers.read(made)


def test_affines_that_disagree(tmp_path: Path) -> None:
    other = AFFINE.copy()
    other[0] *= -1
    fault(
        scans.nifti(tmp_path / "a.nii", brain(), AFFINE, lambda i: i.set_qform(other, 1)),
        "qform and sform",
        "mm apart",
    )


def test_no_affine_singular_sheared(tmp_path: Path) -> None:
    unset = scans.nifti(tmp_path / "a.nii", brain(), AFFINE)
    data = unset.read_bytes()
    unset.write_bytes(data[:252] + bytes(4) + data[256:])  # both codes
    fault(unset, "neither qform nor sform")
    singular = scans.nifti(tmp_path / "b.nii", brain(), AFFINE)
    data = singular.read_bytes()  # qform_code at 252, the rows of the sform at 280, 296 and 312
    singular.write_bytes(data[:252] + bytes(2) + data[254:312] + data[296:308] + data[324:])
    fault(singular, "singular")
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.4
    fault(
        scans.nifti(tmp_path / "c.nii", brain(), sheared, lambda i: i.set_qform(None, 0)), "sheared"
    )


def test_only_one_affine_is_enough(tmp_path: Path) -> None:
    for n, edit in enumerate([lambda i: i.set_qform(None, 0), lambda i: i.set_sform(None, 0)]):
        assert read(
            scans.nifti(tmp_path / f"{n}.nii", brain(), AFFINE, edit)
        ).geometry.spacing_mm == pytest.approx((2, 1.5, 1))


def test_dimensions(tmp_path: Path) -> None:
    assert read(scans.nifti(tmp_path / "a.nii", brain()[..., None], AFFINE)).array.shape == (
        8,
        7,
        6,
    )
    fault(
        scans.nifti(tmp_path / "b.nii", np.stack([brain(), brain()], -1), AFFINE),
        "6x7x8x2",
        "not one volume",
    )
    fault(scans.nifti(tmp_path / "c.nii", brain()[:, :, :2], AFFINE), "no volume")


def test_nan_and_constant(tmp_path: Path) -> None:
    array = brain()
    array[1, 2, 3] = np.nan
    array[1, 2, 4] = np.inf
    for values, words in (
        (array, "2 of 336 voxels are NaN or infinite"),
        (np.zeros((6, 7, 8), np.float32), "every voxel is 0"),
    ):
        path = scans.nifti(tmp_path / "a.nii.gz", values, AFFINE)
        with pytest.raises(DataError, match=words) as told:
            image_readers.read(series(path))
        assert told.value.code == "D06"
        assert str(path) in str(told.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.97])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    path = scans.nifti(tmp_path / f"a{suffix}", brain(0, (20, 20, 20)), AFFINE)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    found = image_readers.header(path)
    if isinstance(found, Header):  # a compressed file is only found out when it is read
        with pytest.raises(DataError) as told:
            image_readers.read(image_readers.group([found])[0])
        assert told.value.code == "D00"
        assert str(path) in str(told.value)
    else:
        assert isinstance(found, Fault)
        assert found.code == "D00"


def test_not_nifti(tmp_path: Path) -> None:
    for name, data in (
        ("a.nii", b"words " * 200),
        ("a.nii.gz", b"words " * 200),
        ("b.nii.gz", gzip.compress(b"words " * 200)),
    ):
        (tmp_path / name).write_bytes(data)
        found = image_readers.header(tmp_path / name)
        assert isinstance(found, Fault), name
        assert found.code == "D00"


# label maps


def labels(kind: str = "u1") -> np.ndarray:
    out = np.zeros((6, 7, 8), kind)
    out[1, 1:3, 2], out[2, 2, 2:5], out[4, 4, 4] = 1, 2, 3
    return out


def test_label_map(tmp_path: Path) -> None:
    image = read(scans.nifti(tmp_path / "a.nii.gz", brain(), AFFINE))
    for kind in ("u1", "i2", "f4", "f8"):
        held = labels(kind) + (
            np.asarray(0.004, kind) if kind.startswith("f") else np.asarray(0, kind)
        )
        mask = read_label_map(
            scans.nifti(tmp_path / "seg.nii.gz", held, AFFINE), image.geometry, REGIONS
        )
        assert mask.marked == (True, True, True)
        assert [int((mask.bits >> i & 1).sum()) for i in range(3)] == [2, 3, 1]
        turned = labels("u1").transpose(2, 1, 0)[:, ::-1, :]
        assert np.array_equal(np.argwhere(mask.bits == 4), np.argwhere(turned == 3))


def test_missing_labels_and_undeclared_regions(tmp_path: Path) -> None:
    image = read(scans.nifti(tmp_path / "a.nii.gz", brain(), AFFINE))
    held = labels()
    held[held == 1] = 0
    path = scans.nifti(tmp_path / "seg.nii", held, AFFINE)
    mask = read_label_map(path, image.geometry, {**REGIONS, "cyst": []})
    assert mask.marked == (True, True, True, False)
    assert int((mask.bits & 1).sum()) == 0


def refused(tmp_path: Path, held: np.ndarray, affine: np.ndarray, *words: str) -> None:
    image = read(scans.nifti(tmp_path / "a.nii.gz", brain(), AFFINE))
    path = scans.nifti(tmp_path / "seg.nii.gz", held, affine)
    with pytest.raises(DataError) as told:
        read_label_map(path, image.geometry, REGIONS)
    assert told.value.code == "D07"
    for word in (str(path), *words):
        assert word in str(told.value)


def test_label_maps_that_are_refused(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 5
    refused(tmp_path, labels(), moved, "affine", "5.00 mm")
    mirrored = AFFINE.copy()
    mirrored[0] *= -1
    refused(tmp_path, labels(), mirrored, "affine")
    refused(tmp_path, labels()[:-1], AFFINE, "8x7x5 voxels", "8x7x6")
    held = labels()
    held[0, 0, :3], held[0, 0, 3] = 7, 9
    refused(tmp_path, held, AFFINE, "7 in 3 voxels", "9 in 1 voxels", "0, 1, 2, 3, 4")
    between = labels("f4")
    between[0, 0, 0] = 1.5
    refused(tmp_path, between, AFFINE, "1 voxels hold values between the labels")
    between[0, 0, 0] = np.nan
    refused(tmp_path, between, AFFINE, "1 voxels are NaN")


def test_a_mirrored_label_map_on_the_same_places_is_the_same(tmp_path: Path) -> None:
    image = read(scans.nifti(tmp_path / "a.nii.gz", brain(), AFFINE))
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 5
    a = read_label_map(scans.nifti(tmp_path / "s.nii", labels(), AFFINE), image.geometry, REGIONS)
    b = read_label_map(
        scans.nifti(tmp_path / "t.nii", labels()[::-1], AFFINE @ flip), image.geometry, REGIONS
    )
    assert np.array_equal(a.bits, b.bits)
