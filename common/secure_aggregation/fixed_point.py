"""Fixed-point encoding of sums, modulo 2^64: what masks can be added to, and what comes out of a
sum exactly.

A number x is sent as round(x 2^fraction), negative ones in two's complement. Each site's part is
bounded so that the parts of all sites together stay below 2^63: their sum wraps only as often as
the masks do, and is the sum of the rounded numbers to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import RefusedError, WireError
from common.types import Array

Words = NDArray[np.uint64]
"""(values,), little-endian wherever it is made."""


@dataclass(frozen=True)
class Scale:
    """How numbers become whole ones; both sides have the same."""

    sites: int
    """The most sites whose parts are added."""
    fraction: int = 30
    """Bits behind the point: a site's rounding is at most 2^-31, and 200 sites may send numbers up
    to 3.3e7 each."""

    def __post_init__(self) -> None:
        # at least 10 bits: what may be sent is then below 2^52, and a whole number exact as a float
        if (
            self.sites < 2
            or not 10 <= self.fraction <= 52
            or self.fraction + self.sites.bit_length() > 62
        ):
            raise ValueError(
                f"{self.sites} sites with {self.fraction} bits behind the point do not fit into "
                "64 bits"
            )

    @property
    def limit(self) -> int:
        """The largest whole number of one site, a power of two: `sites` times it is below 2^63."""
        return 1 << 63 - self.sites.bit_length()

    @property
    def bound(self) -> float:
        """The largest magnitude that a site may send."""
        return self.limit / (1 << self.fraction)


def encode(arrays: Mapping[str, Array], like: Mapping[str, Array], scale: Scale) -> Words:
    """All values, names sorted: one vector of its own.

    A value beyond `scale.bound` is cut to it: that a site refused would answer a question about its
    patients, whom a coordinator's states can make as large as it likes. `decode` says of the total
    that something may have been cut. RefusedError P02 where names or shapes are not those of
    `like`, or a value is not finite.
    """
    if {k: v.shape for k, v in arrays.items()} != {k: v.shape for k, v in like.items()}:
        raise RefusedError("P02", f"the sums are {_shapes(arrays)}, declared are {_shapes(like)}")
    values = np.empty(sum(v.size for v in like.values()))
    not_finite, position = [], 0
    for name in sorted(arrays):
        part = values[position : position + arrays[name].size]
        part[:] = arrays[name].ravel()
        position += part.size
        if not np.isfinite(part).all():
            not_finite.append(
                f"sum '{name}' has {int((~np.isfinite(part)).sum())} non-finite values"
            )
    if not_finite:
        raise RefusedError("P02", *not_finite)
    np.clip(values, -scale.bound, scale.bound, out=values)
    values *= 2.0**scale.fraction
    return np.rint(values, out=values).astype("<i8").view("<u8")


def decode(
    total: Words, like: Mapping[str, Array], scale: Scale, added: int
) -> dict[str, NDArray[np.float64]]:
    """The sum of `added` encoded vectors as float64 arrays with the names and shapes of `like`.

    WireError M02 where it is of another length, or larger than `added` sites can have made it: then
    a mask is still on it. M03 where it is as large as one site's part may be: one may have been cut.
    """
    size = sum(v.size for v in like.values())
    if total.shape != (size,) or not 0 < added <= scale.sites:
        raise WireError(
            "M02",
            f"the sum has shape {total.shape} over {added} sites, expected ({size},) over 1 to "
            f"{scale.sites}",
        )
    integers, limit = total.astype("<u8", copy=False).view("<i8"), added * scale.limit
    if size and not -limit <= int(integers.min()) <= int(integers.max()) <= limit:
        raise WireError(
            "M02",
            f"the sum is larger than {added} sites can have made it; a mask was not taken off, or "
            "a site sent another",
        )
    values = integers / 2.0**scale.fraction
    names = sorted(like)
    parts = np.split(values, np.cumsum([like[k].size for k in names])[:-1]) if names else []
    largest = {
        k: float(np.abs(part).max(initial=0.0)) for k, part in zip(names, parts, strict=True)
    }
    if cut := [k for k in names if largest[k] >= scale.bound]:
        raise WireError(
            "M03",
            *(
                f"sum '{k}' comes to {largest[k]:g}, and a site's part is cut to {scale.bound:g}: it "
                "may be wrong; fewer sites in a run allow more"
                for k in cut
            ),
        )
    return {k: part.reshape(like[k].shape) for k, part in zip(names, parts, strict=True)}


def _shapes(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"'{k}' {arrays[k].shape}" for k in sorted(arrays)) or "none"
