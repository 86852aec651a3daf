"""Crops of a picture, what a network sees of it: cubes round the largest lesions, or the whole
field where no lesion is known.

The region comes from an expert's mask, else from a segmentation network's, else there is none;
which of them it was is recorded with every case. A cell of the grid holds the mean of the voxels it
covers, or is interpolated linearly where voxels are coarser. What is known from the picture alone
is kept beside it (`Picture.kept`); crops round predicted lesions live in a bounded memory of the
process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort
from common.data.picture import EXPERT, PREDICTED, WHOLE, Picture
from common.data.schema import Floats, Imaging
from common.runtime.cache import Cache, array_bytes
from common.types import Array

if TYPE_CHECKING:
    from torch import Tensor

Grid = tuple[int, int, int]
Halves = NDArray[np.float16]
Bits = NDArray[np.bool_]
Regions = Callable[[Picture], "Bits | None"]
"""A segmentation network's lesions on the picture's own grid; None where it has nothing to say."""
VERSION = 1
"""Of the arithmetic below; part of the names under which crops are kept."""


def crops(
    picture: Picture, imaging: Imaging, grid: Grid, lesion_mask: Bits | None = None
) -> tuple[Halves, str]:
    """(n, channels + 1, *grid) in the picture's values, the last channel the share of lesion in [0,
    1]; and where the region is from.

    `lesion_mask` (z, y, x): a segmentation network's lesions, used where no expert marked any.
    """
    if speaks_of_lesions(picture, imaging):
        cut = picture.kept(
            name(EXPERT, imaging, grid),
            lambda: around(picture, imaging, grid, expert_lesions(picture, imaging)),
        )
        if len(cut):
            return cut, EXPERT
    if lesion_mask is not None and lesion_mask.any():
        return around(picture, imaging, grid, lesion_mask), PREDICTED
    return picture.kept(name(WHOLE, imaging, grid), lambda: whole(picture, imaging, grid)), WHOLE


def name(source: str, imaging: Imaging, grid: Grid) -> str:
    """All that crops depend on beside the picture."""
    channels = "+".join(f"{c.name}:{c.modality}" for c in imaging.channels)
    base = (
        f"crops v{VERSION} {source} {channels} grid {'x'.join(map(str, grid))} window "
        f"{imaging.window}"
    )
    if source == WHOLE:
        return base
    return (
        f"{base} mm {'x'.join(map(str, imaging.crop_mm))} most {imaging.crops} of "
        f"{'+'.join(imaging.lesion)} {'+'.join(imaging.regions)}"
    )


def speaks_of_lesions(picture: Picture, imaging: Imaging) -> bool:
    """Whether an expert looked for lesions; there may be none."""
    return picture.mask is not None and any(
        picture.marked[imaging.regions.index(r)] for r in imaging.lesion
    )


def expert_lesions(picture: Picture, imaging: Imaging) -> Bits:
    assert picture.mask is not None
    return np.asarray(picture.mask & np.uint8(imaging.bits(imaging.lesion)) != 0)


def around(picture: Picture, imaging: Imaging, grid: Grid, lesions: Bits) -> Halves:
    """Cubes of `imaging.crop_mm` centred on the largest connected lesions; none where there is no
    lesion."""
    edges = np.array(imaging.crop_mm) / picture.spacing_mm
    out = [
        _resampled(picture, imaging, grid, lesions, centre - edges / 2, centre + edges / 2)
        for centre in _centres(lesions, imaging.crops)
    ]
    return np.stack(out) if out else np.empty((0, len(imaging.channels) + 1, *grid), np.float16)


def whole(picture: Picture, imaging: Imaging, grid: Grid) -> Halves:
    """One crop: all of `voxels`, which are the organ's box where it is known; no lesion in it is
    known."""
    return _resampled(
        picture, imaging, grid, None, np.zeros(3), np.array(picture.voxels.shape[1:], np.float64)
    )[None]


def resample(volumes: Array, grid: Grid) -> NDArray[np.float32]:
    """(n, z, y, x) -> (n, *grid), the same field of view."""
    matrices = [
        _weights(slice(0, size), 0.0, float(size), g, size)
        for size, g in zip(volumes.shape[1:], grid, strict=True)
    ]
    return np.stack([_separable(v.astype(np.float32), matrices) for v in volumes])


def on_grid(
    coarse: Floats, box: Sequence[tuple[float, float]], shape: Sequence[int]
) -> NDArray[np.float32]:
    """(z, y, x) of a field of view, interpolated on the `shape` of voxels that fill `box` of it
    (fractions)."""
    matrices = []
    for size, (low, high), voxels in zip(coarse.shape, box, shape, strict=True):
        at = np.clip(
            (low + (np.arange(voxels) + 0.5) * ((high - low) / voxels)) * size - 0.5, 0, size - 1
        )[:, None]
        matrices.append(np.maximum(1 - np.abs(at - np.arange(size)[None, :]), 0).astype(np.float32))
    return _separable(coarse.astype(np.float32), matrices)


class CaseCrops(Sequence[Halves]):
    """The crops of many cases, mapped where they are kept and cut anew where their region is
    predicted and no longer remembered."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        imaging: Imaging,
        grid: Grid,
        regions: Regions | None = None,
        key: str = "",
    ) -> None:
        """`key` names the network behind `regions`."""
        self._pictures, self._imaging, self._grid, self._regions, self.key = (
            tuple(pictures),
            imaging,
            grid,
            regions,
            key,
        )
        self.name = (
            f"{name(EXPERT, imaging, grid)}, else "
            f"{name(PREDICTED if key else WHOLE, imaging, grid)}"
        )
        """Tells how pictures are cut: with `key` and a picture's own, all that its crops depend
        on."""
        first = [self._cut(p) for p in self._pictures]
        self.sources: tuple[str, ...] = tuple(source for _, source in first)
        """Where each case's region is from."""
        self.counts: NDArray[np.int64] = np.array([len(cut) for cut, _ in first], np.int64)
        """(cases,): how many crops each has; at least one."""
        # plain views: slicing a memory map makes a costly object each time
        self._held = [None if source == PREDICTED else np.asarray(cut) for cut, source in first]

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, at: int) -> Halves:  # type: ignore[override]
        held = self._held[at]
        return self._cut(self._pictures[at])[0] if held is None else held

    def _cut(self, picture: Picture) -> tuple[Halves, str]:
        if self._regions is None or speaks_of_lesions(
            picture, self._imaging
        ):  # an expert who found no lesion is not overruled
            return crops(picture, self._imaging, self._grid)
        asked = (self.key, picture.key, name(PREDICTED, self._imaging, self._grid))
        cut = PREDICTIONS.get(asked)
        if cut is None:
            lesions = self._regions(picture)
            none = lesions is None or not lesions.any()
            cut = around(
                picture,
                self._imaging,
                self._grid,
                np.zeros((1, 1, 1), np.bool_) if none else cast(Bits, lesions),
            )
            PREDICTIONS[asked] = cut
        return (cut, PREDICTED) if len(cut) else crops(picture, self._imaging, self._grid)


