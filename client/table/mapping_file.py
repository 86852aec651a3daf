"""A source mapping from TOML, parsed once, every fault named at once.

`client/table/sources/*.toml` come with fedmets; a study of one's own carries its mapping in `Study.source`. `docs/own-study.md` has the
keys.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from client.table.mapping import (
    Alias,
    FieldSpec,
    ImagesSpec,
    Keep,
    LabelSpec,
    SiteSpec,
    Source,
    SurvivalSpec,
    TableSpec,
    Within,
)
from client.table.mapping_keys import FIELD, IMAGES, KEEP, LABEL, SITE, SURVIVAL, TABLE, TOP, WITHIN
from client.table.readers import Layout
from common.errors import UsageError

SOURCES = Path(__file__).parent / "sources"


def builtin(study: str) -> list[Source]:
    """The mappings of `client/table/sources/` that serve `study`."""
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
