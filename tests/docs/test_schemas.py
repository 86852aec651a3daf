"""JSON Schemas of the settings files: as the code has them, and the project's own files fulfil
them."""

from __future__ import annotations

import datetime
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploy import provision
from docs import schemas
from server.config.run_config import Run
from tests.common.runtime.test_settings import FILES
from tests.docs.pages import every_block
from tests.paths import ROOT


def validator(name: str) -> Any:
    schema = json.loads((schemas.FOLDER / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def plain(raw: object) -> Any:
    """As an editor has it: dates are texts."""
    return json.loads(json.dumps(raw, default=str))


def test_they_are_up_to_date() -> None:
    """Else `python -m docs.schemas`."""
    assert {p.name for p in schemas.FOLDER.iterdir()} == {
        f"{name}.schema.json" for name in schemas.FILES
    }
    for name in schemas.FILES:
        assert (schemas.FOLDER / f"{name}.schema.json").read_text() == schemas.text(name), name


@pytest.mark.parametrize("name", schemas.FILES)
def test_every_key_is_described(name: str) -> None:
    schema = json.loads(schemas.text(name))
    for of in (schema, *schema.get("$defs", {}).values()):
        assert [
            key for key, value in of["properties"].items() if not value.get("description")
        ] == []


def test_the_shipped_mappings() -> None:
    check = validator("mapping")
    for path in sorted((ROOT / "client/table/sources").glob("*.toml")):
        check.validate(plain(tomllib.loads(path.read_text())))


def test_the_examples_of_the_pages() -> None:
    seen = set()
    for block in every_block():
        if block.language == "toml":
            raw = tomllib.loads(block.body)
            for name, keys in (
                ("study", {"label", "feature"}),
                ("federation", {"hosts", "sites"}),
                ("site", {"name", "data", "studies"}),
            ):
                if keys <= raw.keys():
                    validator(name).validate(plain(raw))
                    seen.add(name)
    assert seen >= {"study"}


def test_the_site_file_of_a_kit(tmp_path: Path) -> None:
    content = {
        "name": "north",
        "hosts": ["localhost"],
        "studies": ["brain_primary"],
        "sites": ["A"],
    }
    validator("federation").validate(content)
    (tmp_path / "federation.toml").write_text(
        "".join(f"{k} = {json.dumps(v)}\n" for k, v in content.items())
    )
    provision.provision(
        tmp_path / "federation.toml",
        tmp_path / "kits",
        datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC),
    )
    (site,) = (tmp_path / "kits").glob("sites/*/site.toml")
    validator("site").validate(plain(tomllib.loads(site.read_text())))


def test_runs() -> None:
    check = validator("run")
    check.validate(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    )
    check.validate(tomllib.loads(Run(parts=7, quorum=0.5, hyper='{"logistic": {"l2": 3}}').toml))


@pytest.mark.parametrize("name", schemas.FILES)
def test_schema_and_reader_agree(name: str) -> None:
    (file,) = [f for f in FILES if f.name == f"{name}.toml"]
    check = validator(name)
    check.validate(plain(file.content))
    for key, value in (("zzz", 1), *((key, [["wrong"]]) for key in file.content)):
        assert not check.is_valid(plain({**file.content, key: value})), key
