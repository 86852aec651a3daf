"""Ledger: a run's only memory, a chain of lines. See `common.runtime.hash_chain`.

A line is written and synced after the state file that it names, so the newest intact line always
names a state that is on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import RunError
from common.runtime.hash_chain import Chain

NAME = "ledger.jsonl"


class Ledger(Chain):
    room = "free space, then resume the run"
    mend = "restore the run folder from a backup, or start a new run"
    goes_on = True  # from the state that its last line names


def read(path: Path) -> list[dict[str, Any]]:
    """All lines that a finished or running ledger holds, verified; a torn last line is left out."""
    if not path.is_file():
        raise RunError("S02", f"there is no ledger at '{path}'; is this the folder of a run?")
    return Ledger.contents(path).lines