def case_crops(
    rows: Cohort, grid: Grid, regions: Regions | None = None, key: str = ""
) -> CaseCrops:
    """The crops of cases that all have an image; the last ones asked for are remembered with the
    cohort."""
    asked = (grid, key)
    held: tuple[tuple[Grid, str], CaseCrops] | None = rows.derived.get("crops")
    if held is None or held[0] != asked:
        assert rows.schema.imaging is not None
        pictures = [p for p in rows.pictures if p is not None]
        held = rows.derived["crops"] = (
            asked,
            CaseCrops(pictures, rows.schema.imaging, grid, regions, key),
        )
    return held[1]


PREDICTIONS: Cache[tuple[str, ...], Array] = Cache(96 * 2**20, array_bytes)
"""Crops round predicted lesions; none for a picture in which no lesion was found."""


def patient_logits(crops: Tensor, mean: Tensor) -> Tensor:
    """(crops, classes) -> (cases, classes): the mean over each case's crops, in float32 whatever
    the network computes in."""
    return (mean[:, :, None] * crops.float()[None]).sum(dim=1)


def _centres(lesions: Bits, most: int) -> list[Floats]:
    """Middles of mass, in voxels, of the largest components (26 neighbours), largest first; of
    equals, the lowest first."""
    from scipy import ndimage

    spans = [np.flatnonzero(lesions.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(spans[0]):
        return []
    corner = np.array([s[0] for s in spans])
    labels, count = ndimage.label(
        lesions[tuple(slice(s[0], s[-1] + 1) for s in spans)], structure=np.ones((3, 3, 3))
    )
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = np.argsort(-sizes, kind="stable")[:most] + 1
    return [corner + np.array(c) + 0.5 for c in ndimage.center_of_mass(labels > 0, labels, largest)]


def _resampled(
    picture: Picture, imaging: Imaging, grid: Grid, lesions: Bits | None, low: Floats, high: Floats
) -> Halves:
    """The box between `low` and `high` (in voxels, edges of voxel i at i and i + 1) on the grid:
    (channels + 1, *grid)."""
    shape = picture.voxels.shape[1:]
    spans = [
        slice(max(int(np.floor(a - 1)), 0), max(min(int(np.ceil(b + 1)), n), 0))
        for a, b, n in zip(low, high, shape, strict=True)
    ]
    matrices = [
        _weights(s, float(a), float(b), g, n)
        for s, a, b, g, n in zip(spans, low, high, grid, shape, strict=True)
    ]
    out = np.zeros((len(picture.voxels) + 1, *grid), np.float16)
    outside = np.float32(imaging.modality.outside)
    for i, present in enumerate(picture.present):
        if present:
            values = (
                picture.voxels[i][tuple(spans)].astype(np.float32) * np.float32(picture.unit)
                - outside
            )
            out[i] = _separable(values, matrices) + outside
    if lesions is not None:
        out[-1] = _separable(lesions[tuple(spans)].astype(np.float32), matrices)
    return out


def _separable(
    values: NDArray[np.float32], matrices: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    along_z, along_y, along_x = matrices
    rows = along_y @ (values @ along_x.T)
    return np.asarray(
        (along_z @ rows.reshape(len(rows), -1)).reshape(len(along_z), *rows.shape[1:])
    )


def _weights(span: slice, low: float, high: float, cells: int, size: int) -> NDArray[np.float32]:
    """(cells, voxels of `span`): the share of each of `size` voxels in each cell between `low` and
    `high`; what lies outside has none."""
    width = (high - low) / cells
    at = np.arange(span.start, max(span.stop, span.start))[None, :]
    if width >= 1:
        start = (low + np.arange(cells) * width)[:, None]
        share = np.minimum(at + 1, start + width) - np.maximum(at, start)
        return np.asarray(np.maximum(share / width, 0), np.float32)
    middle = (low + (np.arange(cells) + 0.5) * width)[:, None]
    held = (middle >= 0) & (middle <= size)
    # a voxel reaches to its edge: beyond the middle of the last one nothing is blended in
    return np.asarray(
        np.maximum(1 - np.abs(np.clip(middle, 0.5, size - 0.5) - (at + 0.5)), 0) * held, np.float32
    )
