"""Which mapping reads a folder, and what is said where none does."""

from pathlib import Path

import pytest

from client.cohort import reader
from client.table import mapping_file
from common.errors import UsageError
from common.study import load as studies
from tests.client.table.exports import PATIENTS, STUDY, Row, cbioportal, edit, faults, gdc, write


def test_detection_says_what_is_missing(tmp_path: Path) -> None:
    assert "[D00]" in faults(lambda: reader.read(STUDY, "preop", tmp_path / "nowhere"))
    text = faults(lambda: reader.read(STUDY, "preop", tmp_path))
    assert "[D00]" in text
    assert all(
        name in text
        for name in ("'gdc'", "'gdc_flat'", "'cbioportal'", "data_clinical_patient.txt", "--data")
    )
    write(
        tmp_path / "clinical.tsv",
        [
            {
                "cases.submitter_id": "a",
                "diagnoses.ajcc_pathologic_mm": "M0",
                "diagnoses.classification_of_tumor": "primary",
            }
        ],
    )
    text = faults(lambda: reader.read(STUDY, "preop", tmp_path))
    assert "D08 clinical.tsv: there is no column 'diagnoses.prior_malignancy'" in text
    assert (
        "D03 clinical.tsv: there is no column 'diagnoses.ajcc_pathologic_m' (nearest: "
        "'diagnoses.ajcc_pathologic_mm'" in text
    )
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
        text = faults(lambda source=source: reader.read(STUDY, "preop", tmp_path, source=source))  # type: ignore[misc]
        assert text.startswith("[D03]")
        assert (
            "coad/clinical.tsv, read/clinical.tsv: there is no column 'diagnoses.ajcc_pathologic_m'"
            in text
        )


def test_the_only_mapping_of_a_study_tells_all_its_faults(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.worksheets[0]
    sheet.title = "TCIA_n=197"
    for row in (["Patient-ID", "age", "sex"], ["a", 400, 1], ["b", 50, 7]):
        sheet.append(row)
    book.save(tmp_path / "Colorectal-Liver-Metastases-Clinical-data-April-2023.xlsx")
    text = faults(lambda: reader.read(studies.load("liver_recurrence"), "preop", tmp_path))
    for part in ("D07", "'400'", "'7'", "D03", "progression_or_recurrence_liveronly", "D08"):
        assert part in text, part
    assert "--source" not in text


def test_two_sources_ask_for_a_choice(tmp_path: Path) -> None:
    gdc(tmp_path / "a")
    cbioportal(tmp_path / "b")
    assert "--source" in faults(lambda: reader.read(STUDY, "preop", tmp_path), UsageError)
    assert len(reader.read(STUDY, "preop", tmp_path, source="cbioportal")) == 5
    assert "[C02]" in faults(
        lambda: reader.read(STUDY, "preop", tmp_path, source="nope"), UsageError
    )


def test_a_file_named_outright_is_the_index_table(tmp_path: Path) -> None:
    gdc(tmp_path)
    (tmp_path / "clinical.tsv").rename(tmp_path / "export_2025.tsv")
    assert len(reader.read(STUDY, "preop", tmp_path / "export_2025.tsv", source="gdc")) == 5


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
    text = faults(lambda: reader.read(STUDY, "preop", tmp_path))
    assert "[D00]" in text
    assert "coad/clinical.tsv" in text
    assert "read/clinical.tsv" not in text
    assert said in text


def test_a_file_named_outright_is_recognised_by_its_columns(tmp_path: Path) -> None:
    gdc(tmp_path, flat=True)
    (tmp_path / "clinical.tsv").rename(tmp_path / "export_2021.tsv")
    assert reader.read_table(STUDY, "preop", tmp_path / "export_2021.tsv").source == "gdc_flat"


def test_mappings_name_their_faults() -> None:
    raw = {
        "name": "x",
        "tables": {"t": {"files": ["a.csv"], "kee": "id", "rows": "some"}},
        "label": {},
        "sites": 1,
    }
    text = faults(lambda: mapping_file.parse(raw, "x.toml"), UsageError)
    for part in (
        "unknown key 'kee'; did you mean 'keep'",
        "lacks 'key'",
        "rows = 'some'",
        "unknown key 'sites'; did you mean 'site'",
        "label lacks 'column'",
    ):
        assert part in text, part


@pytest.mark.parametrize("raw", [5, "x", ["a"], None])
def test_a_mapping_that_is_no_table_is_refused_in_words(raw: object) -> None:
    assert "must be a table" in faults(lambda: mapping_file.parse(raw, "x"), UsageError)  # type: ignore[arg-type]


def test_every_mapping_serves_its_studies() -> None:
    for name in studies.names():
        study = studies.load(name)
        assert mapping_file.builtin(name), name
        for source in mapping_file.builtin(name):
            assert set(source.features) == {f.name for f in study.schema.features}
            for f in study.schema.features:
                assert set(source.features[f.name].values) <= set(getattr(f, "values", ())), f.name
            if source.label.value is not None:
                assert set(source.label.value.values) <= set(study.schema.label.classes)
