"""Deflated DICOM files (the data set compressed as a whole), inflated within bounds: a few
kilobytes may claim to hold gigabytes.

Nothing behind the pixel data is inflated, and of what lies before them no more than a header can
need.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from client.imaging.dicom import bounded_gzip

if TYPE_CHECKING:
    from io import BufferedReader

    from pydicom import Dataset

DEFLATED = "1.2.840.10008.1.2.1.99"
LARGEST_HEADER = 16 << 20
"""Bytes: the pixel data must begin within these, inflated."""
LARGEST_DATA_SET = 1 << 30
"""Bytes: the pixel data must end within these, inflated."""
LARGEST_RATIO = 1032
"""No deflated byte becomes more than this many."""
_PIECE = 1 << 20


def starts(f: BufferedReader | bounded_gzip.Inflated) -> bool:
    """Whether a file at its start is deflated; if so it then stands where its deflated data set
    begins, else at its start again."""
    if DEFLATED.encode() not in f.peek():
        return False
    if str(_meta(f).get("TransferSyntaxUID", "")) == DEFLATED:
        return True
    f.seek(0)
    return False


def _meta(f: BinaryIO) -> Dataset:
    from pydicom.filereader import read_dataset

    if f.read(132)[128:] != b"DICM":
        f.seek(0)
    return read_dataset(f, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)


def inflated(f: BinaryIO, most: int) -> bytes:
    """The first `most` bytes of the data set that begins where `f` stands, or as many as there
    are."""
    return b"".join(_pieces(f, most))


def length(path: Path, most: int) -> int:
    """How many bytes the data set of a deflated file has, counted up to `most`."""
    with bounded_gzip.opened(path) as f:
        return sum(len(piece) for piece in _pieces(f, most)) if starts(f) else 0


def whole(path: str) -> Dataset:
    """Any DICOM file, all of it. ValueError where its data set inflates to more than
    `LARGEST_DATA_SET`."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import dcmread

    with bounded_gzip.opened(Path(path)) as f:
        if not starts(f):
            return dcmread(f, force=True)
        data = inflated(f, LARGEST_DATA_SET + 1)
        if len(data) > LARGEST_DATA_SET:
            raise ValueError(f"its deflated data set has more than {LARGEST_DATA_SET >> 20} MB")
        f.seek(0)
        dataset = dcmread(BytesIO(data), force=True)
        dataset.file_meta = FileMetaDataset(_meta(f))
        return dataset


def pixels(path: str, most: int) -> BinaryIO:
    """The data set of a deflated file up to `most` bytes, to be read from."""
    with bounded_gzip.opened(Path(path)) as f:
        if not starts(f):
            raise ValueError("it has changed since its header was read")
        return BytesIO(inflated(f, most))


def _pieces(f: BinaryIO, most: int) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    while most > 0 and not inflate.eof:
        compressed = inflate.unconsumed_tail or f.read(1 << 16)
        piece = inflate.decompress(compressed, min(most, _PIECE))
        if not compressed and not piece:
            return  # it is cut short
        most -= len(piece)
        yield piece
