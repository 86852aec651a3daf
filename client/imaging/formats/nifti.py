"""NIfTI-1 and -2 headers, in one file with the voxels (.nii, .nii.gz) or beside them (.hdr, .img).

A NIfTI file carries two affines. They must agree where both are given; anything else would put the
image somewhere by guess. An Analyze 7.5 header, which has the same suffix, carries none: left and
right are unknown, and it is refused by name.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom import bounded_gzip
from client.imaging.formats.stored_volume import StoredVolume, beside, misplaced

CONVERT_AGAIN = "Convert it again from DICOM, or set both affines alike"
ANALYZE = (
    "it is an Analyze 7.5 header, which does not say where left and right are. Convert it to NIfTI "
    "from where it came (nifti_tool, dcm2niix), or declare them with a NIfTI header"
)


def described(path: Path) -> StoredVolume:
    """Raises OSError, ValueError (or what nibabel raises) where it is no such header."""
    head = _head(path)
    pair = _is_header(path)
    data = _data(path) if pair else path
    dtype = head.get_data_dtype()
    slope, intercept = head.get_slope_inter() if head["magic"].item() else (None, None)
    affine, faults = _affine(head)
    return StoredVolume(
        path,
        data,
        int(head.get_data_offset()),
        dtype,
        tuple(int(n) for n in head.get_data_shape()),
        affine,
        bounded_gzip.GZIP if _compressed(data) else None,
        0,
        slope,
        intercept,
        tuple(faults),
    )


def _compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _is_header(path: Path) -> bool:
    return path.name.lower().endswith((".hdr", ".hdr.gz"))


def _data(path: Path) -> Path:
    """The file of voxels of a pair."""
    stem = path.name[: path.name.lower().rindex(".hdr")]
    names = [stem + suffix for suffix in (".img", ".img.gz", ".IMG")]
    for name in names:
        if (path.parent / name).exists():
            return beside(path, name)
    raise ValueError(f"its voxels ({names[0]}) are not beside it")


def _head(path: Path) -> Any:
    """A Nifti1Header, Nifti2Header or pair's header. Not by nibabel's `load`, which also reads what
    stands between it and the voxels, however much."""
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

    kinds: tuple[Any, ...] = (Nifti1Header, Nifti2Header)
    pair = _is_header(path)
    if pair:
        kinds = (Nifti1PairHeader, Nifti2PairHeader)
    longest = Nifti2Header.sizeof_hdr
    if _compressed(path):
        block = bounded_gzip.start(path, longest)
    else:
        with path.open("rb") as f:
            block = f.read(longest)
    for kind in kinds:
        if not kind.may_contain_header(block):
            continue
        head = kind(block[: kind.sizeof_hdr])
        if head["magic"].item().startswith(b"ni") != pair:
            where = "in the same file" if pair else "in a file of their own (.img)"
            raise ValueError(f"its voxels are {where}")
        if math.isinf(head["scl_slope"]):
            raise ValueError("its values are scaled by infinity (scl_slope)")
        return head
    if pair and 348 in (int.from_bytes(block[:4], order) for order in ("little", "big")):
        raise ValueError(ANALYZE)
    raise ValueError("it does not begin with a NIfTI header")


def _affine(head: Any) -> tuple[NDArray[np.float64], list[str]]:
    """Voxel indices to RAS+ mm, and what is wrong with it."""
    shape = head.get_data_shape()
    qform, qcode = head.get_qform(coded=True)
    sform, scode = head.get_sform(coded=True)
    affine = np.full((4, 4), np.nan)
    if scode:
        affine = sform
    elif qcode:
        affine = qform
    unit = {"meter": 1000.0, "micron": 1e-3}.get(head.get_xyzt_units()[0], 1.0)
    scaled = np.array([[unit]] * 3 + [[1.0]])
    affine = np.asarray(affine, np.float64) * scaled
    if not (scode or qcode):
        what = "neither qform nor sform is set, so left and right are unknown"
        return affine, [f"{what}. {CONVERT_AGAIN}"]
    faults = misplaced(affine)
    if scode and qcode and not faults:
        distance = _apart(affine, np.asarray(qform) * scaled, shape)
        if distance > 0.5:
            faults.append(
                f"qform and sform put the same voxel up to {distance:.1f} mm apart. {CONVERT_AGAIN}"
            )
    return affine, faults


def _apart(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """The largest distance, in mm, between where two affines put a corner."""
    i, j, k = (max(0, n - 1) for n in (*shape, 1, 1, 1)[:3])
    corners = np.array([[x, y, z, 1.0] for x in (0, i) for y in (0, j) for z in (0, k)])
    return float(np.linalg.norm((corners @ a.T - corners @ b.T)[:, :3], axis=1).max())
