"""Files and folders that are plausible and wrong: flipped bits, claims, units, names, twins. Each
is refused or told, and costs itself."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cohort.reader import Reading, read_table
from client.imaging.dicom import bounded_gzip, mr_sequence
from client.imaging.formats import readers as image_readers
from client.imaging.formats import segmentations, stored_volume
from client.imaging.formats import volume_file as reader
from client.imaging.geometry.image_preprocessing import prepare
from client.imaging.geometry.volumes import Geometry, Header, Series, Volume
from client.imaging.pipeline import image_cache as caches
from client.imaging.pipeline import prepare_images as pipeline
from client.imaging.pipeline.header_index import HeaderIndex, IndexedFile
from client.imaging.selection.case import LONGEST_NAME
from client.imaging.selection.identifiers import Keys, named
from client.station.station import open_station
from client.table import mapping_file
from common.errors import DataError, Fault, RunError
from common.study.study import Study
from tests.client.imaging.pipeline.exams import (
    CT,
    MR,
    YALE,
    body,
    brain,
    brains,
    ct,
    nifti,
    seg,
    study,
    table,
)

LIVER = {"regions": {"liver": ["Liver"], "lesion": ["Tumor.*"]}}
STUDY, BRAINS = study(CT, LIVER), study(MR, YALE)
IDS = ["P1", "P2", "P3", "P4"]


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WORKERS", 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    table(tmp_path / "data", IDS)
    return tmp_path / "data"


def read(folder: Path, asked: Study = STUDY) -> Reading:
    caches._VERIFIED.clear()
    return read_table(asked, "now", folder, cache=folder.parent / "cache")


def imaged(reading: Reading) -> list[str]:
    return [i for i, there in zip(reading.cohort.ids, reading.cohort.imaged, strict=True) if there]


def notes(reading: Reading) -> str:
    return "\n".join(reading.cohort.flow.notes)


def log(reading: Reading) -> str:
    return "\n".join(reading.image_log(reading.cohort.ids))


def edit(folder: Path, change: Callable[[Any, int], None]) -> None:
    import pydicom

    for k, path in enumerate(sorted(folder.glob("*.dcm"))):
        d = pydicom.dcmread(path)
        change(d, k)
        d.save_as(path)


def patched(path: Path, form: str, at: int, *values: float) -> None:
    """Other values in the header of a .nii.gz."""
    blob = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(form, blob, at, *values)
    path.write_bytes(gzip.compress(bytes(blob)))


def channel(folder: Path, name: str, patient: int = 1) -> Path:
    stem = f"BraTS-MET-{patient:05d}-000"
    return folder / stem / f"{stem}-{name}.nii.gz"


def brain_table(folder: Path, *numbers: int) -> Path:
    table(folder, [str(n) for n in numbers])
    return folder


# compressed files


def test_a_flipped_bit_is_found_by_the_checksum_behind_the_data(tmp_path: Path) -> None:
    data = brain_table(tmp_path / "data", 1, 2)
    brains(data, [1, 2])
    for path in (channel(data, "t1c", 1), channel(data, "seg", 2)):
        blob = bytearray(
            gzip.compress(gzip.decompress(path.read_bytes()), 0)
        )  # stored, so that what is flipped still inflates
        blob[-200] ^= 1
        path.write_bytes(blob)
    r = read(data, BRAINS)
    assert imaged(r) == ["2"]
    assert "D00" in log(r)
    assert str(channel(data, "t1c", 1)) in log(r)
    assert "a segmentation cannot be used, D00 (1 cases)" in notes(r)


@given(
    st.lists(st.binary(max_size=300), max_size=4),
    st.integers(0, 50),
    st.integers(0, 600),
    st.sampled_from([b"", b"\0" * 99, b"junk"]),
)
def test_members_and_what_follows_them(
    tmp_path_factory: pytest.TempPathFactory,
    members: list[bytes],
    offset: int,
    length: int,
    tail: bytes,
) -> None:
    path = tmp_path_factory.mktemp("gz") / "a.gz"
    whole = b"".join(members)
    path.write_bytes(b"".join(map(gzip.compress, members)) + (tail if members else b""))
    if not members or offset + length > len(whole):
        with pytest.raises(EOFError):
            bounded_gzip.array(path, offset, length + (not members))
    else:
        assert bounded_gzip.array(path, offset, length).tobytes() == whole[offset : offset + length]
        assert bounded_gzip.start(path, length) == whole[:length]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1024])
def test_it_does_not_matter_where_a_file_is_cut_into_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(bounded_gzip, "_READ", size)
    monkeypatch.setattr(bounded_gzip, "_PIECE", size)
    path, held = tmp_path / "a.gz", bytes(range(256)) * 4
    blob = gzip.compress(held[:300]) + bytes(50) + gzip.compress(held[300:]) + bytes(50)
    path.write_bytes(blob)
    assert bounded_gzip.array(path, 0, len(held)).tobytes() == held
    path.write_bytes(blob[:-60])
    with pytest.raises(EOFError):
        bounded_gzip.array(path, 0, len(held))
    path.write_bytes(blob[:-58] + b"\xff" + blob[-57:])  # the last checksum
    with pytest.raises(zlib.error):
        bounded_gzip.array(path, 0, len(held))


def test_a_file_that_goes_on_and_on_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_gzip, "SURPLUS", 1 << 20)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(1 << 20)))
    assert len(bounded_gzip.array(path, 5, 100)) == 100
    path.write_bytes(gzip.compress(bytes(3 << 20)))
    with pytest.raises(ValueError, match="goes on"):
        bounded_gzip.array(path, 5, 100)


def test_claims_are_bounded_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii.gz"
    nifti(path, brain())
    patched(path, "<8h", 40, 3, 1600, 1600, 1600, 1, 1, 1, 1)
    found = reader.header(path)
    assert isinstance(found, Fault)
    assert (found.code, found.where) == ("D00", str(path))
    assert "16384000352 bytes" in found.what
    nifti(path, brain())
    monkeypatch.setattr(stored_volume, "MOST_VOXELS", 1000)
    told = reader.header(path)
    assert isinstance(told, Header)
    assert "18x20x16 voxels; at most 1000" in told.faults[0]


def test_an_extension_before_the_voxels_is_passed_over_in_pieces(tmp_path: Path) -> None:
    path, size = tmp_path / "a.nii.gz", 64 << 20
    nifti(path, brain())
    (series,) = image_readers.group([h for h in [reader.header(path)] if isinstance(h, Header)])
    plain = image_readers.read(series).array
    blob = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<f", blob, 108, float(size + 352))
    path.write_bytes(
        gzip.compress(
            bytes(blob[:348])
            + b"\1\0\0\0"
            + struct.pack("<ii", size, 6)
            + bytes(size - 8)
            + bytes(blob[352:])
        )
    )
    tracemalloc.start()
    assert isinstance(reader.header(path), Header)
    assert np.array_equal(image_readers.read(series).array, plain)
    assert tracemalloc.get_traced_memory()[1] < size / 4
    tracemalloc.stop()


# units and values


@pytest.mark.parametrize(
    ("spacing", "word"),
    [(0.001, "0.001 x 0.001"), (0.3, "field of view 4.8"), (1000, "1000"), (250, "250")],
)
def test_a_volume_in_another_unit_is_refused(tmp_path: Path, spacing: float, word: str) -> None:
    data = brain_table(tmp_path / "data", 1, 2)
    brains(data, [2], mask=False)
    nifti(channel(data, "t1n"), brain(), spacing=spacing)
    r = read(data, BRAINS)
    assert imaged(r) == ["2"]
    assert "1 quarantined (D07: 1)" in notes(r)
    assert all(w in log(r) for w in (word, str(channel(data, "t1n")), "xyzt_units"))


@pytest.mark.parametrize(
    "given", [{"pixel": 0.01}, {"pixel": 30.0}, {"step": 60.0}, {"pixel": 80.0}]
)
def test_a_series_in_another_unit_is_refused(data: Path, given: dict[str, Any]) -> None:
    ct(data / "i" / "P1", "P1")
    ct(data / "i" / "P2", "P2", **given)
    r = read(data)
    assert imaged(r) == ["P1"]
    assert "1 quarantined (D07: 1)" in notes(r)
    assert str(data / "i" / "P2") in log(r)


@pytest.mark.parametrize("factor", [1e-44, 1e-40])
@pytest.mark.parametrize("skull", [False, True])
def test_values_that_float32_cannot_score_are_refused(factor: float, skull: bool) -> None:
    array = (
        brain()
        if not skull
        else np.where(brain() == 0, np.random.default_rng(0).normal(50, 5, (16, 20, 18)), brain())
    )
    grid = Geometry((16, 20, 18), (0, 0, 0), np.diag([1.0, 1, 1])[:, ::-1].copy())
    with np.errstate(all="ignore"):
        volume = Volume((array * factor).astype(np.float32), grid)
    with pytest.raises(DataError, match="t1n") as told:
        prepare({"t1n": volume}, None, MR)
    assert told.value.code == "D07"


def test_small_and_large_values_are_scored_alike() -> None:
    grid = Geometry((16, 20, 18), (0, 0, 0), np.diag([1.0, 1, 1])[:, ::-1].copy())
    small, large = (
        prepare({"t1n": Volume(brain() * np.float32(2.0**e), grid)}, None, MR).voxels
        for e in (-100, 100)
    )
    assert np.array_equal(small, large)


def test_a_dark_head_on_a_bright_offset_is_refused() -> None:
    grid = Geometry((16, 20, 18), (0, 0, 0), np.diag([1.0, 1, 1])[:, ::-1].copy())
    array = (1e7 + np.random.default_rng(0).integers(0, 9, (16, 20, 18))).astype(np.float32)
    with pytest.raises(DataError, match="32-bit"):
        prepare({"t1n": Volume(array, grid)}, None, MR)


def test_a_slope_that_leads_beyond_float32(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nifti(path, brain())
    (series,) = image_readers.group([h for h in [reader.header(path)] if isinstance(h, Header)])
    patched(path, "<2f", 112, 1e38, 1)
    with pytest.raises(DataError, match="infinite"):
        image_readers.read(series)
    patched(path, "<2f", 112, np.inf, 0)
    assert isinstance(reader.header(path), Fault)


# the cache


def test_a_second_copy_of_a_slice_is_part_of_what_an_entry_is_made_from(data: Path) -> None:
    import pydicom

    ct(data / "i" / "P1", "P1")
    assert imaged(read(data)) == ["P1"]
    d = pydicom.dcmread(data / "i" / "P1" / "1-05.dcm")
    d.save_as(data / "i" / "P1" / "copy.dcm")
    assert imaged(read(data)) == ["P1"]
    d.PixelData = d.PixelData[::-1]
    d.save_as(data / "i" / "P1" / "copy.dcm")
    assert imaged(read(data)) == []
    d.PixelData = d.PixelData[::-1]
    d.save_as(data / "i" / "P1" / "copy.dcm")
    assert imaged(read(data)) == ["P1"]


def test_a_cache_that_cannot_be_read_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ct(data / "i" / "P1", "P1")
    cache = data.parent / "cache"
    cache.write_text("a file")
    with pytest.raises(RunError, match="cannot be read") as told:
        read(data)
    assert told.value.code == "S03"
    cache.unlink()
    read(data)
    entry = next(cache.rglob("*.image"))
    held = entry.read_bytes()
    entry.unlink()
    entry.mkdir()
    with pytest.raises(RunError, match="`cache` in site") as told:
        read(data)
    assert told.value.code == "S03"
    entry.rmdir()
    entry.write_bytes(held)

    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(caches, "open", denied, raising=False)
    with pytest.raises(RunError, match="Permission denied") as told:
        read(data)
    assert told.value.code == "S03"


# outlines


def test_of_two_segmentations_that_disagree_the_unused_one_is_named(data: Path) -> None:
    ct(data / "i" / "P1", "P1")
    liver, tumour = body() == 110, body() == 60
    moved = np.roll(liver, 2, axis=2)
    seg(data / "s" / "1.dcm", data / "i" / "P1", {"Liver": liver, "Tumor_1": tumour})
    seg(data / "s" / "2.dcm", data / "i" / "P1", {"Liver": moved, "Tumor_1": tumour})
    r = read(data)
    assert imaged(r) == ["P1"]
    assert (
        "two segmentations outline the same region differently and the first one is used (1 cases)"
        in notes(r)
    )
    dice = 2 * (liver & moved).sum() / (liver.sum() + moved.sum())
    assert f"'liver' with a Dice of {dice:.3f}" in log(r)
    assert "'lesion'" not in log(r)
    assert any(str(data / "s" / f"{n}.dcm") in log(r) for n in (1, 2))
    for n in (1, 2):
        seg(data / "s" / f"{n}.dcm", data / "i" / "P1", {"Liver": liver, "Tumor_1": tumour})
    assert "two segmentations" not in notes(read(data))


def test_a_mask_lost_for_lack_of_memory_costs_the_mask_alone_and_this_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = brain_table(tmp_path / "data", 1, 2)
    brains(data, [1])
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise MemoryError

        patch.setattr(segmentations, "read_label_map", full)
        for _ in range(2):
            r = read(data, BRAINS)
            assert imaged(r) == ["1"]
            assert "0 with an expert's mask, 1 without" in notes(r)
            assert "not enough memory" in log(r)
    assert "1 with an expert's mask, 0 without" in notes(read(data, BRAINS))


def test_a_reader_that_fails_on_a_mask_costs_the_mask_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = brain_table(tmp_path / "data", 1, 2)
    brains(data, [1])

    def fails(*_: Any) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(segmentations, "read_label_map", fails)
    r = read(data, BRAINS)
    assert imaged(r) == ["1"]
    assert "a segmentation cannot be used, X01 (1 cases)" in notes(r)
    assert "surprise" in log(r)


def test_a_mask_on_the_grid_of_another_sequence_is_laid_onto_the_first(tmp_path: Path) -> None:
    data = brain_table(tmp_path / "data", 1, 2)
    nifti(channel(data, "t1n"), brain((8, 10, 9), seed=1), spacing=2.0, origin=(0.5, 0.5, 0.5))
    nifti(channel(data, "t1c"), brain(seed=2))
    label = np.zeros((16, 20, 18), np.uint8)
    label[6:10, 8:12, 6:10], label[4, 8, 8] = 3, 1
    nifti(channel(data, "seg"), label)
    r = read(data, BRAINS)
    picture = r.cohort.pictures[0]
    assert picture is not None
    assert picture.mask is not None
    assert picture.spacing_mm == (2.0, 2.0, 2.0)
    held = np.argwhere(picture.mask == 4) + np.rint(
        np.array([a * n for (a, _), n in zip(picture.box, (8, 10, 9), strict=True)])
    ).astype(int)
    assert sorted(map(tuple, held)) == [
        (z, y, x) for z in (3, 4) for y in (4, 5) for x in (3, 4)
    ], "half as many voxels along each axis"
    assert (picture.mask & 1).any(), (
        "what covers no voxel by half is in the one that it covers most"
    )
    assert "laid onto the first one's, as 't1c' is" in log(r)


# names


def test_ids_end_where_they_end_and_folders_name_no_sequence() -> None:
    yale = mapping_file.named("yale").images
    keys = Keys(yale, Path("/x"))
    for path, key in (
        ("sub-12a/anat/sub-12a_T1w.nii.gz", ""),
        ("sub-12b/anat/sub-12b_T1w.nii.gz", ""),
        ("resub-12/anat/T1w.nii.gz", ""),
        ("sub-12/anat/sub-12_T1w.nii.gz", "12"),
    ):
        assert keys.parse(path)[0] == key, path
    assert named("site_ce-2020/sub-13/anat/sub-13_T1w.nii.gz", yale.channels) == "t1n"
    assert named("site-2020/sub-13/anat/sub-13_ce-gd_T1w.nii.gz", yale.channels) == "t1c"
    gdc = Keys(mapping_file.named("gdc").images, Path("/x"))
    assert gdc.parse("TCGA-AA-3495-01A")[0] == "TCGA-AA-3495"
    assert gdc.parse("TCGA-AA-34957")[0] == ""


def test_a_pattern_with_a_slash_is_matched_part_by_part() -> None:
    patterns = {"t1c": ["post/*.nii"], "t1n": ["*/pre/*.nii"]}
    assert named("7/post/a.nii", patterns) == "t1c"
    assert named("post/a.nii", patterns) == "t1c"
    assert named("7/pre/a.nii", patterns) == "t1n"
    assert named("pre/a.nii", patterns) == ""
    assert named("post/more/a.nii", patterns) == ""


def test_the_log_holds_any_name_on_one_line(data: Path) -> None:
    from tests.client.imaging.pipeline.test_pipeline import site_file

    strange = os.fsencode(data / "i") + b"/M\xfcller\n2026-01-01 all is well"
    ct(data / "i" / "P1", "P1")
    os.rename(data / "i" / "P1", strange)
    os.unlink(strange + b"/1-04.dcm")
    station = open_station(str(site_file(data.parent / "site", data)))
    assert station.hello("study.py", "now", STUDY.schema.hash).code == ""
    lines = (data.parent / "site" / "station.log").read_text(encoding="utf-8").splitlines()
    assert lines
    assert all("image" in line.split(" ", 2)[2] for line in lines), lines
    assert any(r"M\udcfcller\n2026-01-01 all is well" in line for line in lines)
    station._log.code(DataError("D00", "one\nfile", "another"))
    station._log.code(ValueError("a\x1b[31m"))
    text = (data.parent / "site" / "station.log").read_text(encoding="utf-8")
    assert "  - one\\nfile\n  - another" in text
    assert "ValueError: a\\x1b[31m" in text


@pytest.mark.parametrize(
    ("name", "blob"),
    [("Icon\r", b""), ("DONE", b""), ("README", "Grüße".encode("utf-16")), (".DS_Store", b"\0")],
)
def test_what_is_no_image_by_its_name_is_none(data: Path, name: str, blob: bytes) -> None:
    ct(data / "i" / "P1", "P1")
    (data / "i" / "P1" / name).write_bytes(blob)
    assert image_readers.header(data / "i" / "P1" / name) is None
    r = read(data)
    assert imaged(r) == ["P1"]
    assert "D00" not in log(r)


@pytest.mark.parametrize(
    "name",
    [
        "a.dcm",
        "IM0001",
        "1.2.840.113619.2",
        "00012",
        "MR.1.2.3.4",
        "4f1c2a7e-09ab",
        "IMG_0001",
        "I7",
    ],
)
@pytest.mark.parametrize("blob", [b"", bytes(range(256))])
def test_what_is_named_as_slices_are_stays_a_fault(tmp_path: Path, name: str, blob: bytes) -> None:
    (tmp_path / name).write_bytes(blob)
    found = image_readers.header(tmp_path / name)
    assert isinstance(found, Fault)
    assert found.code == "D00"


# persons


@pytest.mark.parametrize("outlined", [False, True])
def test_one_image_under_two_ids_is_used_for_neither(data: Path, outlined: bool) -> None:
    ct(data / "i" / "P1", "P1", uid="1.2.3.4")
    shutil.copytree(data / "i" / "P1", data / "i" / "P2")
    edit(data / "i" / "P2", lambda d, _: setattr(d, "PatientID", "P2"))
    ct(data / "i" / "P3", "P3")
    if outlined:  # cut to the liver, its voxels are others than those of its twin
        seg(data / "s" / "1.dcm", data / "i" / "P1", {"Liver": body() == 110})
    for _ in range(2):
        r = read(data)
        assert imaged(r) == ["P3"]
        assert "2 quarantined (L04: 2)" in notes(r)
        assert "the image is also that of P2" in log(r)
        assert "the image is also that of P1" in log(r)
    assert list((data.parent / "cache").rglob("*.album")), (
        "what is set aside on purpose is remembered"
    )


def test_one_sequence_under_two_ids_is_enough(tmp_path: Path) -> None:
    data = brain_table(tmp_path / "data", 1, 2, 3)
    brains(data, [1, 2, 3], ("t1n", "t1c"), mask=False)
    shutil.copy(channel(data, "t1n", 1), channel(data, "t2w", 2))
    r = read(data, BRAINS)
    assert imaged(r) == ["3"]
    assert "2 quarantined (L04: 2)" in notes(r)


@pytest.mark.parametrize("other", ["p1", "P 1"])
def test_a_series_that_names_its_patient_in_two_ways_is_not_used(data: Path, other: str) -> None:
    ct(data / "i" / "P1", "P1", np.repeat(body(), 2, 0), uid="1.2.3.4")
    edit(data / "i" / "P1", lambda d, k: setattr(d, "PatientID", other if k % 2 else "P1"))
    ct(
        data / "i" / "P2", "P2", uid="1.2.3.4"
    )  # somebody else's, whole, though its uid is not unique
    r = read(data)
    assert imaged(r) == ["P2"]
    assert "1 quarantined (D05: 1)" in notes(r)
    assert f"'{other}'" in log(r)
    assert str(data / "i" / "P1") in log(r)


# what is kept of free text

WORDS = """Doe Jane pre post posterior +C C+ contrast non-contrast without w/o gd GAD km FLAIR dark fluid tirm T1 t1ce xt1c T2 aT2 nc ce
two native ohne native7 _ + c none"""


@given(
    st.lists(st.sampled_from(WORDS.split())),
    st.sampled_from([" ", "_", "", "-"]),
    st.sampled_from(["", "none", " NO ", "Gadovist for Mrs Doe"]),
    st.booleans(),
)
def test_a_description_keeps_what_decides(
    tmp_path_factory: pytest.TempPathFactory,
    words: list[str],
    between: str,
    agent: str,
    inverted: bool,
) -> None:
    header = Header(
        "/x/1.dcm", "dicom", "MR", scanning_sequence=("SE", "IR") if inverted else ("SE",),
        echo_time=90.0 if inverted else 9.0,
        repetition_time=5000.0 if inverted else 500.0, description=between.join(words),
        contrast=agent, series="1.2",
    )  # fmt: skip
    cache = tmp_path_factory.mktemp("cache")
    HeaderIndex(cache).add([("/x/1.dcm", IndexedFile((1, 1), header))])
    assert "Doe" not in (cache / "files.jsonl").read_text()
    kept = HeaderIndex(cache).get("/x/1.dcm", (1, 1))
    assert kept is not None
    assert kept.header is not None
    assert mr_sequence.channel(kept.header) == mr_sequence.channel(header)
    unsure = replace(header, scanning_sequence=("RM",), echo_time=90.0, repetition_time=5000.0)
    assert mr_sequence.channel(
        replace(unsure, description=kept.header.description)
    ) == mr_sequence.channel(unsure)


def test_names_that_somebody_typed_stay_out_of_the_cache(data: Path) -> None:
    ct(
        data / "i" / "P1",
        "P1",
        SeriesDescription="Abd Doe^Jane 19700102",
        ContrastBolusAgent="Ultravist, Doe",
    )
    assert imaged(read(data)) == ["P1"]
    held = [p for p in (data.parent / "cache").rglob("*") if p.is_file()]
    assert held
    assert not [p for p in held if b"Doe" in p.read_bytes()]


def test_a_makers_name_is_cut_to_a_name() -> None:
    def of(maker: str) -> str:
        from client.imaging.selection.case import Case

        one = Series("1.2", "dicom", "CT", "P1", "1", "1", "", maker, (), None)
        return Case("P1", {"ct": one}).scanner

    assert of("GE MEDICAL SYSTEMS") == "GE MEDICAL SYSTEMS"
    assert of(" \n\x1b[31m\x00") == "[31m"
    assert len(of("x" * 500)) == LONGEST_NAME
