"""States of a run: for each training set what every learner has learnt there.

A learner that reads several folds gets them as they are. Names are joined only where states become
bytes: arrays are then called `fold key<tab>learner<tab>array`, which is what is stored and hashed.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.data.cohort import Fold
from common.types import Arrays, State, flatten

States = Mapping[Fold, State]
"""Training set -> learner's name -> arrays."""


def with_arrays(states: States, fold: Fold, learner: str, arrays: Arrays) -> States:
    """The states with other arrays of one learner on one fold."""
    return {**states, fold: {**states.get(fold, {}), learner: arrays}}


def named_arrays(states: States) -> Arrays:
    """`fold key<tab>learner<tab>array` -> array: what is packed and hashed."""
    return flatten(flatten({fold.key: state for fold, state in states.items()}))
