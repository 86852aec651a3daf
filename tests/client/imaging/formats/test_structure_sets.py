"""RT Structure Sets on the grid of their series: every voxel whose centre a contour encloses, as a SEG
of the same lesion has it and as an independent computation finds it, or refused by name."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom import Dataset

from client.cohort.reader import Reading, read_table
from client.imaging.dicom import rt_struct
from client.imaging.formats import mask_merge
from client.imaging.formats import readers as image_readers
from client.imaging.formats.segmentations import read_segmentation
from client.imaging.formats.structure_sets import read_structure_set
from client.imaging.geometry import contours
from client.imaging.geometry.volumes import Geometry, Header, Mask, Series, Volume
from client.imaging.pipeline import prepare_images as pipeline
from common.errors import DataError
from common.study.image_sections import ImagesSpec
from tests.client.imaging import scans
from tests.client.imaging.outlines import Outline, structure_set
from tests.client.imaging.pipeline import exams
from tests.client.imaging.scans import CORONAL, PRONE, SAGITTAL, Scan, body

REGIONS = {"liver": ["liver"], "lesion": [r"(gtv|met)[_ ]?\d*", "lesion"]}
SHAPE = (6, 24, 28)
PLAIN = Scan()
TILTED = tuple(float(v) for v in np.array([[1, 0, 0], [0, np.cos(0.4), np.sin(0.4)]]).ravel())
"""Slices turned by 23 degrees about the patient's left-right axis."""


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


def star(seed: int, centre: tuple[float, float] = (11.3, 12.6), size: float = 8.0) -> Any:
    """(n, 2): a contour that crosses no line of its own."""
    r = np.random.default_rng(seed)
    angles = np.sort(r.uniform(0, 2 * np.pi, 12))
    radius = r.uniform(0.3, 1, 12) * size
    return np.array(centre) + np.stack([np.sin(angles), np.cos(angles)], 1) * radius[:, None]


def box(low: float, high: float) -> Any:
    return np.array([[low, low], [low, high], [high, high], [high, low]])


