"""Exports of three kinds, written by small generators, give the same cohort; and every planted fault is named with its way out."""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import intake, mapping
from common import study as studies
from common.cohort import UNKNOWN, Cohort
from common.errors import DataError, LeakError, UsageError

STUDY = studies.load("colorectal_metastasis")
Row = dict[str, str]

PATIENTS: list[Row] = [
    {"id": "TCGA-AA-0001", "m": "M0", "t": "T3", "n": "N1b", "age": "60", "sex": "male", "hist": "Mucinous adenocarcinoma", "loc": "Cecum"},
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
    {"id": "TCGA-CK-0003", "m": "MX", "t": "T2", "n": "NX", "age": "", "sex": "", "hist": "Adenocarcinoma, NOS", "loc": "Sigmoid colon"},
    {"id": "TCGA-NA-0004", "m": "", "t": "T1a", "n": "N0", "age": "55", "sex": "male", "hist": "Carcinoma, NOS", "loc": "Colon, NOS"},
    {"id": "TCGA-AA-0005", "m": "M1", "t": "Tis", "n": "N0", "age": "80", "sex": "female", "hist": "", "loc": ""},
]


def write(path: Path, rows: list[Row], delimiter: str = "\t") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = list(dict.fromkeys(k for r in rows for k in r))
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, header, delimiter=delimiter, restval="'--")
        out.writeheader()
        out.writerows(rows)


def gdc(folder: Path, patients: list[Row] = PATIENTS, *, flat: bool = False) -> Path:
    """A GDC export: diagnosis x treatment rows, a metastasis row of another diagnosis, and the two further tables."""

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
            name("diagnoses", "ajcc_pathologic_stage"): "Stage IV" if p["m"].startswith("M1") else "Stage II",
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
        for c in ("lymphatic_invasion_present", "vascular_invasion_present", "perineural_invasion_present", "non_nodal_tumor_deposits"):
            detail[name("pathology_details", c)] = "Yes"
        pathology.append(detail)
        for antigen, when, value in (("CEA", "Preoperative", "5.5"), ("CEA", "Follow-up", "99"), ("'--", "'--", "oops")):
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
        ("GENDER", "AJCC_METASTASIS_PATHOLOGIC_PM", "AJCC_TUMOR_PATHOLOGIC_PT", "AJCC_NODES_PATHOLOGIC_PN")
        if legacy
        else ("SEX", "PATH_M_STAGE", "PATH_T_STAGE", "PATH_N_STAGE")
    )
    lines = ["#Patient Identifier\tx", "#d\tx", "#STRING\tx", "#1\tx"]
    header = ["PATIENT_ID", "AGE", *names, "AJCC_PATHOLOGIC_TUMOR_STAGE", "OS_MONTHS", "OS_STATUS"]
    lines.append("\t".join(header))
    for p in patients:
        dead = p["m"].startswith("M1")
        cells = [p["id"], p["age"] or "[Not Available]", p["sex"].capitalize() or "NA", p["m"].upper(), p["t"].upper(), p["n"].upper()]
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


