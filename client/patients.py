"""Rows and patients: which row of which file belongs to whom, and who is set aside for which reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from client.mapping import Keep, TableSpec
from client.tables import Part, nearest
from client.values import folded
from common.errors import Fault

MANY = 5
"""How many examples an error shows."""


def some(items: Sequence[object]) -> str:
    """At most five items, for a message."""
    shown = ", ".join(str(i) for i in items[:MANY])
    return f"{shown}, ... ({len(items)} in all)" if len(items) > MANY else shown


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

    @classmethod
    def of(cls, spec: TableSpec, parts: list[Part], root: Path, nulls: tuple[str, ...], faults: list[Fault]) -> Loaded:
        table = cls(spec, parts, root, nulls, [])
        table.ids = [_id(cell, spec) for part in parts for cell in part.column(spec.key)]
        if spec.id_pattern:
            other = [i for i in table.ids if not re.fullmatch(spec.id_pattern, i)]
            table.ids = [i if re.fullmatch(spec.id_pattern, i) else "" for i in table.ids]
            if other:
                table.notes.append(f"{len(other)} rows of table '{spec.name}' have no id of a case (legend or empty)")
        else:
            empty = [row for row, i in enumerate(table.ids) if not i]
            if empty:
                what = f"the id is empty in {len(empty)} rows ({table.rows(empty)})"
                faults.append(Fault("D05", table.where(spec.key), what, "Give each row its patient's id, or delete it"))
        return table

    @cached_property
    def place(self) -> list[tuple[Part, int]]:
        return [(part, line) for part in self.parts for line in part.lines]

    def where(self, column: str = "") -> str:
        names = list(dict.fromkeys(p.path.name for p in self.parts))
        return some(names) + (f", column '{column}'" if column else "")

    def rows(self, at: Sequence[int]) -> str:
        """Where rows stand, for a message."""
        if len(self.parts) == 1:
            return "row " + ", ".join(str(self.place[i][1]) for i in at[:MANY]) + (", ..." if len(at) > MANY else "")
        root = self.root if self.root.is_dir() else self.root.parent
        told = [f"{self.place[i][0].path.relative_to(root)}:{self.place[i][1]}" for i in at[:MANY]]
        return ", ".join(told) + (", ..." if len(at) > MANY else "")

    def cells(self, names: Sequence[str], faults: list[Fault] | None) -> list[str] | None:
        """The cells of the first of `names` that each part has; None with a fault (D08) where a part has none of them."""
        out: list[str] = []
        whole = True
        for part in self.parts:
            name = next((n for n in names if n in part.index), None)
            if name is None or name in part.repeated:
                whole = False
                if faults is not None:
                    wanted = " or ".join(repr(n) for n in names)
                    near = nearest(names[0], part.header)
                    what = (
                        f"there is no column {wanted}{near}"
                        if name is None
                        else f"column '{name}' stands there {part.header.count(name)} times"
                    )
                    faults.append(Fault("D08", part.path.name, what, "Rename the column, or correct the mapping"))
                continue
            out += part.column(name)
        return out if whole else None

    def kept(self, filters: Iterable[Keep], faults: list[Fault]) -> list[bool]:
        """Which rows of cases pass all filters."""
        mask = [bool(i) for i in self.ids]
        for keep in filters:
            cells = self.cells((keep.column,), None if keep.optional else faults)
            if cells is not None:
                wanted = {folded(v) for v in keep.values}
                mask = [m and folded(c) in wanted for m, c in zip(mask, cells, strict=True)]
        return mask


def _id(cell: str, spec: TableSpec) -> str:
    text = cell.strip()
    text = text[: spec.id_length] if spec.id_length else text
    return (text.lstrip("0") or text) if spec.strip_zeros else text


@dataclass
class Account:
    """The patients of the index table, the rows that stand for each, and who is set aside for which reason (the first one counts)."""

    index: Loaded
    notes: list[str]
    named: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    """Sorted; all patients that are read, also those in `gone`."""
    mask: list[bool] = field(default_factory=list)
    """Rows of the index table that pass its filters."""

    @property
    def all_ids(self) -> tuple[str, ...]:
        return self.ids

    @cached_property
    def at(self) -> dict[str, int]:
        return {patient: i for i, patient in enumerate(self.ids)}

    def drop(self, patient: str, reason: str) -> None:
        self.gone.setdefault(patient, reason)

    def excluded(self) -> list[tuple[str, int]]:
        return list(Counter(self.gone.values()).items())

    def filter_index(self, faults: list[Fault]) -> None:
        """Apply the index table's filters one after the other, then its rule on several rows of a patient (guard D02)."""
        table, spec = self.index, self.index.spec
        self.ids = tuple(sorted({i for i in table.ids if i}))
        mask = [bool(i) for i in table.ids]
        for n, keep in enumerate(spec.keep, 1):
            mask = table.kept(spec.keep[:n], faults if n == len(spec.keep) else [])
            left = {i for i, m in zip(table.ids, mask, strict=True) if m}
            for patient in self.ids:
                if patient not in left:
                    self.drop(patient, keep.reason)
        self.mask = mask
        if spec.rows == "one":
            count = Counter(i for i, m in zip(table.ids, mask, strict=True) if m)
            several = sorted(i for i, n in count.items() if n > 1)
            if several and spec.duplicates == "error":
                what = f"{len(several)} patients have {sum(count[i] for i in several)} rows where one is declared: {some(several)}"
                faults.append(Fault("D02", table.where(spec.key), what, 'Keep one row a patient, or declare duplicates = "quarantine"'))
            for patient in several:
                self.drop(patient, "several rows where one is declared (D02)")
