"""Whatever lies in a folder of images is read, or counted with the way out; never passed over."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import doctor
from client.cohort.reader import Reading, read_table
from client.imaging.pipeline import prepare_images as pipeline
from client.imaging.pipeline.image_folder import (
    ARCHIVES,
    DOCUMENTS,
    OTHER_FORMATS,
    PICTURES,
    ImageFolder,
    passed_over,
)
from simulation import run
from simulation.federation.partition import Partition
from tests.client.imaging.pipeline.exams import CT, MR, YALE, brains, ct, study, table

STUDY = study(CT, {"regions": {"liver": ["Liver"], "lesion": ["Tumor.*"]}})


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WORKERS", 0)


def read(data: Path) -> Reading:
    return read_table(STUDY, "now", data, cache=data.parent / "cache")


NAMES = st.builds(
    str.__add__,
    st.sampled_from(["a", "b", "c", "Meier 1950"]),
    st.sampled_from([*ARCHIVES, *PICTURES, *OTHER_FORMATS, *DOCUMENTS, ".meier", ".ZIP", ""]),
)


@settings(max_examples=40, deadline=None)
@given(names=st.lists(NAMES, max_size=12, unique_by=str.lower), links=st.integers(0, 2))
def test_each_file_is_counted_once(names: list[str], links: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for n, name in enumerate(names):
            (root / f"d{n}").mkdir()
            (root / f"d{n}" / name).write_bytes(b"\x01\x02 something")
        for n in range(links):
            (root / f"link{n}").symlink_to(root / "nowhere")
            os.mkfifo(root / f"pipe{n}.dcm")
        (root / "README").write_bytes(b"Images of 1950")
        folder = ImageFolder.of(root, root / "cache")
        assert not any("pipe" in path for path, _ in folder.files)  # whoever opened one would wait
        out = passed_over(folder, {path: None for path, _ in folder.files})
    documents = [n for n in names if n.lower().endswith(DOCUMENTS)]
    counted = sum(int(word) for note in out.notes for word in note.split() if word.isdigit())
    assert counted == len(names) - len(documents) + 2 * links
    assert all(note.endswith(")") for note in out.notes)  # the way out
    assert "eier" not in " ".join(out.notes)


def test_packed_pet_links_and_others_in_the_account(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, ["P1", "P2"])
    ct(data / "P1" / "ct", "P1")
    ct(data / "P2" / "pet", "P2", Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")
    with zipfile.ZipFile(data / "P2" / "more.zip", "w") as f:
        f.write(data / "patients.csv")
    (data / "P2" / "screen.png").write_bytes(b"\x89PNG")
    (data / "P2" / "brain.mgz").write_bytes(b"\x1f\x8b\x08 broken")
    (data / "P2" / "scan.smith").write_bytes(b"....")
    (data / "P2" / "gone.dcm").symlink_to(tmp_path / "nowhere.dcm")
    r = read(data)
    assert r.cohort.imaged.tolist() == [True, False]
    notes = Counter(r.cohort.flow.notes)
    for told in (
        "images: files that are not read: 1 .zip (unpack them)",
        "1 .png",
        "1 .mgz, 1 of another suffix (export them as DICOM",
        "1 links that lead nowhere (mend",
        "images: DICOM files that are not read: 8 PT (export CT or MR",
    ):
        assert sum(told in note for note in notes) == 1, (told, notes)
    assert "smith" not in " ".join(notes)
    log = "\n".join(r.image_log(["P1", "P2"]))
    for told in ("'.smith'", str(data / "P2" / "gone.dcm"), "1 series PT"):
        assert told in log
    # a second start tells the same, and another one when something is added
    assert read(data).cohort.flow.notes == r.cohort.flow.notes
    (data / "P1" / "again.zip").write_bytes(b"PK")
    assert any("2 .zip" in note for note in read(data).cohort.flow.notes)


@pytest.mark.parametrize("name", ["P1.zip", "P1.nrrd", "P1.mgz", "P1.img"])
def test_the_doctor_warns_of_a_folder_none_of_whose_images_is_read(
    tmp_path: Path, name: str
) -> None:
    data = tmp_path / "data"
    table(data, ["P1", "P2"])
    cohort = read(data).cohort
    assert doctor._unseen(cohort, "scans") == []  # a site without images is none with a fault
    (data / name).write_bytes(b"not an image")
    (found,) = doctor._unseen(read(data).cohort, "scans")
    assert (found.check, found.state) == ("images, scans", "warning")
    assert "no patient has an image" in found.said
    assert found.do


def test_volumes_that_no_pattern_names_are_no_ok(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, ["1", "2"])
    brains(data, [1, 2])
    asked = study(MR, {k: v for k, v in YALE.items() if k not in ("channels", "mask", "values")})
    cohort = read_table(asked, "now", data, cache=tmp_path / "cache").cohort
    (found,) = doctor._unseen(cohort, "scans")
    assert found.state == "warning"


def test_prepare_writes_what_a_station_would_into_each_sites_log(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, ["P1", "P2"])
    (data / "P1.smith").write_bytes(b"not an image")
    (tmp_path / "site").mkdir()
    path = tmp_path / "site" / "site.toml"
    path.write_text(f'name = "A"\ndata = "{data}"\nstudies = ["scans"]\n')
    parted = Partition({"A": ("P1", "P2")}, {}, {}, 1)
    run._log_images({1: path}, read(data), parted)
    assert "'.smith'" in (tmp_path / "site" / "station.log").read_text()
