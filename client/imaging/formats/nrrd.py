"""NRRD headers, in one file with the voxels (.nrrd, 3D Slicer's .seg.nrrd) or beside them (.nhdr).

The space that the header names decides which way its axes point
(https://teem.sourceforge.net/nrrd/format.html): one that is anchored to the patient
(left-posterior-superior and its kin), or the file is refused. Encodings raw and gzip are read.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom import bounded_gzip
from client.imaging.formats.stored_volume import StoredVolume, beside, from_lps, text

MAGIC = b"NRRD000"
CONVERT = "Convert it to NIfTI, or save it again with space left-posterior-superior"

TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
"""Space -> the signs that turn it to LPS."""


def described(path: Path) -> StoredVolume:
    """Raises OSError, ValueError where it is no such header, or names voxels that are not its
    own."""
    fields, end = _fields(text(path))
    name = fields.get("data file", fields.get("datafile", ""))
    data = beside(path, name) if name else path
    begins = 0 if name else end
    if int(fields.get("line skip", fields.get("lineskip", "0"))):
        raise ValueError("it skips lines before its voxels (line skip)")
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ValueError(f"its encoding is '{encoding[:40]}' (raw and gzip are read)")
    packed = encoding != "raw"
    dtype = _dtype(fields)
    sizes = tuple(int(n) for n in fields.get("sizes", "").split())
    if len(sizes) != int(fields.get("dimension", "0")):
        raise ValueError("its sizes are not as many as its dimensions")
    affine, faults = _affine(fields, sizes)
    stored = StoredVolume(path, data, begins + skip, dtype, sizes, affine, faults=tuple(faults))
    if packed:
        # what is skipped is skipped of what was compressed, as Teem does
        stored = replace(stored, offset=skip, frame=bounded_gzip.GZIP, begins=begins)
    elif skip == -1:  # the voxels stand at the end of the file
        stored = replace(stored, offset=data.stat().st_size - stored.length)
    if skip < (0 if packed else -1) or stored.offset < 0:
        raise ValueError(f"it skips {skip} bytes before its voxels (byte skip)")
    return stored


def _fields(block: bytes) -> tuple[dict[str, str], int]:
    """Its fields by lower-case name, and where what follows the header's empty line begins."""
    if not block.startswith(MAGIC):
        raise ValueError("it does not begin with NRRD000")
    end = re.search(rb"\r?\n\r?\n", block)
    head = block[: end.start()] if end else block
    fields: dict[str, str] = {}
    twice = ""
    for line in head.decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(": ")
        name = name.strip().lower()
        if colon and not line.startswith("#") and ":=" not in name:
            twice = name if name in fields else twice
            fields[name] = value.strip()
    detached = "data file" in fields or "datafile" in fields
    if not end and not detached:
        raise ValueError(f"its header does not end within {len(block)} bytes")
    if twice:
        raise ValueError(f"it has the field '{twice[:40]}' twice")
    return fields, end.end() if end else len(block)


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    kind = fields.get("type", "").lower()
    code = next((code for code, names in TYPES.items() if kind in names), "")
    if not code:
        raise ValueError(f"its voxels are of the type '{kind[:40]}', no numbers that are read here")
    # of single bytes there is no order
    order = fields.get("endian", "little" if code in ("i1", "u1") else "").lower()
    if order not in ("little", "big"):
        raise ValueError(f"its order of bytes is '{order[:20]}'")
    return np.dtype(("<" if order == "little" else ">") + code)


def _affine(
    fields: dict[str, str], sizes: tuple[int, ...]
) -> tuple[NDArray[np.float64], list[str]]:
    """Voxel indices to RAS+ mm, and what is wrong with it."""
    nowhere = np.full((4, 4), np.nan)
    space = fields.get("space", "").strip('"').lower()
    if space not in SPACES:
        what = f"its space is '{space[:40]}', so left and right are unknown"
        return nowhere, [f"{what}. {CONVERT}"]
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"mm", ""}
    if units:
        return nowhere, [
            f"its lengths are in {', '.join(sorted(units))[:40]}, not in mm. {CONVERT}"
        ]
    if any(name in fields for name in ("old min", "oldmin", "old max", "oldmax")):
        return nowhere, [f"its values were scaled to others when it was saved (old min). {CONVERT}"]
    directions = fields.get("space directions", "")
    vectors = [_vector(v) for v in re.findall(r"none|\([^)]*\)", directions, re.IGNORECASE)]
    # those of the first three axes: an axis of values or of time before them shifts all of them
    steps = [v for v in vectors[:3] if v is not None]
    origin = _vector(fields.get("space origin", ""))
    if len(vectors) != len(sizes) or len(steps) != 3 or origin is None:
        what = (
            "its 'space directions' and 'space origin' are no three vectors, of the first three "
            "axes, and a point"
        )
        return nowhere, [f"{what}. {CONVERT}"]
    signs = np.array(SPACES[space], np.float64)
    return from_lps(np.array(steps) * signs, origin * signs), []


def _vector(words: str) -> NDArray[np.float64] | None:
    parts = words.strip("() ").split(",")
    if len(parts) != 3:
        return None
    return np.array([float(p) for p in parts])
