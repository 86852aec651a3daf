"""Protected sums: what a learner with a declared bound sends under noise or masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from common.data.schema import Schema
from common.federated.learner import Federated, Plan
from common.privacy.mechanism import Sampled
from common.privacy.patient_sums import FINEST, Block, Grid, grid, patient_sums
from common.types import Arrays

_AT_ONCE = 1 << 22
"""Numbers of a block of patients: 32 MB."""


def protected_sums(
    learner: Federated,
    plan: Plan,
    schema: Schema,
    blocks: Iterable[Block],
    shapes: Mapping[str, tuple[int, ...]],
) -> Arrays:
    """The sums of `blocks`, each patient cut to the phase's bound and rounded to the grid: in steps
    of it where noise is to follow (int64), else as numbers (float64)."""
    bound = learner.phases[plan.phase].sensitivity(schema)
    if bound is None or isinstance(bound, Sampled):
        raise AssertionError(f"{learner.name}, {plan.phase}: no bound to cut a patient's values to")
    on = Grid(FINEST) if plan.privacy is None else grid(bound, plan.privacy.spread)
    # what a state makes of a patient's values may be no number: it is then left out
    with np.errstate(all="ignore"):
        whole = patient_sums(blocks, shapes, bound, on)
    return dict(whole) if plan.privacy else {k: on.values(v) for k, v in whole.items()}


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Rows of `width` numbers each, some at a time."""
    many = max(_AT_ONCE // max(width, 1), 1)
    return (slice(i, min(i + many, rows)) for i in range(0, rows, many))