def reference(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """By matplotlib: which pixels' centres a polygon (row, column) contains."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 2)
    return Polygon(polygon).contains_points(grid).reshape(shape)


def expected(scan: Scan, grid: Geometry, masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(slices, rows, columns) at their places on the grid."""
    row, column = np.array(scan.orientation[:3]), np.array(scan.orientation[3:])
    k, r, c = np.nonzero(masks)
    at = np.array([scan.position(i) for i in range(len(masks))])[k]
    points = at + r[:, None] * column * scan.spacing[0] + c[:, None] * row * scan.spacing[1]
    z, y, x = np.rint(grid.to_index(points)).astype(int).T
    out = np.zeros(grid.shape, np.uint8)
    out[z, y, x] = 1
    return out


def lesion(path: Path, onto: Volume, of: Series) -> NDArray[np.uint8]:
    return read(path, onto, of).bits >> 1 & 1


def read(path: Path, onto: Volume, of: Series) -> Mask:
    return read_structure_set(series(path), onto.geometry, REGIONS, of)


@pytest.mark.parametrize("orientation", [scans.AXIAL, PRONE, CORONAL, SAGITTAL, TILTED])
def test_equals_a_seg_of_the_same_lesion(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    scan = Scan(orientation=orientation)
    paths, ct, made = image(tmp_path, scan)
    outlines: list[Outline] = [(1, star(1)), (2, star(2)), (2, star(3, (19, 23), 3)), (4, star(4))]
    masks = np.zeros((*SHAPE, 1), np.uint8)
    for k, polygon in outlines:
        masks[k, ..., 0] ^= reference(polygon, SHAPE[1:])
    contours_file = structure_set(tmp_path / "rt.dcm", paths, {"GTV_1": outlines})
    seg_file = scans.segmentation(tmp_path / "seg.dcm", paths, masks, ["Lesion"])
    by_contours = read(contours_file, made, ct)
    by_voxels = read_segmentation(series(seg_file), made.geometry, REGIONS, ct)
    assert np.array_equal(by_contours.bits, by_voxels.bits)
    assert np.array_equal(by_contours.bits >> 1, expected(scan, made.geometry, masks[..., 0] > 0))
    assert by_contours.bits.any()
    assert by_contours.marked == (False, True)
    assert by_contours.notes == ()


@settings(max_examples=25, deadline=None)
@given(
    points=st.lists(
        st.tuples(st.floats(-0.9, 23.9), st.floats(-0.9, 27.9)), min_size=3, max_size=9, unique=True
    )
)
def test_even_odd_of_any_polygon(points: list[tuple[float, float]]) -> None:
    """Against a count of crossings, centre by centre, with centres moved off the lines."""
    polygon = np.array(points)
    inside = np.zeros((24, 28), np.bool_)
    window, part = contours.enclosed(polygon, (24, 28))
    inside[window] = part
    for row in range(24):
        for column in range(0, 28, 3):
            crossings, near = 0, False
            for (y, x), (v, u) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
                if (y <= row) != (v <= row):
                    at = x + (row - y) * (u - x) / (v - y)
                    crossings += at < column
                    near |= abs(at - column) < 1e-6
            assert near or inside[row, column] == bool(crossings % 2)


def test_a_hole_an_island_in_it_and_a_copy(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    ring = box(2.5, 20.5)
    outlines: list[Outline] = [(2, box(5.5, 15.5)), (2, ring), (2, ring), (2, box(8.5, 11.5))]
    wanted = np.zeros(SHAPE, np.bool_)
    for _, polygon in [outlines[0], outlines[1], outlines[3]]:
        wanted[2] ^= reference(polygon, SHAPE[1:])
    for kind in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
        path = structure_set(tmp_path / "rt.dcm", paths, {"met 1": outlines}, kind=kind)
        mask = read(path, made, ct)
        assert np.array_equal(mask.bits >> 1, expected(PLAIN, made.geometry, wanted))
        assert not any("overlap" in n for n in mask.notes)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), start=st.integers(0, 11), back=st.booleans(), closing=st.booleans())
def test_a_contour_that_is_there_twice_counts_once(
    seed: int, start: int, back: bool, closing: bool
) -> None:
    """From whichever of its points, either way around, its first point repeated or not."""
    grid = Geometry((3, 24, 28), (0.0, 0.0, 0.0), np.eye(3)[::-1])
    points = np.column_stack([star(seed)[:, ::-1], np.ones(12)])
    again = np.roll(points, start, axis=0)[:: -1 if back else 1]
    if closing:
        again = np.vstack([again, again[:1]])
    made = contours.filled([points, again], grid)
    assert np.array_equal(made.inside, contours.filled([points], grid).inside)


@settings(max_examples=40, deadline=None)
@given(
    at=st.lists(st.integers(0, 15), min_size=2, max_size=5, unique=True),
    sizes=st.lists(st.sampled_from([0.2, 1.4]), min_size=5, max_size=5),
    depths=st.lists(st.floats(-0.4, 2.4), min_size=5, max_size=5),
)
def test_no_lesion_of_a_region_is_lost_beside_another(
    at: list[int], sizes: list[float], depths: list[float]
) -> None:
    """However small beside a larger one, and a little off the plane of another: each marks a voxel
    of its own slice."""
    grid = Geometry((3, 24, 28), (0.0, 0.0, 0.0), np.eye(3)[::-1])
    outlines, centres = [], []
    for place, size, depth in zip(at, sizes, depths, strict=False):
        y, x = 3 + 6 * (place // 4), 3 + 6 * (place % 4)
        square = np.array([[-size, -size], [-size, size], [size, size], [size, -size]])
        outlines.append(np.column_stack([square + np.array([x, y]), np.full(4, depth)]))
        centres.append((int(np.ceil(depth - 0.5)), y, x))
    inside = contours.filled(outlines, grid).inside
    assert all(inside[centre] for centre in centres)


def test_a_keyhole_is_a_hole(tmp_path: Path) -> None:
    """Its channel runs through centres, out and back: it takes nothing away from the ring."""
    paths, ct, made = image(tmp_path)
    outer, inner = box(2.5, 20.5), box(6.5, 14.5)
    keyhole = np.concatenate([outer[:1], inner[:1], inner[::-1], outer[:1], outer[1:]])
    path = structure_set(tmp_path / "rt.dcm", paths, {"lesion": [(3, keyhole)]})
    wanted = np.zeros(SHAPE, np.bool_)
    wanted[3] = reference(outer, SHAPE[1:]) & ~reference(inner, SHAPE[1:])
    assert np.array_equal(lesion(path, made, ct), expected(PLAIN, made.geometry, wanted))


def test_overlapping_contours_are_told(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    path = structure_set(
        tmp_path / "rt.dcm", paths, {"lesion": [(2, box(2.5, 10.5)), (2, box(7.5, 15.5))]}
    )
    mask = read(path, made, ct)
    assert not mask.bits[2, 8:11, 8:11].any()
    assert any("exclusive or" in n for n in mask.notes)


def test_regions_by_name_several_of_one(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    rois = {
        "Liver": [(1, box(1.5, 20.5))],
        "MET_1": [(1, box(2.5, 6.5))],
        "gtv2": [(2, box(4.5, 9.5))],
        "Cord": [(1, box(2.5, 4.5))],
        "GTV 9": [],
    }
    mask = read(structure_set(tmp_path / "rt.dcm", paths, rois), made, ct)
    assert mask.marked == (True, True)
    assert (mask.bits & 1).sum() == 19 * 19
    assert [int(n) for n in (mask.bits >> 1).sum(axis=(1, 2))] == [0, 16, 25, 0, 0, 0]
    told = " | ".join(mask.notes)
    assert "left out: 'Cord'" in told
    assert "no closed contour: 'GTV 9'" in told


def test_a_name_without_contours_says_nothing(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    mask = read(structure_set(tmp_path / "rt.dcm", paths, {"lesion": []}), made, ct)
    assert mask.marked == (False, False)


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
def test_open_lines_and_points_enclose_nothing(tmp_path: Path, kind: str) -> None:
    paths, ct, made = image(tmp_path)
    path = structure_set(tmp_path / "rt.dcm", paths, {"lesion": [(2, box(2.5, 9.5))]}, kind=kind)
    mask = read(path, made, ct)
    assert not mask.bits.any()
    assert any("points or open lines" in n for n in mask.notes)


def test_smaller_than_a_voxel_is_the_nearest_one(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    mask = read(
        structure_set(tmp_path / "rt.dcm", paths, {"lesion": [(2, box(7.1, 7.4))]}), made, ct
    )
    assert np.argwhere(mask.bits >> 1).tolist() == [[2, 7, 7]]
    assert any("nearest voxel" in n for n in mask.notes)


def test_by_millimetres_and_not_by_the_slice_that_is_named(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    path = structure_set(
        tmp_path / "rt.dcm", paths, {"lesion": [(2, box(2.5, 9.5))]}, named=lambda k: k + 2
    )
    mask = read(path, made, ct)
    assert mask.bits[2].any()
    assert not mask.bits[[0, 1, 3, 4, 5]].any()
    assert any("name a slice that lies elsewhere" in n and "1 of 'lesion'" in n for n in mask.notes)


def thick(folder: Path, apart: float, origin: float = 0.0) -> tuple[list[Path], Series]:
    scan = Scan(series="1.9.1", apart=apart, origin=(-100.0, -90.0, 50.0 + origin))
    paths, made, _ = image(folder, scan)
    return paths, made


def test_contours_of_thicker_slices_stand_for_those_between(tmp_path: Path) -> None:
    """Drawn on slices 5 mm apart, laid on slices 2.5 mm apart of the same frame of reference."""
    paths, _ = thick(tmp_path / "thick", 5.0)
    path = structure_set(
        tmp_path / "rt.dcm", paths, {"lesion": [(k, box(2.5, 9.5)) for k in (0, 1, 2)]}
    )
    _, ct, made = image(tmp_path, shape=(10, 24, 28))
    mask = read(path, made, ct)
    assert [bool(s.any()) for s in mask.bits] == [True] * 5 + [False] * 5
    assert any("thicker slices" in n for n in mask.notes)


def test_a_region_of_one_of_two_series_that_are_referred_to(tmp_path: Path) -> None:
    """A planning CT and an MR of thicker slices in one structure set: what was drawn on the MR is
    as thick as its slices."""
    paths, _ = thick(tmp_path / "thick", 5.0)
    _, ct, made = image(tmp_path, shape=(10, 24, 28))

    def both(ds: Dataset) -> None:
        study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence.append(Dataset())
        study.RTReferencedSeriesSequence[1].SeriesInstanceUID = ct.uid

    rois = {"lesion": [(k, box(2.5, 9.5)) for k in (0, 1, 2)]}
    mask = read(structure_set(tmp_path / "rt.dcm", paths, rois, edit=both), made, ct)
    assert [bool(s.any()) for s in mask.bits] == [True] * 5 + [False] * 5


def test_contours_between_slices_are_on_the_nearest(tmp_path: Path) -> None:
    paths, _ = thick(tmp_path / "moved", 2.5, 1.0)
    path = structure_set(
        tmp_path / "rt.dcm", paths, {"lesion": [(k, box(2.5, 9.5)) for k in (1, 2)]}
    )
    _, ct, made = image(tmp_path)
    mask = read(path, made, ct)
    assert [bool(s.any()) for s in mask.bits] == [False, True, True, False, False, False]


def test_slices_that_were_skipped_stay_empty(tmp_path: Path) -> None:
    """Two lesions of one region, each on one slice, are not one long lesion."""
    paths, ct, made = image(tmp_path)
    path = structure_set(
        tmp_path / "rt.dcm", paths, {"lesion": [(k, box(2.5, 9.5)) for k in (0, 2, 4)]}
    )
    mask = read(path, made, ct)
    assert [bool(s.any()) for s in mask.bits] == [True, False, True, False, True, False]
    assert any("some slices only" in n for n in mask.notes)


def refused(path: Path, made: Volume, ct: Series, *words: str) -> None:
    with pytest.raises(DataError) as told:
        read(path, made, ct)
    for word in (str(path), *words):
        assert word in str(told.value)


def test_elsewhere_is_refused(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    rois = {"lesion": [(2, box(2.5, 9.5))]}
    path = structure_set(tmp_path / "rt.dcm", paths, rois)
    _, other, there = image(tmp_path / "b", Scan(series="1.9.1", frame_of_reference="1.9.2"))
    refused(path, there, other, "1.9.2", Scan().frame_of_reference)
    _, other, there = image(tmp_path / "c", Scan(series="1.9.1", origin=(-100.0, -90.0, 70.0)))
    refused(path, there, other, "beyond the image")

    def turned(ds: Dataset) -> None:
        data = np.array(ds.ROIContourSequence[0].ContourSequence[0].ContourData, float)
        data = data.reshape(-1, 3) + np.array([0, 0, 4])
        data[::2, 2] -= 8
        ds.ROIContourSequence[0].ContourSequence[0].ContourData = data.ravel().tolist()

    refused(
        structure_set(tmp_path / "rt.dcm", paths, rois, edit=turned), made, ct, "no plane", "lesion"
    )

    def moved(ds: Dataset) -> None:
        ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.9.3"

    refused(structure_set(tmp_path / "rt.dcm", paths, rois, edit=moved), made, ct, "1.9.3")


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    paths, ct, made = image(tmp_path)
    rois = {"lesion": [(2, box(2.5, 9.5))]}

    def count(ds: Dataset) -> None:
        ds.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 5

    def number(ds: Dataset) -> None:
        ds.ROIContourSequence[0].ReferencedROINumber = 7

    def one_number(ds: Dataset) -> None:
        ds.StructureSetROISequence.append(Dataset())
        ds.StructureSetROISequence[1].ROINumber = 1
        ds.StructureSetROISequence[1].ROIName = "cord"

    for edit, word in ((count, "5 points"), (number, "region 7"), (one_number, "'cord'")):
        refused(structure_set(tmp_path / "rt.dcm", paths, rois, edit=edit), made, ct, word)
    path = structure_set(tmp_path / "rt.dcm", paths, rois)
    path.write_bytes(path.read_bytes()[:-60])
    found = image_readers.header(path)
    if isinstance(found, Header):
        refused(path, made, ct)


def test_more_than_any_body_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, ct, made = image(tmp_path)
    path = structure_set(tmp_path / "rt.dcm", paths, {"lesion": [(2, box(2.5, 9.5))] * 20})
    assert read(path, made, ct).bits.any()
    monkeypatch.setattr(rt_struct, "LARGEST_CONTOUR", 40)
    refused(path, made, ct, "characters, more than 40")
    monkeypatch.setattr(rt_struct, "MOST_ITEMS", 40)
    refused(path, made, ct, "items, more than 40")


def test_only_by_its_contours_does_it_name_a_series(tmp_path: Path) -> None:
    """Some exporters leave out the list of what was referred to."""
    paths, ct, made = image(tmp_path)

    def bare(ds: Dataset) -> None:
        del ds.ReferencedFrameOfReferenceSequence

    path = structure_set(tmp_path / "rt.dcm", paths, {"lesion": [(2, box(2.5, 9.5))]}, edit=bare)
    found = series(path)
    assert found.frame_of_reference == ct.frame_of_reference
    assert found.headers[0].instances == (ct.headers[2].sop,)
    assert read(path, made, ct).bits.any()


def test_gzipped_slices_and_contours_in_one_merged_mask(tmp_path: Path) -> None:
    paths, _, plain = image(tmp_path)
    path = structure_set(tmp_path / "rt.dcm", paths, {"lesion": [(2, box(2.5, 9.5))]})
    packed = []
    for p in (*paths, path):
        packed.append(p.with_name(p.name + ".gz"))
        packed[-1].write_bytes(gzip.compress(p.read_bytes()))
    *slices, outlined = packed
    ct = series(*slices)
    volume = image_readers.read(ct)
    assert np.array_equal(volume.array, plain.array)
    merged = mask_merge.merge_masks(
        [series(outlined)], {"ct": ct}, {"ct": volume}, tuple(REGIONS), ImagesSpec()
    )
    assert merged.rejections == ()
    assert merged.mask is not None
    assert int(np.count_nonzero(merged.mask.bits)) == 49


@pytest.mark.parametrize("syntax", ["implicit", "deflated", "big endian", "RLE", "JPEG lossless"])
def test_gzipped_slices_of_any_syntax(tmp_path: Path, syntax: str) -> None:
    paths, _, plain = image(tmp_path, Scan(syntax=syntax))
    for p in paths:
        p.with_name(p.name + ".gz").write_bytes(gzip.compress(p.read_bytes()))
        p.unlink()
    made = image_readers.read(series(*[p.with_name(p.name + ".gz") for p in paths]))
    assert np.array_equal(made.array, plain.array)


@pytest.mark.parametrize("blob", [b"no gzip at all", b"\x1f\x8b\x08"])
def test_a_gzipped_slice_that_is_none_is_not_called_empty(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "1.dcm.gz").write_bytes(blob)
    assert "is none, or a damaged one" in str(image_readers.header(tmp_path / "1.dcm.gz"))


def test_from_a_folder_to_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The structure set beside its CT outlines what a SEG of the same lesions does; one of another
    series is set aside."""
    monkeypatch.setattr(pipeline, "WORKERS", 0)
    spec = {"regions": {"liver": ["Liver"], "lesion": [r"GTV[ _]*\d*"]}}

    def picture(folder: str, make: Any) -> Reading:
        data = tmp_path / folder
        exams.table(data, ["P1", "P2"])
        exams.ct(data / "P1" / "ct", "P1")
        paths = sorted((data / "P1" / "ct").glob("*.dcm"))
        make(data / "P1" / "outlines.dcm", paths)
        return read_table(exams.study(exams.CT, spec), "now", data, cache=tmp_path / "cache")

    rois: dict[str, list[Outline]] = {
        "Liver": [(k, box(8.5, 30.5)) for k in range(1, 7)],
        "GTV 1": [(3, box(12.5, 17.5)), (4, box(12.5, 17.5))],
        "GTV_2": [(5, box(20.5, 25.5)), (5, box(21.5, 22.5))],
    }
    masks = {name: np.zeros((8, 40, 48), np.bool_) for name in rois}
    for name, outlines in rois.items():
        for k, polygon in outlines:
            masks[name][k] ^= reference(polygon, (40, 48))

    by_contours = picture("a", lambda path, paths: structure_set(path, paths, rois))
    by_voxels = picture("b", lambda path, paths: exams.seg(path, paths[0].parent, masks))
    first, second = by_contours.cohort.pictures[0], by_voxels.cohort.pictures[0]
    assert first is not None
    assert second is not None
    assert first.mask is not None
    assert np.array_equal(first.mask, second.mask)
    assert first.marked == second.marked == (True, True)

    def astray(path: Path, paths: list[Path]) -> None:
        other = scans.write(tmp_path / "elsewhere", body(SHAPE), Scan(patient="P1"))
        structure_set(path, other, {"Liver": [(1, box(8.5, 20.5))]})

    lost = picture("c", astray)
    assert lost.cohort.imaged.tolist() == [True, False]
    assert any("a segmentation is set aside, D05" in note for note in lost.cohort.flow.notes)
