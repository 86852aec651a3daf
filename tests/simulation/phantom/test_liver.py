"""The liver phantom: what it writes, whether its truth is true, and whether image and table say
what they should and no more."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from openpyxl import load_workbook
from scipy.ndimage import distance_transform_edt
from sklearn.linear_model import LogisticRegression

from client.cohort.reader import Reading, read_table
from common.data.cohort import UNKNOWN
from common.errors import UsageError
from common.study.load import load
from simulation.phantom.liver import anatomy, writer
from simulation.phantom.liver import body as liver_body
from simulation.phantom.liver import generative_model as model
from simulation.phantom.liver.generative_model import Draw
from simulation.phantom.shared import processes, scanners
from simulation.phantom.shared.draws import auc
from simulation.phantom.shared.image_truth import Truth

STUDY = load("liver_recurrence")
PATIENTS = 20


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("liver")
    return folder, writer.write(folder, patients=PATIENTS)


@pytest.fixture(scope="module")
def reading(written: tuple[Path, Truth]) -> Reading:
    return read_table(STUDY, "preop", written[0])


@pytest.fixture(scope="module")
def large() -> Draw:
    return model.draw(60_000, 11)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def series(folder: Path, patient: str) -> tuple[list[Any], list[Path]]:
    """The CT slices from the feet up, and the files of segmentations."""
    found = [(p, pydicom.dcmread(p)) for p in (folder / writer.COLLECTION / patient).rglob("*.dcm")]
    slices = [d for _, d in found if d.Modality == "CT"]
    return sorted(slices, key=lambda d: d.ImagePositionPatient[2]), [
        p for p, d in found if d.Modality == "SEG"
    ]


def hu(slices: list[Any]) -> np.ndarray:
    return np.stack(
        [d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices]
    )


def outlines(path: Path, slices: list[Any]) -> dict[str, np.ndarray]:
    """Label -> (z, y, x) on the grid of the CT, placed by position."""
    seg = highdicom.seg.segread(path)
    labels = {s.SegmentNumber: s.SegmentLabel for s in seg.SegmentSequence}
    out = {label: np.zeros((len(slices), seg.Rows, seg.Columns), bool) for label in labels.values()}
    at = {round(float(d.ImagePositionPatient[2]), 3): z for z, d in enumerate(slices)}
    for group, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        label = labels[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        out[label][at[round(float(group.PlanePositionSequence[0].ImagePositionPatient[2]), 3)]] = (
            plane > 0
        )
        assert plane.any()
    return out


# ---- what is written -----------------------------------------------------------------------------


def test_equal_arguments_write_equal_bytes_in_one_process_or_several(
    written: tuple[Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(processes, "FEW", 0)
    again = writer.write(tmp_path, patients=PATIENTS, tell=lambda done, of: told.append((done, of)))
    assert again == written[1]
    assert digests(tmp_path) == digests(written[0])
    assert told[-1] == (sum(c.image for c in again.cases.values()),) * 2


def test_another_phantom_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    writer.write(tmp_path, patients=20, seed=1)
    before = digests(tmp_path)
    truth = writer.write(tmp_path, patients=20, seed=2)
    after = digests(tmp_path)
    assert {p.name for p in (tmp_path / writer.COLLECTION).iterdir()} == {
        i for i, c in truth.cases.items() if c.image
    }
    assert not {v for k, v in before.items() if k.endswith(".dcm")} & set(after.values())
    with pytest.raises(UsageError, match="C01"):
        writer.write(tmp_path, patients=5)


def test_every_patient_has_the_files_that_the_truth_says(written: tuple[Path, Truth]) -> None:
    folder, truth = written
    assert writer.read_truth(folder) == truth
    assert {p.name for p in (folder / writer.COLLECTION).iterdir()} == {
        i for i, c in truth.cases.items() if c.image
    }
    assert all(i.startswith("CRLM-CT-9") and len(i) == 12 for i in truth.cases)
    makers = {m.tag: m.name for m in scanners.MAKERS}
    for patient, case in truth.cases.items():
        if not case.image:
            assert not case.mask
            continue
        slices, masks = series(folder, patient)
        assert len(masks) == case.mask
        assert {d.PatientID for d in slices} == {patient}
        assert {makers[d.Manufacturer] for d in slices} == {case.maker}
        assert (
            len({d.SeriesInstanceUID for d in slices})
            == len({d.FrameOfReferenceUID for d in slices})
            == 1
        )
        assert len({d.SOPInstanceUID for d in slices}) == len(slices) >= 28
        steps = np.diff([float(d.ImagePositionPatient[2]) for d in slices])
        np.testing.assert_allclose(steps, steps[0], atol=1e-3)
    assert {"  " in name.name for name in (folder / writer.COLLECTION).glob("*/*/*")} == {True}


def test_the_list_of_series_is_the_tree(written: tuple[Path, Truth]) -> None:
    folder, _ = written
    with (folder / writer.METADATA).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    there = {p.parent for p in (folder / writer.COLLECTION).rglob("*.dcm")}
    assert {folder / row["File Location"] for row in rows} == there
    for row in rows:
        files = sorted((folder / row["File Location"]).glob("*.dcm"))
        head = pydicom.dcmread(files[0], stop_before_pixels=True)
        assert (head.SeriesInstanceUID, head.PatientID, head.Modality) == (
            row["Series UID"],
            row["Subject ID"],
            row["Modality"],
        )
        assert len(files) == int(row["Number of Images"])


def test_each_maker_writes_as_it_does(written: tuple[Path, Truth]) -> None:
    folder, truth = written
    for name in scanners.NAMES:
        patient = next(i for i, c in truth.cases.items() if c.maker == name and c.mask)
        slices, masks = series(folder, patient)
        scanner = next(m.ct for m in scanners.MAKERS if m.name == name)
        first = slices[0]
        assert (first.RescaleIntercept, first.PixelRepresentation, float(first.SliceThickness)) == (
            scanner.intercept, int(scanner.signed), scanner.thickness_mm,
        )  # fmt: skip
        volume, parts = hu(slices), outlines(masks[0], slices)
        corner = volume[:, 0, 0]
        assert (corner == -3024).all() if scanner.padding else (corner >= -1024).all()
        assert 0 < volume.max() < 2000
        inside = np.logical_or.reduce(
            [solid for label, solid in parts.items() if not label.startswith("Liver")]
        )
        assert 75 < volume[parts["Liver"] & ~inside].mean() < 140
        outside = volume[(volume > -3000) & (volume < -950)]
        assert np.median(outside) == pytest.approx(-1000, abs=3)


def test_scanners_differ_in_noise_and_offset() -> None:
    body = liver_body.draw_body(27, np.random.default_rng(0))
    seen = {}
    for maker in scanners.MAKERS:
        image = anatomy.render(body, 0.0, maker.ct, np.random.default_rng(1)).hu
        axis = body.pixel * (np.arange(128) - 63.5)
        aorta = (
            np.hypot(axis[:, None] - 0.42 * body.cavity[0], axis[None] - 0.1 * body.cavity[1]) < 6
        )
        seen[maker.name] = image[:, aorta]
    noise = {name: float(values.std()) for name, values in seen.items()}
    assert noise["Siemens"] < noise["GE"] < noise["Philips"] < noise["Canon"]
    for maker in scanners.MAKERS:
        assert noise[maker.name] == pytest.approx(maker.ct.noise, rel=0.25)
        assert seen[maker.name].mean() == pytest.approx(
            160 * maker.ct.phase + maker.ct.offset, abs=4
        )


def test_the_outlines_overlap_as_organs_do(written: tuple[Path, Truth]) -> None:
    folder, truth = written
    for patient in [i for i, c in truth.cases.items() if c.mask][:6]:
        slices, masks = series(folder, patient)
        parts = outlines(masks[0], slices)
        assert list(parts)[:4] == ["Liver", "Liver Remnant", "Hepatic", "Portal"]
        voxel = float(
            np.prod(
                [
                    *slices[0].PixelSpacing,
                    slices[1].ImagePositionPatient[2] - slices[0].ImagePositionPatient[2],
                ]
            )
        )
        assert 0.8e6 < parts["Liver"].sum() * voxel < 2.4e6, "a liver has one to two litres"
        for label, solid in parts.items():
            assert solid.any(), label
            assert not (solid & ~parts["Liver"]).any(), label
        assert not (parts["Hepatic"] & parts["Portal"]).any()


# ---- the table -----------------------------------------------------------------------------------


def test_the_workbook_is_read_as_the_real_one_is_and_the_labels_are_the_truths(
    reading: Reading, written: tuple[Path, Truth]
) -> None:
    _, truth = written
    cohort = reading.cohort
    assert reading.source == "crlm"
    assert set(cohort.ids) == set(truth.cases)
    names = [("free", "recurred")[k] if k != UNKNOWN else "" for k in cohort.labels]
    assert names == [truth.cases[i].label for i in cohort.ids]
    assert cohort.flow.unknown_label == truth.patients - truth.known
    assert truth.classes == {name: names.count(name) for name in ("free", "recurred")}
    assert sum(truth.classes.values()) == truth.known


def test_the_table_agrees_with_what_is_seen(reading: Reading, written: tuple[Path, Truth]) -> None:
    folder, truth = written
    column = {f.name: n for n, f in enumerate(reading.cohort.schema.features)}
    for patient in [i for i, c in truth.cases.items() if c.mask]:
        values = reading.cohort.values[reading.at[patient]]
        slices, masks = series(folder, patient)
        tumours = [
            solid
            for label, solid in outlines(masks[0], slices).items()
            if label.startswith("Tumor_")
        ]
        step = float(slices[1].ImagePositionPatient[2]) - float(slices[0].ImagePositionPatient[2])
        sizes = [step, *(float(v) for v in slices[0].PixelSpacing)]
        extents = [
            max(np.ptp(axis) * size + size for axis, size in zip(np.nonzero(t), sizes, strict=True))
            for t in tumours
        ]
        assert max(extents) == pytest.approx(
            10 * values[column["max_tumour_size"]], abs=2 * max(sizes) + 3
        )
        assert values[column["multiple_metastases"]] == (len(tumours) > 1)


def test_about_a_tenth_is_not_followed_long_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    followed = [writer.follow(bool(n % 2), bool(n % 10), rng) for n in range(2000)]
    for n, f in enumerate(followed):
        assert f.known == bool(n % 10)
        if f.known:
            assert (f.recurred and f.months <= 24) == bool(n % 2)
        else:
            assert not f.recurred
            assert f.months < 24
    lost = [f.dead for f in followed if not f.known]
    assert 0.35 < np.mean(lost) < 0.65, "half of them died of something else"


# ---- what decides --------------------------------------------------------------------------------


def test_the_ceilings_are_where_they_should_be(written: tuple[Path, Truth], large: Draw) -> None:
    ceilings = written[1].ceilings
    assert ceilings["clinical"] == pytest.approx(0.855, abs=0.02)
    assert ceilings["image"] == pytest.approx(0.83, abs=0.02)
    assert ceilings["fusion"] == pytest.approx(0.92, abs=0.015)
    assert 0.42 < large.recurred.mean() < 0.46
    for name, score in model.posteriors(large).items():
        assert auc(score, large.recurred) == pytest.approx(ceilings[name], abs=0.01)


def test_the_posterior_is_calibrated(large: Draw) -> None:
    for name in ("clinical", "image", "fusion"):
        p = model.posteriors(large)[name]
        for part in np.array_split(np.argsort(p), 10):
            error = 3.5 * np.sqrt((p[part] * (1 - p[part])).sum()) / len(part)
            assert large.recurred[part].mean() == pytest.approx(p[part].mean(), abs=error), name


def test_the_log_odds_are_what_a_fit_finds(large: Draw) -> None:
    """The logit is linear in log CEA, the four findings and u, with the numbers that Bayes' rule
    gives."""
    seen = large.where(large.cea_known)
    columns = [
        np.log(seen.cea),
        seen.node,
        seen.extrahepatic,
        seen.synchronous,
        seen.chemotherapy,
        seen.u,
    ]
    x = np.column_stack(columns).astype(float)
    fit = LogisticRegression(C=1e6, max_iter=1000).fit(x, seen.recurred)
    np.testing.assert_allclose(fit.decision_function(x), model.log_odds(seen)["fusion"], atol=0.3)
    slope = np.polyfit(model.log_odds(seen)["fusion"], fit.decision_function(x), 1)[0]
    assert slope == pytest.approx(1, abs=0.03)


def test_the_ceiling_of_the_fusion_takes_each_patient_by_what_there_is(large: Draw) -> None:
    every, none = np.ones(len(large), np.bool_), np.zeros(len(large), np.bool_)
    whole = model.ceilings(large, every, every, every)
    assert model.ceilings(large, every, every, none)["fusion"] == whole["clinical"]
    assert model.ceilings(large, every, none, every)["fusion"] == whole["image"]
    half = np.arange(len(large)) % 2 == 0
    mixed = model.ceilings(large, every, every, half)["fusion"]
    assert whole["clinical"] + 0.02 < mixed < whole["fusion"] - 0.02


def test_given_the_outcome_the_table_says_nothing_of_the_image_nor_the_image_of_the_table(
    large: Draw,
) -> None:
    told = (
        large.age,
        large.male,
        large.body_mass,
        large.node,
        large.synchronous,
        large.extrahepatic,
        large.chemotherapy,
        np.log1p(large.cea),
    )
    for outcome in (0, 1):
        rows = large.recurred == outcome
        for column in told:
            assert abs(np.corrcoef(column[rows], large.u[rows])[0, 1]) < 0.03
    bodies = [
        liver_body.draw_body(float(bmi), np.random.default_rng(n))
        for n, bmi in enumerate(large.body_mass[:3000])
    ]
    seen = (
        [b.largest_cm for b in bodies],
        [len(b.lesions) for b in bodies],
        [b.bilobar for b in bodies],
        [b.fat for b in bodies],
    )
    for column in seen:
        assert abs(np.corrcoef(column, large.u[:3000])[0, 1]) < 0.06
        assert abs(np.corrcoef(column, large.recurred[:3000])[0, 1]) < 0.06


def test_the_lesions_show_the_latent(written: tuple[Path, Truth]) -> None:
    """The inner part of each largest lesion against its rim, measured in the files, orders patients
    as the latent does."""
    folder, truth = written
    measured, latent = [], []
    for patient in [i for i, c in truth.cases.items() if c.mask]:
        slices, masks = series(folder, patient)
        volume, parts = hu(slices), outlines(masks[0], slices)
        step = float(slices[1].ImagePositionPatient[2]) - float(slices[0].ImagePositionPatient[2])
        depth = distance_transform_edt(
            parts["Tumor_1"], sampling=(step, *map(float, slices[0].PixelSpacing))
        )
        core, rim = (
            depth >= 0.6 * depth.max(),
            (depth > 0) & (depth <= np.quantile(depth[depth > 0], 0.25)),
        )
        measured.append(volume[core].mean() - volume[rim].mean())
        latent.append(truth.cases[patient].latent[0])
    assert np.corrcoef(measured, latent)[0, 1] < -0.95
    assert np.ptp(measured) > 100, "HU, against noise of 10 to 20"


# ---- modes ---------------------------------------------------------------------------------------


def test_without_a_signal_only_the_images_change(
    written: tuple[Path, Truth], tmp_path: Path
) -> None:
    folder, truth = written
    null = writer.write(tmp_path, patients=PATIENTS, null=True)
    before, after = digests(folder), digests(tmp_path)
    assert before[writer.WORKBOOK] == after[writer.WORKBOOK]
    assert null.ceilings["image"] == null.cohort_ceilings["image"] == 0.5
    assert (
        null.ceilings["fusion"]
        == null.ceilings["clinical"]
        == pytest.approx(truth.ceilings["clinical"], abs=0.01)
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]} - {"truth.json"}
    assert all("PORTAL" in name for name in changed), (
        "the outlines are the same: the latent is not in them"
    )
    assert {name.split("/")[1] for name in changed} == {
        i for i, c in truth.cases.items() if c.image
    }
    d = model.draw(60_000, 11, null=True)
    assert auc(d.u, d.recurred) == pytest.approx(0.5, abs=0.01)


def test_in_the_missing_mode_makers_lack_what_they_should(tmp_path: Path) -> None:
    truth = writer.write(tmp_path, patients=PATIENTS, missing=True)
    cohort = read_table(STUDY, "preop", tmp_path).cohort
    assert len(cohort) == PATIENTS
    for i, values in zip(cohort.ids, cohort.values, strict=True):
        case = truth.cases[i]
        assert np.isnan(values).all() == (case.maker == "Philips")
        assert case.table == (case.maker != "Philips")
        there = list((tmp_path / writer.COLLECTION / i).glob("*/*")) if case.image else []
        assert len(there) == (0 if not case.image else 1 + case.mask)
        if case.maker == "Canon":
            assert not case.image
        if case.maker == "Siemens":
            assert not case.mask
    assert any(c.label for c in truth.cases.values() if c.maker == "Philips")
    assert any(c.mask for c in truth.cases.values())


def test_the_workbook_has_the_collections_sheet_and_columns(written: tuple[Path, Truth]) -> None:
    book = load_workbook(written[0] / writer.WORKBOOK)
    assert book.sheetnames == ["TCIA_n=197", "Data Dictionary"]
    header = [cell.value for cell in book["TCIA_n=197"][1]]
    assert len(header) == len(set(header)) == 36
    assert header[:3] == ["Patient-ID", "De-identify Scout Name", "age"]
    values = {cell.value for row in book["TCIA_n=197"].iter_rows(min_row=2) for cell in row}
    assert -999 in values
