"""NRRD, MetaImage and NIfTI pairs: every voxel where ITK puts it, voxels of their own folder alone,
and nothing that a header claims is believed unseen."""

from __future__ import annotations

import contextlib
import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.cohort.reader import Reading, read_table
from client.imaging.formats import readers as image_readers
from client.imaging.formats.segmentations import read_label_map
from client.imaging.geometry.volumes import Header, Series, Volume
from client.imaging.pipeline import prepare_images as pipeline
from common.errors import DataError, Fault
from tests.client.imaging.pipeline.exams import MR, brain, study, table

SHAPE = (5, 6, 7)
NAMES = ["a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.hdr", "a.img.gz"]
DIRECTIONS, AXES = "(1,0,0) (0,1,0) (0,0,2)", "domain domain domain"
FOUR = {"dimension": "4", "sizes": "7 6 5 1"}
LPS = ["left-posterior-superior", "right-anterior-superior", "LAS"]


def written(path: Path, image: sitk.Image, packed: bool = False) -> Path:
    """By ITK; returns the file with the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=packed)
    return path.with_name("a.hdr.gz") if path.name == "a.img.gz" else path


def header(path: Path) -> Header:
    found = image_readers.header(path)
    assert isinstance(found, Header), found
    return found


def series(path: Path) -> Series:
    return image_readers.group([header(path)])[0]


def read(path: Path) -> Volume:
    made = series(path)
    assert made.faults == ()
    return image_readers.read(made)


def fault(path: Path, *words: str) -> None:
    """Not read, by name, with each of the words."""
    found = image_readers.header(path)
    if isinstance(found, Header):
        assert found.faults
        told = " ".join(found.faults)
    else:
        assert isinstance(found, Fault)
        told = str(found)
    for word in (str(path), *words):
        assert word in told


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(NAMES),
    packed=st.booleans(),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 4)] * 3),
    origin=st.tuples(*[st.floats(-200, 200)] * 3),
    kind=st.sampled_from(["i2", "u2", "u1", "i4", "f4", "f8"]),
    seed=st.integers(0, 9),
)
def test_as_itk_has_it(
    tmp_path: Path,
    name: str,
    packed: bool,
    angles: Any,
    spacing: Any,
    origin: Any,
    kind: str,
    seed: int,
) -> None:
    from scipy.spatial.transform import Rotation

    array = np.random.default_rng(seed).integers(0, 200, SHAPE).astype(kind)
    image = sitk.GetImageFromArray(array)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    image.SetDirection(turn.ravel())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    made = read(written(tmp_path / name, image, packed))
    index = np.argwhere(np.ones(made.array.shape))[:: 11 + seed]
    for zyx, point in zip(index, made.geometry.to_mm(index.astype(float)), strict=True):
        i, j, k = np.rint(image.TransformPhysicalPointToContinuousIndex(point)).astype(int)
        at = image.TransformIndexToPhysicalPoint((int(i), int(j), int(k)))
        assert np.allclose(at, point, atol=2e-3)
        assert made.array[tuple(zyx)] == array[k, j, i]


def nrrd(path: Path, array: NDArray[Any], *lines: str, encoding: str = "raw", **more: str) -> Path:
    """By hand, i fastest. `more`: fields in place of the usual ones; '' leaves one out."""
    fields = {
        "type": "int16",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, array.shape[::-1])),
        "space directions": "(1,0,0) (0,1,0) (0,0,2)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": encoding,
        "space origin": "(0,0,0)",
        **{key.replace("_", " "): value for key, value in more.items()},
    }
    head = ["NRRD0005", "# of a test", "a key:=a: value", *lines]
    head += [f"{key}: {value}" for key, value in fields.items() if value]
    data = array.astype("<i2").tobytes()
    if encoding == "gzip":
        data = gzip.compress(data)
    if "data file" in fields:
        data = b""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(head).encode() + b"\n\n" + data)
    return path


@pytest.mark.parametrize("space", LPS)
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_a_space_says_which_way_its_axes_point(tmp_path: Path, space: str, encoding: str) -> None:
    """Left, posterior and superior grow along x, y and z: an array of a space is turned to them."""
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    made = read(nrrd(tmp_path / "a.nrrd", array, space=space, encoding=encoding))
    flips = {LPS[0]: (1, 1, 1), LPS[1]: (1, -1, -1), LPS[2]: (1, -1, 1)}[space]
    assert np.array_equal(made.array, array[tuple(slice(None, None, f) for f in flips)])
    assert made.geometry.spacing_mm == (2.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"space": "scanner-xyz"}, "left and right are unknown"),
        ({"space": "", "space_directions": "", "spacings": "1 1 2"}, "left and right"),
        ({"space_directions": "(1,0,0) (0,1,0) (1,0,0)"}, "singular"),
        ({"space_directions": "(1,0,0) (1,1,0) (0,0,2)"}, "sheared"),
        ({"space_directions": "none (1,0,0) (0,1,0)"}, "three vectors"),
        ({"space_directions": "(nan,0,0) (0,1,0) (0,0,2)"}, "singular"),
        ({"space_units": '"um" "um" "um"'}, "not in mm"),
        ({"type": "block"}, "block"),
        ({"encoding": "bzip2"}, "bzip2"),
        ({"dimension": "4"}, "dimensions"),
        ({"sizes": "7 6 50"}, "cut short"),
        ({"sizes": "70000 70000 70000"}, "cut short"),
        ({"sizes": "-7 6 -5"}, "no volume"),
        ({"byte_skip": "-7"}, "byte skip"),
        ({"line_skip": "2"}, "line skip"),
    ],
)
def test_an_nrrd_that_is_not_read(tmp_path: Path, more: dict[str, str], word: str) -> None:
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    encoding = more.pop("encoding", "raw")
    fault(nrrd(tmp_path / "a.nrrd", array, encoding=encoding, **more), word)


def compared_with_itk(path: Path) -> bool:
    """Whether it is read, and then as ITK reads it: each voxel's value at its place."""
    found = image_readers.header(path)
    if not isinstance(found, Header) or found.faults:
        return False
    made, image = image_readers.read(image_readers.group([found])[0]), sitk.ReadImage(str(path))
    for zyx in np.argwhere(np.ones(made.array.shape))[::7]:
        (point,) = made.geometry.to_mm(zyx[None].astype(float))
        point = (*(float(v) for v in point), *[0.0] * (image.GetDimension() - 3))
        index = np.rint(image.TransformPhysicalPointToContinuousIndex(point)).astype(int)
        assert made.array[tuple(zyx)] == image[tuple(int(n) for n in index)]
    return True


