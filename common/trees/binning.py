"""Binning: the cell of each number between the federation's edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort
from common.errors import RefusedError
from common.types import Arrays


def bin_indices(arrays: Arrays, cohort: Cohort) -> NDArray[np.int32]:
    """(cases, columns): the bin of each value, 0 .. number of edges; -1 where missing. A value
    equal to an edge is right of it."""
    x = cohort.design.astype(np.float32)
    out = np.empty(x.shape, np.int32)
    for j, (a, b) in enumerate(zip(arrays["offsets"][:-1], arrays["offsets"][1:], strict=True)):
        # among edges out of order numpy finds one patient's place by another's
        if not (np.diff(arrays["edges"][a:b]) >= 0).all():
            raise RefusedError("P02", f"the bin edges of column {j} are not in order")
        out[:, j] = np.where(
            np.isnan(x[:, j]), -1, np.searchsorted(arrays["edges"][a:b], x[:, j], side="right")
        )
    return out
