"""Report files of a run, its faces in its folder: report.json for programs, report.html for
reading, report.pdf for paper and files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.ledger import state_store
from server.ledger.ledger import NAME, Ledger
from server.report.page import page


def publish(folder: Path, report: Mapping[str, Any]) -> None:
    """Write all faces; the ledger's last line has what they are."""
    files = write(folder, report)
    ledger = Ledger(folder / NAME)
    try:
        if not any(
            line["kind"] == "report" and line.get("files") == files for line in ledger.lines
        ):
            ledger.append(
                "report",
                time=time.time(),
                file="report.json",
                sha256=files["report.json"],
                files=files,
            )
    finally:
        ledger.close()


def write(folder: Path, report: Mapping[str, Any]) -> dict[str, str]:
    """Write all three; returns the SHA-256 of each by its name. The same report gives the same
    bytes, whenever and wherever.

    A key that is missing or None leaves its place saying so: a deployment's report lacks what only
    a simulation knows.
    """
    from server.report.pdf import pdf

    text = json.dumps(
        report, indent=1, allow_nan=False
    )  # a NaN in a report would be a figure that nobody can read: fail instead
    html = page.render(report)
    faces = {
        "report.json": text.encode(),
        "report.html": html.encode("utf-8", "replace"),
        "report.pdf": pdf.typeset(html, report),
    }
    for name, blob in faces.items():
        state_store.write(folder / name, blob)
    return {name: hashlib.sha256(blob).hexdigest() for name, blob in faces.items()}
