"""Volume files (NIfTI, its pairs, NRRD, MetaImage): header, volume, and label map, turned to the
convention of `client.imaging.geometry.volumes`.

Which format a file has its suffix says, and its first bytes must agree. Modality and patient are not
in the file: the folder says them.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom.elements import quiet
from client.imaging.dicom.header import unreadable
from client.imaging.dicom.pixels import AIR_HU
from client.imaging.dicom.series import affine_geometry
from client.imaging.formats import metaimage, nifti, nrrd, stored_volume
from client.imaging.formats.stored_volume import CONVERT_OR_COPY_AGAIN
from client.imaging.geometry.volumes import Geometry, Header, Series, Volume
from common.errors import DataError, Fault, raise_faults

FORMATS = {
    ".nii": ("NIfTI", nifti.described),
    ".nii.gz": ("NIfTI", nifti.described),
    ".hdr": ("a NIfTI pair", nifti.described),
    ".hdr.gz": ("a NIfTI pair", nifti.described),
    ".nrrd": ("NRRD", nrrd.described),
    ".nhdr": ("NRRD", nrrd.described),
    ".mha": ("MetaImage", metaimage.described),
    ".mhd": ("MetaImage", metaimage.described),
}
"""Suffix -> what it is called, and who reads its header."""
SUFFIXES = tuple(FORMATS)


def header(path: Path) -> Header | Fault:
    """Never raises: a file that cannot be read at all is a Fault (D00), one that must not be used
    has `faults`."""
    name, described = _format(path)
    try:
        with quiet:
            return stored_volume.header(described(path))
    except OSError as e:
        return unreadable(path, f"it cannot be read ({e.strerror or e})", CONVERT_OR_COPY_AGAIN)
    except (
        Exception
    ) as e:  # whatever a parser makes of a broken file: this file is lost, the site is not
        return unreadable(
            path,
            f"it is not {name}, or damaged ({type(e).__name__}: {str(e)[:240]})",
            CONVERT_OR_COPY_AGAIN,
        )


def _format(path: Path) -> tuple[str, Any]:
    return next(FORMATS[s] for s in SUFFIXES if path.name.lower().endswith(s))


def voxels(path: Path) -> tuple[NDArray[Any], Header]:
    """The file's values, scaled, axes (i, j, k), and its header. DataError D00 when they cannot be
    read."""
    parsed = header(path)
    if isinstance(parsed, Fault):
        raise_faults([parsed])
        raise AssertionError
    if parsed.faults:
        raise DataError("D07", *parsed.faults)
    try:
        with quiet:
            return stored_volume.values(_format(path)[1](path)), parsed
    except (OSError, EOFError, ValueError, zlib.error) as e:
        what = f"its voxels cannot be read: it is cut short or damaged ({e})"
        raise_faults([unreadable(path, what, CONVERT_OR_COPY_AGAIN)])
        raise AssertionError from e


def turn(values: NDArray[Any], parsed: Header) -> tuple[NDArray[Any], Geometry]:
    """(i, j, k) -> (z, y, x) of the convention, a view; and its geometry."""
    geometry, order = affine_geometry(parsed)
    flips = tuple(slice(None, None, -1 if t < 0 else 1) for t in order)
    return values.transpose([abs(t) - 1 for t in order])[flips], geometry


def read(series: Series) -> Volume:
    """float32 volume. Raises DataError: D00 (cut short, damaged), D06 (NaN, constant), D07
    (affine)."""
    path = Path(series.files[0])
    values, parsed = voxels(path)
    turned, geometry = turn(values, parsed)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        out = np.ascontiguousarray(turned, np.float32)
    notes = _background(out)
    not_finite = int(np.count_nonzero(~np.isfinite(out)))
    if not_finite:
        what = f"{not_finite} of {out.size} voxels are NaN or infinite"
        way = (
            "Convert it again; what those voxels held is not known, so nothing is put in their "
            "place"
        )
        raise_faults([Fault("D06", str(path), what, way)])
    if float(out.min()) == float(out.max()):
        what = f"every voxel is {float(out.flat[0]):g}"
        raise_faults([Fault("D06", str(path), what, CONVERT_OR_COPY_AGAIN)])
    return Volume(out, geometry, notes)


def _background(values: NDArray[np.float32]) -> tuple[str, ...]:
    """Puts 0 in place of NaN that surrounds what was imaged, as masked images (of a brain, say) have
    it: in all corners, and from there to the faces. Of Hounsfield units it is the lowest value. What
    it did, for the notes.

    NaN in some corners alone is what a registration leaves at a border: what lay there is lost.
    """
    nan = np.isnan(values)
    corners = nan[np.ix_(*[(0, -1)] * 3)]
    if not corners.all() or nan.all():
        return ()
    from scipy.ndimage import label

    parts, _ = label(nan)
    faces = [np.moveaxis(parts, axis, 0)[[0, -1]] for axis in range(3)]
    outside = np.isin(parts, np.setdiff1d(np.concatenate([np.unique(f) for f in faces]), [0]))
    if not outside.any():
        return ()
    lowest = float(values[np.isfinite(values)].min(initial=0.0))
    background = lowest if lowest < AIR_HU else 0.0
    values[outside] = background
    return (
        f"NaN outside of the imaged is background: {int(outside.sum())} voxels became "
        f"{background:g}",
    )
