"""MetaImage headers, in one file with the voxels (.mha) or beside them (.mhd and .raw or .zraw).

Offset and TransformMatrix are LPS mm, as ITK writes and reads them; AnatomicalOrientation, a remark
that many programs leave at "RAI" or "???", is not believed over them
(https://itk.org/Wiki/ITK/MetaIO/Documentation).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom import bounded_gzip
from client.imaging.formats.stored_volume import StoredVolume, beside, from_lps, text

CONVERT = "Convert it to NIfTI, or save it again with ITK or 3D Slicer"
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
LAST = "ElementDataFile"
"""The field that ends the header."""


def described(path: Path) -> StoredVolume:
    """Raises OSError, ValueError where it is no such header, or names voxels that are not its
    own."""
    fields, end = _fields(text(path))
    name = fields[LAST]
    local = name.upper() == "LOCAL"
    if not local and (name.upper().startswith("LIST") or "%" in name):
        raise ValueError("its voxels are in a list of files (one file a slice)")
    data = path if local else beside(path, name)
    if _flag(fields, "BinaryData", True) is False:
        raise ValueError("its voxels are text (BinaryData = False)")
    if int(fields.get("ElementNumberOfChannels", "1")) != 1:
        raise ValueError("each of its voxels has several values (ElementNumberOfChannels)")
    kind = fields.get("ElementType", "")
    if kind not in TYPES:
        raise ValueError(f"its voxels are of the type '{kind[:40]}', no numbers that are read here")
    msb = _flag(fields, "BinaryDataByteOrderMSB", False)
    msb = _flag(fields, "ElementByteOrderMSB", msb)
    dtype = np.dtype((">" if msb else "<") + TYPES[kind])
    shape = tuple(int(n) for n in fields.get("DimSize", "").split())
    if len(shape) != int(fields.get("NDims", "0")):
        raise ValueError("its DimSize has not as many numbers as NDims says")
    affine, faults = _affine(fields, len(shape))
    packed = _flag(fields, "CompressedData", False)
    start = end if local else 0
    skip = int(fields.get("HeaderSize", "0"))
    if 0 < skip < start:
        raise ValueError(f"its voxels begin at byte {skip}, within its header (HeaderSize)")
    if packed:
        if skip:
            raise ValueError(f"it skips {skip} bytes before compressed voxels (HeaderSize)")
        return StoredVolume(
            path, data, 0, dtype, shape, affine, bounded_gzip.ZLIB, start, None, None, tuple(faults)
        )
    stored = StoredVolume(path, data, max(start, skip), dtype, shape, affine, faults=tuple(faults))
    if skip == -1:  # the voxels stand at the end of the file
        offset = data.stat().st_size - stored.length
        if offset < 0:
            raise ValueError("cut short: fewer bytes are there than its header claims")
        return StoredVolume(path, data, offset, dtype, shape, affine, faults=tuple(faults))
    return stored


def _fields(block: bytes) -> tuple[dict[str, str], int]:
    """Its fields, and where what follows the last line of the header begins."""
    fields: dict[str, str] = {}
    start = 0
    while LAST not in fields:
        end = block.find(b"\n", start)
        last = end < 0
        line = block[start:] if last else block[start:end]
        name, equals, value = line.decode("utf-8", "replace").partition("=")
        if not equals:
            raise ValueError(f"it is no MetaImage header: no '{LAST}' within {len(block)} bytes")
        fields[name.strip()] = value.strip()
        start = len(block) if last else end + 1
    if fields.get("ObjectType", "Image") != "Image":
        raise ValueError(f"it holds '{fields['ObjectType'][:40]}', no image")
    return fields, start


def _flag(fields: dict[str, str], name: str, default: bool) -> bool:
    """By its first letter, as ITK reads it."""
    return fields[name][:1] in ("T", "t", "1") if name in fields else default


def _numbers(fields: dict[str, str], names: tuple[str, ...]) -> list[float] | None:
    value = next((fields[n] for n in names if n in fields), None)
    return None if value is None else [float(w) for w in value.split()]


def _affine(fields: dict[str, str], dimensions: int) -> tuple[NDArray[np.float64], list[str]]:
    """Voxel indices to RAS+ mm, and what is wrong with it."""
    slope = _numbers(fields, ("ElementToIntensityFunctionSlope",)) or [1.0]
    intercept = _numbers(fields, ("ElementToIntensityFunctionOffset",)) or [0.0]
    if slope != [1.0] or intercept != [0.0]:
        what = "its values are to be scaled (ElementToIntensityFunction), which ITK does not do"
        return np.full((4, 4), np.nan), [f"{what}. {CONVERT}"]
    if fields.get("DistanceUnits", "mm") not in ("mm", "?", ""):
        what = f"its lengths are in {fields['DistanceUnits'][:20]}, not in mm"
        return np.full((4, 4), np.nan), [f"{what}. {CONVERT}"]
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"))
    origin = _numbers(fields, ("Offset", "Position", "Origin"))
    matrix = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"))
    if spacing is None or origin is None or matrix is None or len(spacing) < 3:
        what = "it does not say where its voxels lie (ElementSpacing, Offset, TransformMatrix)"
        return np.full((4, 4), np.nan), [f"{what}. {CONVERT}"]
    size = len(spacing)
    if size != dimensions or len(origin) != size or len(matrix) != size * size:
        what = "its ElementSpacing, Offset or TransformMatrix is too short, or too long"
        return np.full((4, 4), np.nan), [f"{what}. {CONVERT}"]
    directions = np.array(matrix).reshape(size, size)[:3, :3]
    return from_lps(directions * np.array(spacing[:3])[:, None], np.array(origin[:3])), []
