"""Imaging part of a schema, for a learner that cannot do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.data.schema import Imaging, Schema
from common.errors import UsageError

if TYPE_CHECKING:
    pass


def imaging_of(learner: str, schema: Schema) -> Imaging:
    if schema.imaging is None:
        raise UsageError(
            "C01",
            f"learner '{learner}' needs a study that declares images; '{schema.name}' declares "
            "none, leave it out",
        )
    return schema.imaging
