"""Cryptographic randomness for noise and sampling: the operating system's, which no seed of
anybody's makes again.

Only inside `repeatable`, where a site promises no privacy, does it come from a seed, so that a
simulation can be repeated.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from common.data.schema import Floats

_TERMS = 4
_SEEDED: ContextVar[np.random.Generator | None] = ContextVar("noise", default=None)


@contextmanager
def repeatable(seed: int | None, what: str) -> Iterator[None]:
    """Noise that `seed` and `what` make again: it hides nobody. None: the operating system's, as
    ever."""
    if seed is None:
        yield
        return
    drawn = hashlib.sha256(f"{seed} {what}".encode()).digest()
    token = _SEEDED.set(np.random.Generator(np.random.Philox(int.from_bytes(drawn[:16], "big"))))
    try:
        yield
    finally:
        _SEEDED.reset(token)


def uniform(size: int) -> Floats:
    """(size,) values in (0, 1), of 53 bits each."""
    return np.asarray(((_bits(size) >> np.uint64(11)) + 0.5) * 2.0**-53)


def normal(size: int) -> Floats:
    """(size,) standard normal values.

    Each is the sum of four, halved: what the gaps between floating-point numbers tell of one value,
    they do not of four (Holohan & Braghin 2021, arXiv 2107.10138, sec. 4).
    """
    return np.asarray(
        ndtri(uniform(_TERMS * size)).reshape(_TERMS, size).sum(axis=0) / np.sqrt(_TERMS)
    )


def _bits(size: int) -> NDArray[np.uint64]:
    seeded = _SEEDED.get()
    return np.frombuffer(
        os.urandom(8 * size) if seeded is None else seeded.bytes(8 * size), np.uint64
    )
