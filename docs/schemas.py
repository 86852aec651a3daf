"""`python -m docs.schemas`: a JSON Schema of each settings file, for editors, made from the classes
that read it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from client.site.privacy_policy import Policy
from client.site.site_file import Site
from client.table.mapping import Alias, MappingFile, SiteAlias
from common.runtime import settings
from common.study.study_file import StudyFile
from deploy.federation import Federation
from docs import reference
from server.config.run_config import Run

FOLDER = Path(__file__).parent / "schemas"
FILES: dict[str, type] = {
    "site": Site,
    "study": StudyFile,
    "mapping": MappingFile,
    "federation": Federation,
    "run": Run,
}
"""Name of a schema -> what the file becomes."""


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _plain(schema: Any) -> Any:
    """Without what TOML cannot say (null), and without defaults that are not said in the file
    (none, infinity, a table)."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema if part != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    plain = {}
    for key, value in schema.items():
        written = isinstance(value, bool | int | str | list) or (
            isinstance(value, float) and math.isfinite(value)
        )
        if key != "default" or (written and value not in ("", [])):
            plain[key] = _plain(value)
    only = plain.get("anyOf", ())
    return {k: v for k, v in plain.items() if k != "anyOf"} | only[0] if len(only) == 1 else plain


def text(name: str) -> str:
    made = settings.adapter(FILES[name]).json_schema(schema_generator=_Untitled)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_plain(made)}
    sections = reference.STUDY if name == "study" else reference.MAPPING
    classes = {cls.__name__: cls for cls in (*sections.values(), Policy, Alias, SiteAlias)}
    _describe(schema, FILES[name])
    for section, of in schema.get("$defs", {}).items():
        _describe(of, classes[section])
    return json.dumps(schema, indent=1, allow_nan=False) + "\n"


def _describe(schema: dict[str, Any], cls: type) -> None:
    """Each key with the sentence that stands below it; wherever that is broken into lines."""
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    for key in reference.keys(cls):
        schema["properties"][key.name]["description"] = " ".join(key.told.split())


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / f"{name}.schema.json").write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
    sys.exit(0)
