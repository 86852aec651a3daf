"""cBioPortal's folder: the columns of patients and of their samples, one row a patient."""

import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cohort import reader
from client.table.draft.study_draft import draft
from client.table.joined import joined
from client.table.part import Part
from common.errors import DataError
from common.study import load as studies

IDS = st.sampled_from(["p1", "p2", "p3", "p4"])
CELLS = st.sampled_from(["", "a", "b"])


def part(name: str, columns: dict[str, list[str]]) -> Part:
    arrays = tuple(
        pa.chunked_array([pa.array(c, pa.string())], pa.string()) for c in columns.values()
    )
    return Part(Path(name), tuple(columns), arrays, range(1, len(arrays[0]) + 1))


@given(st.lists(IDS, unique=True, min_size=1), st.lists(st.tuples(IDS, CELLS, CELLS), max_size=9))
def test_a_value_counts_where_all_rows_that_have_one_agree(
    patients: list[str], rows: list[tuple[str, str, str]]
) -> None:
    other = {"key": [r[0] for r in rows], "x": [r[1] for r in rows], "own": [r[2] for r in rows]}
    whole, notes = joined(
        part("a", {"key": patients, "own": ["o"] * len(patients)}), part("b", other), "key"
    )
    assert whole.header == ("key", "own", "x")
    assert whole.column("key") == patients
    assert set(whole.column("own")) == {"o"}
    differing = 0
    for patient, cell in zip(patients, whole.column("x"), strict=True):
        filled = {r[1] for r in rows if r[0] == patient} - {""}
        assert cell == (filled.pop() if len(filled) == 1 else "")
        differing += len(filled) > 1
    assert any(f"of {differing} patients" in note for note in notes) == (differing > 0)


def folder_of(path: Path) -> Path:
    path.mkdir()
    rng = np.random.default_rng(1)
    patient = ["#a\tb\tc", "#STRING\tNUMBER\tSTRING", "PATIENT_ID\tAGE\tSEX"]
    sample = ["#a\tb\tc\td", "PATIENT_ID\tSAMPLE_ID\tTMB\tMETASTASIS"]
    for n in range(60):
        patient.append(f"P-{n:03d}\t{rng.integers(30, 80)}\t{'MF'[n % 2]}")
        for k in range(1 + n % 2):
            sample.append(f"P-{n:03d}\tS-{n:03d}-{k}\t{n % 7 + k}.5\t{'yes' if n % 3 else 'no'}")
    (path / "data_clinical_patient.txt").write_text("\n".join(patient) + "\n")
    (path / "data_clinical_sample.txt").write_text("\n".join(sample) + "\n")
    (path / "data_mutations.txt").write_text("Hugo_Symbol\tx\n" + "TP53\t1\n" * 500)
    return path


@pytest.mark.parametrize("file", ["", "data_clinical_patient.txt"])
def test_a_draft_of_the_folder_is_a_study_that_reads_both(tmp_path: Path, file: str) -> None:
    folder = folder_of(tmp_path / "cbio")
    text = draft(folder / file if file else folder)
    told = tomllib.loads(text)
    assert (told["table"], told["join"]) == (
        "data_clinical_patient.txt",
        "data_clinical_sample.txt",
    )
    assert told["id"] == "PATIENT_ID"
    assert told["label"]["column"] == "METASTASIS"
    (tmp_path / "s.toml").write_text(text)
    study = studies.load(str(tmp_path / "s.toml"))
    r = reader.read_table(study, "baseline", folder)
    assert len(r.cohort) == 60
    assert r.cohort.labels.sum() == 40
    assert any("'TMB' differs between the rows of 30 patients" in n for n in r.cohort.flow.notes)
    values = r.cohort.values[:, [f.name for f in study.schema.features].index("TMB")]
    assert np.isnan(values).sum() == 30
    (folder / "data_clinical_sample.txt").unlink()
    with pytest.raises(DataError, match="the study joins it"):
        reader.read_table(study, "baseline", folder)
