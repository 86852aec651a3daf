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

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from common.data.schema import Floats

_HALF = 1 << 63
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


def rounded_normal(size: int, spread: float) -> NDArray[np.int64]:
    """(size,) whole numbers: normal values of standard deviation `spread` (0 < spread <= 2^40),
    each rounded to the nearest, exactly distributed.

    A whole number to which one is added is the rounded value of itself plus a normal one: what
    leaves is a function of what the Gaussian mechanism would tell, and its proof holds as it
    stands. A normal value in floating point would tell by its low bits to what it was added
    (Mironov 2012; Haney et al. 2022, arXiv 2207.13793). By inversion of 63 random bits; where these,
    or float64, do not decide between two whole numbers, more of both do.
    """
    if not 0 < spread <= 2.0**40:
        raise ValueError(f"spread = {spread!r} must lie in (0, 2^40]")
    bits = _bits(size)
    tail = bits & np.uint64(_HALF - 1)
    at = tail.astype(np.float64) + 0.5
    deviations = -ndtri(np.minimum(at * 2.0**-64, 0.5))
    length = deviations * spread + 0.5
    whole = np.floor(length)
    # of the tail's unknown bits (Mills' ratio: a normal's hazard is above its argument and 0.79),
    # and of float64
    error = spread * (0.5 / at / np.maximum(deviations, 0.79) + (deviations + 1) * 2.0**-47)
    unsure = np.flatnonzero((length - whole < error) | (whole + 1 - length < error) | (at < 2))
    for i in unsure:
        whole[i] = _decided(int(tail[i]), max(int(whole[i]), 0), spread)
    signed: NDArray[np.float64] = np.where(bits >> np.uint64(63), -whole, whole)
    return signed.astype(np.int64)


def discrete_normal(size: int, spread: float) -> NDArray[np.int64]:
    """(size,) whole numbers k with probabilities in proportion to exp(-k^2 / (2 spread^2)), exactly:
    the discrete Gaussian (Canonne, Kamath, Steinke 2020, arXiv 2004.00010, def. 1).

    A rounded normal value is nearly one, and too often large: it is kept with the probability that
    makes up for it, which is all but 1, and drawn anew where it is not.
    """
    out, left = np.empty(size, np.int64), np.arange(size)
    while left.size:
        drawn = rounded_normal(left.size, spread)
        kept = _kept(drawn, spread)
        out[left[kept]] = drawn[kept]
        left = left[~kept]
    return out


def _kept(drawn: NDArray[np.int64], spread: float) -> NDArray[np.bool_]:
    """(drawn,): with the chance I(0) / I(k), where I(k) is the integral of cosh(k u / spread^2)
    exp(-u^2 / (2 spread^2)) over u in (0, 1/2): what a rounded value is likelier by than a
    discrete one. It is above 1 - k^2 / (8 spread^4), which decides at once nearly always."""
    bits = _bits(len(drawn))
    refused = (drawn.astype(np.float64) / spread / spread) ** 2 / 8 * (1 + 1e-9)
    kept = bits.astype(np.float64) * 2.0**-64 * (1 - 1e-9) >= refused
    for i in np.flatnonzero(~kept):
        kept[i] = not _refused(int(bits[i]), abs(int(drawn[i])), spread)
    return kept


def _refused(value: int, k: int, spread: float) -> bool:
    """Is the uniform number that begins with the 64 bits `value` below 1 - I(0) / I(k)?"""
    known = 64
    while True:
        # of a chance of spread^-4 and a difference of spread^-1 this many bits are lost, at 2^40
        with mpmath.workprec(known + 320):
            scale = spread * mpmath.sqrt(2)
            half = mpmath.mpf("0.5")
            rounded = mpmath.erfc((k - half) / scale) - mpmath.erfc((k + half) / scale)
            chance = mpmath.exp(-((k / scale) ** 2)) * 2 * mpmath.erf(half / scale) / rounded
            edge, slack = mpmath.ldexp(1 - chance, known), mpmath.ldexp(1, -32)
            if value + 1 < edge - slack:
                return True
            if value > edge + slack:
                return False
        value, known = value << 64 | int(_bits(1)[0]), known + 64


def _decided(tail: int, near: int, spread: float) -> int:
    """The k >= 0 for which the upper tail that begins with the 63 bits `tail` lies between those
    beyond (k - 1/2) / spread and (k + 1/2) / spread; `near` is a guess of it."""
    known = 64

    def beyond(k: int) -> bool:
        """Is the value above k + 1/2?"""
        nonlocal tail, known
        while True:
            with mpmath.workprec(known + 64):
                edge = mpmath.erfc((k + mpmath.mpf("0.5")) / (spread * mpmath.sqrt(2))) / 2
                scaled = mpmath.ldexp(edge, known)
                slack = mpmath.ldexp(scaled, -known - 32)
                if tail + 1 < scaled - slack:
                    return True
                if tail > scaled + slack:
                    return False
            tail, known = tail << 64 | int(_bits(1)[0]), known + 64

    low, high, reach = near - 1, near, 1
    while low >= 0 and not beyond(low):
        low, high, reach = low - reach, low, 2 * reach
    while beyond(high):
        low, high, reach = high, high + reach, 2 * reach
    low = max(low, -1)
    # above low + 1/2 (any value is above -1/2), and not above high + 1/2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if beyond(middle) else (low, middle)
    return high


def _bits(size: int) -> NDArray[np.uint64]:
    seeded = _SEEDED.get()
    return np.frombuffer(
        os.urandom(8 * size) if seeded is None else seeded.bytes(8 * size), np.uint64
    )
