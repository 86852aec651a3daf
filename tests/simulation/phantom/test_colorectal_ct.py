"""CT of the colorectal phantom: what is written, whether it joins by barcode, who shows lesions,
and what the reader says of the rest."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from client.cohort.reader import Reading, read_table
from common.data.cohort import UNKNOWN
from common.errors import UsageError
from common.study.load import load
from simulation.federation import synthetic_cohorts
from simulation.phantom.colorectal import generative_model as model
from simulation.phantom.colorectal import images as ct_images
from simulation.phantom.colorectal import writer
from simulation.phantom.colorectal.images import Scan
from simulation.phantom.colorectal.records import Patient
from simulation.phantom.colorectal.writer import Truth
from simulation.phantom.shared import processes

PATIENTS, IMAGES = 100, 8
STRANGER = "TCGA-AA-Z000"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("pictured")
    return folder, writer.write(folder, patients=PATIENTS, images=IMAGES)


@pytest.fixture(scope="module")
def reading(written: tuple[Path, Truth], tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return read_table(
        load("colorectal_metastasis"),
        "preop",
        written[0],
        source="gdc",
        cache=tmp_path_factory.mktemp("cache"),
    )


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def people(patients: int) -> list[Patient]:
    """As `colorectal.write` makes them, but for the barcodes' draws."""
    return writer._people(
        model.draw(patients, 0), np.ones(patients, np.bool_), np.random.default_rng(0)
    )


def listed(folder: Path) -> list[dict[str, str]]:
    with (folder / ct_images.METADATA).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def kinds(folder: Path) -> dict[str, list[str]]:
    """Barcode -> descriptions of the patient's series."""
    out: dict[str, list[str]] = {}
    for row in listed(folder):
        out.setdefault(row["Subject ID"], []).append(row["Series Description"])
    return out


def portal(folder: Path, barcode: str) -> NDArray[np.float64]:
    """Hounsfield units (z, y, x) of a patient's portal venous series."""
    found = [pydicom.dcmread(p) for p in folder.glob(f"*/{barcode}/*/*PORTAL*/*.dcm")]
    slices = sorted(found, key=lambda d: float(d.ImagePositionPatient[2]))
    return np.stack(
        [d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices]
    )


# ---- what is written -----------------------------------------------------------------------------


