"""Run folders: the runs that lie beside each other in a folder, and which one is meant by a
name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from common.errors import RunError, UsageError
from server.ledger import ledger


class UnknownRunError(RunError):
    """There is no such run. Exit status 4."""

    exit_code: ClassVar[int] = 4


def listed(folder: Path) -> list[Path]:
    """The folders that hold a ledger, the newest run first: by name, which begins with the time."""
    try:
        return sorted(
            (p for p in folder.iterdir() if (p / ledger.NAME).is_file()),
            key=lambda p: p.name,
            reverse=True,
        )
    except OSError:
        return []


def chosen(word: str, folder: Path) -> Path:
    """A run by its folder, by that folder's name or by the run's own, each of which may be cut
    short; without a word the newest."""
    if word and (Path(word) / ledger.NAME).is_file():
        return Path(word)
    runs = listed(folder)
    if not word:
        if runs:
            return runs[0]
        raise UnknownRunError(
            "S01", f"there is no run in '{folder}'; say where the runs are: --out DIR"
        )
    exact = [p for p in runs if word in (p.name, named(p))]
    matching = exact or [p for p in runs if p.name.startswith(word) or named(p).startswith(word)]
    if not matching:
        raise UnknownRunError(
            "S01",
            f"'{word}' holds no run, and none in '{folder}' is called so: fedmets server runs",
        )
    if len(matching) > 1:
        raise UsageError(
            "C01", f"'{word}' may be {', '.join(p.name for p in matching[:6])}; write more of it"
        )
    return matching[0]


def named(path: Path) -> str:
    """The run's name, as its ledger's first line has it; '' where that cannot be read."""
    try:
        with open(path / ledger.NAME, "rb") as file:
            return str(json.loads(file.readline(1 << 20))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
