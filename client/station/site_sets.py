"""Set of sites with which a patient is summed up under masks: one for good, whatever the run, study
or task.

The difference of two sums over the same patients is the sum of the sites that stand in one set and
not in the other. Cohorts that share no patient may have sets of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.data.cohort import Cohort
from common.errors import RefusedError, RunError
from common.runtime.atomic_files import durable

NAME = "sets.json"


@dataclass
class _Book:
    sets: list[tuple[str, ...]] = field(default_factory=list)
    patients: dict[str, int] = field(default_factory=dict)
    """Hash of the id -> the place in `sets` of the set that it was last summed up with."""


class SiteSets:
    """Of one station. `folder` None: in memory only; `one` False: the site's IT allows any set, and
    what it was is written down all the same."""

    def __init__(
        self, folder: Path | None, one: bool, written: MutableMapping[str, str] | None = None
    ) -> None:
        """`written`: file -> SHA-256 of what was last written into it; taken by who records it."""
        self._path = folder / NAME if folder else None
        self._written = {} if written is None else written
        self._one = one
        self._book: _Book | None = None
        self._kept: set[tuple[str, tuple[str, ...]]] = set()
        """Cohort and set that are in the book."""

    def admit(self, cohort: Cohort, sites: Sequence[str]) -> None:
        """RefusedError M05 where a patient of the cohort has been summed up with other sites."""
        if not self._one or (cohort.hash, tuple(sites)) in self._kept:
            return
        book = self._opened()
        pinned = {book.patients[p] for p in _patients(cohort.ids) if p in book.patients}
        others = [book.sets[i] for i in sorted(pinned) if book.sets[i] != tuple(sites)]
        if others:
            sets = "; and ".join(", ".join(s) for s in others)
            raise RefusedError(
                "M05",
                f"this sum is to be over {', '.join(sites)}, and patients of this site are in sums "
                f"over {sets}: the difference tells the sum of the sites between. Ask for the same "
                'sites again, or, knowing that, set `sets = "any"` in [privacy] of the site file '
                "for this run",
            )

    def keep(self, cohort: Cohort, sites: Sequence[str]) -> None:
        """On disk, before a vector of the cohort's leaves for a sum over these sites."""
        self.admit(cohort, sites)
        key = cohort.hash, tuple(sites)
        if key in self._kept:
            return
        book = self._opened()
        if tuple(sites) not in book.sets:
            book.sets.append(tuple(sites))
        book.patients |= dict.fromkeys(_patients(cohort.ids), book.sets.index(tuple(sites)))
        if self._path:
            blob = json.dumps({"sets": book.sets, "patients": book.patients}).encode()
            durable(self._path, blob, "free space at the site; nothing leaves before that")
            self._written[self._path.name] = hashlib.sha256(blob).hexdigest()
        self._kept = {k for k in self._kept if k[1] == tuple(sites)} | {key}

    def _opened(self) -> _Book:
        if self._book is None:
            self._book = _read(self._path) if self._path and self._path.exists() else _Book()
        return self._book


def _patients(ids: Iterable[str]) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest()[:24] for i in ids]


def _read(path: Path) -> _Book:
    try:
        row = json.loads(path.read_text())
        book = _Book([tuple(s) for s in row["sets"]], dict(row["patients"]))
        if not all(0 <= i < len(book.sets) for i in book.patients.values()):
            raise ValueError("a patient's set is not there")
        return book
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            "S02",
            f"'{path}' is damaged ({error}); restore it from a backup: it says with which sites "
            "patients were summed up",
        ) from error
