"""Boosted trees as arrays: walking them in bin space, and the native `xgboost.Booster` that they
are.

Arrays of shape (trees, groups, 2^(depth + 1) - 1), nodes in heap order (children of i: 2i + 1, 2i +
2): `column` (-1: not split), `bin` (a value whose bin is <= it goes left), `left` (so does a
missing one), `value` (a leaf's step on the margin, eta included; of a split node its weight without
eta, as XGBoost keeps it), `gain`, `hess` (the hessian sum over all sites, XGBoost's cover). A group
is a class; two classes need one group, the log-odds of the second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats, Schema
from common.types import Array, Arrays

KINDS = {
    "column": np.int32,
    "bin": np.int32,
    "left": np.bool_,
    "value": np.float32,
    "gain": np.float32,
    "hess": np.float32,
}
ABOVE_ALL_VALUES = float(np.finfo(np.float32).max)
"""The threshold of a split that parts the known values (all left) from the missing ones."""
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


def booster(trees: Arrays, base: Array, edges: Array, offsets: Array, schema: Schema) -> Any:
    """A native `xgboost.Booster` (binary:logistic or multi:softprob) that takes the schema's design
    matrix in natural units.

    `base` (groups,): the margin before the first tree; `edges`, `offsets`: the bins' float32 edges
    (see `Preprocessing`).
    """
    import xgboost

    groups, columns = len(base), len(schema.columns)
    count = len(trees["column"])
    start = base.astype(np.float64)
    start = 1 / (1 + np.exp(-start)) if groups == 1 else start
    name = "binary:logistic" if groups == 1 else "multi:softprob"
    objective = (
        {"reg_loss_param": {"scale_pos_weight": "1"}}
        if groups == 1
        else {"softmax_multiclass_param": {"num_class": str(groups)}}
    )
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(count * groups)},
        "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
        "iteration_indptr": [i * groups for i in range(count + 1)],
        "tree_info": list(range(groups)) * count,
        "trees": [
            _tree(t * groups + k, {n: trees[n][t, k] for n in KINDS}, edges, offsets, columns)
            for t in range(count)
            for k in range(groups)
        ],
    }
    learner = {
        "attributes": {},
        "feature_names": [c.name for c in schema.columns],
        "feature_types": ["float"] * columns,
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {
            "base_score": "[" + ",".join(f"{float(np.float32(b))!r}" for b in start) + "]",
            "boost_from_average": "0",
            "num_class": str(groups if groups > 1 else 0),
            "num_feature": str(columns),
            "num_target": "1",
        },
        "objective": {"name": name, **objective},
    }
    return from_json(
        json.dumps(
            {"learner": learner, "version": [int(v) for v in xgboost.__version__.split(".")[:3]]}
        ).encode()
    )


def from_json(blob: bytes) -> Any:
    """The `xgboost.Booster` of a JSON model; it computes on one thread."""
    import xgboost

    out = xgboost.Booster({"nthread": 1})
    out.load_model(bytearray(blob))
    return out


def matrix(design: Floats) -> Any:
    """An `xgboost.DMatrix` of a design matrix (natural units, NaN where missing)."""
    import xgboost

    return xgboost.DMatrix(design, nthread=1)


def _exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # C's expf is correctly rounded but for a vanishing part of its arguments; numpy's float32 exp
    # is not
    return np.exp(x.astype(np.float64)).astype(np.float32)


def _reached(column: Array) -> Iterator[int]:
    """The nodes of one tree that exist, level by level: the order in which XGBoost numbers them."""
    level = [0]
    while level:
        yield from level
        level = [
            child for node in level if column[node] >= 0 for child in (2 * node + 1, 2 * node + 2)
        ]


def _tree(number: int, tree: Arrays, edges: Array, offsets: Array, columns: int) -> dict[str, Any]:
    nodes = list(_reached(tree["column"]))
    index = {node: i for i, node in enumerate(nodes)}
    split = [bool(tree["column"][node] >= 0) for node in nodes]

    def threshold(node: int) -> float:
        column, cut = int(tree["column"][node]), int(tree["bin"][node])
        edge = int(offsets[column]) + cut
        return float(edges[edge]) if edge < int(offsets[column + 1]) else ABOVE_ALL_VALUES

    return {
        "id": number,
        "base_weights": [float(tree["value"][n]) for n in nodes],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": [int(s and tree["left"][n]) for n, s in zip(nodes, split, strict=True)],
        "left_children": [index[2 * n + 1] if s else -1 for n, s in zip(nodes, split, strict=True)],
        "right_children": [
            index[2 * n + 2] if s else -1 for n, s in zip(nodes, split, strict=True)
        ],
        "parents": [index[(n - 1) // 2] if n else 2**31 - 1 for n in nodes],
        "loss_changes": [
            float(tree["gain"][n]) if s else 0.0 for n, s in zip(nodes, split, strict=True)
        ],
        "split_conditions": [
            threshold(n) if s else float(tree["value"][n])
            for n, s in zip(nodes, split, strict=True)
        ],
        "split_indices": [
            int(tree["column"][n]) if s else 0 for n, s in zip(nodes, split, strict=True)
        ],
        "split_type": [0] * len(nodes),
        "sum_hessian": [float(tree["hess"][n]) for n in nodes],
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(columns),
            "num_nodes": str(len(nodes)),
            "size_leaf_vector": "1",
        },
    }
