"""State transfer, how the states of an exchange travel: whole, not at all where the site holds
them, or as rounded changes of what it holds.

A state is told by the hash of its arrays, which the signed text of the request names: whatever way
it came, it is verified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType

from common.errors import WireError
from common.runtime.cache import Cache, arrays_bytes
from common.types import Arrays, State, digest, pack, unpack
from common.wire.compression import CODE, ROUNDED, SCALE, follow

States = dict[str, State]
"""Fold key -> State: everything a run has learnt."""


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
        (fold, learner, pack(arrays))
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


def unpack_states(
    parts: tuple[Part, ...], blob: bytes | memoryview, held: Mapping[str, Arrays]
) -> States:
    """held: SHA-256 -> arrays. WireError W03 where a state is told from one that is not among them,
    P04 where one is not as signed."""
    if isinstance(blob, bytes) and all(p.how == "whole" for p in parts):
        return _whole(blob, parts)
    return _states(
        parts,
        [_told(part, piece, held) for part, piece in zip(parts, _pieces(blob, parts), strict=True)],
    )


@lru_cache(maxsize=2)
def _whole(blob: bytes, parts: tuple[Part, ...]) -> States:
    """Sites of one process share the opened blob: it is read-only. (`bytes` caches its hash, so a
    look-up costs nothing.)"""
    return _states(
        parts,
        [
            _told(part, piece, MappingProxyType({}))
            for part, piece in zip(parts, _pieces(blob, parts), strict=True)
        ],
    )


def _pieces(blob: bytes | memoryview, parts: Sequence[Part]) -> list[memoryview]:
    if sum(p.size for p in parts) != len(blob):
        raise WireError(
            "P04", f"{len(blob)} bytes of states came, {sum(p.size for p in parts)} are declared"
        )
    ends = list(accumulate(p.size for p in parts))
    return [memoryview(blob)[end - p.size : end] for p, end in zip(parts, ends, strict=True)]


def _states(parts: Sequence[Part], arrays: Sequence[Arrays]) -> States:
    states: States = {}
    for part, one in zip(parts, arrays, strict=True):
        if part.learner in states.setdefault(part.fold, {}):
            raise WireError("W02", f"two states of {part.learner}, fold '{part.fold}'")
        states[part.fold][part.learner] = one
    return states


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
