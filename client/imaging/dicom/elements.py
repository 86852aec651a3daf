"""DICOM data elements: values from the bytes that stand in the file, and quiet around the parser.

pydicom would turn each value into what the standard says it is, and warn or raise where a scanner
wrote something else. Here an empty string, a list where one number belongs or a broken number is
nothing (None, '' or ()), and costs that attribute alone.
"""

from __future__ import annotations

import datetime
import math
import re
import struct
import threading
import warnings
from typing import TYPE_CHECKING, Any

from client.imaging.dicom import tags

if TYPE_CHECKING:
    from pydicom import Dataset

_DAY = re.compile(
    r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)"
    r"(?:[ T]?\d\d(?::?\d\d){0,2}(?:\.\d*)?)?(?:[+-][01]\d:?\d\d)?",
    re.ASCII,
)
"""A day, and the time and the zone that may stand behind it."""


class _Quiet:
    """Silences the warnings of a parser that is shown strange files; for several threads at once,
    which `catch_warnings` is not."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._kept = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._kept = warnings.catch_warnings()
                self._kept.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._kept.__exit__(None, None, None)


quiet = _Quiet()


class Elements:
    """A dataset's values from their bytes: what is absent, empty or malformed is None, '' or ()."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._elements: dict[int, Any] = {
            int(tag): element for tag, element in dataset.items()
        }  # as they are, none converted

    def _value(self, tag: int) -> Any:
        """What the file holds: bytes, unless pydicom had to turn them into something already."""
        return getattr(self._elements.get(tag), "value", None)

    def holds(self, tag: int) -> bool:
        value = self._value(tag)
        return bool(value.strip(b" \0^")) if isinstance(value, bytes) else bool(value)

    def text(self, tag: int) -> str:
        value = self._value(tag)
        if not isinstance(value, bytes):
            return str(value or "").strip(" \0")
        if value.isascii():
            return value.decode("ascii").strip(" \0")
        try:
            return str(self.dataset[tag].value).strip(" \0")
        except Exception:  # an unknown character set must not cost the file
            return value.decode("latin-1").strip(" \0")

    def words(self, tag: int) -> tuple[str, ...]:
        return tuple(w for w in (part.strip(" \0") for part in self.text(tag).split("\\")) if w)

    def decimals(self, tag: int) -> tuple[float, ...]:
        """Of a DS or IS; () when any part is no number."""
        try:
            values = tuple(float(w) for w in self.words(tag))
        except ValueError:
            return ()
        return values if all(map(math.isfinite, values)) else ()

    def decimal(self, tag: int) -> float | None:
        values = self.decimals(tag)
        return values[0] if values else None

    def whole(self, tag: int) -> int | None:
        value = self.decimal(tag)
        return None if value is None else int(value)

    def packed(self, tag: int, form: str) -> tuple[Any, ...]:
        """Of a binary VR: `form` is struct's letter (H for US, h for SS, I for UL, d for FD)."""
        value = self._value(tag)
        if not isinstance(value, bytes):
            return ()
        little_endian, size = self._elements[tag].is_little_endian, struct.calcsize(form)
        return struct.unpack(
            f"{'<' if little_endian else '>'}{len(value) // size}{form}",
            value[: len(value) // size * size],
        )

    def short(self, tag: int, default: int = 0) -> int:
        values = self.packed(tag, "H")
        return int(values[0]) if values else default

    def day(self, *some_tags: int) -> str:
        """YYYY-MM-DD of the first tag that holds anything, a DA or a DT; '?' where that is no date,
        a range of dates or several, '' where none holds anything."""
        text = next((self.text(tag) for tag in some_tags if self.holds(tag)), "")
        match = _DAY.fullmatch(text)
        if match is None:
            return "?" if text else ""
        year, month, day = map(int, match.groups())
        try:
            return datetime.date(year, month, day).isoformat()
        except ValueError:
            return "?"

    def items(self, tag: int) -> list[Elements]:
        if tag not in self._elements:
            return []
        try:
            value = self.dataset[tag].value
            return [Elements(item) for item in value] if value else []
        except Exception:  # a sequence that cannot be parsed says nothing
            return []

    def first(self, tag: int) -> Elements | None:
        items = self.items(tag)
        return items[0] if items else None

    def double(self, tag: int) -> float | None:
        """Of an FD."""
        values = self.packed(tag, "d")
        return float(values[0]) if values and math.isfinite(values[0]) else None

    def point(self) -> tuple[float, float, float] | None:
        """ImagePositionPatient: LPS mm of the first pixel's centre."""
        v = self.decimals(tags.POSITION)
        return (v[0], v[1], v[2]) if len(v) == 3 else None

    def cosines(self) -> tuple[float, ...] | None:
        """ImageOrientationPatient: along a row, then along a column."""
        v = self.decimals(tags.ORIENTATION)
        return v if len(v) == 6 else None

    def spacing(self) -> tuple[float, float] | None:
        """PixelSpacing: mm between rows, between columns. What no scanner has (a micrometre, a
        decimetre) is nothing."""
        v = self.decimals(tags.SPACING)
        return (v[0], v[1]) if len(v) == 2 and min(v) >= 1e-3 and max(v) <= 100 else None

    def frames(self) -> int:
        return max(1, self.whole(tags.FRAMES) or 1)
