"""An append-only file of JSON lines, each carrying the hash of the line before it: nothing in it can be altered, or taken out, unseen.

It is the coordinator's ledger, and at a site the budget and the record of what was asked and what left.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import RunError

GENESIS = "0" * 64


class Chain:
    """Opened for appending; `head` is the hash of the last line. Whoever makes a kind of it says what to do when something is wrong."""

    room = "free space"
    """Said where the disk is full."""
    mend = "restore it from a backup"
    """Said where it was altered or damaged."""

    def __init__(self, path: Path) -> None:
        """Open or create. A last line that was cut short by a crash is removed; any other damage is an error (S02)."""
        self.path = path
        self.torn = 0
        self.lines: list[dict[str, Any]] = []
        self.head = GENESIS
        if path.exists():
            self.lines, intact = intact_lines(path, self.mend)
            self.torn = path.stat().st_size - intact
            if self.torn:
                with _opened(path, "r+b") as f:
                    f.truncate(intact)
        if self.lines:
            self.head = str(self.lines[-1]["hash"])
        self._count, self._remembers = len(self.lines), True
        self._file = _opened(path, "ab")

    def forget(self) -> None:
        """Hold no lines in memory from now on: the file is what is read."""
        self.lines, self._remembers = [], False

    def append(self, kind: str, **content: Any) -> dict[str, Any]:
        """Add a line, synced to disk before it returns."""
        body = {"n": self._count, "kind": kind, **content, "prev": self.head}
        line = {**body, "hash": _hash(body)}
        rest = memoryview(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        size = os.fstat(self._file.fileno()).st_size
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # half a line would spoil the next one
                os.ftruncate(self._file.fileno(), size)
            raise RunError("S03", f"'{self.path}' cannot be written ({error.strerror}); {self.room}") from error
        self._count, self.head = self._count + 1, str(line["hash"])
        if self._remembers:
            self.lines.append(json.loads(json.dumps(line)))
        return line

    def close(self) -> None:
        self._file.close()


def intact_lines(path: Path, mend: str) -> tuple[list[dict[str, Any]], int]:
    """The verified lines, and how many bytes they take. A line that was cut short is left out; any other damage is an error (S02)."""
    lines: list[dict[str, Any]] = []
    previous, taken = GENESIS, 0
    raw = path.read_bytes()
    for number, (text, whole) in enumerate(_split(raw), start=1):
        try:
            line = linked(text, previous, number)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if not whole:
                break  # the line that was being written when the power went
            raise RunError("S02", f"'{path}' line {number} was altered or damaged ({error}); {mend}") from error
        if not whole:
            break
        lines.append(line)
        previous, taken = line["hash"], taken + len(text) + 1
    return lines, taken


def linked(text: bytes, previous: str, number: int) -> dict[str, Any]:
    """Line `number` (from 1), which must follow the line of hash `previous`. ValueError and the like where it does not."""
    line: dict[str, Any] = json.loads(text)
    body = {k: v for k, v in line.items() if k != "hash"}
    if line["prev"] != previous or line["hash"] != _hash(body) or line["n"] != number - 1:
        raise ValueError("its hash or its link to the line before does not fit")
    return line


def _split(raw: bytes) -> Iterator[tuple[bytes, bool]]:
    """Lines, each with whether it ends in a newline."""
    parts = raw.split(b"\n")
    yield from ((part, True) for part in parts[:-1])
    if parts[-1]:
        yield parts[-1], False


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _opened(path: Path, mode: str) -> Any:
    try:
        return open(path, mode, buffering=0)
    except OSError as error:
        raise RunError("S03", f"'{path}' cannot be opened ({error.strerror}); check the folder's permissions") from error
