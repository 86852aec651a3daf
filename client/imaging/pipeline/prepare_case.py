"""Preparation of one case: its files hashed, read, prepared, stored as one entry of the cache. The
work that several processes share.

The entry's key is the SHA-256 of what it is made from: the files' hashes by sequence, what the
study and the source mapping say about preparing them, and the version of the preparation. The same
files in another folder are the same entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from client.imaging.formats import mask_merge
from client.imaging.formats.mask_merge import file_region
from client.imaging.geometry import image_preprocessing
from client.imaging.geometry.volumes import Geometry, Series
from client.imaging.pipeline.header_index import Stamp
from client.imaging.pipeline.image_cache import BrokenEntryError, Cache
from client.imaging.selection.case import Case, Rejection
from common.data.schema import Imaging
from common.errors import DataError, RunError
from common.study.image_sections import ImagesSpec
from common.types import Array

VOXEL_MM = (0.05, 20.0)
"""Clinical CT and MR have pixels of about 0.1 to 8 mm; a metre, a centimetre or a default of 1
written for another unit lies outside."""
APART_MM = 50.0
"""Along one axis voxels may be so far apart: a survey has thick slices with gaps."""
FIELD_MM = (10.0, 3000.0)
"""From the least number of slices (5) at 2 mm to more than the length of a body."""


@dataclass(frozen=True)
class Job:
    """One case to be prepared."""

    case: Case
    hashes: Mapping[str, str]
    """Of files whose SHA-256 is known already."""
    imaging: Imaging
    spec: ImagesSpec
    cache: Cache


@dataclass(frozen=True)
class PreparedCase:
    """What came of a job: the entry's key, or what is wrong with the case."""

    key: str
    hashes: Mapping[str, tuple[Stamp, str]]
    """Of files that were read: the stamp they had before, and the SHA-256."""
    rejection: Rejection | None = None


