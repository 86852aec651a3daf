"""CSV, delimited text to Arrow columns, every column as text: the fast way, for tables in which
nothing is in doubt.

pyarrow.csv swallows what follows an unclosed quotation mark without a word, so a linear look at the
bytes comes first: every mark opens a field at its start, closes it at its end, or stands doubled
inside it, and no field holds a line break. Of anything else None is returned, and the strict reader
(`readers`), which the csv module's state machine is behind, decides and words the fault.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

LONGEST_LINE = 10_000_000
"""Bytes; in a longer line a field may be over the csv module's limit."""
_BLOCK = 1 << 24
_LINE_FEED, _RETURN, _MARK = b'\n\r"'


@dataclass(frozen=True)
class Lines:
    """The lines of a text in which nothing is in doubt: where they begin, and where their line
    feeds stand (or the text ends)."""

    starts: Places
    ends: Places

    @classmethod
    def of(cls, text: bytes, start: int, delimiter: str) -> Lines | None:
        """The lines from byte `start` on; None where a mark, a carriage return, a zero byte or a
        very long line leaves doubt."""
        if b"\0" in text or text.count(b"\r") != text.count(b"\r\n"):
            return None
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
            return None
        feeds = _feeds_outside_quotes(np.frombuffer(text, np.uint8), start, ord(delimiter))
        if feeds is None:
            return None
        starts = np.concatenate([[start], feeds + 1])
        ends = np.concatenate([feeds, [len(text)]])
        if starts[-1] == len(text):
            starts, ends = starts[:-1], ends[:-1]
        if not len(starts) or int((ends - starts).max()) > LONGEST_LINE:
            return None
        return cls(starts, ends)

    def filled(self, text: bytes, skipped: int) -> Places:
        """The positions of the lines after the first `skipped` that hold anything."""
        lengths = self.ends[skipped:] - self.starts[skipped:]
        single = np.flatnonzero(lengths == 1)
        only_return = single[
            np.frombuffer(text, np.uint8)[self.starts[skipped:][single]] == _RETURN
        ]
        lengths[only_return] = 0
        return np.flatnonzero(lengths > 0) + skipped


def _feeds_outside_quotes(data: Bytes, start: int, delimiter: int) -> Places | None:
    """The line feeds from `start` on; None where one is inside quotation marks, or a mark is
    neither at a field's edge nor doubled."""
    opens = np.zeros(256, np.bool_)
    opens[[delimiter, _LINE_FEED, _MARK]] = True
    closes = opens.copy()
    closes[_RETURN] = True
    feeds: list[Places] = []
    inside = 0
    for offset in range(start, len(data), _BLOCK):
        block = data[offset : offset + _BLOCK]
        marks = np.flatnonzero(block == _MARK) + offset
        block_feeds = np.flatnonzero(block == _LINE_FEED) + offset
        if len(marks) or inside:
            opening, closing = marks[inside::2], marks[1 - inside :: 2]
            bytes_before, bytes_after = (
                data[opening[opening > start] - 1],
                data[closing[closing + 1 < len(data)] + 1],
            )
            if (
                not (opens[bytes_before].all() and closes[bytes_after].all())
                or ((np.searchsorted(marks, block_feeds) + inside) % 2).any()
            ):
                return None
            inside = (inside + len(marks)) % 2
        feeds.append(block_feeds)
    return None if inside else np.concatenate(feeds or [np.empty(0, np.int64)])


def read(
    text: bytes, lines: Lines, skipped: int, width: int, delimiter: str
) -> tuple[pa.Table, Places] | None:
    """The rows after the first `skipped` lines, `width` columns of text named '0', '1', ..., and
    the position of each row's line.

    Rows without a letter in them are left out. None where a row has another number of fields, a
    byte order mark is in the first one, or Arrow finds anything wrong.
    """
    import pyarrow as pa
    from pyarrow import csv

    filled = lines.filled(text, skipped)
    if not len(filled):
        return None
    names = [str(n) for n in range(width)]
    longest = int((lines.ends - lines.starts).max())
    start = int(lines.starts[filled[0]])
    if text.startswith(codecs.BOM_UTF8, start):
        return None  # Arrow takes it off; here it belongs to the first cell
    try:
        table = csv.read_csv(
            pa.BufferReader(pa.py_buffer(text).slice(start)),
            csv.ReadOptions(column_names=names, block_size=max(1 << 20, longest + 2)),
            csv.ParseOptions(delimiter=delimiter, quote_char='"' if b'"' in text else False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(filled):
        return None
    empty = _empty(table)
    if len(empty):
        filled_rows = np.ones(len(filled), np.bool_)
        filled_rows[empty] = False
        table, filled = table.filter(pa.array(filled_rows)), filled[filled_rows]
    return table, filled


def _empty(table: pa.Table) -> Places:
    """The rows in which every cell is empty or white space."""
    import pyarrow as pa

    rows = np.arange(table.num_rows)
    for column in table.columns:
        if not len(rows):
            break
        cells = column.take(pa.array(rows)).to_pylist()
        rows = rows[
            np.fromiter((not cell or cell.isspace() for cell in cells), np.bool_, len(cells))
        ]
    return rows
