"""What a report says about the images: who has them, where their regions come from, and whether they add anything to the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from common.data.cohort import UNKNOWN, Cohort, Fold
from common.data.picture import ROI_SOURCES
from common.federated.learner import Federated
from common.learners.evaluation import of_fold
from common.types import flatten
from server.app import Outcome
from server.report.content import federated_sums
from simulation.evaluation import metric_rows
from simulation.evaluation.predictions import Comparison

Row = dict[str, Any]


def images(
    outcome: Outcome, comparison: Comparison, sites: Sequence[Cohort], differences: Sequence[Row], *, seed: int, parts: int, repeats: int
) -> Row | None:
    """The report's `images`; None where no site holds any."""
    if not any(c.imaged.any() for c in sites):
        return None
    image = next((h for h in outcome.heads if h.name == "image"), None)
    return {
        "sites": [_site(c) for c in sites],
        "roi_source": [] if image is None else _by_source(image, outcome, comparison, sites, seed=seed, parts=parts, repeats=repeats),
        "adds": federated_sums.adds(differences),
        "fusion": federated_sums.fusion_weights(outcome.states),
        "explanation": federated_sums.energy(outcome.states),
    }


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
    image: Federated, outcome: Outcome, comparison: Comparison, sites: Sequence[Cohort], *, seed: int, parts: int, repeats: int
) -> list[Row]:
    """The within-site AUC of image and fusion apart for each kind of region, by the region that the scoring model worked on."""
    flat = flatten(outcome.states)
    pieces = []
    for c in sites:
        source = np.full(len(c), "", dtype=object)
        mine = c.parts(seed, parts)
        for p in range(parts):
            state = of_fold(flat, Fold(parts=(p,)))
            mask = c.imaged & (mine == p)
            if mask.any() and state.get("image"):
                source[mask] = cast(Any, image).crops(state, c.where(mask)).sources
        pieces.append(source)
    source = np.concatenate(pieces)
    rows = []
    for model in ("image", "fusion"):
        for kind in ROI_SOURCES:
            row = metric_rows.apart(comparison, model, source == kind, repeats=repeats, seed=seed)
            rows += [] if row is None else [{"roi_source": kind, **row}]
    return rows
