"""One table in each format that hospitals hold: the same cells from all, and whatever is damaged is
told."""

import datetime
import gzip
import io
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyreadstat
import pytest
import xlwt
from hypothesis import given, settings
from hypothesis import strategies as st

from client.table import delimited_text
from client.table.cells import folded
from client.table.draft.study_draft import draft
from client.table.part import Layout
from client.table.readers import find, read
from common.errors import Fault
from common.study.study_file import ANY_TABLE
from tests.client.table.mine import TABLE, expect, own
from tests.client.table.test_readers import bad, good

HEADER = ["patient", "ward", "age", "dose"]
ROWS = st.lists(
    st.tuples(
        st.from_regex(r"[a-z]{1,6}", fullmatch=True),
        st.sampled_from(["", "NA", "north", "Süd"]),
        st.one_of(st.none(), st.integers(-99, 120)),
        st.one_of(st.none(), st.floats(-1e6, 1e6).map(lambda x: round(x, 3))),
    ),
    min_size=1,
    max_size=6,
)
Rows = list[tuple[str, str, int | None, float | None]]


def text(rows: Rows) -> bytes:
    lines = [HEADER, *([("" if c is None else str(c)) for c in row] for row in rows)]
    return "".join(f"{','.join(line)}\n" for line in lines).encode()


def old_workbook(path: Path, rows: Rows) -> None:
    book = xlwt.Workbook()
    sheet = book.add_sheet("patients")
    for y, row in enumerate([HEADER, *rows]):
        for x, cell in enumerate(row):
            if cell not in (None, ""):
                sheet.write(y, x, cell)
    book.save(str(path))


def statistics(path: Path, rows: Rows) -> None:
    frame = pd.DataFrame(rows, columns=HEADER)
    frame[["age", "dose"]] = frame[["age", "dose"]].astype(float)
    write = {
        "sav": pyreadstat.write_sav,
        "dta": pyreadstat.write_dta,
        "xpt": pyreadstat.write_xport,
    }
    write[path.suffix[1:]](frame, str(path))


def save(path: Path, rows: Rows) -> None:
    if path.suffix == ".xls":
        old_workbook(path, rows)
    elif path.suffix in (".sav", ".dta", ".xpt"):
        statistics(path, rows)
    else:
        blob = text(rows)
        path.write_bytes(gzip.compress(blob) if path.suffix.lower() == ".gz" else blob)


@settings(max_examples=30)
@given(
    ROWS, st.sampled_from(["t.data", "t.csv.gz", "T.CSV.GZ", "t.xls", "t.sav", "t.dta", "t.xpt"])
)
def test_every_format_has_the_same_cells(rows: Rows, name: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        save(path, rows)
        part = good(path)
    assert part.header == tuple(HEADER)
    for read_row, row in zip(part.rows, rows, strict=True):
        assert read_row[:2] == list(row[:2])
        for cell, value in zip(read_row[2:], row[2:], strict=True):
            assert (float(cell) if cell else None) == value


@pytest.mark.parametrize("suffix", ["sav", "dta"])
def test_labels_of_values_become_levels(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"patient": ["a", "b", "c", "d"], "sex": [1.0, 2.0, None, 3.0]})
    frame["seen"] = [datetime.date(2020, 3, 1), None, datetime.date(1999, 12, 31), None]
    write = {"sav": pyreadstat.write_sav, "dta": pyreadstat.write_dta}[suffix]
    write(
        frame,
        str(tmp_path / f"t.{suffix}"),
        variable_value_labels={"sex": {1: "male", 2: "female"}},
    )
    part = good(tmp_path / f"t.{suffix}")
    assert part.column("sex") == ["male", "female", "", "3"]
    assert part.column("seen") == ["2020-03-01", "", "1999-12-31", ""]


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["yes", "Yes", "no", "2", "4"]), min_size=1, max_size=3))
def test_labels_that_collide_keep_the_values_apart(labels: list[str]) -> None:
    """Of one variable: whatever its labels are, different values read differently, and a value says
    its label."""
    named = dict(enumerate(labels, 1))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.sav"
        frame = pd.DataFrame({"patient": list("abcd"), "x": [1.0, 2.0, 3.0, 4.0]})
        pyreadstat.write_sav(frame, str(path), variable_value_labels={"x": named})
        cells = good(path).column("x")
    assert len({folded(cell) for cell in cells}) == 4
    for value, cell in enumerate(cells, 1):
        assert cell in (named.get(value, str(value)), f"{value} = {named.get(value)}")


