"""Image readers: one quick look at a file, files to series, a series to a volume.

    found = [header(path) for path in files]            # Header, Fault (a broken image), None (no image at all)
    series = group([h for h in found if isinstance(h, Header)])
    volume = read(series[0])                            # when series[0].faults is empty

Kinds of file are told by their first bytes; a name only matters when a file that calls itself an
image (a suffix, or a number as slices have it) turns out to be none.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

from client.imaging.dicom import bounded_gzip
from client.imaging.dicom import header as dicom_header
from client.imaging.dicom.pixel_layout import COPY_AGAIN
from client.imaging.dicom.series import group
from client.imaging.formats import volume_file
from client.imaging.geometry.volumes import Header, Series, Volume
from common.errors import Fault

__all__ = ["group", "header", "read"]

NAMED_DICOM = (".dcm", ".dicom", ".dic", ".ima", ".img.dcm", ".dcm.gz", ".ima.gz", ".dicom.gz")
VOXELS_OF_PAIRS = (".raw", ".zraw", ".raw.gz", ".img", ".img.gz")
"""Files of voxels, of which a header beside them speaks; an .img may also be DICOM."""


def header(path: Path) -> Header | Fault | None:
    """What one file is: a Header; a Fault (D00) for an image that is empty, cut short, encrypted or
    unreadable; None for other kinds.

    Never raises. Costs about a millisecond: pixels are not read, but whether all of them are there
    is looked at.
    """
    name = path.name.lower()
    try:
        start = _start(path)
    except IsADirectoryError:
        return None
    except OSError as e:
        return dicom_header.unreadable(
            path,
            f"it cannot be read ({e.strerror or e})",
            "Check that the file is there and that the station may read it",
        )
    if name.startswith("."):
        return None
    if name.endswith(volume_file.SUFFIXES) and not _other_header(name, start):
        return (
            volume_file.header(path)
            if start
            else dicom_header.unreadable(
                path, "it is empty (0 bytes)", "Copy it again from where it came"
            )
        )
    if name.endswith(VOXELS_OF_PAIRS) and start[128:132] != b"DICM":
        return None
    if start[128:132] == b"DICM" or _bare(start):
        return dicom_header.header(path)
    if name.endswith(NAMED_DICOM) or (_numbered(path) and not is_text(start)):
        if not start:
            what = "it is empty (0 bytes)"
            if path.stat().st_size:
                what = "it is called a gzipped file and is none, or a damaged one"
            return dicom_header.unreadable(path, what, COPY_AGAIN)
        what = (
            "it is not DICOM: neither a preamble with 'DICM' nor a data set stands at its "
            "start; it may be encrypted"
        )
        return dicom_header.unreadable(
            path, what, "Decrypt or unpack it, export it again, or move it out of the folder"
        )
    return None


def _start(path: Path) -> bytes:
    """The first bytes of a file, of a gzipped slice's data set: of a broken one what there is."""
    if not path.name.lower().endswith(".gz") or path.name.lower().endswith(volume_file.SUFFIXES):
        with path.open("rb") as f:
            return f.read(132)
    try:
        return bounded_gzip.start(path, 132)
    except (EOFError, zlib.error):
        return b""


def _other_header(name: str, start: bytes) -> bool:
    """Is it an .hdr file of another kind (ENVI, of a detector)? NIfTI's and Analyze's begin with
    their length."""
    if not name.endswith(".hdr") or not start:
        return False
    return not any(int.from_bytes(start[:4], order) in (348, 540) for order in ("little", "big"))


def read(series: Series) -> Volume:
    """float32 volume of a series that has no faults. Raises DataError (D00, D06, D07) naming file,
    what and way out."""
    if series.kind == "nifti":
        return volume_file.read(series)
    from client.imaging.dicom import pixels

    return pixels.read(series)


def _bare(start: bytes) -> bool:
    """Whether it begins like a DICOM data set without preamble: a low element of group 0002 or
    0008, and a length that makes sense."""
    if len(start) < 12:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", start[:4])
        if group in (0x0002, 0x0008) and element <= 0x0100:
            (length,) = struct.unpack(f"{order}I", start[4:8])
            return (start[4:6].isalpha() and start[4:6].isupper()) or length <= 1024
    return False


NUMBERED = re.compile(r"([A-Za-z]{0,8}[-_. ]?)?[0-9][0-9._ -]*|(?=.*[0-9])[0-9A-Fa-f-]{8,}")
"""IM000001, MR.1.2.840.113619, IMG_0001, 4f1c2a7e-09: what archives call files without a suffix.
README and DONE are no such names."""


def _numbered(path: Path) -> bool:
    """Whether the name says nothing about the kind (no suffix, or the last number of a uid) but is
    a number, as slices' names are."""
    return (path.suffix == "" or path.suffix[1:].isdigit()) and NUMBERED.fullmatch(
        path.name
    ) is not None


def is_text(start: bytes) -> bool:
    """Whether a file that begins so is text, as notes beside images are."""
    return bool(start) and all(b >= 32 or b in b"\t\n\r\f" for b in start)
