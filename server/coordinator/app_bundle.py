"""Flower app bundle: the folder it is made from.

Two kinds. What a coordinator ships between hospitals holds the ServerApp alone: Flower hands a
bundle to every node that asks, a hospital's courier does not, and there is no code for a site in it
either. What Flower's own engines run (`flwr run`) holds both apps: this checkout, or, where fedmets
is installed, a copy of its packages.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

from common.errors import RunError
from server.config.run_config import Run
from server.ledger import state_store

ROOT = Path(__file__).resolve().parents[2]
IMPORT_PREFIX = __name__.partition("server.")[0]
"""What stands before our packages' names as they are imported here: `fedmets.` where they are
installed."""


@dataclass(frozen=True)
class _Parts:
    packages: tuple[str, ...]
    client_app: str
    others: tuple[str, ...] = ()
    """Patterns of files other than Python's."""


_SERVER = _Parts(("common", "server"), "server.client_app:app")
_BOTH = _Parts(("common", "client", "server"), "client.app:app", ("client/table/sources/*.toml",))


def app(home: Path) -> Path:
    """A folder with a `pyproject.toml` for Flower, for both apps. RunError S03 where the copy cannot
    be written."""
    return ROOT if (ROOT / "pyproject.toml").exists() else _copied(home / "app", _BOTH)


def shipped(home: Path) -> Path:
    """The same, for the ServerApp alone: always a copy."""
    return _copied(home / "server-app", _SERVER)


def _copied(folder: Path, parts: _Parts) -> Path:
    """Packages as they are imported here, and the part of pyproject.toml that Flower reads."""
    packages = folder / IMPORT_PREFIX.rstrip(".")
    try:
        for name in parts.packages:
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
        [f"{name}/**/*.py" for name in parts.packages]
        + list(parts.others)
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
clientapp = "{IMPORT_PREFIX}{parts.client_app}"
[tool.flwr.app.config]
{defaults}"""
    state_store.write(folder / "pyproject.toml", text.encode())
    return folder
