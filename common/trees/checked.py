"""Trees that came in a state, checked before anything is computed from them: what a coordinator or a
model folder sent is data, and may be anything.

Nodes are addressed in heap order, so a child is where its parent is, no node has two parents, and
nothing can go round: what remains to be looked at is that the last level splits nowhere, that a
split hangs below a split, and that every index and number is within its bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import RefusedError
from common.trees.model import KINDS
from common.types import Array, Arrays

DEEPEST = 12
"""Levels of a tree."""
MOST_NODES = 2**26
"""Of all trees together, split or not."""
LARGEST = 1e30
"""Bound of a margin, so that none overflows float32 on the way."""


@dataclass(frozen=True)
class Forest:
    """Trees that are what `common.trees.model` says they are; made by `checked` alone."""

    trees: Arrays
    """Those of `KINDS`, (trees, groups, nodes): the finished ones, then one that grows."""
    finished: int
    level: int
    """Depth that the growing tree splits next."""
    base: NDArray[np.float32]
    """(groups,): the margin before the first tree."""
    cuts: Arrays
    """`edges` and `offsets` of the bins (see `Preprocessing`)."""


def checked(
    arrays: Mapping[str, Array], prepared: Mapping[str, Array], columns: int, classes: int
) -> Forest:
    """The trees in a state, for a schema with so many columns and classes. RefusedError P02 names
    what is not as it must be.

    `prepared`: preprocessing's arrays, whose `edges` the bins count unless the trees bring their
    own, and whose `classes`, the training cases by class, give the base where it is not fixed.
    """
    groups = 1 if classes == 2 else classes
    cuts = _cuts(arrays if "edges" in arrays else prepared, columns)
    trees = {name: _array(arrays, name, 3, kind) for name, kind in KINDS.items()}
    shape = trees["column"].shape
    if any(array.shape != shape for array in trees.values()):
        _refuse(f"its arrays have shapes {[array.shape for array in trees.values()]}")
    nodes = shape[2]
    levels = (nodes + 1).bit_length() - 2
    if shape[1] != groups or nodes + 1 != 2 ** (levels + 1) or not 1 <= levels <= DEEPEST:
        _refuse(
            f"its trees have the shape {shape}; (trees, {groups}, 2^(depth + 1) - 1) with a depth "
            f"of 1 to {DEEPEST} is expected"
        )
    if trees["column"].size > MOST_NODES:
        _refuse(f"it has {trees['column'].size} nodes, {MOST_NODES} are the most")
    finished, level = (int(_array(arrays, name, 0, "iu")) for name in ("finished", "level"))
    if not 0 <= finished <= shape[0] <= finished + 1 or not 0 <= level < levels:
        _refuse(
            f"finished = {finished} and level = {level} are out of range for {shape[0]} trees of "
            f"{levels} levels"
        )
    losses = _array(arrays, "losses", 1, "f")
    if np.isnan(losses).any():
        _refuse("a loss is no number")
    base = _array(arrays, "base", 1, np.float32)
    if base.shape != (groups,):
        _refuse(f"base: {len(base)} values, {groups} are expected")
    base = first_margin(base, prepared)
    faults = [*_wrong_splits(trees, cuts["offsets"]), *_wrong_numbers(trees, base)]
    if faults:
        _refuse(*faults)
    return Forest(trees, finished, level, base, cuts)


def _wrong_splits(trees: Arrays, offsets: Array) -> Iterator[str]:
    column, cut = trees["column"], trees["bin"]
    split = column >= 0
    columns = len(offsets) - 1
    if ((column < -1) | (column >= columns)).any():
        yield f"column {column.min()} to {column.max()}, there are {columns}"
        return
    # a bin counts the edges of its column; the last one parts the known from the missing
    most = np.append(np.diff(offsets), 0)[column]
    if (split & ((cut < 0) | (cut > most))).any():
        yield "bin: a split's is not one of its column's"
    node = np.arange(1, column.shape[2])
    if (split[:, :, node] & ~split[:, :, (node - 1) // 2]).any():
        yield "column: a split hangs below a leaf"
    if split[:, :, column.shape[2] // 2 :].any():
        yield "column: a node of the last level is split"


def _wrong_numbers(trees: Arrays, base: NDArray[np.float32]) -> Iterator[str]:
    for name in ("value", "gain", "hess"):
        if not np.isfinite(trees[name]).all():
            yield f"{name}: not finite"
            return
    largest = np.abs(trees["value"]).max(axis=2).astype(np.float64).sum(axis=0)
    if not (largest + np.abs(base) <= LARGEST).all():
        yield f"value and base: margins of up to {largest.max() + np.abs(base).max():g}"


def _cuts(arrays: Mapping[str, Array], columns: int) -> Arrays:
    """`edges` and `offsets`, each column's edges finite and in order."""
    edges, offsets = _array(arrays, "edges", 1, np.float32), _array(arrays, "offsets", 1, np.int64)
    widths = np.diff(offsets)
    # each within its bounds first: differences of numbers near 2^63 turn round
    inside = len(offsets) == columns + 1 and ((offsets >= 0) & (offsets <= len(edges))).all()
    if not inside or offsets[0] or offsets[-1] != len(edges) or (widths < 0).any():
        _refuse(f"offsets: do not divide {len(edges)} edges among {columns} columns")
    if not np.isfinite(edges).all():
        _refuse("edges: not finite")
    column = np.repeat(np.arange(columns), widths)
    if ((np.diff(edges) < 0) & (np.diff(column) == 0)).any():
        _refuse("edges: those of a column are not in order")
    return {"edges": edges, "offsets": offsets}


def first_margin(base: NDArray[np.float32], prepared: Mapping[str, Array]) -> NDArray[np.float32]:
    """(groups,): the margin before the first tree; where it is not fixed (NaN), from the class
    counts, shares kept 1e-6 from 0 and 1."""
    if not np.isnan(base).any():
        return base
    classes = 2 if len(base) == 1 else len(base)
    counts = _array(prepared, "classes", 1, "f")
    if len(counts) != classes or not np.isfinite(counts).all() or (counts < 0).any():
        _refuse(f"classes: {classes} counts of cases are expected")
    share = np.clip(
        counts / counts.sum() if counts.sum() > 0 else np.full(classes, 1 / classes), 1e-6, 1 - 1e-6
    )
    logs = np.log(share)
    return np.asarray(
        [logs[1] - np.log1p(-share[1])] if classes == 2 else logs - logs.mean(), np.float32
    )


def _array(
    arrays: Mapping[str, Array], name: str, dimensions: int, kind: str | type[np.generic]
) -> Array:
    """The array of that name, if it has so many dimensions and is of that type, or of one of those
    kinds."""
    array = arrays.get(name)
    if array is None:
        _refuse(f"{name}: not there")
    assert array is not None
    fits = array.dtype.kind in kind if isinstance(kind, str) else array.dtype == kind
    if not fits or array.ndim != dimensions:
        _refuse(f"{name}: {array.dtype} of shape {array.shape}")
    return array


def _refuse(*faults: str) -> None:
    raise RefusedError(
        "P02", *(f"trees in a state: {f}; the state was altered, or is another's" for f in faults)
    )
