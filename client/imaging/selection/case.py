"""Case: one patient's series and outlines, as they were chosen, on the way to a prepared image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from client.imaging.geometry.volumes import Series

Rejection = tuple[str, str]
"""A code, and the sentences that stay at the site."""


LONGEST_NAME = 64
"""Characters of a maker's name: the longest there may be (VR LO). More is not a name."""


@dataclass(frozen=True)
class Case:
    """What was chosen for one patient."""

    patient: str
    channels: Mapping[str, Series]
    """By name, in the order of the study's channels."""
    masks: tuple[Series, ...] = ()
    """DICOM segmentations or NIfTI label maps, the first one that speaks about a region counts."""

    @property
    def files(self) -> tuple[str, ...]:
        """Of all that is read, also of slices that are there twice; each once."""
        series = (*self.channels.values(), *self.masks)
        return tuple(
            dict.fromkeys(
                f for s in series for f in (*s.files, *(spare for spare, _, _ in s.spares))
            )
        )

    @property
    def scanner(self) -> str:
        """Its maker, as free as whoever typed it: cut to what may be a name."""
        named = (
            "".join(c for c in s.maker if c.isprintable())[:LONGEST_NAME].strip()
            for s in self.channels.values()
        )
        return next((name for name in named if name), "")
