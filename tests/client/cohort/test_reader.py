"""Exports of three kinds give the same cohort; and every planted fault is named with its way
out."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.cohort import reader
from common.data.cohort import UNKNOWN
from common.errors import LeakError
from tests.client.table.exports import (
    PATIENTS,
    STUDY,
    Row,
    cbioportal,
    column,
    edit,
    faults,
    gdc,
    primary,
    rows_of,
    write,
)


@pytest.mark.parametrize("kind", ["gdc", "gdc_flat", "cbioportal", "cbioportal legacy"])
def test_the_same_patients_from_every_export(tmp_path: Path, kind: str) -> None:
    if kind.startswith("gdc"):
        gdc(tmp_path / "coad", flat=kind == "gdc_flat")
    else:
        cbioportal(tmp_path / "coad", legacy=kind.endswith("legacy"))
    r = reader.read_table(STUDY, "postresection", tmp_path)
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
        i: (a, s, t, n)
        for i, a, s, t, n in zip(
            c.ids, column(c, "age"), column(c, "sex"), column(c, "t"), column(c, "n"), strict=True
        )
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
        assert set(column(c, "location")) == {
            "right colon",
            "rectum",
            "left colon",
            "colon, unspecified",
            None,
        }
        assert c.survival[c.ids.index("TCGA-AG-0002")].tolist() == [100, 1]
        assert c.survival[c.ids.index("TCGA-AA-0001")].tolist() == [400, 0]
    else:
        assert c.survival[0] == pytest.approx([10.5 * 365.25 / 12, 0])
        assert any("L02 override: feature 't'" in n for n in c.flow.notes)
        assert any("cea is wholly missing" in n for n in c.flow.notes)


def test_later_features_do_not_enter(tmp_path: Path) -> None:
    c = reader.read(STUDY, "preop", gdc(tmp_path))
    assert {f.available_at for f in c.schema.features} == {"preop"}
    assert any(n.startswith("L01") and "tumour_deposits" in n for n in c.flow.notes)
    assert "ajcc_pathologic_m" in c.flow.label_source


def test_one_site_counts_its_own(tmp_path: Path) -> None:
    extra = [{**PATIENTS[0], "id": "TCGA-AA-0009"}]
    gdc(tmp_path, [*PATIENTS, *extra])
    rows = rows_of(tmp_path / "clinical.tsv")
    rows = [
        r
        for r in rows
        if not (
            r["cases.submitter_id"] == "TCGA-AA-0009"
            and r["diagnoses.classification_of_tumor"] == "primary"
        )
    ]
    write(tmp_path / "clinical.tsv", rows)
    whole = reader.read_table(STUDY, "preop", tmp_path).cohort
    assert (whole.flow.read, whole.flow.kept, [n for _, n in whole.flow.excluded]) == (6, 5, [1])
    mine = reader.read(
        STUDY,
        "preop",
        tmp_path,
        site="A",
        patients=frozenset({"TCGA-AA-0009", "TCGA-AA-0001", "TCGA-CK-0003"}),
    )
    assert (mine.site, mine.flow.read, mine.flow.kept, mine.flow.unknown_label) == ("A", 3, 2, 1)
    assert mine.ids == ("TCGA-AA-0001", "TCGA-CK-0003")
    assert "[D09]" in faults(
        lambda: reader.read(STUDY, "preop", tmp_path, patients=frozenset({"TCGA-XX-0001"}))
    )


def test_one_person_under_two_ids_is_refused(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        for r in rows:
            if r["cases.submitter_id"] == "TCGA-AG-0002":
                r["cases.case_id"] = "uuid-TCGA-AA-0001"

    text = faults(
        lambda: reader.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change)), LeakError
    )
    assert "[L04]" in text
    assert "1 persons" in text
    assert "TCGA-AA-0001 = TCGA-AG-0002" in text
    assert "uuid" not in text


def test_one_id_for_two_persons_is_refused(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        primary(rows, "TCGA-AA-0001")[0]["cases.case_id"] = "another"

    assert "1 ids stand for several persons" in faults(
        lambda: reader.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change))
    )


def test_the_planted_patient_at_two_sites_is_refused(tmp_path: Path) -> None:
    from simulation.phantom.colorectal import writer
    from simulation.phantom.faults import table_faults as planted

    writer.write(tmp_path)
    assert len(reader.read(STUDY, "postresection", tmp_path)) == 631
    planted.named("patient at two sites").plant(tmp_path)
    text = faults(lambda: reader.read(STUDY, "postresection", tmp_path), LeakError)
    assert "[L04]" in text
    assert "10 persons" in text
    assert "-AA-" in text
    assert "-CM-" in text


def test_contradicting_rows_are_quarantined(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        primary(rows, "TCGA-AA-0001")[0]["diagnoses.ajcc_pathologic_m"] = "M1"
        primary(rows, "TCGA-AG-0002")[0]["demographic.age_at_index"] = "'--"

    c = reader.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change))
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
    text = faults(lambda: reader.read(STUDY, "preop", folder))
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

    assert "looks like days" in faults(
        lambda: reader.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change))
    )


def test_age_in_days_is_converted(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        for r in rows:
            r.pop("demographic.age_at_index")
            r["diagnoses.age_at_diagnosis"] = "21915"

    c = reader.read(STUDY, "preop", edit(gdc(tmp_path), "clinical", change))
    assert column(c, "age") == pytest.approx([60.0] * 5)


def test_joins(tmp_path: Path) -> None:
    def stranger(rows: list[Row]) -> None:
        rows[0]["cases.submitter_id"] = "TCGA-ZZ-9999-01A"

    c = reader.read(STUDY, "postresection", edit(gdc(tmp_path / "a"), "pathology_detail", stranger))
    assert any("pathology': 1 ids without a case" in n for n in c.flow.notes)
    assert c.flow.ids["pathology: without a case"] == ("TCGA-ZZ-9999",)

    def nobody(rows: list[Row]) -> None:
        for r in rows:
            r["cases.submitter_id"] = "x" + r["cases.submitter_id"]

    text = faults(
        lambda: reader.read(STUDY, "preop", edit(gdc(tmp_path / "b"), "follow_up", nobody))
    )
    assert "[D05]" in text
    assert "follow_up.tsv" in text


def test_optional_tables_may_be_absent(tmp_path: Path) -> None:
    gdc(tmp_path)
    (tmp_path / "follow_up.tsv").unlink()
    c = reader.read(STUDY, "preop", tmp_path)
    assert column(c, "cea") == [None] * 5
    assert any("cea is wholly missing" in n for n in c.flow.notes)


def test_no_known_label(tmp_path: Path) -> None:
    assert "[D09]" in faults(
        lambda: reader.read(STUDY, "preop", gdc(tmp_path, [{**p, "m": "MX"} for p in PATIENTS]))
    )


def test_overrides_are_data(tmp_path: Path) -> None:
    told = reader.read_table(STUDY, "postresection", cbioportal(tmp_path)).overrides
    assert set(told) == {"t", "n"}
    assert "not the stage" in told["t"]
    assert reader.read_table(STUDY, "preop", tmp_path).overrides == {}


def test_stage_is_refused_through_a_mapping(tmp_path: Path) -> None:
    raw = {
        "name": "leaky",
        "studies": ["colorectal_metastasis"],
        "nulls": ["'--"],
        "tables": {
            "clinical": {"files": ["clinical.tsv"], "key": "cases.submitter_id", "rows": "agree"}
        },
        "label": {
            "column": "diagnoses.ajcc_pathologic_m",
            "values": {"M0": ["M0"], "M1": ["M1", "M1a"]},
            "unknown": ["MX"],
        },
        "features": {
            f.name: {"column": "diagnoses.ajcc_pathologic_stage"} for f in STUDY.schema.features
        },
    }
    leaky = dataclasses.replace(STUDY, source=raw)
    text = faults(lambda: reader.read(leaky, "preop", gdc(tmp_path)), LeakError)
    assert "[L02]" in text


cell = st.sampled_from(["M0", "M1", "M1b", "MX", "'--"])


kinds = st.sampled_from(["primary", "metastasis"])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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
        assert "[D09]" in faults(lambda: reader.read(STUDY, "preop", tmp_path))
        return
    c = reader.read(STUDY, "preop", tmp_path)
    assert dict(zip(c.ids, c.labels.tolist(), strict=True)) == expected
    assert (
        c.flow.read
        == len({n for n, _, _ in rows})
        == c.flow.kept + sum(n for _, n in c.flow.excluded)
    )
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
    c = reader.read(STUDY, "preop", folder)
    assert (c.flow.kept, c.labels.tolist().count(UNKNOWN)) == (5, 2)
