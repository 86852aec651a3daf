"""Synthetic cohorts for tests: every kind of column, any number of classes, values missing, labels
unknown, follow-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.data.cohort import UNKNOWN, Cohort, Flow
from common.data.schema import Choice, Label, Number, Schema, Survival

Table = np.ndarray[Any, Any]


def schema(classes: int = 2, numbers: int = 2) -> Schema:
    """Numbers, a skewed marker, a rank and a choice with three values: `numbers` + 4 columns."""
    features = (
        *(Number(f"x{j}", "u", -8, 8, "now") for j in range(numbers)),
        Number("marker", "ng/mL", 0, 1e5, "now", "log"),
        Choice("grade", ("low", "middle", "high"), "now", ordered=True),
        Choice("place", ("left", "right", "middle"), "now"),
    )
    label = Label("y", tuple(f"class {k}" for k in range(classes)))
    return Schema("synthetic", features, label, ("now",), Survival("follow-up", "days", 1000, 10))


def cohort(
    n: int,
    *,
    classes: int = 2,
    numbers: int = 2,
    seed: int = 0,
    missing: float = 0.1,
    unknown: float = 0.0,
    noise: float = 1.0,
) -> Cohort:
    """`n` patients whose label depends on three features; each class has somebody as soon as n >=
    classes. `noise` 0: separable."""
    r = np.random.default_rng(seed)
    s = schema(classes, numbers)
    x = r.normal(size=(n, numbers + 3)).clip(-7, 7)
    x[:, numbers + 1 :] = r.integers(0, 3, (n, 2))
    z = (
        x[:, 0]
        + 0.7 * x[:, numbers]
        + 0.5 * (x[:, numbers + 2] == 1)
        + noise * r.logistic(size=n) * 0.6
    )
    y = np.argsort(np.argsort(z, kind="stable"), kind="stable") * classes // max(n, 1)
    x[:, numbers] = np.exp(x[:, numbers] + 2).clip(0, 1e5)
    x[r.random(x.shape) < missing] = np.nan
    y = np.where(r.random(n) < unknown, UNKNOWN, y)
    survival = np.stack([r.exponential(800, n), (r.random(n) < 0.4).astype(float)], axis=1)
    survival[r.random(n) < 0.1] = np.nan
    return Cohort(
        "all",
        s,
        tuple(f"p{i:05d}" for i in range(n)),
        x,
        y.astype(np.int64),
        account(y),
        survival=survival,
    )


def account(labels: Table) -> Flow:
    """Of a site that leaves nobody out."""
    return Flow(
        len(labels),
        kept=len(labels),
        unknown_label=int((labels == UNKNOWN).sum()),
        label_source="made",
    )


def split(whole: Cohort, at: Sequence[int] | Table, count: int | None = None) -> list[Cohort]:
    """One cohort for each number below `count`; a site may be empty."""
    at = np.asarray(at)
    out = []
    for k in range(count if count is not None else int(at.max()) + 1):
        mine = np.flatnonzero(at == k)
        out.append(
            Cohort(
                f"S{k}",
                whole.schema,
                tuple(whole.ids[i] for i in mine),
                whole.values[mine],
                whole.labels[mine],
                account(whole.labels[mine]),
                survival=None if whole.survival is None else whole.survival[mine],
            )
        )
    return out


def sites(n: int, count: int = 3, **how: Any) -> list[Cohort]:
    """`n` patients dealt to `count` sites in turn."""
    return split(cohort(n, **how), np.arange(n) % count, count)
