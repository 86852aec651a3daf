"""Ledger follower: a ledger read as it grows. Only new bytes, the chain verified as they come, and
what does not fit said with its line.

Resuming a run demands an intact ledger (`server.ledger.ledger.read`). Looking at one does not: the
lines before a fault are verified, those after it are shown as what they are, not verified.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.runtime.hash_chain import GENESIS, End, cut_off, linked

READ_BYTES = 1 << 20
"""Bytes that are read at a time."""
Line = dict[str, Any]


@dataclass(frozen=True)
class LedgerFault:
    """The first line (from 1) that is not what was written, and what is wrong with it."""

    line: int
    what: str
    lost: int = 0
    """Lines that are missing at the end, where nothing that is there is wrong."""


class Follower:
    """`take` gets each verified line once, in order."""

    def __init__(
        self, path: Path, take: Callable[[Line], None], restart: Callable[[], None] = lambda: None
    ) -> None:
        """restart: called before the file is read from its beginning again, because it is no longer
        the one that was read."""
        self.path, self._take, self._restart = path, take, restart
        self._known: tuple[int, int, int] | None = None
        self._clear()

    def _clear(self) -> None:
        self.head = GENESIS
        self._damaged: LedgerFault | None = None
        self.torn = 0
        """Bytes of a last line without an end: cut off, or being written."""
        self._at = 0
        self.starts = array("Q")
        """Where each line begins, those after a fault too."""
        self.verified = 0
        self._end: End | None = None

    @property
    def fault(self) -> LedgerFault | None:
        """The first there is; lines that are missing at the end count as one after the last."""
        lost = self._end.missed(self.lines, self.torn > 0) if self._end else 0
        return self._damaged or (
            LedgerFault(self.lines + 1, f"{cut_off(lost)}: it had {self.lines + lost}", lost)
            if lost
            else None
        )

    @property
    def lines(self) -> int:
        """All whole lines, verified or not."""
        return len(self.starts)

    def read(self) -> bool:
        """Take what is new; whether there was anything. A file that is not there is one without
        lines."""
        try:
            end = End.of(self.path)  # before the lines: whoever writes meanwhile can only add some
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                now = (status.st_ino, status.st_size, status.st_mtime_ns)
                if now == self._known:
                    return False
                if self._known and (
                    now[0] != self._known[0]
                    or now[1] < self._at
                    or (now[1] == self._known[1] and not self.torn)
                ):
                    # another file, a shorter one, or the same length written over: what was
                    # verified is no longer what is there
                    self._clear()
                    self._restart()
                self._known, self._end = now, end
                self._rest(file)
        except FileNotFoundError:
            if self._known is None:
                return False
            self._known = None
            self._clear()
            self._restart()
        return True

    def _rest(self, file: Any) -> None:
        file.seek(self._at)
        rest = b""
        while piece := file.read(READ_BYTES):
            rest += piece
            *whole, rest = rest.split(b"\n")
            for text in whole:
                self.starts.append(self._at)
                self._at += len(text) + 1
                self._line(text)
        self.torn = len(rest)

    def _line(self, text: bytes) -> None:
        if self._damaged:
            return
        try:
            line = linked(text, self.head, self.lines)
            if json.dumps(line, separators=(",", ":")).encode() != text:
                raise ValueError("its text is not as the coordinator writes it")
            if self._end and self._end.lines == self.lines and self._end.hash != line["hash"]:
                raise ValueError("it is not the line that was written")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._damaged = LedgerFault(self.lines, _reason(error))
            return
        self.head, self.verified = str(line["hash"]), self.lines
        self._take(line)

    def texts(self, first: int, last: int) -> list[tuple[int, bytes, bool]]:
        """Lines `first` to `last` (from 1, both included) as they are on disk: number, text,
        whether it was verified."""
        first, last = max(first, 1), min(last, self.lines)
        out = []
        with open(self.path, "rb") as file:
            for number in range(first, last + 1):
                begin = self.starts[number - 1]
                end = self.starts[number] if number < self.lines else self._at
                file.seek(begin)
                out.append((number, file.read(end - begin - 1), number <= self.verified))
        return out


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "it is no JSON"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return str(error) if isinstance(error, ValueError) else "it is not a line of a ledger"
