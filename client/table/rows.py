"""Record linkage of rows and patients: which row of which file belongs to whom, and who is set
aside for which reason."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.table.cells import folded
from client.table.mapping import Keep, SiteSpec, TableSpec
from client.table.part import Part
from client.table.readers import nearest
from common.errors import Fault

Mask = NDArray[np.bool_]
"""(rows,) of a table."""
Values = NDArray[np.float64]
"""(cases,), or (rows,) of a table; NaN where missing."""

_SEVERAL = "several rows where one is declared (D02)"

MANY = 5
"""How many examples an error shows."""


def some(items: Sequence[object]) -> str:
    """At most five items, for a message."""
    listed = ", ".join(str(i) for i in items[:MANY])
    return f"{listed}, ... ({len(items)} in all)" if len(items) > MANY else listed


@dataclass(frozen=True)
class CellFault(Fault):
    """A fault in cells of single patients, whom a prediction can set aside."""

    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Patient -> which column, which value, which rows; ids of nobody in the index table as
    well."""


@dataclass
class Loaded:
    """A table: the parts it came in, one id a row, and the null tokens that its source declares."""

    spec: TableSpec
    parts: list[Part]
    root: Path
    nulls: tuple[str, ...]
    ids: list[str]
    """One a row of all parts; '' for rows that are no cases."""
    notes: list[str] = field(default_factory=list)
    hospitals: list[str] = field(default_factory=list)
    """One a row of all parts, as the table or the file's name has it; empty where `site` names
    neither."""

    @classmethod
    def of(
        cls,
        spec: TableSpec,
        parts: list[Part],
        root: Path,
        nulls: tuple[str, ...],
        site: SiteSpec,
        faults: list[Fault],
    ) -> Loaded:
        table = cls(spec, parts, root, nulls, [])
        if site.from_file:
            table.hospitals = [
                name
                for name, part in zip(file_names(parts, table.folder), parts, strict=True)
                for _ in part.lines
            ]
        elif site.column and all(site.column_of(part) for part in parts):
            table.hospitals = [
                cell.strip()
                for part in parts
                if (alias := site.column_of(part)) is not None
                for cell in part.column(alias.name)
            ]
        if table.key:
            table.ids = [
                _id(cell, spec) for part in parts for cell in part.column(spec.key_of(part) or "")
            ]
        else:
            table.ids = [f"{table.name(part)}:{line}" for part in parts for line in part.lines]
            table.notes.append(
                f"no column of table '{spec.name}' names the patient: each row counts as a patient "
                "of its own, so a patient of several rows may be trained on and scored"
            )
        if spec.id_pattern:
            foreign = [i for i in table.ids if not re.fullmatch(spec.id_pattern, i)]
            table.ids = [i if re.fullmatch(spec.id_pattern, i) else "" for i in table.ids]
            if foreign:
                table.notes.append(
                    f"{len(foreign)} rows of table '{spec.name}' have no id of a case (legend or "
                    "empty)"
                )
        faults += table._merged_ids()
        if spec.id_per_site and table.hospitals:
            table.ids = [
                f"{hospital}: {i}" if i else ""
                for hospital, i in zip(table.hospitals, table.ids, strict=True)
            ]
        empty = [row for row, i in enumerate(table.ids) if not i]
        if empty and not spec.id_pattern:
            what = f"the id is empty in {len(empty)} rows ({table.rows(empty)})"
            way = "Give each row its patient's id, or delete it"
            reasons = {}
            for row in empty:
                part, line = table.place[row]
                table.ids[row] = f"{table.name(part)}:{line}"
                reasons[table.ids[row]] = f"the id is empty, column '{table.key}' (D05)"
            faults.append(CellFault("D05", table.where(table.key), what, way, reasons))
        return table

    def _merged_ids(self) -> list[Fault]:
        """D05 where several ids of one table differ in leading zeros alone, which are dropped: they
        may be two people."""
        if not (self.spec.strip_zeros and self.key):
            return []
        written: dict[tuple[str, str], set[str]] = defaultdict(set)
        cells = (c for part in self.parts for c in part.column(self.spec.key_of(part) or ""))
        hospitals = self.hospitals if self.spec.id_per_site and self.hospitals else repeat("")
        kept = replace(self.spec, strip_zeros=False)
        for cell, patient, hospital in zip(cells, self.ids, hospitals, strict=False):
            if patient:
                written[hospital, patient].add(_id(cell, kept))
        several = sorted(" = ".join(sorted(ids)) for ids in written.values() if len(ids) > 1)
        if not several:
            return []
        what = f"strip_zeros makes one patient of ids that may be several people: {some(several)}"
        way = "Write each person's id in one way, or leave strip_zeros out"
        return [Fault("D05", self.where(self.key), what, way)]

    @property
    def folder(self) -> Path:
        return self.root if self.root.is_dir() else self.root.parent

    @property
    def key(self) -> str:
        """The column of the patients' ids; `""` where each row is a patient."""
        return self.spec.key_of(self.parts[0]) or ""

    def name(self, part: Part) -> str:
        """The file of a part, as seen from the data folder."""
        return part.path.relative_to(self.folder).as_posix()

    @cached_property
    def place(self) -> list[tuple[Part, int]]:
        return [(part, line) for part in self.parts for line in part.lines]

    def where(self, column: str = "") -> str:
        names = list(dict.fromkeys(self.name(p) for p in self.parts))
        return some(names) + (f", column '{column}'" if column else "")

    def rows(self, positions: Sequence[int]) -> str:
        """Where rows stand, for a message."""
        if len(self.parts) == 1:
            return (
                "row "
                + ", ".join(str(self.place[i][1]) for i in positions[:MANY])
                + (", ..." if len(positions) > MANY else "")
            )
        places = [f"{self.name(self.place[i][0])}:{self.place[i][1]}" for i in positions[:MANY]]
        return ", ".join(places) + (", ..." if len(positions) > MANY else "")

    def cell_fault(
        self, code: str, column: str, said: tuple[str, str], bad: Mapping[str, Sequence[int]]
    ) -> CellFault:
        """Of the rows `bad` (text -> rows) of a column. `said`: what is wrong, and the way out."""
        reasons: dict[str, str] = {}
        for text, rows in bad.items():
            for row in rows:
                patient = self.ids[row]
                reason = f"{text.strip()[:40]!r} in column '{column}' ({self.rows([row])})"
                reasons[patient] = f"{reasons[patient]}, {reason}" if patient in reasons else reason
        reasons = {patient: f"{cells} ({code})" for patient, cells in reasons.items()}
        return CellFault(code, self.where(column), *said, reasons)

    def cells(self, names: Sequence[str], faults: list[Fault] | None) -> list[str] | None:
        """The cells of the first of `names` that each part has; None with a fault (D08) where a
        part has none of them."""
        texts: list[str] = []
        lacking: dict[str, list[str]] = defaultdict(list)
        for part in self.parts:
            name = next((n for n in names if n in part.index), None)
            if name is None:
                lacking[absent(names, part)].append(self.name(part))
            elif name in part.repeated:
                lacking[f"column '{name}' stands there {part.header.count(name)} times"].append(
                    self.name(part)
                )
            else:
                texts += part.column(name)
        if faults is not None:
            faults += [
                Fault("D08", some(files), what, "Rename the column, or correct the mapping")
                for what, files in lacking.items()
            ]
        return None if lacking else texts

    @cached_property
    def cases(self) -> Mask:
        """Rows that belong to somebody."""
        return np.array([bool(i) for i in self.ids], np.bool_)

    def kept(self, filters: Iterable[Keep], faults: list[Fault]) -> Mask:
        """Which rows of cases pass all filters."""
        mask = self.cases
        for keep in filters:
            cells = self.cells((keep.column,), None if keep.optional else faults)
            if cells is not None:
                accepted = {folded(v) for v in keep.values}
                passing = {c for c in set(cells) if folded(c) in accepted}
                mask = mask & np.array([c in passing for c in cells], np.bool_)
        return mask


