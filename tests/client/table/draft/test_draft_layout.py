"""How a draft finds a table's layout: no header, several rows of it, wide tables; and what a study
file may say of it."""

import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.cohort import reader
from client.table.draft.study_draft import draft
from common.errors import DataError, UsageError
from common.study import load as studies

HEAD = 'id = ""\ntable = "t.csv"\n'
BODY = """
[label]
column = "{label}"
values = ["0", "1"]
[[feature]]
name = "age"
column = "{age}"
unit = "years"
low = 0
high = 120
"""


def written(folder: Path, rows: list[list[object]], name: str = "t.csv") -> Path:
    path = folder / name
    if path.suffix == ".xlsx":
        from openpyxl import Workbook

        book = Workbook()
        for row in rows:
            book.worksheets[0].append([None if cell == "" else cell for cell in row])
        book.save(path)
        return path
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


def patients(rows: int = 120, seed: int = 0) -> list[list[object]]:
    rng = np.random.default_rng(seed)
    return [
        [int(rng.integers(30, 90)), "MF"[k % 2], int(rng.integers(100, 400)), int(rng.integers(2))]
        for k in range(rows)
    ]


def study(folder: Path, text: str) -> reader.Reading:
    (folder / "s.toml").write_text(text)
    return reader.read_table(studies.load(str(folder / "s.toml")), "baseline", folder)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.integers(30, 80), st.sampled_from(["t.csv", "t.xlsx"]))
def test_a_file_without_a_header_is_told_and_no_patient_is_lost(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int, name: str
) -> None:
    folder = tmp_path_factory.mktemp("t")
    cells = patients(rows, seed)
    text = draft(written(folder, cells, name))
    told = tomllib.loads(text)
    assert told["header"] is False
    assert told["id"] == told["label"]["column"] == ""
    assert "seems to have no header" in text
    assert {f["name"] for f in told["feature"]} == {"1", "2", "3", "4"}
    head = HEAD.replace("t.csv", name) + "header = false\n"
    reading = study(folder, head + BODY.format(label=4, age=1))
    assert sorted(reading.cohort.values[:, 0]) == sorted(row[0] for row in cells)
    assert reading.cohort.labels.sum() == sum(int(str(row[3])) for row in cells)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("quoted", [False, True])
def test_both_readers_take_a_table_without_a_header(
    tmp_path: Path, name: str, quoted: bool
) -> None:
    mark = "," if name.endswith("csv") else "\t"
    cells = [['"a""b\nc"' if quoted and k == 0 else f"p{k}", k % 2, 40 + k] for k in range(20)]
    (tmp_path / name).write_text("\n".join(mark.join(map(str, row)) for row in cells))
    head = HEAD.replace("t.csv", name).replace('id = ""', 'id = "1"') + "header = false\n"
    reading = study(tmp_path, head + BODY.format(label=2, age=3))
    assert sorted(reading.cohort.values[:, 0]) == list(range(40, 60))


def test_a_workbook_without_a_header(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    for row in patients():
        book.worksheets[0].append(row)
    book.save(tmp_path / "t.xlsx")
    head = HEAD.replace("csv", "xlsx") + "header = false\n"
    assert len(study(tmp_path, head + BODY.format(label=4, age=1)).cohort) == 120


@pytest.mark.parametrize(
    ("rows", "header"),
    [
        ([["p", "p", "p", "t"], ["#", "#", "1", "1"], ["age", "sex", "psa", "m"]], [1, 2, 3]),
        ([["age", "sex", "psa", "m"], ["years", "", "ng/mL", "code"]], [1, 2]),
        ([["age", "sex", "psa", "m"]], 1),
        ([["1", "2", "3", "4"]], 1),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_the_rows_of_a_header_are_found(
    tmp_path: Path, rows: list[list[object]], header: object, name: str
) -> None:
    told = tomllib.loads(draft(written(tmp_path, [*rows, *patients()], name)))
    assert told.get("header", 1) == header


def test_a_first_patient_with_odd_cells_is_no_header(tmp_path: Path) -> None:
    names: list[object] = ["age", "sex", "psa", "m"]
    for odd in (["n/a", "M", "<5", 0], ["unclear", "M", "high", "none"], ["", "F", "", ""]):
        told = tomllib.loads(draft(written(tmp_path, [names, odd, *patients()])))
        assert "header" not in told


@pytest.mark.parametrize("header", ["0", "[]", "[0, 1]", "true", '"1"', "[[1]]", "1.5", "{}"])
def test_a_header_that_is_no_row_is_a_clear_error(tmp_path: Path, header: str) -> None:
    written(tmp_path, patients())
    with pytest.raises(UsageError, match="header") as caught:
        study(tmp_path, HEAD + f"header = {header}\n" + BODY.format(label=4, age=1))
    assert "header = false for a table that has none" in str(caught.value)


def test_a_list_in_a_list_of_label_values_is_told(tmp_path: Path) -> None:
    body = BODY.format(label="x", age="y").replace('["0", "1"]', '["0", ["1", "2"]]')
    with pytest.raises(UsageError, match=r"label\.values holds a list in a list.*class = texts"):
        study(tmp_path, HEAD + body)


def test_the_way_out_maps_each_text_to_its_nearest_value(tmp_path: Path) -> None:
    rows: list[list[object]] = [["n", "m", "age"]]
    rows += [[("N0", "N1", "N1B", "N2a")[k % 4], k % 2, 50] for k in range(40)]
    written(tmp_path, rows)
    feature = '[[feature]]\nname = "n"\nvalues = ["N0", "N1", "N2"]\n'
    with pytest.raises(DataError, match=r'map = \{ "N1B" = "N1", "N2a" = "N2" \}'):
        study(tmp_path, HEAD + BODY.format(label="m", age="age") + feature)


def test_a_wide_table_is_drafted_in_seconds(tmp_path: Path) -> None:
    """Thousands of columns: what is asked of each costs no walk over all."""
    width = 1200
    names: list[object] = ["patient", "spread", *(f"gene {k}" for k in range(width))]
    rows: list[list[object]] = [
        [f"P{k}", k % 2, *((k * 7919 + j * 104729) % 997 / 10 for j in range(width))]
        for k in range(24)
    ]
    path = written(tmp_path, [names, *rows])
    start = time.process_time()
    told = tomllib.loads(draft(path))
    assert time.process_time() - start < 10
    assert len(told["feature"]) > 0.9 * width


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6))
def test_each_column_has_its_own_decimal_mark(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("t")
    values = np.random.default_rng(seed).uniform(1, 90, (60, 2)).round(2)
    lines = ["id;spread;a;b"]
    for k, (a, b) in enumerate(values):
        lines.append(f"P{k:02d};{k % 2};{a:.2f};" + f"{b:.2f}".replace(".", ","))
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    text = draft(folder / "t.csv")
    assert [f.get("decimal") for f in tomllib.loads(text)["feature"]] == [None, ","]
    reading = study(folder, text)
    np.testing.assert_allclose(reading.cohort.values, values)


@pytest.mark.parametrize(
    "names", [("PatientID", "SeriesInstanceUID"), ("path", "md5"), ("crdc_series_uuid", "size")]
)
def test_a_manifest_of_images_is_no_table_of_patients(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [f"{name} {k}" for k in range(5000)] for name in names}
    pq.write_table(pa.table(columns), tmp_path / "manifest.parquet")
    written(tmp_path, [["age", "sex", "psa", "m"], *patients()])
    told = tomllib.loads(draft(tmp_path))
    assert told["table"] == "t.csv"
    assert told["label"]["column"] == "m"
