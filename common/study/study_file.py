"""Study file, a study of one's own in TOML: the schema, and where the table holds it.
`docs/own-study.md` explains it by examples.

The file becomes a Study whose `source` is a mapping in the form of `client/table/sources/*.toml`;
every fault of the file is named at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo
from pydantic_core import PydanticKnownError

from common.data.schema import Choice, Feature, Label, Number, Schema, Survival
from common.runtime import settings
from common.runtime.settings import (
    BrokenRules,
    Cell,
    Cells,
    Listed,
    Name,
    Names,
    Nulls,
    OneOrMore,
    Pattern,
    Rule,
    Settings,
    Values,
    Whole,
    several,
)
from common.study.image_sections import ImagesSpec, ImagingSection
from common.study.study import Study, Task

ANY_TABLE = (
    "*.csv", "*.tsv", "*.txt", "*.csv.gz", "*.tsv.gz", "*.txt.gz", "*.data", "*.xlsx", "*.xls",
    "*.parquet", "*.sav", "*.zsav", "*.por", "*.dta", "*.sas7bdat", "*.xpt",
)  # fmt: skip
"""What is read where the file does not name its table: every table under the data folder."""

Kind = Literal["number", "choice"]


def _inside(name: str) -> str:
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise ValueError(
            "must be a name or a pattern inside the data folder (give the folder, or the file, as "
            "--data)"
        )
    return name


def _times(info: ValidationInfo) -> tuple[str, ...]:
    """The file's prediction times; none where these are wrong themselves."""
    return info.context["times"] if info.context else ()


def _moment(time: str, info: ValidationInfo) -> str:
    times = _times(info)
    if times and time not in times:
        raise ValueError(f"is none of the times {', '.join(times)}")
    return time


def _known_from(time: str, info: ValidationInfo) -> str:
    """A feature says when it is known, where there are several times."""
    times = _times(info)
    if not time and len(times) == 1:
        return times[0]
    if not time and times:
        raise PydanticKnownError("missing")
    return _moment(time, info)


def _learner(name: str) -> str:
    from common.federated import learner

    if name not in learner.names():
        raise ValueError(f"is unknown; there are {', '.join(learner.names())}")
    return name


KnownFrom = Annotated[str, AfterValidator(_known_from), Field(validate_default=True)]
Learner = Annotated[str, AfterValidator(_learner)]


def _no_nested(value: Any) -> Any:
    if isinstance(value, list | tuple) and any(isinstance(v, list | tuple) for v in value):
        raise ValueError(
            "holds a list in a list; where several texts stand for a class, write class = texts: "
            'values = { none = ["0"], disease = ["1", "2"] }'
        )
    return value


def _form(value: Any) -> str:
    return "a table" if isinstance(value, Mapping) else "a list"


def _form_of_texts(value: Any) -> str:
    return "a list" if isinstance(value, list | tuple) else "a text"


def _header(value: Any) -> Any:
    """No rows, for a table without a header, are written as `false`; a list of none is a slip."""
    if value is False or (isinstance(value, tuple) and not value):
        return ()
    rows = several(value)
    wrong = [repr(row)[:80] for row in rows if type(row) is not int or row < 1]
    if wrong or not rows:
        named = f", not {', '.join(wrong)}" if isinstance(value, list | tuple) and wrong else ""
        raise ValueError(
            f"must be the number of the header's row, from 1, or a list of them{named}; "
            "header = false for a table that has none"
        )
    return rows


HeaderRows = Annotated[
    Listed[Whole],
    BeforeValidator(_header, json_schema_input_type=Whole | list[Whole] | Literal[False]),
]
_Texts = Annotated[
    Annotated[Cell, Tag("a text")] | Annotated[Listed[Cell], Tag("a list")],
    Discriminator(_form_of_texts),
]
_ByClass = Annotated[
    Annotated[Cells, Tag("a list")] | Annotated[Mapping[str, _Texts], Tag("a table")],
    Discriminator(_form),
    BeforeValidator(_no_nested),
]


def _pairs(
    values: Mapping[str, str | tuple[str, ...]], names: Iterable[str]
) -> dict[str, list[str]]:
    """`{study value = [table values]}`, written so or as `{table value = study value}`. ValueError
    for what names neither."""
    known = tuple(names)
    out: dict[str, list[str]] = {}
    for key, value in values.items():
        texts = several(value)
        if key in known:
            out.setdefault(key, []).extend(texts)
        elif len(texts) == 1 and texts[0] in known:
            out.setdefault(texts[0], []).append(key)
        else:
            raise ValueError(
                f"has {key} = {', '.join(texts)!r}, which names none of the study's values "
                f"{', '.join(known)}"
            )
    return out