@pytest.mark.parametrize("suffix", [".xls", ".xlsx"])
def test_a_hidden_sheet_is_read_only_where_it_is_named(tmp_path: Path, suffix: str) -> None:
    """It may hold older patients, and more of them than the one that is shown."""
    old, new = [("q", "north", 1, 0.5)] * 90, [(f"p{n}", "south", 2, 0.25) for n in range(30)]
    path = tmp_path / f"t{suffix}"
    if suffix == ".xls":
        book = xlwt.Workbook()
        for name, rows in (("old", old), ("new", new)):
            sheet = book.add_sheet(name)
            sheet.visibility = int(name == "old")
            for y, row in enumerate([HEADER, *rows]):
                for x, cell in enumerate(row):
                    sheet.write(y, x, cell)
        book.set_active_sheet(1)
        book.save(str(path))
    else:
        with pd.ExcelWriter(path) as writer:
            for name, rows in (("old", old), ("new", new)):
                pd.DataFrame(rows, columns=HEADER).to_excel(writer, sheet_name=name, index=False)
            writer.book["old"].sheet_state = "hidden"
            writer.book.active = 1
    assert len(good(path).rows) == 30
    assert len(good(path, Layout(sheet="old")).rows) == 90
    drafted = draft(path)
    assert "30 rows" in drafted
    assert "sheet" not in drafted


def test_cells_of_an_old_workbook(tmp_path: Path) -> None:
    book = xlwt.Workbook()
    book.add_sheet("notes").write(0, 0, "read me")
    sheet = book.add_sheet("data")
    day = xlwt.easyxf(num_format_str="YYYY-MM-DD")
    for x, name in enumerate(["id", "day", "flag", "ward"]):
        sheet.write(0, x, name)
    for y in (1, 2):
        sheet.write(y, 0, 7.0 + y / 2)
        sheet.write(y, 1, datetime.datetime(2021, 5, y), day)
        sheet.write(y, 2, y == 1)
    sheet.write_merge(1, 2, 3, 3, "east")
    book.save(str(tmp_path / "t.xls"))
    rows = good(tmp_path / "t.xls", Layout(sheet="data")).rows
    assert rows == [["7.5", "2021-05-01", "true", "east"], ["8", "2021-05-02", "false", "east"]]
    assert "it has notes, data" in bad(tmp_path / "t.xls", Layout(sheet="dta"))


def test_what_is_only_called_an_old_workbook_is_read_as_what_it_is(tmp_path: Path) -> None:
    from openpyxl import Workbook

    (tmp_path / "text.xls").write_text("id\tx\na\t1\n")
    book = Workbook()
    for row in (["id", "x"], ["a", 1]):
        book.worksheets[0].append(row)
    book.save(tmp_path / "new.xlsx")
    (tmp_path / "new.xlsx").rename(tmp_path / "new.xls")
    for name in ("text.xls", "new.xls"):
        assert good(tmp_path / name).rows == [["a", "1"]]


