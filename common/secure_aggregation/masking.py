"""Pairwise masks: long vectors that look random, from short seeds, and cancel in the sum over all
sites (Bonawitz et al. 2017, sec. 4).

A site adds to its vector the stream of a seed of its own, and for each other site the stream of a
seed that the two share: one of them adds it, the other subtracts it. Everything is modulo 2^64,
where a number plus a uniform one is uniform.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from common.secure_aggregation.fixed_point import Words

SEED_BYTES = 32
"""Bytes of a seed."""
_CHUNK = 1 << 17
"""Made at a time: what a core's cache holds."""
_ZEROS = bytes(8 * _CHUNK)


def mask(vector: Words, site: str, seeds: Mapping[str, bytes]) -> None:
    """Put on `vector`, in place, masks of `site`; `seeds`: by the other site with which it shares
    one, its own under its own name."""
    for other, seed in seeds.items():
        _add(vector, seed, _added(site, other))


def unmask(vector: Words, site: str, seeds: Mapping[str, bytes]) -> None:
    """Take them off again, in place: `vector` may be a sum of masked ones, too."""
    for other, seed in seeds.items():
        _add(vector, seed, not _added(site, other))


def _added(site: str, other: str) -> bool:
    """Does `site` add the mask that it shares with `other`? One of the two does, the other
    subtracts it; its own it adds."""
    return site <= other


def _add(vector: Words, seed: bytes, added: bool) -> None:
    """Add or subtract the stream of `seed`: ChaCha20's (RFC 8439) from block 0, as little-endian
    words.

    The nonce is zero: a seed serves one vector, in one step.
    """
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), None).encryptor()
    buffer = bytearray(len(_ZEROS))
    operation = np.add if added else np.subtract
    for start in range(0, vector.size, _CHUNK):
        part = vector[start : start + _CHUNK]
        stream.update_into(memoryview(_ZEROS)[: 8 * part.size], buffer)
        operation(part, np.frombuffer(buffer, "<u8", part.size), out=part)
