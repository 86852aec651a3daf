"""Source mapping from TOML, every fault named at once (C02).

`client/table/sources/*.toml` come with fedmets; a study of one's own carries its mapping in
`Study.source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from client.table.mapping import (
    FieldSection,
    FieldSpec,
    LabelSection,
    LabelSpec,
    MappingFile,
    SiteSpec,
    Source,
    SurvivalSection,
    SurvivalSpec,
    TableSpec,
    Within,
    WithinSection,
)
from common.errors import UsageError
from common.runtime import settings

SOURCES = Path(__file__).parent / "sources"


def builtin(study: str) -> list[Source]:
    """The mappings of `client/table/sources/` that serve `study`."""
    mappings = [_load(path) for path in sorted(SOURCES.glob("*.toml"))]
    return [source for source in mappings if study in source.studies]


def named(ref: str) -> Source:
    """A mapping by its name, or from a TOML file of one's own."""
    if ref.endswith(".toml"):
        return _load(Path(ref))
    names = sorted(p.stem for p in SOURCES.glob("*.toml"))
    if ref not in names:
        raise UsageError(
            "C02",
            f"source mapping '{ref}' is unknown; there are {', '.join(names)}, or give the path of "
            "a .toml file",
        )
    return _load(SOURCES / f"{ref}.toml")


def _load(path: Path) -> Source:
    return parse(settings.document(path, "source mapping", "C02"), str(path))


def parse(raw: Mapping[str, Any], where: str) -> Source:
    """The mapping that a TOML document (or `Study.source`) describes."""
    tables = raw.get("tables") if isinstance(raw, Mapping) else None
    names = tuple(tables) if isinstance(tables, Mapping) else ()
    file = settings.checked(MappingFile, raw, where, "C02", tables=names)
    index = names[0]
    site = file.site or SiteSpec(constant=file.name)
    return Source(
        file.name,
        file.studies,
        file.nulls,
        tuple(TableSpec(**vars(table), name=name) for name, table in file.tables.items()),
        replace(site, table=site.table or index),
        _label(file.label, index),
        {name: _field(name, section, index) for name, section in file.features.items()},
        _survival(file.survival, index) if file.survival else None,
        replace(file.images, id_per_site=file.images.id_per_site or file.tables[index].id_per_site),
    )


def _field(name: str, section: FieldSection, index: str) -> FieldSpec:
    values = {f.name: getattr(section, f.name) for f in fields(FieldSection)}
    return FieldSpec(**{**values, "table": section.table or index}, name=name)


def _label(section: LabelSection, index: str) -> LabelSpec:
    if section.within is not None:
        return LabelSpec(None, (), _within(section.within, index))
    return LabelSpec(_field("label", section, index), section.unknown)


def _within(section: WithinSection, index: str) -> Within:
    table = section.table or index
    event = FieldSpec(name="event", table=table, column=section.event, values=section.event_values)
    time = FieldSpec(name="time", table=table, column=section.time, unit=section.unit)
    competing = None
    if section.competing:
        competing = FieldSpec(
            name="competing", table=table, column=section.competing, values=section.competing_values
        )
    return Within(event, time, section.horizon, competing, section.competing_title)


def _survival(section: SurvivalSection, index: str) -> SurvivalSpec:
    table = section.table or index
    times = [
        FieldSpec(
            name=f"survival time '{t.name}'",
            table=table,
            column=(t,),
            unit=section.unit,
            optional=True,
        )
        for t in section.times
    ]
    values = {"alive": section.alive, "dead": section.dead}
    return SurvivalSpec(
        tuple(times),
        FieldSpec(
            name="survival event", table=table, column=section.event, values=values, optional=True
        ),
    )
