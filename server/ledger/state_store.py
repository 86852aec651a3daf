"""State store: one file an exchange, written aside and renamed, so that a crash leaves the old one
or the new one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import RunError
from common.runtime.atomic_files import durable
from common.types import Array, Arrays, pieces, sha256, unpack

KEPT_STATES = 2


def save(folder: Path, step: int, arrays: Mapping[str, Array]) -> str:
    """Write the state after `step` and return the SHA-256 of the file; older files but one are
    removed."""
    parts = pieces(arrays)
    path = _path(folder, step)
    write(path, parts)
    for old in sorted(folder.glob("*.state"))[:-KEPT_STATES]:
        old.unlink(missing_ok=True)
    return sha256(parts)


def load(folder: Path, step: int, digest: str) -> Arrays:
    """The state after `step`, verified against the hash that the ledger holds."""
    path = _path(folder, step)
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise RunError(
            "S02",
            f"state file '{path}' cannot be read ({error.strerror}); restore the run folder, or "
            "start a new run",
        ) from error
    if hashlib.sha256(blob).hexdigest() != digest:
        raise RunError(
            "S02",
            f"state file '{path}' is not the one that the ledger names; restore the run folder, "
            "or start a new run",
        )
    return unpack(blob)


def write(path: Path, blob: bytes | Sequence[bytes | memoryview]) -> None:
    """Write a file atomically and durably: aside, synced, renamed."""
    durable(
        path, blob, "free space or mend permissions, then resume the run", mode=0o666, folder=0o777
    )


def replace(path: Path, blob: bytes) -> None:
    """Write a file atomically but not durably: for what is only looked at."""
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_bytes(blob)
        os.replace(aside, path)
    except OSError as error:
        raise RunError(
            "S03",
            f"'{path}' cannot be written ({error.strerror}); free space or mend permissions, then "
            "resume the run",
        ) from error


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:06d}.state"
