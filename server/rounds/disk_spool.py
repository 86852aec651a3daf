"""Disk spool, where large answers wait until it is their site's turn: sums are added in site order,
and memory holds one answer and the sum."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from common.errors import RunError
from common.wire.envelope import Packet

SMALL = 1 << 20
"""Bytes below which an answer stays in memory."""


class Spool:
    """One exchange's answers. Use `opened`, which removes the files afterwards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, site: str, packet: Packet) -> Packet:
        """The same packet, its blob mapped from a file where it is large. RunError S03 where the
        disk is full."""
        if len(packet.blob) < SMALL:
            return packet
        path = self._folder / f"{hashlib.sha256(site.encode()).hexdigest()[:32]}.blob"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # a site may answer in parts: what is mapped of an earlier one stays as it is
            path.unlink(missing_ok=True)
            path.write_bytes(packet.blob)
            with open(path, "rb") as file:
                return replace(
                    packet, blob=memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                )
        except OSError as error:
            raise RunError(
                "S03",
                f"'{path}' cannot be written ({error.strerror}); free space, then resume the run",
            ) from error


@contextmanager
def opened(folder: Path) -> Iterator[Spool]:
    """An empty spool; what is mapped stays readable as long as somebody holds it, though the files
    are gone at the end."""
    rmtree(folder, ignore_errors=True)
    try:
        yield Spool(folder)
    finally:
        rmtree(folder, ignore_errors=True)
