"""From a folder of images to the Cohort: joined by id, chosen, prepared once, and accounted for.

Bad images never cost more than themselves.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from client.cohort.reader import Reading, read_table, select
from client.imaging.pipeline import image_cache as caches
from client.imaging.pipeline import prepare_images as pipeline
from client.imaging.pipeline.prepare_case import PreparedCase, make
from client.imaging.pipeline.prepare_images import PictureRequest, headers_of
from client.imaging.selection.identifiers import Keys, check, named
from client.site.site_file import load as load_site
from client.station.station import open_station
from client.table import mapping_file
from common.errors import DataError, Fault, RunError, UsageError
from common.study import load as studies
from common.study.image_sections import ImagesSpec
from common.study.study import Study
from simulation.federation import partition, site_folders
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
from tests.paths import ROOT

LIVER = {"regions": {"liver": ["Liver"], "lesion": ["Tumor.*"]}}
STUDY = study(CT, LIVER)


def town(folder: Path, ids: list[str], imaged: int) -> Path:
    """A data folder: a table of `ids`, and CT series of the first `imaged` of them as TCIA lays
    them out."""
    table(folder, ids)
    for patient in ids[:imaged]:
        ct(folder / "images" / patient / "study" / "ct", patient)
    return folder


def series(folder: Path, patient: str) -> Path:
    return folder / "images" / patient / "study" / "ct"


def outline(folder: Path, patient: str) -> None:
    seg(
        series(folder, patient).parent / "seg" / "1-1.dcm",
        series(folder, patient),
        {"Liver": body() == 110, "Tumor_1": body() == 60},
    )


def read(folder: Path, asked: Study = STUDY, **more: Any) -> Reading:
    return read_table(asked, "now", folder, cache=folder.parent / "cache", **more)


def notes(reading: Reading) -> str:
    return "\n".join(reading.cohort.flow.notes)


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting processes takes most of the time of a small folder; the tests that need them ask for
    them."""
    monkeypatch.setattr(pipeline, "WORKERS", 0)


def fresh() -> None:
    caches._VERIFIED.clear()


IDS = ["P1", "P2", "P3", "P4"]


def test_images_join_their_patients(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 3)
    outline(data, "P2")
    heard: list[tuple[int, int]] = []
    r = read(data, tell=lambda done, of: heard.append((done, of)))
    c = r.cohort
    assert c.imaged.tolist() == [True, True, True, False]
    assert c.modalities == {"table", "image"}
    assert "images: 3 cases with an image, 1 without, 0 quarantined" in notes(r)
    assert "images: 1 with an expert's mask, 2 without" in notes(r)
    assert c.flow.ids["images: none"] == ("P4",)
    first, second = c.pictures[:2]
    assert first is not None
    assert second is not None
    assert (first.mask, first.scanner, first.present) == (None, "GE MEDICAL SYSTEMS", (True,))
    assert second.mask is not None
    assert second.marked == (True, True)
    assert (second.mask & 1).any()
    assert (second.mask & 2).any()
    assert second.voxels.shape[1:] == second.mask.shape
    assert second.voxels[0][second.mask == 1].mean() * second.unit == pytest.approx(
        (110 + 160) / 200 - 1, abs=0.02
    )
    assert heard[-1] == (3, 3)
    assert not first.voxels.flags.writeable


def test_without_a_cache_or_a_study_of_images_none_are_read(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 1)
    assert read_table(STUDY, "now", data).cohort.pictures == ()
    c = read(data, study(None)).cohort
    assert (c.pictures, c.modalities) == ((), {"table"})
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match="folder of images is not there"):
        read(data, images=tmp_path / "nowhere")


SECOND = """
import sys
opened = []
def hook(event, args):
    if event == "open" and isinstance(args[0], str) and {images!r} in args[0] and "/cache/" not in args[0]:
        opened.append(args[0])
sys.addaudithook(hook)
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.client.imaging.pipeline.test_pipeline import STUDY, read
r = read(Path({data!r}))
print(int(r.cohort.imaged.sum()), len(opened), "pydicom" in sys.modules, r.cohort.hash)
"""


def test_a_second_start_opens_no_image(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 3)
    outline(data, "P1")
    (data / "images" / "LICENSE").write_text("text")
    (series(data, "P2") / "1-99.dcm").write_bytes(b"")
    code = SECOND.format(images=str(data / "images"), root=str(ROOT), data=str(data))
    for opened in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        count, files, _, key = done.stdout.split()
        assert count == "2"
        assert (int(files) > 0) is opened, done.stdout
    assert key == read(data).cohort.hash


