"""Draws of synthetic cohorts: types, link function and AUC that their generators share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def auc(score: Floats, event: Ints) -> float:
    """The probability that an event outranks a non-event, ties half; NaN where there is no pair."""
    won, pairs = pair_counts(score, event)
    return won / pairs if pairs else float("nan")


def pair_counts(score: Floats, event: Ints) -> tuple[float, int]:
    """(pairs of event and non-event in which the event scores higher, ties half; all such
    pairs)."""
    below = np.sort(score[event == 0])
    above = score[event == 1]
    won = np.searchsorted(below, above, "left").sum() + np.searchsorted(below, above, "right").sum()
    return float(won) / 2, len(below) * len(above)


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -500, 500))))
