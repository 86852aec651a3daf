"""A column of dates: the day that each cell names, in the notations of hospitals, or why it names
none."""

from __future__ import annotations

import csv
import datetime
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.table.dates import DateColumn, date_column, day
from client.table.mapping import SiteSpec, TableSpec
from client.table.part import Layout
from client.table.readers import read
from client.table.rows import Loaded
from common.errors import Fault, UsageError
from common.runtime import settings as runtime_settings
from common.study.image_sections import ImagesSpec

DAYS = st.dates(datetime.date(1971, 1, 1), datetime.date(2099, 12, 31))
UNAMBIGUOUS = (
    "%Y-%m-%d", "%Y%m%d", "%Y/%m/%d", "%d.%m.%Y", "%d %b %Y", "%d%b%Y", "%d-%B-%Y", "%b %d, %Y",
    "%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M", "%Y-%m-%dT%H:%M",
)  # fmt: skip


@given(DAYS, st.sampled_from(UNAMBIGUOUS))
def test_a_date_is_itself_in_every_notation(date: datetime.date, notation: str) -> None:
    assert day(date.strftime(notation)) == date


@given(DAYS, st.sampled_from("/-"))
def test_day_or_month_first_is_never_guessed(date: datetime.date, mark: str) -> None:
    for order, notation in (("dmy", f"%d{mark}%m{mark}%Y"), ("mdy", f"%m{mark}%d{mark}%Y")):
        text = date.strftime(notation)
        assert day(text, order) == date
        assert day(text) in (None, date)
    if date.day <= 12 and date.day != date.month:
        assert day(date.strftime(f"%d{mark}%m{mark}%Y")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "43467",
        "2019",
        "-30",
        "01/2019",
        "2019-13-01",
        "31.02.2019",
        "2.1.19",
        "soon",
        "2019102",
    ],
)
def test_what_is_no_date_is_none(text: str) -> None:
    assert day(text) is None


@pytest.mark.parametrize(
    ("text", "right"), [("2. März 2019", (2019, 3, 2)), ("02DEZ2019", (2019, 12, 2))]
)
def test_german_months(text: str, right: tuple[int, int, int]) -> None:
    assert day(text) == datetime.date(*right)


def column(
    folder: Path, cells: list[str], names: tuple[str, ...] = ("op",), order: str = ""
) -> DateColumn:
    """Of a table of patients 0, 1, ...; a cell with '|' is two rows, one of '/' alone begins
    another file."""
    files: list[list[list[str]]] = [[]]
    for n, cell in enumerate(cells):
        if cell == "/":
            files.append([])
        files[-1] += [[str(n), part] for part in cell.split("|") if cell != "/"]
    faults: list[Fault] = []
    parts = []
    for k, rows in enumerate(files):
        path = folder / f"t{k}.csv"
        with path.open("w", newline="") as f:
            csv.writer(f).writerows([["id", "op"], *rows])
        part = read(path, Layout(), faults)
        assert part is not None
        parts.append(part)
    spec = TableSpec(name="t", files=("t*.csv",), key=("id",), rows="agree")
    table = Loaded.of(spec, parts, folder, ("missing",), SiteSpec(constant="A"), faults)
    assert not faults
    return date_column(table, names, order)


def test_each_patient_has_a_day_or_a_reason(tmp_path: Path) -> None:
    found = column(
        tmp_path,
        ["2019-01-02", "3.1.2019", "", "NA", "missing", "2019", "unsure", "2019-01-02|2019-01-03",
         "2019-01-02|02.01.2019", "20190105"],
    )  # fmt: skip
    assert {p: d.day for p, d in found.days.items()} == {"0": 2, "1": 3, "8": 2, "9": 5}
    assert set(found.unclear) == {"5", "6", "7"}
    assert "several days" in found.unclear["7"]
    assert found.fault is None


