"""Small exports of three kinds, and how to change them."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.cohort import Cohort
from common.errors import DataError
from common.study import load as studies

STUDY = studies.load("colorectal_metastasis")


Row = dict[str, str]


PATIENTS: list[Row] = [
    {
        "id": "TCGA-AA-0001",
        "m": "M0",
        "t": "T3",
        "n": "N1b",
        "age": "60",
        "sex": "male",
        "hist": "Mucinous adenocarcinoma",
        "loc": "Cecum",
    },
    {
        "id": "TCGA-AG-0002",
        "m": "M1a",
        "t": "T4a",
        "n": "N2",
        "age": "71",
        "sex": "female",
        "hist": "Adenocarcinoma, NOS",
        "loc": "Rectum, NOS",
    },
    {
        "id": "TCGA-CK-0003",
        "m": "MX",
        "t": "T2",
        "n": "NX",
        "age": "",
        "sex": "",
        "hist": "Adenocarcinoma, NOS",
        "loc": "Sigmoid colon",
    },
    {
        "id": "TCGA-NA-0004",
        "m": "",
        "t": "T1a",
        "n": "N0",
        "age": "55",
        "sex": "male",
        "hist": "Carcinoma, NOS",
        "loc": "Colon, NOS",
    },
    {
        "id": "TCGA-AA-0005",
        "m": "M1",
        "t": "Tis",
        "n": "N0",
        "age": "80",
        "sex": "female",
        "hist": "",
        "loc": "",
    },
]


def write(path: Path, rows: list[Row], delimiter: str = "\t") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = list(dict.fromkeys(k for r in rows for k in r))
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, header, delimiter=delimiter, restval="'--")
        out.writeheader()
        out.writerows(rows)


def gdc(folder: Path, patients: list[Row] = PATIENTS, *, flat: bool = False) -> Path:
    """A GDC export: diagnosis x treatment rows, a metastasis row of another diagnosis, and the two
    further tables."""

    def name(prefix: str, column: str) -> str:
        return column if flat else f"{prefix}.{column}"

    key = "case_submitter_id" if flat else "cases.submitter_id"
    clinical, pathology, follow = [], [], []
    for p in patients:
        row = {
            key: p["id"],
            "case_id" if flat else "cases.case_id": f"uuid-{p['id']}",
            name("demographic", "age_at_index"): p["age"] or "'--",
            name("demographic", "gender"): p["sex"] or "not reported",
            name("demographic", "vital_status"): "Dead" if p["m"].startswith("M1") else "Alive",
            name("demographic", "days_to_death"): "100" if p["m"].startswith("M1") else "'--",
            name("diagnoses", "days_to_last_follow_up"): "400.0",
            name("diagnoses", "ajcc_pathologic_m"): p["m"] or "'--",
            name("diagnoses", "ajcc_pathologic_t"): p["t"],
            name("diagnoses", "ajcc_pathologic_n"): p["n"],
            name("diagnoses", "ajcc_pathologic_stage"): "Stage IV"
            if p["m"].startswith("M1")
            else "Stage II",
            name("diagnoses", "primary_diagnosis"): p["hist"] or "Not Reported",
            name("diagnoses", "tissue_or_organ_of_origin"): p["loc"] or "Not Reported",
            name("diagnoses", "prior_malignancy"): "no",
        }
        if not flat:
            row["diagnoses.classification_of_tumor"] = "primary"
            other = {
                **row,
                "diagnoses.classification_of_tumor": "metastasis",
                "diagnoses.ajcc_pathologic_m": "'--",
                "diagnoses.primary_diagnosis": "Hodgkin lymphoma, NOS",
            }
            clinical.append(other)
        clinical += [{**row, "treatments.id": "a"}, {**row, "treatments.id": "b"}]
        detail = {
            key: p["id"],
            name("pathology_details", "lymph_nodes_positive"): "2.0",
            name("pathology_details", "lymph_nodes_tested"): "12",
        }
        for c in (
            "lymphatic_invasion_present",
            "vascular_invasion_present",
            "perineural_invasion_present",
            "non_nodal_tumor_deposits",
        ):
            detail[name("pathology_details", c)] = "Yes"
        pathology.append(detail)
        for antigen, when, value in (
            ("CEA", "Preoperative", "5.5"),
            ("CEA", "Follow-up", "99"),
            ("'--", "'--", "oops"),
        ):
            follow.append(
                {
                    key: p["id"],
                    name("molecular_tests", "antigen"): antigen,
                    name("molecular_tests", "timepoint_category"): when,
                    name("molecular_tests", "test_value"): value,
                    name("molecular_tests", "test_units"): "ng/mL",
                }
            )
    write(folder / "clinical.tsv", clinical)
    write(folder / "pathology_detail.tsv", pathology)
    write(folder / "follow_up.tsv", follow)
    return folder


def cbioportal(folder: Path, patients: list[Row] = PATIENTS, *, legacy: bool = False) -> Path:
    names = (
        (
            "GENDER",
            "AJCC_METASTASIS_PATHOLOGIC_PM",
            "AJCC_TUMOR_PATHOLOGIC_PT",
            "AJCC_NODES_PATHOLOGIC_PN",
        )
        if legacy
        else ("SEX", "PATH_M_STAGE", "PATH_T_STAGE", "PATH_N_STAGE")
    )
    lines = ["#Patient Identifier\tx", "#d\tx", "#STRING\tx", "#1\tx"]
    header = ["PATIENT_ID", "AGE", *names, "AJCC_PATHOLOGIC_TUMOR_STAGE", "OS_MONTHS", "OS_STATUS"]
    lines.append("\t".join(header))
    for p in patients:
        dead = p["m"].startswith("M1")
        cells = [
            p["id"],
            p["age"] or "[Not Available]",
            p["sex"].capitalize() or "NA",
            p["m"].upper(),
            p["t"].upper(),
            p["n"].upper(),
        ]
        lines.append("\t".join([*cells, "STAGE IV", "10.5", "1:DECEASED" if dead else "0:LIVING"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data_clinical_patient.txt").write_text("\n".join(lines) + "\n")
    return folder


def column(c: Cohort, name: str) -> list[Any]:
    j = [f.name for f in c.schema.features].index(name)
    values = getattr(c.schema.features[j], "values", None)
    return [None if np.isnan(x) else values[int(x)] if values else float(x) for x in c.values[:, j]]


def faults(action: Callable[[], object], kind: type[Exception] = DataError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def edit(folder: Path, table: str, change: Callable[[list[Row]], None]) -> Path:
    rows = rows_of(folder / f"{table}.tsv")
    change(rows)
    write(folder / f"{table}.tsv", rows)
    return folder


def rows_of(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f, delimiter="\t"))


def primary(rows: list[Row], patient: str) -> list[Row]:
    return [
        r
        for r in rows
        if r["cases.submitter_id"] == patient
        and r["diagnoses.classification_of_tumor"] == "primary"
    ]
