"""Guard E09: the parts of the patients that are looked at apart, and what of them is told.

A cell of fewer than 10 patients is not told, and neither is one that the total minus the others would tell: groups of one feature are
parts of one whole, whose counts are told elsewhere. Between hospitals each site takes such cells out of its own sums, before they leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.cohort import ESTIMABLE
from common.delong import against, concordance
from common.schema import Choice, Feature, Floats, Number, Schema
from common.types import Arrays, Probs

LEAST = ESTIMABLE
NOT_KNOWN = "not known"
LEADS = ("fusion", "clinical")
"""Whose performance is looked at: the first that there is."""
Marks = NDArray[np.bool_]


def groups(feature: Feature, x: Floats, cut: float | None) -> dict[str, Marks]:
    """Group -> its patients: a choice's values, a number's two parts at `cut` (None: it is not cut), and those without a value."""
    if isinstance(feature, Choice):
        parts = {v: x == k for k, v in enumerate(feature.values)}
    elif cut is None:
        parts = {}
    else:
        # the comparison is with the rounded figure, so that the groups are what their names say
        parts = {f"up to {cut:.4g}": x <= float(f"{cut:.4g}"), f"above {cut:.4g}": x > float(f"{cut:.4g}")}
    return {**parts, NOT_KNOWN: np.isnan(x)}


def hidden(cells: Sequence[Sequence[int]]) -> list[bool]:
    """Which of the cells must go: those with a small count, then the next smallest until what is gone cannot be worked out.

    At least two go where any does, and together they hold enough that their sum says nothing of a small one.
    """
    gone = [min(c) < LEAST for c in cells]
    order = sorted(range(len(cells)), key=lambda i: min(cells[i]))
    for i in order:
        sums = [sum(c[k] for c, g in zip(cells, gone, strict=True) if g) for k in range(len(cells[0]))]
        if not any(gone) or (sum(gone) > 1 and min(sums) >= LEAST):
            break
        gone[i] = True
    return gone


# ---- between hospitals ------------------------------------------------------------------------------------------------------


def cuts(schema: Schema, preprocessing: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Number -> everybody's mean on the model's scale, in the feature's unit: no schema declares clinical cuts."""
    means = np.asarray(preprocessing["mean"], np.float64)
    found = zip(schema.columns, means, strict=True)
    return {c.feature.name: float(c.to_natural(np.array(m))) for c, m in found if isinstance(c.feature, Number)}


def sums(schema: Schema, at: Mapping[str, float], values: Floats, probs: Probs, labels: NDArray[np.int64]) -> Arrays:
    """One site's, of a model's out-of-fold predictions. values (n, features), probs (n, classes), labels (n,).

    Groups of all features in the schema's order, stacked: `counts` (groups, classes), `concordant` and `pairs` (groups, held), `spread`
    (groups, held, held). Zeros for what is not told.
    """
    classes = probs.shape[1]
    held = len(against(classes))
    told: list[tuple[Floats, Floats, Floats, Floats]] = []
    for j, feature in enumerate(schema.features):
        parts = list(groups(feature, values[:, j], at.get(feature.name)).values())
        counts = [np.bincount(labels[mask], minlength=classes) for mask in parts]
        there = [i for i, c in enumerate(counts) if c.any()]
        gone = dict(zip(there, hidden([tuple(map(int, counts[i])) for i in there]), strict=True)) if there else {}
        for i, mask in enumerate(parts):
            if gone.get(i, True):
                told.append((np.zeros(classes), np.zeros(held), np.zeros(held), np.zeros((held, held))))
            else:
                one = concordance(probs[mask][:, None, :], labels[mask])
                told.append((counts[i].astype(np.float64), one.concordant[0], one.pairs, one.spread))
    names = ("counts", "concordant", "pairs", "spread")
    return {name: np.stack(each) for name, each in zip(names, zip(*told, strict=True), strict=True)} if told else {}


def named(schema: Schema, at: Mapping[str, float]) -> list[tuple[Feature, str]]:
    """(feature, group) of each row of `sums`."""
    return [(f, name) for f in schema.features for name in groups(f, np.empty(0), at.get(f.name))]
