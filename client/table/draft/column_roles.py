"""Column roles, guessed for a draft: which column names the hospital, which the patient, which is
the label, and which are a follow-up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.table.cells import folded
from client.table.draft.column_profile import LEVELS, MAYBE_A_VALUE, Codes, Column
from client.table.draft.profile import Survey
from common.study.outcomes import spelled, vital_status

CHECK = "  # guessed: check"

_NUMBER = r"(_?(submitter_)?(id|nr|no|num|number|nummer|code|key|barcode))?$"
_PERSON = (
    rf"(^|_)(pat(ient)?|subject|proband|person|participant|pseudonym){_NUMBER}",
    rf"(^|_)(cases?|fall){_NUMBER}", r"^(pid|mrn|upn|id)$",
)  # fmt: skip
_ID = r"(^|_)(id|nr|mrn|pid|nummer|uid|uuid|barcode|accession(_(no|nr|number))?)$"
_OF_SOMETHING_ELSE = (
    r"study|sample|specimen|probe|series|scan|exam|image|visit|slide|aliquot|accession|lesion|"
    r"encounter|row|record|follow_?up|diagnos|demograph|treatment|pathology|molecular|(^|_)tests?(_|$)"
)

_SITE = (
    r"^(site|hospital|center|centre|institution|institut|clinic|klinik|krankenhaus|zentrum|standort|h[oô]pital|ospedale|ziekenhuis)"
    r"(_(id|code|name|nr|no))?$",
    r"^(?!.*(stay|days|length|death|discharge|volume)).*(hospital(?!i[sz])|klinik|krankenhaus|institution|tissue_source_site)",
    r"^(?!.*(tum|primary|anatom|metast|biops|lesion|organ|icd|resection|origin|disease|topogr|cancer|margin)).*"
    r"(?<![a-z])(site|center|centre|zentrum|standort|facility)(?![a-z])",
)  # fmt: skip
_ANATOMY = re.compile(
    r"c\d\d(\.\d)?|(.*\b)?(colon|rect(um|al)|lungs?|liver|brain|breast|bones?|kidney|prostate|pancreas|"
    r"stomach|skin|ovary|cervix|bladder|thyroid|lobe|ca?ecum|sigmoid|left|right|proximal|distal)(\b.*)?"
)
"""Of a column's levels: parts of the body, or their codes in ICD-O."""

_OUTCOME = (
    r"^(label|target|outcome|class|y|event|endpoint|zielgr(oe|[oö])(ss|ß)e|ergebnis)$",
    r"^(label|target|outcome|ziel)", r"(fern)?metasta|(^|_)(distant|mets?)(_|$)",
    r"^[cpy]*m(_?(stage|status|categor.*))?$|^m1$|^spread$|(path|clin)[a-z]*_m(_|$)",
    r"new_tumou?r_event", r"response|ansprechen", r"recurrence|relapse|rezidiv|progress",
)  # fmt: skip
_LABEL = (
    *_OUTCOME,
    r"^(primary(_?(tumou?r|cancer|type|origin))?|diagnos(is|e)|entit.*)$",
    r"vital|death|died|dead|deceased|gestorben",
)  # fmt: skip
_TRAIT = (
    r"sex|gender|geschlecht|race|ethnic|smok|rauch|alcohol|alkohol|famil|marital|married|handed|"
    r"menopaus|country|language|insur"
)
"""Of people as they come: never what is to be predicted, unless somebody says so."""

_SPAN = r"(time|days?|months?|mos?|years?|yrs?|duration|weeks?)"
_ENDPOINT = (
    r"(os|dfs|pfs|rfs|efs|dss|css|dfi|pfi|mfs|dmfs|ttp|fu|surv(ival)?|follow_?up|death|event|"
    r"relapse|rec(urrence)?|progression|cens(or(ing)?)?|metastas[ie]s|disease_free)"
)
_TIME = re.compile(
    rf"^(time|duration|tte)(_{_SPAN})?$|(^|_)({_ENDPOINT}|[dsf])_?time(_{_SPAN})?$|"
    rf"(^|_){_ENDPOINT}_{_SPAN}$|(^|_)follow_?up(_|$)(?!stat)|"
    rf"^{_SPAN}_(to|until)_(event|death|recurrence|relapse|progression|last|follow|cens|metast)"
)
_EVENT = re.compile(
    rf"^(status|event|delta|cens[a-z]*|fustat|death|dead|died|deceased)$|vital|"
    rf"(^|_){_ENDPOINT}_?(status|stat|event|indicator|cens[a-z]*)$"
)


