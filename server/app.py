"""ServerApp of Flower: opens or resumes a run, drives its jobs, leaves a ledger, the states and the
model in the run's folder."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common import __version__
from common.data.cohort import Fold
from common.data.schema import Schema
from common.errors import FedmetsError, LeakError, RunError, UsageError
from common.federated.learner import Federated
from common.federated.states import States, named_arrays
from common.runtime.threads import fix_threads
from common.study.study import Study
from common.trees.model import distributions
from common.types import Arrays, digest
from server.config import enrolled_sites
from server.config.jobs import build_jobs, demand_parts, possible
from server.config.run_config import Run
from server.ledger import state_store
from server.ledger.heartbeat import NAME as STATUS
from server.ledger.heartbeat import Heartbeat
from server.ledger.ledger import NAME, Ledger
from server.rounds import leak_guard, noisy_scores, strategies, update_screening
from server.rounds.budget_heads import NAME as BUDGETS
from server.rounds.budget_heads import Accounts
from server.rounds.driver import Exchange, Federation, Progress, drive
from server.rounds.privacy_charges import DELTA, Charges, planned
from server.rounds.registration import Invitation, Roster, joined_later, register
from server.rounds.resume import STATES, WITHHELD, restore
from server.rounds.round_metrics import evaluated

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point of `flwr run`."""
    coordinate(grid, Run.parse(context.run_config))


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves in memory; the same is on disk."""

    folder: Path
    states: States
    groups: tuple[tuple[str, ...], ...]
    heads: tuple[Federated, ...]
    """Those of the run's heads that the sites' holdings allow."""
    state_hash: str
    ledger_head: str


def coordinate(
    grid: Grid, run: Run, tell: Callable[[Exchange, Progress, int], None] | None = None
) -> Outcome:
    """Drive a run to its end. `tell` is called after each exchange with the number of jobs in
    all."""
    fix_threads()
    study = run.load_study()
    task = run.task_of(study)
    run = replace(run, task=task)
    schema = study.schema_at(task)
    run.demand_protection(study)
    if not run.out:
        raise UsageError(
            "C01",
            "out is empty; say where the run goes: --run-config 'out=\"/path/of/a/new/folder\"'",
        )
    folder = Path(run.out)
    run_id = run.id(study, schema)
    ledger, heartbeat = _open(folder, run, run_id), Heartbeat(folder / STATUS)
    try:
        with heartbeat:
            return _coordinate(grid, run, study, schema, ledger, heartbeat, tell)
    except (FedmetsError, KeyboardInterrupt) as error:
        _ended(ledger, heartbeat, error)
        raise
    finally:
        ledger.close()


def _ended(ledger: Ledger, heartbeat: Heartbeat, error: FedmetsError | KeyboardInterrupt) -> None:
    """Whoever looks at the run later learns why it is not at work; where not even that can be
    written, the terminal still says it."""
    why: dict[str, Any] = (
        {"code": error.code, "said": list(error.faults)} if isinstance(error, FedmetsError) else {}
    )
    with suppress(RunError):
        heartbeat.note(failed=why)
        # the first line of a ledger says which run it is of; and what is wrong with a run's folder
        # changes nothing in it
        if ledger.lines and not why.get("code", "").startswith("S"):
            ledger.append("failed" if why else "stopped", time=time.time(), **why)


def _coordinate(
    grid: Grid,
    run: Run,
    study: Study,
    schema: Schema,
    ledger: Ledger,
    heartbeat: Heartbeat,
    tell: Callable[[Exchange, Progress, int], None] | None,
) -> Outcome:
    folder, task, run_id = Path(run.out), run.task, run.id(study, schema)
    _not_refused(ledger)
    name = ledger.lines[0]["name"] if ledger.lines else f"{run_id}-{secrets.token_hex(4)}"
    begun_with = ledger.lines[0]["sites"] if ledger.lines else ()
    heartbeat.note(
        study=run.study, task=task, run=name, expect=len(begun_with) or run.expect, begun=False
    )
    invitation = Invitation(run, name, enrolled_sites.load(run.keys), task, schema)
    roster = register(grid, invitation, begun_with, heartbeat.registered)
    progress = restore(ledger.lines, folder)
    heads = possible(run, study, roster.hellos.values())
    groups = roster.groups(run.left_out_sites)
    demand_parts(run, groups, roster.hellos)
    jobs = build_jobs(run, study, groups, heads)
    shared = _shared(run, roster, ledger)
    strategies.demand(run.strategy, jobs, roster, run.secure)
    update_screening.demand(run, jobs, roster)
    outer = {j.fold for j in jobs if len(j.fold.parts) + bool(j.fold.sites) <= 1}
    ledger.append(
        "resume" if ledger.lines else "open",
        time=time.time(),
        run=run_id,
        name=name,
        config=asdict(run),
        schema=schema.hash,
        registered=list(roster.hellos),
        sites=list(roster.ready),
        cases={s: WITHHELD if run.secure else h.cases for s, h in roster.hellos.items()},
        modalities={s: list(h.modalities) for s, h in roster.hellos.items()},
        imaged={s: WITHHELD if run.secure else h.imaged for s, h in roster.hellos.items()},
        flow={
            s: WITHHELD if run.secure else list(h.flow) or WITHHELD
            for s, h in roster.hellos.items()
        },
        seconds={s: h.seconds for s, h in roster.hellos.items()},
        heads=[h.name for h in heads],
        groups=[list(g) for g in groups],
        jobs=len(jobs),
        step=progress.step,
        **(
            {"delta": DELTA, "planned": planned(jobs, schema, run.noise, run.parts, shared)}
            if run.noise
            else {}
        ),
        **({"shared": shared} if run.shared_noise else {}),
        torn=ledger.torn,
        versions={p: version(p) for p in ("flwr", "numpy")}
        | distributions()
        | {"fedmets": __version__},
    )

    heartbeat.note(begun=True, jobs=len(jobs), done=len(progress.done))
    charges = Charges(jobs, schema, run.noise, run.parts, shared) if run.noise else None
    for line in ledger.lines if charges else ():
        if line["kind"] == "exchange" and charges:
            charges.take(line["work"])
    accounts = Accounts(folder.absolute().parent / BUDGETS, roster.enrolled.sites)

    def watch(exchange: Exchange, now: Progress) -> None:
        sha = state_store.save(folder / STATES, now.step, _to_arrays(now))
        if charges:
            charges.take(exchange.work)
        scored = any(
            w["learner"] == "evaluation" and Fold().key in w["folds"] for w in exchange.work
        )
        ledger.append(
            "exchange",
            time=time.time(),
            **asdict(exchange),
            **({"spent": charges.spent()} if charges else {}),
            **({"evaluation": evaluated(now.states, [h.name for h in heads])} if scored else {}),
            state=sha,
            done=len(now.done),
        )
        heartbeat.note(done=len(now.done))
        _guard_leaks(run, schema, now, ledger, outer)
        if tell:
            tell(exchange, now, len(jobs))

    federation = Federation(
        grid,
        run,
        name,
        roster,
        jobs,
        schema,
        strategies.combiner(run.strategy),
        heartbeat,
        accounts,
        shared,
    )
    drive(federation, progress, watch)
    state_hash = digest(named_arrays(progress.states))
    closed = next((line for line in ledger.lines if line["kind"] == "close"), None)
    if closed is None:
        later = joined_later(grid, invitation, roster)
        seen = (
            {h.name: noisy_scores.held_out_auc(progress.states, h.name, run.seed) for h in heads}
            if run.noise
            else {}
        )
        told = {name: auc._asdict() for name, auc in seen.items() if auc}
        ledger.append(
            "close",
            time=time.time(),
            state_hash=state_hash,
            exchanges=progress.step,
            joined_later=later,
            scores=told,
        )
    elif closed["state_hash"] != state_hash:
        raise RunError(
            "S02",
            f"the state in '{folder}' has hash {state_hash[:12]}, the ledger closed with "
            f"{closed['state_hash'][:12]}",
        )
    return Outcome(folder, progress.states, groups, heads, state_hash, ledger.head)


def _open(folder: Path, run: Run, run_id: str) -> Ledger:
    path = folder / NAME
    if path.exists() and not run.resume:
        raise RunError(
            "S01", f"'{folder}' already holds a run; choose another folder, or resume it"
        )
    if run.resume and not path.exists():
        raise RunError(
            "S01", f"'{folder}' holds no run to resume; check the path, or start it without resume"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            "S03",
            f"'{folder}' cannot be made ({error.strerror}); check the path and its permissions",
        ) from error
    ledger = Ledger(path)
    if ledger.lines and ledger.lines[0]["run"] != run_id:
        ledger.close()
        was, now = ledger.lines[0]["config"], asdict(run)
        differ = [
            f"{k}: {was.get(k)!r} then, {now[k]!r} now"
            for k in now
            if was.get(k) != now[k]
            and k not in ("resume", "out", "keys", "sites", "deadline", "retries")
        ]
        raise RunError(
            "S01",
            f"'{folder}' belongs to a run of another configuration "
            f"({'; '.join(differ) or 'another schema or version'})",
        )
    return ledger


def _shared(run: Run, roster: Roster, ledger: Ledger) -> int:
    """Into how many shares the noise is divided: as the run was begun with; 0: it is not."""
    if not run.shared_noise:
        return 0
    return int(ledger.lines[0]["shared"]) if ledger.lines else roster.shared()


def _not_refused(ledger: Ledger) -> None:
    """A run that guard L03 stopped is not gone on with by resuming it."""
    for line in ledger.lines:
        if line["kind"] == "guard" and line["refused"]:
            raise LeakError(
                "L03",
                *leak_guard.describe(
                    {f: tuple(line["found"][f]) for f in line["refused"]}, line["refused"]
                ),
            )


def _guard_leaks(
    run: Run, schema: Schema, progress: Progress, ledger: Ledger, outer: Collection[Fold]
) -> None:
    """L03, once, as soon as all preprocessing is done: before any model has seen the features.

    Judged are the `outer` training sets; the inner ones are small enough for an honest marker to
    look perfect by chance. Counts with noise look perfect by chance as well: a run with noise is
    not judged.
    """
    if run.noise:
        return
    fits = {
        fold: state["preprocessing"]
        for fold, state in progress.states.items()
        if "preprocessing" in state
    }
    if (
        not fits
        or any((fold, "preprocessing") not in progress.done for fold in fits)
        or any(line["kind"] == "guard" for line in ledger.lines)
    ):
        return
    found = leak_guard.leaks({f.key: fits[f] for f in fits if f in outer}, schema)
    accepted = sorted(set(filter(None, run.accept_leak.split(","))) & set(found))
    refused = sorted(set(found) - set(accepted))
    ledger.append(
        "guard",
        guard="L03",
        auc={
            f: round(v, 6) for f, v in leak_guard.single_feature_auc(fits[Fold()], schema).items()
        },
        found={f: list(where) for f, where in found.items()},
        accepted=accepted,
        refused=refused,
    )
    if refused:
        raise LeakError("L03", *leak_guard.describe(found, refused))


def _to_arrays(progress: Progress) -> Arrays:
    head = json.dumps(
        {"step": progress.step, "done": sorted([fold.key, name] for fold, name in progress.done)}
    ).encode()
    return {**named_arrays(progress.states), "": np.frombuffer(head, np.uint8)}
