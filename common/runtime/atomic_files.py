"""Atomic file writes: written aside, synced, renamed, so that a crash leaves the old file or the
new one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common.errors import RunError


def durable(
    path: Path,
    blob: bytes | Sequence[bytes | memoryview],
    way_out: str,
    *,
    mode: int = 0o600,
    folder: int = 0o700,
) -> None:
    """RunError S03 where the disk is full or the folder cannot be written; `way_out`: what to do
    then. Folders that lack are made."""
    aside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=folder)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.writelines([blob] if isinstance(blob, bytes) else blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise RunError(
            "S03", f"'{path}' cannot be written ({error.strerror}); {way_out}"
        ) from error
