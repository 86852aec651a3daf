"""What a draft takes for the patient, the hospital, the label and the follow-up, and what it never
makes an input: tables that mislead, made up here."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.cohort import reader
from client.table.draft.study_draft import draft
from common.study import load as studies
from common.study.outcomes import denied_of, spelled

ROWS = 240
Columns = Mapping[str, Sequence[Any]]


def some(values: Sequence[Any], seed: int = 0, rows: int = ROWS) -> list[Any]:
    """Values at random; the first come once each, so that all are there."""
    picked = np.random.default_rng(seed).integers(0, len(values), rows - len(values))
    return [*values, *(values[k] for k in picked)]


def numbers(low: int, high: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(low, high, ROWS).tolist()


PATIENTS: Columns = {
    "patient": [f"P{i}" for i in range(ROWS)],
    "hospital": some("ABC", 1),
    "age": numbers(30, 90, 2),
    "spread": some((0, 1), 3),
}


def table(folder: Path, columns: Columns) -> Path:
    path = folder / "t.csv"
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join(",".join(map(str, r)) for r in [tuple(columns), *rows]) + "\n")
    return path


def drafted(folder: Path, columns: Columns) -> tuple[dict[str, Any], str]:
    text = draft(table(folder, columns))
    return tomllib.loads(text), text


def inputs(study: Mapping[str, Any]) -> dict[str, Any]:
    return {f["name"]: f for f in study["feature"]}


def read(folder: Path, text: str) -> reader.Reading:
    (folder / "d.toml").write_text(text)
    return reader.read_table(studies.load(str(folder / "d.toml")), "baseline", folder / "t.csv")


@pytest.mark.parametrize("first", ["creatinine", "cholesterol", "lvef", ""])
def test_a_measurement_is_no_id(tmp_path: Path, first: str) -> None:
    columns = {first: list(range(1, ROWS + 1)), **PATIENTS}
    del columns["patient"]
    study, text = drafted(tmp_path, columns)
    assert study["id"] == ""
    reading = read(tmp_path, text)
    assert len(reading.cohort) == ROWS
    assert any("each row counts as a patient" in note for note in reading.cohort.flow.notes)


def test_of_two_ids_the_persons_counts_and_the_other_is_no_input(tmp_path: Path) -> None:
    people = [10000 + i - (20 < i < 40) for i in range(ROWS)]
    columns = {
        "study_id": list(range(77000, 77000 + 3 * ROWS, 3)),
        "patient_id": people,
        **PATIENTS,
    }
    del columns["patient"]
    study, text = drafted(tmp_path, columns)
    assert study["id"] == "patient_id"
    assert study["duplicates"] == "agree"
    assert "1 patients have several rows" in text
    assert set(inputs(study)) == {"age"}


@pytest.mark.parametrize("rows_each", [2, 8, 16])
@pytest.mark.parametrize(
    ("person", "other"),
    [("PATIENT", "LESION"), ("cases.case_id", "follow_ups.follow_up_id"), ("subject", "test_id")],
)
def test_a_person_of_many_rows_is_the_patient(
    tmp_path: Path, person: str, other: str, rows_each: int
) -> None:
    """A row a lesion, a visit or a test: rows of one patient taken for patients would be trained on
    and scored."""
    people = [10005 + 15 * (row // rows_each) for row in range(ROWS)]
    columns = {**PATIENTS, person: people, other: [7 * row + 3 for row in range(ROWS)]}
    columns["case_nr"] = [n + 4 for n in people]
    del columns["patient"]
    study, _ = drafted(tmp_path, columns)
    assert study["id"] == person
    assert "case_nr" not in inputs(study)


@pytest.mark.parametrize(
    "name", ["uid", "Sample ID", "accession_number", "SeriesInstanceUID", "MRN"]
)
def test_ids_are_never_inputs(tmp_path: Path, name: str) -> None:
    columns = {**PATIENTS, name: numbers(10**6, 10**7)}
    study, text = drafted(tmp_path, columns)
    assert study["id"] == "patient"
    assert set(inputs(study)) == {"age"}
    assert f'"{name}": ids' in text


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("ICD-O-3 Site Code", ("C18.0", "C20.9")),
        ("site", ("colon", "rectum", "caecum")),
        ("Tumor Disease Anatomic Site", ("Colon", "Rectum")),
        ("site_of_resection", ("a", "b")),
        ("hospital_stay_days", (3, 4, 5)),
    ],
)
def test_a_part_of_the_body_is_no_hospital(
    tmp_path: Path, name: str, levels: Sequence[Any]
) -> None:
    columns = {name: some(levels), "Tissue Source Site": PATIENTS["hospital"], **PATIENTS}
    del columns["hospital"]
    assert drafted(tmp_path, columns)[0]["site"] == "Tissue Source Site"


def test_an_empty_column_is_no_hospital(tmp_path: Path) -> None:
    columns = {"margins_involved_site": ["'--"] * ROWS, "center": ["NA"] * ROWS, **PATIENTS}
    assert drafted(tmp_path, columns)[0]["site"] == "hospital"
    del columns["hospital"]
    assert "site" not in drafted(tmp_path, columns)[0]


@pytest.mark.parametrize("codes", [{"A": "7", "B": "4", "C": "1"}, {"A": "78", "B": "4", "C": "1"}])
def test_a_second_name_of_the_hospital_is_no_input(tmp_path: Path, codes: dict[str, str]) -> None:
    """Nor is a code of its parts: two codes of A."""
    houses = [codes[h][i % len(codes[h])] for i, h in enumerate(PATIENTS["hospital"])]
    columns = {**PATIENTS, "house": ["", *houses[1:]]}
    study, text = drafted(tmp_path, columns)
    assert "house" not in inputs(study)
    assert "names the hospital again" in text


@pytest.mark.parametrize(
    ("time", "event"),
    [
        ("time", "status"),
        ("futime", "fustat"),
        ("OS_MONTHS", "OS_STATUS"),
        ("Follow-up (months)", "Vital status"),
        ("survival_days", "Dead"),
        ("rfstime", "event"),
        ("days_to_last_follow_up", "state"),
    ],
)
@pytest.mark.parametrize("numeric", [True, False])
def test_a_time_and_its_event_are_a_pair_and_neither_class_nor_input(
    tmp_path: Path, time: str, event: str, numeric: bool
) -> None:
    if event == "state" and numeric:
        pytest.skip("only its values say what it is")
    columns = {
        **PATIENTS,
        time: numbers(1, 3000),
        event: some((0, 1) if numeric else ("Alive", "Dead")),
    }
    with_label, text = drafted(tmp_path, columns)
    assert with_label["label"]["column"] == "spread"
    assert set(inputs(with_label)) == {"age"}
    assert f'# Attention: "{time}" is a follow-up time and "{event}" its event' in text
    del columns["spread"]
    alone, text = drafted(tmp_path, columns)
    assert alone["label"]["column"] == ""
    assert "make one at a horizon" in text
    assert set(inputs(alone)) == {"age"}


def test_each_endpoint_has_its_own_event(tmp_path: Path) -> None:
    columns = {**PATIENTS}
    for name in ("DFS", "OS"):
        columns |= {f"{name}_STATUS": some((0, 1), 7), f"{name}_MONTHS": numbers(1, 90)}
    text = drafted(tmp_path, columns)[1]
    for name in ("DFS", "OS"):
        assert f'"{name}_MONTHS" is a follow-up time and "{name}_STATUS" its event' in text


@pytest.mark.parametrize("name", ["prothrombin_time", "operation_time", "T", "symptom_duration"])
def test_not_every_time_is_a_follow_up(tmp_path: Path, name: str) -> None:
    assert name in inputs(drafted(tmp_path, {**PATIENTS, name: numbers(5, 90)})[0])


@pytest.mark.parametrize("trait", ["SEX", "Smoker", "Race", "handedness"])
def test_outcomes_come_before_traits_and_are_no_inputs_for_one_another(
    tmp_path: Path, trait: str
) -> None:
    columns = {
        **PATIENTS,
        "PATH_M_STAGE": some(("M0", "M1", "M1A", "MX")),
        "NEW_TUMOR_EVENT": some(("No", "Yes")),
        trait: some(("a", "b"), 5),
    }
    del columns["spread"]
    study, text = drafted(tmp_path, columns)
    assert study["label"]["column"] == "PATH_M_STAGE"
    assert study["label"]["values"] == {"M0": ["M0"], "M1": ["M1", "M1A"]}
    assert study["label"]["unknown"] == ["MX"]
    assert set(inputs(study)) == {"age", trait}
    label = [columns["PATH_M_STAGE"].count(m) for m in ("M0", "M1", "M1A")]
    known = read(tmp_path, text).cohort.labels
    assert [(known == k).sum() for k in (0, 1)] == [label[0], label[1] + label[2]]


@pytest.mark.parametrize("name", ["target", "Y", "outcome_score", "response"])
def test_no_column_stands_in_for_a_continuous_label(tmp_path: Path, name: str) -> None:
    columns = {**PATIENTS, name: numbers(1, 400), "Smoker": some(("no", "yes"), 6)}
    del columns["spread"]
    study, text = drafted(tmp_path, columns)
    assert study["label"]["column"] == ""
    assert f"'{name}' is called an outcome and holds numbers" in text
    assert name not in inputs(study)


@pytest.mark.parametrize(
    "levels",
    [("primary", "metastasis"), ("Informed", "Consent by Death"), ("first", "Recurrence")],
)
def test_a_choice_whose_values_tell_an_outcome_is_no_input(
    tmp_path: Path, levels: Sequence[str]
) -> None:
    columns = {**PATIENTS, "kind_of_row": some(levels, 5), "sex": some(("M", "F"), 6)}
    columns["M_stage"] = some(("M0", "M1"), 7)
    del columns["spread"]
    study, text = drafted(tmp_path, columns)
    assert study["label"]["column"] == "M_stage"
    assert set(inputs(study)) == {"age", "sex"}
    assert f'one of its values, "{levels[1]}", tells an outcome' in text


@pytest.mark.parametrize("label", ["n_stage", "pN", "metastasis"])
def test_the_overall_stage_is_no_input_beside_a_part_of_it(tmp_path: Path, label: str) -> None:
    columns = {
        **PATIENTS,
        "target": some(("N0", "N1", "N2")),
        "6th Stage": some(("I", "II", "III")),
    }
    columns[label] = columns.pop("spread")
    del columns["target"]
    study, _ = drafted(tmp_path, columns)
    if study["label"]["column"] == label:
        assert "6th Stage" not in inputs(study)
    assert label == "n_stage" or study["label"]["column"] == label


@pytest.mark.parametrize("label", ["mets_at_dx", "distant", "liver_mets"])
@pytest.mark.parametrize(
    "stage", ["Stadium", "AJCC8", "UICC8", "AnnArbor", "group_stage", "cM", "num_mets"]
)
def test_the_stage_is_no_input_beside_metastases_however_they_are_called(
    tmp_path: Path, label: str, stage: str
) -> None:
    columns = {**PATIENTS, label: PATIENTS["spread"], stage: some("123", 5)}
    del columns["spread"]
    study, text = drafted(tmp_path, columns)
    if study["label"]["column"] == label:
        assert set(inputs(study)) == {"age"}, text
    assert re.search("|".join(denied_of([label], ["0", "1"])), spelled(stage))


@pytest.mark.parametrize(
    "name", ["survmo", "last_contact_days", "lastcontact_status", "exitus", "time_to_recurrence"]
)
def test_what_is_known_after_the_follow_up_is_no_input(tmp_path: Path, name: str) -> None:
    assert set(inputs(drafted(tmp_path, {**PATIENTS, name: numbers(0, 60, 9)})[0])) == {"age"}


def test_a_sentinel_makes_no_choice_of_a_number(tmp_path: Path) -> None:
    cells = [9999, *numbers(8, 16, 4)[1:-1], 9999]
    entry = inputs(drafted(tmp_path, {**PATIENTS, "hb": cells})[0])["hb"]
    assert entry["nulls"] == ["9999"]
    assert (entry["low"], "values" in entry) == (0, False)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.sampled_from(["4a", "4b", "4ER+", "In situ", "Tis", "X1", "1-2"]),
        min_size=1,
        unique=True,
    ),
    st.integers(2, 5),
)
def test_few_odd_texts_beside_few_whole_numbers_are_levels(
    tmp_path_factory: pytest.TempPathFactory, odd: list[str], grades: int
) -> None:
    folder = tmp_path_factory.mktemp("t")
    cells = [*odd, *map(str, some(range(1, grades + 1), rows=ROWS - len(odd)))]
    study, text = drafted(folder, {**PATIENTS, "grade": cells})
    entry = inputs(study)["grade"]
    assert set(entry["values"]) == set(cells)
    assert "nulls" not in entry
    assert not np.isnan(read(folder, text).cohort.values[:, 1]).any()


def test_grades_and_their_subdivisions_are_in_order(tmp_path: Path) -> None:
    study, _ = drafted(tmp_path, {**PATIENTS, "T": some(("4b", "1", "4a", "2", "4", "3"))})
    assert inputs(study)["T"]["values"] == ["1", "2", "3", "4", "4a", "4b"]
    assert inputs(study)["T"]["ordered"]


@pytest.mark.parametrize(
    ("values", "sentinel"),
    [
        (("L", "R"), -9999),
        (range(20, 90), 999),
        (range(20, 90), -999),
        (range(1, 9), 99),
        ((0.5, 1.25, 3.5, 7.75, 12.5, 2.25), 9999),
    ],
)
def test_sentinels_are_missing_and_said(
    tmp_path: Path, values: Sequence[Any], sentinel: int
) -> None:
    cells = [*some(list(values), rows=ROWS - 6), *[sentinel] * 6]
    study, text = drafted(tmp_path, {**PATIENTS, "x": cells})
    entry = inputs(study)["x"]
    assert entry["nulls"] == [str(sentinel)]
    assert "read as missing in this column (6 rows)" in text
    assert str(sentinel) not in entry.get("values", [])
    assert entry.get("high", 0) < 200
    assert np.isnan(read(tmp_path, text).cohort.values[:, 1]).sum() == 6


def test_a_high_value_is_no_sentinel(tmp_path: Path) -> None:
    cells = [round(float(x), 2) for x in np.exp(np.random.default_rng(0).normal(1, 1, ROWS - 1))]
    study, text = drafted(tmp_path, {**PATIENTS, "cea": [999, *cells]})
    assert inputs(study)["cea"]["high"] >= 999
    assert not np.isnan(read(tmp_path, text).cohort.values[:, 1]).any()
    assert (
        inputs(drafted(tmp_path, {**PATIENTS, "x": numbers(90, 110)})[0])["x"].get("nulls") is None
    )


@pytest.mark.parametrize(
    ("cells", "values", "mapped"),
    [
        (("female", "F", "M", "Male", "female", "Male"), ["Male", "female"], {"F", "M"}),
        (("yes", "Y", "no", "N", "yes", "no"), ["no", "yes"], {"Y", "N"}),
        (("w", "weiblich", "m", "w", "m"), ["m", "w"], {"weiblich"}),
    ],
)
def test_words_of_one_meaning_are_one_value(
    tmp_path: Path, cells: Sequence[str], values: list[str], mapped: set[str]
) -> None:
    rows = [*cells, *(values * ROWS)][:ROWS]
    study, text = drafted(tmp_path, {**PATIENTS, "g": rows})
    assert sorted(inputs(study)["g"]["values"]) == sorted(values)
    assert set(inputs(study)["g"]["map"]) == mapped
    assert not np.isnan(read(tmp_path, text).cohort.values[:, 1]).any()


@pytest.mark.parametrize(("unit", "factor"), [("days", 365.25), ("months", 12.0)])
def test_an_age_in_days_is_converted(tmp_path: Path, unit: str, factor: float) -> None:
    ages = [round(age * factor) for age in PATIENTS["age"]]
    study, text = drafted(tmp_path, {**PATIENTS, "age": ages})
    entry = inputs(study)["age"]
    assert (entry["column_unit"], entry["unit"], entry["low"], entry["high"]) == (
        unit,
        "years",
        0,
        120,
    )
    cohort = read(tmp_path, text).cohort
    at = [cohort.ids.index(p) for p in PATIENTS["patient"]]
    np.testing.assert_allclose(cohort.values[at, 0], PATIENTS["age"], atol=0.05)
