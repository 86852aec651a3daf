"""Figures of a run from its `report.json`, as a site shows them on its own page.

The file comes from the coordinator, whom the site does not trust with a page that holds patients:
data are taken from it, each of the kind that it should be, and nothing that a browser would read.
What is not as it should be is left out, or shown as a mark.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from common.errors import UsageError

MOST_BYTES = 64 << 20
MOST_ROWS = 2000
"""Rows of a table that are shown."""
MOST_LETTERS = 300
"""Letters of a text that are shown."""
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Figure:
    """One row of `results` or `final_model`."""

    evaluation: str
    model: str
    arm: str
    site: str
    metric: str
    estimate: str
    """Value and interval, or why there is none."""
    patients: str
    events: str


@dataclass(frozen=True)
class SiteRow:
    name: str
    patients: str
    labelled: str
    events: str


@dataclass(frozen=True)
class RunFigures:
    study: str
    task: str
    question: str
    date: str
    same_model: bool
    """Is it the report of the model whose pictures are shown?"""
    figures: tuple[Figure, ...]
    """Over all sites, and of this one."""
    sites: tuple[SiteRow, ...]
    alarms: tuple[str, ...]
    not_run: tuple[str, ...]


def read(path: Path, site: str, model: str) -> RunFigures:
    """Of the report at `path`: what it says over all sites, and of `site`; `model`: SHA-256 of the
    model.state that the site has. UsageError C01 where it is no report."""
    report = _object(path)
    files = report.get("model_files")
    shown = {"all", site}
    return RunFigures(
        study=plain(report.get("study")),
        task=plain(report.get("task")),
        question=plain(report.get("question")),
        date=plain(report.get("date")),
        same_model=isinstance(files, Mapping) and files.get("model.state") == model,
        figures=tuple(
            _figure(row)
            for key in ("results", "final_model")
            for row in _rows(report, key)
            if row.get("site") in shown
        )[:MOST_ROWS],
        sites=tuple(
            SiteRow(
                plain(row.get("name")),
                whole(row.get("patients")),
                whole(row.get("n")),
                whole(row.get("events")),
            )
            for row in islice(_rows(report, "sites"), MOST_ROWS)
        ),
        alarms=_texts(report, "alarms"),
        not_run=_texts(report, "not_run"),
    )


def plain(value: object) -> str:
    """A text without what a reader does not see: controls, marks that turn the direction of
    writing, letters without a meaning; '' for anything but a text."""
    if not isinstance(value, str):
        return ""
    letters = (
        UNREADABLE if unicodedata.category(c).startswith("C") else c for c in value[:MOST_LETTERS]
    )
    return "".join(letters) + ("\N{HORIZONTAL ELLIPSIS}" if len(value) > MOST_LETTERS else "")


def whole(value: object) -> str:
    return str(value) if type(value) is int and 0 <= value < 1e12 else "-"


def _figure(row: Mapping[str, Any]) -> Figure:
    value, low, high = (_number(row.get(k)) for k in ("value", "low", "high"))
    estimate = value or "not estimable"
    if value and low and high:
        estimate += f" ({low} to {high})"
    return Figure(
        plain(row.get("evaluation")) or "final model",
        plain(row.get("model")),
        plain(row.get("arm")),
        plain(row.get("site")),
        plain(row.get("metric")),
        estimate,
        whole(row.get("n")),
        whole(row.get("events")),
    )


def _number(value: object) -> str:
    good = type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e6  # type: ignore[arg-type]
    return f"{value:.3f}" if good else ""


def _object(path: Path) -> Mapping[str, Any]:
    way_out = "give the report.json of a run"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES >> 20} MB")
        report = json.loads(path.read_bytes())
        if not isinstance(report, dict) or not isinstance(report.get("schema_version"), str):
            raise ValueError("it is no report")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError("C01", f"--report {path} cannot be read ({error}); {way_out}") from error
    return report


def _rows(report: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    table = report.get(key)
    if isinstance(table, list):
        yield from (row for row in table if isinstance(row, dict))


def _texts(report: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = report.get(key)
    if not isinstance(texts, list):
        return ()
    return tuple(plain(t) for t in texts[:MOST_ROWS] if isinstance(t, str))
