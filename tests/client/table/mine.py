"""A small table of one's own and its study file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.cohort import reader
from common.study import load as studies
from common.study import study as questions

MINE = """
name = "mine"
id = "patient"
site = "hospital"
nulls = ["NA"]
[label]
column = "spread"
values = ["0", "1"]
[[feature]]
name = "age"
unit = "years"
low = 18
high = 110
[[feature]]
name = "smoker"
values = ["no", "yes"]
[[feature]]
name = "side"
values = ["left", "right"]
map = { L = "left", R = "right" }
"""


TABLE = "patient,hospital,spread,age,smoker,side\na,NA,0,60.5,True,L\nb,B,1,NA,False,R\nc,B,1.0,70,0,left\nd,NA,0,50,1,NA\n"


def own(folder: Path, text: str = MINE) -> questions.Study:
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    return studies.load(str(folder / "mine.toml"))


def table(folder: Path, text: str = TABLE, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def faults(action: Callable[[], object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def expect(study: questions.Study, data: Path) -> reader.Reading:
    r = reader.read_table(study, "baseline", data)
    assert r.cohort.ids == ("a", "b", "c", "d")
    assert r.cohort.labels.tolist() == [0, 1, 1, 0]
    np.testing.assert_array_equal(
        r.cohort.values, [[60.5, 1, 0], [np.nan, 0, 1], [70, 0, 0], [50, 1, np.nan]]
    )
    return r
