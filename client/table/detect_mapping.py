"""Detection of the source mapping that fits a folder, and its tables loaded: where no mapping fits,
the one that comes nearest says what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.table import mapping_file
from client.table.joined import joined
from client.table.mapping import FieldSpec, Source, TableSpec
from client.table.part import Layout, Part
from client.table.readers import find
from client.table.readers import read as read_part
from client.table.rows import Loaded, absent, some
from common.errors import DataError, Fault, UsageError, raise_faults
from common.study.study import Study
from common.study.study_file import ANY_TABLE


@dataclass
class Folder:
    """A data folder, or one file; each file is read once a layout."""

    root: Path
    index: tuple[Path, ...] = ()
    """The files of the index table, where their columns tell them and their names do not."""
    _parts: dict[tuple[Path, Layout], tuple[Part | None, list[Fault]]] = field(default_factory=dict)

    def files(self, table: TableSpec, *, index: bool) -> list[Path]:
        """The files of a table; a file that is named outright is the index table, whatever it is
        called, and so is one that `by_columns` has found."""
        if index and self.index:
            return list(self.index)
        paths = find(self.root, table.files)
        return [self.root] if not paths and index and self.root.is_file() else paths

    def name(self, path: Path) -> str:
        """A file as seen from the folder."""
        return path.relative_to(self.root).as_posix() if self.root in path.parents else path.name

    def part(self, path: Path, layout: Layout) -> tuple[Part | None, list[Fault]]:
        """The table in a file, and what is wrong with it."""
        if (path, layout) not in self._parts:
            faults: list[Fault] = []
            part = read_part(path, layout, faults)
            self._parts[path, layout] = (
                part,
                [dataclasses.replace(f, where=self.name(path)) for f in faults],
            )
        return self._parts[path, layout]

    def index_part(self, path: Path, layout: Layout) -> tuple[Part | None, list[Fault]]:
        """As `part`, for the table that names the patients: without a row it is empty or cut off
        (D00)."""
        part, faults = self.part(path, layout)
        if part is None or len(part):
            return part, faults
        what = f"the table ends with its header ({len(part.header)} columns) and has no row"
        return None, [
            Fault("D00", self.name(path), what, "Export or copy it again, or take the file away")
        ]


def choose(study: Study, folder: Folder, ref: str | None) -> tuple[Source, str]:
    """The mapping asked for, the study's own, or the built-in one that fits; with a sentence where
    it only comes nearest.

    Raises DataError D00 where no file is there or the index table is broken, UsageError C02 where
    several mappings fit.
    """
    if ref is not None:
        source = mapping_file.named(ref)
        if not folder.files(source.index, index=True):
            folder.index = _by_columns(source, folder)
        return source, ""
    if study.source is not None:
        return mapping_file.parse(study.source, f"study '{study.name}'"), ""
    candidates = mapping_file.builtin(study.name)
    if not candidates:
        raise UsageError(
            "C02",
            f"no source mapping serves study '{study.name}'; give it one in a TOML file "
            "(docs/own-study.md)",
        )
    present = [c for c in candidates if folder.files(c.index, index=True)]
    fitting = [c for c in present if _fits(c, folder)]
    if not fitting and not any(_broken(c, folder) for c in present):
        found = {c.name: _by_columns(c, folder) for c in candidates}
        fitting = [c for c in candidates if found[c.name]]
        if len(fitting) == 1:
            folder.index = found[fitting[0].name]
    if not present and not fitting:
        raise DataError("D00", _nothing_there(candidates, folder))
    if len(fitting) > 1:
        names = ", ".join(c.name for c in fitting)
        raise UsageError(
            "C02",
            f"{folder.root} fits {len(fitting)} source mappings ({names}); choose one with "
            "--source NAME",
        )
    if fitting:
        return fitting[0], ""
    raise_faults(list(dict.fromkeys(fault for c in present for fault in _broken(c, folder))))
    best = max(present, key=lambda c: _columns_there(c, folder))
    note = (
        f"No source mapping fits; '{best.name}' comes nearest, so it was taken. Another one is "
        "chosen with --source NAME"
    )
    return best, note if len(candidates) > 1 else ""


def _nothing_there(candidates: Sequence[Source], folder: Folder) -> str:
    expected = "; ".join(
        f"{' or '.join(c.index.files)} (source mapping '{c.name}')" for c in candidates
    )
    return (
        f"D00 {folder.root}: none of the tables is there that the study can read: {expected}, or "
        "any table that has the columns of one. Give the folder that holds one as --data"
    )


def _broken(source: Source, folder: Folder) -> list[Fault]:
    return [
        fault
        for path in folder.files(source.index, index=True)
        for fault in folder.index_part(path, source.index.layout)[1]
    ]


def _fits(source: Source, folder: Folder) -> bool:
    """Whether each file of the index table has the columns that identify it."""
    files = folder.files(source.index, index=True)
    return all(_identified(source, folder, path) for path in files)


def _by_columns(source: Source, folder: Folder) -> tuple[Path, ...]:
    """The tables under a folder that have the columns of an index table, whatever they are called.
    None where another table has the name of one: it may be one that is damaged."""
    if not folder.root.is_dir():
        return ()
    paths = [p for p in find(folder.root, ANY_TABLE) if _identified(source, folder, p)]
    named = find(folder.root, source.index.files)
    return tuple(paths) if set(named) <= set(paths) else ()


def _identified(source: Source, folder: Folder, path: Path) -> bool:
    """Whether a file has the columns that identify an index table: key, filters and label."""
    key = source.index.key
    required: list[tuple[str, ...]] = [
        *([key] if all(key) else []),
        *((k.column,) for k in source.index.keep if not k.optional),
    ]
    within, value = source.label.within, source.label.value
    specs = (
        (within.event, within.time) if within is not None else (value,) if value is not None else ()
    )
    required += [_names(spec) for spec in specs if spec.table == source.index.name]
    part, _ = folder.index_part(path, source.index.layout)
    return part is not None and all(any(n in part.index for n in names) for names in required)


def _columns_there(source: Source, folder: Folder) -> float:
    """The share of the fields of the index table that its first file has; the key counts as much as
    all others."""
    part = folder.part(folder.files(source.index, index=True)[0], source.index.layout)[0]
    fields = [
        f
        for f in (*source.features.values(), source.label.value)
        if f is not None and f.table == source.index.name
    ]
    if part is None or not fields:
        return 0.0
    return (source.index.key_of(part) is not None) + sum(
        any(n in part.index for n in _names(f)) for f in fields
    ) / len(fields)


def _names(spec: FieldSpec) -> tuple[str, ...]:
    return tuple(alias.name for alias in spec.column)


def load(source: Source, folder: Folder, faults: list[Fault]) -> dict[str, Loaded]:
    """All tables that are there. A missing table that is not optional, or one that cannot be read,
    is a fault."""
    loaded = {}
    for spec in source.tables:
        index = spec is source.index
        files = folder.files(spec, index=index)
        if not files and not spec.optional:
            present = [folder.name(path) for path in find(folder.root, ANY_TABLE)]
            what = (
                f"no file {' or '.join(spec.files)} (table '{spec.name}' of '{source.name}'); "
                f"tables there: {some(present) or 'none'}"
            )
            faults.append(
                Fault(
                    "D00",
                    str(folder.root),
                    what,
                    "Put the table into the data folder, or name the file outright",
                )
            )
        parts: list[Part] = []
        notes: list[str] = []
        unkeyed: dict[str, list[str]] = {}
        for path in files:
            part, part_faults = (folder.index_part if index else folder.part)(path, spec.layout)
            faults += part_faults
            if part is None:
                continue
            key = spec.key_of(part)
            if key and spec.join:
                part = _joined(part, spec, folder, faults, notes)
            if key is None:
                unkeyed.setdefault(f"the id of the patients: {absent(spec.key, part)}", []).append(
                    folder.name(path)
                )
            else:
                parts.append(part)
        for what, names in unkeyed.items():
            way = "Rename the column, or correct the mapping"
            if index and len(unkeyed) + len(parts) > 1:
                way += (
                    "; where the file is not one of the study's tables, name those that are "
                    "(table = ...), or take it away"
                )
            faults.append(Fault("D08" if index else "D05", some(names), what, way))
        if parts:
            loaded[spec.name] = Loaded.of(
                spec, parts, folder.root, source.nulls, source.site, faults
            )
            loaded[spec.name].notes += notes
    return loaded


def _joined(
    part: Part, spec: TableSpec, folder: Folder, faults: list[Fault], notes: list[str]
) -> Part:
    """A part with the columns of the table that its spec joins to it."""
    path = part.path.parent / spec.join
    if not path.is_file():
        what, way = "is not there; the study joins it", "Put it there, or take `join` out"
        faults.append(Fault("D00", f"{part.path.parent.name}/{spec.join}", what, way))
        return part
    other, other_faults = folder.part(path, spec.layout)
    faults += other_faults
    if other is None:
        return part
    try:
        whole, told = joined(part, other, spec.key_of(part) or "")
    except ValueError as error:
        faults.append(Fault("D05", folder.name(path), str(error), "Rename the column of ids"))
        return part
    notes += told
    return whole
