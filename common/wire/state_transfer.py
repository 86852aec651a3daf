"""State transfer, how the states of an exchange travel: whole, not at all where the site holds
them, or as rounded changes of what it holds.

A state is told by the hash of its arrays, which the signed text of the request names: whatever way
it came, it is verified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType

from common.data.cohort import Fold
from common.errors import WireError
from common.federated.states import States
from common.runtime.cache import Cache, arrays_bytes
from common.types import Arrays, State, digest, pack, unpack
from common.wire.compression import CODE, ROUNDED, SCALE, follow


@dataclass(frozen=True)
class Part:
    """One learner's arrays of one fold, and how they come: `whole`, `held` (the site has them), or
    as a rounded change of `base`."""

    fold: str
    learner: str
    sha: str
    """SHA-256 of the packed arrays that the site ends up with."""
    how: str
    base: str
    """SHA-256 of what a change starts from; empty otherwise."""
    size: int
    """Bytes in the blob."""


@dataclass(frozen=True)
class Packed:
    """The states of an exchange as they travel: parts, and their bytes one after another."""

    parts: tuple[Part, ...]
    blob: bytes

    @property
    def hash(self) -> str:
        """Of the states themselves, however they travel (`Plan.state_hash`)."""
        return state_hash(self.parts)


def pack_states(states: States) -> Packed:
    """Every state as it is. The same one serves all sites of an exchange: its blob is not copied in
    process."""
    pieces = [
        (fold.key, learner, pack(arrays))
        for fold, state in states.items()
        for learner, arrays in state.items()
    ]
    parts = [
        Part(fold, learner, hashlib.sha256(piece).hexdigest(), "whole", "", len(piece))
        for fold, learner, piece in pieces
    ]
    return Packed(tuple(parts), b"".join(piece for _, _, piece in pieces))


def state_hash(parts: Sequence[Part]) -> str:
    text = json.dumps(sorted([p.fold, p.learner, p.sha] for p in parts), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def pack_change(arrays: Arrays, coded: Arrays) -> bytes:
    """The piece of a part that comes as a change: `arrays` as they are, and codes and scales where
    parameters have changed."""
    return pack({**arrays, **coded})


HELD_LIMIT = 1 << 30
"""Bytes: EfficientNet-B3 of 20 training sets. What is dropped is sent anew (W03)."""


def held_states() -> Cache[str, Arrays]:
    """SHA-256 -> arrays: what a station holds, so that a coordinator need not send it again. Empty
    again when it is restarted."""
    return Cache(HELD_LIMIT, arrays_bytes)


def unpack_parts(
    parts: tuple[Part, ...], blob: bytes | memoryview, held: Mapping[str, Arrays]
) -> tuple[Arrays, ...]:
    """The arrays of every part. held: SHA-256 -> arrays. WireError W03 where a state is told from
    one that is not among them, P04 where one is not as signed, W02 where one comes twice."""
    if isinstance(blob, bytes) and all(p.how == "whole" for p in parts):
        return _whole(blob, parts)
    return _unpacked(parts, blob, held)


@lru_cache(maxsize=2)
def _whole(blob: bytes, parts: tuple[Part, ...]) -> tuple[Arrays, ...]:
    """Sites of one process share the opened blob: it is read-only. (`bytes` caches its hash, so a
    look-up costs nothing.)"""
    return _unpacked(parts, blob, MappingProxyType({}))


def _unpacked(
    parts: Sequence[Part], blob: bytes | memoryview, held: Mapping[str, Arrays]
) -> tuple[Arrays, ...]:
    pieces, names = _pieces(blob, parts), set[tuple[str, str]]()
    for part in parts:
        if (part.fold, part.learner) in names:
            raise WireError("W02", f"two states of {part.learner}, fold '{part.fold}'")
        names.add((part.fold, part.learner))
    return tuple(_told(part, piece, held) for part, piece in zip(parts, pieces, strict=True))


def states_of(parts: Sequence[Part], arrays: Sequence[Arrays], folds: Iterable[Fold]) -> States:
    """The states of `folds`: a part names its fold by key. Those of a fold that is not among them
    are left out; a fold of which nothing came is missing."""
    by_key = {fold.key: fold for fold in folds}
    states: dict[Fold, State] = {}
    for part, its_arrays in zip(parts, arrays, strict=True):
        if part.fold in by_key:
            states.setdefault(by_key[part.fold], {})[part.learner] = its_arrays
    return states


def _pieces(blob: bytes | memoryview, parts: Sequence[Part]) -> list[memoryview]:
    if sum(p.size for p in parts) != len(blob):
        raise WireError(
            "P04", f"{len(blob)} bytes of states came, {sum(p.size for p in parts)} are declared"
        )
    ends = list(accumulate(p.size for p in parts))
    return [memoryview(blob)[end - p.size : end] for p, end in zip(parts, ends, strict=True)]


def _told(part: Part, piece: memoryview, held: Mapping[str, Arrays]) -> Arrays:
    """The arrays of a part, verified against its hash."""
    if part.how == "whole":
        if hashlib.sha256(piece).hexdigest() != part.sha:
            raise WireError(
                "P04",
                f"the state of {part.learner}, fold '{part.fold}', is not the one that was signed",
            )
        return unpack(piece)
    start = held.get(part.base if part.how in ROUNDED else part.sha)
    if start is None:
        raise WireError(
            "W03",
            f"the state of {part.learner}, fold '{part.fold}', is told from one that this station "
            "does not hold",
        )
    if part.how == "held":
        return start
    told = unpack(piece)
    coded = {k: told.pop(k) for k in (CODE, SCALE) if k in told}
    parameters = {k: v for k, v in start.items() if k not in told}
    now = {**told, **(follow(parameters, coded, part.how) if coded else parameters)}
    if digest(now) != part.sha:
        raise WireError(
            "P04",
            f"the changed state of {part.learner}, fold '{part.fold}', is not the one that was "
            "signed",
        )
    return now
