"""Preprocessing: imputation, scaling and bin edges from federated sums, fitted on training rows
only and stored in the model.

Two passes. `coarse`: counts and sums on the model scale, and a histogram on a fixed grid between
the schema's bounds, split by class (guard L03 reads it). `fine`: squares about the mean that is now
known, so that a narrow column far from zero keeps its digits, and the coarse cells divided in
proportion to their mass, counted again, so that quantiles are exact to a fine cell: the error is at
most the coarse cell's width divided by its subdivisions.

Grids are linear on the model scale (`log(1 + x - low)` for a log-scale number). A patient adds 1 to
at most one cell a column and pass, and at most 1 to each other sum, hence the sensitivity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort
from common.data.schema import Column, Floats, Schema
from common.federated.array_rules import ArrayRule, ArrayRules, counts, exactly, whole
from common.federated.learner import Contribution, Phase, Plan, Step, Traits, demand
from common.federated.protected_sums import Summands
from common.federated.states import States
from common.metrics.feature_auc import feature_auc
from common.privacy.limits import CLIP
from common.privacy.patient_sums import Cells
from common.types import Arrays

COARSE = 256
FINE = 2048


@dataclass(frozen=True)
class Preprocessing:
    """Arrays once done: `count`, `mean`, `scale` (columns,) on the model scale; `offsets` (columns
    + 1,) into `edges`: the float32 bin edges of each column in natural units; `auc` (features,):
    what each feature reaches alone on the training rows (guard L03); `classes` (classes,): training
    cases; `bounds` (columns, 3): low, high in natural units, and 1 for a log scale."""

    name: str = "preprocessing"
    needs: ClassVar[tuple[str, ...]] = ()
    modality: ClassVar[frozenset[str]] = frozenset({"table"})
    traits: ClassVar[Traits] = Traits(trains=True)
    bins: int = 64
    """The most bins a column is cut into for histogram trees."""
    clip: float = 10.0
    """Standardised values are clipped to +- this many standard deviations: it bounds a patient's
    summand in linear models."""

    def __post_init__(self) -> None:
        demand(
            self.name,
            {"2 <= bins <= 1024": 2 <= self.bins <= 1024, CLIP.rule: CLIP.holds(self.clip)},
        )

    def start(self, schema: Schema, seed: int) -> Arrays:
        columns = schema.columns
        return {
            "pass": np.array(0),
            "bounds": np.array([[c.low, c.high, c.scale == "log"] for c in columns]).reshape(-1, 3),
            "feature": np.array([schema.features.index(c.feature) for c in columns], np.int64),
            "level": np.array([c.level is not None for c in columns], np.bool_),
        }

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        at, fixed, n = int(own["pass"]), self.start(schema, 0), len(schema.columns)
        if at == 0:
            return {k: exactly(v) for k, v in fixed.items()}
        share = ArrayRule(np.float64, (len(schema.features),), 0.0, 1.0, (np.nan,))
        first = {
            "bounds": exactly(fixed["bounds"]),
            "auc": share,
            "classes": counts(len(schema.label.classes)),
        }
        if at == 1:
            cells = own["cells"]
            return {
                **{k: exactly(v) for k, v in fixed.items()},
                **first,
                "pass": whole(low=1, high=1),
                "moments": counts(n, 2),
                "cells": ArrayRule(np.int64, (n, COARSE), 1, FINE, row=FINE + COARSE),
                "start": exactly(_starts(cells)),
            }
        low, span = _spans(fixed["bounds"])
        largest = float(np.abs(fixed["bounds"][:, :2]).max(initial=0.0)) * (1 + 1e-6)
        return {
            **first,
            "pass": whole(low=2, high=2),
            "count": counts(n),
            "mean": ArrayRule(np.float64, (n,), low - 1e-6 * span, low + (1 + 1e-6) * span),
            # noise may make it large
            "scale": ArrayRule(
                np.float64, (n,), np.minimum(1e-9 * span, 1.0), 1e6 * np.maximum(span, 1.0)
            ),
            "clip": ArrayRule(np.float64, (), CLIP.least, CLIP.most),
            "offsets": ArrayRule(np.int64, (n + 1,), 0, 1024 * n),
            "edges": ArrayRule(np.float32, ("edges",), -largest, largest),
        }

    def phase(self, arrays: Arrays) -> str:
        return "coarse" if int(arrays["pass"]) == 0 else "fine"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        columns = rows.schema.columns
        if plan.phase == "coarse":
            classes = len(rows.schema.label.classes)
            histogram = np.zeros((len(columns), COARSE + 1, classes))
            moments = np.zeros((len(columns), 2))
            for j, column in enumerate(columns):
                u = _unit(column, rows.design[:, j])
                known = u[~np.isnan(u)]
                moments[j] = len(known), known.sum()
                histogram[j] = np.bincount(
                    _cell(u) * classes + rows.labels, minlength=(COARSE + 1) * classes
                ).reshape(-1, classes)
            counts = np.bincount(rows.labels, minlength=classes).astype(np.float64)
            return Contribution(
                {"histogram": histogram, "moments": moments, "classes": counts}, len(rows)
            )
        arrays = states[plan.fold][self.name]
        cells = arrays["cells"]
        start = _starts(cells)
        # float32 holds counts up to 2^24 patients a cell exactly, in half the bytes
        counts, squares, mean = (
            np.zeros(int(start[-1]), np.float32),
            np.zeros(len(columns)),
            _mean(arrays),
        )
        for j, column in enumerate(columns):
            u = _unit(column, rows.design[:, j])
            known = u[~np.isnan(u)]
            counts[start[j] : start[j + 1]] = np.bincount(
                _fine_cell(known, cells[j]), minlength=int(cells[j].sum())
            )
            squares[j] = ((known - mean[j]) ** 2).sum()
        return Contribution({"counts": counts, "squares": squares}, len(rows))

    def summands(self, states: States, cohort: Cohort, plan: Plan) -> Iterator[Summands]:
        """What each patient adds to the same sums."""
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        columns, classes = rows.schema.columns, len(rows.schema.label.classes)
        u = np.empty(rows.design.shape)
        for j, column in enumerate(columns):
            u[:, j] = _unit(column, rows.design[:, j])
        known = ~np.isnan(u)
        if plan.phase == "coarse":
            cells = Cells(
                np.full(len(columns), (COARSE + 1) * classes),
                _cell(u) * classes + rows.labels[:, None],
                np.ones(u.shape),
            )
            moments = np.stack([known, np.where(known, u, 0.0)], axis=2)
            own = np.eye(classes)[rows.labels]
            yield Summands(len(u), {"histogram": cells, "moments": moments, "classes": own})
            return
        arrays = states[plan.fold][self.name]
        at, mean = np.full(u.shape, -1), _mean(arrays)
        for j in range(len(columns)):
            at[known[:, j], j] = _fine_cell(u[known[:, j], j], arrays["cells"][j])
        fine = Cells(arrays["cells"].sum(axis=1), at, np.ones(u.shape))
        yield Summands(len(u), {"counts": fine, "squares": np.where(known, (u - mean) ** 2, 0.0)})

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        arrays = states[plan.fold][self.name]
        # no sum of ours is below 0; noise may take it there
        sums = {k: np.maximum(v, 0) for k, v in total.sums.items()}
        if plan.phase == "coarse":
            histogram, moments = sums["histogram"], sums["moments"]
            mass = histogram[:, :COARSE].sum(axis=2)
            share = mass / np.maximum(mass.sum(axis=1, keepdims=True), 1)
            cells = np.maximum(np.ceil(share * FINE), 1).astype(np.int64)
            alone = feature_auc(histogram, arrays["feature"], arrays["level"])
            coarse = {
                "auc": alone,
                "classes": sums["classes"],
                "moments": moments,
                "cells": cells,
                "start": _starts(cells),
            }
            return Step({**arrays, "pass": np.array(1), **coarse}, False)
        bounds = arrays["bounds"]
        count = arrays["moments"][:, 0]
        low, span = _spans(bounds)
        # divided by the cases of this pass: a site may have been lost since the other one
        squared = np.array([sums["counts"][a:b].sum() for a, b in pairwise(arrays["start"])])
        scale = span * np.sqrt(sums["squares"] / np.maximum(squared, 1))
        edges = [
            _edges(sums["counts"][a:b].astype(np.float64), c, bound, self.bins)
            for a, b, c, bound in zip(
                arrays["start"][:-1], arrays["start"][1:], arrays["cells"], bounds, strict=True
            )
        ]
        return Step(
            {
                "pass": np.array(2),
                "bounds": bounds,
                "auc": arrays["auc"],
                "classes": arrays["classes"],
                "count": count,
                "mean": low + span * _mean(arrays),
                # a column that never varies (or is missing throughout) is left at 0 by any scale;
                # so small a one is a rounding error
                "scale": np.where(scale > 1e-9 * span, scale, 1.0),
                "clip": np.array(self.clip),
                "offsets": np.concatenate([[0], np.cumsum([len(e) for e in edges])]).astype(
                    np.int64
                ),
                "edges": np.concatenate([np.empty(0, np.float32), *edges]),
            },
            True,
        )

    @property
    def phases(self) -> Mapping[str, Phase]:
        # a column and pass: one cell; in the coarse pass also count and sum on [0, 1], and once the
        # class; in the fine one a square
        coarse = (
            "`histogram` of each column by class, `moments` (counts and sums), `classes` "
            "(training cases)"
        )
        fine = "`counts` of the finer cells, `squares` about the mean"
        return {
            "coarse": Phase(coarse, 1, lambda schema: float(np.sqrt(3 * len(schema.columns) + 1))),
            "fine": Phase(fine, 1, lambda schema: float(np.sqrt(2 * len(schema.columns)))),
        }


def standardise(arrays: Arrays, cohort: Cohort) -> Floats:
    """(cases, columns) on the model scale with mean 0 and standard deviation 1 over the training
    rows; missing becomes 0 (the mean)."""
    key = tuple(arrays[name].tobytes() for name in ("mean", "scale", "clip"))
    cached: tuple[tuple[bytes, ...], Floats] | None = cohort.derived.get("standardised")
    if cached is None or cached[0] != key:
        z = np.empty(cohort.design.shape)
        for j, column in enumerate(cohort.schema.columns):
            z[:, j] = (column.to_model(cohort.design[:, j]) - arrays["mean"][j]) / arrays["scale"][
                j
            ]
        clip = float(arrays["clip"])
        z = np.nan_to_num(np.clip(z, -clip, clip), nan=0.0)
        z.flags.writeable = False
        # a fold's training rows are standardised alike round after round
        cached = cohort.derived["standardised"] = key, z
    return cached[1]


def _starts(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """(columns + 1,): where each column's fine cells begin."""
    return np.concatenate([[0], np.cumsum(cells.sum(axis=1))])


