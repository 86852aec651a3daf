"""Image classifiers that there are: the files of `common/networks/classifiers/`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

from common.errors import RefusedError, UsageError
from common.networks import classifiers
from common.networks.classifier import Classifier
from common.types import Arrays


def names() -> tuple[str, ...]:
    """All of them, by name."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(classifiers.__path__)))


@lru_cache(maxsize=64)
def load(name: str) -> Classifier:
    """The one in `common/networks/classifiers/<name>.py`; UsageError C01 where there is none."""
    if name not in names():
        raise UsageError("C01", f"network '{name}' is unknown; there are {', '.join(names())}")
    classifier: Classifier = importlib.import_module(f"{classifiers.__name__}.{name}").CLASSIFIER
    return classifier


def trained(arrays: Arrays) -> Classifier:
    """The network that the image learner's arrays are of; RefusedError P02 for arrays of one that
    is not here."""
    number = int(arrays["network"])
    known = {c.number: c for c in map(load, names())}
    if number not in known:
        here = ", ".join(f"{n} ({known[n].name})" for n in sorted(known))
        raise RefusedError(
            "P02",
            f"the state is of network number {number}, here are {here}; install the version of "
            "fedmets that it was trained by",
        )
    return known[number]
