"""Rows of `report.json`, as the page reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report.content.wording import Row

Report = Mapping[str, Any]


def rows(report: Report, key: str) -> list[Row]:
    """The rows of a table of the report; none where it is missing."""
    return [r for r in report.get(key) or [] if isinstance(r, Mapping)]
