"""Masked step of a station: all that a step asks for in one vector, worked off and masked; or one
code.

What a site cannot give (too few patients, no images) is zeros, which nobody can tell; which plans
these are is settled by the first vector. What fails for reasons that may lie in its rows is told by
one code, M04, whatever they are: a code for each would be an answer about patients that no mask
hides.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from client.site.site_log import SiteLog
from client.station.secure_aggregation import Secure
from common.data.cohort import Cohort
from common.errors import CODES, RefusedError
from common.federated.learner import Contribution, Plan
from common.federated.states import States
from common.wire.masked_messages import Masked
from common.wire.messages import CANNOT, Request, Update

OPEN = frozenset(c for c in CODES if c[0] in "CRSWP") - CANNOT - {"P02"} | {"D07"}
"""Codes that say what a plan, the site's policy, its account or its disk is like, and nothing of
what its rows came to: told as they are, and the same plans may be answered when that is mended."""


@dataclass(frozen=True)
class MaskedSteps:
    """Of one station."""

    secure: Secure
    lock: threading.Lock
    log: SiteLog
    handle: Callable[[Request, float | None], list[Update]]
    """One Update a plan."""
    cohort: Callable[[str, str], Cohort]
    zero: Callable[[Plan, States], Contribution]
    head: Callable[[], str]
    """Of the site's account; empty where it keeps none."""

    def answer(self, request: Request, seconds: float | None) -> tuple[Masked, list[Update]]:
        """What leaves, and what each plan has come to, for the record at the site; never raises."""
        updates: list[Update] = []
        masked = self.log.or_code(lambda: self._worked(request, seconds, updates), Masked)
        if masked.code:
            updates = [replace(u, contribution=None, code=u.code or masked.code) for u in updates]
            updates = updates or [Update(p.hash, None, masked.code) for p in request.plans]
        return masked, updates

    def _worked(self, request: Request, seconds: float | None, updates: list[Update]) -> Masked:
        """`updates` is filled as they come."""
        plans = request.plans
        if not all(p.secure for p in plans):
            raise RefusedError("P04", "some plans of a step are to be masked and others not")
        cohort = self.cohort(plans[0].study, plans[0].task)
        with self.lock:
            absent = self.secure.admit(plans, cohort)
        asked = tuple(p for i, p in enumerate(plans) if i not in absent)
        worked = iter(self.handle(replace(request, plans=asked), seconds) if asked else ())
        updates += [
            Update(p.hash, None, absent[i], self.head()) if i in absent else next(worked)
            for i, p in enumerate(plans)
        ]
        failures = {u.code for p, u in zip(plans, updates, strict=True) if _fails(p, u.code)}
        if not failures <= OPEN:
            return self._failed(plans, cohort)
        if failures:
            return Masked("R09" if "R09" in failures else min(failures))
        absent = {i: u.code for i, u in enumerate(updates) if u.code}
        try:
            with self.lock:
                self.secure.demand_even(plans, absent)
        except RefusedError as error:
            self.log.code(error)
            return self._failed(plans, cohort)
        return self._masked(request, cohort, updates, absent)

    def _masked(
        self,
        request: Request,
        cohort: Cohort,
        updates: Sequence[Update],
        absent: Mapping[int, str],
    ) -> Masked:
        plans = request.plans
        zeros = [self.zero(p, request.states) for p in plans]
        contributions = [u.contribution or zero for u, zero in zip(updates, zeros, strict=True)]
        with self.lock:
            vector, sealed = self.secure.mask(plans, cohort, zeros, contributions, absent)
        return Masked("", max(u.budget for u in updates), vector, sealed)

    def _failed(self, plans: Sequence[Plan], cohort: Cohort) -> Masked:
        with self.lock:
            self.secure.fail(plans, cohort)
        return Masked("M04")


def _fails(plan: Plan, code: str) -> bool:
    """Is there a code for which no zeros stand? Where noise is shared none do: the site's share of
    it would be missing."""
    shared = plan.privacy is not None and plan.privacy.shared > 0
    return bool(code) and (shared or code not in CANNOT)
