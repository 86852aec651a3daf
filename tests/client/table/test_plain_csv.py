"""The fast way and the strict reader give the same cells, faults and line numbers, whatever stands
in a file."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.table import delimited_text
from client.table.part import Layout, Part
from client.table.readers import read
from common.errors import Fault

LAYOUTS = (
    Layout(),
    Layout(header=(2,)),
    Layout(header=()),
    Layout(header=(1, 2)),
    Layout(comment="#"),
    Layout(comment="#", header=(2,)),
    Layout(delimiter=";"),
    Layout(encoding="latin-1"),
    Layout(encoding="ascii"),
    Layout(encoding="cp1252", comment="//"),
    Layout(encoding="utf-16-le"),
    Layout(encoding="none such"),
)
CELLS = st.text(
    st.sampled_from(list('ab1 .,;\t|"\n\r#/\0\x0b\x1c\x85\xa0\u2028\ufeffé€🎈')), max_size=6
)
PLAIN = st.text(st.sampled_from(list("ab1 .-é€")), max_size=6)


@dataclass(frozen=True)
class Outcome:
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[int, ...] = ()
    faults: tuple[Fault, ...] = ()


def outcome(path: Path, layout: Layout) -> Outcome:
    faults: list[Fault] = []
    part = read(path, layout, faults)
    if part is None:
        return Outcome(faults=tuple(faults))
    return Outcome(part.header, tuple(map(tuple, part.rows)), tuple(part.lines), tuple(faults))


def strict(path: Path, layout: Layout) -> Outcome:
    with mock.patch.object(delimited_text, "plainly_read", return_value=None):
        return outcome(path, layout)


def fast(path: Path, layout: Layout = LAYOUTS[0]) -> Part | None:
    return delimited_text.plainly_read(path, path.read_bytes(), layout)


@st.composite
def tables(draw: st.DrawFn) -> str:
    """A table as a program writes it, then a few characters put in where they do not belong."""
    width = draw(st.integers(1, 4))
    cells = draw(st.sampled_from([PLAIN, PLAIN, CELLS]))
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=7))
    out = io.StringIO()
    feed = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(
        out, delimiter=draw(st.sampled_from(",,;\t|")), lineterminator=feed, quoting=quoting
    )
    writer.writerows(rows)
    text = out.getvalue()
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        extra = draw(
            st.sampled_from(
                [
                    '"',
                    '""',
                    ",",
                    "\n",
                    "\r",
                    "\r\n",
                    "\n\n",
                    "#",
                    "\n# c\n",
                    "//",
                    " ",
                    "\0",
                    "\n,,\n",
                    "\x85",
                    "\ufeff",
                    "\n\ufeff",
                ]
            )
        )
        text = text[:at] + extra + text[at:]
    head = draw(st.sampled_from(["", "", "", "# a note\n", '# one\n# two "\n', "a title\n"]))
    return head + (text if draw(st.booleans()) else text.rstrip("\r\n"))


@settings(max_examples=1500, deadline=None)
@given(
    st.one_of(tables(), tables(), st.text(st.sampled_from(list('ab,;"\n\r\t #/é\0')), max_size=30)),
    st.sampled_from(
        ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"]
    ),
    st.sampled_from(LAYOUTS),
    st.sampled_from(["a.csv", "a.tsv"]),
)
@example('id,x\n1,"never closed\n2,b\n', "utf-8", LAYOUTS[0], "a.csv")
@example('id,x\n1,"oops\n2,b\n3,c"\n4,d\n', "utf-8", LAYOUTS[0], "a.csv")
@example('id,x\n1,"a""b"\n\n , \n2,""""\r\n', "utf-8", LAYOUTS[0], "a.csv")
@example("id,id\n1,2\n", "utf-8", LAYOUTS[0], "a.csv")
@example("x\n1\n\n2", "utf-8", LAYOUTS[0], "a.csv")
@example("#\n#\nid,x\n\n1,2\n", "utf-8", LAYOUTS[3], "a.csv")
@example("id,x\n1,\x85#a\n2,b\n", "utf-8", LAYOUTS[3], "a.csv")
@example("id,x\n\ufeff1,a\n", "utf-8", LAYOUTS[0], "a.csv")
@example("id,x\n\n\ufeff1,a\n", "utf-8-sig", LAYOUTS[0], "a.csv")
@example("#é\nid,x\n1,a\n", "latin-1", LAYOUTS[3], "a.csv")
def test_both_ways_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str, layout: Layout, name: str
) -> None:
    path = tmp_path_factory.mktemp("t") / name
    path.write_bytes(text.encode(encoding, "replace"))
    assert outcome(path, layout) == strict(path, layout)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=4), st.binary(max_size=40), st.sampled_from(LAYOUTS))
def test_both_ways_give_the_same_of_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, note: bytes, raw: bytes, layout: Layout
) -> None:
    path = tmp_path_factory.mktemp("t") / "a.csv"
    path.write_bytes((b"#" + note + b"\n" if layout.comment else b"") + b"id,x\n" + raw)
    assert outcome(path, layout) == strict(path, layout)


@pytest.mark.parametrize(
    "text",
    [
        "id,x\n1,2\n",
        "id,x\r\n1,2\r\n\r\n3,4",
        '"id","x"\n"1","a ""b"", c"\n"2",""\n',
        "id,id\n1,é\n",
        "id,x\n\n,\n1,2\n , \n",
    ],
)
def test_ordinary_tables_take_the_fast_way(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, newline="")
    assert fast(path) is not None
    assert outcome(path, LAYOUTS[0]) == strict(path, LAYOUTS[0])


@pytest.mark.parametrize(
    "text",
    [
        'id,x\n1,"never closed\n',
        'id,x\n1,"two\nlines"\n',
        'id,x\n1,a"b"\n',
        'id,x\n1,"a"b\n',
        "id,x\r1,2\r",
        "id,x\n1,2,3\n",
        "id,x\n1,\0\n",
        "id,x\n",
        "id,x\n1,2\n# late\n",
    ],
)
def test_on_doubt_the_strict_reader_decides(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, newline="")
    assert fast(path, LAYOUTS[3]) is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_every_encoding_takes_the_fast_way(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id,x\n1,männlich\n".encode(encoding))
    part = fast(path, Layout(encoding="latin-1"))
    assert part is not None
    assert part.rows == [["1", "männlich"]]


@pytest.mark.parametrize("length", [3_000_000, 10_000_001])
@pytest.mark.parametrize("mark", ["", '"'])
def test_huge_cells(tmp_path: Path, length: int, mark: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"id,x\n1,2\n2,{mark}{'y' * length}{mark}\n3,4\n")
    found = outcome(path, LAYOUTS[0])
    assert found == strict(path, LAYOUTS[0])
    assert bool(found.faults) == (length > 10_000_000)


def test_marks_and_lines_that_straddle_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.table import plain_csv

    path = tmp_path / "a.csv"
    path.write_text('id,x\n"1","a ""b"" , c"\n"2","",\n3,"""\n"')
    good = tmp_path / "b.csv"
    good.write_text('id,x\n"1","a ""b"" , c"\n"2",""\n3,""""\n')
    for block in range(1, 12):
        monkeypatch.setattr(plain_csv, "_BLOCK", block)
        assert fast(path) is None
        part = fast(good)
        assert part is not None
        assert part.rows == [["1", 'a "b" , c'], ["2", ""], ["3", '"']]
        assert list(part.lines) == [2, 3, 4]
