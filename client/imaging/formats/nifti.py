"""NIfTI-1 and -2 files (.nii, .nii.gz): header, volume, and label map, turned from RAS+ to the
convention of `client.imaging.geometry.volumes`.

A NIfTI file carries two affines. They must agree where both are given, be invertible and unsheared;
anything else would put the image somewhere by guess. Modality and patient are not in the file: the
folder says them.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom.elements import quiet
from client.imaging.dicom.header import unreadable
from client.imaging.dicom.series import affine_geometry
from client.imaging.dicom.slice_geometry import FEWEST_SLICES
from client.imaging.formats import bounded_gzip
from client.imaging.geometry.volumes import Geometry, Header, Series, Volume
from common.errors import DataError, Fault, raise_faults

CONVERT_OR_COPY_AGAIN = "Copy or convert it again"
CONVERT_AGAIN = "Convert it again from DICOM, or set both affines alike"
MOST_VOXELS = 1 << 30
"""1024 x 1024 x 1024, 4 GB as the numbers that are worked with: no CT or MR volume of a patient has
more."""


def header(path: Path) -> Header | Fault:
    """Never raises: a file that cannot be read at all is a Fault (D00), one that must not be used
    has `faults`."""
    try:
        with quiet:
            head = _head(path)
            parsed = _header(path, head)
            _all_there(path, head)
            return parsed
    except OSError as e:
        return unreadable(path, f"it cannot be read ({e.strerror or e})", CONVERT_OR_COPY_AGAIN)
    except (
        Exception
    ) as e:  # whatever the parser makes of a broken file: this file is lost, the site is not
        return unreadable(
            path,
            f"it is not NIfTI, or damaged ({type(e).__name__}: {str(e)[:160]})",
            CONVERT_OR_COPY_AGAIN,
        )


def _compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _head(path: Path) -> Any:
    """A Nifti1Header or Nifti2Header. Not by nibabel's `load`, which also reads what stands between
    it and the voxels, however much."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    kinds: tuple[Any, ...] = (Nifti1Header, Nifti2Header)
    longest = Nifti2Header.sizeof_hdr
    if _compressed(path):
        block = bounded_gzip.start(path, longest)
    else:
        with path.open("rb") as f:
            block = f.read(longest)
    for kind in kinds:
        if kind.may_contain_header(block):
            head = kind(block[: kind.sizeof_hdr])
            if head["magic"].item().startswith(b"ni"):
                raise ValueError("its voxels are in a file of their own (.img)")
            if math.isinf(head["scl_slope"]):
                raise ValueError("its values are scaled by infinity (scl_slope)")
            return head
    raise ValueError("it does not begin with a NIfTI header")


def _size(head: Any) -> tuple[int, int]:
    """(first byte of the voxels, how many bytes they take)."""
    count = math.prod(max(0, int(n)) for n in head.get_data_shape())
    return int(head.get_data_offset()), count * int(head.get_data_dtype().itemsize)


def _all_there(path: Path, head: Any) -> None:
    """Whether the file is long enough for what its header claims; how much a compressed one really
    holds is found out when it is read."""
    size, needed = path.stat().st_size, sum(_size(head))
    if _compressed(path):
        if size * bounded_gzip.LARGEST_RATIO < needed:
            raise ValueError(
                f"its header claims {needed} bytes, more than {size} compressed bytes can hold"
            )
    elif size < needed:
        raise ValueError(f"cut short: {size} of {needed} bytes are there")


def _header(path: Path, head: Any) -> Header:
    shape = tuple(int(n) for n in head.get_data_shape())
    affine, faults = _affine(str(path), head, shape)
    return Header(
        path=str(path),
        kind="nifti",
        modality="other",
        series=str(path),
        shape=shape[:3],
        affine=tuple(tuple(float(v) for v in row) for row in affine[:3]),
        faults=tuple(faults),
    )


