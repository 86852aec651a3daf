"""Answer store of a station: the same question gets the stored Update, another one for the same
place is refused.

A question is a plan without its expiry, its place is step, learner and fold of a run. Kept is a
run's latest step; whatever is older is refused, since a run never goes back. With a folder, an
answer is on disk before it leaves, and outlives the station.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import RefusedError, RunError
from common.federated.learner import Contribution, Plan
from common.runtime.atomic_files import durable
from common.runtime.cache import Cache
from common.types import Arrays, nest, pieces, sha256, unpack
from common.wire.messages import Update

KEPT = 1
"""Steps of a run whose answers are kept: a coordinator stores its state after each, so that it asks
the last one again at most."""
_RUNS = 64
"""Runs that are remembered in memory; on disk all are."""


@dataclass(frozen=True)
class Answered:
    """A plan, what leaves, and what its rounding left over for the learner's next change; that
    stays here."""

    plan: Plan
    update: Update
    rest: Arrays = field(default_factory=dict)


@dataclass
class _Run:
    latest: int = -1
    questions: dict[str, str] = field(default_factory=dict)
    """Place -> question."""
    updates: dict[str, Update] = field(default_factory=dict)
    """Question -> what was answered, under the hash of the first plan that asked it."""
    rests: dict[tuple[str, str], tuple[int, Arrays]] = field(default_factory=dict)
    """Learner and fold -> the step that left it, and what it left."""

    def forget(self) -> None:
        old = [p for p in self.questions if int(p.partition("\t")[0]) <= self.latest - KEPT]
        for place in old:
            self.updates.pop(self.questions.pop(place), None)
        # those of the step before are still to be used, by the plans of this one that come later
        self.rests = {
            k: (step, rest) for k, (step, rest) in self.rests.items() if step >= self.latest - KEPT
        }


class Answers:
    """Of one station; not for several threads. `folder` None: in memory only, as a virtual site
    keeps them."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._runs: Cache[str, _Run] = Cache(_RUNS)

    def of(self, plan: Plan) -> Update | None:
        """The stored answer to a plan, or None where it is new. RefusedError P06 where its place is
        taken, or long past."""
        run = self._run(plan.run)
        stored_question = run.questions.get(plan.place)
        if stored_question is not None and stored_question != plan.question:
            raise RefusedError(
                "P06",
                f"step {plan.step}, {plan.learner}, fold '{plan.fold.key}' has been answered to "
                "another plan",
            )
        if stored_question is None and plan.step <= run.latest - KEPT:
            raise RefusedError(
                "P06",
                f"step {plan.step} of run {plan.run}: the run is at step {run.latest}, and never "
                "goes back",
            )
        stored = run.updates.get(plan.question)
        return None if stored is None else Update(plan.hash, stored.contribution)

    def rest(self, plan: Plan) -> Arrays:
        """What rounding left over of the change before this plan's; empty where it left nothing, or
        is lost."""
        step, rest = self._run(plan.run).rests.get((plan.learner, plan.fold.key), (-1, {}))
        return rest if step < plan.step else {}

    def keep(self, answered: Sequence[Answered]) -> None:
        """Keep what is about to leave (refusals are not: their reason may be mended). Raises
        RunError S03 where the disk is full."""
        new = [
            a
            for a in answered
            if a.update.contribution is not None
            and a.plan.question not in self._run(a.plan.run).updates
        ]
        for run in dict.fromkeys(a.plan.run for a in new):
            of_run = [a for a in new if a.plan.run == run]
            if self._folder is not None:
                self._write(run, of_run)
            for a in of_run:
                self._note(
                    self._run(run), a.plan.step, a.plan.place, a.plan.question, a.update, a.rest
                )
            self._prune(run)

    def _note(
        self, run: _Run, step: int, place: str, question: str, update: Update, rest: Arrays
    ) -> None:
        run.latest = max(run.latest, step)
        run.questions[place] = question
        run.updates[question] = update
        if rest:
            _, learner, fold = place.split("\t", 2)
            run.rests[learner, fold] = step, rest
        run.forget()

    def _run(self, name: str) -> _Run:
        if name not in self._runs:
            self._runs[name] = self._read(name) if self._folder is not None else _Run()
        return self._runs[name]

    # ---- on disk: one file a request, `<step>-<hash>.answers` in the run's folder ----------------

    def _home(self, run: str) -> Path:
        assert self._folder is not None
        # a run's name comes from outside: it must not be a path
        return self._folder / hashlib.sha256(run.encode()).hexdigest()[:32]

    def _write(self, run: str, answered: Sequence[Answered]) -> None:
        rows, arrays = [], {}
        for i, (plan, update, rest) in enumerate((a.plan, a.update, a.rest) for a in answered):
            assert update.contribution is not None
            rows.append(
                [plan.step, plan.place, plan.question, update.plan_hash, update.contribution.cases]
            )
            kinds = (
                ("sums", update.contribution.sums),
                ("tally", update.contribution.tally),
                ("rest", rest),
            )
            arrays.update(
                {
                    f"{i}\t{kind}\t{k}": v
                    for kind, kind_arrays in kinds
                    for k, v in kind_arrays.items()
                }
            )
        head = json.dumps(rows).encode()
        parts = [len(head).to_bytes(8, "little"), head, *pieces(arrays)]
        path = self._home(run) / f"{max(a.plan.step for a in answered):09d}-{sha256(parts)}.answers"
        durable(path, parts, "free space at the site")

    def _read(self, name: str) -> _Run:
        run = _Run()
        for path in sorted(self._home(name).glob("*.answers")):
            body = path.read_bytes()
            if hashlib.sha256(body).hexdigest() != path.stem.partition("-")[2]:
                raise RunError(
                    "S02",
                    f"'{path}' is not what the station wrote; restore it, or ask the coordinator "
                    "for a new run",
                )
            size = int.from_bytes(body[:8], "little")
            arrays = {
                i: nest(rest) for i, rest in nest(unpack(memoryview(body)[8 + size :])).items()
            }
            for i, (step, place, question, plan_hash, cases) in enumerate(
                json.loads(body[8 : 8 + size])
            ):
                row_arrays = arrays.get(str(i), {})
                update = Update(
                    plan_hash,
                    Contribution(row_arrays.get("sums", {}), cases, row_arrays.get("tally", {})),
                )
                self._note(run, step, place, question, update, row_arrays.get("rest", {}))
        return run

    def _prune(self, name: str) -> None:
        if self._folder is not None:
            for path in self._home(name).glob("*.answers"):
                # one step more than in memory: what its rounding left over is still to be used
                if int(path.name.partition("-")[0]) < self._runs[name].latest - KEPT:
                    path.unlink(missing_ok=True)