def _spans(bounds: Floats) -> tuple[Floats, Floats]:
    """Low end and width of each column on the model scale."""
    low, high, log = bounds.T
    return np.where(log > 0, 0.0, low), np.where(log > 0, np.log1p(high - low), high - low)


def _mean(arrays: Arrays) -> Floats:
    """(columns,) on [0, 1], from the coarse pass."""
    count, first = arrays["moments"].T
    return np.asarray(np.clip(first / np.maximum(count, 1), 0, 1))


def _unit(column: Column, x: Floats) -> Floats:
    """The model scale mapped to [0, 1] by the schema's bounds."""
    low, high = column.span
    return (column.to_model(x) - low) / (high - low)


def _cell(u: Floats) -> NDArray[np.int64]:
    """The coarse cell of each value; the last one for a missing value."""
    return np.where(
        np.isnan(u),
        COARSE,
        np.clip(np.floor(np.nan_to_num(u) * COARSE).astype(np.int64), 0, COARSE - 1),
    )


def _fine_cell(u: Floats, cells: NDArray[np.int64]) -> NDArray[np.int64]:
    coarse = np.clip(np.floor(u * COARSE).astype(np.int64), 0, COARSE - 1)
    inside = np.clip(
        np.floor((u * COARSE - coarse) * cells[coarse]).astype(np.int64), 0, cells[coarse] - 1
    )
    return np.concatenate([[0], np.cumsum(cells)[:-1]])[coarse] + inside


def _edges(
    counts: Floats, cells: NDArray[np.int64], bound: Floats, bins: int
) -> NDArray[np.float32]:
    """At most `bins - 1` cuts between cells that hold somebody, near the quantiles; each in the
    middle of its gap; natural units."""
    coarse = np.repeat(np.arange(COARSE), cells)
    within = np.arange(len(coarse)) - np.repeat(np.cumsum(cells) - cells, cells)
    left = (coarse + within / cells[coarse]) / COARSE
    right = (coarse + (within + 1) / cells[coarse]) / COARSE
    held = np.flatnonzero(counts > 0)
    if len(held) < 2:
        return np.empty(0, np.float32)
    if len(held) > bins:
        middle = np.cumsum(counts[held]) - counts[held] / 2
        group = np.floor(middle / counts[held].sum() * bins)
        cut = np.flatnonzero(np.diff(group) > 0)
    else:
        cut = np.arange(len(held) - 1)
    u = (right[held[cut]] + left[held[cut + 1]]) / 2
    low, span = _spans(bound[None])
    t = low + span * u
    return np.unique((np.expm1(t) + bound[0] if bound[2] > 0 else t).astype(np.float32))


LEARNER = Preprocessing()
