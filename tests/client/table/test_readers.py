"""Every shape in which a table comes, and every way in which it can be broken."""

import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.table.cells import (
    Vocabulary,
    factor,
    folded,
    header_unit,
    limit,
    number,
    numbers,
    suspect,
)
from client.table.part import Layout, Part
from client.table.readers import find, read
from common.errors import Fault

PLAIN = Layout()


def good(path: Path, layout: Layout = PLAIN) -> Part:
    faults: list[Fault] = []
    part = read(path, layout, faults)
    assert part is not None, faults
    assert not faults
    return part


def bad(path: Path, layout: Layout = PLAIN) -> str:
    faults: list[Fault] = []
    assert read(path, layout, faults) is None
    assert [f.code for f in faults] == ["D00"]
    assert path.name in str(faults[0])
    return str(faults[0])


@pytest.mark.parametrize(
    ("name", "content", "layout"),
    [
        ("a.csv", "id,site,x\n1,NA,12.5\n2,B,\n", Layout()),
        ("a.csv", "id;site;x\n1;NA;12.5\n2;B;\n", Layout()),
        ("a.tsv", "id\tsite\tx\n1\tNA\t12.5\n2\tB\t\n", Layout()),
        ("a.txt", "#note\n#more\nid\tsite\tx\n1\tNA\t12.5\n2\tB\t\n", Layout(comment="#")),
        ("a.csv", '"id","site","x"\r\n"1","NA","12.5"\r\n"2","B",""\r\n\r\n', Layout()),
        ("a.csv", "id|site|x\n1|NA|12.5\n\n2|B|", Layout()),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_shapes(
    tmp_path: Path, name: str, content: str, layout: Layout, encoding: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode(encoding))
    part = good(path, layout)
    assert part.header == ("id", "site", "x")
    assert part.rows == [["1", "NA", "12.5"], ["2", "B", ""]]


def test_rows_know_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('# c\nid,x\n1,"two\nlines"\n# c\n\n2,b\n')
    part = good(path, Layout(comment="#"))
    assert part.rows == [["1", "two\nlines"], ["2", "b"]]
    assert part.lines == [3, 7]


def test_latin1_needs_to_be_declared(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id,x\n1,männlich\n".encode("latin-1"))
    assert "line 2" in bad(path)
    assert good(path, Layout(encoding="latin-1")).rows == [["1", "männlich"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.csv", b"", "empty"),
        ("blank.csv", b"\n\n", "no header"),
        ("binary.csv", b"id,x\n\x00\x01\x02", "binary"),
        ("ragged.tsv", b"id\tx\ty\n1\t2\t3\n1\t2\n4\t5\t6\t7\n", "line 3 has 2; line 4 has 4"),
        ("open.csv", b'id,x\n1,"never closed\n2,b\n', "quotation mark"),
        ("swallow.csv", b'id,x\n1,"oops\n2,b\n3,c"\n4,d\n', "line 2"),
        ("not.xlsx", b"id,x\n1,2\n", "workbook"),
        ("not.parquet", b"id,x\n1,2\n", "Parquet"),
        ("old.xls", b"\xd0\xcf\x11\xe0", "workbook"),
        ("open.ods", b"PK\x03\x04", "none of the table formats"),
        ("half.xlsx", b"PK\x03\x04 cut off", "workbook"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in bad(path)


@pytest.mark.parametrize("header", [(0,), (0, 1), (-1,)])
@pytest.mark.parametrize("name", ["a.csv", "a.xlsx"])
def test_a_header_is_declared_in_a_row(tmp_path: Path, header: tuple[int, ...], name: str) -> None:
    path = (
        workbook(tmp_path / name, [["id", "x"], ["1", 2.0]])
        if name == "a.xlsx"
        else tmp_path / name
    )
    if name == "a.csv":
        path.write_text("id,x\n1,2\n")
    assert "rows count from 1" in bad(path, Layout(header=header))
    part = read(path, Layout(header=()), [])
    assert part is not None
    assert (part.header, part.rows) == (("1", "2"), [["id", "x"], ["1", "2"]])
    assert list(part.lines) == [1, 2]


def test_truncated_workbook_and_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    book = workbook(tmp_path / "a.xlsx", [["id", "x"], ["1", 2.0]])
    book.write_bytes(book.read_bytes()[:-200])
    bad(book)
    pq.write_table(pa.table({"id": ["a"], "x": [1]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    bad(tmp_path / "a.parquet")


def workbook(path: Path, rows: list[list[object]], sheet: str = "S") -> Path:
    from openpyxl import Workbook

    book = Workbook()
    page = book.worksheets[0]
    page.title = sheet
    for row in rows:
        page.append(row)
    book.save(path)
    return path


def test_workbook_cells(tmp_path: Path) -> None:
    day = datetime.datetime(2020, 3, 1)
    path = workbook(
        tmp_path / "a.xlsx",
        [
            ["id", "x", "on", "d"],
            ["007", 65.0, True, day],
            ["NA", 0.5, None, None],
            [None, None, None, None],
        ],
    )
    assert good(path).rows == [["007", "65", "true", "2020-03-01"], ["NA", "0.5", "", ""]]
    assert good(path, Layout(decimal=",")).column("x") == ["65", "0,5"]
    assert "no sheet 'T'" in bad(path, Layout(sheet="T"))


def test_workbook_of_several_header_rows(tmp_path: Path) -> None:
    rows = [
        ["legend", "1 = yes"],
        ["PATIENT", None, "TUMOUR"],
        ["ID", "Age \xa0 now", "Type"],
        ["a", 3, 1, "comment"],
    ]
    part = good(workbook(tmp_path / "a.xlsx", rows), Layout(header=(2, 3)))
    assert part.header == ("PATIENT / ID", "Age now", "TUMOUR / Type")
    assert part.rows == [["a", "3", "1"]]
    assert part.lines == [4]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["a.xlsx", "a.parquet", "a.csv"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_whatever_is_wrong_with_a_file_is_told(
    tmp_path_factory: pytest.TempPathFactory, name: str, damage: list[tuple[float, int]]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("t") / name
    if name == "a.xlsx":
        workbook(path, [["id", "x"], ["1", 2.0], ["2", None]])
    elif name == "a.parquet":
        pq.write_table(pa.table({"id": ["a", "b"], "x": [1, None]}), path)
    else:
        path.write_text('id,x\n1,"a"\n2,b\n')
    raw = bytearray(path.read_bytes())
    for at, byte in damage:
        raw[int(at * (len(raw) - 1))] = byte
    path.write_bytes(raw)
    faults: list[Fault] = []
    if read(path, PLAIN, faults) is None:
        assert [f.code for f in faults] == ["D00"]


def test_merged_cells_hold_what_is_shown(tmp_path: Path) -> None:
    from openpyxl import load_workbook

    path = workbook(
        tmp_path / "a.xlsx", [["id", "x", "y"], ["1", "A"], ["2"], ["3", "B", 5], ["4"]]
    )
    book = load_workbook(path)
    for ref in ("B2:B3", "B4:C5"):
        book.worksheets[0].merge_cells(ref)
    book.save(path)
    assert good(path).rows == [["1", "A", ""], ["2", "A", ""], ["3", "B", "B"], ["4", "B", "B"]]


def test_formulas_without_results_are_told(tmp_path: Path) -> None:
    assert "formulas" in bad(workbook(tmp_path / "a.xlsx", [["id", "x"], ["1", "=1+1"]]))


def test_parquet_cells(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "id": pa.array([1, 2]),
            "n": pa.array([None, 3], pa.int64()),
            "f": pa.array([1.0, float("nan")]),
            "b": pa.array([True, False]),
            "c": pa.array(["NA", "x"]).dictionary_encode(),
            "d": pa.array([datetime.date(2020, 1, 2), None]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert good(tmp_path / "a.parquet").rows == [
        ["1", "", "1", "true", "NA", "2020-01-02"],
        ["2", "3", "", "false", "x", ""],
    ]


def test_find_skips_hidden_and_lock_files(tmp_path: Path) -> None:
    for name in ("b/t.tsv", "a/t.tsv", "a/.t.tsv", "a/~$t.tsv", "a/other.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n")
    assert find(tmp_path, ("*t.tsv",)) == [tmp_path / "a/t.tsv", tmp_path / "b/t.tsv"]
    assert find(tmp_path / "a/t.tsv", ("t.tsv",)) == [tmp_path / "a/t.tsv"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_round_trip(x: float) -> None:
    assert number(repr(x)) == x
    assert number(repr(x).replace(".", ","), ",") == x


@given(st.text(max_size=12))
def test_what_is_no_number_is_none(text: str) -> None:
    value = number(text)
    if value is not None:
        assert value == float(text)
        assert set(text.strip()) <= set("+-.0123456789eE")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nan",
        "inf",
        "-inf",
        "1_000",
        "1,5",
        "<5",
        "12 mg",
        "0x1",
        "1e999",
        "١٢",
        "'--",
        "2020-01-01",
        "1.2.3",
    ],
)
def test_no_numbers(text: str) -> None:
    assert number(text) is None


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from([(",", "."), (".", ","), (" ", "."), ("'", ",")]),
)
def test_thousands(n: int, marks: tuple[str, str]) -> None:
    thousands, decimal = marks
    text = f"{n:,}".replace(",", thousands)
    assert number(text + decimal + "25", decimal, thousands) == float(f"{n}.25")
    assert number(text, decimal, thousands) == n
    if thousands in text:
        assert number(text, decimal) is None or thousands == "."
        assert number(text[:-1], decimal, thousands) is None


@given(
    st.lists(st.one_of(st.floats(allow_nan=False).map(repr), st.text(max_size=4))),
    st.sampled_from([".", ","]),
)
def test_many_numbers_are_each_read_alike(texts: list[str], decimal: str) -> None:
    assert numbers(texts, decimal) == [number(t, decimal) for t in texts]


@pytest.mark.parametrize(
    ("text", "value"),
    [("<0.5", 0.5), ("> 100", 100), ("≥1,5", 1.5), ("<=2", 2), ("0.5", None), ("<", None)],
)
def test_limits(text: str, value: float | None) -> None:
    assert limit(text) == value


def test_decimal_comma_refuses_points() -> None:
    assert number("1.234,5", ",") is None
    assert number("1.5", ",") is None
    assert number("1,5", ",") == 1.5


@pytest.mark.parametrize(
    ("source", "target", "value"),
    [
        ("days", "years", 1 / 365.25),
        ("ug/L", "ng/mL", 1),
        ("µg/l", "ng/mL", 1),
        ("mm", "cm", 0.1),
        ("kg", "g", 1000),
        ("months", "days", 30.4375),
        ("x", "X ", 1),
    ],
)
def test_units(source: str, target: str, value: float) -> None:
    found = factor(source, target)
    assert found == pytest.approx(value)
    assert factor(target, source) == pytest.approx(1 / value)


def test_unknown_pairs_are_told_apart() -> None:
    assert factor("U/mL", "ng/mL") is None
    assert factor("mg", "mm") is None
    assert factor("points", "years") is None


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("CEA (ug/mL)", "ug/mL"),
        ("age [days]", "days"),
        ("size_mm", "mm"),
        ("cea_ng_ml", "ng/ml"),
        ("days_to_death", "days"),
        ("OS_MONTHS", "months"),
        ("age", None),
        ("ajcc_pathologic_m", None),
        ("age (at index)", None),
        ("age_at_index", None),
        ("n", None),
        ("score (a/b)", "a/b"),
    ],
)
def test_units_in_column_names(name: str, stated: str | None) -> None:
    assert header_unit(name) == stated


def test_suspects() -> None:
    assert suspect([25_000.0, 20_000.0], 0, 120, "years") == "looks like days"
    assert suspect([800.0, 600.0], 0, 120, "years") == "looks like months"
    assert suspect([-5.0], 0, 120, "years") == ""


def test_vocabulary_knows_booleans_only_where_there_are_two() -> None:
    v = Vocabulary(("no", "yes"))
    assert [v.index(t) for t in ("No", " YES ", "0", "1.0", "False", "true", "maybe")] == [
        0,
        1,
        0,
        1,
        0,
        1,
        None,
    ]
    assert Vocabulary(("0", "1")).index("True") == 1
    assert Vocabulary(("f", "m")).index("no") is None
    assert Vocabulary(("a", "b"), {"b": ["Bee", "B 2"]}).index("bee") == 1
    assert folded(" A \xa0 b ") == "a b"
