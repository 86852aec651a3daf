"""A source mapping: where the tables of one kind of export hold what a study asks for. `client.table.mapping_file` reads one from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from client.table.readers import Layout


@dataclass(frozen=True)
class Alias:
    """A name that a column may have, and the unit of its values where that differs from the field's."""

    name: str
    unit: str = ""


@dataclass(frozen=True)
class Keep:
    """Rows whose `column` holds one of `values` are kept; patients without such a row are excluded for `reason`.

    `optional`: a table without the column keeps all rows.
    """

    column: str
    values: tuple[str, ...]
    reason: str
    optional: bool = False


@dataclass(frozen=True)
class TableSpec:
    name: str
    files: tuple[str, ...]
    key: str
    layout: Layout = Layout()
    id_length: int | None = None
    id_pattern: str = ""
    """Rows whose key does not match this regular expression as a whole (legends, totals) are no cases; they are counted in a note."""
    strip_zeros: bool = False
    rows: str = "one"
    duplicates: str = "error"
    optional: bool = False
    keep: tuple[Keep, ...] = ()
    person: str = ""
    """Column of an identity beyond the id, such as a national number: one person under two ids is a fault (guard L04)."""
    id_per_site: bool = False
    """Ids count anew in each hospital: a patient is then called 'hospital: id'."""


@dataclass(frozen=True)
class FieldSpec:
    """One value a patient, from one column of one table."""

    name: str
    table: str
    columns: tuple[Alias, ...]
    unit: str = ""
    unit_column: str = ""
    keep: tuple[Keep, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Study value -> texts in the table; for a number, the number (in the column's unit) that stands for a text such as '<0.5'."""
    nulls: tuple[str, ...] = ()
    absent: bool = False
    optional: bool = False
    out_of_range: str = "error"
    disagree: str = "quarantine"
    not_an_outcome: str = ""


@dataclass(frozen=True)
class Within:
    """A label made of a follow-up: the event up to `horizon` is the second class, event-free up to it the first, else unknown."""

    event: FieldSpec
    time: FieldSpec
    horizon: float
    competing: FieldSpec | None = None
    competing_title: str = ""


@dataclass(frozen=True)
class LabelSpec:
    value: FieldSpec | None
    unknown: tuple[str, ...] = ()
    within: Within | None = None


@dataclass(frozen=True)
class SiteSpec:
    """The institution: a column (`slice` of its text, renamed by `names`; the constant where a table has no such column), the file's
    name, or one constant."""

    table: str = ""
    column: str = ""
    slice: tuple[int, int] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    constant: str = ""
    from_file: bool = False
    pick: str = "agree"
    """Several rows of a patient: `agree`, or `most` (the institution with most rows counts; of equal ones the first by name)."""


@dataclass(frozen=True)
class SurvivalSpec:
    times: tuple[FieldSpec, ...]
    """The first that is known counts."""
    event: FieldSpec


@dataclass(frozen=True)
class ImagesSpec:
    """How images name their patients, which NIfTI file is which sequence, and what an expert called the study's regions.

    DICOM files say by themselves which sequence they are; NIfTI files do so by their paths only. Without the section: PatientID is
    the table's id, and a segment is the region whose name it has.
    """

    id: str = "PatientID"
    """Where a DICOM file's id stands: `PatientID`, or `path` (from the folder of images); a NIfTI file's id always stands in its path."""
    id_pattern: str = ""
    """Regular expression, searched in that text: the id is its group `id`, else its first group, else all that it matches. A group
    `study` tells apart a patient's examinations (without it: DICOM's StudyInstanceUID, and a NIfTI file's folder)."""
    id_length: int | None = None
    strip_zeros: bool = False
    channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Channel -> patterns of NIfTI paths; where several match, the longest counts."""
    mask: tuple[str, ...] = ()
    """Patterns of NIfTI label maps."""
    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Region -> its values in a label map."""
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Region -> regular expressions of the labels of DICOM segments, which match as a whole, whatever their case."""


@dataclass(frozen=True)
class Source:
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
