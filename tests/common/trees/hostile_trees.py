"""A process that uses whatever trees it is given, as a site would: a state comes in as packed
arrays behind their length, a word goes out. If xgboost's C++ ends it, its parent notices."""

from __future__ import annotations

import struct
import sys
from typing import Any

import numpy as np

from common.data.cohort import Cohort, Fold
from common.errors import FedmetsError
from common.federated.learner import Plan, hyper_of, local_plan, validate
from common.learners.boosting import Boosting, booster
from common.learners.importance import Importance
from common.types import State, nest, unpack
from tests import synthetic

HEAD = Boosting(trees=3, depth=2, early_stopping=2)


def cohort(classes: int) -> Cohort:
    return synthetic.sites(60, 1, classes=classes)[0]


def uses(state: State, those: Cohort) -> dict[str, Any]:
    """Name -> what is computed of the trees."""

    def plan(phase: str) -> Plan:
        from dataclasses import replace

        asked = local_plan(Fold(), 0, 5)
        return replace(asked, learner="boosting", phase=phase, hyper=hyper_of(HEAD))

    look = Importance(heads=("boosting",))
    return {
        "predict": lambda: HEAD.predict(state, those),
        "grow": lambda: HEAD.contribute({Fold(): state}, those, plan("grow")).sums["hessian"],
        "score": lambda: HEAD.contribute({Fold(): state}, those, plan("score")).sums["validation"],
        "explain": lambda: HEAD.explain(state, those),
        "importance": lambda: look.contribute({Fold(): state}, those, plan("explain")).sums[
            "boosting"
        ],
        "export": lambda: np.array(booster(state, those.schema).num_boosted_rounds()),
    }


def told(state: State, those: Cohort) -> str:
    """`fine`, the code of a refusal, or what went wrong."""
    try:
        validate(state, those.schema)
        good = ""
    except FedmetsError as error:
        good = error.code
    for name, use in uses(state, those).items():
        try:
            if not np.isfinite(use()).all():
                return f"{name} is not finite"
        except FedmetsError:
            continue
        except Exception as error:
            return f"{name}: {type(error).__name__}: {error}"
    return good or "fine"


def main(classes: int) -> None:
    those = cohort(classes)
    while size := sys.stdin.buffer.read(8):
        state = nest(unpack(sys.stdin.buffer.read(struct.unpack("<Q", size)[0])))
        print(told(state, those), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