@dataclass(frozen=True)
class FollowUp:
    """A time, and the event that ends it ('' where none was found)."""

    time: str
    event: str


def follow_ups(columns: Mapping[str, Column]) -> tuple[FollowUp, ...]:
    """Times to an event by their names, each with its event: the one of its own name ('OS_MONTHS',
    'OS_STATUS'), else the first that is called an event or tells the living from the dead."""
    times = [n for n, c in columns.items() if c.kind == "number" and _TIME.search(spelled(n))]
    few = {n: c for n, c in columns.items() if c.kind == "choice" and len(c.levels) <= 3}
    events = [n for n, c in few.items() if _EVENT.search(spelled(n)) or vital_status(c.levels)]
    pairs: list[FollowUp] = []
    for time in times:
        paired = {pair.event for pair in pairs}
        own = [n for n in few if _stem(n) and _stem(n) == _stem(time) and n not in paired]
        free = [
            n for n in events if n not in paired and not any(_stem(n) == _stem(t) for t in times)
        ]
        free = free or [n for n in events if n not in paired and not _stem(n)]
        pairs.append(FollowUp(time, (own or free or [""])[0]))
    return tuple(pairs)


def _stem(name: str) -> str:
    """'os' of 'OS_MONTHS' and of 'OS_STATUS'; '' of 'time' and of 'status'."""
    word = re.sub(rf"(^|_)({_SPAN}|status|stat|event|to|until|in)(?=_|$)", "", spelled(name))
    return re.sub(r"(time|stat)$", "", word.strip("_"))


def names_rows(c: Column) -> bool:
    """Whether a column holds ids: of patients, examinations or rows."""
    name = spelled(c.name)
    if any(re.search(pattern, name) for pattern in _PERSON) and _persons(c):
        return True
    return bool(re.search(_ID, name)) and c.different > 0.5 * len(c) and not _fraction(c)


def _persons(c: Column) -> bool:
    """Whether a column that is called a person's id can be one: more of them than a vocabulary has
    ('case' is 0 or 1, too), however many rows each has."""
    return c.different > min(LEVELS, 0.2 * len(c)) and not _fraction(c)


def _first_match(
    patterns: Sequence[str], columns: Mapping[str, Column], fits: Callable[[Column], bool]
) -> str:
    """The first column whose name matches the earliest pattern, of those that fit; '' where there
    is none."""
    for pattern in patterns:
        for name, column in columns.items():
            if re.search(pattern, spelled(name)) and fits(column):
                return name
    return ""


def site_column(surveyed: Survey, columns: Mapping[str, Column]) -> tuple[str, str]:
    """The column of the hospital, or '' and the line that takes it from the files' names."""
    site = _first_match(_SITE, columns, _may_be_hospitals)
    if site:
        empty = columns[site].empty
        return site, CHECK + (
            f": it is empty in {empty} rows, to be filled in first" if empty else ""
        )
    if len(surveyed.files) > 1:
        return "", f"site_from_file = true{CHECK}: each file is a hospital"
    return "", ""


