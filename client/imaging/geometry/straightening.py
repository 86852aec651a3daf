"""Straightening of a stack whose slices are shifted sideways (gantry tilt) or unevenly apart: linear
interpolation within each slice, and between the two that a slice of the grid lies between."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.imaging.geometry.volumes import Straight


def straightened(
    stack: NDArray[np.float32], straight: Straight, outside: float
) -> NDArray[np.float32]:
    """(slice, row, column) of the regular grid. `outside`: the value where no slice has a pixel.

    Slice by slice: beside the result it needs the memory of two.
    """
    from scipy.ndimage import affine_transform

    def shifted(k: int) -> NDArray[np.float32]:
        return np.asarray(
            affine_transform(
                stack[k],
                np.ones(2),
                offset=-straight.shifts[k],
                output_shape=straight.shape[1:],
                order=1,
                mode="constant",
                cval=outside,
            ),
            np.float32,
        )

    out = np.empty(straight.shape, np.float32)
    depths = straight.depths
    at: dict[int, NDArray[np.float32]] = {}
    for z in range(straight.shape[0]):
        upper = int(np.clip(np.searchsorted(depths, z), 1, len(depths) - 1))
        pair = (upper - 1, upper)
        at = {k: at[k] if k in at else shifted(k) for k in pair}
        low, high = depths[upper - 1], depths[upper]
        share = np.float32(np.clip((z - low) / (high - low), 0, 1))
        out[z] = at[pair[0]] * (1 - share) + at[pair[1]] * share
    return out


def on_nearest(bits: NDArray[np.uint8], straight: Straight) -> NDArray[np.uint8]:
    """Outlines (z, y, x) that lie on the planes of an image's slices alone, for the straight grid:
    each slice of the grid has those of the image's slice that it is nearest to. Where slices are
    further apart than the grid's, nothing is empty between two of them that are outlined."""
    across = [abs(t) for t in straight.turn].index(1)
    back = slice(None, None, -1 if straight.turn[across] < 0 else 1)
    planes = np.moveaxis(bits, across, 0)[back]
    # the plane of a slice in the middle of two of the grid's is on either of them
    low = np.clip(np.ceil(straight.depths - 0.5 - 1e-6), 0, len(planes) - 1).astype(int)
    high = np.clip(np.floor(straight.depths + 0.5 + 1e-6), 0, len(planes) - 1).astype(int)
    nearest = np.abs(np.arange(len(planes))[:, None] - straight.depths).argmin(axis=1)
    out = planes[low[nearest]] | planes[high[nearest]]
    return np.ascontiguousarray(np.moveaxis(out[back], 0, across))
