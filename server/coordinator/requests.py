"""Requests for runs: what the coordinator's people have asked for, on the disk of the process that
signs.

A SuperLink is told a request's name and nothing else, and hands it back with the task. Whoever
holds the SuperLink can so have a run begin late, or not; it cannot alter one, ask for one, or have
one begin twice.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict
from pathlib import Path

from common.errors import FederationError
from server.config.run_config import Run
from server.ledger import state_store

FOLDER, KEY = "requests", "request"
"""The folder, in Flower's home; and the one key of a run's configuration at the SuperLink."""
_NAME = re.compile(r"[0-9a-f]{32}")


def ask(home: Path, run: Run) -> str:
    """Write a request down; its name."""
    name = secrets.token_hex(16)
    (home / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
    state_store.write(_path(home, name), json.dumps(asdict(run), indent=1).encode())
    return name


def take(home: Path, name: object) -> Run:
    """The run of a request, which is begun once: the second to name it is refused, as is whoever
    names none (FederationError R12)."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise FederationError("R12", f"the SuperLink's run names no request ({str(name)[:40]!r})")
    path = _path(home, name)
    taken = path.with_suffix(".taken")
    try:
        path.rename(taken)
        text = taken.read_text()
        taken.unlink()
    except FileNotFoundError as error:
        raise FederationError(
            "R12", f"the SuperLink's run names the request {name[:8]}..., which is not waiting here"
        ) from error
    return Run.parse(json.loads(text))


def withdraw(home: Path, name: str) -> None:
    """What could not be started is not waited for."""
    _path(home, name).unlink(missing_ok=True)


def _path(home: Path, name: str) -> Path:
    return home / FOLDER / f"{name}.json"