def test_equal_arguments_write_equal_bytes_also_over_an_older_phantom_and_in_several_processes(
    written: tuple[Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    writer.write(tmp_path, patients=PATIENTS, images=3, seed=1)
    monkeypatch.setattr(processes, "FEW", 0)
    again = writer.write(
        tmp_path, patients=PATIENTS, images=IMAGES, tell=lambda done, of: told.append((done, of))
    )
    assert again == written[1] == writer.read_truth(tmp_path)
    assert digests(tmp_path) == digests(written[0])
    assert told[-1] == (IMAGES + 2, IMAGES + 2)


def test_the_tables_are_those_of_a_cohort_without_images(
    written: tuple[Path, Truth], tmp_path: Path
) -> None:
    folder, truth = written
    plain = writer.write(tmp_path, patients=PATIENTS)
    before, after = digests(tmp_path), digests(folder)
    assert set(before) == {
        "truth.json",
        *(f"{f}/{t}" for f in ("coad", "read") for t in writer.TABLES),
    }
    assert {name for name in before if before[name] != after[name]} == {"truth.json"}
    assert dataclasses.replace(truth, images={}) == plain
    assert "images" not in json.loads((tmp_path / "truth.json").read_text())


def test_written_again_without_images_nothing_is_left_of_them(tmp_path: Path) -> None:
    writer.write(tmp_path / "again", patients=PATIENTS, images=3)
    writer.write(tmp_path / "again", patients=PATIENTS)
    writer.write(tmp_path / "fresh", patients=PATIENTS)
    assert digests(tmp_path / "again") == digests(tmp_path / "fresh")


def test_the_tree_is_the_archives_and_its_list_names_every_series(
    written: tuple[Path, Truth],
) -> None:
    folder, truth = written
    rows = listed(folder)
    assert {folder / row["File Location"] for row in rows} == {
        p.parent for p in folder.rglob("*.dcm")
    }
    for row in rows:
        files = sorted((folder / row["File Location"]).glob("1-*.dcm"))
        heads = [pydicom.dcmread(f) for f in files]
        assert len(files) == int(row["Number of Images"])
        assert {(d.SeriesInstanceUID, d.PatientID, d.Modality) for d in heads} == {
            (row["Series UID"], row["Subject ID"], "CT")
        }
        assert row["File Location"].startswith(f"./{row['Collection']}/{row['Subject ID']}/")
        assert all(d.pixel_array.std() > 10 for d in heads)
    uids = [
        pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID for f in folder.rglob("*.dcm")
    ]
    assert len(set(uids)) == len(uids)
    for barcode in truth.images:
        name = next(
            n for n in ("coad", "read") if barcode in (folder / n / "clinical.tsv").read_text()
        )
        assert (folder / ct_images.COLLECTIONS[name] / barcode).is_dir()


def test_each_ct_has_a_localizer_one_patient_a_lung_series_and_one_nothing_but_a_localizer(
    written: tuple[Path, Truth],
) -> None:
    folder, truth = written
    found = kinds(folder)
    both = ["SCOUT", "PORTAL VENOUS  AXIAL"]
    assert sorted(found.values()) == sorted([["SCOUT"], *[both] * IMAGES, [*both, "LUNG  THIN"]])
    alone = next(b for b, series in found.items() if series == ["SCOUT"])
    assert set(found) == {*truth.images, alone, STRANGER}
    assert len(truth.images) == IMAGES
    plan = pydicom.dcmread(next(folder.glob(f"*/{alone}/*/*SCOUT*/*.dcm")))
    assert plan.ImageType[2] == "LOCALIZER"
    assert list(plan.ImageOrientationPatient) == [1, 0, 0, 0, 0, -1]
    lung = next(b for b, series in found.items() if len(series) == 3)
    thin = [pydicom.dcmread(p) for p in folder.glob(f"*/{lung}/*/*LUNG*/*.dcm")]
    places = np.sort([float(d.ImagePositionPatient[2]) for d in thin])
    np.testing.assert_allclose(np.diff(places), 1.25, atol=1e-3)
    assert (
        len(
            {d.FrameOfReferenceUID for d in thin}
            | {
                pydicom.dcmread(
                    next(folder.glob(f"*/{lung}/*/*PORTAL*/1-*1.dcm"))
                ).FrameOfReferenceUID
            }
        )
        == 1
    )


# ---- who has one, and what it shows --------------------------------------------------------------


def test_the_share_of_m_is_that_of_the_collections() -> None:
    everybody = people(633)
    scans = ct_images.choose(everybody, synthetic_cohorts.IMAGED_PATIENTS, 0)
    by_code = {p.barcode: p for p in everybody}
    whole = [by_code[s.barcode] for s in scans[:-1] if s.whole]
    assert len({s.barcode for s in scans}) == len(scans) == synthetic_cohorts.IMAGED_PATIENTS + 2
    assert (
        sum(p.known and p.m for p in whole),
        sum(p.known and not p.m for p in whole),
        sum(not p.known for p in whole),
    ) == (5, 12, 11)
    hidden = 0
    for seed in range(8):
        scans = ct_images.choose(everybody, synthetic_cohorts.IMAGED_PATIENTS, seed)
        assert all(s.m1 == bool(by_code[s.barcode].m) for s in scans[:-1])
        hidden += sum(s.m1 and not by_code[s.barcode].known for s in scans[:-1])
    assert hidden > 0, "where nobody wrote M down, the CT still shows it"
    assert STRANGER == scans[-1].barcode not in by_code
    assert {s.collection for s in scans} == set(ct_images.COLLECTIONS.values())


@pytest.mark.parametrize("images", [3, 4, 50, 85])
def test_where_a_group_is_too_small_m0_stands_in(images: int) -> None:
    scans = ct_images.choose(people(PATIENTS), images, 5)
    assert sum(s.whole for s in scans[:-1]) == images
    assert any(s.m1 for s in scans)
    assert sum(s.lung for s in scans) == 1


def test_the_files_show_lesions_in_patients_with_m1_only(
    written: tuple[Path, Truth], tmp_path: Path
) -> None:
    """Each patient is written once more with the other M: what differs, beyond noise, are dark
    lumps in the one with M1."""
    folder, truth = written
    rng = np.random.default_rng((0, 1))
    primary = np.ones(PATIENTS, np.bool_)
    drawn = model.draw(PATIENTS, 0)
    primary[rng.choice(PATIENTS, writer.WITHOUT_PRIMARY, replace=False)] = False
    scans = ct_images.choose(writer._people(drawn, primary, rng), IMAGES, 0)
    m1 = [s for s in scans if s.m1 and s.whole][:2]
    m0 = [s for s in scans if not s.m1 and s.whole][:2]
    assert {s.barcode: truth.images[s.barcode] > 0 for s in scans[:-1] if s.whole} == {
        s.barcode: s.m1 for s in scans[:-1] if s.whole
    }
    turned: list[Scan] = [dataclasses.replace(s, m1=not s.m1, lung=False) for s in (*m1, *m0)]
    ct_images.write(tmp_path, turned, lambda done, of: None)
    for scan in (*m1, *m0):
        here, other = (
            gaussian_filter(portal(f, scan.barcode), (0.7, 2, 2)) for f in (folder, tmp_path)
        )
        darker = here - other if scan.m1 else other - here
        assert darker.min() < -25, "a lesion, against the liver in its place"
        assert darker.max() < 20, "and nothing else, but noise"


# ---- how it is read ------------------------------------------------------------------------------


def test_ct_joins_the_table_by_barcode(reading: Reading, written: tuple[Path, Truth]) -> None:
    _, truth = written
    cohort = reading.cohort
    imaged = {i for i, there in zip(cohort.ids, cohort.imaged.tolist(), strict=True) if there}
    assert imaged == set(truth.images)
    known = {
        i: int(k)
        for i, k in zip(cohort.ids, cohort.labels, strict=True)
        if i in imaged and k != UNKNOWN
    }
    assert {i: k > 0 for i, k in known.items()} == {i: truth.images[i] > 0 for i in known}
    assert 0 < sum(known.values()) < len(known) < IMAGES
    assert cohort.modalities == {"table", "image"}
    assert all(p.mask is None for p in cohort.pictures if p is not None)


def test_the_flow_tells_what_was_not_used(reading: Reading, written: tuple[Path, Truth]) -> None:
    flow = reading.cohort.flow
    alone = next(b for b, series in kinds(written[0]).items() if series == ["SCOUT"])
    assert flow.ids["images: ids that the table lacks"] == (STRANGER,)
    assert flow.ids["images: quarantined"] == (alone,)
    without = len(reading.cohort) - IMAGES - 1
    assert (
        f"images: {IMAGES} cases with an image, {without} without, 1 quarantined (D06: 1)"
        in flow.notes
    )
    assert "D05: 1 patients with images are not in the table" in flow.notes
    assert any("of several series of a sequence" in n and "(1 cases)" in n for n in flow.notes)
    assert not any("TCGA-" in n for n in flow.notes)
    assert any(
        alone in line and "localizer" in line for line in reading.image_log(reading.cohort.ids)
    )


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"images": 2}, "CT of 2 patients"),
        ({"images": 100}, "CT of 100 patients"),
        ({"images": 8, "null": True}, "no signal"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path, how: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        writer.write(tmp_path, patients=PATIENTS, **how)
    assert caught.value.code == "C01"
    assert not list(tmp_path.iterdir())


def test_images_that_no_phantom_wrote_stay(tmp_path: Path) -> None:
    writer.write(tmp_path, patients=PATIENTS)
    mine = tmp_path / "TCGA-READ" / "TCGA-AG-0001" / "1-01.dcm"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"somebody's")
    before = digests(tmp_path)
    with pytest.raises(UsageError, match="belongs to no phantom"):
        writer.write(tmp_path, patients=PATIENTS, images=3)
    writer.write(tmp_path, patients=PATIENTS)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("study", ["liver_recurrence", "brain_primary"])
def test_the_other_studies_have_images_by_default(study: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"'{study}' has images by default") as caught:
        synthetic_cohorts.write(
            study, tmp_path, seed=0, mode="images", patients=None, tell=lambda done, of: None
        )
    assert caught.value.code == "C01"
    assert not list(tmp_path.iterdir())
