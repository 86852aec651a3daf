"""DICOM series of many makes, and of many faults: read exactly, or refused with a sentence that
names file, fault and way out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from client.imaging.dicom import tags
from client.imaging.formats import readers as image_readers
from client.imaging.geometry.volumes import Header, Series, Volume
from common.errors import DataError, Fault
from tests.client.imaging import scans
from tests.client.imaging.scans import AXIAL, CORONAL, PRONE, SAGITTAL, SYNTAXES, Scan, body


def headers(folder: Path) -> list[Header]:
    found = [image_readers.header(p) for p in sorted(folder.rglob("*"))]
    assert not [f for f in found if isinstance(f, Fault)]
    return [h for h in found if isinstance(h, Header)]


def group(folder: Path) -> list[Series]:
    return image_readers.group(headers(folder))


def only(folder: Path) -> Series:
    (series,) = group(folder)
    return series


def volume(folder: Path) -> Volume:
    series = only(folder)
    assert series.faults == ()
    return image_readers.read(series)


def fault(folder: Path, *words: str) -> str:
    series = only(folder)
    assert len(series.faults) == 1, series.faults
    for word in words:
        assert word in series.faults[0]
    assert str(folder) in series.faults[0]
    with pytest.raises(DataError):
        image_readers.read(series)
    return series.faults[0]


def expected(stored: NDArray[Any], scan: Scan) -> NDArray[np.float64]:
    return np.maximum(stored * (scan.slope or 1.0) + (scan.intercept or 0.0), -1024)


def check_places(made: Volume, stored: NDArray[Any], scan: Scan) -> None:
    """Every stored voxel is found at the place that position, orientation and spacing give it."""
    k, r, c = (a.ravel() for a in np.indices(stored.shape))
    row, column = np.array(scan.orientation[:3]), np.array(scan.orientation[3:])
    start = np.array([scan.position(i) for i in range(len(stored))])
    points = start[k] + r[:, None] * column * scan.spacing[0] + c[:, None] * row * scan.spacing[1]
    index = made.geometry.to_index(points)
    assert np.abs(index - np.rint(index)).max() < 1e-3
    z, y, x = np.rint(index).astype(int).T
    assert np.array_equal(made.array[z, y, x], np.float32(expected(stored, scan))[k, r, c])
    assert (np.argmax(np.abs(made.geometry.steps_mm), axis=1) == [2, 1, 0]).all()
    assert (np.diag(made.geometry.steps_mm[:, ::-1]) > 0).all()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    scan = Scan(syntax=syntax)
    stored = body((4, 32, 40))
    scans.write(tmp_path, stored, scan)
    made = volume(tmp_path)
    if syntax == "JPEG 2000":
        assert np.abs(made.array - expected(stored, scan)).mean() < 20
        assert "lossy compression: its values are approximate" in only(tmp_path).notes
    else:
        check_places(made, stored, scan)


@pytest.mark.parametrize(
    "syntax", ["JPEG lossless", "JPEG-LS", "JPEG 2000 lossless", "RLE", "explicit"]
)
def test_signed_twelve_bits(tmp_path: Path, syntax: str) -> None:
    scan = Scan(syntax=syntax, signed=True, intercept=0.0, stored=12)
    stored = body((3, 32, 36)).astype(np.int16) - 1024
    scans.write(tmp_path, stored, scan)
    check_places(volume(tmp_path), stored, scan)


@pytest.mark.parametrize(
    "orientation", [AXIAL, PRONE, CORONAL, SAGITTAL, (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)]
)
@pytest.mark.parametrize("apart", [2.5, -1.25])
def test_orientations(tmp_path: Path, orientation: tuple[float, ...], apart: float) -> None:
    scan = Scan(
        orientation=orientation,
        step=tuple(np.cross(orientation[:3], orientation[3:]) * apart),
        apart=abs(apart),
    )
    stored = body((5, 12, 14))
    scans.write(tmp_path, stored, scan, name="IM{k}")
    check_places(volume(tmp_path), stored, scan)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(st.integers(3, 6), st.integers(4, 9), st.integers(4, 9)),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    order=st.randoms(use_true_random=False),
    apart=st.floats(0.4, 8),
    spacing=st.tuples(st.floats(0.3, 2), st.floats(0.3, 2)),
    origin=st.tuples(*[st.floats(-400, 400)] * 3),
    scale=st.sampled_from([(1.0, -1024.0), (1.0, 0.0), (0.5, -1000.25), (2.0, -1024.0)]),
    syntax=st.sampled_from(["implicit", "explicit", "deflated", "RLE"]),
    jitter=st.floats(0, 0.004),
    seed=st.integers(0, 99),
)
def test_round_trip(
    tmp_path: Path,
    shape: Any,
    angles: Any,
    order: Any,
    apart: Any,
    spacing: Any,
    origin: Any,
    scale: Any,
    syntax: Any,
    jitter: Any,
    seed: Any,
) -> None:
    from scipy.spatial.transform import Rotation

    turned = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    scan = Scan(
        orientation=tuple(np.concatenate([turned[:, 0], turned[:, 1]])),
        origin=origin, apart=apart, spacing=spacing, slope=scale[0], intercept=scale[1],
        syntax=syntax,
    )  # fmt: skip
    stored = body(shape, seed)
    if scale[1] == 0.0:
        stored = np.maximum(stored, 0)
    r = np.random.default_rng(seed)
    names = list(range(shape[0]))
    order.shuffle(names)
    folder = tmp_path / "series"
    shutil.rmtree(folder, ignore_errors=True)

    def edit(ds: Dataset, k: int) -> None:
        ds.InstanceNumber = 0
        ds.ImagePositionPatient = [
            f"{v:.9g}"
            for v in scan.position(k) + scan.normal * r.uniform(-jitter, jitter) * min(1.0, apart)
        ]

    for k, path in zip(names, scans.write(folder, stored, scan, edit), strict=True):
        path.rename(folder / f"{k}.ima")
    series = only(folder)
    assert series.faults == ()
    made = image_readers.read(series) if scale[1] else None
    if made is None:  # unrescaled values are no Hounsfield units, and that is said
        return
    k, y, x = (a.ravel() for a in np.indices(stored.shape))
    row, column = np.array(scan.orientation[:3]), np.array(scan.orientation[3:])
    points = (
        np.array([scan.position(i) for i in range(shape[0])])[k]
        + y[:, None] * column * spacing[0]
        + x[:, None] * row * spacing[1]
    )
    index = made.geometry.to_index(points)
    assert np.abs(index - np.rint(index)).max() < 0.05
    assert np.array_equal(
        made.array[tuple(np.rint(index).astype(int).T)], np.float32(expected(stored, scan)).ravel()
    )


def test_header_is_json_and_tells_no_identity(tmp_path: Path) -> None:
    secret = "Müller^Erika"

    def edit(ds: Dataset, k: int) -> None:
        ds.PatientName, ds.PatientBirthDate, ds.PatientAddress, ds.OtherPatientIDs = (
            secret,
            "19500101",
            "Hauptstr. 1",
            "4711",
        )
        ds.AccessionNumber, ds.InstitutionName, ds.ReferringPhysicianName, ds.OperatorsName = (
            "A77",
            "St. Elsewhere",
            "Dr^Who",
            "Op^One",
        )
        ds.BurnedInAnnotation = "YES"

    scans.write(tmp_path, body((3, 8, 8)), Scan(), edit)
    found = headers(tmp_path)
    text = json.dumps([dataclasses.asdict(h) for h in found])
    assert [Header.from_json(h) for h in json.loads(text)] == found
    for value in ("ller", "Erika", "1950", "Hauptstr", "4711", "A77", "Elsewhere", "Who", "Op^"):
        assert value not in text
    names = {
        *(
            "PatientName",
            "PatientBirthDate",
            "PatientAddress",
            "OtherPatientIDs",
            "AccessionNumber",
            "InstitutionName",
        ),
        *("ReferringPhysicianName", "OperatorsName", "BurnedInAnnotation"),
    }
    assert set(found[0].identity) == names == set(only(tmp_path).identity)
    assert found[0].patient == "P1"


def test_a_name_that_repeats_the_key_is_no_identity(tmp_path: Path) -> None:
    scans.write(tmp_path, body((3, 8, 8)))
    assert headers(tmp_path)[0].identity == ()


def test_identity_tags_are_named_as_the_standard_does() -> None:
    assert {tag: keyword_for_tag(tag) for tag in tags.IDENTITY} == tags.IDENTITY
    assert [keyword_for_tag(tag) for _, tag in tags.TRAITS] == [name for name, _ in tags.TRAITS]


# files that are no image, or broken


@pytest.mark.parametrize(
    "syntax", ["explicit", "implicit", "deflated", "RLE", "JPEG-LS", "JPEG lossless"]
)
@pytest.mark.parametrize("keep", [0.97, 0.7, 0.2, 0.0])
def test_truncated(tmp_path: Path, syntax: str, keep: float) -> None:
    path = scans.write(tmp_path, body((1, 64, 64)), Scan(syntax=syntax))[0]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    found = image_readers.header(path)
    assert isinstance(found, Fault)
    assert found.code == "D00"
    assert str(path) in str(found)
    assert "again" in found.way_out


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    syntax=st.sampled_from(["explicit", "implicit", "RLE", "JPEG-LS", "JPEG lossless"]),
    whole=st.booleans(),
)
def test_damaged_files_raise_nothing_but_data_errors(
    tmp_path: Path, data: st.DataObject, syntax: str, whole: bool
) -> None:
    paths = scans.write(tmp_path, body((4, 8, 8)), Scan(syntax=syntax))
    held = bytearray(paths[1].read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        held[data.draw(st.integers(128, len(held) - 1 if whole else 900))] = data.draw(
            st.integers(0, 255)
        )
    paths[1].write_bytes(held)
    found = [image_readers.header(p) for p in paths]
    codes = set()
    for series in image_readers.group([h for h in found if isinstance(h, Header)]):
        try:
            assert image_readers.read(series).array.dtype == np.float32
        except DataError as error:
            codes.add(error.code)
    assert codes <= {"D00", "D06", "D07"}


def test_extra_trailing_byte_is_fine(tmp_path: Path) -> None:
    stored = body((3, 16, 16))
    for path in scans.write(tmp_path, stored):
        path.write_bytes(path.read_bytes() + b"\0")
    check_places(volume(tmp_path), stored, Scan())


def test_encrypted_and_foreign_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(4096)
    for name in ("a.dcm", "IM0001", "1.2.840.113619.2"):
        (tmp_path / name).write_bytes(noise)
        found = image_readers.header(tmp_path / name)
        assert isinstance(found, Fault), name
        assert "encrypted" in found.what
    for name in ("metadata.csv", "table.xlsx", "notes.txt", "side.json", ".DS_Store", "thumb.png"):
        (tmp_path / name).write_bytes(noise)
        assert image_readers.header(tmp_path / name) is None
    (tmp_path / "LICENSE").write_text("words of lawyers\n" * 20)
    assert image_readers.header(tmp_path / "LICENSE") is None
    assert image_readers.header(tmp_path) is None
    missing = image_readers.header(tmp_path / "gone.dcm")
    assert isinstance(missing, Fault)
    assert missing.code == "D00"


def test_without_preamble_or_suffix(tmp_path: Path) -> None:
    stored = body((3, 16, 16))
    for n, path in enumerate(scans.write(tmp_path, stored, name="{k}")):
        data = path.read_bytes()
        path.write_bytes(data[132:] if n % 2 else data)
    check_places(volume(tmp_path), stored, Scan())


@pytest.mark.parametrize("implicit", [True, False])
def test_a_bare_data_set(tmp_path: Path, implicit: bool) -> None:
    stored = body((3, 16, 16))
    for k in range(3):
        ds = scans.dataset(Scan(), stored[k], k)
        del ds.file_meta
        ds.save_as(
            tmp_path / f"IM{k}", implicit_vr=implicit, little_endian=True, enforce_file_format=False
        )
    check_places(volume(tmp_path), stored, Scan())


def test_dicomdir_is_not_an_image(tmp_path: Path) -> None:
    scans.write(tmp_path, body((3, 8, 8)))
    ds = scans.dataset(Scan(), body((1, 8, 8))[0], 0)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    ds.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    assert image_readers.header(tmp_path / "DICOMDIR") is None
    assert len(only(tmp_path).files) == 3


# series that must not be used


def test_missing_slice(tmp_path: Path) -> None:
    paths = scans.write(tmp_path, body((8, 8, 8)))
    paths[3].unlink()
    said = fault(
        tmp_path,
        "slices are missing: 1 between 55.00 and 60.00 mm",
        "Export the whole series again",
    )
    assert str(paths[2]) in said
    assert str(paths[4]) in said


@settings(max_examples=20, deadline=None)
@given(count=st.integers(6, 30), data=st.data(), apart=st.floats(0.5, 6))
def test_any_missing_inner_slice_is_found(count: int, data: st.DataObject, apart: float) -> None:
    gone = data.draw(st.integers(1, count - 2))
    scan = Scan(apart=apart)
    held = [header_of(scan, k) for k in range(count) if k != gone]
    (series,) = image_readers.group(held)
    assert "missing" in series.faults[0]
    (series,) = image_readers.group([header_of(scan, k) for k in range(count)])
    assert series.faults == ()


def header_of(scan: Scan, k: int, **more: Any) -> Header:
    from client.imaging.geometry.volumes import Frame

    at = scan.position(k)
    frame = Frame(
        (float(at[0]), float(at[1]), float(at[2])), scan.orientation, scan.spacing, scan.apart
    )
    given = {
        "path": f"{k:04d}.dcm",
        "kind": "dicom",
        "modality": scan.modality,
        "series": scan.series,
        "rows": 8,
        "columns": 8,
    }
    return Header(**{**given, "sop": str(k), "frames": (frame,), **more})


def test_mixed_spacing(tmp_path: Path) -> None:
    scan = Scan()

    def edit(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = [-100, -90, k * 2.5 if k < 5 else 10 + (k - 4) * 4.0]

    scans.write(tmp_path, body((10, 8, 8)), scan, edit)
    fault(tmp_path, "mixed spacing", "2.50 mm", "4.00 mm")


def test_rounded_positions_are_tolerated_and_said(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = [-100, -90, round(k * 1.25, 1)]

    scans.write(tmp_path, body((8, 8, 8)), Scan(apart=1.25), edit)
    series = only(tmp_path)
    assert series.faults == ()
    assert any("stray" in n for n in series.notes)


@pytest.mark.parametrize("degrees", [2.0, 15.0])
def test_gantry_tilt(tmp_path: Path, degrees: float) -> None:
    scan = Scan(step=(0.0, 2.5 * float(np.tan(np.radians(degrees))), 2.5))
    scans.write(tmp_path, body((8, 8, 8)), scan)
    fault(tmp_path, "gantry tilt", f"{degrees:.1f} degrees")


def test_one_slice_beside_and_one_turned(tmp_path: Path) -> None:
    def beside(ds: Dataset, k: int) -> None:
        if k == 3:
            ds.ImagePositionPatient = [-90, -90, float(ds.ImagePositionPatient[2])]

    def tilted(ds: Dataset, k: int) -> None:
        if k == 3:
            ds.ImageOrientationPatient = [1, 0, 0, 0, 0.9848, 0.1736]

    paths = scans.write(tmp_path / "a", body((8, 8, 8)), Scan(), beside)
    assert str(paths[3]) in fault(tmp_path / "a", "beside the line")
    paths = scans.write(tmp_path / "b", body((8, 8, 8)), Scan(), tilted)
    assert str(paths[3]) in fault(tmp_path / "b", "mixed orientation: 1 of 8 slices")


def test_mixed_matrix_and_pixel_spacing(tmp_path: Path) -> None:
    def spacing(ds: Dataset, k: int) -> None:
        if k > 5:
            ds.PixelSpacing = [0.9, 0.9]

    paths = scans.write(tmp_path / "a", body((8, 8, 8)))
    scans.save(scans.dataset(Scan(), body((1, 16, 16))[0], 7), paths[7])
    fault(tmp_path / "a", "mixed matrix", "8x8 in 7", "16x16 in 1", str(paths[7]))
    scans.write(tmp_path / "b", body((8, 8, 8)), Scan(), spacing)
    fault(tmp_path / "b", "mixed PixelSpacing", "0.7 x 0.8 mm in 6")


def test_doubled_slice_equal_and_different(tmp_path: Path) -> None:
    stored = body((6, 8, 8))
    paths = scans.write(tmp_path, stored)
    shutil.copy(paths[2], tmp_path / "copy.dcm")
    made = volume(tmp_path)
    check_places(made, stored, Scan())
    assert made.notes == ("doubled slices: 1 copies have equal pixels and were left out",)
    scans.save(scans.dataset(Scan(), stored[5], 2), tmp_path / "copy.dcm")
    with pytest.raises(DataError) as told:
        image_readers.read(only(tmp_path))
    assert told.value.code == "D06"
    assert str(paths[2]) in str(told.value)
    assert "copy.dcm" in str(told.value)


def test_every_instance_uid_the_same(tmp_path: Path) -> None:
    stored = body((4, 8, 8))
    scans.write(tmp_path, stored, Scan(), lambda ds, k: setattr(ds, "SOPInstanceUID", "1.2.3"))
    check_places(volume(tmp_path), stored, Scan())


def test_localizer_capture_colour_report_are_recognised(tmp_path: Path) -> None:
    stored = body((5, 8, 8))

    def localizer(ds: Dataset, k: int) -> None:
        ds.ImageType, ds.ImageOrientationPatient = (
            ["ORIGINAL", "PRIMARY", "LOCALIZER"],
            list(CORONAL),
        )

    def capture(ds: Dataset, k: int) -> None:
        ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing

    def colour(ds: Dataset, k: int) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.PixelData = bytes(8 * 8 * 6)

    def dose(ds: Dataset, k: int) -> None:
        ds.ImageType = ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]

    def mosaic(ds: Dataset, k: int) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]

    def report(ds: Dataset, k: int) -> None:
        ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.88.67", "SR"
        del ds.PixelData

    scans.write(tmp_path, stored, name="ct/{k}")
    for n, (name, edit, word) in enumerate(
        [
            ("localizer", localizer, "localizer (scout)"),
            ("capture", capture, "secondary capture"),
            ("colour", colour, "colour picture (RGB)"),
            ("dose", dose, "CT_SOM5 PROT"),
            ("mosaic", mosaic, "MOSAIC"),
            ("report", report, "modality 'SR'"),
        ]
    ):
        folder = tmp_path / name
        scans.write(folder, stored[:2], Scan(series=f"1.9.{n}"), edit)
        assert word in fault(folder, "Nothing to do")
    usable = [s for s in group(tmp_path) if not s.faults]
    assert len(usable) == 1
    check_places(image_readers.read(usable[0]), stored, Scan())


def test_a_scout_inside_a_series_is_set_apart(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        if k == 0:
            ds.ImageType, ds.ImageOrientationPatient = (
                ["ORIGINAL", "PRIMARY", "LOCALIZER"],
                list(CORONAL),
            )

    stored = body((6, 8, 8))
    scans.write(tmp_path, stored, Scan(), edit)
    parts = group(tmp_path)
    assert sorted(bool(s.faults) for s in parts) == [False, True]
    assert len({s.uid for s in parts}) == 2
    check = next(s for s in parts if not s.faults)
    assert np.array_equal(image_readers.read(check).array, np.float32(expected(stored[1:], Scan())))


def test_short_series(tmp_path: Path) -> None:
    for count, words in ((1, "one slice is no volume"), (2, "2 slices are no volume")):
        scans.write(tmp_path / str(count), body((count, 8, 8)))
        fault(tmp_path / str(count), words)


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_missing_geometry(tmp_path: Path, tag: str) -> None:
    scans.write(
        tmp_path, body((4, 8, 8)), Scan(), lambda ds, k: delattr(ds, tag) if k == 2 else None
    )
    fault(tmp_path, f"{tag} is missing or unreadable", "0002.dcm")


def test_unknown_transfer_syntax(tmp_path: Path) -> None:
    for path in scans.write(tmp_path, body((4, 8, 8))):
        path.write_bytes(
            path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.9.9.9\0")
        )
    fault(tmp_path, "transfer syntax 1.2.840.99999.9.9.9 cannot be decoded", "gdcmconv")


# several images in one series


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("EchoTime", ["10", "90"]),
        ("AcquisitionNumber", [1, 2, 3]),
        ("TemporalPositionIdentifier", [1, 2]),
        ("AcquisitionTime", ["100000", "100130"]),
    ],
)
def test_phases_are_taken_apart(tmp_path: Path, name: str, values: list[Any]) -> None:
    scan = Scan(modality="MR", intercept=0.0)
    held = [body((4, 8, 8), seed) for seed in range(len(values))]
    for n, value in enumerate(values):

        def edit(ds: Dataset, k: int, n: int = n, value: Any = value) -> None:
            setattr(ds, name, value)
            ds.SOPInstanceUID = f"1.2.3.{n}.{k}"

        scans.write(tmp_path / str(n), held[n], scan, edit)
    parts = group(tmp_path)
    assert [s.faults for s in parts] == [()] * len(values)
    assert len({s.uid for s in parts}) == len(values)
    for part, stored in zip(parts, held, strict=True):
        assert any(name in note for note in part.notes)
        assert np.array_equal(image_readers.read(part).array, stored.astype(np.float32))


def test_echoes_of_phases_are_taken_apart_twice(tmp_path: Path) -> None:
    for n, (echo, phase) in enumerate([(10, 1), (10, 2), (90, 1), (90, 2)]):

        def edit(ds: Dataset, k: int, n: int = n, echo: int = echo, phase: int = phase) -> None:
            ds.EchoTime, ds.TemporalPositionIdentifier, ds.SOPInstanceUID = (
                echo,
                phase,
                f"1.2.3.{n}.{k}",
            )

        scans.write(tmp_path / str(n), body((4, 8, 8), n), Scan(modality="MR"), edit)
    assert len(group(tmp_path)) == 4


def test_phases_that_nothing_tells_apart(tmp_path: Path) -> None:
    for n in range(2):
        scans.write(
            tmp_path / str(n),
            body((4, 8, 8), n),
            Scan(),
            lambda ds, k, n=n: setattr(ds, "SOPInstanceUID", f"1.2.3.{n}.{k}"),
        )
    fault(tmp_path, "several images of the same places (4 of 4)", "no attribute")


def test_one_series_uid_under_two_patients(tmp_path: Path) -> None:
    scans.write(tmp_path / "a", body((4, 8, 8), 1), Scan(patient="A"))
    scans.write(tmp_path / "b", body((4, 8, 8), 2), Scan(patient="B"))
    a, b = group(tmp_path)
    assert (a.patient, b.patient) == ("A", "B")
    assert a.uid != b.uid
    assert a.faults == b.faults == ()


# values


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    stored = body((6, 32, 36))
    for syntax in ("explicit", "RLE", "JPEG-LS", "JPEG 2000 lossless"):
        scan = Scan(syntax=syntax)
        folder = tmp_path / syntax.replace(" ", "")
        scans.enhanced(folder / "mf.dcm", stored, scan, order=[3, 0, 5, 1, 4, 2])
        check_places(volume(folder), stored, scan)


def test_rescaling_of_each_frame(tmp_path: Path) -> None:
    stored = body((5, 10, 12))
    scales = [(1.0 + k / 4, -1024.0 + k) for k in range(5)]
    scans.enhanced(tmp_path / "mf.dcm", stored, scales=scales, order=[4, 3, 2, 1, 0])
    truth = np.stack([np.maximum(stored[k] * s + i, -1024) for k, (s, i) in enumerate(scales)])
    assert np.array_equal(volume(tmp_path).array, truth.astype(np.float32))


def test_enhanced_gap_and_frame_count(tmp_path: Path) -> None:
    scans.enhanced(tmp_path / "a" / "mf.dcm", body((8, 8, 8)), order=[0, 1, 2, 4, 5, 6, 7])
    fault(tmp_path / "a", "slices are missing")

    def fewer(ds: Dataset) -> None:
        ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:5]

    scans.enhanced(tmp_path / "b" / "mf.dcm", body((8, 8, 8)), edit=fewer)
    fault(tmp_path / "b", "NumberOfFrames is 8, but 5 frames are described")


def test_rescaling_of_each_slice(tmp_path: Path) -> None:
    stored = body((4, 8, 8))

    def edit(ds: Dataset, k: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = (
            ["1", "0.5", "2.25", "1.1"][k],
            ["-1024", "-1000", "-900.5", "-1024"][k],
        )

    scans.write(tmp_path, stored, Scan(), edit)
    scales = [(1.0, -1024.0), (0.5, -1000.0), (2.25, -900.5), (1.1, -1024.0)]
    truth = np.stack([np.maximum(stored[k] * s + i, -1024) for k, (s, i) in enumerate(scales)])
    assert np.array_equal(volume(tmp_path).array, truth.astype(np.float32))


@pytest.mark.parametrize(("padding", "signed"), [(-2000, True), (-32768, True), (63536, False)])
def test_padding_becomes_air(tmp_path: Path, padding: int, signed: bool) -> None:
    stored = body((4, 8, 8)).astype(np.int32)
    stored[:, 0, :] = padding

    def edit(ds: Dataset, k: int) -> None:
        ds.add_new(0x00280120, "SS" if signed else "US", padding)

    scan = Scan(signed=signed)
    scans.write(tmp_path, stored, scan, edit)
    made = volume(tmp_path)
    assert (made.array[:, 0, :] == -1024).all()
    assert np.array_equal(made.array[:, 1:], np.float32(expected(stored, scan))[:, 1:])
    assert signed == any("padding" in n for n in made.notes)


def test_padding_within_tissue_is_not_believed(tmp_path: Path) -> None:
    stored = body((4, 8, 8)).astype(np.int32) - 1024
    scan = Scan(signed=True, intercept=0.0)
    scans.write(tmp_path, stored, scan, lambda ds, k: ds.add_new(0x00280120, "SS", 0))
    made = volume(tmp_path)
    assert np.array_equal(made.array, np.float32(expected(stored, scan)))
    assert any("not taken for padding" in n for n in made.notes)


def test_overlay_bits_are_masked(tmp_path: Path) -> None:
    stored = body((4, 8, 8))
    scans.write(
        tmp_path,
        stored | np.uint16(0x3000),
        Scan(),
        lambda ds, k: [setattr(ds, "BitsStored", 12), setattr(ds, "HighBit", 11)],
    )
    assert np.array_equal(volume(tmp_path).array, np.float32(expected(stored, Scan())))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda ds: setattr(ds, "RescaleIntercept", "0"), "not rescaled"),
        (lambda ds: setattr(ds, "PixelData", bytes(512)), "every voxel is -1024"),
    ],
)
def test_values_that_are_no_hounsfield_units(tmp_path: Path, edit: Any, words: str) -> None:
    stored = body((4, 16, 16)) + np.uint16(900 if words == "not rescaled" else 0)
    scans.write(tmp_path, stored, Scan(), lambda ds, k: edit(ds))
    with pytest.raises(DataError) as told:
        image_readers.read(only(tmp_path))
    assert told.value.code == "D06"
    assert words in str(told.value)
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "RescaleSlope",
            "0",
            "RescaleSlope or RescaleIntercept is zero or no number ('0', '-1024')",
        ),
        ("RescaleIntercept", "\\", "zero or no number"),
        ("RescaleType", "MGML", "of the type 'MGML', not Hounsfield units"),
        ("BitsAllocated", 12, "12 bits allocated"),
    ],
)
def test_rescaling_that_cannot_be_applied(
    tmp_path: Path, name: str, value: Any, words: str
) -> None:
    import warnings

    def edit(ds: Dataset, k: int) -> None:
        setattr(ds, name, value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scans.write(tmp_path, body((3, 16, 16)), Scan(), edit)
    made = only(tmp_path)
    assert len(made.faults) == 3
    assert all(words in f and str(tmp_path) in f for f in made.faults)


@pytest.mark.parametrize("straight", [True, False])
def test_modality_lut(tmp_path: Path, straight: bool) -> None:
    stored = body((4, 8, 8))

    def edit(ds: Dataset, k: int) -> None:
        item, entries = Dataset(), np.arange(2048, dtype=np.uint16) * 2
        if not straight:
            entries[1000:] += 7
        item.add_new(0x00283002, "US", [2048, 0, 16])
        item.ModalityLUTType = "HU"
        item.add_new(0x00283006, "OW", entries.tobytes())
        del ds.RescaleSlope, ds.RescaleIntercept
        ds.ModalityLUTSequence = [item]

    scans.write(tmp_path, stored, Scan(modality="MR"), edit)
    if straight:
        assert np.array_equal(volume(tmp_path).array, stored.astype(np.float32) * 2)
    else:
        assert "no straight line" in only(tmp_path).faults[0]


def test_a_file_that_breaks_after_its_header_was_read(tmp_path: Path) -> None:
    paths = scans.write(tmp_path, body((4, 32, 32)), Scan(syntax="RLE"))
    series = only(tmp_path)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[: len(data) // 2 + 200])
    with pytest.raises(DataError) as told:
        image_readers.read(series)
    assert told.value.code == "D00"
    assert str(paths[1]) in str(told.value)
    paths[1].unlink()
    with pytest.raises(DataError, match="cannot be read"):
        image_readers.read(series)


def test_thickness_is_not_believed_over_positions(tmp_path: Path) -> None:
    scans.write(tmp_path, body((4, 8, 8)), Scan(), lambda ds, k: setattr(ds, "SliceThickness", "5"))
    series = only(tmp_path)
    assert series.geometry is not None
    assert series.geometry.spacing_mm == pytest.approx((2.5, 0.7, 0.8))
    assert any("positions are believed" in n for n in series.notes)


def test_what_scanners_leave_out_or_write_oddly(tmp_path: Path) -> None:
    stored = body((4, 8, 8))

    def edit(ds: Dataset, k: int) -> None:
        for name in ("ImageType", "StudyDate", "SeriesNumber", "SliceThickness"):
            delattr(ds, name)
        ds.InstanceNumber = 0
        ds.SpecificCharacterSet = "ISO_IR 999"
        ds.WindowCenter, ds.WindowWidth = ["40", "-600"], ["400", "1500"]
        ds.SpacingBetweenSlices = "-2.5"
        ds.add_new(0x00180081, "DS", "")
        ds._dict[0x00180088] = ds.get_item(0x00180088)
        ds.add_new(0x00091010, "UN", b"\1\2\3\4")
        ds.SeriesDescription = "Abdomen  venös"

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scans.write(tmp_path, stored, Scan(), edit)
    check_places(volume(tmp_path), stored, Scan())
    assert only(tmp_path).description.startswith("Abdomen  ven")


def test_eight_bit_mr(tmp_path: Path) -> None:
    scan = Scan(modality="MR", stored=8, slope=None)
    stored = body((4, 8, 8)) % 251
    scans.write(tmp_path, stored, scan)
    assert np.array_equal(volume(tmp_path).array, stored.astype(np.float32))


# MR sequences

MR = [
    ("t1n", ("SE",), 550, 12, None, "", "T1 SE axial"),
    ("t1c", ("SE",), 550, 12, None, "Gadovist", "T1 SE axial"),
    ("t1c", ("SE",), 550, 12, None, "", "T1 SE +C"),
    ("t1n", ("GR", "IR"), 2000, 2.9, 900, "", "MPRAGE"),
    ("t1c", ("GR",), 8.2, 3.2, None, "DOTAREM", "BRAVO"),
    ("t2w", ("SE",), 4000, 100, None, "", "T2 TSE"),
    ("t2w", ("SE",), 6200, 98, None, "", "axial"),
    ("t2f", ("SE", "IR"), 9000, 120, 2500, "", "dark"),
    ("t2f", ("IR",), 11000, 125, None, "", ""),
    ("t2f", ("SE",), 9000, 120, None, "", "AX FLAIR"),
    ("t1n", ("SE", "IR"), 2400, 10, 860, "", "T1 FLAIR"),
    ("", ("EP", "SE"), 5000, 90, None, "", "DWI T2"),
    ("", ("SE", "IR"), 5000, 60, 160, "", "STIR"),
    ("", ("GR",), 600, 20, None, "", "T2*"),
    ("", ("SE",), 3000, 14, None, "", "PD"),
    ("", ("RM",), 9000, 120, None, "", "axial brain"),
    ("", (), None, None, None, "", "T1 with everything in the name only"),
]


@pytest.mark.parametrize(
    ("named", "kinds", "repetition", "echo", "inversion", "agent", "description"), MR
)
def test_mr_channel(
    named: str,
    kinds: tuple[str, ...],
    repetition: float | None,
    echo: float | None,
    inversion: float | None,
    agent: str,
    description: str,
) -> None:
    held = [
        header_of(
            Scan(modality="MR"),
            k,
            scanning_sequence=kinds,
            repetition_time=repetition,
            echo_time=echo,
            inversion_time=inversion,
            contrast=agent,
            description=description,
            image_type=("ORIGINAL", "PRIMARY", "M", "ND"),
        )
        for k in range(4)
    ]
    (series,) = image_readers.group(held)
    assert series.channel == named
    assert any("MR channel" in note for note in series.notes)


def test_derived_maps_have_no_channel() -> None:
    told = {
        "repetition_time": 4000.0,
        "echo_time": 100.0,
        "scanning_sequence": ("SE",),
        "image_type": ("DERIVED", "PRIMARY", "ADC"),
    }
    (series,) = image_readers.group([header_of(Scan(modality="MR"), k, **told) for k in range(4)])
    assert series.channel == ""


def test_mr_sequence_is_read_from_files(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        (
            ds.ScanningSequence,
            ds.SequenceVariant,
            ds.RepetitionTime,
            ds.EchoTime,
            ds.InversionTime,
        ) = ["SE", "IR"], "SK", 9000, 125, 2500

    scans.write(tmp_path, body((4, 8, 8)), Scan(modality="MR"), edit)
    assert only(tmp_path).channel == "t2f"
