"""Shamir's secret sharing: any `threshold` of the shares give the secret, fewer say nothing of it
(Shamir 1979, CACM 22(11)).

The field is that of the prime 2^320 + 27. A secret is 32 bytes with 8 bytes of its SHA-256 behind
them: shares that do not belong together are found out, but for a chance of 2^-64, and not taken for
a secret.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from functools import lru_cache

from common.errors import RefusedError, WireError

PRIME = 2**320 + 27
SECRET_BYTES = 32
"""Bytes of a secret."""
SHARE_BYTES = 41
"""Bytes of a share."""
_CHECK_BYTES = 8


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Shares for the points 1 to `count`: values there of a random polynomial of degree `threshold`
    - 1 that is the secret at 0."""
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= count:
        raise ValueError(f"{len(secret)} bytes in {count} shares of which {threshold} are enough")
    coefficients = [
        int.from_bytes(secret + _check(secret)),
        *(secrets.randbelow(PRIME) for _ in range(threshold - 1)),
    ]
    highest_first = coefficients[::-1]
    shares = []
    for x in range(1, count + 1):
        y = 0
        for coefficient in highest_first:
            y = (y * x + coefficient) % PRIME
        shares.append(y.to_bytes(SHARE_BYTES))
    return shares


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from shares by their points. RefusedError M01 where they are too few, WireError
    M02 where they do not belong together."""
    if len(shares) < threshold:
        raise RefusedError("M01", f"{len(shares)} shares of a secret, {threshold} are needed")
    points = tuple(sorted(shares)[:threshold])
    values = [int.from_bytes(shares[x]) for x in points]
    if any(len(shares[x]) != SHARE_BYTES for x in points) or any(y >= PRIME for y in values):
        raise WireError("M02", "a share of a secret is malformed")
    polynomial_at_zero = sum(w * y for w, y in zip(_weights(points), values, strict=True)) % PRIME
    block = polynomial_at_zero.to_bytes(SHARE_BYTES)
    secret, check = block[1 : 1 + SECRET_BYTES], block[1 + SECRET_BYTES :]
    if block[0] or check != _check(secret):
        raise WireError(
            "M02",
            "shares of a secret do not belong together; one was altered, or is of another secret",
        )
    return secret


@lru_cache(maxsize=8)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's, at 0: the sum of weight times share is the secret. The secrets of one step have
    the same points."""
    out = []
    for x in points:
        others = [z for z in points if z != x]
        out.append(math.prod(others) * pow(math.prod(z - x for z in others), -1, PRIME) % PRIME)
    return tuple(out)


def _check(secret: bytes) -> bytes:
    return hashlib.sha256(b"fedmets secret" + secret).digest()[:_CHECK_BYTES]
