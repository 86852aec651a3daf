"""A geometry says where a voxel lies, and finds it again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.imaging.dicom.series import turned
from client.imaging.geometry.volumes import Geometry


def made(
    shape: tuple[int, int, int],
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
) -> Geometry:
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return Geometry(shape, (1.0, -2.0, 3.0), turn[::-1] * np.array(spacing)[:, None])


SHAPES = st.tuples(*[st.integers(1, 20)] * 3)
ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
SPACINGS = st.tuples(*[st.floats(0.2, 5)] * 3)


@given(shape=SHAPES, angles=ANGLES, spacing=SPACINGS, seed=st.integers(0, 9))
def test_index_is_the_inverse_of_place(
    shape: tuple[int, int, int], angles: tuple[float, ...], spacing: tuple[float, ...], seed: int
) -> None:
    geometry = made(shape, angles, spacing)
    index = np.random.default_rng(seed).uniform(0, 20, (7, 3))
    assert np.allclose(geometry.to_index(geometry.to_mm(index)), index, atol=1e-9)
    assert geometry.spacing_mm == pytest.approx(spacing)


@given(shape=SHAPES, angles=ANGLES, spacing=SPACINGS)
def test_turning_moves_no_voxel(
    shape: tuple[int, int, int], angles: tuple[float, ...], spacing: tuple[float, ...]
) -> None:
    geometry = made(shape, angles, spacing)
    array = np.arange(np.prod(shape)).reshape(shape)
    to, turn = turned(shape, np.array(geometry.origin_mm), geometry.steps_mm)
    flips = tuple(slice(None, None, -1 if t < 0 else 1) for t in turn)
    there = array.transpose([abs(t) - 1 for t in turn])[flips]
    assert there.shape == to.shape
    index = np.argwhere(array >= 0)
    z, y, x = np.rint(to.to_index(geometry.to_mm(index))).astype(int).T
    assert np.array_equal(there[z, y, x], array.ravel())
    # the nearest axes: none of the three could be turned further towards its place by another
    # choice
    assert np.abs(to.steps_mm[:, ::-1]).trace() > 0
    assert (np.diag(to.steps_mm[:, ::-1]) >= 0).all()


def test_same_as_looks_at_every_corner() -> None:
    a = made((10, 20, 30), (0, 0, 0), (1, 1, 1))
    assert a.same_as(a)
    assert not a.same_as(Geometry((10, 20, 31), a.origin_mm, a.steps_mm))
    assert a.same_as(Geometry(a.shape, (1.05, -2.0, 3.0), a.steps_mm))
    assert not a.same_as(Geometry(a.shape, (1.15, -2.0, 3.0), a.steps_mm))
    assert not a.same_as(Geometry(a.shape, a.origin_mm, a.steps_mm * 1.01))
    assert a.same_as(Geometry(a.shape, (3.0, -2.0, 3.0), a.steps_mm), tolerance_mm=2.5)
