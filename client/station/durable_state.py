"""Durable state, what a station must not lose: the answers that it gave, what they cost, and the
record of both. At a hospital it lies on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client.site.site_file import Site
from client.station import audit_log
from client.station.answer_store import Answers
from client.station.audit_log import Audit
from client.station.cohort_pin import Snapshots
from client.station.privacy_budget import Budget


@dataclass(frozen=True)
class Memory:
    answers: Answers = field(default_factory=Answers)
    budget: Budget | None = None
    """Where the site's policy has a finite epsilon."""
    audit: Audit | None = None
    snapshots: Snapshots | None = None
    masks: Path | None = None
    """Folder for what secure aggregation must not forget."""


@contextmanager
def opened(site: Site) -> Iterator[Memory]:
    """On disk, in the site's folder for it. RunError or UsageError where something there is
    damaged, or another station's."""
    with ExitStack() as stack:
        site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        budget = (
            stack.enter_context(closing(Budget(site.state, site.privacy)))
            if site.privacy.noised
            else None
        )
        audit = stack.enter_context(closing(Audit(site.state / audit_log.NAME)))
        yield Memory(
            Answers(site.state / "answers"),
            budget,
            audit,
            Snapshots(site.state / "cohorts"),
            site.state / "secure",
        )