@pytest.mark.parametrize("kind", ["gdc", "gdc_flat", "cbioportal", "cbioportal legacy"])
def test_the_same_patients_from_every_export(tmp_path: Path, kind: str) -> None:
    if kind.startswith("gdc"):
        gdc(tmp_path / "coad", flat=kind == "gdc_flat")
    else:
        cbioportal(tmp_path / "coad", legacy=kind.endswith("legacy"))
    r = intake.read_table(STUDY, "postresection", tmp_path)
    c = r.cohort
    assert r.source == kind.split()[0]
    assert c.ids == tuple(sorted(p["id"] for p in PATIENTS))
    assert dict(zip(c.ids, c.labels.tolist(), strict=True)) == {
        "TCGA-AA-0001": 0,
        "TCGA-AG-0002": 1,
        "TCGA-CK-0003": UNKNOWN,
        "TCGA-NA-0004": UNKNOWN,
        "TCGA-AA-0005": 1,
    }
    assert dict(zip(c.ids, r.institutions, strict=True)) == {
        "TCGA-AA-0001": "Indivumed",
        "TCGA-AG-0002": "Indivumed",
        "TCGA-CK-0003": "CK",
        "TCGA-NA-0004": "NA",
        "TCGA-AA-0005": "Indivumed",
    }
    by_id = {
        i: (a, s, t, n) for i, a, s, t, n in zip(c.ids, column(c, "age"), column(c, "sex"), column(c, "t"), column(c, "n"), strict=True)
    }
    assert by_id["TCGA-AG-0002"] == (71.0, "female", "T4", "N2")
    assert by_id["TCGA-CK-0003"] == (None, None, "T2", None)
    assert by_id["TCGA-AA-0005"] == (80.0, "female", "Tis", "N0")
    assert c.flow.unknown_label == 2
    assert c.survival is not None
    if kind.startswith("gdc"):
        assert column(c, "cea") == [5.5] * 5
        assert column(c, "nodes_positive") == [2.0] * 5
        assert column(c, "tumour_deposits") == ["yes"] * 5
        assert set(column(c, "histology")) == {"mucinous", "adenocarcinoma", "other", None}
        assert set(column(c, "location")) == {"right colon", "rectum", "left colon", "colon, unspecified", None}
        assert c.survival[c.ids.index("TCGA-AG-0002")].tolist() == [100, 1]
        assert c.survival[c.ids.index("TCGA-AA-0001")].tolist() == [400, 0]
    else:
        assert c.survival[0] == pytest.approx([10.5 * 365.25 / 12, 0])
        assert any("L02 override: feature 't'" in n for n in c.flow.notes)
        assert any("cea is wholly missing" in n for n in c.flow.notes)


def test_later_features_do_not_enter(tmp_path: Path) -> None:
    c = intake.read(STUDY, "preop", gdc(tmp_path))
    assert {f.available_at for f in c.schema.features} == {"preop"}
    assert any(n.startswith("L01") and "tumour_deposits" in n for n in c.flow.notes)
    assert "ajcc_pathologic_m" in c.flow.label_source


def test_one_site_counts_its_own(tmp_path: Path) -> None:
    extra = [{**PATIENTS[0], "id": "TCGA-AA-0009"}]
    gdc(tmp_path, [*PATIENTS, *extra])
    rows = rows_of(tmp_path / "clinical.tsv")
    rows = [r for r in rows if not (r["cases.submitter_id"] == "TCGA-AA-0009" and r["diagnoses.classification_of_tumor"] == "primary")]
    write(tmp_path / "clinical.tsv", rows)
    whole = intake.read_table(STUDY, "preop", tmp_path).cohort
    assert (whole.flow.read, whole.flow.kept, [n for _, n in whole.flow.excluded]) == (6, 5, [1])
    mine = intake.read(STUDY, "preop", tmp_path, site="A", patients=frozenset({"TCGA-AA-0009", "TCGA-AA-0001", "TCGA-CK-0003"}))
    assert (mine.site, mine.flow.read, mine.flow.kept, mine.flow.unknown_label) == ("A", 3, 2, 1)
    assert mine.ids == ("TCGA-AA-0001", "TCGA-CK-0003")
    assert "[D09]" in faults(lambda: intake.read(STUDY, "preop", tmp_path, patients=frozenset({"TCGA-XX-0001"})))


def test_one_person_under_two_ids_is_refused(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        for r in rows:
            if r["cases.submitter_id"] == "TCGA-AG-0002":
                r["cases.case_id"] = "uuid-TCGA-AA-0001"

    text = faults(lambda: intake.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change)))
    assert "[L04]" in text
    assert "1 persons" in text
    assert "TCGA-AA-0001 = TCGA-AG-0002" in text
    assert "uuid" not in text


def test_one_id_for_two_persons_is_refused(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        primary(rows, "TCGA-AA-0001")[0]["cases.case_id"] = "another"

    assert "1 ids stand for several persons" in faults(lambda: intake.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change)))


def test_the_planted_patient_at_two_sites_is_refused(tmp_path: Path) -> None:
    from simulation.phantom import colorectal
    from simulation.phantom import faults as planted

    colorectal.write(tmp_path)
    assert len(intake.read(STUDY, "postresection", tmp_path)) == 631
    planted.named("patient at two sites").plant(tmp_path)
    text = faults(lambda: intake.read(STUDY, "postresection", tmp_path))
    assert "[L04]" in text
    assert "10 persons" in text
    assert "-AA-" in text
    assert "-CM-" in text


def edit(folder: Path, table: str, change: Callable[[list[Row]], None]) -> Path:
    rows = rows_of(folder / f"{table}.tsv")
    change(rows)
    write(folder / f"{table}.tsv", rows)
    return folder


