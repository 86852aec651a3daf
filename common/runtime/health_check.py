"""Health check findings: what was looked at, whether it is well, and what to do if not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from common.errors import FedmetsError

State = Literal["ok", "note", "warning", "fault"]
"""In order of weight. A note is what somebody may want to know; a warning will become a fault; a
fault stops the site from taking part."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """'data', 'disk', 'certificate' ..."""
    state: State
    said: str
    do: str = ""
    """What to do; empty where it is well."""

    def row(self) -> dict[str, str]:
        return asdict(self)

    @staticmethod
    def of(row: Any) -> Finding:
        """The inverse of `row`; ValueError where it is none."""
        if (
            not isinstance(row, dict)
            or set(row) != {"check", "state", "said", "do"}
            or row["state"] not in get_args(State)
        ):
            raise ValueError(f"not a finding: {row!r}")
        return Finding(str(row["check"]), row["state"], str(row["said"]), str(row["do"]))


def worst(findings: Iterable[Finding]) -> State:
    states: tuple[State, ...] = get_args(State)
    return states[max((states.index(f.state) for f in findings), default=0)]


def status(findings: Iterable[Finding]) -> int:
    """The exit status: 0 well, 1 with a warning, 3 with a fault."""
    return {"warning": 1, "fault": 3}.get(worst(findings), 0)


def faults(check: str, error: FedmetsError, do: str) -> list[Finding]:
    """One finding for each fault of an error."""
    return [Finding(check, "fault", f"[{error.code}] {text}", do) for text in error.faults]


def text(findings: Sequence[Finding]) -> str:
    """For a terminal: a line each, faults last, where the eye is."""
    states = get_args(State)
    lines = []
    for f in sorted(findings, key=lambda f: states.index(f.state)):
        lines.append(
            f"{f.state:<8}{f.check}: {f.said}" + (f"{os.linesep}        -> {f.do}" if f.do else "")
        )
    return "\n".join(lines)