@pytest.mark.parametrize(
    ("more", "is_read"),
    [
        ({"endian": "big"}, True),
        ({"endian": ""}, False),  # two bytes in which order?
        ({"byte_skip": "4"}, True),
        ({"byte_skip": "4", "encoding": "gzip"}, True),
        ({"SPACE": "LAS"}, False),  # a second one
        ({**FOUR, "kinds": AXES + " list", "space_directions": DIRECTIONS + " none"}, True),
        ({**FOUR, "kinds": "list " + AXES, "space_directions": "none " + DIRECTIONS}, False),
        ({"old_min": "-1024", "old_max": "3071"}, False),
    ],
)
def test_what_an_nrrd_says_is_read_as_itk_reads_it_or_not(
    tmp_path: Path, more: dict[str, str], is_read: bool
) -> None:
    array = np.arange(np.prod((6, 6, 7)), dtype=np.int16).reshape(6, 6, 7)
    fields = {"kinds": "", "sizes": "7 6 5", **more}
    path = nrrd(tmp_path / "a.nrrd", array, encoding=fields.pop("encoding", "raw"), **fields)
    assert compared_with_itk(path) == is_read


@pytest.mark.parametrize("is_true", ["True", "T", "t", "1", "true", "False", "0", "yes"])
@pytest.mark.parametrize("field", ["BinaryDataByteOrderMSB", "BinaryData", "CompressedData"])
def test_what_is_true_in_a_metaimage_is_what_itk_takes_for_it(
    tmp_path: Path, field: str, is_true: str
) -> None:
    head = META.format(data="LOCAL").splitlines()
    lines = [f"{field} = {is_true}" if line.startswith(f"{field} ") else line for line in head]
    voxels = np.arange(np.prod(SHAPE), dtype="<i2").tobytes()
    if field == "CompressedData" and is_true[0] in "Tt1":
        voxels = zlib.compress(voxels)
        lines.insert(1, f"CompressedDataSize = {len(voxels)}")
    path = tmp_path / "a.mha"
    path.write_bytes("\n".join(lines).encode() + b"\n" + voxels)
    assert compared_with_itk(path) == (field != "BinaryData" or is_true[0] in "Tt1")