def rows_of(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f, delimiter="\t"))


def primary(rows: list[Row], patient: str) -> list[Row]:
    return [r for r in rows if r["cases.submitter_id"] == patient and r["diagnoses.classification_of_tumor"] == "primary"]


def test_contradicting_rows_are_quarantined(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        primary(rows, "TCGA-AA-0001")[0]["diagnoses.ajcc_pathologic_m"] = "M1"
        primary(rows, "TCGA-AG-0002")[0]["demographic.age_at_index"] = "'--"

    c = intake.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change))
    assert "TCGA-AA-0001" not in c.ids
    assert "TCGA-AG-0002" not in c.ids
    assert sorted(n for _, n in c.flow.excluded) == [1, 1]
    assert ("TCGA-AA-0001",) in c.flow.ids.values()


def test_all_faults_at_once(tmp_path: Path) -> None:
    def clinical(rows: list[Row]) -> None:
        primary(rows, "TCGA-AA-0001")[0]["demographic.age_at_index"] = "n.a."
        for r in primary(rows, "TCGA-AG-0002"):
            r["demographic.gender"] = "femail"
            r["diagnoses.ajcc_pathologic_m"] = "M7"
        for r in rows:
            r["diagnoses.prior_malignancies"] = r.pop("diagnoses.prior_malignancy")

    def follow(rows: list[Row]) -> None:
        rows[0]["molecular_tests.test_units"] = "ug/mL"
        rows[3]["molecular_tests.test_value"] = "-3"

    folder = edit(edit(gdc(tmp_path), "clinical", clinical), "follow_up", follow)
    text = faults(lambda: intake.read(STUDY, "preop", folder))
    for part in (
        "D01",
        "'n.a.' in 1 rows",
        "'femail' in 2 rows",
        "nearest: 'female'",
        "D03",
        "'M7'",
        "D08",
        "nearest: 'diagnoses.prior_malignancies'",
        "declared unit is 'ng/mL'",
        "'-3'",
        "follow_up.tsv",
    ):
        assert part in text, part


def test_a_wrong_unit_is_recognised(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        for r in rows:
            r["demographic.age_at_index"] = "24000"

    assert "looks like days" in faults(lambda: intake.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change)))


def test_age_in_days_is_converted(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        for r in rows:
            r.pop("demographic.age_at_index")
            r["diagnoses.age_at_diagnosis"] = "21915"

    c = intake.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change))
    assert column(c, "age") == pytest.approx([60.0] * 5)


def test_joins(tmp_path: Path) -> None:
    def stranger(rows: list[Row]) -> None:
        rows[0]["cases.submitter_id"] = "TCGA-ZZ-9999-01A"

    c = intake.read(STUDY, "postresection", edit(gdc(tmp_path / "a"), "pathology_detail", stranger))
    assert any("pathology': 1 ids without a case" in n for n in c.flow.notes)
    assert c.flow.ids["pathology: without a case"] == ("TCGA-ZZ-9999",)

    def nobody(rows: list[Row]) -> None:
        for r in rows:
            r["cases.submitter_id"] = "x" + r["cases.submitter_id"]

    text = faults(lambda: intake.read(STUDY, "preop", edit(gdc(tmp_path / "b"), "follow_up", nobody)))
    assert "[D05]" in text
    assert "follow_up.tsv" in text


def test_optional_tables_may_be_absent(tmp_path: Path) -> None:
    gdc(tmp_path)
    (tmp_path / "follow_up.tsv").unlink()
    c = intake.read(STUDY, "preop", tmp_path)
    assert column(c, "cea") == [None] * 5
    assert any("cea is wholly missing" in n for n in c.flow.notes)


def test_no_known_label(tmp_path: Path) -> None:
    assert "[D09]" in faults(lambda: intake.read(STUDY, "preop", gdc(tmp_path, [{**p, "m": "MX"} for p in PATIENTS])))


