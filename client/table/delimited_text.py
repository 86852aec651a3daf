"""Delimited text, CSV and its kin: by pyarrow.csv where nothing about the file is in doubt
(`plain_csv`), else by the csv module, strictly."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from client.table import plain_csv
from client.table.part import GZIPPED, Layout, Part, framed, header_names, kind_of
from common.errors import Fault

csv.field_size_limit(plain_csv.LONGEST_LINE)

_OF_ASCII = frozenset({"ascii", "utf-8", "iso8859-1", "iso8859-15", "cp1252"})
"""Codecs in which ASCII bytes mean ASCII."""


LARGEST_TEXT = 1 << 30
"""Bytes of a gzipped table, unpacked."""
_PIECE = 1 << 20


def raw_text(path: Path) -> bytes:
    """The bytes of a text table, unpacked where it is gzipped. ValueError where it is damaged, cut
    short, or holds more than a table does."""
    if path.suffix.lower() != GZIPPED:
        return path.read_bytes()
    text = bytearray()
    try:
        # in pieces: asked for all at once, gzip makes room for as many bytes as it is asked for
        with gzip.open(path) as f:
            while piece := f.read(_PIECE):
                text += piece
                if len(text) > LARGEST_TEXT:
                    raise ValueError(
                        f"it holds more than {LARGEST_TEXT >> 20} MB gzipped; unpack it (gunzip)"
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"the gzipped file is damaged or cut short ({error})") from error
    if not text:
        raise ValueError("the gzipped file holds nothing")
    return bytes(text)


def read_text(path: Path, layout: Layout, faults: list[Fault]) -> Part | None:
    raw = raw_text(path)
    part = plainly_read(path, raw, layout)
    return (
        part
        if part is not None
        else framed(path, _strict_rows(path, raw, layout), layout.header, faults, strict=True)
    )


def plainly_read(path: Path, raw: bytes, layout: Layout) -> Part | None:
    """The table by Arrow, or None where anything about it is in doubt: then the strict reader
    decides, and words the fault."""
    text = _utf8(raw, layout.encoding)
    start, comments = 0, 0
    if layout.comment:
        comment = layout.comment.encode()
        while text.startswith(comment, start) and (end := text.find(b"\n", start)) >= 0:
            start, comments = end + 1, comments + 1
        if (
            text.startswith(comment, start)
            or text.find(b"\n" + comment, start) >= 0
            or set(comment) & set(b"\r\n")
        ):
            return None
    header_end = layout.first_row - 1
    end = start
    for _ in range(max(header_end, 1)):
        end = text.find(b"\n", end) + 1 or len(text) + 1
    try:
        # comments are looked at as well: Arrow is not given them
        text[:start].decode()
        top = text[start : end - 1].decode()
    except UnicodeDecodeError:
        return None
    delimiter = layout.delimiter or _delimiter(top, path, layout)
    lines = plain_csv.Lines.of(text, start, delimiter)
    if lines is None or len(lines.starts) <= header_end:
        return None
    rows = list(csv.reader(top.split("\n"), delimiter=delimiter, strict=True))
    if not any(cell.strip() for row in rows for cell in row):
        return None
    names = header_names(rows, layout.header)
    body = plain_csv.read(text, lines, header_end, len(names), delimiter) if any(names) else None
    if body is None:
        return None
    table, line_positions = body
    return Part(path, names, tuple(table.columns), (line_positions + 1 + comments).tolist())


def _strict_rows(path: Path, raw: bytes, layout: Layout) -> Iterator[tuple[list[str], int]]:
    """Each row and its line. Raises ValueError for whatever RFC 4180 does not allow, and for rows
    inside a cell."""
    text, numbers = _uncommented(_decoded(raw, layout.encoding), layout.comment)
    delimiter = layout.delimiter or _delimiter(text, path, layout)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    last_line = 0
    try:
        for row in reader:
            # a stray quote swallows the lines up to the next one: such a cell holds whole rows
            if reader.line_num > last_line + 1 and any(
                "\n" in c and c.count(delimiter) >= max(1, len(row) - 1) for c in row
            ):
                raise ValueError(
                    f"line {numbers[last_line]}: a quotation mark is opened and swallows the lines "
                    "that follow"
                )
            yield row, numbers[last_line]
            last_line = reader.line_num
    except csv.Error as error:
        raise ValueError(
            f"line {numbers[min(last_line, len(numbers) - 1)]}: {error}; the file is truncated or "
            "a quotation mark is not closed"
        ) from error


def _utf8(raw: bytes, encoding: str) -> bytes:
    """The text in UTF-8, without its byte order mark. What is said to be UTF-8 is not looked at:
    Arrow does, and the strict reader."""
    if raw.startswith(codecs.BOM_UTF8):
        return raw[len(codecs.BOM_UTF8) :]
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        codec = ""
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and (codec == "utf-8" or (codec in _OF_ASCII and raw.isascii())):
        return raw
    return _decoded(raw, encoding).encode(errors="surrogatepass")


def _decoded(raw: bytes, encoding: str) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif raw[:3] == b"\xef\xbb\xbf":
        encoding = "utf-8-sig"
    elif b"\0" in raw:
        raise ValueError("the file is binary (it holds zero bytes), not a text table")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: byte 0x{raw[error.start]:02x} is not {encoding}; declare the encoding, "
            'e.g. encoding = "latin-1"'
        ) from error
    except LookupError as error:
        raise ValueError(
            f"the encoding '{encoding}' is unknown; use e.g. utf-8 or latin-1"
        ) from error


def _uncommented(text: str, comment: str) -> tuple[str, Sequence[int]]:
    """The text without comment lines, and the number in the file of each line that is left (with
    one more for the end)."""
    if not comment:
        return text, range(1, text.count("\n") + text.count("\r") + 3)
    lines = list(io.StringIO(text, newline=""))
    kept_lines = [(i, line) for i, line in enumerate(lines, 1) if not line.startswith(comment)]
    return "".join(line for _, line in kept_lines), [i for i, _ in kept_lines] + [len(lines) + 1]


def _delimiter(text: str, path: Path, layout: Layout) -> str:
    row = layout.header[0] if layout.header else 1
    head = text.split("\n", row)[row - 1 : row]
    usual = "\t" if kind_of(path, layout) == "tsv" else ","
    counts = {
        d: re.sub(r'"[^"]*"', "", head[0]).count(d) if head else 0
        for d in dict.fromkeys((usual, "\t", ";", ",", "|"))
    }
    return max(counts, key=lambda d: counts[d])