def test_claims_are_bounded_before_anything_is_allocated(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.int16)
    fault(
        nrrd(tmp_path / "a.nrrd", array, encoding="gzip", sizes="7000 7000 7000"),
        "compressed bytes can hold",
    )
    path = nrrd(tmp_path / "b.nrrd", array, encoding="gzip", sizes="7 6 50")
    with pytest.raises(DataError, match="of 4200 bytes"):
        image_readers.read(series(path))
    (tmp_path / "c.mha").write_bytes(b"ObjectType = Image\n" + b"a = b\n" * 200000)
    fault(tmp_path / "c.mha", "ElementDataFile")
    (tmp_path / "d.nrrd").write_bytes(b"NRRD0005\n" + b"a: b\n" * 200000)
    fault(tmp_path / "d.nrrd", "does not end")


META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1 1 2
DimSize = 7 6 5
ElementType = MET_SHORT
ElementDataFile = {data}
"""


@pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
def test_voxels_of_another_folder_are_not_opened(tmp_path: Path, suffix: str) -> None:
    array = np.arange(np.prod(SHAPE), dtype="<i2").reshape(SHAPE)
    secret = tmp_path / "secret.raw"
    secret.write_bytes(array.tobytes())
    folder = tmp_path / "images"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "own.raw").write_bytes(array.tobytes())
    (folder / "link.raw").symlink_to(secret)

    def asked(data: str) -> Path:
        path = folder / f"a.{suffix}"
        if suffix == "mhd":
            path.write_text(META.format(data=data))
            return path
        return nrrd(path, array, data_file=data)

    assert np.array_equal(read(asked("in/own.raw")).array, array)
    for data, word in (
        ("../secret.raw", "outside of its own folder"),
        (str(secret), "outside of its own folder"),
        ("in/../../secret.raw", "outside of its own folder"),
        ("link.raw", "outside of its own folder"),
        ("absent.raw", "not there"),
        ("patients.csv", "no file of voxels"),
        (".hidden.raw", "no file of voxels"),
    ):
        fault(asked(data), word)
    if suffix == "mhd":
        fault(asked("LIST"), "list of files")
        fault(asked("slice%03d.raw"), "list of files")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("DimSize = 7 6 5", "DimSize = 7 6 50", "cut short"),
        ("DimSize = 7 6 5", "DimSize = 7 6", "DimSize"),
        ("MET_SHORT", "MET_OTHER", "MET_OTHER"),
        ("Offset = 0 0 0\n", "", "where its voxels lie"),
        ("Offset = 0 0 0", "Offset = 0 0", "too short"),
        ("BinaryData = True", "BinaryData = False", "text"),
        ("NDims", "ElementNumberOfChannels = 3\nNDims", "several values"),
        ("ObjectType = Image", "ObjectType = Mesh", "Mesh"),
        ("ElementSpacing = 1 1 2", "ElementSpacing = 1 0 2", "singular"),
        ("ElementSpacing = 1 1 2", "ElementSpacing = 1 1 2 1", "too long"),
        ("NDims", "HeaderSize = 4\nNDims", "within its header"),
        ("NDims", "DistanceUnits = cm\nNDims", "in cm"),
        ("NDims", "ElementToIntensityFunctionOffset = -1024\nNDims", "scaled"),
    ],
)
def test_a_metaimage_that_is_not_read(tmp_path: Path, old: str, new: str, word: str) -> None:
    path = tmp_path / "a.mha"
    assert old in META
    path.write_bytes(META.format(data="LOCAL").replace(old, new).encode() + bytes(420))
    fault(path, word)


def test_an_analyze_header_says_not_where_left_is(tmp_path: Path) -> None:
    import nibabel

    nibabel.save(nibabel.AnalyzeImage(brain().transpose(2, 1, 0), np.eye(4)), tmp_path / "a.img")
    fault(tmp_path / "a.hdr", "Analyze 7.5", "left and right")
    (tmp_path / "envi.hdr").write_text("ENVI\nsamples = 3\n")
    assert image_readers.header(tmp_path / "envi.hdr") is None
    assert image_readers.header(tmp_path / "a.img") is None


@pytest.mark.parametrize("name", ["a.hdr", "a.img.gz"])
@pytest.mark.parametrize("offset", [-100.0, -1.0, 1e30, float("nan")])
def test_voxels_that_begin_nowhere(tmp_path: Path, name: str, offset: float) -> None:
    path = written(tmp_path / name, sitk.GetImageFromArray(brain()))
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rb") as f:
        block = bytearray(f.read())
    struct.pack_into("<f", block, 108, offset)
    with opened(path, "wb") as f:
        f.write(bytes(block))
    assert not compared_with_itk(path)


def test_a_pair_without_its_voxels(tmp_path: Path) -> None:
    path = written(tmp_path / "a.hdr", sitk.GetImageFromArray(brain()))
    (tmp_path / "a.img").unlink()
    fault(path, "not beside it")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(["a.nrrd", "a.mha"]),
    at=st.integers(0, 400),
    junk=st.binary(min_size=1, max_size=6),
)
def test_a_damaged_header_raises_nothing_but_data_errors(
    tmp_path: Path, name: str, at: int, junk: bytes
) -> None:
    path = tmp_path / name
    image = sitk.GetImageFromArray(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
    blob = bytearray(written(path, image).read_bytes())
    at %= len(blob)
    blob[at : at + len(junk)] = junk
    path.write_bytes(bytes(blob))
    found = image_readers.header(path)
    assert found is None or isinstance(found, Header | Fault)
    if isinstance(found, Header) and not found.faults:
        with contextlib.suppress(DataError):
            image_readers.read(image_readers.group([found])[0])


@pytest.mark.parametrize("name", NAMES)
def test_label_maps(tmp_path: Path, name: str) -> None:
    image = read(written(tmp_path / "image" / "a.nrrd", sitk.GetImageFromArray(brain())))
    labels = np.zeros(image.array.shape, np.uint8)
    labels[3, 4:6, 5], labels[6, 2, 7] = 1, 2
    path = written(tmp_path / name, sitk.GetImageFromArray(labels))
    mask = read_label_map(path, image.geometry, {"a": [1], "b": [2]})
    assert np.array_equal(mask.bits, labels)


IMAGES = {
    "id": "path",
    "id_pattern": r"(P\d+)/",
    "channels": {"t1c": ["image.*"]},
    "mask": ["lesion.*"],
    "values": {"enhancing": [1]},
}


def patients(data: Path, suffixes: Sequence[str]) -> list[str]:
    ids = [f"P{n}" for n in range(len(suffixes))]
    table(data, ids)
    for n, (patient, suffix) in enumerate(zip(ids, suffixes, strict=True)):
        labels = np.zeros((16, 20, 18), np.uint8)
        labels[6:9, 8:11, 7:10] = 1
        for name, array in (("image", brain(seed=n)), ("lesion", labels)):
            path = data / patient / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return ids


def cohort(data: Path) -> Reading:
    return read_table(study(MR, IMAGES), "now", data, cache=data.parent / "cache")


def test_patients_of_all_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WORKERS", 0)
    data = tmp_path / "data"
    patients(data, [".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".nii.gz"])
    first = cohort(data)
    assert first.cohort.imaged.all()
    assert "images: 6 with an expert's mask, 0 without" in first.cohort.flow.notes
    voxels = [p.key for p in first.cohort.pictures if p is not None]
    # a header that stays as it is, beside voxels that change, is another image
    raw = data / "P3" / "image.raw"
    raw.write_bytes(brain(seed=77).tobytes())
    second = [p.key for p in cohort(data).cohort.pictures if p is not None]
    assert [a == b for a, b in zip(voxels, second, strict=True)] == [True] * 3 + [False, True, True]