def key_of(case: Case, hashes: Mapping[str, str], imaging: Imaging, spec: ImagesSpec) -> str:
    """The name of the case's entry."""
    made_from = {
        "version": image_preprocessing.VERSION,
        "channels": {name: sorted(hashes[f] for f in series.files) for name,
        series in case.channels.items()},
        "masks": [sorted(hashes[f] for f in series.files) for series in case.masks],
        # a file may hold several images (echoes): which of its frames
        "slices": [series.slices for series in case.channels.values()],
        "straight": [
            series.geometry is not None and series.straight is not None
            for series in case.channels.values()
        ],
        "spares": [sorted((hashes[f], frame, k) for f, frame,
        k in series.spares) for series in case.channels.values()],
        "imaging": [
            [[c.name, c.modality] for c in imaging.channels], imaging.regions, imaging.organ,
            imaging.lesion, imaging.window,
            imaging.spacing_mm, imaging.margin_mm, imaging.coarse,
        ],
        "rescale": [[h.scales for h in series.headers] for series in case.channels.values()]
        if spec.rescale else [],
        "labels": [
            sorted(spec.regions.items()), sorted(spec.values.items()),
            sorted(spec.mask_files.items()), spec.other_labels,
            [file_region(series, spec) for series in case.masks],
        ] if case.masks else [],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def make(job: Job) -> PreparedCase:
    """Fill the cache with one case. Raises RunError S03 where the cache cannot be written; what is
    wrong with the case is returned."""
    case = job.case
    read: dict[str, tuple[Stamp, str]] = {}
    try:
        for path in case.files:
            if path not in job.hashes:
                read[path] = _hashed(path)
    except OSError as error:
        text = (
            f"{error.filename}: the file cannot be read ({error.strerror}); mend its "
            "permissions or copy it again"
        )
        return PreparedCase("", {}, ("D00", text))
    key = key_of(
        case,
        {**job.hashes, **{path: sha for path, (_, sha) in read.items()}},
        job.imaging,
        job.spec,
    )
    try:
        if job.cache.open(key) is not None:
            return PreparedCase(key, read)
    except BrokenEntryError:
        pass
    try:
        key = _fill(job, key)
    except DataError as error:
        return PreparedCase(key, read, (error.code, " ".join(error.faults)))
    except MemoryError:
        return PreparedCase(
            key,
            read,
            (
                "D00",
                f"{case.files[0]}: there is not enough memory to prepare the image; close other "
                "programs",
            ),
        )
    except RunError:
        raise
    except (
        Exception
    ) as error:  # whatever a decoder makes of a strange file: this case is lost, the site is not
        text = "".join(traceback.format_exception(error))
        return PreparedCase(
            key,
            read,
            (
                "X01",
                f"{case.files[0]}: preparing the image failed; report it with this text: {text}",
            ),
        )
    return PreparedCase(key, read)


def _fill(job: Job, key: str) -> str:
    """Read, prepare and store; returns the key that it is stored under."""
    from client.imaging.formats import readers as image_readers

    case, imaging = job.case, job.imaging
    volumes = {name: image_readers.read(series) for name, series in case.channels.items()}
    for name, volume in volumes.items():
        _check_size(case.channels[name], volume.geometry)
    merged = mask_merge.merge_masks(
        case.masks, case.channels, volumes, tuple(imaging.regions), job.spec
    )
    prepared = image_preprocessing.prepare(volumes, merged.mask, imaging)
    arrays: dict[str, Array] = {"voxels": prepared.voxels, "coarse": prepared.coarse}
    if prepared.mask is not None and prepared.coarse_mask is not None:
        arrays |= {"mask": prepared.mask, "coarse_mask": prepared.coarse_mask}
    metadata = {
        "unit": prepared.unit,
        "spacing_mm": prepared.spacing_mm,
        "present": prepared.present,
        "marked": prepared.marked,
        "box": prepared.box,
        "scanner": case.scanner,
        "notes": list(
            dict.fromkeys(
                [*(n for v in volumes.values() for n in v.notes), *prepared.notes, *merged.notes]
            )
        ),
        "mask_troubles": merged.rejections,
        "passing": merged.passing,
        "looks": [
            _look(image)
            for image, present in zip(prepared.coarse, prepared.present, strict=True)
            if present
        ],
    }
    if merged.passing:
        # under another name, so that the next start looks for the whole one and tries again
        key = hashlib.sha256(f"{key} {merged.rejections}".encode()).hexdigest()
    job.cache.store(key, arrays, metadata)
    return key


def _check_size(series: Series, geometry: Geometry) -> None:
    """DataError D07 where voxels or field of view are of no patient's image: what says where they
    lie was written in another unit."""
    spacing = geometry.spacing_mm
    fine, middle, wide = sorted(spacing)
    edges = [n * s for n, s in zip(geometry.shape, spacing, strict=True)]
    low, high = VOXEL_MM
    # written so that what is not a number does not pass
    if (
        low <= fine <= middle <= high
        and wide <= APART_MM
        and FIELD_MM[0] <= min(edges) <= max(edges) <= FIELD_MM[1]
    ):
        return
    way = (
        "Set xyzt_units to the unit that its affines are in, or convert it again from DICOM"
        if series.kind == "nifti"
        else "Export it again with PixelSpacing and ImagePositionPatient in mm, as the scanner "
        "wrote them"
    )
    size, field = (" x ".join(f"{v:g}" for v in values) for values in (spacing, edges))
    raise DataError(
        "D07",
        f"D07 {series.files[0]}: its voxels are {size} mm (z, y, x), its field of view {field} "
        "mm; of an image of a patient voxels of "
        f"{low:g} to {high:g} mm are expected (slices up to {APART_MM:g} mm apart), edges of "
        f"{FIELD_MM[0]:g} to {FIELD_MM[1]:g} mm. {way}",
    )


def _look(image: Array) -> str:
    """SHA-256 of one channel of the whole image, coarsely: equal for one image under two ids,
    whatever was outlined on it."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


def _hashed(path: str) -> tuple[Stamp, str]:
    with open(path, "rb") as f:
        now = os.fstat(f.fileno())
        return (now.st_size, now.st_mtime_ns), hashlib.file_digest(f, "sha256").hexdigest()