def test_detection_says_what_is_missing(tmp_path: Path) -> None:
    assert "[D00]" in faults(lambda: intake.read(STUDY, "preop", tmp_path / "nowhere"))
    text = faults(lambda: intake.read(STUDY, "preop", tmp_path))
    assert "[D00]" in text
    assert all(name in text for name in ("'gdc'", "'gdc_flat'", "'cbioportal'", "data_clinical_patient.txt", "--data"))
    write(
        tmp_path / "clinical.tsv",
        [{"cases.submitter_id": "a", "diagnoses.ajcc_pathologic_mm": "M0", "diagnoses.classification_of_tumor": "primary"}],
    )
    text = faults(lambda: intake.read(STUDY, "preop", tmp_path))
    assert "D08 clinical.tsv: there is no column 'diagnoses.prior_malignancy'" in text
    assert "D03 clinical.tsv: there is no column 'diagnoses.ajcc_pathologic_m' (nearest: 'diagnoses.ajcc_pathologic_mm'" in text
    assert "'gdc' comes nearest" in text
    assert "gdc_flat" not in text


def test_a_missing_label_is_d03_whether_the_mapping_is_named_or_not(tmp_path: Path) -> None:
    gdc(tmp_path / "coad")
    gdc(tmp_path / "read", [{**p, "id": p["id"].replace("-00", "-99")} for p in PATIENTS])

    def change(rows: list[Row]) -> None:
        for r in rows:
            r.pop("diagnoses.ajcc_pathologic_m")

    for name in ("coad", "read"):
        edit(tmp_path / name, "clinical", change)
    for source in (None, "gdc"):
        text = faults(lambda source=source: intake.read(STUDY, "preop", tmp_path, source=source))  # type: ignore[misc]
        assert text.startswith("[D03]")
        assert "coad/clinical.tsv, read/clinical.tsv: there is no column 'diagnoses.ajcc_pathologic_m'" in text


def test_the_only_mapping_of_a_study_tells_all_its_faults(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.worksheets[0]
    sheet.title = "TCIA_n=197"
    for row in (["Patient-ID", "age", "sex"], ["a", 400, 1], ["b", 50, 7]):
        sheet.append(row)
    book.save(tmp_path / "Colorectal-Liver-Metastases-Clinical-data-April-2023.xlsx")
    text = faults(lambda: intake.read(studies.load("liver_recurrence"), "preop", tmp_path))
    for part in ("D07", "'400'", "'7'", "D03", "progression_or_recurrence_liveronly", "D08"):
        assert part in text, part
    assert "--source" not in text


def test_overrides_are_data(tmp_path: Path) -> None:
    told = intake.read_table(STUDY, "postresection", cbioportal(tmp_path)).overrides
    assert set(told) == {"t", "n"}
    assert "not the stage" in told["t"]
    assert intake.read_table(STUDY, "preop", tmp_path).overrides == {}


def test_two_sources_ask_for_a_choice(tmp_path: Path) -> None:
    gdc(tmp_path / "a")
    cbioportal(tmp_path / "b")
    assert "--source" in faults(lambda: intake.read(STUDY, "preop", tmp_path), UsageError)
    assert len(intake.read(STUDY, "preop", tmp_path, source="cbioportal")) == 5
    assert "[C02]" in faults(lambda: intake.read(STUDY, "preop", tmp_path, source="nope"), UsageError)


def test_stage_is_refused_through_a_mapping(tmp_path: Path) -> None:
    raw = {
        "name": "leaky",
        "studies": ["colorectal_metastasis"],
        "nulls": ["'--"],
        "tables": {"clinical": {"files": ["clinical.tsv"], "key": "cases.submitter_id", "rows": "agree"}},
        "label": {"column": "diagnoses.ajcc_pathologic_m", "values": {"M0": ["M0"], "M1": ["M1", "M1a"]}, "unknown": ["MX"]},
        "features": {f.name: {"column": "diagnoses.ajcc_pathologic_stage"} for f in STUDY.schema.features},
    }
    leaky = dataclasses.replace(STUDY, source=raw)
    text = faults(lambda: intake.read(leaky, "preop", gdc(tmp_path)), LeakError)
    assert "[L02]" in text


def test_mappings_name_their_faults() -> None:
    raw = {"name": "x", "tables": {"t": {"files": ["a.csv"], "kee": "id", "rows": "some"}}, "label": {}, "sites": 1}
    text = faults(lambda: mapping.parse(raw, "x.toml"), UsageError)
    for part in (
        "unknown key 'kee'; did you mean 'keep'",
        "lacks 'key'",
        "rows = 'some'",
        "unknown key 'sites'; did you mean 'site'",
        "label lacks 'column'",
    ):
        assert part in text, part


def test_every_mapping_serves_its_studies() -> None:
    for name in studies.names():
        study = studies.load(name)
        assert mapping.builtin(name), name
        for source in mapping.builtin(name):
            assert set(source.features) == {f.name for f in study.schema.features}
            for f in study.schema.features:
                assert set(source.features[f.name].values) <= set(getattr(f, "values", ())), f.name
            if source.label.value is not None:
                assert set(source.label.value.values) <= set(study.schema.label.classes)


cell = st.sampled_from(["M0", "M1", "M1b", "MX", "'--"])
kinds = st.sampled_from(["primary", "metastasis"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 8), cell, kinds), min_size=1, max_size=20))
def test_the_flow_adds_up(tmp_path: Path, rows: list[tuple[int, str, str]]) -> None:
    gdc(tmp_path)

    def change(table: list[Row]) -> None:
        proto = dict(primary(table, "TCGA-AA-0001")[0])
        table.clear()
        table += [
            {
                **proto,
                "cases.submitter_id": f"TCGA-{n}{n}-0001",
                "cases.case_id": str(n),
                "diagnoses.ajcc_pathologic_m": m,
                "diagnoses.classification_of_tumor": k,
            }
            for n, m, k in rows
        ]

    edit(tmp_path, "clinical", change)
    for name in ("pathology_detail", "follow_up"):
        (tmp_path / f"{name}.tsv").unlink()
    group = {"M0": 0, "M1": 1, "M1b": 1}
    by: dict[int, set[int]] = {}
    for n, m, k in rows:
        if k == "primary":
            by.setdefault(n, set()).add(group.get(m, UNKNOWN))
    expected = {f"TCGA-{n}{n}-0001": next(iter(v)) for n, v in by.items() if len(v) == 1}
    if not any(v != UNKNOWN for v in expected.values()):
        assert "[D09]" in faults(lambda: intake.read(STUDY, "preop", tmp_path))
        return
    c = intake.read(STUDY, "preop", tmp_path)
    assert dict(zip(c.ids, c.labels.tolist(), strict=True)) == expected
    assert c.flow.read == len({n for n, _, _ in rows}) == c.flow.kept + sum(n for _, n in c.flow.excluded)
    assert c.flow.unknown_label == sum(v == UNKNOWN for v in expected.values())