@pytest.mark.parametrize("suffix", ["xls", "csv", "txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "start", ["<html>", "<TABLE border=1>", "\n<!DOCTYPE html>", "<?xml?>", "MIME-Version: 1.0\n"]
)
def test_a_page_is_no_table(tmp_path: Path, start: str, encoding: str, suffix: str) -> None:
    page = f"{start}\n<tr><td>id</td><td>x</td></tr>\n<tr><td>a</td><td>1</td></tr>\n"
    (tmp_path / f"t.{suffix}").write_text(page, encoding)
    assert "web page" in bad(tmp_path / f"t.{suffix}")


@settings(max_examples=20)
@given(st.data())
def test_a_damaged_file_is_told(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["t.csv.gz", "t.xls", "t.sav", "t.dta", "t.sas7bdat"]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        if path.suffix != ".sas7bdat":
            save(path, [("a", "north", 3, 0.5)] * 3)
            blob = path.read_bytes()
            path.write_bytes(blob[: data.draw(st.integers(1, max(1, min(60, len(blob) - 1))))])
        else:
            path.write_bytes(data.draw(st.binary(min_size=1, max_size=600)))
        bad(path)


@settings(max_examples=20)
@given(st.sampled_from(["xpt", "dta", "por", "sav"]), st.floats(0.3, 0.995))
def test_a_file_of_a_statistics_package_that_is_cut_short_loses_nothing_unsaid(
    suffix: str, part: float
) -> None:
    frame = pd.DataFrame({"id": [f"p{n}" for n in range(200)], "sex": [n % 2 for n in range(200)]})
    named = {"sex": {0: "f", 1: "m"}}
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"t.{suffix}"
        if suffix in ("sav", "dta"):
            write = pyreadstat.write_sav if suffix == "sav" else pyreadstat.write_dta
            write(frame, str(path), variable_value_labels=named)
        else:
            write = pyreadstat.write_xport if suffix == "xpt" else pyreadstat.write_por
            write(frame, str(path))
        whole = [list(row) for row in good(path).rows]
        blob = path.read_bytes()
        length = int(part * len(blob))
        path.write_bytes(blob[: length + (suffix == "xpt" and length % 80 == 0)])
        faults: list[Fault] = []
        cut = read(path, Layout(), faults)
        assert faults or (cut is not None and cut.rows == whole)


def test_a_gzipped_table_is_unpacked_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited_text, "LARGEST_TEXT", 3 << 20)
    squeeze = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    blob = io.BytesIO()
    for _ in range(64):
        blob.write(squeeze.compress(b"0," * (1 << 19)))
    (tmp_path / "t.csv.gz").write_bytes(blob.getvalue() + squeeze.flush())
    assert "more than 3 MB" in bad(tmp_path / "t.csv.gz")
    (tmp_path / "u.csv.gz").write_bytes(gzip.compress(b""))
    assert "holds nothing" in bad(tmp_path / "u.csv.gz")
    (tmp_path / "u.xlsx.gz").write_bytes(gzip.compress(b"PK"))
    assert "none of the table formats" in bad(tmp_path / "u.xlsx.gz")


def test_a_study_reads_every_format_by_default(tmp_path: Path) -> None:
    study = own(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t.csv.gz").write_bytes(gzip.compress(TABLE.encode()))
    expect(study, tmp_path / "data")
    for name in ("a.xls", "b.sav", "c.dta", "d.sas7bdat", "e.data", "f.xpt", "g.csv.gz"):
        (tmp_path / "all" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "all" / name).write_bytes(b"x")
    assert len(find(tmp_path / "all", ANY_TABLE)) == 7


@pytest.mark.parametrize("name", ["t.csv.gz", "t.xls", "t.sav"])
def test_a_draft_of_every_format_is_a_study_that_reads_it(tmp_path: Path, name: str) -> None:
    rows: Rows = [(f"p{n}", ("north", "south")[n % 2], 40 + n % 9, n / 4) for n in range(60)]
    save(tmp_path / name, rows)
    text = draft(tmp_path / name)
    assert f'table = "{name}"' in text
    assert 'id = "patient"' in text
    assert 'name = "age"' in text
