"""Subgroups of the patients (guard E09): how well the leading federated model does in them, with
small cells suppressed (`common.metrics.subgroups`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort
from common.data.schema import Number
from common.metrics.subgroups import LEADS, LEAST, Marks, groups
from simulation.evaluation.predictions import Comparison
from simulation.evaluation.sums import Sums

Row = dict[str, Any]
Parts = Mapping[str, Marks]


def subgroups(sums: Sums, sites: Sequence[Cohort]) -> list[Row]:
    """A row a group, by each feature, by site, and by the maker of the scanner: from out-of-fold
    predictions within sites."""
    lead = next((m for m in LEADS if sums.ran(m, "within_site")), None)
    if lead is None:
        return []
    scores = sums.scores(lead, "federated", "within_site")
    judged = sums.known & scores[0].seen
    rows: list[Row] = []
    for feature, title, note, parts in _features(sites, judged) + _places(
        sums.comparison, sites, judged
    ):
        group_rows = [
            {**sums.of(scores, mask).row(), "group": name}
            for name, mask in parts.items()
            if (mask & judged).any()
        ]
        if len(group_rows) > 1:
            rows += [
                {"model": lead, "by": feature, "title": title, "note": note, **r}
                for r in suppressed(group_rows)
            ]
    return rows


def _features(sites: Sequence[Cohort], judged: Marks) -> list[tuple[str, str, str, Parts]]:
    """(name, title, how it was cut, group -> its patients) of each feature: a choice's values, a
    number's two halves."""
    features: list[tuple[str, str, str, Parts]] = []
    values = np.concatenate([c.values for c in sites])
    for j, f in enumerate(sites[0].schema.features):
        x = values[:, j]
        cut = _median(x[judged]) if isinstance(f, Number) else None
        note = (
            f"cut at the median of those judged, {cut:.4g} {f.unit}"
            if isinstance(f, Number) and cut is not None
            else ""
        )
        features.append((f.name, f.title or f.name, note, groups(f, x, cut)))
    return features


def _median(x: NDArray[np.float64]) -> float | None:
    """No schema declares clinical cuts."""
    values = x[~np.isnan(x)]
    return float(np.median(values)) if len(values) else None


def _places(
    comparison: Comparison, sites: Sequence[Cohort], judged: Marks
) -> list[tuple[str, str, str, Parts]]:
    by_site = {s: comparison.sites == s for s in dict.fromkeys(comparison.sites.tolist())}
    features: list[tuple[str, str, str, Parts]] = [("site", "Site", "", by_site)]
    if any(c.imaged.any() for c in sites):
        makers = np.array([_maker(c, i) for c in sites for i in range(len(c))])
        seen_makers = sorted(set(makers[judged].tolist()) - {_NO_IMAGE})
        features.append(
            (
                "scanner",
                "Maker of the scanner",
                "",
                {m: makers == m for m in [*seen_makers, _NO_IMAGE]},
            )
        )
    return features


_NO_IMAGE = "no image"


def _maker(cohort: Cohort, position: int) -> str:
    picture = cohort.pictures[position] if cohort.pictures else None
    return _NO_IMAGE if picture is None else picture.scanner or "not told"


def suppressed(rows: Sequence[Row]) -> list[Row]:
    """Rows of one whole without their small cells, nor those that would tell them: what is taken
    out is None, and marked.

    Counts of patients; and of events, where either events or the others are few. At least two cells
    are taken out where any is, and together they hold enough that their sum says nothing of a small
    one.
    """
    patients = _hidden([(r["n"],) for r in rows])
    events = _hidden([(r["events"], r["n"] - r["events"]) for r in rows])
    return [
        {
            **r,
            "n": None if a else r["n"],
            "events": None if a or b else r["events"],
            "suppressed": a or b,
        }
        for r, a, b in zip(rows, patients, events, strict=True)
    ]


def _hidden(cells: Sequence[Sequence[int]]) -> list[bool]:
    """Which of the cells must go: those with a small count, then the next smallest until what is
    gone cannot be worked out.

    At least two go where any does, and together they hold enough that their sum says nothing of a
    small one.
    """
    gone = [min(c) < LEAST for c in cells]
    order = sorted(range(len(cells)), key=lambda i: min(cells[i]))
    for i in order:
        sums = [
            sum(c[k] for c, g in zip(cells, gone, strict=True) if g) for k in range(len(cells[0]))
        ]
        if not any(gone) or (sum(gone) > 1 and min(sums) >= LEAST):
            break
        gone[i] = True
    return gone
