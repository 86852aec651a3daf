"""Leaves of published trees: what these tell of the patients in them.

A leaf's cover is the hessian sum of its patients, each at most `largest_hessian`: so many patients at
least. In the first round all margins are alike, so that cover and value tell the leaf's patients and
how many of them are of the class, exactly; of later rounds they tell no more than bounds by
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.trees import model
from common.trees.best_split import Penalty, largest_hessian
from common.trees.checked import Forest
from common.types import Array


@dataclass(frozen=True)
class Leaves:
    """Of the finished trees that were split."""

    count: int
    fewest: int
    """No leaf holds fewer patients than this: of later rounds by the cover."""
    pure: tuple[int, ...]
    """Patients of each leaf of the first round whose patients are all of the tree's class, or none
    is."""


def leaves(forest: Forest, penalty: Penalty, eta: float) -> Leaves:
    """`penalty` and `eta`: those that the trees were grown with."""
    trees = model.between(forest.trees, 0, forest.finished)
    split = trees["column"] >= 0
    node = np.arange(split.shape[2])
    leaf = ~split & split[:, :, (node - 1) // 2] & (node > 0)
    cover = trees["hess"].astype(np.float64)
    groups = len(forest.base)
    # up to float32's rounding of a cover
    patients = np.ceil(cover / largest_hessian(groups) * (1 - 1e-6))
    pure: list[int] = []
    if forest.finished:
        p = model.probabilities(forest.base[None])[0].astype(np.float64)
        hessian = np.maximum(p * (1 - p), 1e-16) * (1 if groups == 1 else 2)
        patients[0] = np.rint(cover[0] / hessian[:, None])
        gradient = _gradient(trees["value"][0], cover[0], penalty, eta)
        of_class = np.rint(p[:, None] * patients[0] - gradient)
        alike = leaf[0] & ((of_class <= 0) | (of_class >= patients[0]))
        pure = sorted(int(n) for n in patients[0][alike])
    held = patients[leaf]
    return Leaves(int(leaf.sum()), int(held.min()) if held.size else 0, tuple(pure))


def _gradient(value: Array, cover: Array, penalty: Penalty, eta: float) -> Array:
    """The gradient sum that a leaf's value follows from; where L1 has made it 0, 0."""
    cut = value.astype(np.float64) / eta * (cover + penalty.l2)
    return np.asarray(-(cut + np.sign(cut) * penalty.l1))
