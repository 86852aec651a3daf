"""Gzip files (and zlib streams) read in pieces, within bounds and to their end: a flipped bit is only
found by the checksum behind the data.

Python's own reader hands over as many bytes as it is asked for and then stops, and what was asked
for is what a header claims.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

LARGEST_RATIO = 1040
"""No compressed byte becomes more than 1032 of them (the format's longest match, again and again),
and a little for the frame."""
SURPLUS = 16 << 20
"""Bytes that may stand behind what is asked for."""
LARGEST_DICOM = 1 << 28
"""Bytes of a gzipped DICOM file, inflated: a file a slice, or a multi-frame object of a few hundred."""
GZIP, ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
"""What frames the compressed bytes, as zlib numbers it."""
_READ, _PIECE = 1 << 16, 1 << 20
_MAGIC = b"\x1f\x8b"


class Inflated(BytesIO):
    """What a gzipped file holds, in memory."""

    def peek(self, size: int = 8192) -> bytes:
        """The next bytes; where it stands does not change."""
        here = self.tell()
        ahead = self.read(size)
        self.seek(here)
        return ahead


def opened(path: Path) -> BufferedReader | Inflated:
    """A file to be read from, a gzipped one by what it holds. Raises as `array`."""
    f = path.open("rb")
    if f.peek(2)[:2] != _MAGIC:
        return f
    with f:
        data = bytearray()
        for piece in _pieces(f, _PIECE, GZIP):
            data += piece
            if len(data) > LARGEST_DICOM:
                raise ValueError(
                    f"it holds more than {LARGEST_DICOM >> 20} MB gzipped; unpack it (gunzip)"
                )
    return Inflated(data)


def start(path: Path, length: int) -> bytes:
    """The first bytes of what the file holds; fewer where it holds no more."""
    data = b""
    with path.open("rb") as f:
        for piece in _pieces(f, length, GZIP):
            data += piece
            if len(data) >= length:
                break
    return data[:length]


def array(
    path: Path, offset: int, length: int, *, begins: int = 0, frame: int = GZIP
) -> NDArray[np.uint8]:
    """`length` bytes from `offset` of what is compressed from byte `begins` of the file, which is
    read to its end. frame: `GZIP` or `ZLIB`.

    Raises EOFError where it is cut short, zlib.error where it is damaged, ValueError where it holds
    far more. Whether so many bytes may be there at all (`MOST`) is to be asked before.
    """
    out = np.empty(length, np.uint8)
    view, skip, filled, surplus = out.data, offset, 0, 0
    with path.open("rb") as f:
        f.seek(begins)
        for piece in _pieces(f, _PIECE, frame):
            rest = memoryview(piece)[skip:]
            skip -= min(skip, len(piece))
            taken = min(len(rest), length - filled)
            view[filled : filled + taken] = rest[:taken]
            filled += taken
            surplus += len(rest) - taken
            if surplus > SURPLUS:
                raise ValueError(
                    f"it goes on for more than {SURPLUS >> 20} MB after the {offset + length} "
                    "bytes that its header claims"
                )
    if filled < length or skip:
        raise EOFError(f"{filled} of {length} bytes of voxels are there")
    return out


def _pieces(f: BinaryIO, most: int, frame: int) -> Iterator[bytes]:
    """What a file of one or several gzip members (or one zlib stream) holds from where it stands, at
    most `most` bytes at a time; each member's checksum and length are compared."""
    inflate = zlib.decompressobj(frame)
    compressed = f.read(_READ)
    while True:
        piece = inflate.decompress(compressed, most)
        if piece:
            yield piece
        if inflate.eof and frame == ZLIB:
            return
        if inflate.eof:
            compressed = inflate.unused_data or f.read(_READ)
            while compressed and not compressed.strip(b"\0"):  # padded to the block of a tape
                compressed = f.read(_READ)
            compressed = compressed.lstrip(b"\0")
            compressed += f.read(_READ) if len(compressed) < len(_MAGIC) else b""
            if not compressed.startswith(_MAGIC):
                return  # as gzip does, what else follows is passed over
            inflate = zlib.decompressobj(frame)
            continue
        ended = not compressed and not piece
        compressed = inflate.unconsumed_tail or f.read(_READ)
        if ended and not compressed:
            raise EOFError("it is cut short")
