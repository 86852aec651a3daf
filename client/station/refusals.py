"""Refusals of a day, limited: that a sum did not come about is an answer, too.

A coordinator chooses states, and one that fails at some patients asks a question of them by each
refusal. Counted is what is refused for what sums came to, by question, so that a plan that comes
again counts once; that a sum covers too few patients, by split. On disk before a refusal leaves.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from common.errors import RefusedError, RunError
from common.federated.learner import Plan
from common.runtime.atomic_files import durable

NAME = "refusals.json"


class Refusals:
    """Of one station. `path` None: in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._day, self._coordinator, self._counted = "", "", dict[str, str]()
        if path is not None and path.exists():
            try:
                row = json.loads(path.read_text())
                self._day, self._coordinator = str(row["day"]), str(row["coordinator"])
                self._counted = {str(k): str(v) for k, v in row["refused"].items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunError(
                    "S02",
                    f"'{path}' is damaged ({error}): refusals of today are no longer known; "
                    "delete it, which begins the day anew, once you know why",
                ) from error

    def demand(self, coordinator: str, most: int) -> None:
        """RefusedError P12 where a day's refusals are used up."""
        self._turn(coordinator)
        if len(self._counted) >= most:
            raise RefusedError(
                "P12",
                f"{len(self._counted)} plans of {self._day} were refused for what their sums came "
                f"to, privacy.refusals = {most}: no plan is answered until the next day (UTC). "
                f"Look at the plans in this log, and ask the coordinator why; '{NAME}' in the "
                "site's state names them, and without it the day begins anew",
            )

    def note(self, coordinator: str, plan: Plan, code: str) -> None:
        """A plan that was admitted, and has come to a code."""
        self._turn(coordinator)
        key = f"split {plan.seed} {plan.parts}" if code == "P01" else plan.question
        if key not in self._counted:
            self._counted[key] = f"{code} {plan.run} {plan.place} {plan.phase}"
            self._save()

    def _turn(self, coordinator: str) -> None:
        """A new day, or another coordinator, begins anew; a clock that was set back does not."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        if today > self._day or coordinator != self._coordinator:
            self._day, self._coordinator, self._counted = today, coordinator, {}

    def _save(self) -> None:
        if self._path is not None:
            row = {
                "day": self._day,
                "coordinator": self._coordinator,
                "refused": self._counted,
            }
            durable(
                self._path,
                json.dumps(row, indent=1).encode(),
                "free space at the site; nothing leaves until it is on disk",
            )
