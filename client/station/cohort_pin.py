"""Cohort pin, the cohorts that a site has ever answered from: another one answers only where it
differs from each of them by nobody, or by as many as a sum must cover.

Two sums over cohorts that differ by one patient give that patient away, whatever each of them
covers, and whatever was answered in between.

Compared is who is in, of all studies and tasks; and within one study and task also each patient's
row, label, follow-up and picture, apart from each other, for learners sum over them apart: one
corrected row among twenty new pictures is still one. A sum over a fold, or what three cohorts and
more give away together, is not looked at: an epsilon is for that.

On disk it is a chain, a line a cohort, of what changed since the line before of the same study and
task: 54 bytes a patient that came or changed, keyed hashes all, whose key stands in the first line.
In memory it is read anew whenever a cohort is new, and is never larger than `MOST_ROWS` allows.
"""

from __future__ import annotations

import base64
import secrets
import threading
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN, Cohort
from common.errors import RefusedError, RunError
from common.runtime.hash_chain import Chain

NAME = "cohorts.jsonl"
MOST_ROWS = 2_000_000
"""Patients that came, changed or went, over all cohorts; about 110 MB on disk, 80 in memory."""
PARTS = ("in the cohort", "table row", "label", "follow-up", "picture")

Rows = NDArray[np.uint64]
"""(patients, parts): hash of the patient's id, then of each part of what is known, 0 where nothing
is; sorted by the first."""
Asked = tuple[str, str, str]
"""Study, task, schema hash."""


class _Record(Chain):
    room = "free space at the site; nothing is answered from a cohort that is not on record"
    mend = "restore the newest copy of it: it says whom sums were about"


class Snapshots:
    """Of one station, in a folder of the site's. RunError S02 where the record is damaged."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        earlier = sorted(folder.glob("*.json"))
        if earlier:
            raise RunError(
                "S02",
                f"'{earlier[0]}' was written by another version, and says whom sums were about; use "
                "the version that wrote it",
            )
        self._chain = _Record(folder / NAME)
        self._heads = {str(line["hash"]) for line in self._chain.lines}
        self._key = next((bytes.fromhex(x["key"]) for x in self._chain.lines[:1]), b"")
        self._chain.forget()
        self._lock = threading.Lock()

    @property
    def head(self) -> str:
        """'' before the first cohort."""
        return self._chain.head if self._heads else ""

    def knows(self, head: str) -> bool:
        """Was this ever the head? One that is not comes from a later state of the record."""
        return not head or head in self._heads

    def admit(self, ref: str, task: str, cohort: Cohort, minimum: int) -> None:
        """Remember the cohort. RefusedError P10 where it differs from any before by 1 to `minimum`
        - 1 patients, or where no more can be remembered; RunError S03 where the disk is full."""
        with self._lock:
            self._admit(ref, task, cohort, minimum)

    def _admit(self, ref: str, task: str, cohort: Cohort, minimum: int) -> None:
        self._begin()
        asked = Path(ref).name, task, cohort.schema.hash
        now, latest, taken = self._rows(cohort), _none(), 0
        for before, rows, changed in _replayed(_Record.contents(self._chain.path).lines):
            taken += changed
            if before[:2] == asked[:2]:
                latest = rows
            differing = _differing(rows, now)
            if before != asked:
                differing = differing[:1]
            elif not any(differing):
                return
            _demand_many(f"'{ref}' ({task})", before, differing, minimum)
        known = set(map(bytes, latest))
        came = np.array([row for row in now if bytes(row) not in known], np.uint64).reshape(
            -1, len(PARTS)
        )
        gone = np.setdiff1d(latest[:, 0], now[:, 0])
        if taken + len(came) + len(gone) > MOST_ROWS:
            raise RefusedError(
                "P10",
                f"'{ref}' ({task}) is another cohort than those that this site has answered from, "
                f"and it remembers no more than {MOST_ROWS:,} patients that came, changed or went: "
                "put the tables back as they were for one of them",
            )
        self._append(
            "cohort",
            asked=list(asked),
            minimum=minimum,
            came=_text(came),
            gone=_text(gone),
        )

    def close(self) -> None:
        self._chain.close()

    def _begin(self) -> None:
        if not self._heads:
            self._key = secrets.token_bytes(32)
            self._append("new", key=self._key.hex())

    def _append(self, kind: str, **content: Any) -> None:
        self._chain.append(kind, **content)
        self._heads.add(self._chain.head)

    def _rows(self, cohort: Cohort) -> Rows:
        n = len(cohort)
        pictures = cohort.pictures or (None,) * n
        followed = cohort.survival if cohort.survival is not None else np.full((n, 2), np.nan)
        columns = (
            [patient.encode() for patient in cohort.ids],
            [b"" if np.isnan(row).all() else row.tobytes() for row in cohort.values],
            [b"" if label == UNKNOWN else label.tobytes() for label in cohort.labels],
            [b"" if np.isnan(row).all() else row.tobytes() for row in followed],
            [picture.key.encode() if picture else b"" for picture in pictures],
        )
        rows = np.array([[self._hash(cell) for cell in c] for c in columns], np.uint64).T
        return rows[np.argsort(rows[:, 0], kind="stable")]

    def _hash(self, cell: bytes) -> int:
        return int.from_bytes(blake2b(cell, digest_size=8, key=self._key).digest()) if cell else 0


def _replayed(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[Asked, Rows, int]]:
    """Every cohort on record: what was asked, its rows, and how many of them had changed."""
    latest: dict[tuple[str, str], Rows] = {}
    for line in lines:
        if line["kind"] != "cohort":
            continue
        study, task, schema = line["asked"]
        came, gone = _array(line["came"]).reshape(-1, len(PARTS)), _array(line["gone"])
        before = latest.get((study, task), _none())
        kept = before[~np.isin(before[:, 0], np.concatenate([came[:, 0], gone]))]
        rows = np.concatenate([kept, came])
        rows = latest[study, task] = rows[np.argsort(rows[:, 0], kind="stable")]
        yield (study, task, schema), rows, len(came) + len(gone)


def _differing(a: Rows, b: Rows) -> list[int]:
    """Patients by whom two cohorts differ, in each of `PARTS`."""
    ids = np.union1d(a[:, 0], b[:, 0])
    aligned = np.zeros((2, len(ids), len(PARTS)), np.uint64)
    for side, rows in zip(aligned, (a, b), strict=True):
        side[np.searchsorted(ids, rows[:, 0])] = rows
    return [int(n) for n in (aligned[0] != aligned[1]).sum(axis=0)]


def _demand_many(what: str, before: Asked, differing: Sequence[int], minimum: int) -> None:
    few = [(n, part) for n, part in zip(differing, PARTS, strict=False) if 0 < n < minimum]
    if few:
        n, part = few[0]
        raise RefusedError(
            "P10",
            f"{n} patients of {what} were added, removed or changed ({part}) since this site "
            f"answered from '{before[0]}' ({before[1]}), now or before: sums from both would give "
            f"them away. Put the tables back as they were, or wait until {minimum} have changed",
        )


def _none() -> Rows:
    return np.zeros((0, len(PARTS)), np.uint64)


def _text(numbers: NDArray[np.uint64]) -> str:
    return base64.b64encode(numbers.astype("<u8").tobytes()).decode()


def _array(text: str) -> NDArray[np.uint64]:
    return np.frombuffer(base64.b64decode(text), "<u8").astype(np.uint64)
