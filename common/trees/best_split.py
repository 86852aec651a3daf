"""Gradient histograms and the best split of each node, with the arithmetic of XGBoost's `hist`
(3.2, `evaluate_splits.h`).

A histogram has, for every column, one cell a bin and one last cell for missing values. Gradients
are rounded to multiples of 2^-36, so that sums over up to 131 072 patients are exact in float64:
the same whatever the order of addition, hence the same trees, bit for bit, however the rows are
divided among sites. (Of more patients a cell's sum is exact while it stays below 2^17.) The error,
2^-37 a patient, is below that of float32 gradients; it shows only in leaves whose hessian sum is
below 1e-6, which takes `lambda_` and `min_child_weight` both near 0.

Gain (Chen & Guestrin 2016, eq. 7) in float32 as XGBoost does it, L1 by soft thresholding of the
gradient sum. Missing values are tried on the right for every cut, then on the left; ties go to the
lowest column, then to the first candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats
from common.privacy.patient_sums import Cells
from common.types import Array

QUANTUM = 2.0**-36
LEAST_GAIN = np.float32(1e-6)
"""XGBoost's kRtEps: a split that gains no more than this is none."""


@dataclass(frozen=True)
class Penalty:
    """What a split must pay: `l2`, `l1` on leaf weights, `gamma` a split, `min_child_weight` the
    least hessian sum of a child."""

    l2: float
    l1: float
    gamma: float
    min_child_weight: float


@dataclass(frozen=True)
class Grid:
    """The cells of a histogram over some columns: `start` (columns + 1,); a column's last cell
    counts its missing values."""

    columns: NDArray[np.intp]
    start: NDArray[np.int64]

    @property
    def cells(self) -> int:
        return int(self.start[-1])


@dataclass(frozen=True)
class Splits:
    """The best split of each of n nodes. A value whose bin is <= `bin` goes left, a missing one
    where `left` says; `sums` (2, n, 2): gradient and hessian of the left and the right child;
    `total` (2, n) those of the node; `worth` whether it is to be made."""

    column: NDArray[np.intp]
    bin: NDArray[np.intp]
    left: NDArray[np.bool_]
    gain: NDArray[np.float32]
    worth: NDArray[np.bool_]
    sums: Floats
    total: Floats


def grid(offsets: Array, columns: NDArray[np.intp]) -> Grid:
    """The cells of `columns`, whose edges `offsets` counts (see `Preprocessing`): edges + 1 bins,
    and one cell for missing."""
    return Grid(
        columns, np.concatenate([[0], np.cumsum(np.diff(offsets)[columns] + 2)]).astype(np.int64)
    )


def exact(x: Array) -> Floats:
    """Rounded to multiples of 2^-36: sums of up to 131 072 values within +-1 are then free of
    rounding in float64."""
    return np.rint(x.astype(np.float64) / QUANTUM) * QUANTUM


def histogram(bins: Array, row_of: Array, values: Floats, cells: Grid, nodes: int) -> Floats:
    """Sums of `values` (cases, groups) by node and cell: (nodes, cells).

    `bins` (cases, all columns), -1 where missing; `slot` (cases, groups): the row of the result
    that a case adds to, -1 for none.
    """
    case, group = np.nonzero(row_of >= 0)
    bins_of_columns = bins[:, cells.columns]
    cell = cells.start[:-1] + np.where(
        bins_of_columns < 0, np.diff(cells.start) - 1, bins_of_columns
    )
    flat_cell = row_of[case, group][:, None] * cells.cells + cell[case]
    weights = np.broadcast_to(values[case, group][:, None], flat_cell.shape)
    # numpy counts an empty array in integers whatever the weights
    summed = np.bincount(flat_cell.ravel(), weights.ravel(), nodes * cells.cells).astype(np.float64)
    return summed.reshape(nodes, cells.cells)


def summands(
    bins: Array, row_of: Array, values: Floats, cells: Grid, nodes: Sequence[int]
) -> Cells:
    """What each case adds to `histogram`. `nodes` of each group, which follow one another in the
    result: a group and column is one set of cells, of which a case adds to one."""
    widths = np.diff(cells.start)
    bins_of_columns = bins[:, cells.columns]
    cell = np.where(bins_of_columns < 0, widths - 1, bins_of_columns)
    first = np.concatenate([[0], np.cumsum(nodes)[:-1]])
    # (cases, groups, columns): within a set, the cells of one node follow one another
    at = np.where(
        row_of[:, :, None] >= 0, (row_of - first)[:, :, None] * widths + cell[:, None, :], -1
    )
    value = np.broadcast_to(values[:, :, None], at.shape)
    places = [
        ((f + np.arange(many))[:, None] * cells.cells + np.arange(start, start + width)).ravel()
        for f, many in zip(first, nodes, strict=True)
        for start, width in zip(cells.start[:-1], widths, strict=True)
    ]
    return Cells(
        (np.asarray(nodes)[:, None] * widths).ravel(),
        at.reshape(len(bins), -1),
        value.reshape(len(bins), -1),
        np.concatenate([np.empty(0, np.int64), *places]).astype(np.int64),
    )


