"""A researcher's own table in the many shapes, notations and numberings in which such tables
come."""

from pathlib import Path

import numpy as np
import pytest

from client.cohort import reader
from common.errors import DataError, LeakError, UsageError
from tests.client.table.mine import MINE, TABLE, expect, faults, own, table


@pytest.mark.parametrize(
    ("text", "name", "encoding", "extra"),
    [
        (TABLE.replace(",", ";"), "t.csv", "utf-8-sig", ""),
        (TABLE.replace(",", ";").replace("60.5", "60,5"), "t.csv", "utf-8", 'decimal = ","'),
        (TABLE.replace(",", "\t"), "t.tsv", "utf-8", ""),
        (
            "# exported\n" + TABLE.replace("hospital", "hôpital"),
            "t.csv",
            "latin-1",
            'encoding = "latin-1"\ncomment = "#"',
        ),
    ],
)
def test_text_tables(tmp_path: Path, text: str, name: str, encoding: str, extra: str) -> None:
    toml = MINE.replace("[label]", extra + "\n[label]")
    if "hôpital" in text:
        toml = toml.replace('"hospital"', '"hôpital"')
    expect(own(tmp_path, toml), table(tmp_path / "d", text, name, encoding))


def test_workbook(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    book.active.append(["first sheet"])  # type: ignore[union-attr]
    sheet = book.create_sheet("Data")
    for row in (
        ["patient", "hospital", "spread", "age", "smoker", "side"],
        ["a", "NA", 0.0, 60.5, True, "L"],
        ["b", "B", 1, None, False, "R"],
        ["c", "B", 1.0, 70.0, 0.0, "left"],
        ["d", "NA", 0, 50, 1, None],
    ):
        sheet.append(row)
    book.save(tmp_path / "t.xlsx")
    expect(own(tmp_path, MINE.replace("[label]", 'sheet = "Data"\n[label]')), tmp_path / "t.xlsx")


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "patient": pa.array(["d", "c", "b", "a"]),
        "hospital": pa.array(["NA", "B", "B", "NA"]).dictionary_encode(),
        "spread": pa.array([0, 1, 1, 0], pa.int8()),
        "age": pa.array([50, 70, None, 60.5]),
        "smoker": pa.array([True, False, False, True]),
        "side": pa.array([None, "left", "R", "L"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    expect(own(tmp_path), tmp_path / "t.parquet")


def test_ten_hospitals_ten_files(tmp_path: Path) -> None:
    study = own(tmp_path, MINE.replace('site = "hospital"', "site_from_file = true"))
    for n in range(10):
        table(
            tmp_path / "d",
            "spread,patient,age,smoker,side\n" + f"{n % 2},p{n},5{n},yes,L\n",
            f"hospital_{n}.csv",
        )
    r = reader.read_table(study, "baseline", tmp_path / "d")
    assert r.institutions == tuple(f"hospital_{n}" for n in range(10))


def test_folders_of_files_of_one_name_are_hospitals(tmp_path: Path) -> None:
    study = own(tmp_path, MINE.replace('site = "hospital"', "site_from_file = true"))
    for n, name in enumerate(("Lyon", "Porto")):
        table(
            tmp_path / "d" / name,
            f"spread,patient,age,smoker,side\n{n},p{n},50,yes,L\n",
            "patients.csv",
        )
    assert reader.read_table(study, "baseline", tmp_path / "d").institutions == ("Lyon", "Porto")


def test_thousands_and_limits(tmp_path: Path) -> None:
    feature = '[[feature]]\nname = "platelets"\nunit = "1/uL"\nlow = 0\nhigh = 2e6\n'
    lines = TABLE.splitlines()
    cells = ['"1,234,567.5"', '"12,000"', "<500", "900"]
    data = table(
        tmp_path / "d",
        "\n".join(
            [lines[0] + ",platelets", *(f"{x},{c}" for x, c in zip(lines[1:], cells, strict=True))]
        )
        + "\n",
    )
    said = faults(lambda: reader.read(own(tmp_path, MINE + feature), "baseline", data), DataError)
    assert 'map = { "<500" = 500 }' in said
    text = MINE.replace("[label]", 'thousands = ","\n[label]') + feature
    said = faults(lambda: reader.read(own(tmp_path, text), "baseline", data), DataError)
    assert "'<500'" in said
    assert "12,000" not in said
    c = reader.read(own(tmp_path, text + 'map = { "< 500" = 1, "<500" = 250 }\n'), "baseline", data)
    assert c.values[:, 3].tolist() == [1234567.5, 12000, 250, 900]
    assert "both '.'" in faults(
        lambda: own(tmp_path, MINE.replace("[label]", 'thousands = "."\n[label]')), UsageError
    )
    assert "map.\"<500\" = 'half' must be a number" in faults(
        lambda: own(tmp_path, text + 'map = { "<500" = "half" }\n'), UsageError
    )


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ('"12,5"', 'decimal = ","'),
        ('"1,250"', 'decimal = ","; if between thousands, thousands = ","'),
        ('"1,250.5"', 'thousands = ","'),
        ("1 250", 'thousands = " "'),
    ],
)
def test_foreign_notations_are_told_apart(tmp_path: Path, cell: str, hint: str) -> None:
    said = faults(
        lambda: reader.read(
            own(tmp_path), "baseline", table(tmp_path, TABLE.replace("60.5", cell))
        ),
        DataError,
    )
    assert "[D01]" in said
    assert hint in said


def test_null_tokens_that_are_numbers_count_by_value(tmp_path: Path) -> None:
    study = own(
        tmp_path,
        MINE.replace('nulls = ["NA"]', 'nulls = ["NA", -9]').replace("low = 18", "low = -50"),
    )
    c = reader.read(
        study,
        "baseline",
        table(tmp_path / "d", TABLE.replace("60.5", "-9.00").replace("70", "-19")),
    )
    np.testing.assert_array_equal(c.values[:, 0], [np.nan, np.nan, -19, 50])


def test_undeclared_nulls_are_told_with_the_way_out(tmp_path: Path) -> None:
    study = own(tmp_path, MINE.replace('nulls = ["NA"]', ""))
    said = faults(lambda: reader.read(study, "baseline", table(tmp_path)), DataError)
    assert 'nulls = ["NA"]' in said
    said = faults(
        lambda: reader.read(
            own(tmp_path), "baseline", table(tmp_path, TABLE.replace("70", "-999"))
        ),
        DataError,
    )
    assert "looks like a null token" in said


def test_duplicates(tmp_path: Path) -> None:
    twice = TABLE + "a,NA,0,60.5,True,L\n"
    data = table(tmp_path / "d", twice)
    c = reader.read(
        own(tmp_path, MINE.replace("[label]", 'duplicates = "quarantine"\n[label]')),
        "baseline",
        data,
    )
    assert c.ids == ("b", "c", "d")
    assert (c.flow.read, c.flow.kept) == (4, 3)
    expect(own(tmp_path, MINE.replace("[label]", 'duplicates = "agree"\n[label]')), data)


def test_ids_that_count_anew_in_each_hospital(tmp_path: Path) -> None:
    data = table(tmp_path / "d", TABLE.replace("\nd,NA", "\na,C"))
    said = faults(lambda: reader.read(own(tmp_path), "baseline", data), DataError)
    assert "D02" in said
    assert "id_per_site = true" in said
    r = reader.read_table(
        own(tmp_path, MINE.replace("[label]", "id_per_site = true\n[label]")), "baseline", data
    )
    assert r.cohort.ids == ("B: b", "B: c", "C: a", "NA: a")
    assert r.institutions == ("B", "B", "C", "NA")
    lost = MINE.replace('site = "hospital"', "id_per_site = true")
    assert "needs to know the hospital" in faults(lambda: own(tmp_path, lost), UsageError)


def test_one_person_under_two_ids(tmp_path: Path) -> None:
    lines = TABLE.splitlines()

    def people(*names: str) -> Path:
        rows = [f"{x},{n}" for x, n in zip(lines, ["insurance", *names], strict=True)]
        return table(tmp_path / "d", "\n".join(rows) + "\n")

    study = own(tmp_path, MINE.replace("[label]", 'person = "insurance"\n[label]'))
    expect(study, people("1", "2", "NA", "NA"))
    said = faults(lambda: reader.read(study, "baseline", people("X1", "2", "x1", "")), LeakError)
    assert "[L04]" in said
    assert "a = c" in said
    assert "X1" not in said
    assert "nearest: 'insurance'" in faults(
        lambda: reader.read(
            own(tmp_path, MINE.replace("[label]", 'person = "insurence"\n[label]')),
            "baseline",
            tmp_path / "d",
        ),
        DataError,
    )


def test_header_unit_contradicts(tmp_path: Path) -> None:
    study = own(tmp_path, MINE.replace('unit = "years"', 'column = "age (days)"\nunit = "years"'))
    said = faults(
        lambda: reader.read(study, "baseline", table(tmp_path, TABLE.replace("age", "age (days)"))),
        DataError,
    )
    assert "states the unit 'days'" in said


def test_out_of_range_may_be_declared_missing(tmp_path: Path) -> None:
    study = own(tmp_path, MINE.replace("high = 110", 'high = 65\nout_of_range = "missing"'))
    c = reader.read(study, "baseline", table(tmp_path / "d"))
    assert np.isnan(c.values[2, 0])
    assert any("1 values of age outside" in n for n in c.flow.notes)
