"""Flower app bundle: the folder it is made from. This checkout, or, where fedmets is installed, a
copy of its packages."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

from common.errors import RunError
from server.config.run_config import Run
from server.ledger import state_store

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "client", "server")
IMPORT_PREFIX = __name__.partition("server.")[0]
"""What stands before our packages' names as they are imported here: `fedmets.` where they are
installed."""


def app(home: Path) -> Path:
    """A folder with a `pyproject.toml` for Flower. RunError S03 where the copy cannot be
    written."""
    return ROOT if (ROOT / "pyproject.toml").exists() else copied(home / "app")


def copied(folder: Path) -> Path:
    """Packages as they are imported here, and the part of pyproject.toml that Flower reads."""
    packages = folder / IMPORT_PREFIX.rstrip(".")
    try:
        for name in PACKAGES:
            shutil.copytree(
                ROOT / name,
                packages / name,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        if IMPORT_PREFIX:
            shutil.copy(ROOT / "__init__.py", packages)
    except (OSError, shutil.Error) as error:
        raise RunError(
            "S03", f"'{folder}' cannot be written ({error}); free space or mend permissions"
        ) from error
    patterns = (
        [f"{name}/**/*.py" for name in PACKAGES]
        + ["client/table/sources/*.toml"]
        + (["*.py"] if IMPORT_PREFIX else [])
    )
    included = [f"{IMPORT_PREFIX.replace('.', '/')}{pattern}" for pattern in patterns]
    defaults = "".join(f"{f.name} = {json.dumps(f.default)}\n" for f in fields(Run))
    text = f"""[project]
name = "fedmets"
version = "{version("fedmets")}"
[tool.flwr.app]
publisher = "fedmets"
fab-include = {json.dumps(included)}
[tool.flwr.app.components]
serverapp = "{IMPORT_PREFIX}server.app:app"
clientapp = "{IMPORT_PREFIX}client.app:app"
[tool.flwr.app.config]
{defaults}"""
    state_store.write(folder / "pyproject.toml", text.encode())
    return folder
