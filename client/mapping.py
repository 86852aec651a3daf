"""A source mapping: where the tables of one kind of export hold what a study asks for. TOML, parsed once, every fault named at once.

`client/sources/*.toml` come with fedmets; a study of one's own carries its mapping in `Study.source`. `docs/own-study.md` has the keys.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from client.tables import Layout
from common.errors import UsageError

SOURCES = Path(__file__).parent / "sources"


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


def builtin(study: str) -> list[Source]:
    """The mappings of `client/sources/` that serve `study`."""
    found = [parse(tomllib.loads(path.read_text(encoding="utf-8")), str(path)) for path in sorted(SOURCES.glob("*.toml"))]
    return [source for source in found if study in source.studies]


def named(ref: str) -> Source:
    """A mapping by its name, or from a TOML file of one's own."""
    path = Path(ref) if ref.endswith(".toml") else SOURCES / f"{ref}.toml"
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        have = ", ".join(sorted(p.stem for p in SOURCES.glob("*.toml")))
        raise UsageError("C02", f"source mapping '{ref}' is unknown; there are {have}, or give the path of a .toml file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("C02", f"source mapping '{ref}' is not valid TOML: {error}") from error


def parse(raw: Mapping[str, Any], where: str) -> Source:
    """The mapping that a TOML document (or `Study.source`) describes."""
    return _Parser(where).source(raw)


TOP = {
    "name": "by which `--source` chooses the mapping",
    "studies": "the studies that it serves",
    "nulls": "texts that mean missing, whatever their case; an empty cell always does",
    "tables": "`[tables.NAME]`: the files; the first is the index, whose patients are the cohort",
    "site": "`[site]`: which institution a patient is of",
    "label": "`[label]`: a column and its values, or `[label.within]`, an event within a horizon",
    "features": "`[features.NAME]`: where each of the study's features stands",
    "survival": "`[survival]`: `times` (the first that is known counts), `unit`, `event`, `dead`, `alive`",
    "images": "`[images]`: how images name their patients",
}
TABLE = {
    "files": "names or patterns, searched under the data folder",
    "key": "the column by which tables are joined: the patient's id",
    "format": "`csv`, `tsv`, `xlsx` or `parquet`, where the file's name does not say it",
    "sheet": "worksheet",
    "header": "number of the header row, or a list of rows that are joined by ` / `",
    "comment": "lines that start with it are skipped",
    "delimiter": "between columns, where it is not found by itself",
    "encoding": "of a text file",
    "decimal": "`,` for a decimal comma",
    "thousands": "mark between groups of three digits",
    "id_length": "keep so many first characters of the id",
    "id_pattern": "rows whose id does not match as a whole (legends, totals) are no cases",
    "strip_zeros": "drop the id's leading zeros",
    "rows": "`one` row a patient, or several that must `agree`",
    "duplicates": "several rows where one is declared: `error`, or `quarantine` (set aside and counted)",
    "optional": "the table may be absent; its features are then missing",
    "keep": "`column`, `values`, `reason`: only rows with one of these values",
    "person": "a column that knows people across ids: one person under two ids is refused (L04)",
    "id_per_site": "ids count anew in each hospital",
}
FIELD = {
    "table": "the table, where it is not the index",
    "column": "the column's name, or several that are known, each with a `unit` where that differs",
    "unit": "in which the table has it; converted to the study's",
    "unit_column": "a column in which each row states its unit",
    "keep": "as for tables, for this feature alone",
    "values": "study value = texts in the table; for a number, the number that stands for a text",
    "nulls": "texts that mean missing in this column alone",
    "absent": "the export does not have it: missing for everybody, and said",
    "optional": "some versions of the export do not have the column",
    "out_of_range": "a value outside the bounds: `error`, or `missing` (counted)",
    "disagree": "rows of a patient that contradict each other: `quarantine` the patient, or `missing` (the value)",
    "not_an_outcome": "why guard L02 does not apply to it; printed in the report",
}
KEEP = {
    "column": "the column that is looked at",
    "values": "rows with one of these are kept",
    "reason": "why patients without such a row are excluded, in the account of the patients",
    "optional": "a table without the column keeps all rows",
}
LABEL = {
    **FIELD,
    "unknown": "values that are neither class: kept apart, never trained on, never scored",
    "within": "in place of a column: `[label.within]`",
}
WITHIN = {
    "table": "the table, where it is not the index",
    "event": "the column of the event",
    "event_values": "`{ yes = [...], no = [...] }`",
    "time": "the column of the time to the event, or of the follow-up",
    "unit": "of that time, and of the horizon",
    "horizon": "an event up to it is the second class, event-free up to it the first, anything else unknown",
    "competing": "the column of an event that ends the follow-up, such as death",
    "competing_values": "`{ yes = [...], no = [...] }`",
    "competing_title": "how the account of the patients calls it",
}
SITE = {
    "table": "the table, where it is not the index",
    "column": "the column that names the institution",
    "slice": "first and last character of its text, from 0, the last not included",
    "names": "text = the institution's name; several texts may have one name",
    "constant": "one name for all, or for tables without the column",
    "from_file": "the file's name is the institution's",
    "pick": "several rows of a patient: they must `agree`, or the institution with `most` rows counts",
}
SURVIVAL = {
    "table": "the table, where it is not the index",
    "times": "columns of the time; the first that is known counts",
    "unit": "of the times",
    "event": "the column that says who died",
    "dead": "its values for death",
    "alive": "its values for life",
}
IMAGES = {
    "id": "where a DICOM file names its patient: `PatientID`, or `path`",
    "id_pattern": "regular expression that finds the id in it; a group `study` tells examinations apart",
    "id_length": "keep so many first characters of the id",
    "strip_zeros": "drop the id's leading zeros",
    "channels": "channel = patterns of NIfTI paths; where several match, the longest counts",
    "mask": "patterns of NIfTI label maps",
    "values": "region = its values in a label map",
    "regions": "region = regular expressions of the labels of DICOM segments, which match as a whole",
}
"""What a mapping may say, section by section, and what each key means: the reference is made from these."""
_CHOICES: dict[str, tuple[object, ...]] = {
    "format": (None, "csv", "tsv", "xlsx", "parquet"), "decimal": (".", ","), "thousands": ("", ",", ".", " ", "'"),
    "rows": ("one", "agree"), "duplicates": ("error", "quarantine"),
    "out_of_range": ("error", "missing"), "disagree": ("quarantine", "missing"), "pick": ("agree", "most"),
}  # fmt: skip


class _Parser:
    def __init__(self, where: str) -> None:
        self.where = where
        self.faults: list[str] = []
        self.tables: tuple[str, ...] = ()

    def check(self, raw: Any, at: str, allowed: Iterable[str], needed: Iterable[str] = ()) -> dict[str, Any]:
        """`raw` as a dictionary; unknown, missing and impossible entries become faults."""
        if not isinstance(raw, Mapping):
            self.faults.append(f"{self.where}: {at} must be a table, is {raw!r}")
            return {}
        allowed = set(allowed)
        for key in sorted(set(raw) - allowed):
            near = difflib.get_close_matches(key, allowed, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            self.faults.append(f"{self.where}: {at} has an unknown key '{key}'{hint} (allowed: {', '.join(sorted(allowed))})")
        self.faults += [f"{self.where}: {at} lacks '{key}'" for key in needed if key not in raw]
        for key, choices in _CHOICES.items():
            if key in allowed and raw.get(key, choices[0]) not in choices:
                self.faults.append(f"{self.where}: {at}: {key} = {raw[key]!r} is not one of {', '.join(map(str, choices))}")
        return {key: value for key, value in raw.items() if key in allowed}

    def source(self, raw: Mapping[str, Any]) -> Source:
        top = self.check(raw, "the mapping", TOP, ("name", "tables", "label"))
        tables = tuple(self.table(name, t) for name, t in top.get("tables", {}).items())
        self.tables = tuple(t.name for t in tables)
        if not tables:
            self.faults.append(f"{self.where}: the mapping declares no table")
        features = {name: self.field(name, f, f"features.{name}") for name, f in top.get("features", {}).items()}
        label = self.label(top.get("label", {}))
        site = self.site(top.get("site", {"constant": str(top.get("name", ""))}))
        survival = self.survival(top["survival"]) if "survival" in top else None
        images = self.images(top.get("images", {}))
        if self.faults:
            raise UsageError("C02", *self.faults)
        studies, nulls = _texts(top.get("studies", ())), _texts(top.get("nulls", ()))
        return Source(str(top["name"]), studies, nulls, tables, site, label, features, survival, images)

    def table(self, name: str, raw: Any) -> TableSpec:
        t = self.check(raw, f"tables.{name}", TABLE, ("files", "key"))
        header = t.get("header", 1)
        layout = Layout(
            format=t.get("format"),
            sheet=t.get("sheet"),
            header=tuple(header) if isinstance(header, list | tuple) else (int(header),),
            comment=t.get("comment", ""),
            delimiter=t.get("delimiter", ""),
            encoding=t.get("encoding", "utf-8"),
            decimal=t.get("decimal", "."),
            thousands=t.get("thousands", ""),
        )
        if layout.thousands == layout.decimal:
            self.faults.append(f"{self.where}: tables.{name}: thousands and decimal are both '{layout.decimal}'; correct one of them")
        plain_keys = ("id_length", "id_pattern", "strip_zeros", "rows", "duplicates", "optional", "person", "id_per_site")
        plain = {k: t[k] for k in plain_keys if k in t}
        keep = self.keep(t.get("keep", ()), f"tables.{name}.keep")
        return TableSpec(name, _texts(t.get("files", ())), str(t.get("key", "")), layout, keep=keep, **plain)

    def keep(self, raw: Any, at: str) -> tuple[Keep, ...]:
        out = []
        for entry in raw:
            k = self.check(entry, at, KEEP, ("column", "values"))
            values = _texts(k.get("values", ()))
            reason = str(k.get("reason", f"no row with {k.get('column')} = {' or '.join(values)}"))
            out.append(Keep(str(k.get("column", "")), values, reason, bool(k.get("optional", False))))
        return tuple(out)

    def field(self, name: str, raw: Any, at: str) -> FieldSpec:
        f = self.check(raw, at, FIELD)
        if not f.get("absent") and "column" not in f:
            self.faults.append(f"{self.where}: {at} lacks 'column' (or absent = true)")
        table = str(f.get("table", self.tables[0] if self.tables else ""))
        if self.tables and table not in self.tables:
            self.faults.append(f"{self.where}: {at}: table '{table}' is none of {', '.join(self.tables)}")
        return FieldSpec(
            name, table, self.aliases(f.get("column", ()), at), str(f.get("unit", "")), str(f.get("unit_column", "")),
            self.keep(f.get("keep", ()), f"{at}.keep"), self.value_map(f.get("values", {}), at), _texts(f.get("nulls", ())),
            bool(f.get("absent", False)), bool(f.get("optional", False)), f.get("out_of_range", "error"), f.get("disagree", "quarantine"),
            str(f.get("not_an_outcome", "")),
        )  # fmt: skip

    def aliases(self, raw: Any, at: str) -> tuple[Alias, ...]:
        out = []
        for entry in raw if isinstance(raw, list | tuple) else [raw]:
            if isinstance(entry, str):
                out.append(Alias(entry))
            else:
                a = self.check(entry, f"{at}.column", ("name", "unit"), ("name",))
                out.append(Alias(str(a.get("name", "")), str(a.get("unit", ""))))
        return tuple(out)

    def value_map(self, raw: Any, at: str) -> dict[str, tuple[str, ...]]:
        if not isinstance(raw, Mapping):
            self.faults.append(f"{self.where}: {at}.values must be a table of study value = [source values], is {raw!r}")
            return {}
        return {str(k): _texts(v) for k, v in raw.items()}

    def label(self, raw: Any) -> LabelSpec:
        lab = self.check(raw, "label", LABEL)
        if "within" in lab:
            return LabelSpec(None, (), self.within(lab["within"]))
        plain = {k: v for k, v in lab.items() if k in FIELD}
        return LabelSpec(self.field("label", plain, "label"), _texts(lab.get("unknown", ())))

    def within(self, raw: Any) -> Within:
        w = self.check(raw, "label.within", WITHIN, ("event", "event_values", "time", "unit", "horizon"))
        table = {"table": w["table"]} if "table" in w else {}

        def flag(key: str) -> FieldSpec:
            values = w.get(f"{key}_values", {})
            return self.field(key, {**table, "column": w.get(key, ""), "values": values}, f"label.within.{key}")

        time = self.field("time", {**table, "column": w.get("time", ""), "unit": w.get("unit", "")}, "label.within.time")
        competing = flag("competing") if "competing" in w else None
        return Within(flag("event"), time, float(w.get("horizon", 0)), competing, str(w.get("competing_title", "a competing event")))

    def site(self, raw: Any) -> SiteSpec:
        s = self.check(raw, "site", SITE)
        if sum(key in s for key in ("column", "from_file")) + ("constant" in s and "column" not in s) != 1:
            self.faults.append(
                f"{self.where}: site needs exactly one of column, constant, from_file (a constant beside a column: where it lacks)"
            )
        cut = s.get("slice")
        return SiteSpec(
            str(s.get("table", self.tables[0] if self.tables else "")),
            str(s.get("column", "")),
            (int(cut[0]), int(cut[1])) if cut else None,
            cast(Mapping[str, str], s.get("names", {})),
            str(s.get("constant", "")),
            bool(s.get("from_file", False)),
            s.get("pick", "agree"),
        )

    def survival(self, raw: Any) -> SurvivalSpec:
        s = self.check(raw, "survival", SURVIVAL, ("times", "unit", "event", "dead", "alive"))
        table = {"table": s["table"]} if "table" in s else {}
        times = s.get("times", ())
        specs = tuple(
            self.field("survival time", {**table, "column": t, "unit": s.get("unit", ""), "optional": True}, "survival.times")
            for t in (times if isinstance(times, list | tuple) else [times])
        )
        values = {"alive": s.get("alive", ()), "dead": s.get("dead", ())}
        event = {**table, "column": s.get("event", ""), "values": values, "optional": True}
        return SurvivalSpec(specs, self.field("survival event", event, "survival.event"))

    def images(self, raw: Any) -> ImagesSpec:
        im = self.check(raw, "images", IMAGES)
        if im.get("id", "PatientID") not in ("PatientID", "path"):
            self.faults.append(f"{self.where}: images: id = {im['id']!r} is not one of PatientID, path")
        length = im.get("id_length")
        if length is not None and (type(length) is not int or length < 1):
            self.faults.append(f"{self.where}: images: id_length = {length!r} must be a whole number above 0")
        maps = {key: self.value_map(im.get(key, {}), f"images.{key}") for key in ("channels", "regions", "values")}
        patterns = [("id_pattern", str(im.get("id_pattern", ""))), *(("regions", p) for ps in maps["regions"].values() for p in ps)]
        for key, pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                self.faults.append(f"{self.where}: images.{key}: {pattern!r} is no regular expression: {error}")
        numbers = {}
        for region, texts in maps["values"].items():
            if not all(t.isdecimal() and int(t) > 0 for t in texts):
                self.faults.append(f"{self.where}: images.values.{region} = {list(texts)} must be whole numbers above 0")
            else:
                numbers[region] = tuple(int(t) for t in texts)
        return ImagesSpec(
            str(im.get("id", "PatientID")), str(im.get("id_pattern", "")), length, bool(im.get("strip_zeros", False)),
            maps["channels"], _texts(im.get("mask", ())), numbers, maps["regions"],
        )  # fmt: skip


def _texts(raw: Any) -> tuple[str, ...]:
    """A value or a list of values, as texts; TOML booleans and numbers in the form in which cells are read."""
    return tuple(v if isinstance(v, str) else str(v).lower() for v in (raw if isinstance(raw, list | tuple) else [raw]))