@dataclass(frozen=True, kw_only=True)
class TableForm(Settings):
    """How a table of one's own is laid out."""

    sheet: str | None = None
    """worksheet; without it: the first that is not hidden"""
    header: HeaderRows = (1,)
    """number of the header row, or a list of rows, joined by ` / `; `false`: there is none, and the
    columns are called `1`, `2`, ..."""
    comment: str = ""
    """lines that start with it are skipped"""
    delimiter: str = ""
    """between columns; without it: found"""
    encoding: str = "utf-8"
    """of a text file; `latin-1` for old exports"""
    decimal: Literal[".", ","] = "."
    """`,` for a decimal comma"""
    thousands: Literal["", ",", ".", " ", "'"] = ""
    """mark between groups of three digits; without it `1,234` is an error"""
    join: Annotated[str, AfterValidator(_inside)] = ""
    """a table beside it that has several rows a patient (cBioPortal's `data_clinical_sample.txt`):
    its columns are added by the patient's id; a value counts where all rows of a patient agree"""
    person: str = ""
    """a column that knows people across hospitals; one person under two ids is refused (L04)"""
    id_per_site: bool = False
    """ids count anew in each hospital; a patient is then called `hospital: id`"""

    def faults(self) -> Iterator[Rule]:
        if self.thousands == self.decimal:
            yield "thousands", f"and decimal are both '{self.decimal}'; correct one of them"


@dataclass(frozen=True)
class KeepSection(Settings):
    """`[[keep]]`"""

    column: str
    """the column that is looked at"""
    values: Cells
    """rows with one of these are kept"""
    reason: str = ""
    """why patients without such a row are excluded, in the account of the patients"""


@dataclass(frozen=True)
class LabelSection(Settings):
    """`[label]`"""

    column: str
    """the column of the label"""
    name: str = ""
    """what is predicted; without it: the column's name"""
    classes: Annotated[Cells, Field(min_length=2)] = ()
    """the first is the reference, the last of two the event; without them: the `values`"""
    values: _ByClass = ()
    """what stands in the table, in the order of the classes, or a table of class = values"""
    unknown: Cells = ()
    """neither: kept apart, never trained on, never scored"""
    title: str = ""
    """how the report calls it"""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes: declared, or the keys of `values` over lists, or else its distinct values in
        order."""
        if self.classes or not isinstance(self.values, Mapping):
            return self.classes or tuple(self.values)
        single = [text for text in self.values.values() if isinstance(text, str)]
        return (
            tuple(dict.fromkeys(single)) if len(single) == len(self.values) else tuple(self.values)
        )

    def faults(self) -> Iterator[Rule]:
        if not self.names:
            yield (
                "",
                "needs 'values', the two or more values of its column (the first is the "
                "reference, the last of two the event)",
            )
        try:
            self.mapped()
        except ValueError as error:
            yield "values", str(error)

    def mapped(self) -> dict[str, list[str]]:
        """Class -> what stands for it in the table."""
        if isinstance(self.values, Mapping):
            return _pairs(self.values, self.names)
        raws = self.values or self.names
        if len(raws) != len(self.names):
            raise ValueError(
                f"are {len(raws)} for {len(self.names)} classes ({', '.join(self.names)}); give a "
                "value for each class"
            )
        return {name: [raw] for name, raw in zip(self.names, raws, strict=True)}


@dataclass(frozen=True, kw_only=True)
class FeatureForm(Settings):
    """`[[feature]]`"""

    name: Name
    """by which the study knows it"""
    column: str = ""
    """the column's name, where it differs"""
    nulls: Nulls = ()
    """texts that mean missing in this column alone"""
    available_at: KnownFrom = ""
    """from which of the `times` it is known"""
    title: str = ""
    """how the report calls it"""
    not_an_outcome: str = ""
    """why guard L02 does not apply to it; printed in the report"""

    def mapped(self) -> dict[str, Any]:
        """The feature as a mapping has it."""
        return {
            "column": self.column or self.name,
            "nulls": self.nulls,
            "not_an_outcome": self.not_an_outcome,
        }


