"""Cohort pin, the cohort that a site has answered from: another one answers only where it differs
by nobody, or by as many as a sum must cover.

Two sums over cohorts that differ by one patient give that patient away, whatever each of them
covers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from common.data.cohort import Cohort
from common.errors import RefusedError, RunError
from common.runtime.atomic_files import durable


class Snapshots:
    """By study and task, in a folder of the site's: a hash a patient, of all that a learner may
    see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def admit(self, ref: str, task: str, cohort: Cohort, minimum: int) -> None:
        """Remember the cohort, or RefusedError P10 where it differs from the last one by 1 to
        `minimum` - 1 patients."""
        path = self._folder / f"{_short(json.dumps([Path(ref).name, task]).encode())}.json"
        before, now = _read(path), _patients(cohort)
        changed = {
            k for k in now.keys() | (before or {}).keys() if (before or {}).get(k) != now.get(k)
        }
        if before is not None and 0 < len(changed) < minimum:
            raise RefusedError(
                "P10",
                f"{len(changed)} patients of '{ref}' ({task}) were added, removed or changed "
                "since this site last answered: sums from "
                "before and after would give them away. Put the tables back as they were, or "
                f"wait until {minimum} have changed",
            )
        if changed:
            durable(path, json.dumps(now).encode(), "free space at the site")


def _patients(cohort: Cohort) -> dict[str, str]:
    """Hash of the id -> hash of what is known of the patient."""
    pictures = cohort.pictures or (None,) * len(cohort)
    followed = cohort.survival if cohort.survival is not None else np.zeros((len(cohort), 0))
    hashes = {}
    for i, row, label, since, picture in zip(
        cohort.ids, cohort.values, cohort.labels, followed, pictures, strict=True
    ):
        content = [
            row.tobytes(),
            label.tobytes(),
            since.tobytes(),
            (picture.key if picture else "").encode(),
        ]
        hashes[_short(str(i).encode())] = _short(b"".join(content))
    return hashes


def _short(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:24]


def _read(path: Path) -> dict[str, str] | None:
    try:
        return dict(json.loads(path.read_text())) if path.exists() else None
    except (OSError, ValueError) as error:
        raise RunError(
            "S02",
            f"'{path}' is damaged ({error}); restore it from a backup: it says whom sums were "
            "about",
        ) from error
