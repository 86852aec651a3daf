"""What a report says about the images: who has them, where their regions come from, and whether they add anything to the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from common.cohort import UNKNOWN, Cohort, Fold
from common.gradcam import focus
from common.learner import Federated
from common.learners.evaluation import of_fold
from common.picture import ROI_SOURCES
from common.types import State
from server.app import Outcome
from simulation import results
from simulation.compare import Comparison

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
        "adds": _adds(differences),
        "fusion": _weights(outcome),
        "explanation": _energy(outcome),
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
    flat: State = {f"{k}\t{n}": a for k, s in outcome.states.items() for n, a in s.items()}
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
            row = results.apart(comparison, model, source == kind, repeats=repeats, seed=seed)
            rows += [] if row is None else [{"roi_source": kind, **row}]
    return rows


def _adds(differences: Sequence[Row]) -> list[Row]:
    """Does the fusion predict better than its parts, on the same patients? Said in words, whichever way it is."""
    out = []
    for d in differences:
        a, b = d["a"].split(" "), d["b"].split(" ")
        if a[0] != "fusion" or b[0] not in ("clinical", "image") or a[1] != "federated":
            continue
        if not d["estimable"] or d["low"] is None:
            answer, told = None, f"{d['evaluation']}: whether the fusion improves on {b[0]} alone is not estimable"
        else:
            figure = f"AUC {d['difference']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f}) on the same {d['n']} patients"
            answer = "better" if d["low"] > 0 else "worse" if d["high"] < 0 else "not better"
            verb = {"better": "improves on", "worse": "is worse than", "not better": "does not improve on"}[answer]
            told = f"{d['evaluation']}: fusion {verb} {b[0]} alone: {figure}"
        out.append({"evaluation": d["evaluation"], "than": b[0], "answer": answer, "told": told})
    return out


def _weights(outcome: Outcome) -> Row | None:
    """How much the final fusion makes of the image: the coefficient of its log-odds, and the size of the latent code's."""
    arrays = outcome.states.get(Fold().key, {}).get("fusion")
    if not arrays or "coefficients" not in arrays:
        return None
    final = arrays["coefficients"][0]
    return {
        "intercept": [round(float(v), 6) for v in final[:, 0]],
        "image_log_odds": [round(float(v), 6) for v in final[:, 1]],
        "latent_norm": [round(float(np.linalg.norm(v)), 6) for v in final[:, 2:]],
        "cases": int(arrays["cases"]),
    }


def _energy(outcome: Outcome) -> Row | None:
    """Grad-CAM's energy inside the expert's lesions against chance, from the sites' sums (guard X03)."""
    arrays = outcome.states.get(Fold().key, {}).get("gradcam")
    found = focus(arrays) if arrays else None
    return None if found is None else asdict(found)
