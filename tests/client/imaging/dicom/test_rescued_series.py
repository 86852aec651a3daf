"""Series that archives broke and that geometry puts together again, one way or not at all; decoders
that leave a file to the next one; a background that is not a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from client.imaging.dicom import pixels
from client.imaging.formats import readers as image_readers
from client.imaging.geometry.volumes import Header, Series
from common.errors import DataError
from tests.client.imaging import scans
from tests.client.imaging.scans import CORONAL, Edit, Scan, body

SHAPE = (8, 16, 12)


def headers(folder: Path) -> list[Header]:
    found = [image_readers.header(p) for p in sorted(folder.rglob("*.dcm"))]
    return [h for h in found if isinstance(h, Header)]


def series(folder: Path) -> list[Series]:
    return image_readers.group(headers(folder))


def plain(folder: Path) -> np.ndarray:
    scans.write(folder, body(SHAPE))
    return image_readers.read(series(folder)[0]).array


def own_uid(ds: Dataset, k: int) -> None:
    ds.SeriesInstanceUID = f"1.2.3.{100 + k}"


def no_uid(ds: Dataset, k: int) -> None:
    ds.SeriesInstanceUID = ""


@pytest.mark.parametrize("edit", [own_uid, no_uid])
def test_slices_without_a_series_of_their_own(tmp_path: Path, edit: Edit) -> None:
    wanted = plain(tmp_path / "plain")
    scans.write(tmp_path / "a", body(SHAPE), Scan(), edit)
    (made,) = series(tmp_path / "a")
    assert made.faults == ()
    assert np.array_equal(image_readers.read(made).array, wanted)
    assert any("one image by geometry: 8 slices" in n for n in made.notes)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(8)))
def test_the_order_of_files_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "order"
    if not folder.exists():
        scans.write(folder, body(SHAPE), Scan(), own_uid)
    found = headers(folder)
    (made,) = image_readers.group([found[n] for n in order])
    (other,) = image_readers.group(found)
    assert (made.uid, made.files, made.notes) == (other.uid, other.files, other.notes)


def places(step: int, first: float = 50.0) -> Edit:
    def edit(ds: Dataset, k: int) -> None:
        own_uid(ds, k)
        ds.ImagePositionPatient = [-100, -90, first + (k // step) * 2.5]

    return edit


def uneven(ds: Dataset, k: int) -> None:
    own_uid(ds, k)
    ds.ImagePositionPatient = [-100, -90, 50 + 2.5 * k + (k > 4) * 1.5]


def an_hour_apart(ds: Dataset, k: int) -> None:
    own_uid(ds, k)
    ds.AcquisitionTime = f"{10 + k % 2}0000.5"


@pytest.mark.parametrize("edit", [places(2), uneven, an_hour_apart])
def test_what_may_be_several_images_is_left_as_it_is(tmp_path: Path, edit: Edit) -> None:
    scans.write(tmp_path, body(SHAPE), Scan(), edit)
    made = series(tmp_path)
    assert len(made) == 8
    assert all(s.faults for s in made)


def test_settings_tell_two_images_apart(tmp_path: Path) -> None:
    def kernel(ds: Dataset, k: int) -> None:
        own_uid(ds, k)
        ds.ConvolutionKernel = "B30f"

    def other(ds: Dataset, k: int) -> None:
        own_uid(ds, k + 50)
        ds.ConvolutionKernel = "B70f"

    scans.write(tmp_path / "a", body(SHAPE), Scan(), kernel)
    scans.write(tmp_path / "b", body(SHAPE, 1), Scan(), other)
    made = series(tmp_path)
    assert [len(s.files) for s in made] == [8, 8]
    assert all(not s.faults for s in made)


def test_a_scout_that_is_not_called_one_costs_itself(tmp_path: Path) -> None:
    scans.write(tmp_path / "a", body(SHAPE))
    scout = scans.dataset(Scan(orientation=CORONAL), body((1, 30, 12))[0], 40)
    scans.save(scout, tmp_path / "a" / "scout.dcm")
    ct, aside = series(tmp_path / "a")
    assert ct.faults == ()
    assert len(ct.files) == 8
    assert any("1 files of the series are a scout" in n for n in ct.notes)
    assert "scout" in aside.faults[0]
    assert str(tmp_path / "a" / "scout.dcm") in aside.faults[0]
    del scout.ImageOrientationPatient, scout.ImagePositionPatient
    scans.save(scout, tmp_path / "a" / "scout.dcm")
    assert [bool(s.faults) for s in series(tmp_path / "a")] == [False, True]


def test_a_slice_that_lost_its_place_is_no_scout(tmp_path: Path) -> None:
    def lost(ds: Dataset, k: int) -> None:
        if k == 3:
            del ds.ImagePositionPatient

    scans.write(tmp_path, body(SHAPE), Scan(), lost)
    (made,) = series(tmp_path)
    assert "ImagePositionPatient is missing" in made.faults[0]


def test_a_decoder_that_fails_leaves_a_file_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = plain(tmp_path / "plain")
    scans.write(tmp_path / "a", body(SHAPE), Scan(syntax="JPEG-LS"))
    (made,) = series(tmp_path / "a")
    by_pydicom, asked = pixels._by_pydicom, []

    def failing(data: bytes, h: Header, frames: Any, plugin: str) -> Any:
        asked.append(plugin)
        if plugin:
            raise RuntimeError("odd")
        if broken:
            raise RuntimeError("odder")
        return by_pydicom(data, h, frames, plugin)

    broken = False
    monkeypatch.setattr(pixels, "_by_pydicom", failing)
    assert np.array_equal(image_readers.read(made).array, wanted)
    assert set(asked) == {"pyjpegls", ""}
    broken = True
    with pytest.raises(DataError, match="RuntimeError: odd\\)"):
        image_readers.read(made)


def test_jpeg_extended_of_12_bits_is_refused_for_gdcm_wraps_it(tmp_path: Path) -> None:
    import gdcm

    paths = scans.write(tmp_path, body(SHAPE), Scan(stored=12))
    for path in paths:
        reader, change, writer = (
            gdcm.ImageReader(),
            gdcm.ImageChangeTransferSyntax(),
            gdcm.ImageWriter(),
        )
        reader.SetFileName(str(path))
        assert reader.Read()
        syntax = gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4)
        change.SetTransferSyntax(syntax)
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    (made,) = series(tmp_path)
    with pytest.raises(DataError, match="12-bit"):
        image_readers.read(made)


def masked(seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(300, 20, (9, 10, 11)).astype(np.float32)
    values[:2], values[-1] = np.nan, np.nan
    values[:, :3], values[:, -1] = np.nan, np.nan
    return values


def volume(path: Path, values: np.ndarray) -> Series:
    image = nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.set_sform(image.affine, 1)
    nibabel.save(image, path)
    found = image_readers.header(path)
    assert isinstance(found, Header)
    return image_readers.group([found])[0]


def test_nan_outside_is_background(tmp_path: Path) -> None:
    values = masked()
    made = image_readers.read(volume(tmp_path / "a.nii.gz", values))
    assert np.array_equal(made.array.T, np.nan_to_num(values))
    assert any("background" in n for n in made.notes)
    values[:, 5] -= 1300
    made = image_readers.read(volume(tmp_path / "b.nii.gz", values))
    assert float(made.array.min()) == float(np.nanmin(values))
    values[4, 6, 6] = np.nan
    with pytest.raises(DataError, match="1 of 990 voxels are NaN"):
        image_readers.read(volume(tmp_path / "c.nii.gz", values))
    values[4, 6, 6] = np.inf
    with pytest.raises(DataError, match="1 of 990 voxels are NaN or inf"):
        image_readers.read(volume(tmp_path / "d.nii.gz", values))


def test_nan_at_one_border_is_none(tmp_path: Path) -> None:
    """A registration left it there: what lay in it is lost."""
    values = np.nan_to_num(masked())
    values[:2] = np.nan
    with pytest.raises(DataError, match="220 of 990 voxels are NaN"):
        image_readers.read(volume(tmp_path / "a.nii.gz", values))