def test_a_file_that_changed_is_prepared_again(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 1)
    before = read(data).cohort.pictures[0]
    brighter = body()
    brighter[:, 6:10, 6:10] = 100
    ct(series(data, "P1"), "P1", brighter)
    after = read(data).cohort.pictures[0]
    assert before is not None
    assert after is not None
    assert before.key != after.key
    # the same files elsewhere are the same picture
    shutil.copytree(data, tmp_path / "moved")
    moved = read(tmp_path / "moved").cohort.pictures[0]
    assert moved is not None
    assert moved.key == after.key


def test_another_preparation_is_another_picture(tmp_path: Path) -> None:
    from dataclasses import replace

    data = town(tmp_path / "data", IDS, 1)
    keys = []
    spacing = (2.5, 1.2, 1.2)
    for other in (
        CT,
        replace(CT, window=(-100, 200)),
        replace(CT, crop_mm=(9.0, 9.0, 9.0)),
        replace(CT, spacing_mm=spacing),
    ):
        p = read(data, study(other, LIVER)).cohort.pictures[0]
        assert p is not None
        keys.append(p.key)
    # crops are cut later
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]
    assert len({*keys}) == 3


def test_the_same_files_as_other_sequences_are_another_picture(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, ["1", "2"])
    brains(data, [1], ("t1n", "t1c"), mask=False)
    before = read(data, YALE_STUDY).cohort.pictures[0]
    first, second = (next(data.rglob(f"*-{c}.nii.gz")) for c in ("t1n", "t1c"))
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    after = read(data, YALE_STUDY).cohort.pictures[0]
    assert before is not None
    assert after is not None
    assert before.key != after.key
    assert np.array_equal(before.voxels[0], after.voxels[1])


def test_any_number_of_workers_gives_the_same_bits(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 4)
    found = []
    for workers in (0, 1, 3):
        album = pipeline.read(
            data,
            PictureRequest(ImagesSpec(), CT, "scans", IDS),
            tmp_path / f"cache{workers}",
            workers=workers,
        )
        found.append(
            [
                (p.key, p.voxels.tobytes(), p.coarse.tobytes(), p.box)
                for p in album.pictures.values()
            ]
        )
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4


def break_gap(folder: Path) -> None:
    (folder / "1-04.dcm").unlink()


def break_cut(folder: Path) -> None:
    file = folder / "1-08.dcm"
    file.write_bytes(file.read_bytes()[:-400])


def break_empty(folder: Path) -> None:
    (folder / "1-08.dcm").write_bytes(b"")


def break_strange(folder: Path) -> None:
    (folder / "1-01.dcm").write_bytes(os.urandom(3000))


def break_all(folder: Path) -> None:
    for file in folder.glob("*.dcm"):
        file.write_bytes(file.read_bytes()[:300])


def break_units(folder: Path) -> None:
    ct(folder, "P2", RescaleIntercept=0)


def break_few(folder: Path) -> None:
    for n in range(4, 9):
        (folder / f"1-{n:02d}.dcm").unlink()


