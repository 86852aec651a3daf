"""Image rows, what a report says about the images: who has them, where their regions come from, and
whether they add anything to the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from common.data.cohort import UNKNOWN, Cohort, Fold
from common.data.picture import ROI_SOURCES
from common.federated.learner import Federated
from server.app import Outcome
from simulation.evaluation.sums import Sums

Row = dict[str, Any]


def images(outcome: Outcome, sums: Sums, sites: Sequence[Cohort], parts: int) -> Row | None:
    """The part of the report's `images` that only a simulation knows; None where no site holds
    any."""
    if not any(c.imaged.any() for c in sites):
        return None
    image = next((h for h in outcome.heads if h.name == "image"), None)
    by_source = [] if image is None else _by_source(image, outcome, sums, sites, parts)
    return {"sites": [_site(c) for c in sites], "roi_source": by_source}


def _site(cohort: Cohort) -> Row:
    pictures = [p for p in cohort.pictures if p is not None]
    makers = [p.scanner or "not told" for p in pictures]
    marked = [p for p in pictures if p.mask is not None]
    return {
        "name": cohort.site,
        "patients": len(cohort),
        "with_image": len(pictures),
        "labelled_with_image": int((cohort.imaged & (cohort.labels != UNKNOWN)).sum()),
        "with_table": int(cohort.tabled.sum()),
        "expert_outlines": len(marked),
        "channels_missing": [
            {"channel": c.name, "patients": n}
            for i, c in enumerate(cohort.schema.imaging.channels if cohort.schema.imaging else ())
            if (n := sum(not p.present[i] for p in pictures))
        ],
        "scanners": {m: makers.count(m) for m in sorted(set(makers))},
    }


def _by_source(
    image: Federated, outcome: Outcome, sums: Sums, sites: Sequence[Cohort], parts: int
) -> list[Row]:
    """The within-site AUC of image and fusion apart for each kind of region, by the region that the
    scoring model worked on."""
    pieces = []
    for c in sites:
        source = np.full(len(c), "", dtype=object)
        part_of = c.parts(sums.seed, parts)
        for p in range(parts):
            state = outcome.states.get(Fold(parts=(p,)), {})
            mask = c.imaged & (part_of == p)
            if mask.any() and state.get("image"):
                source[mask] = cast(Any, image).crops(state, c.where(mask)).sources
        pieces.append(source)
    source = np.concatenate(pieces)
    rows = []
    for model in ("image", "fusion"):
        scores = sums.scores(model, "federated", "within_site")
        for kind in ROI_SOURCES if scores else ():
            row = sums.of(scores, source == kind).row()
            rows += [{"roi_source": kind, "model": model, **row}] if row["n"] else []
    return rows
