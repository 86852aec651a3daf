"""JSON log, one object a line, for the coordinator's own tools. It has what the ledger has, and so
nothing of a patient."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from common.errors import RunError
from server.monitor.ledger_wording import is_code

Level = Literal["info", "warning", "error"]


class Log:
    """To a file, to stderr, or to nobody."""

    def __init__(self, file: str = "", stderr: bool = False) -> None:
        self._file, self._stderr = Path(file) if file else None, stderr
        self._one = threading.Lock()
        self._write("")

    def event(self, level: Level, event: str, when: float | None = None, **fields: Any) -> None:
        """`fields` that are None are left out."""
        stamp = datetime.fromtimestamp(time.time() if when is None else when, UTC).isoformat(
            timespec="milliseconds"
        )
        row = {
            "time": stamp,
            "level": level,
            "event": event,
            **{k: v for k, v in fields.items() if v is not None},
        }
        self._write(json.dumps(row) + "\n")

    def _write(self, text: str) -> None:
        """The file is opened for each line: it may be moved away meanwhile, as log rotation
        does."""
        with self._one:
            if self._stderr:
                print(text, end="", file=sys.stderr, flush=True)
            if self._file:
                try:
                    with open(self._file, "a", encoding="utf-8") as file:
                        file.write(text)
                except OSError as error:
                    raise RunError(
                        "S03",
                        f"--log '{self._file}' cannot be written ({error.strerror}); choose "
                        "another file",
                    ) from error

    def line(self, run: str, line: Mapping[str, Any]) -> None:
        """What one ledger line says."""
        if self._file or self._stderr:
            for level, event, fields in events(line):
                self.event(level, event, line.get("time"), run=run, **fields)


def events(line: Mapping[str, Any]) -> Iterator[tuple[Level, str, dict[str, Any]]]:
    """Level, event and fields of one ledger line: the step itself, and each site that is not in
    it."""
    kind, step = str(line["kind"]), line.get("step")
    if kind in ("open", "resume"):
        yield (
            "info",
            "run_opened" if kind == "open" else "run_resumed",
            {"step": step, "sites": len(line["sites"]), "jobs": line["jobs"]},
        )
    elif kind == "exchange":
        codes = {(s, str(c)) for w in line["work"] for s, c in w["refused"].items()}
        codes |= {(s, str(what)) for s, what in line["sites"].items() if is_code(str(what))}
        contributed = sum(what == "contributed" for what in line["sites"].values())
        yield (
            "info",
            "exchange",
            {
                "step": step, "contributed": contributed, "sites": len(line["sites"]),
                "seconds": round(line["seconds"], 3),
                "sent": line["sent"], "received": line["received"], "done": line["done"],
            },
        )  # fmt: skip
        for site, code in sorted(codes):
            yield "warning", "refused", {"step": step, "site": site, "code": code}
        for late in line.get("late", []):
            yield "warning", "late", {"step": step, "site": late["site"], "of_step": late["step"]}
    elif kind == "guard":
        for feature in line.get("refused", []):
            yield "error", "guard", {"code": str(line["guard"]), "feature": feature}
    elif kind == "close":
        yield (
            "info",
            "run_finished",
            {"exchanges": line["exchanges"], "state_hash": line["state_hash"]},
        )
    elif kind == "failed":
        yield "error", "run_failed", {"code": line["code"]}
    elif kind == "stopped":
        yield "warning", "run_stopped", {}
