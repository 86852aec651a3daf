"""Merged mask of one case: what experts outlined on its images, put together on the grid of the
first image.

Of each region the first segmentation that speaks about it counts; one that disagrees with it, and
one that cannot be used, is told and left out. Files that hold a region alone are put together. Label
maps that outline a region differently are none of them used for it: where each holds an organ with
the same label, every one would be the liver. A label map may lie on the grid of any of the images:
it is then laid onto the first one's as that image is.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.imaging.dicom.header import RT_STRUCTURE_SET
from client.imaging.geometry.resampling import as_is, onto
from client.imaging.geometry.volumes import Geometry, Mask, Series, Volume
from client.imaging.selection.identifiers import named
from common.errors import DataError
from common.study.image_sections import ImagesSpec
from common.types import Array

NEAR = 0.25
"""How far, in voxels, a label map's corners may lie from an image's to be on its grid: as
`segmentations.read_label_map` wants it."""


@dataclass(frozen=True)
class MergedMask:
    """One case's mask, and what became of the segmentations that are not in it."""

    mask: Mask | None = None
    """None where no segmentation speaks about any region."""
    rejections: tuple[tuple[str, str], ...] = ()
    """(code, sentence) of each segmentation that cannot be used."""
    notes: tuple[str, ...] = ()
    passing: bool = False
    """Whether one was lost for lack of memory: another time it may be read."""


def merge_masks(
    masks: Sequence[Series],
    images: Mapping[str, Series],
    volumes: Mapping[str, Volume],
    regions: Sequence[str],
    spec: ImagesSpec,
) -> MergedMask:
    """`masks` on the grid of the first of `volumes`, whose series are `images`; region i of
    `regions` is bit i. Never raises."""
    rejections: list[tuple[str, str]] = []
    passing = False
    parts = {kind: _Part(regions) for kind in ("file", "map", "object")}
    for series in masks:
        file = series.files[0]
        try:
            mask = _read(series, images, volumes, regions, spec)
        except DataError as error:
            rejections.append((error.code, " ".join(error.faults)))
            passing |= isinstance(error.__cause__, MemoryError)
        except MemoryError:
            rejections.append(
                (
                    "D00",
                    f"D00 {file}: there is not enough memory to read the segmentation. Close "
                    "other programs",
                )
            )
            passing = True
        except Exception as error:  # whatever a reader makes of a strange file: this mask is lost, the image is not
            text = "".join(traceback.format_exception(error))
            rejections.append(
                (
                    "X01",
                    f"{file}: reading the segmentation failed; report it with this text: {text}",
                )
            )
        else:
            kind = "object" if series.kind == "dicom" else "map"
            if file_region(series, spec):
                kind = "file"
            parts[kind].add(mask, file, together=kind == "file")
    if differing := parts["map"].without_differing():
        rejections.append(("D07", differing))
    merged: Mask | None = None
    notes: list[str] = []
    for part in parts.values():
        notes += part.notes
        if part.mask is not None:
            if merged is not None:
                notes += _disagreement(merged, part.mask, part.files[0], regions)
            merged = part.mask if merged is None else _merged(merged, part.mask)
    return MergedMask(
        merged if merged is not None and any(merged.marked) else None,
        tuple(rejections),
        tuple(notes),
        passing,
    )


class _Part:
    """What the segmentations of one kind outline together."""

    def __init__(self, regions: Sequence[str]) -> None:
        self.regions, self.mask, self.notes = regions, None, []
        self.files: list[str] = []
        self.differing: set[int] = set()

    mask: Mask | None
    notes: list[str]

    def add(self, mask: Mask, file: str, *, together: bool) -> None:
        """`together`: what both outline is their union, else the first one's."""
        self.notes += mask.notes
        self.files.append(file)
        if self.mask is None:
            self.mask = mask
        elif together:
            marked = tuple(a or b for a, b in zip(self.mask.marked, mask.marked, strict=True))
            self.mask = Mask(self.mask.bits | mask.bits, marked)
        else:
            self.notes += _disagreement(self.mask, mask, file, self.regions)
            self.differing |= _differing(self.mask, mask).keys()
            self.mask = _merged(self.mask, mask)

    def without_differing(self) -> str:
        """Leaves out the regions that its files outline differently; what is to be said of them, or
        ''."""
        if not self.differing or self.mask is None:
            return ""
        kept = np.uint8(255 - sum(1 << r for r in self.differing))
        marked = tuple(m and r not in self.differing for r, m in enumerate(self.mask.marked))
        self.mask = Mask(self.mask.bits & kept, marked)
        self.notes = [n for n in self.notes if not n.startswith(DIFFERENTLY)]
        names = ", ".join(f"'{self.regions[r]}'" for r in sorted(self.differing))
        return (
            f"D07 {self.files[0]}: {len(self.files)} label maps of one image outline {names} "
            f"differently, among them {self.files[-1]}: none is used for it. Where each file holds "
            "one organ, say which: [images] mask_files; else leave one of them"
        )


