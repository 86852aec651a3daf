"""Voxels of a volume file as its header describes them: where they lie in which file, what they are,
and where they are in the patient.

NIfTI, NRRD and MetaImage headers are read by their own files into a `StoredVolume`; what is checked
before any voxel is read, and the reading within bounds, is here once for all of them. A header may
name a file that holds its voxels: only one that lies in the header's own folder is opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom import bounded_gzip
from client.imaging.dicom.slice_geometry import FEWEST_SLICES
from client.imaging.geometry.volumes import Header

CONVERT_OR_COPY_AGAIN = "Copy or convert it again"
MOST_VOXELS = 1 << 30
"""1024 x 1024 x 1024, 4 GB as the numbers that are worked with: no CT or MR volume of a patient has
more."""
LARGEST_TEXT = 1 << 16
"""Bytes of a header that is text: a few hundred are usual, a segmentation's names take thousands."""
DATA_FILES = (".img", ".raw", ".zraw", ".bin", ".dat", ".gz")
"""How the file of voxels may be called that a header names."""


@dataclass(frozen=True)
class StoredVolume:
    """One volume file as its header says."""

    path: Path
    """The header's."""
    data: Path
    """The file that holds the voxels; the same, or one beside it."""
    offset: int
    """The first byte of the voxels, once decompressed."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Along (i, j, k, ...), i fastest."""
    affine: NDArray[np.float64]
    """(4, 4), voxel indices to RAS+ mm."""
    frame: int | None = None
    """`bounded_gzip.GZIP` or `ZLIB` where the voxels are compressed."""
    begins: int = 0
    """Where in `data` the compressed bytes begin."""
    slope: float | None = None
    intercept: float | None = None
    faults: tuple[str, ...] = ()
    """Why it must not be used, though it could be read: sentences without the path."""

    @property
    def length(self) -> int:
        """Bytes of its voxels."""
        return math.prod(max(0, n) for n in self.shape) * int(self.dtype.itemsize)


def header(stored: StoredVolume) -> Header:
    """What is remembered of the file. ValueError where fewer bytes are there than it claims."""
    _all_there(stored)
    faults = [*_no_volume(stored), *(stored.faults or misplaced(stored.affine))]
    return Header(
        path=str(stored.path),
        kind="nifti",
        modality="other",
        series=str(stored.path),
        shape=stored.shape[:3],
        affine=tuple(tuple(float(v) for v in row) for row in stored.affine[:3]),
        companions=() if stored.data == stored.path else (str(stored.data),),
        faults=tuple(f"{stored.path}: {fault}" for fault in faults),
    )


def values(stored: StoredVolume) -> NDArray[Any]:
    """Its values, scaled, in the order (i, j, k). Raises OSError, EOFError, ValueError, zlib.error
    where they cannot be read."""
    from nibabel.volumeutils import apply_read_scaling

    dtype, shape = stored.dtype, stored.shape
    held: NDArray[Any]
    if stored.frame is None:
        held = np.memmap(stored.data, dtype, "r", stored.offset, shape, order="F")
    else:
        packed = bounded_gzip.array(
            stored.data, stored.offset, stored.length, begins=stored.begins, frame=stored.frame
        )
        held = packed.view(dtype).reshape(shape, order="F")
    slope, intercept = (
        None if v is None else np.float64(v) for v in (stored.slope, stored.intercept)
    )
    out = np.asanyarray(apply_read_scaling(held, slope, intercept))
    return out.reshape(out.shape[:3])


def beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names. ValueError unless it lies in the header's folder and
    is called as such files are."""
    if not name.lower().endswith(DATA_FILES) or "\0" in name or Path(name).name.startswith("."):
        raise ValueError(
            f"its voxels are in '{name[:80]}', which is no file of voxels ({', '.join(DATA_FILES)})"
        )
    folder, data = path.parent.resolve(), (path.parent / name).resolve()
    if Path(name).is_absolute() or not data.is_relative_to(folder):
        raise ValueError(f"its voxels are in '{name[:80]}', outside of its own folder")
    if not data.is_file():
        raise ValueError(f"its voxels are in '{name[:80]}', which is not there")
    return path.parent / name


def text(path: Path) -> bytes:
    """The beginning of a file, at most what a header that is text may have."""
    with path.open("rb") as f:
        return f.read(LARGEST_TEXT)


def from_lps(steps: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) RAS+ affine; steps: (3, 3), row n the LPS mm from a voxel to the next along axis n;
    origin: LPS mm of the first one."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps.T, origin
    affine[:2] *= -1
    return affine


def misplaced(affine: NDArray[np.float64]) -> list[str]:
    """What is wrong with where an affine puts voxels."""
    again = "Convert it again from DICOM"
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        return [f"its affine is singular and puts no voxel anywhere. {again}"]
    cosine = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    shear = float(np.abs(cosine.T @ cosine - np.eye(3)).max())
    if shear > 0.01:
        degrees = np.degrees(np.arcsin(min(1.0, shear)))
        return [f"its affine is sheared by {degrees:.1f} degrees. {again}"]
    return []


def _all_there(stored: StoredVolume) -> None:
    """Whether the file is long enough for what its header claims; how much a compressed one really
    holds is found out when it is read."""
    size = stored.data.stat().st_size
    if stored.offset < 0:
        raise ValueError(f"its voxels begin at byte {stored.offset}, before the file does")
    if stored.frame is None:
        if size < stored.offset + stored.length:
            raise ValueError(
                f"cut short: {size} of {stored.offset + stored.length} bytes are there"
            )
        return
    compressed, needed = size - stored.begins, stored.offset + stored.length
    if compressed * bounded_gzip.LARGEST_RATIO < needed:
        raise ValueError(
            f"its header claims {needed} bytes, more than {compressed} compressed bytes can hold"
        )


def _no_volume(stored: StoredVolume) -> list[str]:
    faults, shape = [], stored.shape
    size = "x".join(map(str, shape[:3]))
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        what = f"it has {len(shape)} dimensions {'x'.join(map(str, shape))}, not one volume"
        faults.append(f"{what}. Split it into one file a volume (fslsplit), or leave it out")
    elif min(shape[:3]) < FEWEST_SLICES:
        faults.append(
            f"{size} voxels are no volume (at least {FEWEST_SLICES} slices are needed). Leave it "
            "out"
        )
    elif math.prod(shape[:3]) > MOST_VOXELS:
        faults.append(
            f"{size} voxels; at most {MOST_VOXELS} (1024x1024x1024) are read. Leave it out"
        )
    if stored.dtype.kind not in "iuf":
        faults.append(f"its voxels are {stored.dtype}, not numbers. Leave it out")
    return faults
