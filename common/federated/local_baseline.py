"""Local baseline, what a hospital can train by itself: the models that a federation is held
against."""

from __future__ import annotations

import numpy as np

from common.data.cohort import Cohort, Fold
from common.federated.learner import Head, Stacked

TRAINABLE = 5
"""A local model needs at least this many cases of two classes in each of its training sets."""


def local_folds(parts: int) -> list[Fold]:
    """What a site trains by itself: everything, without each part, without each pair of parts."""
    pairs = [Fold(parts=(p, q)) for p in range(parts) for q in range(parts) if p < q]
    return [Fold(), *(Fold(parts=(p,)) for p in range(parts)), *pairs]


def trainable(head: Head, cohort: Cohort, seed: int, parts: int) -> bool:
    """Whether every training set of the site's own cross-fitting holds enough cases of two classes
    that the head can use."""
    if not head.modality <= cohort.modalities or (
        isinstance(head, Stacked) and "table" not in cohort.modalities
    ):
        return False
    for fold in local_folds(parts):
        rows = cohort.train(fold, seed, parts)
        labels = rows.labels[rows.imaged] if "image" in head.modality else rows.labels
        if (np.bincount(labels, minlength=2) >= TRAINABLE).sum() < 2:
            return False
    return True