def _may_be_hospitals(c: Column) -> bool:
    """Few different ones, and no parts of the body."""
    if c.kind == "empty" or not 1 <= c.different <= max(2, len(c) // 2):
        return False
    texts = list(c.counts)
    return 2 * sum(bool(_ANATOMY.fullmatch(folded(t))) for t in texts) <= len(texts)


def patient_column(
    columns: Mapping[str, Column], site: str, hospitals: Codes | None
) -> tuple[str, str]:
    """The column of the patient, or '': named like a person's id, then like any other id, then
    codes that differ in each row. A number that is called otherwise is a measurement, however many
    different values it has."""
    inner = {n: c for n, c in columns.items() if n != site and not c.empty}

    def unique(c: Column) -> bool:
        return (c.different if hospitals is None else _pairs(c, hospitals)) == len(c)

    def names(c: Column) -> bool:
        return unique(c) or (c.different > 0.2 * len(c) and not _fraction(c))

    def codes(c: Column) -> bool:
        return unique(c) and c.kind == "text" and all(re.search(r"\d", t) for t in c.counts)

    own = {n: c for n, c in inner.items() if not re.search(_OF_SOMETHING_ELSE, spelled(n))}
    named = (
        _first_match(_PERSON, inner, lambda c: unique(c) or _persons(c))
        or _first_match((_ID,), own, names)
        or _first_match((_ID,), inner, unique)
    )
    if named:
        return named, CHECK
    coded = next((n for n, c in inner.items() if codes(c)), "")
    if coded:
        return coded, f"{CHECK}: each row has another value"
    return "", f"{CHECK}: no column names the patient, so each row counts as a patient of its own"


def _fraction(c: Column) -> bool:
    values = c.values[~np.isnan(c.values)]
    return bool((values != np.floor(values)).any())


def _pairs(c: Column, hospitals: Codes) -> int:
    """How many different pairs of a hospital and a text of the column there are."""
    return len(np.unique(hospitals.astype(np.int64) * len(c.texts) + c.codes))


def repeated_rows(patient: Column, hospitals: Codes | None) -> list[str]:
    if patient.different == len(patient):
        return []
    # a few ids that two hospitals share are people who went to both
    common = patient.different < 0.8 * len(patient)
    if common and hospitals is not None and _pairs(patient, hospitals) == len(patient):
        return [f"id_per_site = true{CHECK}: ids count anew in each hospital"]
    several = sum(rows > 1 for rows in patient.counts.values())
    return [f'duplicates = "agree"{CHECK}: {several} patients have several rows, which must agree']


def label_column(
    columns: Mapping[str, Column], used: set[str], pairs: Sequence[FollowUp]
) -> tuple[str, str]:
    """The column of the label and why it was taken, or '' and why there is none. Outcomes come by
    their names; no part of a follow-up is a class, and no other column stands in for a number that
    is called an outcome."""
    followed = {name for pair in pairs for name in (pair.time, pair.event) if name}
    open_columns = {n: c for n, c in columns.items() if n not in used | followed}

    def fits(c: Column) -> bool:
        deaths = bool(pairs) and vital_status(c.levels)
        return c.kind == "choice" and 2 <= len(classes_of(c)[0]) <= 8 and not deaths

    label = _first_match(_LABEL, open_columns, fits)
    if label:
        return label, "what is to be predicted"
    number = _first_match(_OUTCOME, open_columns, lambda c: c.kind == "number")
    if number:
        return "", f"{number!r} is called an outcome and holds numbers; make classes of it first"
    if any(pair.event for pair in pairs):
        return "", "a time and its event are no class; make one at a horizon first"
    binary = [
        n
        for n, c in open_columns.items()
        if fits(c) and len(classes_of(c)[0]) == 2 and not re.search(_TRAIT, spelled(n))
    ]
    if binary:
        return binary[-1], "what is to be predicted; the last column of two values"
    return "", "no column with a few values looks like the label"


def other_outcome(name: str) -> bool:
    """Whether a column is called an outcome: one is never an input for another."""
    return any(re.search(pattern, spelled(name)) for pattern in _OUTCOME)


_UNSURE = re.compile(
    r"[cpy]*[tnm]x|x|unknown|unclear|unsure|indeterminate|unklar|unbekannt|(not "
    r"|un)(assess|evalu).*|equivocal"
)
_CATEGORY = re.compile(r"[cpy]*([tnm])\s?(\d)([a-d]\d?|\s?\(?i[+-]\)?)?")
"""'pM1a', 'N1b', 'cM0(i+)': a part of the stage, its category, and a subdivision of it."""


def ambiguous(null: str) -> bool:
    """Whether a null token may be a value in another column: it is then declared for its own
    column."""
    return re.fullmatch(r"[+-]?[0-9.,]+", null) is not None or folded(null) in MAYBE_A_VALUE


def classes_of(c: Column) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The classes of a label with their texts, the event last, and the texts that mean that it is
    not known. Subdivisions of a category (M1a, M1b) are one class."""
    unsure = tuple(
        t for t in c.counts if _UNSURE.fullmatch(folded(t)) or (t in c.nulls and ambiguous(t))
    )
    texts = [t for t in c.levels if t not in unsure]
    categories = [_CATEGORY.fullmatch(folded(t)) for t in texts]
    parts = {m.group(1) for m in categories if m is not None}
    classes: dict[str, tuple[str, ...]] = {}
    for text, category in zip(texts, categories, strict=True):
        name = text
        if category is not None and None not in categories and len(parts) == 1:
            name = (category.group(1) + category.group(2)).upper()
        classes[name] = (*classes.get(name, ()), text)
    return classes, unsure