def break_modality(folder: Path) -> None:
    ct(folder, "P2", Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")


@pytest.mark.parametrize(
    ("plant", "code"),
    [
        (break_gap, "D06"),
        (break_cut, "D00"),
        (break_empty, "D00"),
        (break_strange, "D00"),
        (break_all, "D00"),
        (break_units, "D06"),
        (break_few, "D06"),
        (break_modality, "D06"),
    ],
)
def test_a_bad_study_is_quarantined_and_nothing_else(tmp_path: Path, plant: Any, code: str) -> None:
    data = town(tmp_path / "data", IDS, 3)
    plant(series(data, "P2"))
    r = read(data)
    assert r.cohort.imaged.tolist() == [True, False, True, False]
    assert f"images: 2 cases with an image, 1 without, 1 quarantined ({code}: 1)" in notes(r)
    assert r.cohort.flow.ids["images: quarantined"] == ("P2",)
    assert r.cohort.ids == tuple(IDS), "the patient stays"
    (line,) = [t for t in r.image_log(["P2"]) if "set aside" in t]
    assert "P2" in line
    assert str(series(data, "P2")) in line
    assert "P2" not in notes(r)
    assert str(tmp_path) not in notes(r)
    # the same again from the cache
    fresh()
    assert notes(read(data)) == notes(r)


def test_a_ct_without_a_rescale_needs_the_mapping(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 2)
    for file in series(data, "P2").glob("*.dcm"):
        image = pydicom.dcmread(file)
        del image.RescaleSlope, image.RescaleIntercept
        image.save_as(file)
    r = read(data)
    assert r.cohort.imaged.tolist() == [True, False, False, False]
    (line,) = [t for t in r.image_log(["P2"]) if "set aside" in t]
    assert "no rescale" in line
    stated = study(CT, {**LIVER, "rescale": {"intercept": -1024.0}})
    given = read(data, stated).cohort.pictures[1]
    plain = read(data, study(CT, {**LIVER, "rescale": {"intercept": -1000.0}})).cohort.pictures[1]
    assert given is not None
    assert plain is not None
    assert given.key != plain.key, "other values are another picture"


def test_a_localizer_alone_is_said(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 1)
    ct(series(data, "P2"), "P2", body()[:2], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    ct(series(data, "P3"), "P3", body()[:1], SeriesDescription="Topogram 0.6 Tr20")
    r = read(data)
    assert r.cohort.imaged.tolist() == [True, False, False, False]
    lines = [t for t in r.image_log(["P2", "P3"]) if "set aside" in t]
    assert len(lines) == 2
    assert all("no usable CT: only a localizer" in line for line in lines)


def test_one_folder_with_everything(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, IDS)
    for patient in IDS[:3]:
        ct(tmp_path / "one", patient)
        for file in (tmp_path / "one").glob("1-*.dcm"):
            (data / "flat").mkdir(exist_ok=True)
            file.rename(data / "flat" / f"{patient}-{file.stem}")
    (data / "flat" / "P9-1.dcm").write_bytes(b"")
    (data / "flat" / "notes").write_text("not an image")
    (data / "link").symlink_to(data / "flat")
    (data / "nowhere").symlink_to(data / "gone")
    r = read(data)
    assert r.cohort.imaged.tolist() == [True, True, True, False]
    assert "images: 1 files cannot be used (D00: 1)" in notes(r)
    (data / "flat" / "P2-1-04").write_bytes(b"\0" * 50)
    r = read(data)
    assert r.cohort.imaged.tolist() == [True, False, True, False]
    assert "1 quarantined (D06: 1)" in notes(r), "a gap"


def test_a_site_whose_images_are_all_unreadable_goes_on_with_its_table(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 3)
    for patient in IDS[:3]:
        break_all(series(data, patient))
    r = read(data)
    assert r.cohort.modalities == {"table"}
    assert r.cohort.pictures == ()
    assert "0 cases with an image, 1 without, 3 quarantined (D00: 3)" in notes(r)


def test_ids_that_match_nobody_are_said(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 0)
    ct(data / "images" / "x", "X-1")
    r = read(data)
    assert r.cohort.modalities == {"table"}
    assert "D05: none of the 1 patients with images is in the table" in notes(r)
    assert "X-1" not in notes(r)
    assert any("X-1" in line and "id_pattern" in line for line in r.image_log(r.cohort.ids))
    ct(data / "images" / "y", "P1")
    r = read(data)
    assert "D05: 1 patients with images are not in the table" in notes(r)
    assert r.cohort.imaged.tolist() == [True, False, False, False]


def test_a_segmentation_of_another_series_is_set_aside(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 2)
    outline(data, "P1")
    ct(series(data, "P1"), "P1", uid="1.2.3.77")
    r = read(data)
    first = r.cohort.pictures[0]
    assert first is not None
    assert first.mask is None
    assert "a segmentation is set aside, D05 (1 cases)" in notes(r)
    assert any("Export the image that it was drawn on" in line for line in r.image_log(["P1"]))


@pytest.mark.parametrize("left", [0, 300, 900, 3000, -50])
def test_a_broken_segmentation_costs_the_mask_alone(tmp_path: Path, left: int) -> None:
    data = town(tmp_path / "data", IDS, 2)
    outline(data, "P1")
    file = data / "images/P1/study/seg/1-1.dcm"
    file.write_bytes(file.read_bytes()[:left])
    r = read(data)
    first = r.cohort.pictures[0]
    assert first is not None
    assert first.mask is None
    assert "images: 0 with an expert's mask, 2 without" in notes(r)
    assert "0 quarantined" in notes(r)
    assert "cannot be used, D0" in notes(r) or "set aside, D05" in notes(r)
    assert any(str(file) in line for line in r.image_log(["P1"]))
    assert notes(read(data)) == notes(r)


def test_of_several_series_the_outlined_one_is_used_else_the_one_with_most_slices(
    tmp_path: Path,
) -> None:
    data = town(tmp_path / "data", IDS, 2)
    for patient in ("P1", "P2"):
        ct(series(data, patient).parent / "thin", patient, np.repeat(body(), 2, 0), step=1.25)
    outline(data, "P1")
    r = read(data)
    first, second = r.cohort.pictures[:2]
    assert first is not None
    assert second is not None
    assert first.mask is not None
    told = "\n".join(r.image_log(IDS))
    assert (
        f"P1: 2 series of 'ct', the one that a segmentation refers to is used: {series(data, 'P1')}"
        in told
    )
    assert (
        "P2: 2 series of 'ct', the one with most slices is used: "
        f"{series(data, 'P2').parent / 'thin'}" in told
    )
    assert "the one with most slices is used (1 cases)" in notes(r)


def test_a_good_series_stands_in_for_a_bad_one_and_it_is_said(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 1)
    ct(series(data, "P1").parent / "thin", "P1", np.repeat(body(), 2, 0), step=1.25)
    break_gap(series(data, "P1").parent / "thin")
    r = read(data)
    assert r.cohort.imaged[0]
    assert "another series stands in for one that cannot be used, D06 (1 cases)" in notes(r)


def test_identity_is_told_by_the_names_of_tags_alone(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 0)
    ct(
        series(data, "P1"),
        "P1",
        PatientName="Doe^Jane",
        PatientBirthDate="19700102",
        BurnedInAnnotation="YES",
    )
    r = read(data)
    assert "PatientName (8 files)" in notes(r)
    assert "BurnedInAnnotation" in notes(r)
    everything = (
        notes(r)
        + "\n".join(r.image_log(IDS))
        + "".join(
            f.read_bytes().decode("latin-1") for f in (tmp_path / "cache").rglob("*") if f.is_file()
        )
    )
    assert "Doe" not in everything
    assert "19700102" not in everything


YALE_STUDY = study(MR, YALE)


def test_brains_in_nifti_join_by_their_paths(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, ["86", "110", "3"])
    brains(data / "MetsToBrain", [86])
    brains(data / "MetsToBrain", [110], ("t1n", "t1c", "t2f"), mask=False)
    brains(data / "MetsToBrain", [777], ("t1n",), mask=False)
    nifti(data / "MetsToBrain" / "atlas.nii.gz", brain())
    r = read(data, YALE_STUDY)
    by = dict(zip(r.cohort.ids, r.cohort.pictures, strict=True))
    full, partial = by["86"], by["110"]
    assert full is not None
    assert partial is not None
    assert by["3"] is None
    assert (full.present, full.mask is not None, full.marked) == (
        (True,) * 4,
        True,
        (True, True, True),
    )
    assert full.mask is not None
    assert [(full.mask & bit > 0).sum() for bit in (1, 2, 4)] == [1, 0, 26]
    assert partial.present == (True, True, False, True)
    assert "images: sequence t2w is missing in 1 cases" in notes(r)
    assert (
        "images: 1 volume files (NIfTI, NRRD, MetaImage) whose path tells no patient or no sequence"
        in notes(r)
    )
    assert "D05: 1 patients with images are not in the table" in notes(r)
    assert r.scanners == ("", "", "")


def test_a_damaged_nifti_sequence_quarantines_its_case(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, ["1", "2", "3"])
    brains(data, [1, 2, 3])
    for n, cut in ((1, 40), (2, 2000)):
        file = next(data.rglob(f"*{n:05d}-000-t1c.nii.gz"))
        file.write_bytes(file.read_bytes()[:cut])
    r = read(data, YALE_STUDY)
    assert r.cohort.imaged.tolist() == [False, False, True]
    assert "2 quarantined (D00: 2)" in notes(r)


def test_one_examination_is_taken_whole(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, ["1", "2"])
    brains(data, [1], ("t1n", "t1c"), mask=False)
    later = data / "BraTS-MET-00001-001"
    # it has more sequences, though fewer slices
    for c in ("t1n", "t1c", "t2w"):
        nifti(later / f"BraTS-MET-00001-001-{c}.nii", brain((11, 20, 18), seed=5))
    r = read(data, YALE_STUDY)
    assert not r.cohort.imaged.any(), "nothing says which is meant"
    assert "1 quarantined (L01: 1)" in notes(r)
    assert any("2 examinations" in line and "(study)" in line for line in r.image_log(["1"]))
    for name, present in (
        ("000", (True, True, False, False)),
        ("00[1-9]", (True, True, True, False)),
    ):
        r = read(data, study(MR, {**YALE, "study": name}))
        picture = r.cohort.pictures[0]
        assert picture is not None
        assert picture.present == present
    r = read(data, study(MR, {**YALE, "study": "0"}))
    assert any("study = '0'" in line for line in r.image_log(["1"]))


def test_a_mask_whose_affine_contradicts_is_set_aside(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, ["1", "2"])
    brains(data, [1])
    nifti(
        data / "BraTS-MET-00001-000" / "BraTS-MET-00001-000-seg.nii.gz",
        np.full((16, 20, 18), 3, np.uint8),
        origin=(40.0, 0, 0),
    )
    r = read(data, YALE_STUDY)
    picture = r.cohort.pictures[0]
    assert picture is not None
    assert picture.mask is None
    assert "a segmentation cannot be used, D07 (1 cases)" in notes(r)


def test_a_bids_like_folder_and_patterns_that_both_match(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, ["7", "8"])
    for suffix in ("T1w", "ce-gd_T1w", "FLAIR"):
        nifti(data / "sub-007" / "anat" / f"sub-007_{suffix}.nii.gz", brain(seed=len(suffix)))
    channels = {"t1n": ["*_T1w.nii*"], "t1c": ["*_ce-*_T1w.nii*"], "t2f": ["*_FLAIR.nii*"]}
    r = read(
        data, study(MR, {"id_pattern": r"sub-(\d+)", "strip_zeros": True, "channels": channels})
    )
    picture = r.cohort.pictures[0]
    assert picture is not None
    assert picture.present == (True, True, False, True)


def test_keys_and_patterns() -> None:
    keys = Keys(ImagesSpec(id_pattern=r"TCGA-\w\w-\w{4}"), Path("/x"))
    assert keys.parse("TCGA-AA-0001-01A") == ("TCGA-AA-0001", "")
    assert keys.parse("CPTAC-1") == ("", "")
    assert Keys(ImagesSpec(id_length=4, strip_zeros=True), Path("/x")).parse("0012-3") == ("12", "")
    assert Keys(ImagesSpec(strip_zeros=True), Path("/x")).parse("000") == ("000", "")
    yale = mapping_file.named("yale").images
    for path, key, channel in (
        ("Pretreat/BraTS-MET-00086-000/BraTS-MET-00086-000-t1c.nii.gz", ("86", "000"), "t1c"),
        ("sub-001/ses-02/anat/sub-001_ses-02_ce-gd_T1w.nii.gz", ("1", "02"), "t1c"),
        ("sub-010/anat/sub-010_FLAIR.nii", ("10", ""), "t2f"),
        ("BraTS-MET-00110", ("110", ""), ""),
    ):
        assert Keys(yale, Path("/x")).parse(path) == key
        assert named(path, yale.channels) == channel
    assert named("a/b-t1c.nii", {"t1n": ["*.nii"], "t1c": ["*-t1c.nii"]}) == "t1c"
    assert named("a/b-t1c.nii", {"t1n": ["*-t1n.nii"]}) == ""


def test_a_mapping_of_images_is_checked_as_a_whole(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 1)
    wrong = {
        "id": "name",
        "id_pattern": "(",
        "mask": ["*-seg.nii"],
        "values": {"lesion": [0]},
        "colour": 1,
        "id_length": 0,
    }
    with pytest.raises(UsageError) as caught:
        read(data, study(CT, wrong))
    text = str(caught.value)
    for part in ("'name'", "'('", "lesion", "'colour'", "id_length = 0"):
        assert part in text
    with pytest.raises(UsageError, match="'t9'") as caught:
        read(data, study(CT, {"channels": {"t9": ["*"]}, "regions": {"spleen": ["x"]}}))
    assert "'spleen'" in str(caught.value)


def test_builtin_mappings_name_what_their_studies_have() -> None:
    for source in (mapping_file.named(p.stem) for p in sorted(mapping_file.SOURCES.glob("*.toml"))):
        for name in source.studies:
            found = studies.load(name).schema.imaging
            assert found is not None
            check(source.images, found, source.name)
    assert mapping_file.named("crlm").images.regions["lesion"] != ()


# --- sites
# --------------------------------------------------------------------------------------------------


def test_sites_with_images_only_with_a_table_only_and_with_both(tmp_path: Path) -> None:
    ids = [f"P{n:02d}" for n in range(9)]
    data = tmp_path / "data"
    table(data, ids[:6])
    with (data / "patients.csv").open("a") as f:
        f.writelines(f"{i},,{n % 2},B\n" for n, i in enumerate(ids[6:]))
    for i in (*ids[:2], *ids[6:8]):
        ct(data / "images" / i, i)
    r = read(data)
    both, only_table, only_image = (
        select(r, name, frozenset(ids[a:b]))
        for name, a, b in (("both", 0, 3), ("table", 3, 6), ("image", 6, 9))
    )
    assert both.modalities == {"table", "image"}
    assert only_table.modalities == {"table"}
    assert only_image.modalities == {"image"}
    assert only_image.imaged.tolist() == [True, True, False]
    assert "images: 2 cases with an image, 1 without, 0 quarantined" in both.flow.notes
    assert "images: 0 cases with an image, 3 without, 0 quarantined" in only_table.flow.notes
    assert (
        sum(n.startswith("images: ") and "cases with an image" in n for n in both.flow.notes) == 1
    )
    assert both.flow.ids["images: none"] == (ids[2],)


def site_file(folder: Path, data: Path, extra: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    # a study whose source is a mapping must be a file, as a hospital would have it
    (folder / "study.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.client.imaging.pipeline.exams "
        "import CT, study\nSTUDY = study(CT, "
        f"{LIVER!r})\n"
    )
    (folder / "site.toml").write_text(
        f'name = "A"\ndata = "{data}"\nstudies = ["study.py"]\nminimum = 1\n{extra}'
    )
    return folder / "site.toml"


def test_a_station_prepares_the_images_and_logs_what_is_wrong(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 3)
    break_gap(series(data, "P2"))
    path = site_file(tmp_path / "site", data)
    station = open_station(str(path))
    hello = station.hello("study.py", "now", STUDY.schema.hash)
    assert hello.code == ""
    assert hello.modalities == ("image", "table")
    assert (tmp_path / "site" / "cache" / "images").is_dir(), "beside the site's file"
    log = (tmp_path / "site" / "station.log").read_text()
    assert "image of patient P2 set aside" in log
    assert str(series(data, "P2")) in log


def test_site_keys(tmp_path: Path) -> None:
    path = site_file(tmp_path, tmp_path, 'images = "scans"\ncache = "/elsewhere/cache"\n')
    site = load_site(path)
    assert (site.images, site.cache) == (tmp_path / "scans", Path("/elsewhere/cache"))
    site = load_site(site_file(tmp_path, tmp_path))
    assert (site.images, site.cache) == (None, tmp_path / "cache")
    with pytest.raises(UsageError, match="cache = 3"):
        load_site(site_file(tmp_path, tmp_path, "cache = 3\n"))


def test_sites_of_scanners(tmp_path: Path) -> None:
    ids = [f"P{n:02d}" for n in range(12)]
    data = tmp_path / "data"
    table(data, ids)
    for n, i in enumerate(ids[:10]):
        ct(
            data / "images" / i,
            i,
            maker=("GE MEDICAL SYSTEMS", "SIEMENS", "Siemens Healthineers", "GE", "")[n % 5],
        )
    r = read(data)
    parted = partition.by_scanner(r, 1, "pool")
    assert (parted.kind, set(parted.sites)) == ("scanner", {"GE", "Siemens", "no scanner named"})
    assert sorted(i for s in parted.sites.values() for i in s) == ids
    assert parted.sites["GE"] == (ids[0], ids[3], ids[5], ids[8])
    assert parted.sites["no scanner named"] == (ids[4], ids[9], ids[10], ids[11])
    template = site_folders.SiteTemplate(
        "s.py", data, "", 1, images=data / "images", cache=tmp_path / "shared"
    )
    files = site_folders.write_sites(tmp_path / "sites", parted, template)
    site = load_site(files[1])
    assert (site.images, site.cache) == (data / "images", tmp_path / "shared")
    with pytest.raises(DataError, match="partition natural"):
        partition.by_scanner(read_table(STUDY, "now", data), 1, "pool")


def test_makers_have_one_name() -> None:
    assert [partition.maker(m) for m in ("GE MEDICAL SYSTEMS", "Philips Healthcare", "TOSHIBA",
    "Canon", "Acme  Ltd", "")] == [
        "GE", "Philips", "Canon", "Canon", "Acme Ltd", "",
    ]  # fmt: skip


# --- what can happen to the cache
# --------------------------------------------------------------------------------------------------


def test_a_broken_entry_is_said_and_made_again(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 2)
    before = read(data).cohort
    entry = sorted((tmp_path / "cache" / "images").rglob("*.image"))[0]
    blob = bytearray(entry.read_bytes())
    blob[4096 + 100] ^= 1
    entry.write_bytes(blob)
    fresh()
    r = read(data)
    assert r.cohort.hash == before.hash
    assert "images: 1 entries of the cache were broken and were made again" in notes(r)
    assert "broken" not in notes(read(data))


def test_a_full_disk_stops_the_start_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = town(tmp_path / "data", IDS, 2)
    done: list[str] = []

    def replace(a: str, b: str, real: Any = os.replace) -> None:
        if done:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(str(b))
        real(a, b)

    monkeypatch.setattr(caches.os, "replace", replace)
    with pytest.raises(RunError, match="free space") as caught:
        read(data)
    assert caught.value.code == "S03"
    monkeypatch.undo()
    (entry,) = (tmp_path / "cache" / "images").rglob("*.image")
    written = entry.stat().st_mtime_ns
    assert read(data).cohort.imaged.sum() == 2
    assert entry.stat().st_mtime_ns == written


FILL = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.client.imaging.pipeline.test_pipeline import read
def tell(done, of):
    print(done, of, flush=True)
try:
    read(Path({data!r}), tell=tell)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_fill_that_is_stopped_goes_on_where_it_was(tmp_path: Path, how: signal.Signals) -> None:
    ids = [f"P{n:02d}" for n in range(12)]
    data = town(tmp_path / "data", ids, 12)
    code = FILL.format(root=str(ROOT), data=str(data))
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    lines = iter(child.stdout.readline, "")
    assert any(line.split() == ["2", "12"] for line in lines), child.stderr.read()
    child.send_signal(how)
    child.wait(20)
    assert child.returncode in (-how, 130)
    assert "Traceback" not in child.stderr.read()
    child.stdout.close()
    child.stderr.close()
    time.sleep(0.3)
    entries = {p: p.stat().st_ino for p in (tmp_path / "cache" / "images").rglob("*.image")}
    assert 2 <= len(entries) <= 12
    r = read(data)
    assert r.cohort.imaged.all()
    assert "broken" not in notes(r)
    assert {p: p.stat().st_ino for p in entries} == entries, "what was done is not done again"


def test_two_that_fill_one_cache_at_once_do_not_hurt_each_other(tmp_path: Path) -> None:
    ids = [f"P{n:02d}" for n in range(6)]
    data = town(tmp_path / "data", ids, 6)
    code = FILL.format(root=str(ROOT), data=str(data))
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert ["6 6" in child.communicate(timeout=60)[0] for child in both] == [True, True]
    assert [child.returncode for child in both] == [0, 0]
    assert len(list((tmp_path / "cache" / "images").rglob("*.image"))) == 6
    assert list((tmp_path / "cache").rglob("*.part")) == []
    r = read(data)
    assert r.cohort.imaged.all()
    assert "broken" not in notes(r)


def test_a_process_that_dies_costs_its_case_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = town(tmp_path / "data", IDS, 4)
    monkeypatch.setattr(pipeline, "make", deadly)
    monkeypatch.setattr(pipeline, "WORKERS", 2)
    r = read(data)
    assert r.cohort.imaged.tolist() == [True, True, False, True]
    assert "1 quarantined (D00: 1)" in notes(r)
    assert any("signal 9" in line for line in r.image_log(["P3"]))


def deadly(job: Any) -> Any:
    if job.case.patient == "P3":
        os.kill(os.getpid(), signal.SIGKILL)
    return make(job)


def test_an_entry_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    data = town(tmp_path / "data", IDS, 2)
    before = read(data).cohort
    sorted((tmp_path / "cache" / "images").rglob("*.image"))[0].unlink()
    assert read(data).cohort.hash == before.hash
    shutil.rmtree(tmp_path / "cache")
    assert read(data).cohort.hash == before.hash


def test_what_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = town(tmp_path / "data", IDS, 2)
    monkeypatch.setattr(
        pipeline, "make", lambda job: make(job) if job.case.patient == "P1" else 1 / 0 * 0
    )
    with pytest.raises(ZeroDivisionError):
        read(data)
    monkeypatch.setattr(
        pipeline, "make", lambda job: PreparedCase("", {}, ("D00", "the share was away"))
    )
    assert "1 cases with an image, 2 without, 1 quarantined (D00: 1)" in notes(read(data))
    monkeypatch.setattr(pipeline, "make", make)
    assert read(data).cohort.imaged.sum() == 2


def test_a_file_that_could_not_be_opened_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.imaging.formats import readers as image_readers

    data = town(tmp_path / "data", IDS, 2)
    closed = str(series(data, "P2") / "1-03.dcm")
    real, fault = (
        image_readers.header,
        Fault("D00", closed, "it cannot be read (Permission denied)", "Mend its permissions"),
    )
    monkeypatch.setattr(
        image_readers, "header", lambda path: fault if str(path) == closed else real(path)
    )
    monkeypatch.setattr(pipeline, "_readable", lambda path: path != closed)
    assert "1 quarantined (D0" in notes(read(data))
    # its permissions were mended: its size and its time are what they were
    monkeypatch.undo()
    monkeypatch.setattr(pipeline, "WORKERS", 0)
    assert read(data).cohort.imaged.sum() == 2


def deadly_header(batch: Any) -> Any:
    if any(path.endswith("P2/study/ct/1-03.dcm") for path, _ in batch):
        os.kill(os.getpid(), signal.SIGKILL)
    return headers_of(batch)


def test_a_header_that_kills_its_reader_costs_its_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = town(tmp_path / "data", IDS, 3)
    monkeypatch.setattr(pipeline, "_BATCH", 2)
    monkeypatch.setattr(pipeline, "WORKERS", 2)
    monkeypatch.setattr(pipeline, "headers_of", deadly_header)
    r = read(data)
    assert r.cohort.imaged.tolist() == [True, False, True, False]
    assert any("signal 9" in line for line in r.image_log(IDS))


def test_an_error_that_nobody_foresaw_costs_its_case_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.imaging.formats import readers as images

    data = town(tmp_path / "data", IDS, 2)
    real = images.read
    monkeypatch.setattr(images, "read", lambda s: 1 / 0 if s.patient == "P1" else real(s))
    r = read(data)
    assert r.cohort.imaged.tolist() == [False, True, False, False]
    assert "1 quarantined (X01: 1)" in notes(r)
    assert any("ZeroDivisionError" in line for line in r.image_log(["P1"]))


# --- the real collections
# --------------------------------------------------------------------------------------------------


def test_the_real_ct_joins_the_real_table(tmp_path: Path) -> None:
    r = read_table(
        studies.load("liver_recurrence"), "preop", real("crlm"), cache=tmp_path / "cache"
    )
    (at,) = np.flatnonzero(r.cohort.imaged)
    picture = r.cohort.pictures[at]
    assert picture is not None
    assert r.cohort.ids[at] == "CRLM-CT-1004"
    assert (picture.voxels.shape[0], picture.voxels.shape[1]) == (1, 41)
    assert picture.spacing_mm == pytest.approx((5.0, 1.0, 1.0))
    assert "images: 1 cases with an image, 196 without, 0 quarantined" in r.cohort.flow.notes
    assert r.scanners[at] == "GE MEDICAL SYSTEMS"
    # fat, soft tissue and air are where they are in a body
    values = picture.voxels * picture.unit
    assert 0.2 < (values == -1).mean() < 0.6
    assert 0.2 < ((values > 0) & (values < 0.6)).mean() < 0.7


def test_the_real_brain_joins_by_its_path(tmp_path: Path) -> None:
    table(tmp_path / "data", ["110", "4"])
    found = studies.load("brain_primary").schema.imaging
    assert found is not None
    r = read(tmp_path / "data", study(found, YALE), images=real("metstobrain"))
    picture = r.cohort.pictures[0]
    assert picture is not None
    assert picture.present == (True,) * 4
    assert picture.spacing_mm == pytest.approx((1.0, 1.0, 1.0))
    assert min(picture.voxels.shape[1:]) > 120


def real(name: str) -> Path:
    data = Path(os.environ.get("FEDMETS_DATA", ROOT.parent / "shared/data"))
    if not (data / name).is_dir():
        pytest.skip(f"no real data: {data / name} is not there (set FEDMETS_DATA)")
    return data / name