def _affine(path: str, head: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], list[str]]:
    """Voxel indices to RAS+ mm, and what is wrong with it."""
    faults = []
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        what = f"it has {len(shape)} dimensions {'x'.join(map(str, shape))}, not one volume"
        faults.append(
            f"{path}: {what}. Split it into one file a volume (fslsplit), or leave it out"
        )
    elif min(shape[:3]) < FEWEST_SLICES:
        faults.append(
            f"{path}: {'x'.join(map(str, shape[:3]))} voxels are no volume (at least "
            f"{FEWEST_SLICES} slices are needed). Leave it out"
        )
    elif math.prod(shape[:3]) > MOST_VOXELS:
        faults.append(
            f"{path}: {'x'.join(map(str, shape[:3]))} voxels; at most {MOST_VOXELS} "
            "(1024x1024x1024) are read. Leave it out"
        )
    if head.get_data_dtype().kind not in "iuf":
        faults.append(f"{path}: its voxels are {head.get_data_dtype()}, not numbers. Leave it out")
    qform, qcode = head.get_qform(coded=True)
    sform, scode = head.get_sform(coded=True)
    affine = np.full((4, 4), np.nan)
    if scode:
        affine = sform
    elif qcode:
        affine = qform
    unit = {"meter": 1000.0, "micron": 1e-3}.get(head.get_xyzt_units()[0], 1.0)
    affine = np.asarray(affine, np.float64) * np.array([[unit]] * 3 + [[1.0]])
    if not (scode or qcode):
        faults.append(
            f"{path}: neither qform nor sform is set, so left and right are unknown. "
            f"{CONVERT_AGAIN}"
        )
    elif not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        faults.append(f"{path}: its affine is singular and puts no voxel anywhere. {CONVERT_AGAIN}")
    else:
        cosine = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        shear = float(np.abs(cosine.T @ cosine - np.eye(3)).max())
        if shear > 0.01:
            faults.append(
                f"{path}: its affine is sheared by {np.degrees(np.arcsin(min(1.0, shear))):.1f} "
                f"degrees. {CONVERT_AGAIN}"
            )
        if (
            scode
            and qcode
            and not faults
            and (distance := _apart(affine, np.asarray(qform) * unit, shape)) > 0.5
        ):
            faults.append(
                f"{path}: qform and sform put the same voxel up to {distance:.1f} mm apart. "
                f"{CONVERT_AGAIN}"
            )
    return affine, faults


def _apart(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """The largest distance, in mm, between where two affines put a corner."""
    i, j, k = (max(0, n - 1) for n in shape[:3])
    corners = np.array([[x, y, z, 1.0] for x in (0, i) for y in (0, j) for z in (0, k)])
    return float(np.linalg.norm((corners @ a.T - corners @ b.T)[:, :3], axis=1).max())


def voxels(path: Path) -> tuple[NDArray[Any], Header]:
    """The file's values, scaled (scl_slope, scl_inter), axes (i, j, k), and its header. DataError
    D00 when they cannot be read."""
    parsed = header(path)
    if isinstance(parsed, Fault):
        raise_faults([parsed])
        raise AssertionError
    if parsed.faults:
        raise DataError("D07", *parsed.faults)
    try:
        with quiet:
            values = _values(path)
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise_faults(
            [
                unreadable(
                    path,
                    f"its voxels cannot be read: it is cut short or damaged ({e})",
                    CONVERT_OR_COPY_AGAIN,
                )
            ]
        )
    return values.reshape(values.shape[:3]), parsed


def _values(path: Path) -> NDArray[Any]:
    from nibabel.volumeutils import apply_read_scaling

    head = _head(path)
    dtype, shape, (offset, length) = head.get_data_dtype(), head.get_data_shape(), _size(head)
    if _compressed(path):
        stored = bounded_gzip.array(path, offset, length).view(dtype).reshape(shape, order="F")
    else:
        stored = np.memmap(path, dtype, "r", offset, shape, order="F")
    slope, inter = (None if v is None else np.float64(v) for v in head.get_slope_inter())
    return np.asanyarray(apply_read_scaling(stored, slope, inter))


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
    not_finite = int(np.count_nonzero(~np.isfinite(out)))
    if not_finite:
        what = f"{not_finite} of {out.size} voxels are NaN or infinite"
        raise_faults(
            [
                Fault(
                    "D06",
                    str(path),
                    what,
                    "Convert it again; what those voxels held is not known, so nothing is put in "
                    "their place",
                )
            ]
        )
    if float(out.min()) == float(out.max()):
        raise_faults(
            [
                Fault(
                    "D06",
                    str(path),
                    f"every voxel is {float(out.flat[0]):g}",
                    CONVERT_OR_COPY_AGAIN,
                )
            ]
        )
    return Volume(out, geometry)
