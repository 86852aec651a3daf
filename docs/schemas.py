"""`python -m docs.schemas`: a JSON Schema of each settings file, for editors, made from the classes that read it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from client.site.privacy_policy import Policy
from client.site.site_file import Site
from client.table.mapping import Alias, MappingFile
from common.runtime import settings
from common.study.study_file import StudyFile
from deploy.federation import Federation
from docs import reference
from server.config.run_config import Run

FOLDER = Path(__file__).parent / "schemas"
FILES: dict[str, type] = {"site": Site, "study": StudyFile, "mapping": MappingFile, "federation": Federation, "run": Run}
"""Name of a schema -> what the file becomes."""


def text(name: str) -> str:
    schema = settings.json_schema(FILES[name])
    sections = reference.STUDY if name == "study" else reference.MAPPING
    classes = {cls.__name__: cls for cls in (*sections.values(), Policy, Alias)}
    _describe(schema, FILES[name])
    for section, of in schema.get("$defs", {}).items():
        _describe(of, classes[section])
    return json.dumps(schema, indent=1, allow_nan=False) + "\n"


def _describe(schema: dict[str, Any], cls: type) -> None:
    """Each key with the sentence that stands below it."""
    for key in reference.keys(cls):
        schema["properties"][key.name]["description"] = " ".join(key.told.split())


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / f"{name}.schema.json").write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
    sys.exit(0)
