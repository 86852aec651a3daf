"""DICOM that is plausible and wrong: values, places, claims and references. Each is refused, or set
right, and said."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from client.cohort.reader import Reading, read_table
from client.imaging.dicom import bounded_inflate, header
from client.imaging.dicom.seg_reference import drawn_on
from client.imaging.formats import readers as image_readers
from client.imaging.formats import segmentations as reading
from client.imaging.formats.segmentations import read_segmentation
from client.imaging.geometry.volumes import Header, Series
from client.imaging.pipeline import prepare_images as pipeline
from common.errors import DataError, Fault
from common.study.study import Study
from tests.client.imaging import scans
from tests.client.imaging.pipeline.exams import CT, MR, YALE, brain, nifti, study, table
from tests.client.imaging.pipeline.exams import body as hounsfield
from tests.client.imaging.pipeline.exams import ct as ct_of
from tests.client.imaging.pipeline.exams import seg as seg_of
from tests.client.imaging.scans import Scan, body

PLAIN = Scan()
MRI = Scan(modality="MR", intercept=0.0)
REGIONS = {"liver": ["liver"], "lesion": ["tumor.*"]}
STUDY = study(CT, {"regions": {"liver": ["Liver"], "lesion": ["Tumor.*"]}})
Edit = Callable[[Dataset, int], None]


def grouped(folder: Path) -> list[Series]:
    return image_readers.group(
        [
            h
            for h in (image_readers.header(p) for p in sorted(folder.rglob("*.dcm")))
            if isinstance(h, Header)
        ]
    )


def parts(folder: Path, *edits: Edit, scan: Scan = PLAIN, count: int = 6) -> list[Series]:
    """The series that files of one SeriesInstanceUID become, one stack for each edit."""
    for n, edit in enumerate(edits):

        def changed(ds: Dataset, k: int, n: int = n, edit: Edit = edit) -> None:
            ds.SOPInstanceUID = f"1.2.3.{n}.{k}"
            edit(ds, k)

        scans.write(folder / str(n), body((count, 8, 8), seed=n), scan, changed)
    return grouped(folder)


def refused(folder: Path, edit: Edit, *words: str, scan: Scan = PLAIN) -> None:
    (series,) = parts(folder, edit, scan=scan)
    told = " ".join(series.faults)
    assert all(word in told for word in (*words, str(folder))), told
    with pytest.raises(DataError):
        image_readers.read(series)


def broken(path: Path, *words: str) -> None:
    found = image_readers.header(path)
    assert isinstance(found, Fault)
    assert found.code == "D00"
    assert all(word in str(found) for word in (*words, str(path))), str(found)


# what stored values mean


def without(*names: str) -> Edit:
    def edit(ds: Dataset, k: int) -> None:
        for name in names if k == 3 else ():
            delattr(ds, name)

    return edit


def scaled(name: str, value: str, which: int | None = 3) -> Edit:
    def edit(ds: Dataset, k: int) -> None:
        if which in (None, k):
            setattr(ds, name, value)

    return edit


@pytest.mark.parametrize("scan", [Scan(), MRI])
@pytest.mark.parametrize("gone", [("RescaleSlope", "RescaleIntercept"), ("RescaleIntercept",)])
def test_a_rescaling_that_one_slice_lacks(
    tmp_path: Path, scan: Scan, gone: tuple[str, ...]
) -> None:
    refused(
        tmp_path,
        without(*gone),
        "mixed rescaling",
        "RescaleSlope and RescaleIntercept in 5",
        "0003.dcm",
        scan=scan,
    )


def test_a_rescaling_that_all_slices_lack_is_that_of_the_standard(tmp_path: Path) -> None:
    (series,) = parts(tmp_path, lambda ds, k: None, scan=Scan(modality="MR", slope=None))
    assert series.faults == ()


def test_a_rescaling_that_one_frame_lacks(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        del ds.PerFrameFunctionalGroupsSequence[5].PixelValueTransformationSequence

    scans.enhanced(tmp_path / "mf.dcm", body(), edit=edit)
    (series,) = grouped(tmp_path)
    assert "no rescaling in 1" in series.faults[0]


@pytest.mark.parametrize("which", [3, None])
@pytest.mark.parametrize(
    ("name", "value"),
    [("RescaleSlope", "1e-300"), ("RescaleSlope", "1e15"), ("RescaleIntercept", "1e30")],
)
def test_a_rescaling_that_no_scanner_writes(
    tmp_path: Path, name: str, value: str, which: int | None
) -> None:
    for scan in (Scan(), MRI) if value != "1e15" else (Scan(),):
        refused(
            tmp_path / scan.modality,
            scaled(name, value, which),
            "RescaleSlope",
            "make values that no",
            scan=scan,
        )


def test_slices_that_are_scaled_unlike_the_others(tmp_path: Path) -> None:
    refused(
        tmp_path / "a",
        scaled("RescaleIntercept", "0"),
        "mixed RescaleIntercept",
        "-1024 in 5, 0 in 1",
        "0003.dcm",
    )
    refused(
        tmp_path / "b",
        scaled("RescaleSlope", "2000"),
        "RescaleSlope is 2000 where most slices have 1",
        "0003.dcm",
        scan=MRI,
    )
    (series,) = parts(tmp_path / "c", scaled("RescaleIntercept", "-1000"))
    assert series.faults == ()


def test_pixels_of_absurd_size(tmp_path: Path) -> None:
    for value in ("1e15", "1e-300"):
        refused(tmp_path / value, scaled_pixels(value), "PixelSpacing is missing or unreadable")


def scaled_pixels(value: str) -> Edit:
    return lambda ds, k: setattr(ds, "PixelSpacing", ["0.8", value])


# several images in one series


TIMES = ("100000", "100130")


def shifted(by: float, **values: Any) -> Edit:
    """A stack of 5 mm steps, `by` mm from the first."""

    def edit(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = [-100, -90, k * 5.0 + by]
        for name, value in values.items():
            setattr(ds, name, value)

    return edit


@pytest.mark.parametrize("by", [2.5, 1.0])
@pytest.mark.parametrize(
    "name", ["AcquisitionNumber", "TemporalPositionIdentifier", "AcquisitionTime", "EchoTime"]
)
def test_interleaved_phases_are_taken_apart(tmp_path: Path, name: str, by: float) -> None:
    values = TIMES if name == "AcquisitionTime" else ("1", "2")
    found = parts(
        tmp_path,
        *(shifted(n * by, **{name: value}) for n, value in enumerate(values)),
        scan=Scan(apart=5.0),
    )
    assert [s.faults for s in found] == [(), ()]
    for n, s in enumerate(found):
        assert s.geometry is not None
        assert s.geometry.spacing_mm[0] == pytest.approx(5)
        assert any(f"taken apart by {name} {values[n]}" in note for note in s.notes)
        assert np.array_equal(
            image_readers.read(s).array,
            np.maximum(body((6, 8, 8), n).astype(np.float32) - 1024, -1024),
        )


def test_interleaved_stacks_of_an_enhanced_object(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        for n, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
            frame.FrameContentSequence[0].StackID = str(1 + n % 2)

    scans.enhanced(tmp_path / "mf.dcm", body((12, 8, 8)), edit=edit)
    found = grouped(tmp_path)
    assert [(len(s.slices), s.faults) for s in found] == [(6, ()), (6, ())]


def test_odd_and_even_slices_of_one_acquisition_stay_together(tmp_path: Path) -> None:
    """MR takes them in two turns, each with a time of its own; and parts of a scan that lie behind
    each other are one volume."""
    (series,) = parts(
        tmp_path / "mr",
        shifted(0, AcquisitionTime=TIMES[0]),
        shifted(2.5, AcquisitionTime=TIMES[1]),
        scan=MRI,
    )
    assert len(series.slices) == 12
    (series,) = parts(
        tmp_path / "ct", shifted(0, AcquisitionNumber="1"), shifted(30, AcquisitionNumber="2")
    )
    assert len(series.slices) == 12
    (series,) = parts(
        tmp_path / "made", shifted(0, ContentTime=TIMES[0]), shifted(2.5, ContentTime=TIMES[1])
    )
    assert (len(series.slices), series.faults) == (12, ())
    thick = Scan(modality="MR", intercept=0.0, apart=5.0)
    assert (
        len(
            parts(
                tmp_path / "thick",
                shifted(0, AcquisitionTime=TIMES[0]),
                shifted(2.5, AcquisitionTime=TIMES[1]),
                scan=thick,
            )
        )
        == 2
    )


def test_frames_of_reference(tmp_path: Path) -> None:
    def upper(ds: Dataset, k: int) -> None:
        ds.FrameOfReferenceUID = "1.9.9" if k > 3 else ds.FrameOfReferenceUID

    refused(tmp_path / "a", upper, "2 frames of reference", "0004.dcm and")
    found = parts(
        tmp_path / "b",
        shifted(0, FrameOfReferenceUID="1.9.1"),
        shifted(0, FrameOfReferenceUID="1.9.2"),
    )
    assert [(s.frame_of_reference, s.faults) for s in found] == [("1.9.1", ()), ("1.9.2", ())]
    (series,) = parts(
        tmp_path / "c", lambda ds, k: delattr(ds, "FrameOfReferenceUID") if k == 0 else None
    )
    assert series.frame_of_reference == Scan().frame_of_reference
    assert any("name no frame of reference" in note for note in series.notes)


# what files claim


def frames(count: int) -> Callable[[Dataset], None]:
    return lambda ds: setattr(ds, "NumberOfFrames", count)


@pytest.mark.parametrize("syntax", ["explicit", "deflated", "RLE"])
def test_more_frames_than_the_file_can_hold(
    tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = scans.dataset(Scan(), body((1, 32, 32))[0], 0)
    if syntax == "RLE":
        ds.compress(scans.SYNTAXES["RLE"], generate_instance_uid=False)
    ds.NumberOfFrames = 100_000_000
    path = tmp_path / "bomb.dcm"
    ds.file_meta.TransferSyntaxUID = scans.SYNTAXES[syntax]
    ds.save_as(path, enforce_file_format=True)
    monkeypatch.setattr(
        header, "_frames", lambda *_: pytest.fail("frames were made before they were counted")
    )
    broken(
        path,
        "100000000"
        if syntax == "deflated"
        else "NumberOfFrames is 100000000, which takes at least",
    )


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_uncompressed_pixels_of_no_length(tmp_path: Path, modality: str) -> None:
    (path,) = scans.write(tmp_path, body((1, 8, 8)), Scan(modality=modality))
    data, pixels = path.read_bytes(), dcmread(path).PixelData
    start = data.rindex(b"\xe0\x7f\x10\x00OW")
    items = (
        b"\xfe\xff\x00\xe0\0\0\0\0"
        + b"\xfe\xff\x00\xe0"
        + struct.pack("<I", len(pixels))
        + pixels
        + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    path.write_bytes(data[:start] + b"\xe0\x7f\x10\x00OW\0\0\xff\xff\xff\xff" + items)
    broken(path, "no length", "not compressed")


def repacked(path: Path, change: Callable[[bytes], bytes]) -> None:
    data = path.read_bytes()
    with path.open("rb") as f:
        assert bounded_inflate.starts(f)
        start = f.tell()
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(
        data[:start] + pack.compress(change(zlib.decompress(data[start:], -15))) + pack.flush()
    )


def test_what_a_deflated_file_swells_to_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = body((3, 64, 64))
    paths = scans.write(tmp_path, stored, Scan(syntax="deflated"))
    seen: list[int] = []
    pieces = bounded_inflate._pieces
    monkeypatch.setattr(bounded_inflate, "LARGEST_HEADER", 4096)  # the pixels reach beyond
    monkeypatch.setattr(
        bounded_inflate,
        "_pieces",
        lambda f, most: (seen.append(len(p)) or p for p in pieces(f, most)),
    )
    repacked(
        paths[0],
        lambda raw: raw + b"\xe1\x7f\x10\x00OW\0\0" + struct.pack("<I", 32 << 20) + bytes(32 << 20),
    )
    (series,) = grouped(tmp_path)
    assert np.array_equal(
        image_readers.read(series).array, np.maximum(stored.astype(np.float32) - 1024, -1024)
    )
    assert sum(seen) < 200_000

    def long(raw: bytes) -> bytes:
        at = raw.index(b"\xe0\x7f\x10\x00OW")
        return (
            raw[:at] + b"\x09\x00\x10\x10OB\0\0" + struct.pack("<I", 8192) + bytes(8192) + raw[at:]
        )

    repacked(paths[1], long)
    monkeypatch.undo()
    assert isinstance(image_readers.header(paths[1]), Header)
    monkeypatch.setattr(bounded_inflate, "LARGEST_HEADER", 4096)
    broken(paths[1], "deflated header has more than")


# segmentations


def outlined(folder: Path, scan: Scan, masks: np.ndarray, **more: Any) -> tuple[Series, Series]:
    """(the image, a SEG of it)."""
    paths = scans.write(folder / "ct", body((8, 16, 20)), scan)
    scans.segmentation(folder / "seg/seg.dcm", paths, masks, ["Liver"], **more)
    (image,), (seg,) = grouped(folder / "ct"), grouped(folder / "seg")
    return image, seg


BLOCK = np.zeros((8, 16, 20, 1), np.uint8)
BLOCK[2:6, 4:12, 5:15] = 1


@pytest.mark.parametrize("between", [5.0, None])
def test_thicker_slices_than_the_image_leave_no_slice_empty(
    tmp_path: Path, between: float | None
) -> None:
    def thick(ds: Dataset) -> None:
        """Every second slice, of 5 mm."""
        half = [
            f
            for f in ds.PerFrameFunctionalGroupsSequence
            if float(f.PlanePositionSequence[0].ImagePositionPatient[2]) % 5 == 0
        ]
        ds.PerFrameFunctionalGroupsSequence, ds.NumberOfFrames = half, len(half)
        measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SliceThickness = 5.0
        del measures.SpacingBetweenSlices
        if between:
            measures.SpacingBetweenSlices = between

    image, seg = outlined(tmp_path, Scan(), BLOCK, edit=thick)
    assert image.geometry is not None
    mask = read_segmentation(seg, image.geometry, REGIONS, image)
    assert mask.bits.any(axis=(1, 2)).tolist() == [
        False,
        False,
        True,
        True,
        True,
        True,
        False,
        False,
    ]
    assert any("resampled" in note for note in mask.notes)


def test_slices_that_are_not_outlined_are_not_filled(tmp_path: Path) -> None:
    """Two lesions in slices 1 and 4 of a series whose SEG says how far its slices are apart."""
    masks = np.zeros_like(BLOCK)
    masks[1, 3:6, 3:6] = masks[4, 8:10, 8:12] = 1
    image, seg = outlined(tmp_path / "a", Scan(), masks)
    assert image.geometry is not None
    mask = read_segmentation(seg, image.geometry, REGIONS, image)
    assert mask.bits.any(axis=(1, 2)).tolist() == [k in (1, 4) for k in range(8)]

    def lying(ds: Dataset) -> None:
        ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 5.0

    # frames on neighbouring slices belie it
    image, seg = outlined(tmp_path / "b", Scan(), BLOCK, edit=lying)
    assert image.geometry is not None
    assert np.array_equal(
        read_segmentation(seg, image.geometry, REGIONS, image).bits, BLOCK[..., 0]
    )


@pytest.mark.parametrize("aside", [0.0, 0.3])
@pytest.mark.parametrize(("z", "between"), [(1e9, 2.5), (1e300, 2.5), (65.0, 1e-7)])
def test_a_frame_far_away_costs_the_mask_and_no_memory(
    tmp_path: Path, z: float, between: float, aside: float
) -> None:
    def far(ds: Dataset) -> None:
        for n, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
            at = [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
            frame.PlanePositionSequence[0].ImagePositionPatient = [
                at[0] + aside,
                at[1],
                f"{z:g}" if n == 3 else at[2],
            ]
        ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = between

    image, seg = outlined(tmp_path, Scan(), BLOCK, edit=far)
    assert image.geometry is not None
    with pytest.raises(
        DataError, match=r"outside the image|SpacingBetweenSlices is 1e-07 mm"
    ) as told:
        read_segmentation(seg, image.geometry, REGIONS, image)
    assert told.value.code == "D07"


@pytest.mark.parametrize(
    "error", [MemoryError(), np.linalg.LinAlgError("singular"), IndexError("out of bounds")]
)
def test_whatever_a_segmentation_breaks_is_said_of_it(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, seg = outlined(tmp_path, Scan(), BLOCK)
    assert image.geometry is not None

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(reading, "place", fails)
    with pytest.raises(DataError) as told:
        read_segmentation(seg, image.geometry, REGIONS, image)
    assert told.value.code == "D00"
    assert seg.files[0] in str(told.value)
    assert ("not enough memory" in str(told.value)) == isinstance(error, MemoryError)


@pytest.mark.parametrize("gone", [True, False])
def test_fractions_of_nothing(tmp_path: Path, gone: bool) -> None:
    def edit(ds: Dataset) -> None:
        ds.MaximumFractionalValue = 0
        if gone:
            del ds.MaximumFractionalValue

    image, seg = outlined(tmp_path, Scan(), BLOCK.astype(np.float32), kind="FRACTIONAL", edit=edit)
    assert image.geometry is not None
    with pytest.raises(DataError, match="MaximumFractionalValue is 0 or missing") as told:
        read_segmentation(seg, image.geometry, REGIONS, image)
    assert told.value.code == "D06"


def test_another_frame_of_reference_than_that_of_the_series_it_names(tmp_path: Path) -> None:
    image, seg = outlined(
        tmp_path, Scan(), BLOCK, edit=lambda ds: setattr(ds, "FrameOfReferenceUID", "1.9.9.9")
    )
    assert image.geometry is not None
    assert drawn_on(seg, image)
    with pytest.raises(DataError, match=r"1\.9\.9\.9") as told:
        read_segmentation(seg, image.geometry, REGIONS, image)
    assert told.value.code == "D07"


# which image is a patient's


def read(folder: Path, monkeypatch: pytest.MonkeyPatch, asked: Study = STUDY) -> Reading:
    monkeypatch.setattr(pipeline, "WORKERS", 0)
    return read_table(asked, "now", folder, cache=folder.parent / "cache")


def told(reading: Reading) -> str:
    return "\n".join(reading.image_log(["P1", "P2", "P3", "7", "8"]))


def phases(folder: Path) -> None:
    """Two phases of one SeriesInstanceUID: in the second the liver has 180 HU."""
    for number, liver in ((1, 110), (2, 180)):
        hu = hounsfield()
        hu[hu == 110] = liver
        ct_of(folder / str(number), "P1", hu, uid="1.2.3.4", AcquisitionNumber=number)
        for path in (folder / str(number)).glob("*.dcm"):
            ds = dcmread(path)
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = (
                f"{ds.SOPInstanceUID}.{number}"
            )
            ds.save_as(path)


@pytest.mark.parametrize("frame_by_frame", [False, True])
def test_a_segmentation_goes_with_the_phase_that_it_names(
    tmp_path: Path, frame_by_frame: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    table(data, ["P1"])
    phases(data / "i")
    liver = hounsfield() == 110
    seg_of(data / "seg/1.dcm", data / "i/2", {"Liver": liver, "Tumor_1": hounsfield() == 60})
    if frame_by_frame:
        ds = dcmread(data / "seg/1.dcm")
        del ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        ds.save_as(data / "seg/1.dcm")
    picture = read(data, monkeypatch).cohort.pictures[0]
    assert picture is not None
    assert picture.mask is not None
    inside = picture.voxels[0][picture.mask == 1].astype(float) * picture.unit
    assert np.median(inside) * 200 + 40 == pytest.approx(180, abs=2)


@pytest.mark.parametrize("named", ["both", "none", "nothing"])
def test_a_segmentation_of_no_single_phase_is_set_aside(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    table(data, ["P1"])
    phases(data / "i")
    seg_of(data / "seg/1.dcm", data / "i/2", {"Liver": hounsfield() == 110})
    ds = dcmread(data / "seg/1.dcm")
    for n, item in enumerate(ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence):
        uid = str(item.ReferencedSOPInstanceUID)
        item.ReferencedSOPInstanceUID = (
            f"1.9.{n}" if named == "none" else f"{uid[:-1]}1" if n % 2 else uid
        )
    if named == "nothing":
        del ds.ReferencedSeriesSequence
        for frame in ds.PerFrameFunctionalGroupsSequence:
            del frame.DerivationImageSequence
    ds.save_as(data / "seg/1.dcm")
    reading = read(data, monkeypatch)
    picture = reading.cohort.pictures[0]
    assert picture is not None
    assert picture.mask is None
    assert "set aside, D05 (1 cases)" in "\n".join(reading.cohort.flow.notes)
    assert ("share one series" in told(reading)) == (named == "both")


def test_an_original_is_preferred_to_what_was_computed_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    table(data, ["P1", "P2", "P3"])
    derived = ["DERIVED", "SECONDARY", "MPR", "SUBTRACTION"]
    for patient, step, more in (("P1", 2.5, 0), ("P2", 0.5, 1)):
        ct_of(data / patient / "ct", patient, hounsfield() + np.int16(more), step=step)
        ct_of(
            data / patient / "mpr",
            patient,
            np.repeat(hounsfield(), 5, 0) + np.int16(more),
            step=0.5,
            ImageType=derived,
        )
    ct_of(data / "P3", "P3", hounsfield() + np.int16(2), ImageType=derived)
    reading = read(data, monkeypatch)
    assert reading.cohort.imaged.tolist() == [True, True, True]
    assert f"the least derived one is used: {data / 'P1/ct'}" in told(reading)
    # a short original, as of a bolus that was watched, is not what was asked for
    assert f"the one with most slices is used: {data / 'P2/mpr'}" in told(reading)


def test_a_series_of_another_part_of_the_body_is_not_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    table(data, ["P1", "P2"])
    ct_of(data / "P1/abdomen", "P1", hounsfield(), step=2.5, BodyPartExamined="ABDOMEN_PELVIS")
    ct_of(
        data / "P1/lungs", "P1", np.repeat(hounsfield(), 5, 0), step=0.5, BodyPartExamined="CHEST"
    )
    ct_of(data / "P2", "P2", hounsfield() + np.int16(1), BodyPartExamined="CHEST")
    asked = study(
        replace(CT, body=("ABD", "LIVER")), {"regions": {"liver": ["Liver"], "lesion": ["Tumor.*"]}}
    )
    reading = read(data, monkeypatch, asked)
    assert reading.cohort.imaged.tolist() == [True, True]
    assert f"the one of the study's part of the body is used: {data / 'P1/abdomen'}" in told(
        reading
    )
    assert "an image is used whose header names another part of the body (1 cases)" in "\n".join(
        reading.cohort.flow.notes
    )


def test_why_another_examination_was_rejected_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    table(data, ["P1"])
    for year in ("2019", "2021"):
        ct_of(data / year, "P1", study_uid=f"1.2.{year}")
    (data / "2019/1-04.dcm").unlink()
    reading = read(data, monkeypatch)
    assert reading.cohort.imaged.tolist() == [True]
    assert "another examination of the patient cannot be used, D06 (1 cases)" in "\n".join(
        reading.cohort.flow.notes
    )
    assert "slices are missing: 1" in told(reading)
    assert str(data / "2019/1-03.dcm") in told(reading)


@pytest.mark.parametrize(
    "mark", [("DONE", b""), ("Icon\r", b""), ("README", "Grüße".encode("utf-16"))]
)
def test_a_mark_beside_whole_slices_costs_nothing(
    tmp_path: Path, mark: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    table(data, ["P1"])
    ct_of(data / "i", "P1")
    (data / "i" / mark[0]).write_bytes(mark[1])
    assert read(data, monkeypatch).cohort.imaged.tolist() == [True]


@pytest.mark.parametrize("name", ["1-09.dcm", "IM09", "1.2.3", "slice.dcm", "nine"])
def test_what_may_be_a_slice_still_costs_the_series(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    table(data, ["P1"])
    ct_of(data / "i", "P1")
    (data / "i" / name).write_bytes(
        (data / "i/1-08.dcm").read_bytes()[:-900] if name == "nine" else b""
    )
    reading = read(data, monkeypatch)
    assert reading.cohort.imaged.tolist() == [False]
    assert name in told(reading)


def test_a_label_map_of_another_folder_joins_the_only_examination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BIDS keeps them under derivatives; one that names a session joins no other."""
    pattern = r"sub-(?P<id>[0-9]+)(?:[-_/](?:ses-)(?P<study>[0-9]+)(?=[-_/]))?"
    spec = {
        **YALE,
        "id_pattern": pattern,
        "mask": ["*_dseg.nii*"],
        "channels": {"t1n": ["*_T1w.nii*"]},
    }
    data = tmp_path / "data"
    table(data, ["7", "8"])
    labels = np.zeros((16, 20, 18), np.uint8)
    labels[6:9, 8:11, 7:10] = 3
    nifti(data / "sub-7/anat/sub-7_T1w.nii.gz", brain())
    nifti(data / "derivatives/lesions/sub-7/anat/sub-7_dseg.nii.gz", labels)
    nifti(data / "sub-8/ses-1/anat/sub-8_ses-1_T1w.nii.gz", brain(seed=1))
    nifti(data / "derivatives/lesions/sub-8/ses-2/anat/sub-8_ses-2_dseg.nii.gz", labels)
    reading = read(data, monkeypatch, study(MR, spec))
    first, second = reading.cohort.pictures
    assert first is not None
    assert second is not None
    assert first.mask is not None
    assert second.mask is None
    assert "a label map of another folder is taken for the only examination (1 cases)" in "\n".join(
        reading.cohort.flow.notes
    )
