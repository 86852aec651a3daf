"""Privacy budget, what a site may still reveal about its patients: one account for every cohort,
study, task, fold and run drawn from them.

A line of the chain is written and synced before what it pays for leaves; a crash in between charges
for nothing, never the other way round. The first line says that the account is new: a file that is
missing was lost, until its owner says otherwise (`begin`). A patient stands in one part of a run's
split: what left out that part cost the patient nothing, so the account is kept by part, and the
dearest part counts (of splits by other seeds each its own).
"""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from client.site.privacy_policy import Policy
from client.station.charge import Charge, read_charge
from common.errors import RefusedError, RunError, UsageError
from common.privacy.by_part import ByPart
from common.privacy.mechanism import (
    ACCOUNTANT,
    COUNTS,
)
from common.privacy.random import rounded_normal
from common.runtime.hash_chain import Chain

NAME = "budget.jsonl"
SLACK = 300.0
"""Seconds by which a clock may be set back, as a time server does."""
_ROUNDING = 1e-3
NO_BOUND = (
    "no epsilon can be promised for these patients any more: set privacy.epsilon = inf in the site "
    "file, which says so openly, or begin a new `state` folder with other patients; keep this one"
)


class Spending:
    """Charges put together, by part of each split."""

    def __init__(self, lines: Sequence[dict[str, Any]] = (), path: Path = Path(NAME)) -> None:
        self._by_part = ByPart()
        self._alone = ByPart()
        self.charges = 0
        self.shared = 0
        """Of these, releases whose noise is shared."""
        self.faults: list[str] = []
        """Why it has no bound, by line."""
        for number, line in enumerate(lines, start=1):
            where = f"'{path}' line {number}"
            for row in line["charges"]:
                self._read(row, where)
            if not _finite(line.get("spent", 0.0)):
                self.faults.append(f"{where} says that {line['spent']!r} was spent")
        if lines and not self.faults:
            self._compare(lines[-1], f"'{path}' line {len(lines)}")

    def _read(self, row: dict[str, Any], where: str) -> None:
        try:
            self.add(read_charge(row, where))
        except ValueError as error:
            self.faults.append(f"{where} charges for what has no bound that can be added: {error}")

    def _compare(self, line: dict[str, Any], where: str) -> None:
        """What was spent can only grow; another accountant's figures are not compared."""
        if line.get("accountant") == ACCOUNTANT:
            spent = self.epsilon(line["delta"])
            if not spent >= line["spent"] * (1 - _ROUNDING):
                self.faults.append(
                    f"{where} says that {line['spent']:g} was spent, and its charges come to "
                    f"{spent:g}"
                )

    def add(self, charge: Charge) -> None:
        self._by_part.add(charge.share)
        self._alone.add(charge.share_alone)
        self.charges += 1
        self.shared += charge.shares > 0

    def epsilon(self, delta: float, more: Charge | None = None) -> float:
        """At `delta`; `more`: if it were charged, too."""
        if self.faults:
            return math.inf
        return self._by_part.epsilon(delta, more.share if more else None)

    def alone(self, delta: float) -> float:
        """At `delta`, against the coordinator by itself: no site is in league with it, and none
        reads along."""
        return math.inf if self.faults else min(self._alone.epsilon(delta), self.epsilon(delta))


class _Account(Chain):
    room = "free space at the site; nothing leaves until what it costs is on disk"
    mend = (
        "what was spent is no longer known: restore this very file; without it the site has no "
        "budget"
    )


