"""Site cache of boosting: bins, margins under the finished trees and gradients of a site's rows,
kept between exchanges.

It lives as long as the cohort, and is used only for a state whose edges and trees have the same
hashes; a longer state of the same trees continues it, any other starts again. What is remembered
therefore never changes what is answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort
from common.data.schema import Floats
from common.trees import best_split
from common.trees import model as trees_model
from common.trees.binning import bin_indices
from common.trees.checked import Forest
from common.types import Array, Arrays

SURE = 1e-6
"""Probabilities are kept this far from 0 in the validation loss, which bounds what one patient can
add to it."""


@dataclass(frozen=True)
class Standing:
    """Bins of some rows, their margins after the first `rounds` rounds, and gradients there.
    `edges` and `grown` are hashes of the bin edges and of those rounds: what is remembered counts
    only for a state that has the same."""

    edges: bytes
    grown: bytes
    rounds: int
    bins: Array
    margin: NDArray[np.float32]
    gradient: Floats
    hessian: Floats


def standing(rows: Cohort, forest: Forest) -> Standing:
    """Where `rows` stand under the finished trees; remembered as long as the cohort lives, and
    continued where possible."""
    edges = _fingerprint(forest.cuts, ("edges", "offsets"), None)
    arrays, base, finished = forest.trees, forest.base, forest.finished

    def grown(rounds: int) -> bytes:
        return _fingerprint(arrays, ("column", "bin", "left", "value"), rounds) + base.tobytes()

    cached: Standing | None = rows.derived.get("boosting")
    if cached is not None and cached.edges != edges:
        cached = None
    fingerprint = grown(finished)
    if cached is not None and cached.rounds == finished and cached.grown == fingerprint:
        return cached
    bins = bin_indices(forest.cuts, rows) if cached is None else cached.bins
    first, margin = 0, np.tile(base, (len(rows), 1))
    if cached is not None and cached.rounds < finished and cached.grown == grown(cached.rounds):
        first, margin = cached.rounds, cached.margin
    margin = trees_model.margins(trees_model.between(arrays, first, finished), bins, margin)
    current = Standing(edges, fingerprint, finished, bins, margin, *_gradients(margin, rows.labels))
    rows.derived["boosting"] = current
    return current


def _fingerprint(arrays: Arrays, names: Sequence[str], first: int | None) -> bytes:
    h = hashlib.blake2b(digest_size=16)
    for name in names:
        array = np.ascontiguousarray(arrays[name][:first])
        h.update(f"{name}{array.shape}".encode())
        h.update(array.data if array.size else b"")
    return h.digest()


def _gradients(margin: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Gradient and hessian of the log loss by the margins, (cases, groups), in XGBoost's float32,
    rounded to 2^-36."""
    groups = margin.shape[1]
    p = trees_model.probabilities(margin)
    y = (labels[:, None] == (np.arange(groups) if groups > 1 else 1)).astype(np.float32)
    unit, twice = np.float32(1), np.float32(1 if groups == 1 else 2)
    return best_split.exact(p - y), best_split.exact(
        np.maximum(twice * p * (unit - p), np.float32(1e-16))
    )


def losses(margin: NDArray[np.float32], labels: NDArray[np.int64]) -> Floats:
    """(cases,): minus the log of the probability of the label, natural logarithm, at most
    -log(SURE)."""
    p = trees_model.probabilities(margin).astype(np.float64)
    p = np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p
    return np.asarray(-np.log(np.maximum(p[np.arange(len(p)), labels], SURE)))
