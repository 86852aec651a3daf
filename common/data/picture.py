"""Picture: one case's prepared image, as learners see it. Memory-mapped at its site, cut into crops
in front of the network.

Axes are (z, y, x), growing towards the patient's head, back and left (DICOM's LPS directions);
lengths are in mm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.types import Array

EXPERT, PREDICTED, WHOLE = "expert", "predicted", "whole"
ROI_SOURCES = (EXPERT, PREDICTED, WHOLE)
"""Where a case's region of interest comes from: an expert's mask, a segmentation network, or
nowhere (the whole field of view)."""


class Kept(Protocol):
    """Arrays derived from a picture (its crops), made once and kept beside it."""

    def __call__(self, name: str, make: Callable[[], Array]) -> Array:
        """The array that was kept under `name`, or `make()`, which is kept. `name` must tell
        everything that `make` depends on."""
        ...


class InMemory:
    """Keeps derived arrays for as long as the picture lives."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def __call__(self, name: str, make: Callable[[], Array]) -> Array:
        if name not in self._arrays:
            self._arrays[name] = make()
        return self._arrays[name]


@dataclass(frozen=True, eq=False)
class Picture:
    """Values are `voxels * unit`: [-1, 1] for CT, standard deviations for MR; a channel that is
    missing is all zero."""

    key: str
    """SHA-256 of the source files' hashes and of the preparation; stays at the site."""
    voxels: NDArray[np.int16]
    """(channels, z, y, x)."""
    unit: float
    spacing_mm: tuple[float, float, float]
    present: tuple[bool, ...]
    """(channels,)."""
    coarse: NDArray[np.int16]
    """(channels, *Imaging.coarse): the whole field of view, which `voxels` may be a part of."""
    mask: NDArray[np.uint8] | None = None
    """(z, y, x): bit i is region i of the schema's `Imaging.regions`; None where nobody has
    outlined anything."""
    coarse_mask: NDArray[np.uint8] | None = None
    marked: tuple[bool, ...] = ()
    """(regions,): whether an expert looked for it; a region that is marked and has no voxel was
    found absent."""
    box: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    """(3, 2): where `voxels` lies in the field of view of `coarse`, as fractions of it along z, y,
    x."""
    scanner: str = ""
    """Its maker, as the file says."""
    kept: Kept = field(default_factory=InMemory)
