"""Native `xgboost.Booster`: made of checked trees for whoever wants one, and read back into arrays
where this process has trained it.

Bytes that came from elsewhere are never given to xgboost: its C++ believes what it reads, and a
child, feature or group out of range ends the process. What is loaded here is serialised here, from
a `common.trees.checked.Forest`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from common.data.schema import Floats, Schema
from common.errors import RefusedError
from common.trees.checked import Forest
from common.trees.model import KINDS, blank
from common.types import Array, Arrays

ABOVE_ALL_VALUES = float(np.finfo(np.float32).max)
"""The threshold of a split that parts the known values (all left) from the missing ones."""
BOOSTER_NODES = 2**22
"""Of a Booster: its text has some hundred bytes a node."""
SUREST = np.float32(2**-24)
"""How near float32 comes to a probability of 1."""


def booster(forest: Forest, schema: Schema) -> Any:
    """A native `xgboost.Booster` (binary:logistic or multi:softprob) of the finished trees; it
    takes the schema's design matrix in natural units and computes on one thread."""
    import xgboost

    nodes = 2 * int((forest.trees["column"] >= 0).sum()) + forest.trees["column"].shape[0]
    if nodes > BOOSTER_NODES:
        raise RefusedError(
            "P02",
            f"trees of {nodes} nodes are more than XGBoost's own form is made of ({BOOSTER_NODES}); "
            "the state was altered, or is another's",
        )
    groups, columns, count = len(forest.base), len(schema.columns), forest.finished
    start = forest.base.astype(np.float64)
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
            _tree(t * groups + k, {n: forest.trees[n][t, k] for n in KINDS}, forest.cuts, columns)
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
    version = [int(v) for v in xgboost.__version__.split(".")[:3]]
    out = xgboost.Booster({"nthread": 1})
    out.load_model(bytearray(json.dumps({"learner": learner, "version": version}).encode()))
    return out


def read_back(model: Any, depth: int) -> Arrays:
    """The arrays of a Booster that this process trained, of at most `depth` levels: those of
    `common.trees.model`, all finished, with `base`, and with the `edges` and `offsets` that its
    own bins count: the thresholds of its splits."""
    learner = json.loads(bytes(model.save_raw("json")))["learner"]
    grown = learner["gradient_booster"]["model"]
    groups = max(int(learner["learner_model_param"]["num_class"]), 1)
    columns = int(learner["learner_model_param"]["num_feature"])
    cuts: list[set[float]] = [set() for _ in range(columns)]
    for tree in grown["trees"]:
        for node, child in enumerate(tree["left_children"]):
            if child >= 0:
                cuts[tree["split_indices"][node]].add(_threshold(tree, node))
    edges = [np.array(sorted(column), np.float32) for column in cuts]
    trees: list[Arrays] = []
    for number, tree in enumerate(grown["trees"]):
        group = grown["tree_info"][number]
        if group == 0:
            trees.append(blank(groups, depth))
        _fill({name: array[0, group] for name, array in trees[-1].items()}, tree, edges)
    base = np.array(json.loads(learner["learner_model_param"]["base_score"]), np.float32)
    if groups == 1:
        # the share of one class alone is 1, whose log-odds are infinite
        base = -np.log(np.float32(1) / np.clip(base, SUREST, 1 - SUREST) - np.float32(1))
    return {
        **{name: np.concatenate([tree[name] for tree in trees]) for name in KINDS},
        "finished": np.array(len(trees)),
        "level": np.array(0),
        "base": base + np.float32(0),
        "losses": np.zeros(0),
        "edges": np.concatenate([np.empty(0, np.float32), *edges]),
        "offsets": np.cumsum([0, *map(len, edges)]).astype(np.int64),
    }


def matrix(design: Floats) -> Any:
    """An `xgboost.DMatrix` of a design matrix (natural units, NaN where missing)."""
    import xgboost

    return xgboost.DMatrix(design, nthread=1)


def _threshold(tree: dict[str, Any], node: int) -> float:
    """Known values below it go left. It may be infinite where only missing values are parted."""
    return float(np.clip(tree["split_conditions"][node], -ABOVE_ALL_VALUES, ABOVE_ALL_VALUES))


def _fill(heap: Arrays, tree: dict[str, Any], edges: list[Array]) -> None:
    """Write one tree of XGBoost's into the arrays of a blank one, in heap order."""
    waiting = [(0, 0)]
    while waiting:
        node, place = waiting.pop()
        left = tree["left_children"][node]
        heap["hess"][place] = tree["sum_hessian"][node]
        if left < 0:
            heap["value"][place] = tree["split_conditions"][node]
            continue
        column = tree["split_indices"][node]
        heap["column"][place] = column
        heap["bin"][place] = np.searchsorted(edges[column], np.float32(_threshold(tree, node)))
        heap["left"][place] = bool(tree["default_left"][node])
        heap["value"][place] = tree["base_weights"][node]
        heap["gain"][place] = tree["loss_changes"][node]
        waiting += [(left, 2 * place + 1), (tree["right_children"][node], 2 * place + 2)]


def _reached(column: Array) -> list[int]:
    """The nodes of one tree that exist, level by level: the order in which XGBoost numbers them."""
    out = [0]
    for node in out:
        if column[node] >= 0:
            out += [2 * node + 1, 2 * node + 2]
    return out


def _tree(number: int, tree: Arrays, cuts: Arrays, columns: int) -> dict[str, Any]:
    nodes = _reached(tree["column"])
    index = {node: i for i, node in enumerate(nodes)}
    split = [bool(tree["column"][node] >= 0) for node in nodes]
    edges, offsets = cuts["edges"], cuts["offsets"]

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