@dataclass(frozen=True)
class NumberSection(FeatureForm):
    """`[[feature]]` of `kind = "number"`"""

    unit: str
    """its unit in the study"""
    low: float
    """outside `low` to `high` a value is an error, not an outlier"""
    high: float
    """see `low`"""
    kind: Kind = "number"
    """`number`, or `choice`, which is one with `values`"""
    column_unit: str = ""
    """the unit in the table, where it differs; converted"""
    unit_column: str = ""
    """a column in which each row states its unit"""
    decimal: Literal["", ".", ","] = ""
    """the mark before decimals in this column, where it is not the table's"""
    scale: Literal["linear", "log"] = "linear"
    """`log` for a skewed one"""
    map: Mapping[str, float] = field(default_factory=dict)
    """text in the table = the number that stands for it, in the column's unit: `{ "<0.5" = 0.25
    }`"""
    out_of_range: Literal["error", "missing"] = "error"
    """a value outside the bounds: `error`, or `missing` (counted)"""

    @property
    def declared(self) -> Feature:
        return Number(
            self.name, self.unit, self.low, self.high, self.available_at, self.scale, self.title
        )

    def mapped(self) -> dict[str, Any]:
        values: dict[str, list[str]] = {}
        for text, value in self.map.items():
            values.setdefault(repr(float(value)), []).append(text)
        unit = {"unit": self.column_unit or self.unit, "unit_column": self.unit_column}
        return {
            **super().mapped(),
            **unit,
            "decimal": self.decimal,
            "values": values,
            "out_of_range": self.out_of_range,
        }


@dataclass(frozen=True)
class ChoiceSection(FeatureForm):
    """`[[feature]]` of `kind = "choice"`"""

    values: Cells
    """its closed vocabulary; a feature that has one is a choice"""
    kind: Kind = "choice"
    """`choice`"""
    ordered: bool = False
    """the values are grades, in order"""
    map: Values = field(default_factory=dict)
    """`{ table value = "study value" }` or `{ "study value" = ["table value", ...] }`"""

    def faults(self) -> Iterator[Rule]:
        try:
            self.mapped()
        except ValueError as error:
            yield "map", str(error)

    @property
    def declared(self) -> Feature:
        return Choice(self.name, self.values, self.available_at, self.ordered, self.title)

    def mapped(self) -> dict[str, Any]:
        return {**super().mapped(), "values": _pairs(self.map, self.values)}


def _kind(raw: Any) -> str:
    kind = (
        raw.get("kind", "choice" if "values" in raw else "number")
        if isinstance(raw, Mapping)
        else ""
    )
    return "a choice" if kind == "choice" else "a number"


FeatureSection = Annotated[
    Annotated[NumberSection, Tag("a number")] | Annotated[ChoiceSection, Tag("a choice")],
    Discriminator(_kind),
]


@dataclass(frozen=True)
class TaskSection(Settings):
    """`[task.NAME]`"""

    time: Annotated[str, AfterValidator(_moment)] = ""
    """its prediction time, one of `times`; without it: the task's own name, or the only one"""
    caution: str = ""
    """printed on page 1 of the report"""
    alarm: float | None = None
    """a higher AUC is said to be implausible"""


@dataclass(frozen=True)
class SurvivalSection(Settings):
    """`[survival]`: described by Kaplan-Meier curves, never an input"""

    time: Names
    """the column of the time, or several: the first that is known counts"""
    event: str
    """the column that says who died"""
    unit: str
    """of the time"""
    horizon: float
    """the last time shown"""
    dead: Cells
    """the event's values for death"""
    alive: Cells
    """the event's values for life"""
    name: str = "survival"
    """how the report calls it"""


def _timed(tasks: Mapping[str, TaskSection], info: ValidationInfo) -> Mapping[str, TaskSection]:
    """Each with its prediction time."""
    times = _times(info)
    out, faults = {}, []
    for name, task in tasks.items():
        time = task.time or (name if name in times else times[0] if len(times) == 1 else "")
        if times and not time:
            faults.append(("", f"{name} lacks 'time', one of {', '.join(times)}"))
        out[name] = replace(task, time=time)
    if faults:
        raise BrokenRules(*faults)
    return out


