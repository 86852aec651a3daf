"""Durable state, what a station must not lose: the answers that it gave, what they cost, and the
record of both. At a hospital it lies on disk.

Its parts remember each other's heads, so that one which was restored from an older copy than the
others is found out at the start. Where all are equally old, a mark in the cache remembers, which is
no part of a backup, and for the account the coordinator, too (`client.station.guard`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.site.site_file import Site
from client.station import audit_log, cohort_pin, privacy_budget, refusals
from client.station.answer_store import Answers
from client.station.audit_log import Audit
from client.station.cohort_pin import Snapshots
from client.station.privacy_budget import Budget
from client.station.refusals import Refusals
from common.errors import RunError

MASKS = "secure"
"""Folder for what secure aggregation must not forget."""


@dataclass(frozen=True)
class Memory:
    answers: Answers = field(default_factory=Answers)
    budget: Budget | None = None
    """Where the site's policy has a finite epsilon."""
    audit: Audit | None = None
    snapshots: Snapshots | None = None
    masks: Path | None = None
    """Folder for what secure aggregation must not forget."""
    refusals: Refusals = field(default_factory=Refusals)


@contextmanager
def opened(site: Site) -> Iterator[Memory]:
    """On disk, in the site's folder for it. RunError or UsageError where something there is
    damaged, missing or older than the rest, or another station's."""
    with ExitStack() as stack:
        site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        budget = (
            stack.enter_context(closing(Budget(site.state, site.privacy)))
            if site.privacy.noised
            else None
        )
        mark = _mark(site)
        audit = stack.enter_context(closing(Audit(site.state / audit_log.NAME, mark)))
        snapshots = stack.enter_context(closing(Snapshots(site.state / "cohorts")))
        _demand_of_one_time(site.state, budget, audit, snapshots)
        if audit.went_back:
            raise RunError(
                "S05",
                f"'{site.state}' is older than '{mark}' says, or another: it was restored from an "
                "older copy, or lost. Restore the newest copy of it as a whole; if there is none, or "
                "it was begun anew on purpose, delete that mark, which says that you know",
            )
        yield Memory(
            Answers(site.state / "answers"),
            budget,
            audit,
            snapshots,
            site.state / MASKS,
            Refusals(site.state / refusals.NAME),
        )


def _demand_of_one_time(
    state: Path, budget: Budget | None, audit: Audit, snapshots: Snapshots
) -> None:
    """RunError S05 where a part does not know what another has seen of it."""
    older = []
    if budget is not None and audit.budget and not budget.knows(audit.budget):
        older.append(f"the account '{state / privacy_budget.NAME}'")
    if not (snapshots.knows(audit.cohorts) and (budget is None or snapshots.knows(budget.cohorts))):
        older.append(f"the record of cohorts '{state / 'cohorts' / cohort_pin.NAME}'")
    older += [
        f"'{state / MASKS / name}', which secure aggregation needs,"
        for name, known in audit.masks.items()
        if _older(state / MASKS / name, known)
    ]
    if older:
        raise RunError(
            "S05",
            f"{' and '.join(older)}: older than what this station has answered since, or another; "
            f"restore the newest copy of '{state}' as a whole",
        )


def _mark(site: Site) -> Path:
    """Where the end of the record stands a second time: in the cache, of whose pictures nobody keeps
    a copy. One for each state, for sites may share a cache."""
    with suppress(OSError):  # a mark that cannot be written misses less, and harms nothing
        site.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    short = hashlib.sha256(str(site.state.resolve()).encode()).hexdigest()[:16]
    return site.cache / f"state-{short}.end"


def _older(path: Path, known: Sequence[str]) -> bool:
    """Is a file gone, or as it was before it was last put on record? What is not on record is newer:
    the station died in between."""
    try:
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return True
    return sha in known and sha != known[-1]