def test_a_filter_that_is_optional(tmp_path: Path) -> None:
    folder = gdc(tmp_path, flat=True)
    rows = rows_of(folder / "clinical.tsv")
    rows = [{**r, "classification_of_tumor": "primary"} for r in rows] + [
        {**r, "classification_of_tumor": "metastasis", "ajcc_pathologic_m": "'--"}
        for r in rows
        if not r["case_submitter_id"].startswith("TCGA-CK")
    ]
    write(folder / "clinical.tsv", rows)
    c = intake.read(STUDY, "preop", folder)
    assert (c.flow.kept, c.labels.tolist().count(UNKNOWN)) == (5, 2)


def test_a_file_named_outright_is_the_index_table(tmp_path: Path) -> None:
    gdc(tmp_path)
    (tmp_path / "clinical.tsv").rename(tmp_path / "export_2025.tsv")
    assert len(intake.read(STUDY, "preop", tmp_path / "export_2025.tsv", source="gdc")) == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x00\x01binary", "binary"),
        (b"cases.submitter_id\tx\n1\n", "line 2"),
        (b"cases.submitter_id\tcases.case_id\n", "no row"),
        (b"cases.submi", "no row"),
    ],
)
def test_a_broken_index_table_is_called_broken(tmp_path: Path, content: bytes, said: str) -> None:
    gdc(tmp_path / "read", [{**p, "id": p["id"].replace("-00", "-99")} for p in PATIENTS])
    (gdc(tmp_path / "coad") / "clinical.tsv").write_bytes(content)
    text = faults(lambda: intake.read(STUDY, "preop", tmp_path))
    assert "[D00]" in text
    assert "coad/clinical.tsv" in text
    assert "read/clinical.tsv" not in text
    assert said in text


def test_a_file_named_outright_is_recognised_by_its_columns(tmp_path: Path) -> None:
    gdc(tmp_path, flat=True)
    (tmp_path / "clinical.tsv").rename(tmp_path / "export_2021.tsv")
    assert intake.read_table(STUDY, "preop", tmp_path / "export_2021.tsv").source == "gdc_flat"
