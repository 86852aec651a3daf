"""Cell parsing, one cell of text to one value: strict numbers, units, vocabularies. What cannot be
read is told apart, never turned into missing."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_PLAIN = frozenset("0123456789.+-eE")

_SCALES: tuple[dict[str, float], ...] = (
    {"days": 1, "weeks": 7, "months": 365.25 / 12, "years": 365.25, "hours": 1 / 24},
    {"pg/ml": 1e-3, "ng/l": 1e-3, "ng/ml": 1, "ug/l": 1, "ng/dl": 1e-2, "ug/dl": 10, "ug/ml": 1e3,
    "mg/l": 1e3, "mg/dl": 1e4,
    "g/l": 1e6, "g/dl": 1e7},
    {"um": 1e-3, "mm": 1, "cm": 10, "m": 1e3, "inches": 25.4},
    {"mg": 1e-6, "g": 1e-3, "kg": 1, "lb": 0.45359237},
    {"mm3": 1e-3, "ul": 1e-3, "ml": 1, "cm3": 1, "cc": 1, "dl": 100, "l": 1e3},
    {"fraction": 1, "%": 0.01},
    {"pmol/l": 1e-6, "nmol/l": 1e-3, "umol/l": 1, "mmol/l": 1e3, "mol/l": 1e6},
    {"u/ml": 1, "ku/l": 1, "u/l": 1e-3, "iu/ml": 1, "iu/l": 1e-3, "miu/ml": 1e-3},
)  # fmt: skip
"""Units of one quantity share a dictionary: factor to a common unit. A month is a twelfth of a
Julian year."""

_ALIASES = {
    "day": "days", "d": "days", "week": "weeks", "month": "months", "mo": "months", "year": "years",
    "yr": "years", "yrs": "years",
    "y": "years",
    "hour": "hours", "h": "hours", "percent": "%", "pct": "%", "inch": "inches", "in": "inches",
    "lbs": "lb", "millimetre": "mm",
    "millimeter": "mm",
    "centimetre": "cm", "centimeter": "cm", "cubic mm": "mm3", "mm^3": "mm3", "cm^3": "cm3",
    "gram": "g", "grams": "g",
    "proportion": "fraction",
}  # fmt: skip

_TRUE, _FALSE = frozenset({"true", "1", "yes", "y", "t"}), frozenset({"false", "0", "no", "n", "f"})
_NULL_LOOK = frozenset({
    "na", "n/a", "n.a.", "nan", "null", "none", "nil", "-", "--", "'--", ".", "?", "unknown", "unk",
    "missing", "not reported",
    "not available", "nd",
    "n.d.", "not applicable", "not evaluated", "[not available]", "[not applicable]", "[unknown]",
    "[not evaluated]", "#n/a", "#ref!",
    "#value!", "#div/0!",
    "-9", "-99", "-999", "-9999", "-1.#ind", "k.a.", "keine angabe",
})  # fmt: skip


def folded(text: str) -> str:
    """The form in which values are compared: case and runs of white space do not count, '1.0' is
    '1'."""
    spelling = " ".join(text.split()).casefold()
    return (
        spelling[: -len(spelling.lstrip("+-0123456789"))]
        if re.fullmatch(r"[+-]?\d+\.0+", spelling)
        else spelling
    )


def looks_null(text: str) -> bool:
    """Whether an undeclared value is one that tables commonly use for `missing`: for the wording of
    errors only."""
    return folded(text) in _NULL_LOOK


def limit(text: str) -> float | None:
    """The limit that '<0.5', '> 100' or '≥1,2' states; None for anything else."""
    match = re.fullmatch(r"\s*(?:[<>]=?|[≤≥])\s*([0-9]+(?:[.,][0-9]+)?)\s*", text)
    return float(match.group(1).replace(",", ".")) if match else None


def number(text: str, decimal: str = ".", thousands: str = "") -> float | None:
    """A finite number in the declared notation, or None: no undeclared thousands separators, no
    'inf', no '<5', no '1_000'."""
    text = text.strip()
    if thousands == " ":
        text = text.replace("\u00a0", " ").replace("\u202f", " ")
    if thousands and thousands in text:
        integer, point, fraction = text.partition(decimal)
        if not re.fullmatch(rf"[+-]?[0-9]{{1,3}}({re.escape(thousands)}[0-9]{{3}})+", integer) or (
            point and not fraction
        ):
            return None
        text = integer.replace(thousands, "") + point + fraction
    if decimal == ",":
        if "." in text:
            return None
        text = text.replace(",", ".")
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if abs(value) < float("inf") else None


def numbers(texts: Sequence[str], decimal: str = ".", thousands: str = "") -> list[float | None]:
    """`number` of each text; the usual case, where nothing but plain numbers is there, in one
    pass."""
    if decimal == "." and _PLAIN.issuperset("".join(texts)):
        try:
            values = [float(text) for text in texts]
        except ValueError:
            pass
        else:
            if max(map(abs, values), default=0.0) < float("inf"):
                return list(values)
    return [number(text, decimal, thousands) for text in texts]


def unit(text: str) -> str:
    """The canonical spelling of a unit: 'µg/L', 'mcg/l' and 'ug/L' are one."""
    spelling = (
        " ".join(text.split()).casefold().replace("µ", "u").replace("μ", "u").replace("mcg", "ug")
    )
    return _ALIASES.get(spelling, spelling)


def factor(source: str, target: str) -> float | None:
    """What values in `source` are multiplied by to be in `target`; None where the pair is not
    known."""
    a, b = unit(source), unit(target)
    if a == b:
        return 1.0
    return next((scale[a] / scale[b] for scale in _SCALES if a in scale and b in scale), None)


def known_unit(text: str) -> bool:
    return any(unit(text) in scale for scale in _SCALES)


def header_unit(name: str) -> str | None:
    """The unit that a column's name itself states: in brackets, or as its ending ('size_mm',
    'cea_ng_ml') or beginning ('days_to_x')."""
    bracket = re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", name)
    if bracket:
        text = bracket.group(1).strip()
        return text if known_unit(text) or "/" in text else None
    words = re.split(r"[\s_.]+", name.strip().casefold())
    if len(words) > 2 and known_unit("/".join(words[-2:])):
        return "/".join(words[-2:])
    # one-letter units ('m', 'd') are as often something else, and so is 'in'
    if len(words) > 1 and len(words[-1]) > 1 and words[-1] != "in" and known_unit(words[-1]):
        return words[-1]
    if len(words) > 2 and words[1] in ("to", "since", "from") and unit(words[0]) in _SCALES[0]:
        return words[0]
    return None


_SUSPECTS: dict[str, tuple[tuple[float, str], ...]] = {
    "years": ((12, "looks like months"), (365.25, "looks like days")),
    "months": ((365.25 / 12, "looks like days"), (1 / 12, "looks like years")),
    "days": ((1 / 365.25, "looks like years"), (12 / 365.25, "looks like months")),
    "cm": ((10, "looks like mm"), (0.01, "looks like m")),
    "mm": ((0.1, "looks like cm"),),
    "kg": ((1000, "looks like g"),),
    "fraction": ((100, "looks like per cent"),),
    "%": ((0.01, "looks like a fraction"),),
}


def suspect(values: Sequence[float], low: float, high: float, declared: str) -> str:
    """A hint when out-of-bounds values would mostly be inside after a change of unit; ''
    otherwise."""
    general = tuple(
        (f, f"looks like another unit: divided by {f:g}, most are inside")
        for f in (10.0, 100.0, 1000.0)
    )
    for divisor, hint in (*_SUSPECTS.get(unit(declared), ()), *general):
        if values and sum(low < v / divisor <= high for v in values) >= 0.8 * len(values):
            return hint
    return ""


class Vocabulary:
    """Source values -> positions in a closed list, whatever their case; booleans match '0'/'1',
    'no'/'yes', 'false'/'true'."""

    def __init__(
        self, values: Sequence[str], mapping: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        self.names = tuple(values)
        self._at: dict[str, int] = {}
        for i, value in enumerate(values):
            for text in (value, *(mapping or {}).get(value, ())):
                self._at.setdefault(folded(text), i)
        truths = {i for text, i in self._at.items() if text in _TRUE}
        falses = {i for text, i in self._at.items() if text in _FALSE}
        if len(truths) == len(falses) == 1 and truths != falses:
            for text in _TRUE:
                self._at.setdefault(text, next(iter(truths)))
            for text in _FALSE:
                self._at.setdefault(text, next(iter(falses)))

    def index(self, text: str) -> int | None:
        """The position of a value, or None when it is not in the vocabulary."""
        return self._at.get(folded(text))

    def known(self) -> list[str]:
        return sorted(self._at)


def text_of(cell: object, decimal: str = ".") -> str:
    """A cell of a workbook or a Parquet file as text: whole floats without '.0', dates in ISO form,
    nothing as ''."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        if math.isnan(cell):
            return ""
        whole = cell.is_integer() and abs(cell) < 1e15
        return str(int(cell)) if whole else repr(cell).replace(".", decimal)
    if isinstance(cell, datetime.datetime):
        return (
            cell.date().isoformat() if cell.time() == datetime.time() else cell.isoformat(sep=" ")
        )
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell).strip()
