"""Ids of images and of the table: two people never become one, and each hospital's 12 is its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.cohort.reader import Reading, read_table
from client.imaging.pipeline import prepare_images as pipeline
from common.errors import DataError
from tests.client.imaging.pipeline.exams import CT, ct, own, study, table


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


def hospitals(folder: Path, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{i},{40 + n},{n % 2},{hospital}" for n, (hospital, i) in enumerate(rows)]
    (folder / "patients.csv").write_text("id,age,y,hospital\n" + "\n".join(lines) + "\n")


def per_site(data: Path, **images: Any) -> Reading:
    asked = study(CT, images)
    source = {**(asked.source or {})}
    form = {"files": ["patients.csv"], "key": "id", "id_per_site": True}
    source["tables"] = {"table": form}
    return read_table(replace(asked, source=source), "now", data, cache=data.parent / "cache")


def imaged(r: Reading) -> list[str]:
    return [i for i, p in zip(r.cohort.ids, r.cohort.pictures, strict=True) if p is not None]


def test_each_hospitals_id_is_its_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    hospitals(data, [("Jena", "1"), ("Jena", "2"), ("Ulm", "1"), ("Ulm", "3")])
    for patient in ("2", "3"):
        ct(data / "images" / patient, patient)
    r = per_site(data)
    assert imaged(r) == ["Jena: 2", "Ulm: 3"]
    # whose is the image of a 1? nobody's, and both are told
    ct(data / "images" / "1", "1")
    r = per_site(data)
    assert imaged(r) == ["Jena: 2", "Ulm: 3"]
    assert "2 quarantined (D05: 2)" in told(r)
    assert "which 2 hospitals have" in told(r)
    assert "site_pattern" in told(r)


def test_the_hospital_in_the_path(tmp_path: Path) -> None:
    data = tmp_path / "data"
    hospitals(data, [("Jena", "1"), ("Jena", "2"), ("Ulm", "1"), ("Ulm", "3")])
    for hospital, patient in (("Jena", "1"), ("Ulm", "1"), ("Ulm", "2")):
        ct(
            data / hospital / patient,
            patient,
            own(f"{hospital} {patient}"),
            study_uid=f"1.2.{ord(hospital[0])}.{patient}",
        )
    for pattern in (r"^([A-Z][a-z]+)/", r"^(?P<site>[A-Z][a-z]+)/"):
        r = per_site(data, site_pattern=pattern)
        assert imaged(r) == ["Jena: 1", "Ulm: 1"]
        assert "1 patients with images are not in the table" in told(r)
    (broken,) = (data / "Jena" / "1").glob("*03.dcm")
    broken.write_bytes(broken.read_bytes()[:-100])
    r = per_site(data, site_pattern=r"^([A-Z][a-z]+)/")
    assert imaged(r) == ["Ulm: 1"]
    assert "1 quarantined (D06: 1)" in told(r)
