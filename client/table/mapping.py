"""Source mapping: where the tables of one kind of export hold what a study asks for, section by
section as its file has them.

`client.table.mapping_file` reads one from TOML. A section is a `Settings` class; where what it
means hangs on other sections (the name below which it stands, the index table), a `Spec` says it
whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo

from client.table.part import Kind, Layout, Part
from common.runtime.settings import (
    Cells,
    Listed,
    Name,
    Names,
    Nulls,
    Pattern,
    Rule,
    Settings,
    Values,
    Whole,
    several,
)
from common.study.image_sections import ImagesSpec
from common.study.study_file import KeepSection, TableForm


def _declared(table: str, info: ValidationInfo) -> str:
    tables = info.context["tables"] if info.context else ()
    if tables and table not in tables:
        raise ValueError(f"is none of the tables {', '.join(tables)}")
    return table


TableName = Annotated[str, AfterValidator(_declared)]


@dataclass(frozen=True)
class Alias(Settings):
    """A name that a column may have, and the unit of its values where that differs from the
    field's."""

    name: str
    """the column's name"""
    unit: str = ""
    """of its values, where that differs"""


def _aliases(value: Any) -> Any:
    return [{"name": v} if isinstance(v, str) else v for v in several(value)]


@dataclass(frozen=True)
class SiteAlias(Settings):
    """A column that may name the institution, whole or in a part of its text."""

    name: str
    """the column's name"""
    pattern: Pattern = ""
    """regular expression that the text matches as a whole, or it names no institution; the name is
    its first group"""


SiteColumns = Annotated[
    Listed[SiteAlias],
    BeforeValidator(_aliases, json_schema_input_type=str | SiteAlias | list[str | SiteAlias]),
]
Columns = Annotated[
    Listed[Alias], BeforeValidator(_aliases, json_schema_input_type=str | Alias | list[str | Alias])
]


@dataclass(frozen=True)
class Keep(KeepSection):
    """Rows whose `column` holds one of `values` are kept; patients without such a row are
    excluded."""

    optional: bool = False
    """a table without the column keeps all rows"""

    @property
    def why(self) -> str:
        return self.reason or f"no row with {self.column} = {' or '.join(self.values)}"


@dataclass(frozen=True)
class TableSection(TableForm):
    """`[tables.NAME]`"""

    files: Names
    """names or patterns, searched under the data folder"""
    key: Annotated[Names, Field(min_length=1)]
    """the column by which tables are joined: the patient's id, or several names that it may have;
    `""`: each row is a patient"""
    format: Kind | None = None
    """`csv`, `tsv`, `xlsx`, `xls`, `parquet` or `statistics` (SPSS, Stata, SAS), where the file's
    name does not say it"""
    id_length: Whole | None = None
    """keep so many first characters of the id"""
    id_pattern: Pattern = ""
    """rows whose id does not match this regular expression as a whole (legends, totals) are no
    cases; a note counts them"""
    strip_zeros: bool = False
    """drop the id's leading zeros"""
    capitals: bool = False
    """write the id in capital letters"""
    person_optional: bool = False
    """some versions of the export do not have the column `person`"""
    rows: Literal["one", "agree"] = "one"
    """`one` row a patient, or several that must `agree`"""
    duplicates: Literal["error", "quarantine"] = "error"
    """several rows where one is declared: `error`, or `quarantine` (set aside and counted)"""
    optional: bool = False
    """the table may be absent; its features are then missing"""
    keep: Listed[Keep] = ()
    """`column`, `values`, `reason`: only rows with one of these values"""

    def key_of(self, part: Part) -> str | None:
        """The first of the key's names that a part has; `""` where each row is a patient, None
        where it has none of them."""
        return next((name for name in self.key if not name or name in part.index), None)

    @property
    def layout(self) -> Layout:
        return Layout(
            self.format,
            self.sheet,
            self.header,
            self.comment,
            self.delimiter,
            self.encoding,
            self.decimal,
            self.thousands,
        )


@dataclass(frozen=True, kw_only=True)
class TableSpec(TableSection):
    name: str


@dataclass(frozen=True)
class FieldSection(Settings):
    """One value a patient, from one column of one table: `[features.NAME]`."""

    table: TableName = ""
    """the table, where it is not the index"""
    column: Columns = ()
    """the column's name, or several that are known, each with a `unit` where that differs"""
    unit: str = ""
    """in which the table has it; converted to the study's"""
    unit_column: str = ""
    """a column in which each row states its unit"""
    decimal: Literal["", ".", ","] = ""
    """the mark before decimals in this column, where it is not the table's"""
    keep: Listed[Keep] = ()
    """as for tables, for this feature alone"""
    values: Values = field(default_factory=dict)
    """study value = texts in the table; for a number, the number (in the column's unit) that stands
    for a text such as '<0.5'"""
    nulls: Nulls = ()
    """texts that mean missing in this column alone"""
    absent: bool = False
    """the export does not have it: missing for everybody, and said"""
    optional: bool = False
    """some versions of the export do not have the column"""
    out_of_range: Literal["error", "missing"] = "error"
    """a value outside the bounds: `error`, or `missing` (counted)"""
    disagree: Literal["quarantine", "missing"] = "quarantine"
    """rows of a patient that contradict each other: `quarantine` the patient, or `missing` (the
    value)"""
    not_an_outcome: str = ""
    """why guard L02 does not apply to it; printed in the report"""

    def faults(self) -> Iterator[Rule]:
        if not self.absent and not self.column:
            yield "", "lacks 'column' (or absent = true)"


@dataclass(frozen=True, kw_only=True)
class FieldSpec(FieldSection):
    name: str


