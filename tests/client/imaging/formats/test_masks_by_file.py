"""Masks of one file an organ, label maps of many organs, and what to believe where a mask contradicts
itself: never another organ under a region's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from client.cohort.reader import Reading, read_table
from client.imaging.formats.segmentations import read_label_map
from client.imaging.geometry.volumes import Geometry, Series
from client.imaging.pipeline import prepare_images as pipeline
from client.imaging.selection.series_ranking import slices
from common.errors import UsageError
from tests.client.imaging.pipeline.exams import CT, ct, nifti, seg, study, table

ORGANS = {"liver": (2, 6, 6), "spleen": (2, 20, 20), "lesion": (4, 8, 8)}
"""Where a box of each lies."""
AS_IT_IS = replace(CT, spacing_mm=(1.0, 1.0, 1.0), organ="")
IMAGES: dict[str, Any] = {
    "id": "path",
    "id_pattern": r"(P\d+)/",
    "channels": {"ct": ["ct.nii*"]},
}
BY_FILE = {"mask_files": {"liver": ["liver.nii*"], "lesion": ["lesion*.nii*"]}}
VALUES = {"mask": ["*liver.nii*", "spleen.nii*", "lesion*.nii*"], "values": {"liver": [1]}}


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WORKERS", 0)


def box(name: str, value: int = 1) -> np.ndarray:
    out = np.zeros((10, 40, 48), np.uint8)
    z, y, x = ORGANS[name]
    out[z : z + 3, y : y + 8, x : x + 8] = value
    return out


def volume(seed: int = 0) -> np.ndarray:
    hu = np.full((10, 40, 48), -1000, np.int16)
    hu[:, 4:-4, 4:-4] = np.random.default_rng(seed).integers(20, 120, (10, 32, 40))
    return hu


def patient(data: Path, files: dict[str, np.ndarray]) -> None:
    table(data, ["P1", "P2"])
    nifti(data / "P1" / "ct.nii.gz", volume())
    for name, array in files.items():
        nifti(data / "P1" / f"{name}.nii.gz", array)


def read(data: Path, **images: Any) -> Reading:
    return read_table(
        study(AS_IT_IS, {**IMAGES, **images}), "now", data, cache=data.parent / "cache"
    )


def voxels(reading: Reading) -> list[int]:
    """Of liver and lesion in the prepared picture, on the grid of the file."""
    picture = reading.cohort.pictures[0]
    assert picture is not None
    assert picture.mask is not None
    return [int(np.count_nonzero(picture.mask >> r & 1)) for r in (0, 1)]


def told(reading: Reading) -> str:
    return "\n".join((*reading.cohort.flow.notes, *reading.image_log(["P1", "P2"])))


def test_regions_by_the_files_that_hold_them(tmp_path: Path) -> None:
    patient(tmp_path / "d", {name: box(name) for name in ORGANS})
    r = read(tmp_path / "d", **BY_FILE)
    assert voxels(r) == [192, 192]
    assert r.cohort.pictures[0].marked == (True, True)  # type: ignore[union-attr]
    assert "1 volume files (NIfTI, NRRD, MetaImage) whose path tells no patient or no seq" in told(
        r
    )
    # of an edition that writes 255, and in two files
    other = np.roll(box("lesion", 255), 9, axis=2)
    patient(tmp_path / "e", {"lesion1": box("lesion", 255), "lesion2": other})
    r = read(tmp_path / "e", **BY_FILE)
    assert voxels(r) == [0, 384]
    assert r.cohort.pictures[0].marked == (False, True)  # type: ignore[union-attr]


def test_a_file_an_organ_is_not_the_same_organ_each_time(tmp_path: Path) -> None:
    """Without mask_files each of them is 1, which `values` calls liver: the spleen is no liver."""
    patient(tmp_path / "d", {name: box(name) for name in ORGANS})
    r = read(tmp_path / "d", **VALUES)
    assert r.cohort.pictures[0] is not None
    assert r.cohort.pictures[0].mask is None
    assert "3 label maps of one image outline 'liver' differently" in told(r)
    assert "mask_files" in told(r)
    # two that agree are one
    patient(tmp_path / "e", {"liver": box("liver"), "old_liver": box("liver")})
    assert voxels(read(tmp_path / "e", **VALUES)) == [192, 0]


def test_several_labels_where_one_is_declared(tmp_path: Path) -> None:
    both = box("liver") + box("lesion", 1) * 2
    patient(tmp_path / "d", {"liver": both})
    r = read(tmp_path / "d", **BY_FILE)
    assert "where one is declared (mask_files)" in told(r)
    with pytest.raises(UsageError, match=r"mask_files: 'spleen' is none of"):
        read(tmp_path / "d", mask_files={"spleen": ["spleen.nii*"]})


def test_labels_that_are_not_needed_are_ignored_where_that_is_declared(tmp_path: Path) -> None:
    many = box("liver", 5) + box("spleen", 1) * 104
    patient(tmp_path / "d", {"liver": many})
    images = {"mask": ["liver.nii*"], "values": {"liver": [5]}}
    refused = read(tmp_path / "d", **images)
    assert "104 in 192 voxels" in told(refused)
    assert "other_labels" in told(refused)
    r = read(tmp_path / "d", **images, other_labels="ignore")
    assert voxels(r) == [192, 0]
    assert "labels of no region are ignored, as declared: 104" in told(r)


@settings(max_examples=30, deadline=None)
@given(values=st.sets(st.integers(1, 200), min_size=1, max_size=12), seed=st.integers(0, 9))
def test_ignoring_changes_no_region(
    tmp_path_factory: pytest.TempPathFactory, values: set[int], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("m")
    labels = np.random.default_rng(seed).choice([0, *values], (6, 7, 8)).astype(np.uint8)
    nifti(folder / "a.nii", labels)
    grid = Geometry((6, 7, 8), (0.0, 0.0, 0.0), np.diag([1.0, 1.0, 1.0])[::-1].copy())
    declared = {"a": sorted(values)[:1], "b": sorted(values)[1:3]}
    mask = read_label_map(folder / "a.nii", grid, declared, "ignore")
    for r, own in enumerate(declared.values()):
        assert np.array_equal(mask.bits >> r & 1, np.isin(labels, own))


def test_of_two_volumes_the_one_with_more_slices(tmp_path: Path) -> None:
    data = tmp_path / "d"
    table(data, ["P1", "P2"])
    fine = np.repeat(volume(), 4, axis=0)
    import nibabel

    for name, array, step in (("a_thick", volume(), 5.0), ("b_thin", fine, 1.25)):
        affine = np.diag([-1.0, -1.0, step, 1.0])
        image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
        image.set_sform(affine, 1)
        path = data / "P1" / f"{name}_ct.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nibabel.save(image, path)
    r = read(data, channels={"ct": ["*_ct.nii*"]})
    assert "the one with most slices is used" in told(r)
    assert "b_thin_ct.nii.gz" in told(r)


@pytest.mark.parametrize(
    ("shape", "steps", "count"),
    [((40, 30, 20), (5.0, 1, 1), 40), ((30, 20, 9), (1, 1, 4.0), 9), ((5, 6, 7), (1, 1, 1), 5)],
)
def test_slices_lie_along_the_widest_steps(
    shape: tuple[int, int, int], steps: tuple[float, float, float], count: int
) -> None:
    geometry = Geometry(shape, (0.0, 0.0, 0.0), np.diag(steps)[:, ::-1].copy())
    made = Series("u", "nifti", "other", "", "", "", "", "", ("a",), geometry, slices=((0, 0),))
    assert slices(made) == count


def test_a_frame_that_names_another_slice_is_told(tmp_path: Path) -> None:
    import pydicom

    data = tmp_path / "d"
    table(data, ["P1", "P2"])
    ct(data / "P1" / "ct", "P1")
    mask = np.zeros((8, 40, 48), np.bool_)
    mask[2:5, 12:20, 12:20] = True
    path = data / "P1" / "seg" / "1.dcm"
    images = {"regions": {"liver": ["Liver"], "lesion": ["Tumor.*"]}}

    def asked() -> Reading:
        return read_table(study(CT, images), "now", data, cache=tmp_path / "cache")

    seg(path, data / "P1" / "ct", {"Liver": mask})
    assert "name a slice" not in told(asked())
    ds = pydicom.dcmread(path)
    frames = ds.PerFrameFunctionalGroupsSequence

    def source(frame: Dataset) -> Dataset:
        return frame.DerivationImageSequence[0].SourceImageSequence[0]

    uids = [source(f).ReferencedSOPInstanceUID for f in frames]
    source(frames[0]).ReferencedSOPInstanceUID = uids[-1]
    ds.save_as(path)
    r = asked()
    assert r.cohort.pictures[0] is not None
    assert r.cohort.pictures[0].mask is not None
    assert "name a slice that lies elsewhere; their positions are believed (1 cases)" in told(r)
    assert f"1 of {path}" in told(r)
