"""Column roles, guessed for a draft: which column names the hospital, which the patient, and which is
the label."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from client.table.cells import folded
from client.table.column_profile import MAYBE_A_VALUE, Codes, Column
from client.table.profile import Survey

CHECK = "  # guessed: check"

_ID = (
    r"^(pat(ient)?|subject|proband|case|pseudonym|fall)([ "
    r"_.-]?(id|nr|no|num|number|nummer|code|key))?\.?$", r"^(pid|mrn|id)$",
    r"(^|[ _.-])(id|nr|mrn|pid|nummer)\.?$", r"patient|subject|case|pseudonym|proband|fall",
)  # fmt: skip

_SITE = (
    r"^(site|hospital|center|centre|institution|institut|clinic|klinik|krankenhaus|zentrum|standort|h[oô]pital|ospedale|ziekenhuis)"
    r"([ _.-]?(id|code|name|nr|no))?$",
    r"hospital|klinik|krankenhaus|institution|tissue_source_site",
    r"^(?!.*(tum|primary|anatom|metast|biops|lesion|organ)).*(?<![a-z])(site|center|centre|zentrum|standort|facility)(?![a-z])",
)  # fmt: skip

_LABEL = (
    r"^(label|target|outcome|class|y|event|endpoint|zielgr[oö](ss|ß)e|ergebnis)$",
    r"^(label|target|outcome|ziel)", r"(fern)?metasta",
    r"^(m|c?p?m[ _.-]?(stage|status|categor.*)|m1|spread)$", r"response|ansprechen",
    r"recurrence|relapse|rezidiv|progress",
    r"^(primary[ _.-]?(tumou?r|cancer|type|origin)?|diagnos(is|e)|entit.*)$",
    r"vital|death|died|dead|deceased|gestorben",
)  # fmt: skip


def _first_match(
    patterns: Sequence[str], columns: Mapping[str, Column], fits: Callable[[Column], bool]
) -> str:
    """The first column whose name matches the earliest pattern, of those that fit; '' where there
    is none."""
    for pattern in patterns:
        for name, column in columns.items():
            if re.search(pattern, folded(name)) and fits(column):
                return name
    return ""


def site_column(surveyed: Survey, columns: Mapping[str, Column]) -> tuple[str, str]:
    """The column of the hospital, or '' and the line that takes it from the files' names."""
    site = _first_match(_SITE, columns, lambda c: 1 <= c.different <= max(2, len(c) // 2))
    if site:
        empty = columns[site].empty
        return site, CHECK + (
            f": it is empty in {empty} rows, to be filled in first" if empty else ""
        )
    if len(surveyed.files) > 1:
        return "", f"site_from_file = true{CHECK}: each file is a hospital"
    return "", ""


def patient_column(
    columns: Mapping[str, Column], site: str, hospitals: Codes | None
) -> tuple[str, str]:
    """The column of the patient: named like an id and different in each row, at least within a
    hospital; else the most different one."""
    inner = {n: c for n, c in columns.items() if n != site and not c.empty}

    def unique(c: Column) -> bool:
        return (c.different if hospitals is None else _pairs(c, hospitals)) == len(c)

    named = _first_match(_ID, inner, unique) or _first_match(
        _ID, inner, lambda c: c.different > 0.2 * len(c) and not _fraction(c)
    )
    if named:
        return named, CHECK
    unique_column = next((n for n, c in inner.items() if unique(c) and not _fraction(c)), "")
    if unique_column:
        return unique_column, f"{CHECK}: each row has another value"
    most_different = max(
        inner, key=lambda n: (not _fraction(inner[n]), inner[n].different), default=""
    )
    return most_different, f"{CHECK}: no column names each patient once"


def _fraction(c: Column) -> bool:
    values = c.values[~np.isnan(c.values)]
    return bool((values != np.floor(values)).any())


def _pairs(c: Column, hospitals: Codes) -> int:
    """How many different pairs of a hospital and a text of the column there are."""
    return len(np.unique(hospitals.astype(np.int64) * len(c.texts) + c.codes))


def repeated_rows(patient: Column, hospitals: Codes) -> list[str]:
    if patient.different == len(patient):
        return []
    if _pairs(patient, hospitals) == len(patient):
        return [f"id_per_site = true{CHECK}: ids count anew in each hospital"]
    return [f'duplicates = "agree"{CHECK}: several rows of a patient must then agree']


def label_column(columns: Mapping[str, Column], used: set[str]) -> str:
    def fits(c: Column) -> bool:
        return c.name not in used and c.kind == "choice" and 2 <= len(classes_of(c)[0]) <= 8

    binary = [n for n, c in columns.items() if fits(c) and len(classes_of(c)[0]) == 2]
    return _first_match(_LABEL, columns, fits) or (binary[-1] if binary else "")


_UNSURE = re.compile(
    r"c?p?mx|x|unknown|unclear|unsure|indeterminate|unklar|unbekannt|(not "
    r"|un)(assess|evalu).*|equivocal"
)


def ambiguous(null: str) -> bool:
    """Whether a null token may be a value in another column: it is then declared for its own
    column."""
    return re.fullmatch(r"[+-]?[0-9.,]+", null) is not None or folded(null) in MAYBE_A_VALUE


def classes_of(c: Column) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of a label in order, the event last, and the values that mean that it is not
    known."""
    unsure = [
        t for t in c.counts if _UNSURE.fullmatch(folded(t)) or (t in c.nulls and ambiguous(t))
    ]
    return tuple(t for t in c.levels if t not in unsure), tuple(unsure)
