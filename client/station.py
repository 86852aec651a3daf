"""The site's service that holds the data: admit a plan, contribute, release an update. It has no network of its own.

In simulation, and until a socket stands between them, the courier calls this object in its own process.
"""

from __future__ import annotations

import logging
import re
import traceback
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

import common
from client import guard, intake
from client import site as site_file
from client.site import Site
from common import learner, study
from common.cohort import ESTIMABLE, UNKNOWN, Cohort
from common.errors import FedmetsError, RefusedError, UsageError
from common.exchange import Hello, Request, States, Update
from common.learner import Plan
from common.threads import fix_threads


class Station:
    """Keeps the cohort warm between plans. Errors are written to the site's log in full; callers get codes only."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._log = _logger(site.log)
        self._answered: dict[str, Update] = {}

    def hello(self, ref: str, task: str, schema: str) -> Hello:
        """Can this site take part in a task? Reads the cohort; never raises."""
        try:
            cohort = self.cohort(ref, task)
            if schema != cohort.schema.hash:
                raise RefusedError(
                    "D07", f"the coordinator's schema of '{ref}' ({task}) is not this site's; use the same fedmets and study version"
                )
            cases = int((cohort.labels != UNKNOWN).sum())
            counts = np.bincount(cohort.labels[cohort.labels != UNKNOWN], minlength=2)
            pictured = np.bincount(cohort.labels[(cohort.labels != UNKNOWN) & cohort.imaged], minlength=2)
            return Hello(
                site=self.site.name,
                version=common.__version__,
                schema=cohort.schema.hash,
                modalities=tuple(sorted(cohort.modalities)),
                learners=learner.names(),
                cases=cases if cases >= self.site.minimum else 0,
                estimable=not self.site.pooled and bool((counts >= ESTIMABLE).sum() >= 2),
                imaged=int(pictured.sum()) if pictured.sum() >= self.site.minimum else 0,
                imaged_estimable=not self.site.pooled and bool((pictured >= ESTIMABLE).sum() >= 2),
            )
        except Exception as error:
            return Hello(self.site.name, common.__version__, "", (), (), 0, code=self._note(error))

    def handle(self, request: Request) -> list[Update]:
        """One Update a plan, in their order; never raises. A repeated plan gets the stored answer."""
        answers = [self._answered.get(p.hash) or self._answer(p, request.states) for p in request.plans]
        self._answered = {u.plan_hash: u for u in answers}
        return answers

    def cohort(self, ref: str, task: str) -> Cohort:
        """The site's frozen snapshot for a task."""
        local = next((s for s in self.site.studies if s == ref or Path(s).name == Path(ref).name), None)
        if local is None:
            raise RefusedError(
                "C02", f"site '{self.site.name}' takes no part in study '{ref}'; site.toml allows {', '.join(self.site.studies)}"
            )
        return _cohort(self.site, local, task)

    def _answer(self, plan: Plan, states: States) -> Update:
        try:
            cohort = self.cohort(plan.study, plan.task)
            asked = guard.admit(plan, self.site, cohort)
            state = guard.state_for(plan, states)
            contribution = asked.contribute(state, cohort, plan)
            return Update(plan.hash, guard.release(contribution, asked, state, plan, cohort, self.site.minimum))
        except Exception as error:
            return Update(plan.hash, None, self._note(error))

    def _note(self, error: Exception) -> str:
        """Write the error to the site's log; return the code, the only thing that may leave."""
        if isinstance(error, FedmetsError):
            self._log.error("%s", FedmetsError(error.code, *map(_one_line, error.faults)))
            return error.code
        told = "".join(traceback.format_exception(error))
        self._log.error("[X01] %s", "\n".join(map(_one_line, told.split("\n"))))
        return "X01"


@cache
def open_station(path: str) -> Station:
    """The station of a `site.toml`, one a process."""
    fix_threads()
    site = site_file.load(Path(path))
    try:
        return Station(site)
    except OSError as error:
        raise UsageError(
            "C01", f"site '{site.name}': its log '{site.log}' cannot be written ({error.strerror}); mend `log` in {path}"
        ) from error


@cache
def _cohort(site: Site, ref: str, task: str) -> Cohort:
    patients = frozenset(site.patients.read_text(encoding="utf-8").split("\n")) - {""} if site.patients else None
    reading = _table(ref, task, site.data, site.source, site.images, site.cache)
    cohort = intake.select(reading, site.name, patients)
    for line in reading.told(cohort.ids):
        _logger(site.log).info("%s", _one_line(line))
    return cohort


_CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")


def _one_line(text: str) -> str:
    """What stands in a file's name must not look like a line of the log."""
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


@lru_cache(maxsize=4)
def _table(ref: str, task: str, data: Path, source: str, images: Path | None, cache: Path) -> intake.Reading:
    """Virtual sites of one table, in one process, read it once, and share one cache of its images."""
    return intake.read_table(study.load(ref), task, data, source=source or None, images=images, cache=cache)


def _logger(path: Path) -> logging.Logger:
    log = logging.getLogger(f"fedmets.station.{path}")
    if not log.handlers:
        # opened now: an error that cannot be written here would otherwise leave by another way
        # a file's name may hold bytes that are no text
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log
