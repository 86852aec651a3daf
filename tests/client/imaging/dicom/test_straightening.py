"""Tilted and unevenly spaced CT, resampled where the mapping allows it: what was outlined stays where
it lay in the patient, and nothing else of a series is forgiven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from client.cohort.reader import read_table
from client.imaging.dicom.series import straightened
from client.imaging.formats import readers as image_readers
from client.imaging.formats.segmentations import read_segmentation
from client.imaging.formats.structure_sets import read_structure_set
from client.imaging.geometry.volumes import Header, Series
from client.imaging.pipeline import prepare_images as pipeline
from tests.client.imaging import scans
from tests.client.imaging.outlines import structure_set
from tests.client.imaging.pipeline.exams import CT, study, table
from tests.client.imaging.scans import AXIAL, CORONAL, SAGITTAL, Edit, Scan

SHAPE = (10, 40, 36)
FEET_FIRST = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The normal points to the feet: the first slice is the uppermost."""


def patient(scan: Scan, depths: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Stored values of a ramp in the patient's own millimetres: linear interpolation is exact."""
    row, column = np.array(scan.orientation[:3]), np.array(scan.orientation[3:])
    r, c = np.mgrid[: shape[1], : shape[2]]
    out = []
    for k in range(shape[0]):
        corner = np.array(scan.origin) + depths[k]
        at = corner + r[..., None] * scan.spacing[0] * column + c[..., None] * scan.spacing[1] * row
        out.append(1100 + at @ np.array([1.0, -0.5, 0.7]))
    return np.rint(out).astype(np.uint16)


def series(paths: list[Path]) -> Series:
    (made,) = image_readers.group(
        [h for h in (image_readers.header(p) for p in paths) if isinstance(h, Header)]
    )
    return made


def written(folder: Path, scan: Scan, steps: np.ndarray) -> list[Path]:
    """`steps`: (slices, 3) LPS mm from the first slice."""

    def moved(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = [f"{v:.9g}" for v in np.array(scan.origin) + steps[k]]

    return scans.write(folder, patient(scan, steps), scan, moved)


def depth(scan: Scan, mm: np.ndarray, tilt: float) -> np.ndarray:
    """Slices `mm` along the normal, sheared along the columns by `tilt` degrees."""
    down = np.array(scan.orientation[3:])
    return mm[:, None] * (scan.normal + down * np.tan(np.radians(tilt)))


EVEN = np.arange(10) * 2.5
MIXED = np.cumsum([0, 2.5, 2.5, 2.5, 2.5, 2.5, 5, 5, 5, 5.0])


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    orientation=st.sampled_from([AXIAL, CORONAL, SAGITTAL]),
    tilt=st.sampled_from([-25.0, 0.0, 8.0, 20.0]),
    mm=st.sampled_from([EVEN, MIXED]),
)
def test_values_stay_where_they_lie_in_the_patient(
    tmp_path: Path, orientation: tuple[float, ...], tilt: float, mm: np.ndarray
) -> None:
    scan = Scan(orientation=orientation)
    made = series(written(tmp_path, scan, depth(scan, mm, tilt)))
    if tilt == 0 and mm is EVEN:
        assert straightened(made) is made
        assert made.faults == ()
        return
    assert len(made.faults) >= 1
    assert made.geometry is None
    straight = straightened(made)
    assert straight.faults == ()
    assert any("resampled to straight slices" in n for n in straight.notes)
    volume = image_readers.read(straight)
    inside = volume.array > -1000
    at = volume.geometry.to_mm(np.argwhere(inside).astype(float))
    wanted = 1100 - 1024 + at @ np.array([1.0, -0.5, 0.7])
    # the outermost pixel of a slice is blended with what is outside
    close = np.abs(volume.array[inside] - wanted) < 1.1
    assert close.mean() > 0.93
    assert inside.mean() > 0.5


def test_an_outline_stays_on_its_lesion(tmp_path: Path) -> None:
    scan = Scan()
    paths = written(tmp_path, scan, depth(scan, EVEN, 20.0))
    made = straightened(series(paths))
    volume = image_readers.read(made)
    square = np.array([[4.5, 4.5], [4.5, 10.5], [12.5, 10.5], [12.5, 4.5]])
    path = structure_set(tmp_path / "rt.dcm", paths, {"lesion": [(k, square) for k in (4, 5)]})
    found = image_readers.header(path)
    assert isinstance(found, Header)
    (outline,) = image_readers.group([found])
    mask = read_structure_set(outline, volume.geometry, {"lesion": ["lesion"]}, made)
    at = volume.geometry.to_mm(np.argwhere(mask.bits).astype(float))
    rows = 12.5 * scan.spacing[0] - 4.5 * scan.spacing[0]
    columns = 10.5 * scan.spacing[1] - 4.5 * scan.spacing[1]
    voxel = float(np.prod(volume.geometry.spacing_mm))
    assert len(at) * voxel == pytest.approx(2 * 2.5 * rows * columns, rel=0.1)
    for k in (4, 5):
        here = at[np.abs(at[:, 2] - (50 + 2.5 * k)) < 0.1]
        shift = 2.5 * k * np.tan(np.radians(20.0))
        middle = -90 + shift + 8.5 * scan.spacing[0]
        assert here[:, 1].mean() == pytest.approx(middle, abs=scan.spacing[0] / 2)


@pytest.mark.parametrize("orientation", [AXIAL, FEET_FIRST, CORONAL])
@pytest.mark.parametrize(
    ("steps", "tilt", "kinds"),
    [((2.5, 5.0), 0.0, "rt seg"), ((5.0, 2.5), 0.0, "rt seg"), ((2.5, 5.0), 15.0, "rt")],
)
def test_an_outline_has_no_gaps_where_slices_are_further_apart_than_the_grid(
    tmp_path: Path,
    orientation: tuple[float, ...],
    steps: tuple[float, float],
    tilt: float,
    kinds: str,
) -> None:
    """Outlined on each of its slices, a lesion is whole on the straight ones, and as long."""
    scan = Scan(orientation=orientation)
    mm = np.cumsum([0.0, *[steps[0]] * 5, *[steps[1]] * 4])
    paths = written(tmp_path, scan, depth(scan, mm, tilt))
    made = straightened(series(paths))
    grid = image_readers.read(made).geometry
    square = np.array([[4.5, 4.5], [4.5, 10.5], [12.5, 10.5], [12.5, 4.5]])
    outlined = range(3, 9)
    masks = np.zeros((*SHAPE, 1), np.uint8)
    masks[3:9, 5:13, 5:11] = 1
    regions = {"lesion": ["lesion"]}
    bits = []
    if "rt" in kinds:
        path = structure_set(tmp_path / "rt", paths, {"lesion": [(k, square) for k in outlined]})
        bits.append(read_structure_set(series([path]), grid, regions, made).bits)
    if "seg" in kinds:
        path = scans.segmentation(tmp_path / "seg", paths, masks, ["lesion"])
        bits.append(read_segmentation(series([path]), grid, regions, made).bits)
    assert made.straight is not None
    across = [abs(t) for t in made.straight.turn].index(1)
    for one in bits:
        filled = np.flatnonzero(one.any(axis=tuple(a for a in range(3) if a != across)))
        assert np.array_equal(filled, np.arange(filled[0], filled[-1] + 1))
        length = len(filled) * grid.spacing_mm[across]
        whole = (mm[9] + mm[8]) / 2 - (mm[3] + mm[2]) / 2
        assert length == pytest.approx(whole, abs=1.01 * grid.spacing_mm[across])


def missing(ds: Dataset, k: int) -> None:
    ds.ImagePositionPatient = [-100, -90, 50 + 2.5 * (k + (k > 4))]


def beside(ds: Dataset, k: int) -> None:
    ds.ImagePositionPatient = [-100 + 9 * (k == 4), -90, 50 + 2.5 * k]


def far(ds: Dataset, k: int) -> None:
    ds.ImagePositionPatient = [-100, -90, 50 + (12.0 if k > 4 else 6.0) * k]


def tilted_and_rescaled(ds: Dataset, k: int) -> None:
    ds.ImagePositionPatient = [-100, -90 + k, 50 + 2.5 * k]
    if k == 3:
        ds.RescaleIntercept = "500"


@pytest.mark.parametrize("edit", [missing, beside, far, tilted_and_rescaled])
def test_nothing_else_is_forgiven(tmp_path: Path, edit: Edit) -> None:
    made = series(scans.write(tmp_path, scans.body((10, 12, 12)), Scan(), edit))
    assert made.faults
    assert straightened(made) is made


def test_only_where_the_mapping_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WORKERS", 0)
    data = tmp_path / "data"
    table(data, ["P1", "P2"])
    scan = Scan(patient="P1")
    written(data / "ct", scan, depth(scan, EVEN, 15.0))

    def read(**images: Any) -> Any:
        return read_table(study(CT, images), "now", data, cache=tmp_path / "cache").cohort

    refused = read()
    assert refused.imaged.tolist() == [False, False]
    allowed = read(resample="tilt")
    assert allowed.imaged.tolist() == [True, False]
    assert any("resampled to straight slices" in note for note in allowed.flow.notes)