def absent(names: Sequence[str], part: Part) -> str:
    """What to say of a column that a part lacks under each of its names."""
    if not any(names):
        return f"the study file leaves open which column it is; the table has {some(part.header)}"
    return (
        f"there is no column {' or '.join(repr(n) for n in names)}{nearest(names[0], part.header)}"
    )


def file_names(parts: Sequence[Part], root: Path) -> list[str]:
    """A hospital's name for each file: its own name; its folder's where all files are called alike;
    else its path."""
    stems = [part.path.stem for part in parts]
    if len(set(stems)) == len(stems):
        return stems
    paths = [part.path.relative_to(root) for part in parts]
    folders = [path.parent.as_posix() for path in paths]
    return (
        folders
        if len(set(stems)) == 1 and "." not in folders
        else [path.with_suffix("").as_posix() for path in paths]
    )


def _id(cell: str, spec: TableSpec) -> str:
    text = cell.strip()
    text = text[: spec.id_length] if spec.id_length else text
    text = text.upper() if spec.capitals else text
    return (text.lstrip("0") or text) if spec.strip_zeros else text


@dataclass
class Account:
    """The patients of the index table, the rows that stand for each, and who is set aside for which
    reason (the first one counts)."""

    index: Loaded
    notes: list[str]
    named: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Of those in `gone`: whom `set_aside` has put there, and which column, which value."""
    ids: tuple[str, ...] = ()
    """Sorted; all patients that are read, also those in `gone`."""
    mask: Mask = field(default_factory=lambda: np.empty(0, np.bool_))
    """Rows of the index table that pass its filters."""
    _positions: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def all_ids(self) -> tuple[str, ...]:
        return self.ids

    @cached_property
    def at(self) -> dict[str, int]:
        return {patient: i for i, patient in enumerate(self.ids)}

    def positions(self, table: Loaded) -> NDArray[np.int64]:
        """(rows of the table,): the position of each row's patient in `ids`, -1 for one who is not
        among them."""
        if table.spec.name not in self._positions:
            at = self.at
            self._positions[table.spec.name] = np.fromiter(
                (at.get(i, -1) for i in table.ids), np.int64, len(table.ids)
            )
        return self._positions[table.spec.name]

    def drop(self, patient: str, reason: str) -> None:
        self.gone.setdefault(patient, reason)

    def excluded(self) -> list[tuple[str, int]]:
        return list(Counter(self.gone.values()).items())

    def set_aside(self, faults: list[Fault]) -> list[Fault]:
        """Set aside the patients whose own cells cannot be read, and return no fault.

        All of `faults` are returned, and nobody is set aside, where one of them is no patient's
        own: another kind of fault, or a column that cannot be read in more than half of the
        patients (a wrong unit or decimal mark); or where nobody would be left.
        """
        reasons: dict[str, list[str]] = {}
        by_column: dict[str, set[str]] = defaultdict(set)
        for fault in faults:
            if not isinstance(fault, CellFault):
                return faults
            for patient, why in fault.reasons.items():
                if patient in self.at:
                    by_column[fault.where].add(patient)
                if patient in self.at and self.gone.get(patient, why) == why:
                    reasons.setdefault(patient, []).append(why)
        most = any(2 * len(patients) > len(self.at) for patients in by_column.values())
        if most or self.at.keys() <= self.gone.keys() | reasons.keys():
            return faults
        for patient, causes in reasons.items():
            self.unreadable[patient] = self.gone[patient] = "; ".join(causes)
        self.notes += [f"set aside, not refused: {fault}" for fault in faults]
        return []

    def filter_index(self, faults: list[Fault]) -> None:
        """Apply the index table's filters one after the other, then its rule on several rows of a
        patient (guard D02)."""
        table, spec = self.index, self.index.spec
        self.ids = tuple(sorted({i for i in table.ids if i}))
        mask = table.cases
        for n, keep in enumerate(spec.keep, 1):
            mask = table.kept(spec.keep[:n], faults if n == len(spec.keep) else [])
            passing = {table.ids[row] for row in np.flatnonzero(mask)}
            for patient in self.ids:
                if patient not in passing:
                    self.drop(patient, keep.why)
        self.mask = mask
        if spec.rows == "one":
            count = Counter(table.ids[row] for row in np.flatnonzero(mask))
            several = sorted(i for i, n in count.items() if n > 1)
            if several and spec.duplicates == "error":
                what = (
                    f"{len(several)} patients have {sum(count[i] for i in several)} rows where "
                    f"one is declared: {some(several)}"
                )
                way = 'Keep one row a patient, or declare duplicates = "quarantine" or "agree"'
                if table.hospitals and len({*zip(table.hospitals, table.ids, strict=True)}) == len(
                    table.ids
                ):
                    way = (
                        "They stand in different hospitals: if ids count anew in each hospital, "
                        "declare id_per_site = true"
                    )
                reasons = dict.fromkeys(several, _SEVERAL)
                faults.append(CellFault("D02", table.where(table.key), what, way, reasons))
            for patient in several:
                self.drop(patient, _SEVERAL)

    def check_persons(self, faults: list[Fault]) -> None:
        """Guard L04: nobody stands under two ids, which may be two sites; and no id stands for two
        people (guard D02)."""
        table, spec = self.index, self.index.spec
        cells = (
            table.cells((spec.person,), None if spec.person_optional else faults)
            if spec.person
            else None
        )
        if cells is None and spec.person:
            self.notes.append(
                f"D02: {table.where()} has no column '{spec.person}': whether one person stands "
                "under several ids is not known"
            )
        if cells is None:
            return
        empty = {folded(n) for n in table.nulls} | {""}
        ids, people = defaultdict(set), defaultdict(set)
        for i, cell in zip(table.ids, cells, strict=True):
            if i and (person := folded(cell)) not in empty:
                ids[person].add(i)
                people[i].add(person)
        twice = sorted(" = ".join(sorted(v)) for v in ids.values() if len(v) > 1)
        if twice:
            what = (
                f"{len(twice)} persons stand under several ids, so they may be trained on at "
                f"one site and scored at another: {some(twice)}"
            )
            faults.append(
                Fault(
                    "L04",
                    table.where(spec.person),
                    what,
                    "Give each person one id, or delete the rows that repeat a person",
                )
            )
        shared = sorted(i for i, v in people.items() if len(v) > 1)
        if shared:
            what = f"{len(shared)} ids stand for several persons each: {some(shared)}"
            way = (
                f"Correct '{table.key}'; if ids count anew in each hospital, declare id_per_site "
                "= true"
            )
            faults.append(Fault("D02", table.where(spec.person), what, way))
