"""AUC of one feature alone, from a histogram by class on the training rows: what guard L03 looks
at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import ESTIMABLE
from common.data.schema import Floats


def feature_auc(histogram: Floats, feature: NDArray[np.int64], level: NDArray[np.bool_]) -> Floats:
    """(columns, cells + 1, classes) counts, the last cell 'missing' -> (features,): the largest AUC
    that each feature reaches alone.

    `feature` (columns,): which feature a column belongs to; `level` (columns,): True for the 0/1
    columns of an unordered choice. A feature is tried as a value (either direction; a choice's
    levels in the best order) and by being missing, for each class against the rest. A split with
    fewer than 10 cases on a side is not judged: 0.5.
    """
    best_aucs = np.full(int(feature.max(initial=-1)) + 1, 0.5)
    for f in range(len(best_aucs)):
        columns = np.flatnonzero(feature == f)
        cells = histogram[columns[0]]
        missing, observed = cells[-1], cells[:-1]
        if level[columns[0]]:
            marked = histogram[columns, -2]
            observed = np.concatenate([(observed.sum(axis=0) - marked.sum(axis=0))[None], marked])
        for k in range(histogram.shape[2]):
            by_missing = _auc(np.stack([observed.sum(axis=0), missing]), k, sort=True)
            best_aucs[f] = max(
                best_aucs[f], _auc(observed, k, sort=bool(level[columns[0]])), by_missing
            )
    return best_aucs


def _auc(cells: Floats, k: int, *, sort: bool) -> float:
    """Of ordered cells, or, with `sort`, of cells in order of their share of class k."""
    positive, negative = cells[:, k], cells.sum(axis=1) - cells[:, k]
    if min(positive.sum(), negative.sum()) < ESTIMABLE:
        return 0.5
    if sort:
        order = np.argsort(positive / np.maximum(positive + negative, 1), kind="stable")
        positive, negative = positive[order], negative[order]
    below = np.cumsum(negative) - negative
    auc = float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
    return max(auc, 1 - auc)
