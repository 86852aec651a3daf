"""Totals of patients, labelled cases and events over all sites: by the sites' rows, or, where sites
keep theirs, by the sums over all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from server.report.content.wording import finite


class Totals(NamedTuple):
    """None: not known."""

    patients: int | None
    labelled: int | None
    events: int | None


def totals(report: Mapping[str, Any]) -> Totals:
    recorded = report.get("totals")
    sums = recorded if isinstance(recorded, Mapping) else {}
    places = [s for s in report.get("sites") or [] if isinstance(s, Mapping)]

    def of(key: str, column: str) -> int | None:
        if (total := finite(sums.get(key))) is not None:
            return int(total)
        site_counts = [v for s in places if (v := finite(s.get(column))) is not None]
        # a sum with a gap in it would be too small
        return int(sum(site_counts)) if site_counts and len(site_counts) == len(places) else None

    return Totals(of("patients", "patients"), of("labelled", "n"), of("events", "events"))
