"""The folder that Flower makes its app bundle from: this checkout, or, where fedmets is installed, a copy of its packages."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

from common.errors import RunError
from server.config.run_config import Run
from server.ledger import state_store

HERE = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "client", "server")
FRONT = __name__.partition("server.")[0]
"""What stands before our packages' names as they are imported here: `fedmets.` where they are installed."""


def app(home: Path) -> Path:
    """A folder with a `pyproject.toml` for Flower. RunError S03 where the copy cannot be written."""
    return HERE if (HERE / "pyproject.toml").exists() else copied(home / "app")


def copied(folder: Path) -> Path:
    """Packages as they are imported here, and the part of pyproject.toml that Flower reads."""
    inside = folder / FRONT.rstrip(".")
    try:
        for name in PACKAGES:
            shutil.copytree(HERE / name, inside / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        if FRONT:
            shutil.copy(HERE / "__init__.py", inside)
    except (OSError, shutil.Error) as error:
        raise RunError("S03", f"'{folder}' cannot be written ({error}); free space or mend permissions") from error
    below = [f"{name}/**/*.py" for name in PACKAGES] + ["client/table/sources/*.toml"] + (["*.py"] if FRONT else [])
    included = [f"{FRONT.replace('.', '/')}{pattern}" for pattern in below]
    defaults = "".join(f"{f.name} = {json.dumps(f.default)}\n" for f in fields(Run))
    text = f"""[project]
name = "fedmets"
version = "{version("fedmets")}"
[tool.flwr.app]
publisher = "fedmets"
fab-include = {json.dumps(included)}
[tool.flwr.app.components]
serverapp = "{FRONT}server.app:app"
clientapp = "{FRONT}client.app:app"
[tool.flwr.app.config]
{defaults}"""
    state_store.write(folder / "pyproject.toml", text.encode())
    return folder
