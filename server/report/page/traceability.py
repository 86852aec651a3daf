"""Traceability, where every figure comes from: hashes, versions, and the whole configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from server.report.content import wording
from server.report.content.rows import Report
from server.report.content.wording import finite, whole

Context = dict[str, Any]


def trace(report: Report) -> Context:
    size = report.get("bytes") or {}
    seconds = finite(report.get("seconds"))
    facts: Sequence[tuple[str, Any]] = (
        ("Trained until (UTC)", report.get("date")),
        ("Ledger head (SHA-256)", report.get("ledger_head")),
        ("State hash (SHA-256)", report.get("state_hash")),
        ("Seed", report.get("seed")),
        ("fedmets", report.get("fedmets")),
        ("Form of the report", report.get("schema_version")),
        ("Exchanges", whole(report.get("exchanges"))),
        ("Sent to sites", wording.size(size.get("sent"))),
        ("Received from sites", wording.size(size.get("received"))),
        ("Duration", None if seconds is None else f"{seconds:.0f} s"),
    )
    return {
        "facts": [(k, wording.name(v)) for k, v in facts],
        "files": [
            (wording.name(k), wording.name(v)) for k, v in (report.get("model_files") or {}).items()
        ],
        "versions": [
            (wording.name(k), wording.name(v)) for k, v in (report.get("versions") or {}).items()
        ],
        "configuration": [
            (wording.name(k), _plain(v)) for k, v in (report.get("configuration") or {}).items()
        ],
    }


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "(empty)"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
