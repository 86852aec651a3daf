"""State delivery, what of the states each site holds already, and how the rest travels to it:
whole, or as a rounded change of what it holds.

Nothing of it is kept on disk: after a resume every site gets its states whole once, and the results
are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from common.data.cohort import Fold
from common.federated.learner import MEMORY, Averaged, Federated
from common.federated.states import States
from common.types import Arrays, pack
from common.wire.compression import CODE, ROUNDED, SCALE, advance, worthwhile
from common.wire.state_transfer import Packed, Part, pack_change, state_hash

Key = tuple[Fold, str]
"""Training set and learner's name."""
_SMALL = 1 << 20
"""Bytes of a packed state below which it is kept packed."""


@dataclass(frozen=True)
class _Change:
    base: str
    piece: bytes
    arrays: Arrays
    """What it leads to."""


class Lot:
    """The states of one exchange, laid out for sites that hold this or that of them."""

    def __init__(
        self,
        parts: Mapping[Key, Part],
        changes: Mapping[Key, _Change],
        pieces: Mapping[Key, bytes],
        states: States,
        how: str,
    ) -> None:
        self._parts, self._changes, self._pieces, self._states, self._how = (
            parts,
            changes,
            pieces,
            states,
            how,
        )
        self._made: dict[tuple[str, ...], Packed] = {}
        self.hash = state_hash(list(parts.values()))
        self.shas = frozenset(p.sha for p in parts.values())
        self.bytes = sum(
            a.nbytes
            for state in states.values()
            for arrays in state.values()
            for a in arrays.values()
        )

    def packed(self, held_shas: frozenset[str]) -> Packed:
        """For a site that holds what has these hashes."""
        hows = tuple(self._way(key, part, held_shas) for key, part in self._parts.items())
        if hows not in self._made:
            pieces = [self._piece(key, how) for key, how in zip(self._parts, hows, strict=True)]
            parts = [
                replace(
                    part,
                    how=how,
                    base=self._changes[key].base if how in ROUNDED else "",
                    size=len(piece),
                )
                for (key, part), how, piece in zip(self._parts.items(), hows, pieces, strict=True)
            ]
            self._made[hows] = Packed(tuple(parts), b"".join(pieces))
        return self._made[hows]

    def _way(self, key: Key, part: Part, held_shas: frozenset[str]) -> str:
        if part.sha in held_shas:
            return "held"
        return (
            self._how if key in self._changes and self._changes[key].base in held_shas else "whole"
        )

    def _piece(self, key: Key, how: str) -> bytes:
        if how == "held":
            return b""
        if how in ROUNDED:
            return self._changes[key].piece
        return self._pieces.get(key) or pack(_travels(self._states[key[0]][key[1]]))


class Shelf:
    def __init__(self, how: str = "whole") -> None:
        self._how = how
        self._held: dict[str, frozenset[str]] = {}
        self._cache: dict[Key, tuple[Arrays, str, bytes]] = {}
        """The arrays, their hash, and the packed ones where they are small."""
        self._changes: dict[Key, _Change] = {}

    def lay_out(self, states: States) -> Lot:
        """How the states of an exchange may travel."""
        keys = [(fold, name) for fold, state in states.items() for name in state]
        packed = {k: self._packed(k, states[k[0]][k[1]]) for k in keys}
        parts = {k: Part(k[0].key, k[1], sha, "whole", "", 0) for k, (sha, _) in packed.items()}
        changes = {
            k: c for k, c in self._changes.items() if k in packed and c.arrays is states[k[0]][k[1]]
        }
        return Lot(
            parts, changes, {k: piece for k, (_, piece) in packed.items()}, states, self._how
        )

    def packed(self, lot: Lot, site: str) -> Packed:
        """What goes to a site."""
        return lot.packed(self._held.get(site, frozenset()))

    def holds(self, site: str, lot: Lot) -> None:
        """A site has answered: it has all the states of the exchange now."""
        if self._how != "whole":
            self._held[site] = lot.shas

    def forget(self, site: str) -> None:
        """A site does not hold what it is thought to: it was restarted, or had no room."""
        self._held.pop(site, None)

    def settle(self, key: Key, learner: Federated, old: Arrays, new: Arrays) -> Arrays:
        """The arrays that sites will hold after a learner's step: where changes are rounded, `new`
        but for what rounding leaves over."""
        if self._how not in ROUNDED or not isinstance(learner, Averaged):
            return new
        old_parameters, new_parameters = learner.parameters(old), learner.parameters(new)
        if not worthwhile(new_parameters) or {k: v.shape for k, v in old_parameters.items()} != {
            k: v.shape for k, v in new_parameters.items()
        }:
            return new
        coded: Arrays = {}
        if any(not np.array_equal(new_parameters[k], v) for k, v in old_parameters.items()):
            residual = {k: old[MEMORY + k] for k in (CODE, SCALE) if MEMORY + k in old}
            rounded_parameters, coded, residual = advance(
                old_parameters, new_parameters, residual, self._how
            )
            new = {**new, **rounded_parameters, **{MEMORY + k: v for k, v in residual.items()}}
        sent = _travels(new)
        plain = {k: v for k, v in sent.items() if k not in old_parameters}
        if set(_travels(old)) - set(plain) == set(old_parameters):
            self._changes[key] = _Change(self._packed(key, old)[0], pack_change(plain, coded), new)
        return new

    def _packed(self, key: Key, arrays: Arrays) -> tuple[str, bytes]:
        """Hash and bytes of a learner's arrays; no bytes of large ones."""
        cached = self._cache.get(key)
        if cached is None or cached[0] is not arrays:
            piece = pack(_travels(arrays))
            cached = arrays, hashlib.sha256(piece).hexdigest(), piece
            self._cache[key] = cached if len(piece) < _SMALL else (*cached[:2], b"")
        return cached[1:]


def _travels(arrays: Arrays) -> Arrays:
    return {k: v for k, v in arrays.items() if not k.startswith(MEMORY)}