def test_the_order_is_that_which_a_cell_of_the_column_shows(tmp_path: Path) -> None:
    assert column(tmp_path, ["03/04/2019", "13/04/2019"]).days["0"].month == 4
    assert column(tmp_path, ["03/04/2019", "04/13/2019"]).days["0"].month == 3
    both = column(tmp_path, ["03/04/2019", "04/13/2019", "13/04/2019"])
    assert set(both.days) == {"1", "2"}
    assert "date_order" in both.unclear["0"]
    assert column(tmp_path, ["03/04/2019"], order="mdy").days["0"].month == 3


def test_what_one_file_shows_says_nothing_of_another(tmp_path: Path) -> None:
    two = column(tmp_path, ["03/04/2019", "13/04/2019", "/", "03/04/2019", "/", "2019-05-03"])
    assert {n: d.month for n, d in two.days.items()} == {"0": 4, "1": 4, "5": 5}
    assert "date_order" in two.unclear["3"]
    assert column(tmp_path, ["13/04/2019", "/", "03/04/2019"], order="dmy").days["2"].month == 4


def test_the_order_that_slashes_show_says_nothing_of_points(tmp_path: Path) -> None:
    found = column(tmp_path, ["01/31/2019", "05.03.2019", "05/03/2019"]).days
    assert found["1"] == datetime.date(2019, 3, 5)
    assert found["2"] == datetime.date(2019, 5, 3)
    declared = column(tmp_path, ["01.31.2019", "05.03.2019"], order="mdy").days
    assert declared["1"] == datetime.date(2019, 5, 3)


@settings(max_examples=20, deadline=None)
@given(st.lists(DAYS, min_size=1, max_size=12))
def test_no_day_that_a_spreadsheet_has_turned_is_believed(days: list[datetime.date]) -> None:
    """As one of the United States leaves a column of dd/mm/yyyy that it has opened."""
    days = [*days, datetime.date(2019, 1, 31)]
    cells = [
        d.replace(month=d.day, day=d.month).isoformat()
        if d.day <= 12
        else d.strftime("%d/%m/") + str(d.year)
        for d in days
    ]
    with tempfile.TemporaryDirectory() as folder:
        found = column(Path(folder), cells)
        assert all(days[int(n)] == found_day for n, found_day in found.days.items())
        assert all("spreadsheet" in why for why in found.unclear.values())
        # what has days of all kinds was not turned
        assert not column(Path(folder), [*cells, "2019-01-13"]).unclear


@pytest.mark.parametrize(
    ("cells", "code", "words"),
    [
        (["-30", "0", "412"], "D07", "from which day they count"),
        (["43467", "43500"], "D07", "from which day they count"),
        (["03/04/2019", "05/06/2019"], "D07", "date_order"),
        (["first visit", "later"], "D07", "no dates"),
    ],
)
def test_a_column_without_a_day_is_refused(
    tmp_path: Path, cells: list[str], code: str, words: str
) -> None:
    fault = column(tmp_path, cells).fault
    assert fault is not None
    assert fault.code == code
    assert words in str(fault)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    fault = column(tmp_path, ["2019-01-02"], ("surgery", "Surgery date")).fault
    assert fault is not None
    assert fault.code == "D08"
    assert column(tmp_path, ["2019-01-02"], ("surgery", "op")).days
    assert column(tmp_path, ["", ""]).fault is None, "nobody has one: told patient by patient"


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"date": "op"}, "within"),
        ({"within": 90}, "'date', which is not given"),
        ({"after": 0}, "'date', which is not given"),
        ({"date": "op", "within": 9, "examination": "latest"}, "exclude each other"),
        ({"date": "op", "within": 9, "after": -10}, "before the window"),
        ({"date": "op", "within": -1}, "within"),
        ({"date": "op", "within": 9, "date_order": "ymd"}, "date_order"),
        ({"examination": "newest"}, "newest"),
        ({"study": "("}, "study"),
    ],
)
def test_settings_that_contradict_each_other_are_named(
    images: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        runtime_settings.checked(ImagesSpec, images, "x", "C02")
    runtime_settings.checked(
        ImagesSpec, {"date": ["op", "surgery"], "within": 0, "after": 3}, "x", "C02"
    )
