"""TCGA's colorectal patients in the forms that people keep: each is read by a shipped mapping,
whatever the file is called, with the labels and hospitals of the GDC's export."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.cohort import reader
from client.table import mapping_file
from tests.client.table.exports import PATIENTS, STUDY, Row, faults, gdc

CODED = "International Classification of Diseases for Oncology, Third Edition ICD-O-3 "
PATHOLOGIC = "patient.stage_event.tnm_categories.pathologic_categories.pathologic_"
SITES = {"Cecum": "C18.0", "Rectum, NOS": "C20.9", "Sigmoid colon": "C18.7", "Colon, NOS": "C18.9"}
TYPES = {
    "Mucinous adenocarcinoma": "8480/3",
    "Adenocarcinoma, NOS": "8140/3",
    "Carcinoma, NOS": "8010/3",
}


def gdc_flat(p: Row) -> Row:
    return {
        "case_submitter_id": p["id"],
        "ajcc_pathologic_m": p["m"] or "'--",
        "case_id": f"uuid-{p['id']}",
        "age_at_index": p["age"] or "'--",
        "gender": p["sex"] or "not reported",
        "ajcc_pathologic_n": p["n"],
        "ajcc_pathologic_stage": "Stage IV" if p["m"].startswith("M1") else "Stage II",
        "ajcc_pathologic_t": p["t"],
        "classification_of_tumor": "primary",
        "primary_diagnosis": p["hist"] or "Not Reported",
        "prior_malignancy": "no",
        "tissue_or_organ_of_origin": p["loc"] or "Not Reported",
        "vital_status": "Alive",
        "days_to_last_follow_up": "400",
    }


def in_r(p: Row) -> Row:
    """As TCGAbiolinks makes it."""
    row = {k: "NA" if v == "'--" else v for k, v in gdc_flat(p).items()}
    return {"submitter_id": row.pop("case_submitter_id"), **row}


def pan_can(p: Row) -> Row:
    return {
        "Patient ID": p["id"],
        "American Joint Committee on Cancer Metastasis Stage Code": p["m"].upper(),
        "Study ID": "coadread_tcga_pan_can_atlas_2018",
        "Sample ID": f"{p['id']}-01",
        "Diagnosis Age": p["age"],
        "Sex": p["sex"].capitalize(),
        "Neoplasm Disease Stage American Joint Committee on Cancer Code": "STAGE IIA",
        "Neoplasm Disease Lymph Node Stage American Joint Committee on Cancer Code": p["n"].upper(),
        "American Joint Committee on Cancer Tumor Stage Code": p["t"].upper(),
        f"{CODED}Histology Code": TYPES.get(p["hist"], "NA"),
        f"{CODED}Site Code": SITES.get(p["loc"], ""),
        "Prior Diagnosis": "No",
        "Overall Survival (Months)": "20.5",
        "Overall Survival Status": "0:LIVING",
        "Tissue Source Site": "Christiana Healthcare",
        "Tissue Source Site Code": p["id"][5:7],
        "Tumor Disease Anatomic Site": "Colon",
    }


def rtcga(p: Row) -> Row:
    row = {
        "patient.bcr_patient_barcode": p["id"],
        f"{PATHOLOGIC}m": p["m"] or "NA",
        "": "1",
        "admin.batch_number": "76.7",
        "patient.age_at_initial_pathologic_diagnosis": p["age"] or "NA",
        "patient.gender": p["sex"] or "NA",
        f"{PATHOLOGIC}n": p["n"],
        f"{PATHOLOGIC}t": p["t"],
        "patient.icd_o_3_histology": TYPES.get(p["hist"], "NA"),
        "patient.icd_o_3_site": SITES.get(p["loc"], "NA"),
        "patient.other_dx": "no",
        "patient.stage_event.pathologic_stage": "Stage IIA",
        "patient.tissue_source_site": p["id"][5:7],
        "patient.vital_status": "Alive",
        "patient.days_to_last_followup": "400",
    }
    return {k: v if v == "NA" else v.lower() for k, v in row.items()}


FORMS: dict[str, tuple[str, Callable[[Row], Row]]] = {
    "gdc_flat": ("gdc_flat", gdc_flat),
    "in_r": ("gdc_flat", in_r),
    "pan_can": ("cbioportal", pan_can),
    "rtcga": ("rtcga", rtcga),
}
"""Of each form: the mapping that reads it, and a patient's row; the first two columns are those
that a table must have."""


def save(path: Path, rows: Sequence[Row]) -> None:
    header = list(rows[0])
    if path.suffix == ".xlsx":
        from openpyxl import Workbook

        book = Workbook()
        sheet = book.worksheets[0]
        for cells in (header, *([row[c] for c in header] for row in rows)):
            sheet.append([c or None for c in cells])
        book.save(path)
        return
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, header, delimiter="\t" if path.suffix == ".tsv" else ",")
        out.writeheader()
        out.writerows(rows)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> reader.Reading:
    return reader.read_table(STUDY, "postresection", gdc(tmp_path_factory.mktemp("gdc")))


@settings(max_examples=25)
@given(st.data())
def test_each_form_gives_the_labels_and_hospitals_of_the_shipped_one(
    shipped: reader.Reading, data: st.DataObject
) -> None:
    """Whatever columns it lacks but key and label, in whatever order; two rows of a patient where
    the form has such; and as a folder as well as a file."""
    mapping, form = FORMS[data.draw(st.sampled_from(sorted(FORMS)))]
    rows = [form(p) for p in PATIENTS for _ in range(data.draw(st.integers(1, 2)))]
    needed, others = list(rows[0])[:2], list(rows[0])[2:]
    kept = data.draw(st.permutations([*needed, *data.draw(st.sets(st.sampled_from(others)))]))
    rows = [{name: row[name] for name in kept} for row in rows]
    name = data.draw(st.sampled_from(["clinical.tsv", "coad 2021.csv", "download.xlsx"]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        save(path, rows)
        where = data.draw(st.sampled_from([path, path.parent]))
        r = reader.read_table(STUDY, "postresection", where)
    assert r.source == mapping
    assert r.cohort.ids == shipped.cohort.ids
    assert r.cohort.labels.tolist() == shipped.cohort.labels.tolist()
    assert r.institutions == shipped.institutions
    if set(others) <= set(kept):
        names = [f.name for f in r.cohort.schema.features]
        for n in ("age", "sex", "location", "histology", "prior_malignancy", "t", "n"):
            np.testing.assert_array_equal(
                r.cohort.values[:, names.index(n)], shipped.cohort.values[:, names.index(n)], n
            )
    notes = r.cohort.flow.notes
    for j, feature in enumerate(r.cohort.schema.features):
        told = [note for note in notes if note.startswith(f"{feature.name} is wholly missing")]
        assert len(told) <= 1
        assert told or not np.isnan(r.cohort.values[:, j]).all()


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("suffix", ["csv", "xlsx", "txt"])
def test_tables_beside_it_that_were_saved_again_are_read(
    tmp_path: Path, suffix: str, *, flat: bool
) -> None:
    """Barcodes in small letters, too: their hospitals are the same."""
    whole = reader.read_table(STUDY, "postresection", gdc(tmp_path / "a", flat=flat))
    (tmp_path / "b").mkdir()
    for path in sorted((tmp_path / "a").iterdir()):
        with path.open(newline="", encoding="utf-8") as f:
            rows = list(csv.DictReader(f, delimiter="\t"))
        for row in rows:
            key = "case_submitter_id" if flat else "cases.submitter_id"
            row[key] = row[key].lower()
        save(tmp_path / "b" / f"{path.stem}.{suffix}", rows)
    again = reader.read_table(STUDY, "postresection", tmp_path / "b")
    assert again.cohort.ids == whole.cohort.ids
    assert again.institutions == whole.institutions
    np.testing.assert_array_equal(again.cohort.values, whole.cohort.values)
    assert not np.isnan(whole.cohort.values).all(axis=0).any()


def test_the_hospital_is_the_columns_where_the_id_is_no_barcode(tmp_path: Path) -> None:
    names = ["Indivumed", "Clinic B", "Christiana Healthcare", "Clinic B", "Indivumed"]
    rows = [
        {**pan_can(p), "Patient ID": f"P{n}", "Tissue Source Site": name}
        for n, (p, name) in enumerate(zip(PATIENTS, names, strict=True))
    ]
    for row in rows:
        del row["Tissue Source Site Code"]
    save(tmp_path / "x.csv", rows)
    r = reader.read_table(STUDY, "preop", tmp_path)
    assert r.institutions == ("Indivumed", "Clinic B", "Christiana", "Clinic B", "Indivumed")


def test_a_damaged_table_of_a_known_name_is_not_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "other.csv", [gdc_flat(p) for p in PATIENTS])
    (tmp_path / "clinical.tsv").write_text("case_submitter_id\tx\na\t1\n")
    text = faults(lambda: reader.read_table(STUDY, "preop", tmp_path))
    assert "[D03]" in text or "[D08]" in text
    assert "clinical.tsv" in text


def test_images_are_chosen_alike_in_every_form() -> None:
    mappings = mapping_file.builtin(STUDY.name)
    assert len(mappings) == 4
    assert {m.images.examination for m in mappings} == {"earliest"}
