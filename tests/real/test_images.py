"""The image readers on real files, against SimpleITK and against reference label maps made by other
software."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.imaging.formats import readers as image_readers
from client.imaging.formats.segmentations import read_segmentation
from client.imaging.geometry.volumes import Header, Series
from common.errors import DataError, Fault
from tests.paths import DATA

COLOURS = ("GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE")


def folder(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"no real data: {DATA / name} is not there (set FEDMETS_DATA)")
    return DATA / name


def found(*paths: Path) -> list[Series]:
    headers = [image_readers.header(p) for p in paths]
    assert not [h for h in headers if isinstance(h, Fault)]
    return image_readers.group([h for h in headers if isinstance(h, Header)])


def sitk_read(files: Any) -> tuple[np.ndarray, Any]:
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(f) for f in files])
    reader.SetOutputPixelType(sitk.sitkFloat32)
    image = sitk.DICOMOrient(reader.Execute(), "LPS")
    return sitk.GetArrayFromImage(image), image


@pytest.mark.parametrize(
    ("name", "count", "spacing"), [("crlm/ct", 41, 5.0), ("segmentations/ct-3slice", 3, 1.0)]
)
def test_ct_equals_simpleitk(name: str, count: int, spacing: float) -> None:
    (series,) = found(*sorted(p for p in folder(name).rglob("*") if p.is_file()))
    assert (len(series.files), series.channel, series.faults) == (count, "ct", ())
    volume = image_readers.read(series)
    theirs, image = sitk_read(series.files)
    assert theirs.min() < -3000  # padding, which ends at -1024 here
    assert np.array_equal(volume.array, np.maximum(theirs, -1024))
    assert volume.geometry.spacing_mm == pytest.approx(image.GetSpacing()[::-1])
    assert volume.geometry.spacing_mm[0] == pytest.approx(spacing)
    assert volume.geometry.origin_mm == pytest.approx(image.GetOrigin())
    assert any("padding" in note for note in volume.notes)


def test_headers_hold_nothing_of_the_patient_but_the_key() -> None:
    paths = sorted(folder("segmentations/ct-3slice").glob("*.dcm"))
    import pydicom

    ds = pydicom.dcmread(paths[0], stop_before_pixels=True)
    header = image_readers.header(paths[0])
    assert isinstance(header, Header)
    assert {"PatientName", "AccessionNumber"} <= set(header.identity)
    told = json.dumps({**dataclasses.asdict(header), "path": "", "patient": ""})
    assert str(ds.PatientName) not in told
    assert header.patient == ds.PatientID


def nrrd(name: str) -> np.ndarray:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.DICOMOrient(sitk.ReadImage(str(folder(f"segmentations/{name}"))), "LPS")
    return sitk.GetArrayFromImage(image)


def test_binary_segmentations_equal_their_references() -> None:
    at = folder("segmentations")
    (ct,) = found(*sorted((at / "ct-3slice").glob("*.dcm")))
    assert ct.geometry is not None
    (seg,) = found(at / "liver.dcm")
    mask = read_segmentation(seg, ct.geometry, {"liver": ["liver"]}, ct)
    assert np.array_equal(mask.bits, nrrd("liver_seg.nrrd") == 1)

    (seg,) = found(at / "partial_overlaps.dcm")
    mask = read_segmentation(seg, ct.geometry, {c: [c] for c in COLOURS}, ct)
    # the references hold the first object's segments by number, in as many files as it takes to
    # keep overlaps apart
    files = [nrrd(f"partial_overlaps-{n}.nrrd") for n in (1, 2, 3)]
    for i in range(5):
        truth = np.any([f == i + 1 for f in files], axis=0)
        assert truth.any()
        assert np.array_equal((mask.bits >> i & 1).astype(bool), truth), COLOURS[i]
    assert ((mask.bits & (mask.bits - 1)) > 0).any()  # they do overlap


def test_a_small_object_and_its_multiframe_image() -> None:
    at = folder("segmentations/23x38x3")
    (classic,) = found(*sorted((at / "image").glob("*.dcm")))
    (enhanced,) = found(at / "multiframe/mf.dcm")
    assert classic.geometry is not None
    assert enhanced.geometry is not None
    assert enhanced.geometry.same_as(classic.geometry)
    assert np.array_equal(image_readers.read(enhanced).array, image_readers.read(classic).array)
    (seg,) = found(at / "seg/label.seg")
    mask = read_segmentation(seg, classic.geometry, {"liver": ["liver"]}, classic)
    assert np.array_equal(mask.bits, nrrd("23x38x3/nrrd/label.nrrd") == 1)


@pytest.mark.parametrize(("name", "reference"), [("noppv", "noppv"), ("ppv5", "ppv5")])
def test_labelmaps_equal_their_references(name: str, reference: str) -> None:
    from client.imaging.geometry.volumes import Geometry

    at = folder("segmentations")
    (seg,) = found(at / f"sparse-labelmap-{name}.dcm")
    grid = Geometry(
        (3, 38, 24),
        (46.4649009, 5.0188098, -177.75),
        np.array([[0, 0, 2.5], [0, 0.7, 0], [0.7, 0, 0]]),
    )
    mask = read_segmentation(seg, grid, {"liver": ["liver"]})
    assert np.array_equal(mask.bits, nrrd(f"sparse_labelmap_{reference}_seg.nrrd") == 1)
    assert mask.bits[0].any()
    assert not mask.bits[1].any()  # frames on the outer two slices only

    (other,) = found(*sorted((at / "ct-3slice").glob("*.dcm")))
    assert other.geometry is not None
    with pytest.raises(DataError) as told:
        read_segmentation(seg, other.geometry, {"liver": ["liver"]}, other)
    assert told.value.code == "D07"
    assert other.uid in str(told.value)


def test_nifti_brains_equal_simpleitk() -> None:
    sitk = pytest.importorskip("SimpleITK")
    paths = sorted(folder("metstobrain").rglob("*.nii.gz"))
    all_series = found(*paths)
    assert len(all_series) == 4
    for series in all_series:
        assert series.faults == ()
        volume = image_readers.read(series)
        image = sitk.DICOMOrient(sitk.ReadImage(series.files[0], sitk.sitkFloat32), "LPS")
        assert volume.array.shape == (155, 240, 240)
        assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
        assert volume.geometry.origin_mm == pytest.approx(image.GetOrigin())
        assert volume.geometry.spacing_mm == pytest.approx((1, 1, 1))