@dataclass(frozen=True)
class StudyFile(TableForm):
    """The file"""

    id: str
    """column that names the patient; `""`: none does, and each row counts as a patient"""
    label: LabelSection
    """`[label]`: what is predicted"""
    feature: Listed[FeatureSection]
    """`[[feature]]`: what it is predicted from"""
    name: str = ""
    """of the study; without it: the file's"""
    question: str = ""
    """in words, for the report"""
    table: Annotated[Listed[Annotated[str, AfterValidator(_inside)]], OneOrMore] = ANY_TABLE
    """file name or pattern, or a list; without it: every table under the data folder"""
    site: str = ""
    """column that names the hospital; without it: one hospital"""
    site_from_file: bool = False
    """the file's name is the hospital's, or its folder's where all files are called alike"""
    nulls: Nulls = ()
    """what means missing, whatever its case; an empty cell always does"""
    duplicates: Literal["error", "quarantine", "agree"] = "error"
    """several rows of a patient: `error`, `quarantine` (set aside and counted) or `agree` (rows
    must agree, else set aside)"""
    keep: Listed[KeepSection] = ()
    """`[[keep]]`: only rows with one of these values"""
    times: Annotated[Listed[Name], Field(min_length=1)] = ("baseline",)
    """prediction times in order, where there are several"""
    task: Annotated[Mapping[str, TaskSection], AfterValidator(_timed)] = field(default_factory=dict)
    """`[task.NAME]`: prediction times with what is said beside them; without any: one for each
    time"""
    survival: SurvivalSection | None = None
    """`[survival]`: a follow-up, for the report"""
    imaging: ImagingSection | None = None
    """`[imaging]`: what the study looks at, and how it is prepared; without it: no images"""
    images: ImagesSpec = ImagesSpec()
    """`[images]`: how image files name their patients, and which examination is meant"""
    learners: Listed[Learner] = ("logistic", "boosting")
    """that answer the question, in order"""
    hyper: Mapping[Learner, Mapping[str, Any]] = field(default_factory=dict)
    """`[hyper.LEARNER]`: hyperparameters that differ from the learner's defaults"""
    clinical: str | None = None
    """the learner reported as the clinical model"""
    denied: Listed[Pattern] = ()
    """regular expressions of columns and features that are outcomes (L02)"""
    virtual: str = ""
    """where sites are no hospitals: the sentence that says so on page 1"""

    def faults(self) -> Iterator[Rule]:
        yield from super().faults()
        if self.site and self.site_from_file:
            yield "site", "and site_from_file exclude each other"
        if self.id_per_site and not (self.site or self.site_from_file):
            yield (
                "id_per_site",
                "needs to know the hospital: name its column (site = ...) or declare "
                "site_from_file = true",
            )
        if self.imaging is None and self.images != ImagesSpec():
            yield "images", "says how files are read, but the study looks at none: add [imaging]"
        if self.clinical is not None and self.clinical not in self.learners:
            yield "clinical", f"is none of the learners {', '.join(self.learners)}"

    def faults_beside(self, written: frozenset[str]) -> Iterator[Rule]:
        if "images" in written and self.images == ImagesSpec():
            yield "", "has an empty [images]: say how image files name patients, or leave it out"

    def mapped(self, name: str) -> dict[str, Any]:
        """Where the table holds what the schema asks for: a mapping, in the form of its TOML
        file."""
        rows = (
            {"rows": "agree"}
            if self.duplicates == "agree"
            else {"rows": "one", "duplicates": self.duplicates}
        )
        form = {
            f.name: getattr(self, f.name)
            for f in fields(TableForm)
            if getattr(self, f.name) is not None
        }
        site = (
            {"from_file": True}
            if self.site_from_file
            else {"column": self.site}
            if self.site
            else {"constant": name}
        )
        source: dict[str, Any] = {
            "name": name,
            "studies": [name],
            "nulls": self.nulls,
            "tables": {
                "table": {
                    "files": self.table,
                    "key": self.id,
                    **rows,
                    "keep": [vars(k) for k in self.keep],
                    **form,
                }
            },
            "site": site,
            "label": {
                "column": self.label.column,
                "values": self.label.mapped(),
                "unknown": self.label.unknown,
            },
            "features": {feature.name: feature.mapped() for feature in self.feature},
            "images": self.images.mapped(),
        }
        if self.survival is not None:
            s = self.survival
            source["survival"] = {
                "times": s.time,
                "unit": s.unit,
                "event": s.event,
                "dead": s.dead,
                "alive": s.alive,
            }
        return source


def from_toml(raw: Mapping[str, Any], where: str) -> Study:
    """The study that a TOML document describes. Raises UsageError (C02, or C03 where the schema
    contradicts itself)."""
    times = raw.get("times", ["baseline"])
    known = (
        tuple(times) if isinstance(times, list) and all(isinstance(t, str) for t in times) else ()
    )
    file = settings.checked(StudyFile, raw, where, "C02", times=known)
    name = file.name or PurePath(where).stem
    label = Label(file.label.name or file.label.column, file.label.names, file.label.title)
    survival = (
        Survival(file.survival.name, file.survival.unit, file.survival.horizon)
        if file.survival
        else None
    )
    return Study(
        name=name,
        question=file.question or f"Which {label.name} does a patient have?",
        schema=Schema(
            name,
            tuple(f.declared for f in file.feature),
            label,
            file.times,
            survival,
            file.imaging.declared if file.imaging else None,
        ),
        tasks={name: Task(**vars(task)) for name, task in file.task.items()}
        or {time: Task(time) for time in file.times},
        learners=file.learners,
        hyper=file.hyper,
        clinical=file.clinical,
        denied=file.denied,
        source=file.mapped(name),
        virtual=file.virtual,
        overrides={f.name: f.not_an_outcome for f in file.feature if f.not_an_outcome},
    )
