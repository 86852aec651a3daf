"""Boosted trees as arrays, and walking them in bin space.

Arrays of shape (trees, groups, 2^(depth + 1) - 1), nodes in heap order (children of i: 2i + 1, 2i +
2): `column` (-1: not split), `bin` (a value whose bin is <= it goes left), `left` (so does a
missing one), `value` (a leaf's step on the margin, eta included; of a split node its weight without
eta, as XGBoost keeps it), `gain`, `hess` (the hessian sum over all sites, XGBoost's cover). A group
is a class; two classes need one group, the log-odds of the second.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from common.types import Array, Arrays

KINDS = {
    "column": np.int32,
    "bin": np.int32,
    "left": np.bool_,
    "value": np.float32,
    "gain": np.float32,
    "hess": np.float32,
}
_CHUNK = 4096


def distributions() -> dict[str, str]:
    """Distribution -> version, of the two that install the package xgboost, in one folder: there
    should be one."""
    there = {}
    for distribution in ("xgboost-cpu", "xgboost"):
        try:
            there[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return there


def blank(groups: int, depth: int) -> Arrays:
    """One tree a group, each a root and no more."""
    shape = (1, groups, 2 ** (depth + 1) - 1)
    return {
        name: np.full(shape, -1 if name == "column" else 0, kind) for name, kind in KINDS.items()
    }


def between(arrays: Arrays, first: int, last: int) -> Arrays:
    """The trees `first` .. `last` - 1."""
    return {name: arrays[name][first:last] for name in KINDS}


def open_nodes(column: Array, level: int) -> NDArray[np.bool_]:
    """(groups, nodes): which nodes the exchange at `level` splits: the children of split nodes, at
    level 0 the roots."""
    node = np.arange(column.shape[1])
    at_level = (node >= 2**level - 1) & (node < 2 ** (level + 1) - 1)
    return np.asarray(at_level & ((column[:, (node - 1) // 2] >= 0) | (node == 0)))


def walk(trees: Arrays, bins: Array, levels: int) -> NDArray[np.intp]:
    """(cases, trees, groups): the node that each case reaches after `levels` steps; `bins` (cases,
    columns), -1 where missing."""
    count, groups, nodes = trees["column"].shape
    first = np.arange(count * groups).reshape(count, groups) * nodes
    column, cut, left = (trees[name].ravel() for name in ("column", "bin", "left"))
    case = np.arange(len(bins))[:, None, None]
    node = np.zeros((len(bins), count, groups), np.intp)
    for _ in range(levels):
        index = first + node
        split = column[index]
        values = bins[case, split]
        goes_left = np.where(values < 0, left[index], values <= cut[index])
        node = np.where(split >= 0, 2 * node + 2 - goes_left, node)
    return node


def margins(trees: Arrays, bins: Array, start: Array) -> NDArray[np.float32]:
    """`start` (cases, groups) plus the trees' leaves, added in float32 tree by tree as XGBoost
    does."""
    count, groups, nodes = trees["column"].shape
    if not count or not bins.shape[1]:
        return np.asarray(start + trees["value"][:, :, 0].sum(axis=0), np.float32)
    levels = nodes.bit_length() - 1
    first = np.arange(count * groups).reshape(count, groups) * nodes
    out = np.empty((len(bins), groups), np.float32)
    for a in range(0, len(bins), _CHUNK):
        steps = trees["value"].ravel()[first + walk(trees, bins[a : a + _CHUNK], levels)]
        out[a : a + _CHUNK] = np.cumsum(
            np.concatenate([start[a : a + _CHUNK, None], steps], axis=1), axis=1, dtype=np.float32
        )[:, -1]
    return out


def probabilities(margin: NDArray[np.float32]) -> NDArray[np.float32]:
    """(cases, groups) -> (cases, groups) in float32: XGBoost's sigmoid for one group, its softmax
    for several."""
    unit = np.float32(1)
    if margin.shape[1] == 1:
        return np.asarray(unit / (_exp(np.minimum(-margin, np.float32(88.7))) + unit), np.float32)
    # XGBoost's gradient measures from 0 where all margins are negative; far below, that would be 0
    # / 0
    top = margin.max(axis=1, keepdims=True)
    e = _exp(margin - np.where(top < -50, top, np.maximum(top, np.finfo(np.float32).tiny)))
    return np.asarray(
        e / e.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32), np.float32
    )


def _exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # C's expf is correctly rounded but for a vanishing part of its arguments; numpy's float32 exp
    # is not
    return np.exp(x.astype(np.float64)).astype(np.float32)
