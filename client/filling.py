"""One case's files to one entry of the cache: hashed, read, prepared, stored. The part of the work that several processes share.

The entry's key is the SHA-256 of what it is made from: the files' hashes by sequence, what the study and the source mapping say about
preparing them, and the version of the preparation. The same files in another folder are the same entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client import prepare
from client.cache import Broken, Cache
from client.mapping import ImagesSpec
from client.remembered import Stamp
from client.volumes import Geometry, Mask, Series
from common.errors import DataError, RunError
from common.schema import Imaging
from common.types import Array

Trouble = tuple[str, str]
"""A code, and the sentences that stay at the site."""


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
        return tuple(f for series in (*self.channels.values(), *self.masks) for f in series.files)

    @property
    def scanner(self) -> str:
        return next((s.maker for s in self.channels.values() if s.maker), "")


@dataclass(frozen=True)
class Job:
    case: Case
    hashes: Mapping[str, str]
    """Of files whose SHA-256 is known already."""
    imaging: Imaging
    spec: ImagesSpec
    cache: Cache


@dataclass(frozen=True)
class Made:
    """What came of a job: the entry's key, or what is wrong with the case."""

    key: str
    hashes: Mapping[str, tuple[Stamp, str]]
    """Of files that were read: the stamp they had before, and the SHA-256."""
    trouble: Trouble | None = None


def key_of(case: Case, hashes: Mapping[str, str], imaging: Imaging, spec: ImagesSpec) -> str:
    """The name of the case's entry."""
    made_from = {
        "version": prepare.VERSION,
        "channels": {name: sorted(hashes[f] for f in series.files) for name, series in case.channels.items()},
        "masks": [sorted(hashes[f] for f in series.files) for series in case.masks],
        # a file may hold several images (echoes): which of its frames
        "slices": [series.slices for series in case.channels.values()],
        "imaging": [
            [[c.name, c.modality] for c in imaging.channels], imaging.regions, imaging.organ, imaging.lesion, imaging.window,
            imaging.spacing_mm, imaging.margin_mm, imaging.coarse,
        ],
        "labels": [sorted(spec.regions.items()), sorted(spec.values.items())] if case.masks else [],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def make(job: Job) -> Made:
    """Fill the cache with one case. Raises RunError S03 where the cache cannot be written; what is wrong with the case is returned."""
    case = job.case
    read: dict[str, tuple[Stamp, str]] = {}
    try:
        for path in case.files:
            if path not in job.hashes:
                read[path] = _hashed(path)
    except OSError as error:
        text = f"{error.filename}: the file cannot be read ({error.strerror}); mend its permissions or copy it again"
        return Made("", {}, ("D00", text))
    key = key_of(case, {**job.hashes, **{path: sha for path, (_, sha) in read.items()}}, job.imaging, job.spec)
    try:
        if job.cache.open(key) is not None:
            return Made(key, read)
    except Broken:
        pass
    try:
        _fill(job, key)
    except DataError as error:
        return Made(key, read, (error.code, " ".join(error.faults)))
    except MemoryError:
        return Made(key, read, ("D00", f"{case.files[0]}: there is not enough memory to prepare the image; close other programs"))
    except RunError:
        raise
    except Exception as error:  # whatever a decoder makes of a strange file: this case is lost, the site is not
        text = "".join(traceback.format_exception(error))
        return Made(key, read, ("X01", f"{case.files[0]}: preparing the image failed; report it with this text: {text}"))
    return Made(key, read)


def _fill(job: Job, key: str) -> None:
    from client import images

    volumes = {name: images.read(series) for name, series in job.case.channels.items()}
    first = next(iter(volumes.values())).geometry
    mask, troubles, notes = _mask(job, first)
    done = prepare.prepare(volumes, mask, job.imaging)
    arrays: dict[str, Array] = {"voxels": done.voxels, "coarse": done.coarse}
    if done.mask is not None and done.coarse_mask is not None:
        arrays |= {"mask": done.mask, "coarse_mask": done.coarse_mask}
    told = {
        "unit": done.unit,
        "spacing_mm": done.spacing_mm,
        "present": done.present,
        "marked": done.marked,
        "box": done.box,
        "scanner": job.case.scanner,
        "notes": list(dict.fromkeys([*(n for v in volumes.values() for n in v.notes), *done.notes, *notes])),
        "mask_troubles": troubles,
    }
    job.cache.store(key, arrays, told)


def _mask(job: Job, onto: Geometry) -> tuple[Mask | None, list[Trouble], list[str]]:
    """The masks put together: of each region, the first that speaks about it. One that cannot be used is told, and left out."""
    if not job.case.masks:
        return None, [], []
    from client import segmentations

    image = next(iter(job.case.channels.values()))
    regions = job.imaging.regions
    found: Mask | None = None
    troubles: list[Trouble] = []
    notes: list[str] = []
    for series in job.case.masks:
        try:
            if series.kind == "nifti":
                values = {r: job.spec.values.get(r, ()) for r in regions}
                mask = segmentations.read_label_map(Path(series.files[0]), onto, values)
            else:
                labels = {r: job.spec.regions.get(r, (r,)) for r in regions}
                mask = segmentations.read_segmentation(series, onto, labels, image)
        except DataError as error:
            troubles.append((error.code, " ".join(error.faults)))
            continue
        notes += mask.notes
        found = mask if found is None else _merged(found, mask)
    return (found if found is not None and any(found.marked) else None), troubles, notes


def _merged(first: Mask, second: Mask) -> Mask:
    new = np.uint8(sum(1 << r for r, (a, b) in enumerate(zip(first.marked, second.marked, strict=True)) if b and not a))
    marked = tuple(a or b for a, b in zip(first.marked, second.marked, strict=True))
    return Mask(first.bits | (second.bits & new), marked, (*first.notes, *second.notes))


def _hashed(path: str) -> tuple[Stamp, str]:
    with open(path, "rb") as f:
        now = os.fstat(f.fileno())
        return (now.st_size, now.st_mtime_ns), hashlib.file_digest(f, "sha256").hexdigest()
