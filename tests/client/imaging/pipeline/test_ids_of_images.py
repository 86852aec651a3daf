"""Ids of images and of the table: two people never become one, and each hospital's 12 is its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.cohort.reader import Reading, read_table
from client.imaging.pipeline import prepare_images as pipeline
from common.errors import DataError
from tests.client.imaging.pipeline.exams import CT, ct, study, table


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WORKERS", 0)


def read(data: Path, **images: Any) -> Reading:
    return read_table(study(CT, images), "now", data, cache=data.parent / "cache")


def told(reading: Reading) -> str:
    return "\n".join((*reading.cohort.flow.notes, *reading.image_log(reading.cohort.ids)))


@pytest.mark.parametrize("series", [("0012",), ("12", "0012"), ("00012", "0012")])
def test_zeros_that_are_dropped_merge_nobody(tmp_path: Path, series: tuple[str, ...]) -> None:
    data = tmp_path / "data"
    table(data, ["12", "13"])
    for n, patient in enumerate((*series, "13")):
        ct(data / f"s{n}", patient)
    r = read(data, strip_zeros=True)
    assert r.cohort.imaged.tolist() == [len(series) == 1, True]
    if len(series) > 1:
        assert "1 quarantined (D05: 1)" in told(r)
        for name in series:
            assert f"'{name}'" in told(r)


def test_a_table_whose_ids_differ_in_zeros_alone(tmp_path: Path) -> None:
    from dataclasses import replace

    data = tmp_path / "data"
    table(data, ["012", "12", "13"])
    asked = study(None)
    source = {**(asked.source or {})}
    source["tables"] = {
        "table": {"files": ["patients.csv"], "key": "id", "strip_zeros": True, "rows": "agree"}
    }
    with pytest.raises(DataError, match=r"several people: 012 = 12"):
        read_table(replace(asked, source=source), "now", data)
    table(data, ["012", "11", "13"])
    assert read_table(replace(asked, source=source), "now", data).cohort.ids == ("11", "12", "13")
