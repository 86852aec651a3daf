"""Cohort: a frozen snapshot of one site's cases for one Schema, the folds that hashing puts them
in, and who was left out and why."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from common.data.picture import Picture
from common.data.schema import Floats, Schema
from common.errors import UsageError
from common.runtime.cache import Cache

UNKNOWN = -1
"""The label of a case whose label is not known. Such a case is kept apart: it is never trained on
and never scored."""

ESTIMABLE = 10
"""Guard E01: fewer cases than this in each of two classes, and nothing is estimated from them."""


@dataclass(frozen=True, order=True)
class Fold:
    """A training set, named by what it leaves out: whole sites, some of the hash parts of every
    site, or nothing.

    `Fold()` trains on everybody; `Fold(parts=(2,))` is the model that predicts part 2;
    `Fold(parts=(2, 4))` is the one whose predictions on part 4 set the threshold used on part 2;
    `Fold(sites=("A",))` never sees site A.
    """

    sites: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """A name for files and ledgers."""
        words = []
        if self.sites:
            names = "|".join(self.sites)
            words.append(
                f"site:{names}"
                if len(self.sites) == 1
                else f"sites:{len(self.sites)}:{hashlib.sha256(names.encode()).hexdigest()[:8]}"
            )
        if self.parts:
            words.append("part:" + "+".join(map(str, self.parts)))
        return " ".join(words) or "all"


@dataclass(frozen=True)
class Flow:
    """Patients read = excluded + kept. Counts may travel; `ids` stay at the site (they name
    patients)."""

    read: int = 0
    excluded: tuple[tuple[str, int], ...] = ()
    """(reason, patients), in the order in which the reasons were applied; a patient is counted
    once."""
    kept: int = 0
    unknown_label: int = 0
    """Kept patients whose label is unknown: not trained on, not scored."""
    label_source: str = ""
    notes: tuple[str, ...] = ()
    """Sentences with counts but without ids: unmatched join keys, values set aside by a declared
    rule."""
    ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        excluded = sum(n for _, n in self.excluded)
        if self.read != excluded + self.kept:
            raise AssertionError(
                f"flow account does not add up: read {self.read}, excluded {excluded}, kept "
                f"{self.kept}"
            )


@dataclass(frozen=True, eq=False)
class Cohort:
    """One site's cases. Arrays share their first axis; cases are sorted by id, so that sums are
    reproducible.

    A cohort is equal to itself alone: what is derived from it is remembered by its identity.
    """

    site: str
    schema: Schema
    ids: tuple[str, ...]
    values: Floats
    """(cases, features): numbers in the schema's unit, choices as vocabulary index; NaN where
    missing."""
    labels: NDArray[np.int64]
    """(cases,): class index, or UNKNOWN."""
    flow: Flow = field(default_factory=Flow)
    modalities: frozenset[str] = frozenset({"table"})
    survival: Floats | None = None
    """(cases, 2): follow-up time in the schema's unit and event (1) or censored (0); NaN where not
    known."""
    pictures: tuple[Picture | None, ...] = ()
    """(cases,): each case's image, or None; empty where the site holds none."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def design(self) -> Floats:
        """(cases, schema columns) in natural units, NaN where missing."""
        matrix = self.schema.design(self.values)
        matrix.flags.writeable = False
        return matrix

    @cached_property
    def tabled(self) -> NDArray[np.bool_]:
        """(cases,): has the case a table row with any known value?"""
        return (
            np.asarray(~np.isnan(self.values).all(axis=1))
            if "table" in self.modalities
            else np.zeros(len(self), np.bool_)
        )

    @cached_property
    def imaged(self) -> NDArray[np.bool_]:
        """(cases,): has the case an image?"""
        return (
            np.array([p is not None for p in self.pictures], np.bool_)
            if self.pictures
            else np.zeros(len(self), np.bool_)
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the snapshot. Stays at the site: it would let an outsider test a guess of the
        table."""
        h = hashlib.sha256(self.schema.hash.encode())
        pictures = "\n".join(p.key if p else "" for p in self.pictures)
        for part in (
            "\n".join(self.ids).encode(),
            self.values.tobytes(),
            self.labels.tobytes(),
            pictures.encode(),
        ):
            h.update(hashlib.sha256(part).digest())
        return h.hexdigest()

    def where(self, mask: NDArray[np.bool_]) -> Cohort:
        """The cases that `mask` marks."""
        if bool(mask.all()):
            return self
        return replace(
            self,
            ids=tuple(i for i, keep in zip(self.ids, mask, strict=True) if keep),
            values=self.values[mask],
            labels=self.labels[mask],
            survival=None if self.survival is None else self.survival[mask],
            pictures=tuple(p for p, keep in zip(self.pictures, mask, strict=True) if keep)
            if self.pictures
            else (),
        )

    def only(self, i: int) -> Cohort:
        """The case at `i`, in a time that does not grow with the number of the others."""
        one = slice(i, i + 1)
        return replace(
            self,
            ids=self.ids[one],
            values=self.values[one].copy(),
            labels=self.labels[one].copy(),
            survival=None if self.survival is None else self.survival[one].copy(),
            pictures=self.pictures[one],
        )

    def parts(self, seed: int, count: int) -> NDArray[np.int64]:
        """(cases,): the hash part, 0 .. count - 1, of each patient. It depends on the split seed
        and the id alone."""
        if count < 2:
            raise UsageError("C01", f"the number of folds is {count}; at least 2 are needed")
        parts: NDArray[np.int64] | None = self.derived.get(("parts", seed, count))
        if parts is None:
            parts = np.array([part_of(seed, i, count) for i in self.ids], np.int64).reshape(
                len(self.ids)
            )
            self.derived["parts", seed, count] = parts
        return parts

    def train(self, fold: Fold, seed: int, count: int, *, labelled: bool = True) -> Cohort:
        """The cases that `fold` trains on; with `labelled=False` also those of unknown label (never
        those of what it leaves out)."""

        def trained_on() -> NDArray[np.bool_]:
            if self.site in fold.sites:
                return np.zeros(len(self), np.bool_)
            mask = self.labels != UNKNOWN if labelled else np.ones(len(self), np.bool_)
            return mask & ~np.isin(self.parts(seed, count), fold.parts) if fold.parts else mask

        return self.selected(("train", fold, seed, count, labelled), trained_on)

    @property
    def derived(self) -> Cache[Hashable, Any]:
        """What learners have made of these cases, by a key of their own, as long as the cohort
        lives. Never the cohort itself."""
        derived = _DERIVED.get(self)
        return (
            _DERIVED.setdefault(self, Cache(DERIVED_LIMIT, _bytes)) if derived is None else derived
        )

    def selected(self, key: Hashable, mask: Callable[[], NDArray[np.bool_]]) -> Cohort:
        """The cases that `mask` marks, remembered under `key`: the same cohort as long as it is
        remembered."""
        rows: Cohort | None = self.derived.get(key)
        if rows is None:
            rows = self.where(mask())
            if rows is not self:
                self.derived[key] = rows
        return rows


_DERIVED: WeakKeyDictionary[Cohort, Cache[Hashable, Any]] = WeakKeyDictionary()
DERIVED_LIMIT = 1 << 31
"""Bytes of arrays that are derived from one cohort."""


def _bytes(derived: object) -> int:
    """Of the arrays in what is derived from a cohort."""
    if isinstance(derived, np.ndarray):
        return int(derived.nbytes)
    if isinstance(derived, Cohort):
        return _bytes((derived.values, derived.labels, derived.survival))
    if isinstance(derived, tuple):
        return sum(map(_bytes, derived))
    return _bytes(tuple(vars(derived).values())) if is_dataclass(derived) else 0


def part_of(seed: int, patient: str, count: int) -> int:
    """The hash part of one patient: SHA-256 of seed and id, modulo the number of parts."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{patient}".encode()).digest()[:8], "big") % count


def empty(schema: Schema, site: str = "") -> Cohort:
    """A cohort of nobody: what every learner must answer with zeros of the right shape."""
    return Cohort(site, schema, (), np.empty((0, len(schema.features))), np.empty(0, np.int64))


def pooled(cohorts: Sequence[Cohort], name: str = "pooled") -> Cohort:
    """All cases of several sites as one cohort; only a simulation, or a single site, can have such
    a thing."""
    return replace(
        cohorts[0],
        site=name,
        ids=tuple(i for c in cohorts for i in c.ids),
        values=np.concatenate([c.values for c in cohorts]),
        labels=np.concatenate([c.labels for c in cohorts]),
        survival=None
        if any(c.survival is None for c in cohorts)
        else np.concatenate([c.survival for c in cohorts if c.survival is not None]),
        pictures=tuple(p for c in cohorts for p in (c.pictures or (None,) * len(c)))
        if any(c.pictures for c in cohorts)
        else (),
        modalities=frozenset().union(*(c.modalities for c in cohorts)),
        flow=Flow(),
    )
