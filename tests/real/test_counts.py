"""The readers against the counts that were taken from the real collections by hand."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from client.cohort import reader
from client.table.part import Layout
from client.table.readers import read
from common.data.cohort import UNKNOWN
from common.errors import LeakError
from common.study import load as studies
from tests.paths import DATA

INSTITUTIONS = {
    "Indivumed": (254, 253, 38, 215),
    "Christiana": (69, 55, 11, 44),
    "MSKCC": (50, 50, 8, 42),
    "Greater Poland": (48, 44, 3, 41),
    "Michigan": (32, 31, 2, 29),
    "Roswell": (31, 21, 5, 16),
    "Asterand": (28, 26, 2, 24),
    "Pittsburgh": (27, 22, 10, 12),
    "CK": (14, 7, 1, 6),
    "AD": (13, 5, 0, 5),
    "AY": (10, 7, 2, 5),
    "CA": (10, 10, 0, 10),
    "NH": (9, 4, 3, 1),
    "AH": (7, 4, 1, 3),
}
"""Cases, of known M, M1, M0."""


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"no real data: {DATA / name} is not there (set FEDMETS_DATA)")
    return DATA / name


@pytest.fixture(scope="module")
def tcga() -> reader.Reading:
    return reader.read_table(
        studies.load("colorectal_metastasis"), "postresection", folder("tcga-coadread")
    )


def known(c: reader.Cohort, name: str) -> int:
    j = [f.name for f in c.schema.features].index(name)
    return int((~np.isnan(c.values[:, j])).sum())


def test_tcga_flow(tcga: reader.Reading) -> None:
    flow = tcga.cohort.flow
    assert tcga.source == "gdc"
    assert (flow.read, flow.kept, [n for _, n in flow.excluded]) == (633, 631, [2])
    assert ("TCGA-A6-2670", "TCGA-AF-3912") in flow.ids.values()
    assert Counter(tcga.cohort.labels.tolist()) == {0: 466, 1: 75 + 11 + 3, UNKNOWN: 64 + 12}
    assert flow.unknown_label == 76


CODED = {
    "location": "diagnoses.icd_10_code",
    "histology": "diagnoses.morphology",
    "t": "diagnoses.ajcc_pathologic_t",
    "n": "diagnoses.ajcc_pathologic_n",
    "sex": "demographic.gender",
    "age": "demographic.age_at_index",
}
TNM = "patient.stage_event.tnm_categories.pathologic_categories.pathologic_"
OTHER_FORMS = {
    "cbioportal": (
        [
            "PATIENT_ID",
            "PATH_M_STAGE",
            "ICD_10",
            "ICD_O_3_HISTOLOGY",
            "PATH_T_STAGE",
            "PATH_N_STAGE",
            "SEX",
            "AGE",
        ],
        str.upper,
    ),
    "rtcga": (
        [
            "patient.bcr_patient_barcode",
            f"{TNM}m",
            "patient.icd_10",
            "patient.icd_o_3_histology",
            f"{TNM}t",
            f"{TNM}n",
            "patient.gender",
            "patient.age_at_initial_pathologic_diagnosis",
        ],
        str.lower,
    ),
    "gdc_flat": (
        [
            "submitter_id",
            "ajcc_pathologic_m",
            "icd_10_code",
            "morphology",
            "ajcc_pathologic_t",
            "ajcc_pathologic_n",
            "gender",
            "age_at_index",
        ],
        str.lower,
    ),
}
"""Mapping -> its columns of id, M and CODED, and how its values are written."""


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_the_real_patients_are_the_same_in_other_forms(
    tcga: reader.Reading, tmp_path: Path, form: str
) -> None:
    columns, written = OTHER_FORMS[form]
    names = ["cases.submitter_id", "diagnoses.ajcc_pathologic_m", *CODED.values()]
    lines: dict[str, None] = {"\t".join(columns): None}
    for path in sorted(folder("tcga-coadread").rglob("clinical.tsv")):
        part = read(path, Layout(), [])
        assert part is not None
        kinds = part.column("diagnoses.classification_of_tumor")
        for kind, *cells in zip(kinds, *(part.column(c) for c in names), strict=True):
            texts = ["NA" if c == "'--" else written(c) for c in cells]
            lines |= {"\t".join(texts): None} if kind == "primary" else {}
    (tmp_path / "x.tsv").write_text("\n".join([*lines, ""]))
    other = reader.read_table(studies.load("colorectal_metastasis"), "postresection", tmp_path)
    assert other.source == form
    assert other.cohort.ids == tcga.cohort.ids
    assert other.cohort.labels.tolist() == tcga.cohort.labels.tolist()
    assert other.institutions == tcga.institutions
    for name in set(CODED) - ({"location", "histology"} if form == "gdc_flat" else set()):
        j = [f.name for f in tcga.cohort.schema.features].index(name)
        np.testing.assert_array_equal(other.cohort.values[:, j], tcga.cohort.values[:, j], name)


def test_tcga_raw_m(tcga: reader.Reading) -> None:
    raw: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder("tcga-coadread").rglob("clinical.tsv")):
        part = read(path, Layout(), [])
        assert part is not None
        columns = (
            "cases.submitter_id",
            "diagnoses.classification_of_tumor",
            "diagnoses.ajcc_pathologic_m",
        )
        for i, kind, m in zip(*(part.column(c) for c in columns), strict=True):
            if kind == "primary":
                raw[i].add(m)
    assert Counter(m for v in raw.values() for m in v) == {
        "M0": 466,
        "M1": 75,
        "M1a": 11,
        "M1b": 3,
        "MX": 64,
        "'--": 12,
    }


def test_tcga_features(tcga: reader.Reading) -> None:
    c = tcga.cohort
    assert (known(c, "cea"), known(c, "nodes_positive")) == (402, 593)
    for name in ("age", "sex", "location", "histology", "t", "n"):
        assert known(c, name) >= 620
    assert c.survival is not None
    assert np.isfinite(c.survival).all(axis=1).sum() > 600


def test_tcga_institutions(tcga: reader.Reading) -> None:
    found = {}
    for name in set(tcga.institutions):
        labels = tcga.cohort.labels[np.array([i == name for i in tcga.institutions])]
        found[name] = (
            len(labels),
            int((labels != UNKNOWN).sum()),
            int((labels == 1).sum()),
            int((labels == 0).sum()),
        )
    assert {k: found[k] for k in INSTITUTIONS} == INSTITUTIONS
    rest = [v for k, v in found.items() if k not in INSTITUTIONS]
    assert len(rest) == 16
    assert max(v[1] for v in rest) <= 3


def test_tcga_one_institution(tcga: reader.Reading) -> None:
    mine = frozenset(
        i for i, s in zip(tcga.cohort.ids, tcga.institutions, strict=True) if s == "Pittsburgh"
    )
    c = reader.select(tcga, "Pittsburgh", mine)
    assert (len(c), c.flow.read, c.flow.unknown_label) == (27, 27, 5)


def test_tcga_stage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("""
        table = "clinical.tsv"
        id = "cases.submitter_id"
        duplicates = "agree"
        nulls = ["'--", "not reported"]
        [[keep]]
        column = "diagnoses.classification_of_tumor"
        values = ["primary"]
        [label]
        column = "diagnoses.ajcc_pathologic_m"
        values = { M0 = ["M0"], M1 = ["M1", "M1a", "M1b"] }
        unknown = ["MX", "'--"]
        [[feature]]
        name = "extent"
        column = "diagnoses.ajcc_pathologic_stage"
        values = ["Stage I", "Stage IV"]
        """)
    study = studies.load(str(tmp_path / "mine.toml"))
    with pytest.raises(LeakError) as caught:
        reader.read(study, "baseline", folder("tcga-coadread"))
    assert caught.value.code == "L02"


def test_crlm() -> None:
    data = folder("crlm")
    r = reader.read_table(studies.load("liver_recurrence"), "preop", data)
    c = r.cohort
    assert (r.source, len(c), "CRLM-CT-1024" in c.ids) == ("crlm", 197, False)
    assert known(c, "cea") == known(c, "clinical_risk_score") == 197 - 29
    assert c.survival is not None
    assert Counter(c.survival[:, 1].tolist()) == {1.0: 107, 0.0: 90}
    part = read(next(data.glob("*.xlsx")), Layout(sheet="TCIA_n=197"), [])
    assert part is not None
    assert Counter(part.column("progression_or_recurrence")) == {"1": 131, "0": 66}
    assert Counter(part.column("progression_or_recurrence_liveronly")) == {"1": 81, "0": 116}
    assert Counter(part.column("vital_status")) == {"1": 107, "0": 90}
    for name in ("carcinoembryonic_antigen", "clinrisk_score", "clinrisk_stratified"):
        assert part.column(name).count("-999") == 29
    within = sum(
        e == "1" and float(t) <= 24
        for e, t in zip(
            part.column("progression_or_recurrence_liveronly"),
            part.column("months_to_liver_DFS_progression"),
            strict=True,
        )
    )
    assert (c.labels == 1).sum() == within
    assert (c.labels == UNKNOWN).sum() == c.flow.unknown_label > 0
    assert any("competing event" in n for n in c.flow.notes)


def test_openbtai() -> None:
    r = reader.read_table(studies.load("brain_primary"), "first_mri", folder("openbtai"))
    classes = r.cohort.schema.label.classes
    assert Counter(classes[i] for i in r.cohort.labels) == {
        "breast": 22,
        "nsclc": 38,
        "sclc": 5,
        "melanoma": 6,
        "other": 2 + 1 + 1,
    }
    assert Counter(r.institutions) == {"GE": 29, "Philips": 25, "Siemens": 21}
    assert r.cohort.flow.read == 75
