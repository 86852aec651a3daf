"""Column profile, what one column of an unknown table seems to hold: numbers, choices, dates or text,
how it writes numbers, and which of its texts mean missing. Guesses, for a draft only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from client.table.cells import folded, limit, looks_null, number, numbers

if TYPE_CHECKING:
    import pyarrow as pa

Codes = NDArray[np.integer[Any]]
"""(rows,): one number for each different text."""
Values = NDArray[np.float64]
Kind = Literal["number", "choice", "date", "text", "empty", "constant"]

LEVELS = 12
"""A vocabulary of more values than this is taken for codes or free text."""

_DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}([ T].*)?|\d{1,2}[./-]\d{1,2}[./-](\d{2}|\d{4})( "
    r".*)?|(19|20)\d{2}(0[1-9]|1[0-2])([0-2]\d|3[01])"
)
_NINES = (99, 999, 9999, 99999)
MAYBE_A_VALUE = frozenset({"none", "nil", "-"})
"""Tokens that mean missing among numbers, and may be a value like any other among words."""


@dataclass(frozen=True)
class Column:
    """One column of all files, stripped: its different texts and which of them each row has. A
    column of numbers has nearly as many texts as rows, and as Python strings they would take five
    times the room: whatever is as long as `texts` is made anew when asked for, or an array."""

    name: str
    texts: pa.StringArray = field(repr=False)
    """Different texts in the order of their first rows; '' is among them where there is nothing."""
    codes: Codes = field(repr=False)
    """(rows,): position in `texts`."""
    decimal: str = "."
    thousands: str = ""

    @classmethod
    def of(cls, name: str, columns: Iterable[pa.ChunkedArray]) -> Column:
        """The column of that name in each file, one below the other."""
        import pyarrow as pa

        chunks = [chunk for column in columns for chunk in column.chunks]
        encoded = pa.chunked_array(chunks, pa.string()).dictionary_encode().combine_chunks()
        positions: dict[str, int] = {}
        stripped = [
            positions.setdefault(text.strip(), len(positions))
            for text in encoded.dictionary.to_pylist()
        ]
        codes = np.array(stripped, np.int32)[encoded.indices.to_numpy()]
        return cls(name, pa.array(positions, pa.string()), codes)

    def __len__(self) -> int:
        return len(self.codes)

    def has(self, mark: str) -> bool:
        """Whether a text holds `mark`."""
        import pyarrow.compute as pc

        return bool(pc.any(pc.match_substring(self.texts, mark)).as_py())

    @property
    def counts(self) -> dict[str, int]:
        """Text that is not empty -> rows that have it."""
        rows = np.bincount(self.codes, minlength=len(self.texts)).tolist()
        return {t: n for t, n in zip(self.texts.to_pylist(), rows, strict=True) if t}

    @cached_property
    def empty(self) -> int:
        """Rows where there is nothing."""
        position = self.texts.index("").as_py()
        return int(np.count_nonzero(self.codes == position))

    @property
    def different(self) -> int:
        """How many texts there are that are not empty."""
        return len(self.texts) - (self.empty > 0)

    @cached_property
    def values(self) -> Values:
        """(texts,): the number that each is; NaN where it is none, or a sentinel among numbers that
        are not negative."""
        texts = self.texts.to_pylist()
        at = [i for i, t in enumerate(texts) if t and t[0] in "+-.0123456789"]
        values = np.full(len(texts), np.nan)
        values[at] = np.array(
            numbers([texts[i] for i in at], self.decimal, self.thousands), np.float64
        )
        values[self._sentinels(values)] = np.nan
        return values

    def _sentinels(self, values: Values) -> list[int]:
        """Positions in `texts` of numbers that seem to mean missing: '-9' where nothing else is
        negative, and '999' where it is far from everything else: twice, or among whole numbers."""
        below, high = np.flatnonzero(values < 0), np.flatnonzero(np.isin(values, _NINES))
        texts = self.texts
        negative = [i for i in below.tolist() if looks_null(texts[i].as_py())]
        nines = high.tolist()
        if not negative and not nines:
            return []
        usual = np.delete(values, [*negative, *nines])
        usual = usual[~np.isnan(usual)]
        sentinels = [] if usual.size and usual.min() < 0 else negative
        rows = np.bincount(self.codes, minlength=len(texts))
        whole = bool((usual == np.floor(usual)).all())
        if usual.size > 1:
            far = 2 * float(np.abs(usual).max())
            sentinels += [i for i in nines if values[i] > far and (whole or rows[i] > 1)]
        return sentinels

    @property
    def numbers(self) -> dict[str, float]:
        """Text -> its value, of those that are numbers and no sentinels."""
        pairs = zip(self.texts.to_pylist(), self.values.tolist(), strict=True)
        return {t: n for t, n in pairs if n == n}

    @cached_property
    def kind(self) -> Kind:
        numbers = self.numbers
        texts = {
            t: n
            for t, n in self.counts.items()
            if t in numbers or not looks_null(t) or folded(t) in MAYBE_A_VALUE
        }
        total, numeric = sum(texts.values()), sum(texts[t] for t in numbers)
        if not total:
            return "empty"
        distinct = {folded(t) for t in texts} if len(texts) < 1000 else set(texts)
        if len(distinct) == 1:
            return "constant"
        dates = sum(
            n for t, n in texts.items() if (t not in numbers or len(t) == 8) and _DATE.fullmatch(t)
        )
        if dates >= 0.8 * total:
            return "date"
        odd = any(
            t not in numbers and not looks_null(t) and limit(t) is None and number(t) not in _NINES
            for t in texts
        )
        if odd and numeric and self._grades(distinct, total):
            return "choice"
        if numeric >= 0.8 * total:
            values = set(numbers.values())
            few_values = len(values) <= 2 or (
                len(values) <= 5
                and total >= 30
                and all(v.is_integer() and 0 <= v <= 9 for v in values)
            )
            return (
                "choice"
                if few_values and numeric == total and len(values) > 1
                else "number"
                if len(values) > 1
                else "constant"
            )
        return (
            "choice"
            if len(distinct) <= max(2, min(LEVELS, total / 3)) and total >= 2 * len(distinct) - 1
            else "text"
        )

    def _grades(self, distinct: set[str], total: int) -> bool:
        """Whether texts beside numbers ('4a', 'in situ') are levels as these are: all are few, and
        the numbers are small and whole."""
        return (
            len(distinct) <= LEVELS
            and total >= 2 * len(distinct) - 1
            and all(n.is_integer() and 0 <= n < 100 for n in self.numbers.values())
        )

    @cached_property
    def nulls(self) -> tuple[str, ...]:
        """Texts that seem to mean missing."""
        words = self.kind != "number"
        return tuple(
            t
            for t in self._no_numbers()
            if (looks_null(t) or number(t) in _NINES) and not (words and folded(t) in MAYBE_A_VALUE)
        )

    @cached_property
    def strange(self) -> tuple[str, ...]:
        """Of a number: texts that are neither numbers nor null tokens."""
        return tuple(t for t in self._no_numbers() if t not in self.nulls)

    def _no_numbers(self) -> list[str]:
        return [t for t in self.texts.filter(np.isnan(self.values)).to_pylist() if t]

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """Of a choice: its values in their most frequent spelling, in a natural order; negative
        ones first."""
        spelling: dict[str, str] = {}
        for text, _ in sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0])):
            if text not in self.nulls:
                spelling.setdefault(folded(text), text)
        return tuple(sorted(spelling.values(), key=_natural))


_NEGATIVE = re.compile(
    r"(no|none|not "
    r".*|non-.*|n|nein|false|f|absent|negative?|negativ|keine?|benign|control|healthy|alive|m0|0|ohne|without.*|non|nee)\b.*"
)


def _natural(text: str) -> tuple[bool, list[tuple[bool, float, str]]]:
    words = [w for w in re.split(r"(\d+)", folded(text)) if w]
    return not _NEGATIVE.fullmatch(folded(text)), [
        (not w.isdigit(), float(w) if w.isdigit() else 0.0, w) for w in words
    ]


_SHAPE = str.maketrans(dict.fromkeys("23456789", "1"))
"""Numbers of one shape, '52.7' and '31.4', are looked at once; a leading zero is another shape."""
_NUMERIC = re.compile(r"[+-]?\d[\d.,' \u00a0\u202f]*")
_COMMA = re.compile(r"[+-]?\d{1,3}((\.|'| )\d{3})+,\d+|[+-]?0,\d+|[+-]?\d+,(\d{1,2}|\d{4,})")
_POINT = re.compile(r"[+-]?\d{1,3}((,|'| )\d{3})+\.\d+|[+-]?0\.\d+|[+-]?\d+\.(\d{1,2}|\d{4,})")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([.,' ])\d{3}(?!\d)")


def notation(columns: Iterable[Sequence[str]]) -> tuple[Literal[".", ","], str]:
    """The decimal mark, and the mark between thousands ('' for none), that the columns of numbers
    seem to use."""
    comma, point, grouped = False, False, Counter[str]()
    for cells in columns:
        shapes = Counter(text.translate(_SHAPE) for text in dict.fromkeys(cells) if text)
        numeric = {shape for shape in shapes if _NUMERIC.fullmatch(shape)}
        numeric -= {shape for shape in numeric if shape.count(".") > 1 and _DATE.fullmatch(shape)}
        values = sum(n for shape, n in shapes.items() if shape in numeric or not looks_null(shape))
        if not numeric or sum(shapes[shape] for shape in numeric) < 0.8 * values:
            continue
        comma |= any(_COMMA.fullmatch(shape) for shape in numeric)
        point |= any(_POINT.fullmatch(shape) for shape in numeric)
        for shape in numeric:
            if thousands := _GROUPED.match(shape):
                grouped[thousands.group(1)] += shapes[shape]
    decimal: Literal[".", ","] = "," if comma and not point else "."
    grouped.pop(decimal, None)
    return decimal, grouped.most_common(1)[0][0] if grouped else ""


def limits(column: Column) -> dict[str, float]:
    """Of a number's strange texts, those that state a limit ('<0.5'), with it."""
    return {t: n for t in column.strange if (n := limit(t)) is not None}
