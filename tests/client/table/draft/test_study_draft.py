"""A drafted study loads, reads the table it was drafted from, and leaves out what must not be an
input."""

import csv
import io
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.cohort import reader
from client.table.draft.column_profile import notation
from client.table.draft.feature_entries import bounds, quoted, skewed
from client.table.draft.study_draft import draft
from common.data.cohort import UNKNOWN
from common.data.schema import Choice, Number
from common.errors import DataError
from common.study import load as studies
from common.study import study as questions

Table = list[list[Any]]


def patients(n: int = 90, seed: int = 0) -> Table:
    """A header and n rows: 3 hospitals, one of them 'NA'; age with 'n/a', CEA with '<0.5' and -9, a
    grade, an outcome and the stage."""
    rng = np.random.default_rng(seed)
    spread = np.array([i % 3 == 0 for i in range(n)])
    table: Table = [
        [
            "PatientID",
            "Hospital",
            "age",
            "CEA (ug/L)",
            "sex",
            "grade",
            "spread",
            "vital_status",
            "seen",
            "note",
            "country",
        ]
    ]
    for i in range(n):
        cea: Any = (
            "<0.5"
            if i % 10 == 1
            else -9
            if i % 10 == 2
            else round(float(np.exp(rng.normal(1, 1.5))), 2)
        )
        age: Any = "n/a" if i % 12 == 5 else round(float(rng.normal(65, 9)), 1)
        row = [
            f"p {i:03d}",
            ("NA", "B", "C")[i % 3 if i % 5 else 0],
            age,
            cea,
            ("male", "Female")[i % 2],
            f"G{rng.integers(1, 4)}",
        ]
        table.append(
            [
                *row,
                ("no", "yes")[int(spread[i])],
                ("alive", "dead")[i % 2],
                f"2020-03-{i % 28 + 1:02d}",
                f"seen by Dr {i}",
                "DE",
            ]
        )
    return table