@dataclass(frozen=True)
class WithinSection(Settings):
    """`[label.within]`: the event up to `horizon` is the second class, event-free up to it the
    first, else unknown."""

    event: Columns
    """the column of the event"""
    event_values: Values
    """`{ yes = [...], no = [...] }`"""
    time: Columns
    """the column of the time to the event, or of the follow-up"""
    unit: str
    """of that time, and of the horizon"""
    horizon: float
    """an event up to it is the second class, event-free up to it the first, anything else
    unknown"""
    table: TableName = ""
    """the table, where it is not the index"""
    competing: Columns = ()
    """the column of an event that ends the follow-up, such as death"""
    competing_values: Values = field(default_factory=dict)
    """`{ yes = [...], no = [...] }`"""
    competing_title: str = "a competing event"
    """how the account of the patients calls it"""


@dataclass(frozen=True)
class Within:
    """A label made of a follow-up."""

    event: FieldSpec
    time: FieldSpec
    horizon: float
    competing: FieldSpec | None = None
    competing_title: str = ""


@dataclass(frozen=True)
class LabelSection(FieldSection):
    """`[label]`"""

    unknown: Cells = ()
    """values that are neither class: kept apart, never trained on, never scored"""
    within: WithinSection | None = None
    """in place of a column: `[label.within]`"""

    def faults(self) -> Iterator[Rule]:
        if self.within is None:
            yield from super().faults()


@dataclass(frozen=True)
class LabelSpec:
    value: FieldSpec | None
    unknown: tuple[str, ...] = ()
    within: Within | None = None


@dataclass(frozen=True)
class SiteSpec(Settings):
    """The institution: a column, the file's name, or one constant (which may also stand in for
    tables without the column)."""

    table: TableName = ""
    """the table, where it is not the index"""
    column: SiteColumns = ()
    """the column that names the institution, or several that may, each with a `pattern` where a
    part of the text does: for each row, the first that names one"""
    slice: Annotated[tuple[int, int], Strict(False)] | None = None
    """first and last character of its text, from 0, the last not included"""
    names: Mapping[str, str] = field(default_factory=dict)
    """text = the institution's name; several texts may have one name"""
    constant: str = ""
    """one name for all, or for tables without the column"""
    from_file: bool = False
    """the file's name is the institution's"""
    capitals: bool = False
    """write it in capital letters"""
    pick: Literal["agree", "most"] = "agree"
    """several rows of a patient: they must `agree`, or the institution with `most` rows counts (of
    equal ones the first by name)"""

    def column_of(self, part: Part) -> SiteAlias | None:
        """The first of the columns that a part has."""
        return next((alias for alias in self.column if alias.name in part.index), None)

    def text(self, cell: str, alias: SiteAlias) -> str:
        """What a cell of the column `alias` calls the institution; '' where it names none."""
        text = cell.strip()
        if alias.pattern:
            found = re.fullmatch(alias.pattern, text)
            text = found.group(min(1, len(found.groups()))) or "" if found else ""
        elif self.slice:
            text = text[slice(*self.slice)]
        return text.upper() if self.capitals else text

    def faults(self) -> Iterator[Rule]:
        if bool(self.column) + self.from_file + bool(self.constant and not self.column) != 1:
            yield (
                "",
                "needs exactly one of column, constant, from_file (a constant beside a column: "
                "where it lacks)",
            )


@dataclass(frozen=True)
class SurvivalSection(Settings):
    """`[survival]`"""

    times: Columns
    """columns of the time; the first that is known counts"""
    unit: str
    """of the times"""
    event: Columns
    """the column that says who died"""
    dead: Cells
    """its values for death"""
    alive: Cells
    """its values for life"""
    table: TableName = ""
    """the table, where it is not the index"""


@dataclass(frozen=True)
class SurvivalSpec:
    times: tuple[FieldSpec, ...]
    """The first that is known counts."""
    event: FieldSpec


@dataclass(frozen=True)
class MappingFile(Settings):
    """The file"""

    name: Name
    """by which `--source` chooses the mapping"""
    tables: Annotated[Mapping[str, TableSection], Field(min_length=1)]
    """`[tables.NAME]`: the files; the first is the index, whose patients are the cohort"""
    label: LabelSection
    """`[label]`: a column and its values, or `[label.within]`, an event within a horizon"""
    studies: Names = ()
    """the studies that it serves"""
    nulls: Nulls = ()
    """texts that mean missing, whatever their case; an empty cell always does"""
    site: SiteSpec | None = None
    """`[site]`: which institution a patient is of; none: one, called as the mapping"""
    features: Mapping[str, FieldSection] = field(default_factory=dict)
    """`[features.NAME]`: where each of the study's features stands"""
    survival: SurvivalSection | None = None
    """`[survival]`: `times` (the first that is known counts), `unit`, `event`, `dead`, `alive`"""
    images: ImagesSpec = ImagesSpec()
    """`[images]`: how images name their patients"""


@dataclass(frozen=True)
class Source:
    """A mapping whose every section says which table it reads."""

    name: str
    studies: tuple[str, ...]
    nulls: tuple[str, ...]
    tables: tuple[TableSpec, ...]
    """The first one is the index: its patients are the cohort."""
    site: SiteSpec
    label: LabelSpec
    features: Mapping[str, FieldSpec]
    survival: SurvivalSpec | None = None
    images: ImagesSpec = ImagesSpec()

    @property
    def index(self) -> TableSpec:
        return self.tables[0]

    def table(self, name: str) -> TableSpec:
        return next(t for t in self.tables if t.name == name)