class Budget:
    """Of one station; two on one file are refused (C05), and so are a clock that is behind what is
    written (S04), an account that nobody has begun (S05) and one that has no bound (S06).

    The lines hold what was done; what it comes to, and how much is left, is by the policy's epsilon
    and delta of today.
    """

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.policy = policy
        self._path = folder / NAME
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._pending: list[Charge] = []
        self._lock = threading.Lock()
        with ExitStack() as opened:
            opened.callback(os.close, _exclusive_lock(folder / "budget.lock"))
            _demand_begun(self._path)
            self._chain = opened.enter_context(closing(_Account(self._path)))
            self._spending = Spending(self._chain.lines, self._path)
            if self._spending.faults:
                raise RunError("S06", *self._spending.faults, NO_BOUND)
            self._heads = {str(line["hash"]) for line in self._chain.lines}
            self._told = any(line["kind"] == "charge" for line in self._chain.lines)
            self.cohorts = next(
                (str(x["cohorts"]) for x in reversed(self._chain.lines) if x["kind"] == "cohorts"),
                "",
            )
            """Head of the record of cohorts when one was last added (`client.station.cohort_pin`)."""
            self._last = max((float(line["time"]) for line in self._chain.lines), default=0.0)
            self._counts = {
                line["cohort"]: line["told"]
                for line in self._chain.lines
                if line["kind"] == "counts"
            }
            self._chain.forget()
            self._check_clock()
            self._resources = opened.pop_all()

    @property
    def head(self) -> str:
        return self._chain.head

    @property
    def spent(self) -> float:
        """Epsilon at the policy's delta, what waits to be written included."""
        return self._spending.epsilon(self.policy.delta)

    def knows(self, head: str) -> bool:
        """Was this ever the head? One that is not comes from a later state of the account: this one
        is an old copy. None ('') is what a coordinator has before the first answer, and only
        then."""
        return head in self._heads if head else not self._told

    def affordable(self, charge: Charge) -> None:
        """RefusedError P09 where the release would cost more than is left."""
        with self._lock:
            self._afford(charge)

    def reserve(self, charge: Charge) -> None:
        """Take it from the account in memory; `settle` writes it. RefusedError P09 where it is more
        than is left."""
        with self._lock:
            self._afford(charge)
            self._pending.append(charge)
            self._spending.add(charge)

    def settle(self) -> str:
        """Write what was reserved, synced to disk. Returns the head that may be told, '' before the
        first charge. RunError S03 where the disk is full: then nothing may leave."""
        with self._lock:
            if self._pending:
                self._write("charge", self._pending)
                self._pending, self._told = [], True
            return self.head if self._told else ""

    def pin(self, cohorts: str) -> None:
        """Remember the head of the record of cohorts, so that an older copy of that is found out,
        too."""
        with self._lock:
            if cohorts != self.cohorts:
                self._write("cohorts", (), cohorts=cohorts)
                self.cohorts = cohorts

    def _write(self, kind: str, charges: Sequence[Charge], **more: Any) -> None:
        self._check_clock()
        self._last = time.time()
        spent = {"accountant": ACCOUNTANT, "spent": self.spent}
        limit = {"epsilon": self.policy.epsilon, "delta": self.policy.delta, **spent}
        self._chain.append(
            kind, time=self._last, **limit, charges=[asdict(c) for c in charges], **more
        )
        self._heads.add(self.head)

    def counts(self, cohort: str, exact: Sequence[int]) -> list[int]:
        """Counts of a cohort, of which a patient stands in at most two: noised once, then
        remembered, for they are told in every greeting.

        cohort: hash of the snapshot. RefusedError P09 where even that is more than is left.
        """
        with self._lock:
            noised_counts = self._counts.get(cohort)
            if noised_counts is None:
                charge = Charge("greetings", 0, "counts", "", cohort, COUNTS, (0, 1), ())
                self._afford(charge)
                noise = rounded_normal(len(exact), COUNTS * math.sqrt(2))
                noised_counts = [max(n + int(z), 0) for n, z in zip(exact, noise, strict=True)]
                self._spending.add(charge)
                self._write("counts", [charge], cohort=cohort, told=noised_counts)
                self._counts[cohort] = noised_counts
            return noised_counts

    def close(self) -> None:
        self._resources.close()

    def _afford(self, charge: Charge) -> None:
        after = self._spending.epsilon(self.policy.delta, charge)
        # what is no number is not allowed either
        if not after <= self.policy.epsilon:
            raise RefusedError(
                "P09",
                f"{charge.learner}, fold '{charge.fold}', noise {charge.noise:g}: epsilon would "
                f"be {after:.3f} "
                f"at delta {self.policy.delta:g}, the site allows {self.policy.epsilon:g} and has "
                f"spent {self.spent:.3f}",
            )

    def _check_clock(self) -> None:
        behind = self._last - time.time()
        if behind > SLACK:
            raise RunError(
                "S04",
                f"'{self._path}' was last written {behind:.0f} s after what the clock says now; "
                "set the clock",
            )


def _finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def begin(folder: Path) -> str:
    """Begin a site's account, which is its owner's word that none was there before. Returns its
    head.

    RunError S01 where there is one, S02 where there was one whose lines are gone.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as opened:
        opened.callback(os.close, _exclusive_lock(folder / "budget.lock"))
        chain = opened.enter_context(closing(_Account(folder / NAME)))
        if chain.lines:
            raise RunError(
                "S01",
                f"'{folder / NAME}' is an account already, of {len(chain.lines)} lines; a site has "
                "one, for all studies and runs, and goes on with it",
            )
        # another account than any before it, whenever it is begun
        chain.append("new", time=time.time(), nonce=secrets.token_hex(16), charges=[])
        return chain.head


def _demand_begun(path: Path) -> None:
    if not _Account.contents(path).lines:
        raise RunError(
            "S05",
            f"there is no account at '{path}', and this site has an epsilon. If it has ever answered "
            "under one, restore the newest copy of the account; if it never has, say so, once: "
            "fedmets client budget --site FILE --new",
        )


def _exclusive_lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise UsageError(
            "C05",
            f"another station has the account of '{path.parent}' open; one is enough: stop the "
            "other",
        ) from error
    return lock


def trust(told: Mapping[str, Any]) -> str:
    """In words, whom what was spent counts on (`read`); empty where nobody."""
    if not told["shared"]:
        return ""
    league = told["colluders"] or 0
    return (
        f"{told['shared']} releases share noise with the sites of [privacy.peers]: this holds against "
        f"a coordinator with at most {league} of them in league, and against each other site that "
        f"reads along; against the coordinator alone it is {told['alone']:.3f}"
    )


def read(folder: Path, policy: Policy) -> dict[str, Any]:
    """What was spent and what is left, also while a station has the account open. RunError S02
    where a line was altered."""
    path = folder / NAME
    lines = _Account.contents(path).lines
    spending = Spending(lines, path)
    spent = spending.epsilon(policy.delta) if lines and policy.delta else 0.0
    runs: dict[str, int] = {}
    for row in (row for line in lines for row in line["charges"]):
        runs[row["run"]] = runs.get(row["run"], 0) + 1
    left = policy.epsilon - spent
    return {
        "begun": bool(lines),
        "head": str(lines[-1]["hash"]) if lines else "",
        "epsilon": policy.epsilon,
        "delta": policy.delta,
        "spent": spent,
        "left": left if left > 0 else 0.0,
        "alone": spending.alone(policy.delta) if lines and policy.delta else 0.0,
        "shared": spending.shared,
        "colluders": policy.colluders,
        "releases": sum(runs.values()),
        "runs": runs,
        "faults": spending.faults,
    }
