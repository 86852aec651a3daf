"""Atomic file writes: written aside, synced, renamed, so that a crash leaves the old file or the
new one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

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
    then. Folders that lack are made. What is written is a new file, of that mode, and nobody
    else's: in a folder that others may write into, too."""
    aside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=folder)
        with fresh(aside, mode) as file:
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


def fresh(path: Path, mode: int = 0o600) -> BinaryIO:
    """A new file for writing. What stood there is taken away: it may be a link to elsewhere, or a
    file that somebody else has laid there and can read. OSError where it cannot be made."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    return open(handle, "wb")
