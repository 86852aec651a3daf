"""A prediction sets aside who has a cell that cannot be read, by column and value, and nobody
else."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.cohort import reader
from common.errors import DataError
from common.study import load as studies
from common.study.study import Study

STUDY = """
name = "mine"
id = "patient"
[label]
column = "spread"
values = ["0", "1"]
[[feature]]
name = "age"
unit = "years"
low = 18
high = 110
[[feature]]
name = "side"
values = ["left", "right"]
"""

BAD = {
    "age": ("sixty", "<50", "1e400", "17", "-999", "6O", "60,5"),
    "side": ("middle", "not reported", "7"),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("study") / "mine.toml"
    path.write_text(STUDY)
    return studies.load(str(path))


def reading(study: Study, rows: list[tuple[str, str, str]], *, strict: bool) -> reader.Reading:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "new.csv"
        path.write_text(
            "patient;age;side\n" + "".join(f"{';'.join(row)}\n" for row in rows), encoding="utf-8"
        )
        return reader.read_unlabelled(study, "baseline", path, strict=strict)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["", "18", "60.5", "110", *BAD["age"]]),
        st.sampled_from(["", "left", "RIGHT", *BAD["side"]]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40)
@given(ROWS)
def test_who_has_a_bad_cell_is_named_and_the_others_are_read_as_without_them(
    study: Study, cells: list[tuple[str, str]]
) -> None:
    """The rule from the cells alone: bad is who has a bad cell; refused is a table with a column
    that is bad in more than half of the rows, or of which nobody is left."""
    rows = [(f"p{n:02d}", age, side) for n, (age, side) in enumerate(cells)]
    bad = {
        patient: [(c, v) for c, v in (("age", age), ("side", side)) if v in BAD[c]]
        for patient, age, side in rows
    }
    good = [row for row in rows if not bad[row[0]]]
    most = any(2 * sum(c in dict(b) for b in bad.values()) > len(rows) for c in BAD)
    if not good or most:
        with pytest.raises(DataError):
            reading(study, rows, strict=False)
        return
    lenient = reading(study, rows, strict=False)
    alone = reading(study, good, strict=True)
    assert lenient.cohort.ids == alone.cohort.ids
    np.testing.assert_array_equal(lenient.cohort.values, alone.cohort.values)
    assert lenient.unreadable.keys() == {p for p, b in bad.items() if b}
    for patient, why in lenient.unreadable.items():
        assert lenient.left_out[patient] == why
        for column, value in bad[patient]:
            assert f"'{value}' in column '{column}'" in why
    assert lenient.cohort.flow.read == len(rows)
    if lenient.unreadable:
        with pytest.raises(DataError):
            reading(study, rows, strict=True)


def test_an_empty_id_and_a_second_row_are_their_patients_alone(study: Study) -> None:
    rows = [("a", "50", "left"), ("", "60", "left"), ("b", "70", ""), ("b", "71", "")]
    rows += [("c", "40", "right")]
    r = reading(study, rows, strict=False)
    assert r.cohort.ids == ("a", "c")
    assert r.left_out == {
        "new.csv:3": "the id is empty, column 'patient' (D05)",
        "b": "several rows where one is declared (D02)",
    }
    assert any("declare duplicates" in note for note in r.cohort.flow.notes)


def test_an_unreadable_row_contradicts_none_of_its_patient(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(STUDY.replace("[label]", 'duplicates = "agree"\n[label]'))
    study = studies.load(str(tmp_path / "s.toml"))
    rows = [("a", "50", "left"), ("b", "70", "left"), ("b", "old", "left"), ("c", "1", "left")]
    r = reading(study, [*rows, ("d", "20", "left")], strict=False)
    assert r.unreadable == {
        "b": "'old' in column 'age' (row 4) (D01)",
        "c": "'1' in column 'age' (row 5) (D07)",
    }
    training = tmp_path / "t.csv"
    training.write_text("patient,age,side,spread\na,50,left,1\nb,x,left,0\nc,50,left,0\n")
    with pytest.raises(DataError, match="'x' in 1 rows"):
        reader.read_table(study, "baseline", training)
