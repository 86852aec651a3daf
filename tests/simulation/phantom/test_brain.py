"""The brain phantom: what it writes, whether its truth is true, and whether image and table say
what they should and no more."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from openpyxl import load_workbook
from scipy.ndimage import label as connected
from scipy.stats import spearmanr

from client.cohort.reader import Reading, read_table
from common.data.cohort import UNKNOWN
from common.study.load import load
from simulation.phantom.brain import anatomy, writer
from simulation.phantom.brain import generative_model as model
from simulation.phantom.brain.generative_model import CLASSES, Draw
from simulation.phantom.shared import image_truth, processes, scanners
from simulation.phantom.shared.image_truth import Truth

STUDY = load("brain_primary")
PATIENTS = 24


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("brain")
    return folder, writer.write(folder, patients=PATIENTS)


@pytest.fixture(scope="module")
def reading(written: tuple[Path, Truth]) -> Reading:
    return read_table(STUDY, "first_mri", written[0])


@pytest.fixture(scope="module")
def large() -> Draw:
    return model.draw(60_000, 11)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def files(folder: Path, patient: str) -> dict[str, Any]:
    name = f"BraTS-MET-{patient}-000"
    tree = folder / writer.COLLECTION / name
    return {
        p.name.removeprefix(f"{name}-").removesuffix(".nii.gz"): nib.load(p)
        for p in sorted(tree.glob("*.nii.gz"))
    }


# ---- what is written -----------------------------------------------------------------------------


def test_equal_arguments_write_equal_bytes_in_one_process_or_several(
    written: tuple[Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FEW", 0)
    assert writer.write(tmp_path, patients=PATIENTS) == written[1]
    assert digests(tmp_path) == digests(written[0])
    monkeypatch.undo()
    other = writer.write(tmp_path, patients=PATIENTS, seed=1)
    assert {v for k, v in digests(tmp_path).items() if k != image_truth.MARK}.isdisjoint(
        digests(written[0]).values()
    )
    assert len(list((tmp_path / writer.COLLECTION).iterdir())) == sum(
        c.image for c in other.cases.values()
    )


def test_every_patient_has_the_files_that_the_truth_says(written: tuple[Path, Truth]) -> None:
    folder, truth = written
    assert writer.read_truth(folder) == truth
    assert {p.name for p in (folder / writer.COLLECTION).iterdir()} == {
        f"BraTS-MET-{i}-000" for i, c in truth.cases.items() if c.image
    }
    kinds = set()
    for patient, case in truth.cases.items():
        assert 90001 <= int(patient) <= 99999
        if not case.image:
            assert not case.mask
            continue
        images = files(folder, patient)
        assert set(images) == {"t1n", "t1c", "t2w", "t2f", *(["seg"] if case.mask else [])}
        for image in images.values():
            assert image.shape == (96, 96, 62)
            np.testing.assert_array_equal(image.affine, images["t1n"].affine)
            assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
            np.testing.assert_allclose(image.header.get_zooms(), 2.5)
        head = images["t1n"].get_fdata() > 0
        assert 1.0e6 < head.sum() * 2.5**3 < 1.8e6, "a brain has 1.0 to 1.8 litres"
        for name in ("t1c", "t2w", "t2f"):
            np.testing.assert_array_equal(images[name].get_fdata() > 0, head)
        if case.mask:
            values = images["seg"].get_fdata()
            kinds.add(images["seg"].get_data_dtype().name)
            assert set(np.unique(values)) <= {0, 1, 2, 3}
            assert (values == 3).any()
            assert not ((values > 0) & ~head).any()
    assert kinds == {"uint8", "float32"}


def test_the_lesions_are_as_many_and_as_large_as_drawn() -> None:
    for n in range(8):
        rng = np.random.default_rng((1, n))
        head = anatomy.draw_head(rng)
        seen = anatomy.render(head, np.zeros(3), scanners.MAKERS[n % 4].mr, rng)
        parts, count = connected(np.isin(seen.labels, (1, 3)))
        assert count == len(head.lesions)
        largest = np.bincount(parts.ravel())[1:].max() * 2.5**3
        assert largest == pytest.approx(
            max(4 / 3 * np.pi * np.prod(m.semi) for m in head.lesions), rel=0.25
        )


# ---- the table -----------------------------------------------------------------------------------


def test_the_workbook_is_read_and_the_labels_are_the_truths(
    reading: Reading, written: tuple[Path, Truth]
) -> None:
    _, truth = written
    cohort = reading.cohort
    assert reading.source == "yale"
    assert set(cohort.ids) == set(truth.cases)
    assert [CLASSES[k] if k != UNKNOWN else "" for k in cohort.labels] == [
        truth.cases[i].label for i in cohort.ids
    ]
    assert list(reading.institutions) == [truth.cases[i].maker for i in cohort.ids]
    assert set(reading.institutions) == set(scanners.NAMES)
    assert cohort.schema.label.classes == CLASSES
    assert sum(truth.classes.values()) == truth.known < truth.patients


def test_the_workbook_has_smoking_and_whole_numbers_as_keys(written: tuple[Path, Truth]) -> None:
    sheet = load_workbook(written[0] / writer.WORKBOOK)["Clinical"]
    header = [cell.value for cell in sheet[1]]
    rows = [
        dict(zip(header, (cell.value for cell in row), strict=True))
        for row in sheet.iter_rows(min_row=2)
    ]
    assert all(isinstance(row["BraTS_MET_ID"], int) for row in rows)
    assert {row["Smoking_history"] for row in rows} <= {"Yes", "No", None}


# ---- what decides --------------------------------------------------------------------------------


def test_the_ceilings_are_where_they_should_be(written: tuple[Path, Truth], large: Draw) -> None:
    truth = written[1]
    assert truth.ceilings["clinical"] == pytest.approx(0.84, abs=0.02)
    assert truth.ceilings["image"] == pytest.approx(0.92, abs=0.02)
    assert truth.ceilings["fusion"] == pytest.approx(0.97, abs=0.015)
    without = truth.ceilings_without["smoking"]
    assert without["image"] == truth.ceilings["image"]
    assert without["clinical"] < truth.ceilings["clinical"] - 0.03
    for name, p in model.posteriors(large).items():
        assert model.macro_auc(p, large.y) == pytest.approx(truth.ceilings[name], abs=0.01)
    np.testing.assert_allclose(
        np.bincount(large.y) / len(large), (0.43, 0.13, 0.20, 0.08, 0.16), atol=0.01
    )


@pytest.mark.parametrize("smoking", [True, False])
def test_the_posterior_is_calibrated_for_every_class(large: Draw, smoking: bool) -> None:
    for name, p in model.posteriors(large, smoking=smoking).items():
        np.testing.assert_allclose(p.sum(1), 1)
        for k in range(len(CLASSES)):
            for part in np.array_split(np.argsort(p[:, k]), 8):
                error = (
                    4 * np.sqrt((p[part, k] * (1 - p[part, k])).sum()) / len(part) + 2e-3
                )  # ages are cut and rounded
                assert (large.y[part] == k).mean() == pytest.approx(p[part, k].mean(), abs=error), (
                    name,
                    CLASSES[k],
                )


def test_given_the_tumour_table_and_image_are_independent(large: Draw) -> None:
    for k in range(len(CLASSES)):
        own = large.where(large.y == k)
        for told in (own.age, own.female, own.smoking):
            assert np.abs(np.corrcoef(np.column_stack([told, own.u]).T)[0, 1:]).max() < 0.06


def test_the_lesions_show_the_latents() -> None:
    """Three measures of the largest lesion, taken from images as scanners of four makers show them,
    follow the three latents."""
    u = np.random.default_rng(0).normal(size=(40, 3)) * 1.2
    measured = []
    for n, each in enumerate(u):
        rng = np.random.default_rng((2, n))
        seen = anatomy.render(anatomy.draw_head(rng), each, scanners.MAKERS[n % 4].mr, rng)
        parts, _ = connected(np.isin(seen.labels, (1, 3)))
        tumour = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
        scored = {}
        for name, image in seen.sequences.items():
            inside = image[image > 0]
            scored[name] = (image - inside.mean()) / inside.std()
        measured.append(
            (
                (seen.labels[tumour] == 1).mean(),
                scored["t1n"][tumour].mean(),
                scored["t2w"][tumour].mean(),
            )
        )
    for k in range(3):
        assert spearmanr(np.array(measured)[:, k], u[:, k]).statistic > 0.9, model.LATENTS[k]


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
    assert not {v for k, v in before.items() if k.endswith(".nii.gz")} & set(after.values())
    d = model.draw(60_000, 11, null=True)
    assert model.macro_auc(model.posteriors(d)["image"], d.y) == pytest.approx(0.5, abs=0.01)


def test_in_the_missing_mode_makers_lack_what_they_should(tmp_path: Path) -> None:
    truth = writer.write(tmp_path, patients=PATIENTS, missing=True)
    found = read_table(STUDY, "first_mri", tmp_path)
    cohort = found.cohort
    assert len(cohort) == PATIENTS
    for i, values in zip(cohort.ids, cohort.values, strict=True):
        case = truth.cases[i]
        assert np.isnan(values).all() == (case.maker == "Philips")
        assert case.table == (case.maker != "Philips")
        images = files(tmp_path, i)
        assert bool(images) == case.image
        assert ("seg" in images) == case.mask
        if case.image:
            assert ("t2w" in images) == (case.maker != "Siemens")
        if case.maker == "Canon":
            assert not case.image
    assert any(c.label for c in truth.cases.values() if c.maker == "Philips")
