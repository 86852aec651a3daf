"""Hash chain: an append-only file of JSON lines, each carrying the hash of the line before it, so
that nothing is altered or cut unseen.

How many lines there are, and the hash of the last one, stand in a small file beside it, so that an
end which was cut off is seen, too. It is written after the line: it may be one line behind, and
never ahead. Where it is absent (a chain that was copied alone, or is of an earlier version), an end
cannot be missed.

It is the coordinator's ledger, and at a site the budget and the record of what was asked and what
left.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import RunError

GENESIS = "0" * 64


@dataclass(frozen=True)
class End:
    """What a chain's end was when it was last written."""

    lines: int
    hash: str

    @staticmethod
    def of(path: Path) -> End | None:
        """Of the chain at `path`; None where nothing, or nothing legible, stands beside it."""
        return End.read(_beside(path))

    @staticmethod
    def read(mark: Path) -> End | None:
        """What the file `mark` says."""
        try:
            lines, last_hash = mark.read_text(encoding="ascii").split()
            return End(int(lines), last_hash)
        except (OSError, ValueError):
            return None

    def missed(self, lines: int, torn: bool) -> int:
        """How many lines a chain of so many whole ones has lost; `torn`: it has a piece of one
        more."""
        return max(self.lines - lines - torn, 0)

    def fits(self, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Is it an end that these lines have had?"""
        if not 0 < self.lines <= len(lines):
            return self.lines == 0
        return bool(lines[self.lines - 1]["hash"] == self.hash)


def cut_off(lost: int, where: str = "its end") -> str:
    return f"{lost} line{'s' * (lost > 1)} at {where} {'were' if lost > 1 else 'was'} cut off"


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.end")


@dataclass(frozen=True)
class Contents:
    """What a chain's file holds."""

    lines: list[dict[str, Any]]
    """Verified."""
    bytes: int
    """That they take."""
    torn: int
    """Bytes of a last line that was cut short, and is left out."""
    lost: int
    """Lines that there were once, and of which nothing is left."""


@dataclass(frozen=True)
class _Begun:
    """A line that was begun."""

    after: int
    """Lines that there were."""
    size: int
    """Bytes that they took."""


_NOTHING = _Begun(-1, 0)


class Chain:
    """Opened for appending. Whoever makes a kind of it says what to do when something is wrong."""

    room = "free space"
    """Said where the disk is full."""
    mend = "restore it from a backup"
    """Said where it was altered or damaged."""
    goes_on = False
    """Where its end was cut off: from what is left, and the next line says how many were `lost`;
    otherwise that is damage (S02)."""

    def __init__(self, path: Path, mark: Path | None = None) -> None:
        """Open or create. A last line that was cut short by a crash is removed; any other damage is
        an error (S02).

        mark: a second file for what the end was, in a place that is not put back together with this
        one: `went_back` says whether the chain is older than that, or another.
        """
        self.path = path
        self._marks = [_beside(path), *([mark] if mark else [])]
        self.torn = self.lost = 0
        self.lines: list[dict[str, Any]] = []
        if path.exists() or End.of(path):
            contents = self.contents(path)
            self.lines, self.torn, self.lost = contents.lines, contents.torn, contents.lost
            if self.torn:
                with _opened(path, "r+b") as f:
                    f.truncate(contents.bytes)
        end = End.read(mark) if mark else None
        self.went_back = end is not None and not end.fits(self.lines)
        self._end = End(len(self.lines), str(self.lines[-1]["hash"]) if self.lines else GENESIS)
        self._begun, self._remembers = _NOTHING, True
        self._file = _opened(path, "ab")
        if self.torn and not self.lost and not self.went_back:
            self._mark()

    @property
    def head(self) -> str:
        """The hash of the last line."""
        return self._end.hash

    @classmethod
    def contents(cls, path: Path) -> Contents:
        """RunError S02 for damage: for a line that does not fit, and, unless the chain goes on
        without it, for an end that is missing."""
        lines: list[dict[str, Any]] = []
        previous, taken = GENESIS, 0
        # before the lines: whoever writes meanwhile can only add some
        end = End.of(path)
        raw = path.read_bytes() if path.exists() else b""
        for number, (text, whole) in enumerate(_split(raw), start=1):
            try:
                line = linked(text, previous, number)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                if not whole:
                    break  # the line that was being written when the power went
                raise RunError(
                    "S02", f"'{path}' line {number} was altered or damaged ({error}); {cls.mend}"
                ) from error
            if not whole:
                break
            lines.append(line)
            previous, taken = line["hash"], taken + len(text) + 1
        torn = len(raw) - taken
        lost = end.missed(len(lines), torn > 0) if end else 0
        if end and end.lines <= len(lines) and not end.fits(lines):
            raise RunError(
                "S02",
                f"'{path}' line {end.lines} was altered or damaged (it is not the one that was "
                f"written); {cls.mend}",
            )
        if lost and not cls.goes_on:
            raise RunError("S02", f"'{path}' was altered or damaged ({cut_off(lost)}); {cls.mend}")
        return Contents(lines, taken, torn, lost)

    def forget(self) -> None:
        """Hold no lines in memory from now on: the file is what is read."""
        self.lines, self._remembers = [], False

    def append(self, kind: str, **content: Any) -> dict[str, Any]:
        """Add a line, synced to disk before it returns. Where an exception breaks in (an interrupt
        may, anywhere), the line counts if it was synced, and otherwise the next one takes its place.
        """
        lost = {"lost": self.lost} if self.lost else {}
        body = {"n": self._end.lines, "kind": kind, **content, **lost, "prev": self.head}
        line = {**body, "hash": _hash(body)}
        rest = memoryview(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        size = os.fstat(self._file.fileno()).st_size
        if self._begun.after == self._end.lines and size > self._begun.size:
            size = self._begun.size  # a line that was begun and never came to its end
            os.ftruncate(self._file.fileno(), size)
        self._begun = _Begun(self._end.lines, size)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # half a line would spoil the next one
                os.ftruncate(self._file.fileno(), size)
            raise RunError(
                "S03", f"'{self.path}' cannot be written ({error.strerror}); {self.room}"
            ) from error
        # one assignment: an interrupt finds the chain before the line or after it
        self._end = End(self._end.lines + 1, str(line["hash"]))
        self.lost = 0
        self._mark()
        if self._remembers:
            self.lines.append(json.loads(json.dumps(line)))
        return line

    def _mark(self) -> None:
        """Always of the same length, so that it is written over in place. A mark that stays behind
        misses less, and harms nothing."""
        for mark in self._marks:
            with suppress(OSError):
                handle = os.open(mark, os.O_WRONLY | os.O_CREAT, 0o666)
                try:
                    os.pwrite(handle, f"{self._end.lines:012d} {self.head}\n".encode(), 0)
                finally:
                    os.close(handle)

    def close(self) -> None:
        self._file.close()


def linked(text: bytes, previous: str, number: int) -> dict[str, Any]:
    """Line `number` (from 1), which must follow the line of hash `previous`. ValueError and the
    like where it does not."""
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
    return hashlib.sha256(
        json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def _opened(path: Path, mode: str) -> Any:
    try:
        return open(path, mode, buffering=0)
    except OSError as error:
        raise RunError(
            "S03", f"'{path}' cannot be opened ({error.strerror}); check the folder's permissions"
        ) from error
