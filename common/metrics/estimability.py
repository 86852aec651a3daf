"""Estimability (guard E01): which classes have enough cases for a figure, and whether a figure can
be given at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import ESTIMABLE
from common.metrics.delong import against

Counts = NDArray[Any] | Sequence[int]
"""(classes,): labelled cases."""


def estimable(counts: Counts) -> bool:
    """At least `ESTIMABLE` cases of each of two classes."""
    return int((np.asarray(counts) >= ESTIMABLE).sum()) >= 2


def judged(counts: Counts) -> list[int]:
    """The classes held against the rest that have enough cases, and enough others."""
    n = np.asarray(counts)
    return [k for k in against(len(n)) if min(n[k], n.sum() - n[k]) >= ESTIMABLE]


def judged_in_pairs(counts: NDArray[Any], pairs: NDArray[Any]) -> list[int]:
    """`judged`, of counts (sites, classes) and pairs within sites (sites, held); none where a class
    has too few cases, or others, with a partner at their own site."""
    held, classes = against(counts.shape[1]), judged(counts.sum(0))
    for k in classes:
        partnered = counts[pairs[:, held.index(k)] > 0]
        if min(partnered[:, k].sum(), partnered.sum() - partnered[:, k].sum()) < ESTIMABLE:
            return []
    return classes
