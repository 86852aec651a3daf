"""Guard L03 at the coordinator: does a single feature predict the label almost perfectly, on the summed training histograms?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.cohort import ESTIMABLE
from common.schema import Schema
from common.types import Arrays

LIMIT = 0.95


def single_feature_auc(arrays: Arrays, schema: Schema) -> dict[str, float]:
    """The largest AUC that each feature reaches alone: as a value (either direction; a choice's levels in the best order), or by being missing.

    `arrays`: preprocessing's. A split with fewer than 10 cases of a class is not judged. Several classes: the worst one against the rest.
    """
    histogram = arrays["coarse"]
    out: dict[str, float] = {}
    for feature in schema.features:
        at = [j for j, c in enumerate(schema.columns) if c.feature is feature]
        cells = histogram[at[0]]
        missing = cells[-1]
        if schema.columns[at[0]].level is None:
            ordered = False
            known = cells[:-1]
        else:
            ordered = True  # levels have no order of their own: take the best one
            marked = np.stack([histogram[j][-2] for j in at])
            known = np.concatenate([(cells[:-1].sum(axis=0) - marked.sum(axis=0))[None], marked])
        best = 0.5
        for k in range(histogram.shape[2]):
            best = max(best, _auc(known, k, sort=ordered), _auc(np.stack([known.sum(axis=0), missing]), k, sort=True))
        out[feature.name] = best
    return out


def leaks(fits: Mapping[str, Arrays], schema: Schema) -> dict[str, tuple[float, str]]:
    """Feature -> (AUC, fold key) where a feature exceeds the limit on some training set."""
    out: dict[str, tuple[float, str]] = {}
    for fold, arrays in fits.items():
        for name, auc in single_feature_auc(arrays, schema).items():
            if auc > LIMIT and auc > out.get(name, (0.0, ""))[0]:
                out[name] = (auc, fold)
    return out


def describe(found: Mapping[str, tuple[float, str]], names: Sequence[str]) -> list[str]:
    """A sentence for each feature in `names`."""
    return [
        f"L03 feature '{n}' alone reaches AUC {found[n][0]:.3f} on the training rows of fold '{found[n][1]}' (limit {LIMIT}); it probably encodes the "
        f"label: remove it, or accept it with --accept-leak {n}, which the report will show"
        for n in names
    ]


def _auc(cells: NDArray[np.float64], k: int, *, sort: bool) -> float:
    positive, negative = cells[:, k], cells.sum(axis=1) - cells[:, k]
    if min(positive.sum(), negative.sum()) < ESTIMABLE:
        return 0.5
    if sort:
        order = np.argsort(positive / np.maximum(positive + negative, 1), kind="stable")
        positive, negative = positive[order], negative[order]
    below = np.cumsum(negative) - negative
    auc = float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
    return max(auc, 1 - auc)
