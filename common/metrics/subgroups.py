"""Subgroups (guard E09): the parts of the patients that are looked at apart, and what a site tells
of them.

A cell of fewer than 10 patients is not told, and neither is one that the total minus the others
would tell: groups of one feature are parts of one whole, whose counts are told elsewhere. Between
hospitals each site takes small groups out of its own sums before they leave, and with them so many
other patients, always the same ones, that whoever is left out is in a crowd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import ESTIMABLE
from common.data.schema import Choice, Feature, Floats, Number, Schema
from common.metrics.delong import concordance
from common.types import Arrays, Probs

LEAST = ESTIMABLE
NOT_KNOWN = "not known"
LEADS = ("fusion", "clinical")
"""Whose performance is looked at: the first that there is."""
Marks = NDArray[np.bool_]


def groups(feature: Feature, x: Floats, cut: float | None) -> dict[str, Marks]:
    """Group -> its patients: a choice's values, a number's two parts at `cut` (None: it is not
    cut), and those without a value."""
    if isinstance(feature, Choice):
        parts = {v: x == k for k, v in enumerate(feature.values)}
    elif cut is None:
        parts = {}
    else:
        # the comparison is with the rounded figure, so that the groups are what their names say
        parts = {
            f"up to {cut:.4g}": x <= float(f"{cut:.4g}"),
            f"above {cut:.4g}": x > float(f"{cut:.4g}"),
        }
    # a vocabulary may have these words for a value of its own
    return {**parts, NOT_KNOWN: parts.get(NOT_KNOWN, np.zeros(len(x), np.bool_)) | np.isnan(x)}


# ---- between hospitals ---------------------------------------------------------------------------


def cuts(schema: Schema, preprocessing: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Number -> everybody's mean on the model's scale, in the feature's unit: no schema declares
    clinical cuts."""
    means = np.asarray(preprocessing["mean"], np.float64)
    columns = zip(schema.columns, means, strict=True)
    return {
        c.feature.name: float(c.to_natural(np.array(m)))
        for c, m in columns
        if isinstance(c.feature, Number)
    }


def sums(
    schema: Schema,
    at: Mapping[str, float],
    values: Floats,
    probs: Probs,
    labels: NDArray[np.int64],
    order: NDArray[np.int64],
) -> Arrays:
    """One site's, of a model's out-of-fold predictions. values (n, features), probs (n, classes),
    labels (n,); order (n,): see `reportable`.

    Groups of all features in the schema's order, stacked: `counts` (groups, classes), `concordant`
    and `pairs` (groups, held), `spread` (groups, held, held). Zeros for what is not told.
    """
    classes = probs.shape[1]
    rows: list[tuple[Floats, Floats, Floats, Floats]] = []
    for j, feature in enumerate(schema.features):
        parts = list(groups(feature, values[:, j], at.get(feature.name)).values())
        for mask in reportable(parts, labels, classes, order):
            group_sums = concordance(probs[mask][:, None, :], labels[mask])
            counts = np.bincount(labels[mask], minlength=classes).astype(np.float64)
            rows.append((counts, group_sums.concordant[0], group_sums.pairs, group_sums.spread))
    names = ("counts", "concordant", "pairs", "spread")
    return (
        {
            name: np.stack(group_arrays)
            for name, group_arrays in zip(names, zip(*rows, strict=True), strict=True)
        }
        if rows
        else {}
    )


def covered(
    schema: Schema,
    at: Mapping[str, float],
    values: Floats,
    labels: NDArray[np.int64],
    order: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(groups,): how many patients are in each row of `sums`. The groups of a feature stand or fall
    together, for one that is left out would be their total minus the others: each has the number of
    the smallest, those of whom nothing is told among them."""
    rows: list[int] = []
    for j, feature in enumerate(schema.features):
        parts = list(groups(feature, values[:, j], at.get(feature.name)).values())
        told = reportable(parts, labels, len(schema.label.classes), order)
        silent = len(labels) - int(np.logical_or.reduce(told).sum())
        sizes = [n for n in (*(int(mask.sum()) for mask in told), silent) if n]
        rows += [min(sizes, default=0)] * len(told)
    return np.array(rows, np.int64)


def reportable(
    parts: Sequence[Marks], labels: NDArray[np.int64], classes: int, order: NDArray[np.int64]
) -> list[Marks]:
    """Of each group the patients of whom the site tells; the groups are parts of all its patients.

    A group is told where it has 10 of each class. Those of whom nothing is told are nobody, or 10
    of each class themselves: where they are fewer, the first in `order` (a permutation of the
    patients that has nothing to do with them) are left out of their groups with them.
    """

    def enough(mask: Marks) -> bool:
        return bool((np.bincount(labels[mask], minlength=classes) >= LEAST).all())

    reported = [mask & enough(mask) for mask in parts]
    while True:
        inside = np.logical_or.reduce(reported)
        unreported = np.bincount(labels[~inside], minlength=classes)
        if not unreported.any() or (unreported >= LEAST).all() or not inside.any():
            return reported
        for c in range(classes):
            left_out = order[(inside & (labels == c))[order]][: max(LEAST - unreported[c], 0)]
            inside[left_out] = False
        reported = [mask & inside & enough(mask & inside) for mask in reported]


def named(schema: Schema, at: Mapping[str, float]) -> list[tuple[Feature, str]]:
    """(feature, group) of each row of `sums`."""
    return [(f, name) for f in schema.features for name in groups(f, np.empty(0), at.get(f.name))]
