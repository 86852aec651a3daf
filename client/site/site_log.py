"""Site log: the one place where an error's text is written; its code alone leaves."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from common.errors import FedmetsError

T = TypeVar("T")
_CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")


def _one_line(text: str) -> str:
    """What stands in a file's name must not look like a line of the log."""
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class SiteLog:
    """OSError where its file cannot be written: found at the start, an error later would leave by
    another way."""

    def __init__(self, path: Path) -> None:
        self._log = logging.getLogger(f"fedmets.station.{path}")
        if not self._log.handlers:
            # a file's name may hold bytes that are no text
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._log.addHandler(handler)
            self._log.setLevel(logging.INFO)
            self._log.propagate = False

    def info(self, text: str) -> None:
        self._log.info("%s", _one_line(text))

    def error(self, text: str) -> None:
        self._log.error("%s", _one_line(text))

    def code(self, error: Exception) -> str:
        """Write the error down; return its code, the only thing that may leave."""
        if isinstance(error, FedmetsError):
            self._log.error("%s", FedmetsError(error.code, *map(_one_line, error.faults)))
            return error.code
        told = "".join(traceback.format_exception(error))
        self._log.error("[X01] %s", "\n".join(map(_one_line, told.split("\n"))))
        return "X01"

    def or_code(self, work: Callable[[], T], failed: Callable[[str], T]) -> T:
        """What comes of `work`, or of its failure's code: no error, of whatever kind, stops a
        station or leaves it as a text."""
        try:
            return work()
        except Exception as error:
            return failed(self.code(error))
