"""Ceilings of hyperparameters: what comes with a plan or a model folder is anybody's number, and one
that is too large takes a site's memory, or its worker for good.

They are for all learners alike, and far above what anybody trains with; what a learner itself knows
of its own values is among its own rules (`common.federated.learner.demand`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_COUNT = 10**6
"""Rounds, epochs, trees, patients in a step, units."""
LARGEST = 1e12
"""Of a number, by its absolute value."""
MOST_ITEMS = 64
"""Of a list or an object."""
LONGEST_SIDE = 4096
"""Units of a layer, or voxels of a side."""
MOST_LETTERS = 4096
"""Of a text: the longest is a path."""
GRID_VOXELS = 2**23
"""Of a grid."""
MOST_LATENT = 2**28
"""Numbers of a latent code times voxels of its grid: the size of a layer."""


def fault(value: object) -> str:
    """What is wrong with a hyperparameter's value, whatever it is for; '' where nothing is."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _fault_of_list(value)
    if isinstance(value, dict) and len(value) > MOST_ITEMS:
        return f"has {len(value)} keys, {MOST_ITEMS} are the most"
    if isinstance(value, str) and len(value) > MOST_LETTERS:
        return f"has {len(value)} letters, {MOST_LETTERS} are the most"
    if isinstance(value, int) and abs(value) > MOST_COUNT:
        return f"is out of range, {MOST_COUNT} is the most"
    if isinstance(value, float) and not abs(value) <= LARGEST:
        return f"is out of range, {LARGEST:g} is the most"
    return ""


def _fault_of_list(values: Sequence[object]) -> str:
    if len(values) > MOST_ITEMS:
        return f"has {len(values)} values, {MOST_ITEMS} are the most"
    if any(isinstance(v, int) and abs(v) > LONGEST_SIDE for v in values):
        return f"has a value out of range, {LONGEST_SIDE} is the most"
    return next((text for v in values if (text := fault(v))), "")


def grid_rules(grid: Sequence[object]) -> dict[str, bool]:
    """What must hold of a grid (z, y, x), for `demand`."""
    sides = [g for g in grid if type(g) is int]
    return {f"grid of at most {GRID_VOXELS} voxels": abs(math.prod(sides)) <= GRID_VOXELS}