def write(
    path: Path, table: Table, delimiter: str = ",", encoding: str = "utf-8", decimal: str = "."
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    rows = [
        [str(c).replace(".", decimal) if isinstance(c, float) else c for c in row] for row in table
    ]
    csv.writer(text, delimiter=delimiter).writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def run(data: Path, folder: Path) -> tuple[questions.Study, reader.Reading, str]:
    text = draft(data)
    (folder / "drafted.toml").write_text(text, encoding="utf-8")
    study = studies.load(str(folder / "drafted.toml"))
    return study, reader.read_table(study, "baseline", data), text


def expect(found: tuple[questions.Study, reader.Reading, str], table: Table) -> None:
    study, reading, text = found
    assert len(reading.cohort) == len(table) - 1
    assert reading.cohort.labels.sum() == sum(row[6] == "yes" for row in table[1:])
    assert set(reading.institutions) == {"NA", "B", "C"}
    assert [f.name for f in study.schema.features] == ["age", "CEA (ug/L)", "sex", "grade"]
    age, cea, sex, grade = study.schema.features
    assert isinstance(age, Number)
    assert (age.unit, age.low, age.high) == ("years", 0, 120)
    assert isinstance(cea, Number)
    assert (cea.unit, cea.low, cea.scale) == ("ug/L", 0, "log")
    assert isinstance(sex, Choice)
    assert sex.values == ("Female", "male")
    assert isinstance(grade, Choice)
    assert (grade.values, grade.ordered) == (("G1", "G2", "G3"), True)
    at = {i: n for n, i in enumerate(reading.cohort.ids)}
    values = reading.cohort.values[[at[row[0]] for row in table[1:]]]
    np.testing.assert_array_equal(
        values[:, 0], [np.nan if row[2] == "n/a" else row[2] for row in table[1:]]
    )
    np.testing.assert_array_equal(
        values[:, 1],
        [0.5 if row[3] == "<0.5" else np.nan if row[3] == -9 else row[3] for row in table[1:]],
    )
    for name, why in (
        ("vital_status", "outcome"),
        ("seen", "dates"),
        ("note", "free text"),
        ("country", "one value only"),
    ):
        assert f'#   "{name}": ' in text
        assert why in text.split(f'#   "{name}": ')[1].splitlines()[0]
    assert "Dr" not in text


@pytest.mark.parametrize(
    ("name", "delimiter", "encoding", "decimal"),
    [
        ("t.csv", ",", "utf-8", "."),
        ("t.csv", ";", "utf-8-sig", ","),
        ("t.csv", ";", "latin-1", ","),
        ("t.tsv", "\t", "utf-8", "."),
        ("t [1].txt", "|", "utf-16", "."),
    ],
)
def test_text_tables(
    tmp_path: Path, name: str, delimiter: str, encoding: str, decimal: str
) -> None:
    table = patients()
    table[1][9] = "Müller"
    path = write(tmp_path / "d" / name, table, delimiter, encoding, decimal)
    expect(run(path, tmp_path), table)
    expect(run(path.parent, tmp_path), table)


def test_a_workbook_with_a_title_and_merged_hospitals(tmp_path: Path) -> None:
    from openpyxl import Workbook

    table = patients()
    body = sorted(table[1:], key=lambda row: str(row[1]))
    book = Workbook()
    book.worksheets[0].append(["Legend", "of the codes"])
    sheet = book.create_sheet("Data")
    for row in (["Registry of three hospitals"], [], table[0], *body):
        sheet.append(row)
    names = [row[1] for row in body]
    for name in set(names):
        first = 4 + names.index(name)
        sheet.merge_cells(
            start_row=first, end_row=first + names.count(name) - 1, start_column=2, end_column=2
        )
    book.save(tmp_path / "t.xlsx")
    found = run(tmp_path / "t.xlsx", tmp_path)
    expect(found, table)
    assert 'sheet = "Data"' in found[2]
    assert "header = 3" in found[2]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = patients()
    columns = {name: [row[j] for row in table[1:]] for j, name in enumerate(table[0])}
    columns["age"] = [None if v == "n/a" else v for v in columns["age"]]
    columns["CEA (ug/L)"] = [str(v) for v in columns["CEA (ug/L)"]]
    arrays = {
        k: pa.array(v).dictionary_encode() if k in ("Hospital", "sex") else pa.array(v)
        for k, v in columns.items()
    }
    pq.write_table(pa.table(arrays), tmp_path / "t.parquet")
    expect(run(tmp_path / "t.parquet", tmp_path), table)


def test_ten_files_whose_ids_count_anew(tmp_path: Path) -> None:
    header, *rows = patients(200)
    for n in range(10):
        mine = [["1" + str(k), *row[2:]] for k, row in enumerate(rows[n * 20 : n * 20 + 20])]
        write(tmp_path / "d" / f"hospital {n}.csv", [["PatientID", *header[2:]], *mine])
    _, reading, text = run(tmp_path / "d", tmp_path)
    assert "site_from_file = true" in text
    assert "id_per_site = true" in text
    assert len(reading.cohort) == 200
    assert set(reading.institutions) == {f"hospital {n}" for n in range(10)}
    assert "hospital 3: 10" in reading.cohort.ids


def test_folders_of_files_of_one_name(tmp_path: Path) -> None:
    header, *rows = patients()
    for n, name in enumerate(("Lyon", "Köln", "Porto")):
        write(
            tmp_path / "d" / name / "patients.csv",
            [[header[0], *header[2:]], *([r[0], *r[2:]] for r in rows[n * 30 : n * 30 + 30])],
        )
    assert set(run(tmp_path / "d", tmp_path)[1].institutions) == {"Lyon", "Köln", "Porto"}


def test_the_label_in_disguise_and_row_numbers_are_left_out(tmp_path: Path) -> None:
    header, *rows = patients()
    header += ["copy", "score", "row", "empty"]
    rows = [
        [*row, "AB"[row[6] == "yes"], 10 * (row[6] == "yes") + i / 100, i, ""]
        for i, row in enumerate(rows)
    ]
    text = run(write(tmp_path / "t.csv", [header, *rows]), tmp_path)[2]
    for name, why in (
        ("copy", "AUC 1.00"),
        ("score", "AUC 1.00"),
        ("row", "numbers the rows"),
        ("empty", "holds nothing"),
    ):
        assert why in text.split(f'#   "{name}": ')[1].splitlines()[0]


def test_several_classes_and_unknown_labels(tmp_path: Path) -> None:
    header, *rows = patients()
    rows = [
        [*row[:6], ("lung", "breast", "melanoma", "unknown")[i % 4], *row[7:]]
        for i, row in enumerate(rows)
    ]
    header[6] = "primary_tumour"
    study, reading, _ = run(write(tmp_path / "t.csv", [header, *rows]), tmp_path)
    assert study.schema.label.classes == ("breast", "lung", "melanoma")
    assert (reading.cohort.labels == UNKNOWN).sum() == 22


def test_a_stage_is_left_out_of_a_study_of_metastasis(tmp_path: Path) -> None:
    header, *rows = patients()
    header[6] = "metastasis"
    header[5] = "Tumor Stage"
    text = run(write(tmp_path / "t.csv", [header, *rows]), tmp_path)[2]
    assert '#   "Tumor Stage": an outcome' in text


def test_what_cannot_be_guessed_still_loads_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [["a", "b"], ["x", "y"], ["x", "z"]])
    (tmp_path / "d.toml").write_text(draft(path))
    study = studies.load(str(tmp_path / "d.toml"))
    with pytest.raises(DataError):
        reader.read_table(study, "baseline", path)
    with pytest.raises(DataError, match="D00"):
        draft(tmp_path / "nowhere.csv")
    (tmp_path / "e").mkdir()
    with pytest.raises(DataError, match="D00"):
        draft(tmp_path / "e")
    (tmp_path / "e" / "broken.csv").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        draft(tmp_path / "e")


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
cells = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.integers(-10, 10).map(str),
    st.sampled_from(
        ["", "NA", "yes", "no", "-9", "<3", "none", "2020-01-02", "1,234", "é", '"', "#", "a b"]
    ),
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(names, max_size=5),
    st.lists(st.lists(cells, min_size=5, max_size=5), min_size=24, max_size=40),
    st.sampled_from(",;\t"),
)
def test_any_table_gives_a_draft_that_reads_it(
    tmp_path_factory: pytest.TempPathFactory, header: Sequence[str], rows: Table, delimiter: str
) -> None:
    folder = tmp_path_factory.mktemp("t")
    columns = [*header]
    table = [["id", "site", "label", *columns]]
    table += [
        [f"p{i}", "AB"[i % 2], ("0", "1")[i // 2 % 2], *row[: len(columns)]]
        for i, row in enumerate(rows)
    ]
    path = write(folder / "t.csv", table, delimiter)
    text = draft(path)
    (folder / "d.toml").write_text(text, encoding="utf-8")
    study = studies.load(str(folder / "d.toml"))
    if "label" not in columns and "id" not in columns:
        assert 'id = "id"' in text
        assert len(reader.read_table(study, "baseline", path).cohort) == len(rows)


@given(st.text())
def test_quoted_texts_are_toml(text: str) -> None:
    import tomllib

    clean = text.encode("utf-8", "ignore").decode()
    assert tomllib.loads(f"x = {quoted(clean)}")["x"] == clean


@given(st.lists(st.floats(-1e12, 1e12), min_size=1))
def test_bounds_hold_all_values_with_room(values: list[float]) -> None:
    low, high = bounds(values)
    assert low <= min(values) <= max(values) <= high
    assert low < high
    assert low >= 0 or min(values) < 0


def test_notation() -> None:
    assert notation([["1.5", "2"]]) == (".", "")
    assert notation([["1,5", "2", "x"] * 1, ["1,5", "2"]]) == (",", "")
    assert notation([["1,234", "12"], ["0.5"]]) == (".", ",")
    assert notation([["1.234,5", "1.234"]]) == (",", ".")
    assert notation([["1 234,5"]]) == (",", " ")
    assert notation([["01.02.2020", "1.5"], ["a,b"]]) == (".", "")


def test_skewed() -> None:
    x = np.random.default_rng(0).normal(size=300)
    assert skewed(np.exp(2 * x), 0)
    assert not skewed(x + 10, 0)


def test_a_draft_holds_no_second_copy_of_the_cells(tmp_path: Path) -> None:
    """One column at a time stands as Python strings: thirty columns of different numbers need no
    more than a few of them would."""
    rng = np.random.default_rng(0)
    rows, columns = 5000, 30
    cells = rng.normal(50, 12, (rows, columns)).round(4).astype(str)
    lines = [",".join(("id", "spread", *(f"value {k}" for k in range(columns))))]
    lines += [",".join((f"p{i}", "no" if i % 3 else "yes", *row)) for i, row in enumerate(cells)]
    path = tmp_path / "wide.csv"
    path.write_text("\n".join(lines) + "\n")
    draft(path)  # what is imported on the way counts not
    tracemalloc.start()
    try:
        draft(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    one_column = rows * sys.getsizeof("50.1234")
    assert peak < columns / 2 * one_column


def test_a_draft_is_the_same_each_time(tmp_path: Path) -> None:
    """Spellings of one null token stand in one order, whatever order a set has in this process."""
    path = tmp_path / "t.csv"
    cells = ["Unknown", "unknown", "UNKNOWN", *map(str, range(40))]
    path.write_text("id,age,m\n" + "".join(f"p{i},{c},M{i % 2}\n" for i, c in enumerate(cells)))
    assert 'nulls = ["UNKNOWN", "Unknown", "unknown"]' in draft(path)
