"""Types of arrays and shapes, and the one way to turn arrays into bytes and into a hash.

`Arrays` is a flat mapping of names to numpy arrays; `State` maps a learner's name to its arrays.
The global model is a State.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import WireError

T = TypeVar("T")
Array = NDArray[Any]
Arrays = dict[str, Array]
State = dict[str, Arrays]
Probs = NDArray[np.float64]
"""(cases, classes), rows sum to 1."""

_LARGE = 1 << 16
_HEADER = 1 << 26
"""Bytes of names and shapes: about a million arrays."""
_DIMENSIONS = 16
_DTYPE = re.compile(r"\|[biu]1|<[iuf][248]")


def pack(arrays: Mapping[str, Array]) -> bytes:
    """Canonical bytes of named arrays: a JSON header (names sorted, dtype, shape), then the
    C-ordered little-endian data.

    Equal arrays give equal bytes, whatever the order of insertion. Only bool, integer and float
    arrays pass.
    """
    return b"".join(pieces(arrays))


def pieces(arrays: Mapping[str, Array]) -> list[bytes | memoryview]:
    """What `pack` puts together, one after another; large arrays are not copied."""
    header = []
    chunks: list[bytes | memoryview] = []
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if not _DTYPE.fullmatch(little.dtype.str):
            raise WireError(
                "W01",
                f"array '{name}' has dtype {array.dtype}; only bool, integer and float arrays up "
                "to 64 bits may be packed",
            )
        header.append([name, little.dtype.str, list(np.shape(arrays[name]))])
        chunks.append(
            little.reshape(-1).view(np.uint8).data if little.nbytes >= _LARGE else little.tobytes()
        )
    text = json.dumps(header, separators=(",", ":")).encode()
    return [struct.pack("<Q", len(text)), text, *chunks]


def unpack(blob: bytes | memoryview, *, limit: int = 2**31) -> Arrays:
    """The arrays in `blob`, as read-only views of it. `limit` bounds what a hostile header may
    claim, in bytes."""
    view = memoryview(blob)
    try:
        if len(view) < 8 or len(view) > limit:
            raise ValueError(f"{len(view)} bytes")
        (size,) = struct.unpack_from("<Q", view)
        if size > _HEADER:
            raise ValueError(f"a header of {size} bytes")
        header = json.loads(bytes(view[8 : 8 + size]))
        offset = 8 + size
        out: Arrays = {}
        for name, kind, shape in header:
            # the pattern comes before numpy: what numpy makes of any other text is its own affair
            if (
                type(name) is not str
                or not _DTYPE.fullmatch(kind)
                or len(shape) > _DIMENSIONS
                # bounded before they are multiplied: numbers of thousands of digits take minutes
                or any(type(n) is not int or not 0 <= n <= limit for n in shape)
            ):
                raise ValueError(f"array {str(name)[:80]!r} of {str(kind)[:8]} {len(shape)} sizes")
            dtype = np.dtype(kind)
            count = math.prod(shape)
            if offset + count * dtype.itemsize > len(view) or name in out:
                raise ValueError(f"array '{name}' of shape {shape} does not fit")
            out[name] = np.frombuffer(view, dtype, count, offset).reshape(shape)
            offset += count * dtype.itemsize
        if offset != len(view):
            raise ValueError(f"{len(view) - offset} bytes left over")
    except (ValueError, TypeError, KeyError, struct.error, OverflowError, RecursionError) as error:
        raise WireError(
            "W02", f"not a packed set of arrays ({error}); the message was truncated or altered"
        ) from error
    return out


def flatten(state: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """{'a': {'x': ...}} -> {'a\\tx': ...}: names for arrays that are packed. The tab is not allowed
    in names, so `nest` undoes it exactly."""
    return {
        f"{outer}\t{inner}": value
        for outer, values in state.items()
        for inner, value in values.items()
    }


def nest(flat: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """The inverse of `flatten`. A name without a tab is by itself: its inner name is empty."""
    out: dict[str, dict[str, T]] = {}
    for name, value in flat.items():
        outer, _, inner = name.partition("\t")
        out.setdefault(outer, {})[inner] = value
    return out


def digest(arrays: Mapping[str, Array]) -> str:
    """SHA-256 (hex) of the canonical bytes: two states are the same model exactly when their
    digests are equal."""
    return sha256(pieces(arrays))


def sha256(parts: Iterable[bytes | memoryview]) -> str:
    """SHA-256 (hex) of bytes that lie in parts."""
    out = hashlib.sha256()
    for part in parts:
        out.update(part)
    return out.hexdigest()
