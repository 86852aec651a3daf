"""DICOM SEG objects on the grid of their series: every pixel where its position says, or refused by
name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset

from client.imaging.formats import readers as image_readers
from client.imaging.formats.segmentations import check_reference, read_segmentation
from client.imaging.geometry.volumes import Geometry, Header, Mask, Series, Volume
from common.errors import DataError
from tests.client.imaging import scans
from tests.client.imaging.scans import CORONAL, PRONE, SAGITTAL, Scan, body

REGIONS = {"liver": ["liver"], "lesion": [r"tumou?r[_ ]?\d*", "lesion"]}
LABELS = ["Liver", "Portal", "Tumor_1", "TUMOR_2"]
SHAPE = (6, 16, 20)
PLAIN = Scan()


def series(*paths: Path) -> Series:
    (made,) = image_readers.group(
        [h for h in (image_readers.header(p) for p in paths) if isinstance(h, Header)]
    )
    return made


def image(
    folder: Path, scan: Scan = PLAIN, shape: tuple[int, int, int] = SHAPE
) -> tuple[list[Path], Series, Volume]:
    paths = scans.write(folder / "ct", body(shape), scan)
    made = series(*paths)
    return paths, made, image_readers.read(made)


def outlines(
    shape: tuple[int, int, int] = SHAPE, seed: int = 0, segments: int = 4
) -> NDArray[np.uint8]:
    """(slices, rows, columns, segments): overlapping, each absent from some slices."""
    r = np.random.default_rng(seed)
    out = (r.random((*shape, segments)) < 0.2).astype(np.uint8)
    for s in range(segments):
        out[r.permutation(shape[0])[: shape[0] // 2], ..., s] = 0
    out[1, 2, 3] = 1
    return out


def expected(scan: Scan, grid: Geometry, masks: NDArray[Any]) -> NDArray[np.uint8]:
    """Each outlined pixel of the source slices at its place on the grid; bit 0 the first segment,
    bit 1 the last two."""
    out = np.zeros(grid.shape, np.uint8)
    row, column = np.array(scan.orientation[:3]), np.array(scan.orientation[3:])
    for bit, those in ((1, masks[..., 0]), (2, masks[..., 2:].max(axis=-1))):
        k, r, c = np.nonzero(those)
        at = np.array([scan.position(i) for i in range(len(masks))])[k]
        points = at + r[:, None] * column * scan.spacing[0] + c[:, None] * row * scan.spacing[1]
        z, y, x = np.rint(grid.to_index(points)).astype(int).T
        out[z, y, x] |= np.uint8(bit)
    return out


def read(path: Path, onto: Volume, of: Series | None = None) -> Mask:
    return read_segmentation(series(path), onto.geometry, REGIONS, of)


@pytest.mark.parametrize("orientation", [scans.AXIAL, PRONE, CORONAL, SAGITTAL])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_overlapping_and_sparse(tmp_path: Path, kind: str, orientation: tuple[float, ...]) -> None:
    scan = Scan(orientation=orientation)
    paths, ct, made = image(tmp_path, scan)
    masks = outlines()
    path = scans.segmentation(
        tmp_path / "seg.dcm",
        paths,
        masks if kind == "BINARY" else masks.astype(np.float32),
        LABELS,
        kind=kind,
    )
    mask = read(path, made, ct)
    assert np.array_equal(mask.bits, expected(scan, made.geometry, masks))
    assert mask.marked == (True, True)
    assert any("'Portal'" in n for n in mask.notes)
    assert any("fractional" in n for n in mask.notes) == (kind == "FRACTIONAL")
    assert series(path).references == (ct.uid,)
    assert not any("resampled" in n for n in mask.notes)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.permutations(range(6)),
    seed=st.integers(0, 99),
    syntax=st.sampled_from(["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]),
)
def test_order_of_frames_does_not_matter(
    tmp_path: Path, order: list[int], seed: int, syntax: str
) -> None:
    paths, ct, made = image(tmp_path)
    masks = outlines(seed=seed)
    path = scans.segmentation(
        tmp_path / "seg.dcm", [paths[k] for k in order], masks[order], LABELS, syntax=syntax
    )
    assert np.array_equal(read(path, made, ct).bits, expected(Scan(), made.geometry, masks))


@pytest.mark.parametrize("syntax", [None, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"])
def test_labelmap(tmp_path: Path, syntax: str | None) -> None:
    paths, ct, made = image(tmp_path, shape=(6, 40, 44))
    numbers = np.random.default_rng(0).integers(0, 5, (6, 40, 44)).astype(np.uint8)
    numbers[2] = 0
    path = scans.segmentation(
        tmp_path / "seg.dcm", paths, numbers, LABELS, kind="LABELMAP", syntax=syntax
    )
    masks = np.stack([numbers == n + 1 for n in range(4)], -1)
    mask = read(path, made, ct)
    assert np.array_equal(mask.bits, expected(Scan(), made.geometry, masks))
    assert mask.marked == (True, True)


def test_a_segment_without_frames_is_marked(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    masks = outlines()
    masks[..., 2:] = 0
    mask = read(scans.segmentation(tmp_path / "seg.dcm", paths, masks, LABELS), made, ct)
    assert mask.marked == (True, True)
    assert not (mask.bits & 2).any()


def test_nothing_that_the_study_asks_for(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    mask = read(
        scans.segmentation(
            tmp_path / "seg.dcm", paths, outlines(segments=2), ["Spine", "Liver Remnant"]
        ),
        made,
        ct,
    )
    assert mask.marked == (False, False)
    assert not mask.bits.any()
    assert mask.notes == ("segments of no region, left out: 'Spine', 'Liver Remnant'",)


def test_another_series_is_refused_by_name(tmp_path: Path) -> None:
    paths, _, _ = image(tmp_path)
    path = scans.segmentation(tmp_path / "seg.dcm", paths, outlines(), LABELS)
    _, other, there = image(tmp_path / "other", Scan(series="1.9.1", frame_of_reference="1.9.2"))
    with pytest.raises(DataError) as told:
        read(path, there, other)
    assert told.value.code == "D07"
    for word in (str(path), "1.9.1", "1.9.2", Scan().series, Scan().frame_of_reference):
        assert word in str(told.value)
    with pytest.raises(DataError):
        check_reference(
            series(path), image(tmp_path / "patient", Scan(series="1.9.1", patient="P2"))[1]
        )


def test_another_series_of_the_same_frame_of_reference(tmp_path: Path) -> None:
    paths, _, _ = image(tmp_path)
    masks = outlines()
    path = scans.segmentation(tmp_path / "seg.dcm", paths, masks, LABELS)
    _, other, there = image(tmp_path / "other", Scan(series="1.9.1"))
    mask = read(path, there, other)
    assert np.array_equal(mask.bits, expected(Scan(), there.geometry, masks))
    assert any("another series of the same frame of reference" in n for n in mask.notes)


@pytest.mark.parametrize("orientation", [scans.AXIAL, PRONE, SAGITTAL])
def test_frames_that_cover_a_part_of_the_slices(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    whole = Scan(orientation=orientation, series="1.9.1")
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    corner = whole.position(1) + 3 * whole.spacing[0] * column + 5 * whole.spacing[1] * row
    part = Scan(
        orientation=orientation, origin=(float(corner[0]), float(corner[1]), float(corner[2]))
    )
    paths, _, _ = image(tmp_path, part, (4, 8, 10))
    masks = outlines((4, 8, 10))
    path = scans.segmentation(tmp_path / "seg.dcm", paths, masks, LABELS)
    _, other, there = image(tmp_path / "whole", whole)
    mask = read(path, there, other)
    assert np.array_equal(mask.bits, expected(part, there.geometry, masks))
    assert not any("resampled" in n for n in mask.notes)


def test_outside_the_image_is_refused(tmp_path: Path) -> None:
    paths, _, _ = image(tmp_path)
    path = scans.segmentation(tmp_path / "seg.dcm", paths, outlines(), LABELS)
    _, other, there = image(tmp_path / "other", Scan(origin=(-100.0, -90.0, 57.5)))
    with pytest.raises(DataError, match="lie outside the image") as told:
        read(path, there)
    assert told.value.code == "D07"
    assert other.uid


def test_onto_a_finer_and_a_turned_grid(tmp_path: Path) -> None:
    """A block outlined on 5 mm slices keeps its place and volume on 1.25 mm slices, on other
    pixels, and on coronal slices."""
    coarse = Scan(apart=5.0, spacing=(2.0, 2.0), origin=(-40.0, -40.0, 0.0))
    paths, _, _ = image(tmp_path, coarse, (8, 40, 40))
    masks = np.zeros((8, 40, 40, 1), np.uint8)
    masks[2:6, 10:30, 15:25] = 1  # x -10..10, y -20..20, z 10..25
    path = scans.segmentation(tmp_path / "seg.dcm", paths, masks, ["Liver"])
    volume = 4 * 20 * 10 * 5 * 2 * 2
    grids = {
        "finer": (
            Scan(series="1.9.1", apart=1.25, spacing=(1.0, 1.0), origin=(-40.0, -40.0, 0.0)),
            (29, 80, 80),
        ),
        "coronal": (
            Scan(
                series="1.9.2",
                apart=2.0,
                spacing=(1.5, 1.5),
                origin=(-40.0, -40.0, 40.0),
                orientation=CORONAL,
            ),
            (40, 30, 54),
        ),
    }
    for name, (scan, shape) in grids.items():
        _, other, there = image(tmp_path / name, scan, shape)
        mask = read(path, there, other)
        assert any("resampled" in n for n in mask.notes), name
        points = there.geometry.to_mm(np.argwhere(mask.bits).astype(float))
        low, high = points.min(axis=0), points.max(axis=0)
        assert np.abs(low - [-11, -21, 7.5]).max() < 2.1, name
        assert np.abs(high - [9, 19, 27.5]).max() < 2.1, name
        assert np.prod(there.geometry.spacing_mm) * len(points) == pytest.approx(
            volume, rel=0.12
        ), name


def broken(tmp_path: Path, edit: Any, *words: str) -> None:
    paths, ct, made = image(tmp_path)
    path = scans.segmentation(tmp_path / "seg.dcm", paths, outlines(), LABELS, edit=edit)
    with pytest.raises(DataError) as told:
        read(path, made, ct)
    assert told.value.code == "D07"
    for word in (str(path), *words):
        assert word in str(told.value)


def test_objects_that_contradict_themselves(tmp_path: Path) -> None:
    def unknown(ds: Dataset) -> None:
        ds.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[
            0
        ].ReferencedSegmentNumber = 9

    def placeless(ds: Dataset) -> None:
        del ds.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence

    def fewer(ds: Dataset) -> None:
        ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:-1]

    def between(ds: Dataset) -> None:
        for frame in ds.PerFrameFunctionalGroupsSequence:
            frame.PlanePositionSequence[0].ImagePositionPatient[2] += float(
                np.random.default_rng(len(str(frame))).uniform(0.4, 2)
            )
        ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += (
            0.6
        )

    broken(tmp_path / "a", unknown, "segments 9 that it does not describe")
    broken(tmp_path / "b", placeless, "frame 2 does not say where it lies")
    broken(tmp_path / "c", fewer, "frames and describes")
    broken(tmp_path / "d", between)


def test_truncated_object(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    path = scans.segmentation(tmp_path / "seg.dcm", paths, outlines(), LABELS)
    held = series(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert not isinstance(image_readers.header(path), Header)
    with pytest.raises(DataError) as told:
        read_segmentation(held, made.geometry, REGIONS, ct)
    assert told.value.code == "D00"
    assert str(path) in str(told.value)
