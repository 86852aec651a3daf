"""Settings files: whatever is wrong in one, and however much of it, is told in one error that names
file, key and value."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from client.site import site_file
from client.table import mapping_file
from common.errors import UsageError
from common.study import load as studies
from deploy import federation, kit
from server.config import enrolled_sites
from server.config.run_config import Run
from server.report.checklists import statements

Path_ = tuple[str | int, ...]
KEY, OTHER = "0" * 64, "1" * 64
WRONG = datetime.time(12, 30)
"""No key of any file wants a time of day."""


@dataclass(frozen=True)
class File:
    """A file without a fault, and who reads it."""

    name: str
    read: Callable[[Path], object]
    code: str
    content: dict[str, Any]
    free: tuple[str, ...] = ()
    """Tables whose keys are anybody's."""
    toml: bool = True

    def text(self, content: dict[str, Any]) -> str:
        if not self.toml:
            return json.dumps(content, default=lambda _: None)
        return "".join(f"{quoted(k)} = {written(v)}\n" for k, v in content.items())

    @property
    def wrong(self) -> object:
        return WRONG if self.toml else None


def quoted(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{quoted(k)} = {written(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return (
        value.isoformat()
        if isinstance(value, datetime.date | datetime.time)
        else json.dumps(value, ensure_ascii=False)
    )


def read_run(path: Path) -> object:
    import tomllib

    return Run.parse(tomllib.loads(path.read_text(encoding="utf-8")))


PRIVACY = {
    "epsilon": 3, "delta": 1e-5, "require": "secagg", "participants": ["A", "B"],
    "expires": datetime.date(2027, 1, 1),
    "peers": {"B": KEY, "C": OTHER}, "fewest_sites": 3, "learners": ["logistic"],
    "hyper": {"logistic.rounds": [1, 9]},
}  # fmt: skip
FILES = [
    File(
        "site.toml", site_file.load, "C01",
        {
            "name": "A", "data": "data", "studies": ["s", "own.toml"], "source": "gdc",
            "patients": "ids.txt", "minimum": 5,
            "pooled": True, "coordinator": KEY, "key": "station.key", "log": "log",
            "images": "images", "state": "s", "cache": "c",
            "privacy": PRIVACY,
        },
        ("peers", "hyper"),
    ),
    File(
        "federation.toml", federation.load, "C01",
        {"name": "north", "hosts": ["a.org", "10.0.0.1"], "studies": ["brain_primary"],
        "sites": ["A", "B"], "port": 443,
         "station_image": "x"},
    ),
    File(
        "study.toml", lambda path: studies.load(str(path)), "C02",
        {
            "name": "own", "question": "?", "table": ["a.csv"], "id": "pid", "site": "hospital",
            "nulls": ["NA", -9], "header": [1, 2],
            "times": ["before", "after"], "learners": ["logistic"], "clinical": "logistic",
            "denied": ["relapse"],
            "label": {"column": "spread", "classes": ["no", "yes"], "values": {"no": ["0"],
            "yes": ["1"]}, "unknown": [9]},
            "feature": [
                {"name": "age", "unit": "years", "low": 18, "high": 110.5, "available_at": "before",
                "map": {"old": 99}},
                {"name": "sex", "values": ["f", "m"], "map": {"F": "f"}, "ordered": False,
                "available_at": "after"},
            ],
            "task": {"early": {"time": "before", "caution": "c", "alarm": 0.9}},
            "hyper": {"logistic": {"l2": 2.0}},
            "keep": [{"column": "kind", "values": ["a", 2], "reason": "r"}],
            "survival": {"time": ["t"], "event": "e", "unit": "months", "horizon": 60, "dead": True,
            "alive": False},
        },
        ("map", "task", "hyper", "logistic", "values"),
    ),
    File(
        "mapping.toml", lambda path: mapping_file.named(str(path)), "C02",
        {
            "name": "m", "studies": ["s"], "nulls": ["NA"],
            "tables": {"t": {"files": ["a.csv"], "key": "id", "header": [1], "rows": "agree",
            "keep": [{"column": "x", "values": [1]}]}},
            "site": {"column": "h", "slice": [0, 2], "names": {"A": "Alpha"}, "pick": "most"},
            "label": {
                "within": {"event": "e", "event_values": {"yes": [1]}, "time": "t",
                "unit": "months", "horizon": 24, "competing": "d",
                           "competing_values": {"yes": ["1"]}},
            },
            "features": {"age": {"table": "t", "column": [{"name": "a", "unit": "years"}, "b"],
            "values": {"1": ["x"]}, "optional": True}},
            "survival": {"times": ["t"], "unit": "months", "event": "e", "dead": [1], "alive": [0]},
            "images": {"id": "path", "id_pattern": "x+", "mask": ["*.nii"],
            "regions": {"liver": ["Liver"]}},
        },
        ("names", "event_values", "competing_values", "features", "tables", "values", "regions"),
    ),
    File(
        "run.toml", read_run, "C01",
        {"study": "s", "seed": 1, "parts": 5, "expect": 3, "quorum": 0.5, "deadline": 60,
        "transfer": "int8", "hyper": "{}", "full": True,
         "noise": 0.0, "evaluations": "within_site"},
    ),
    File(
        "statements.toml", lambda path: statements.read(str(path)), "C01", {"tripod": {"17": "a"},
        "claim": {"44": "b"}},
        ("tripod", "claim"),
    ),
    File("sites.toml", enrolled_sites.sites, "C04", {"sites": {"A": KEY, "B": OTHER}}, ("sites",)),
    File(
        "kit.json", lambda path: kit.read(path, kit.Kit), "C04",
        {"federation": "f", "site": "A", "host": "a.org", "port": 443, "studies": ["s"],
        "coordinator": KEY, "version": "1"}, toml=False,
    ),
]  # fmt: skip


def places(content: Any, free: tuple[str, ...], at: Path_ = ()) -> Iterator[tuple[Path_, bool]]:
    """Every value of a document; True: a table in which an unknown key is a fault."""
    yield at, isinstance(content, dict) and (not at or at[-1] not in free)
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        # what a learner's hyperparameters may be, the learner says
        if "hyper" not in at[:1] or "logistic.rounds" in (key, *at):
            yield from places(value, free, (*at, key))


@st.composite
def planted(draw: st.DrawFn, file: File) -> tuple[dict[str, Any], list[Path_], list[Path_]]:
    """The document with unknown keys and values of a wrong kind; none of them inside another."""
    every = list(places(file.content, file.free))
    chosen = draw(st.lists(st.sampled_from([p for p, _ in every if p]), unique=True, max_size=4))
    wrong = [p for p in chosen if not any(p != q and p[: len(q)] == q for q in chosen)]
    tables = [p for p, table in every if table and not any(p[: len(q)] == q for q in wrong)]
    letters = st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\x7f"),
        min_size=1,
        max_size=12,
    )
    strange = letters.map(lambda text: f"zz{text}")
    unknown = draw(
        st.lists(
            st.tuples(st.sampled_from(tables), strange),
            unique=True,
            max_size=3,
            min_size=0 if wrong else 1,
        )
    )
    content = json.loads(json.dumps(file.content, default=lambda date: date.isoformat()))
    for path in [("privacy", "expires")] if file.name == "site.toml" else []:
        content[path[0]][path[1]] = file.content[path[0]][path[1]]
    for path in wrong:
        inside(content, path[:-1])[path[-1]] = file.wrong
    for path, key in unknown:
        inside(content, path)[key] = 1
    return content, wrong, [(*path, key) for path, key in unknown]


def inside(content: Any, path: Path_) -> Any:
    for piece in path:
        content = content[piece]
    return content


def test_the_files_have_no_fault(tmp_path: Path) -> None:
    for file in FILES:
        path = tmp_path / file.name
        path.write_text(file.text(file.content), encoding="utf-8")
        assert file.read(path)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
@profile(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(data=st.data())
def test_every_planted_fault_is_named_in_one_error(
    file: File, tmp_path: Path, data: st.DataObject
) -> None:
    content, wrong, unknown = data.draw(planted(file))
    path = tmp_path / file.name
    path.write_text(file.text(content), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        file.read(path)
    assert caught.value.code == file.code
    faults = caught.value.faults
    where = "run configuration: " if file.name == "run.toml" else str(path)
    assert all(where in fault for fault in faults)
    for at in wrong:
        assert any(names(fault, at) and repr(file.wrong) in fault for fault in faults), (at, faults)
    for at in unknown:
        assert any(
            names(fault, at[:-1]) and f"unknown key {at[-1]!r}" in fault for fault in faults
        ), (at, faults)


def names(fault: str, path: Path_) -> bool:
    """Does it say every key on the way?"""
    return all(piece in fault or quoted(piece) in fault for piece in path if isinstance(piece, str))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
@pytest.mark.parametrize(
    "text",
    [b"", b"name = \n[", b"\xff\xfe", b"[" * 5000, b'{"a": 1'],
    ids=["empty", "broken", "bytes", "deep", "json"],
)
def test_a_file_that_is_none_is_said(file: File, text: bytes, tmp_path: Path) -> None:
    if file.name == "run.toml" or (text == b"" and file.name == "statements.toml"):
        pytest.skip("Flower reads a run's file; nothing need be stated")
    path = tmp_path / file.name
    path.write_bytes(text)
    with pytest.raises(UsageError) as caught:
        file.read(path)
    assert (caught.value.code, str(path) in str(caught.value)) == (file.code, True)


@pytest.mark.parametrize("file", [f for f in FILES if f.name != "run.toml"], ids=lambda f: f.name)
def test_a_file_that_is_not_there_is_said(file: File, tmp_path: Path) -> None:
    for path in (tmp_path / file.name, tmp_path):
        if path == tmp_path and file.name in ("study.toml", "mapping.toml"):
            # a folder is no name of one
            continue
        with pytest.raises(UsageError, match="cannot be read") as caught:
            file.read(path)
        assert caught.value.code == file.code


def test_an_unknown_key_says_which_was_meant_or_which_there_are(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(
        'nam = "A"\nname = "A"\ndata = "."\nstudies = ["s"]\nqqq = 1\n[privacy]\nepsilom = 3\n'
    )
    with pytest.raises(UsageError) as caught:
        site_file.load(path)
    faults = "\n".join(caught.value.faults)
    assert "unknown key 'nam'; did you mean 'name'?" in faults
    assert "privacy has an unknown key 'epsilom'; did you mean 'epsilon'?" in faults
    assert re.search(r"unknown key 'qqq'; allowed: cache, coordinator, data, ", faults)


def test_a_file_of_faults_alone_is_told_in_bounded_words(tmp_path: Path) -> None:
    """A study file comes with a model: a megabyte of unknown keys were 27 of refusal."""
    path = tmp_path / "study.toml"
    path.write_text("".join(f"k{i}=1\n" for i in range(20_000)))
    with pytest.raises(UsageError) as caught:
        studies.load(str(path))
    assert len(str(caught.value)) < 100_000
    assert "faults more" in str(caught.value)
