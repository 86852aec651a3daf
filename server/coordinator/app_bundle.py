"""Flower app bundle: the folder it is made from.

Two kinds. Between hospitals nobody reads a bundle: the coordinator's signer runs the ServerApp that
is installed beside it, a courier asks for none. Flower wants one for each run all the same; it is
empty. What Flower's own engines run (`flwr run`) holds both apps: this checkout, or, where fedmets
is installed, a copy of its packages.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

from common.errors import RunError
from server.config.run_config import Run
from server.ledger import state_store

ROOT = Path(__file__).resolve().parents[2]
IMPORT_PREFIX = __name__.partition("server.")[0]
"""What stands before our packages' names as they are imported here: `fedmets.` where they are
installed."""


_PACKAGES = ("common", "client", "server")
_OTHERS = "client/table/sources/*.toml"
"""Files other than Python's."""
_EMPTY = """\
\"\"\"No code: the coordinator's signer runs the ServerApp that is installed there.\"\"\"

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()
"""


def app(home: Path) -> Path:
    """A folder with a `pyproject.toml` for Flower, for both apps. RunError S03 where the copy cannot
    be written."""
    return ROOT if (ROOT / "pyproject.toml").exists() else copied(home / "app")


def empty(home: Path) -> Path:
    """The same, without any code; its one setting is a request's name."""
    folder = home / "empty-app"
    state_store.write(folder / "nothing.py", _EMPTY.encode())
    declared = _declared(["nothing.py"], "nothing:server", "nothing:client", 'request = ""\n')
    state_store.write(folder / "pyproject.toml", declared.encode())
    return folder


def copied(folder: Path) -> Path:
    """Packages as they are imported here, and the part of pyproject.toml that Flower reads."""
    packages = folder / IMPORT_PREFIX.rstrip(".")
    try:
        for name in _PACKAGES:
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
    patterns = [*(f"{name}/**/*.py" for name in _PACKAGES), _OTHERS]
    if IMPORT_PREFIX:
        patterns.append("*.py")
    included = [f"{IMPORT_PREFIX.replace('.', '/')}{pattern}" for pattern in patterns]
    defaults = "".join(f"{f.name} = {json.dumps(f.default)}\n" for f in fields(Run))
    apps = (f"{IMPORT_PREFIX}server.app:app", f"{IMPORT_PREFIX}client.app:app")
    state_store.write(folder / "pyproject.toml", _declared(included, *apps, defaults).encode())
    return folder


def _declared(included: Sequence[str], server: str, client: str, defaults: str) -> str:
    return f"""[project]
name = "fedmets"
version = "{version("fedmets")}"
[tool.flwr.app]
publisher = "fedmets"
fab-include = {json.dumps(list(included))}
[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"
[tool.flwr.app.config]
{defaults}"""