def file_region(series: Series, spec: ImagesSpec) -> str:
    """The region that a volume file holds alone, by its path; '' where it is a label map, or no
    volume file."""
    return named(series.files[0], spec.mask_files) if series.kind == "nifti" else ""


def _read(
    series: Series,
    images: Mapping[str, Series],
    volumes: Mapping[str, Volume],
    regions: Sequence[str],
    spec: ImagesSpec,
) -> Mask:
    from client.imaging.formats import segmentations, structure_sets

    first = next(iter(volumes))
    grid = volumes[first].geometry
    if series.kind == "dicom":
        labels = {r: spec.regions.get(r, (r,)) for r in regions}
        if series.headers and series.headers[0].sop_class == RT_STRUCTURE_SET:
            return structure_sets.read_structure_set(series, grid, labels, images[first])
        return segmentations.read_segmentation(series, grid, labels, images[first])
    name = next((n for n, v in volumes.items() if _on(series.geometry, v.geometry)), first)
    own_grid = volumes[name].geometry
    path = Path(series.files[0])
    if region := file_region(series, spec):
        index = list(regions).index(region)
        mask = segmentations.read_region_mask(path, own_grid, index, len(regions))
    else:
        values = {r: spec.values.get(r, ()) for r in regions}
        mask = segmentations.read_label_map(path, own_grid, values, spec.other_labels)
    return mask if own_grid.same_as(grid) else _laid(mask, own_grid, grid, name)


def _on(geometry: Geometry | None, grid: Geometry) -> bool:
    return geometry is not None and geometry.same_as(grid, NEAR * min(grid.spacing_mm))


def _laid(mask: Mask, own_grid: Geometry, grid: Geometry, name: str) -> Mask:
    """A mask on another grid. A region is in a voxel that it covers by half; one that covers none
    by half is in the one it covers most."""
    bits = np.zeros(grid.shape, np.uint8)
    for r in range(len(mask.marked)):
        inside = (mask.bits >> r & 1).astype(np.float32)
        if inside.any():
            share = onto(grid, Volume(inside, own_grid), as_is, name, outside=0.0)
            half = min(0.5, float(share.max()))
            bits[(share >= half) & (share > 0)] |= np.uint8(1 << r)
    note = (
        "the outlines lie on the grid of another sequence than the first: laid onto the first "
        f"one's, as '{name}' is"
    )
    return Mask(bits, mask.marked, (*mask.notes, note))


def _merged(first: Mask, second: Mask) -> Mask:
    added = np.uint8(
        sum(
            1 << r
            for r, (a, b) in enumerate(zip(first.marked, second.marked, strict=True))
            if b and not a
        )
    )
    marked = tuple(a or b for a, b in zip(first.marked, second.marked, strict=True))
    return Mask(first.bits | (second.bits & added), marked, (*first.notes, *second.notes))


DIFFERENTLY = "two segmentations outline the same region differently"


def _disagreement(first: Mask, second: Mask, file: str, regions: Sequence[str]) -> list[str]:
    """What to say of regions that both speak about, and outline differently."""
    differing = ", ".join(
        f"'{regions[r]}' with a Dice of {dice:.3f}" for r, dice in _differing(first, second).items()
    )
    if not differing:
        return []
    return [f"{DIFFERENTLY} and the first one is used: not {file}, which has {differing}"]


def _differing(first: Mask, second: Mask) -> dict[int, float]:
    """Region -> Dice, of those that both speak about and outline differently."""
    shared = [
        r for r, (a, b) in enumerate(zip(first.marked, second.marked, strict=True)) if a and b
    ]
    dices = {r: _dice(first.bits >> r & 1, second.bits >> r & 1) for r in shared}
    return {r: dice for r, dice in dices.items() if dice < 1}


def _dice(a: Array, b: Array) -> float:
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 1.0