def largest_hessian(groups: int) -> float:
    """What one patient adds to a node's hessian sum at most: p (1 - p), for several classes twice
    that. So a node holds at least its sum / this many patients."""
    return 0.25 if groups == 1 else 0.5


def weight(sums: Floats, penalty: Penalty) -> NDArray[np.float32]:
    """The best weight of a leaf, (2, ...) -> (...): minus the thresholded gradient sum over
    (hessian sum + l2)."""
    gradient, hessian = sums
    allowed = (hessian >= np.float32(penalty.min_child_weight)) & (hessian > 0)
    denominator = np.where(allowed, hessian + np.float64(np.float32(penalty.l2)), 1.0)
    return np.asarray(
        np.where(allowed, -_threshold(gradient, penalty.l1) / denominator, 0.0), np.float32
    )


def search(gradient: Floats, hessian: Floats, cells: Grid, penalty: Penalty) -> Splits:
    """The best split of each node from its histogram row; `gradient` and `hessian` are (nodes,
    cells)."""
    sums = np.stack([gradient, hessian])
    nodes, count = len(gradient), len(cells.columns)
    if not count:
        unsplit = np.zeros(nodes, np.intp)
        return Splits(
            unsplit,
            unsplit,
            unsplit > 0,
            np.zeros(nodes, np.float32),
            unsplit > 0,
            np.zeros((2, nodes, 2)),
            np.zeros((2, nodes)),
        )
    widths = np.diff(cells.start) - 1
    widest = int(widths.max())
    column = np.repeat(np.arange(count), widths + 1)
    within = np.arange(cells.cells) - cells.start[column]
    is_known = within < widths[column]
    padded = np.zeros((2, nodes, count * widest))
    padded[:, :, (column * widest + within)[is_known]] = sums[:, :, is_known]
    present = padded.reshape(2, nodes, count, widest).cumsum(axis=3)
    missing = sums[:, :, ~is_known]
    total = sums[:, :, : cells.start[1]].sum(axis=2)
    # XGBoost's order: cuts upwards with missing on the right, then cuts downwards with missing on
    # the left
    left = np.concatenate([present, (present + missing[..., None])[..., ::-1]], axis=3)
    right = total[:, :, None, None] - left
    gain = _score(left, penalty) + _score(right, penalty) - _score(total, penalty)[:, None, None]
    least_hessian = np.float32(penalty.min_child_weight)
    allowed = (left[1] >= least_hessian) & (right[1] >= least_hessian)
    allowed[..., widest:] &= (missing != 0).any(axis=0)[..., None]
    flat = np.where(allowed, gain, -np.inf).reshape(nodes, -1)
    best = flat.argmax(axis=1)
    node, cut = np.arange(nodes), best % (2 * widest)
    children = np.stack(
        [side.reshape(2, nodes, -1)[:, node, best] for side in (left, right)], axis=2
    )
    best_gain = flat[node, best].astype(np.float32)
    return Splits(
        cells.columns[best // (2 * widest)],
        np.where(cut < widest, cut, 2 * widest - 1 - cut),
        cut >= widest,
        best_gain,
        (best_gain > LEAST_GAIN) & (best_gain >= np.float32(penalty.gamma)),
        children,
        total,
    )


def _threshold(gradient: Floats, l1: float) -> Floats:
    alpha = np.float64(np.float32(l1))
    return np.asarray(np.sign(gradient) * np.maximum(np.abs(gradient) - alpha, 0.0))


def _score(sums: Floats, penalty: Penalty) -> NDArray[np.float32]:
    """(2, ...) -> (...): what a node with these sums takes off the loss, times two; 0 where it
    holds nobody."""
    gradient, hessian = sums
    square = (_threshold(gradient, penalty.l1) ** 2).astype(np.float32)
    denominator = np.where(hessian > 0, hessian + np.float64(np.float32(penalty.l2)), 1.0).astype(
        np.float32
    )
    return np.asarray(np.where(hessian > 0, square / denominator, np.float32(0)), np.float32)
