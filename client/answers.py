"""What a station has answered: the same question gets the stored Update, another one for the same place is refused.

A question is a plan without its expiry, its place is step, learner and fold of a run. Kept is a run's latest step; whatever is
older is refused, since a run never goes back. With a folder, an answer is on disk before it leaves, and outlives the station.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import RefusedError, RunError
from common.exchange import Update
from common.learner import Contribution, Plan
from common.types import nest, pack, unpack

KEPT = 1
"""Steps of a run whose answers are kept: a coordinator stores its state after each, so that it asks the last one again at most."""
_RUNS = 64
"""Runs that are remembered in memory; on disk all are."""


@dataclass
class _Run:
    latest: int = -1
    questions: dict[str, str] = field(default_factory=dict)
    """Place -> question."""
    updates: dict[str, Update] = field(default_factory=dict)
    """Question -> what was answered, under the hash of the first plan that asked it."""

    def forget(self) -> None:
        old = [p for p in self.questions if int(p.partition("\t")[0]) <= self.latest - KEPT]
        for place in old:
            self.updates.pop(self.questions.pop(place), None)


class Answers:
    """Of one station; not for several threads. `folder` None: in memory only, as a virtual site keeps them."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def of(self, plan: Plan) -> Update | None:
        """The stored answer to a plan, or None where it is new. RefusedError P06 where its place is taken, or long past."""
        run = self._run(plan.run)
        asked = run.questions.get(plan.place)
        if asked is not None and asked != plan.question:
            raise RefusedError("P06", f"step {plan.step}, {plan.learner}, fold '{plan.fold.key}' has been answered to another plan")
        if asked is None and plan.step <= run.latest - KEPT:
            raise RefusedError("P06", f"step {plan.step} of run {plan.run}: the run is at step {run.latest}, and never goes back")
        kept = run.updates.get(plan.question)
        return None if kept is None else Update(plan.hash, kept.contribution)

    def keep(self, answered: Sequence[tuple[Plan, Update]]) -> None:
        """Keep what is about to leave (refusals are not: their reason may be mended). Raises RunError S03 where the disk is full."""
        new = [(p, u) for p, u in answered if u.contribution is not None and p.question not in self._run(p.run).updates]
        for run in dict.fromkeys(p.run for p, _ in new):
            mine = [(p, u) for p, u in new if p.run == run]
            if self._folder is not None:
                self._write(run, mine)
            for plan, update in mine:
                self._note(self._run(run), plan.step, plan.place, plan.question, update)
            self._prune(run)

    def _note(self, run: _Run, step: int, place: str, question: str, update: Update) -> None:
        run.latest = max(run.latest, step)
        run.questions[place] = question
        run.updates[question] = update
        run.forget()

    def _run(self, name: str) -> _Run:
        if name not in self._runs:
            self._runs[name] = self._read(name) if self._folder is not None else _Run()
            if len(self._runs) > _RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(name)
        return self._runs[name]

    # ---- on disk: one file a request, `<step>-<hash>.answers` in the run's folder -------------------------------------------

    def _home(self, run: str) -> Path:
        assert self._folder is not None
        # a run's name comes from outside: it must not be a path
        return self._folder / hashlib.sha256(run.encode()).hexdigest()[:32]

    def _write(self, run: str, answered: Sequence[tuple[Plan, Update]]) -> None:
        rows, arrays = [], {}
        for i, (plan, update) in enumerate(answered):
            assert update.contribution is not None
            rows.append([plan.step, plan.place, plan.question, update.plan_hash, update.contribution.cases])
            arrays.update({f"{i}\tsums\t{k}": v for k, v in update.contribution.sums.items()})
            arrays.update({f"{i}\ttally\t{k}": v for k, v in update.contribution.tally.items()})
        head = json.dumps(rows).encode()
        body = len(head).to_bytes(8, "little") + head + pack(arrays)
        path = self._home(run) / f"{max(p.step for p, _ in answered):09d}-{hashlib.sha256(body).hexdigest()}.answers"
        aside = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise RunError("S03", f"'{path}' cannot be written ({error.strerror}); free space at the site") from error

    def _read(self, name: str) -> _Run:
        run = _Run()
        for path in sorted(self._home(name).glob("*.answers")):
            body = path.read_bytes()
            if hashlib.sha256(body).hexdigest() != path.stem.partition("-")[2]:
                raise RunError("S02", f"'{path}' is not what the station wrote; restore it, or ask the coordinator for a new run")
            size = int.from_bytes(body[:8], "little")
            arrays = {i: nest(rest) for i, rest in nest(unpack(memoryview(body)[8 + size :])).items()}
            for i, (step, place, question, plan_hash, cases) in enumerate(json.loads(body[8 : 8 + size])):
                mine = arrays.get(str(i), {})
                update = Update(plan_hash, Contribution(mine.get("sums", {}), cases, mine.get("tally", {})))
                self._note(run, step, place, question, update)
        return run

    def _prune(self, name: str) -> None:
        if self._folder is not None:
            for path in self._home(name).glob("*.answers"):
                if int(path.name.partition("-")[0]) <= self._runs[name].latest - KEPT:
                    path.unlink(missing_ok=True)
