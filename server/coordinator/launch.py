"""Launch of a run at a coordinator's SuperLink: start it, follow it by its ledger, resume it after
whatever ended it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import FederationError, FedmetsError, RunError
from server.config.run_config import Run
from server.coordinator import app_bundle, requests
from server.coordinator.superlink import SuperLink
from server.ledger import heartbeat, ledger, state_store
from server.ledger.heartbeat import STOPPED
from server.report import deployment

SUPERLINK = "superlink.json"
"""Under which id the SuperLink has the run."""
_STATUS_SECONDS = 10.0
"""Seconds between questions to Flower whether a run that says nothing is still there."""
_ABSENCE_SECONDS = 120.0
"""Seconds that a SuperLink may be away."""
Tell = Callable[[Mapping[str, Any]], None]


def new(flower: SuperLink, run: Run, tell: Tell) -> dict[str, object]:
    """Start a run in `run.out`, and follow it to its end."""
    path = Path(run.out) / ledger.NAME
    if path.exists():
        raise RunError(
            "S01",
            f"'{run.out}' already holds a run; choose another folder, or resume it: fedmets "
            f"server resume {run.out}",
        )
    return _follow(flower, _started(flower, run), Path(run.out), tell)


def resume(flower: SuperLink, folder: Path, tell: Tell) -> dict[str, object]:
    """Take a run up where its ledger ends, with the configuration that it was begun with."""
    path = folder / ledger.NAME
    lines = ledger.read(path) if path.exists() else []
    if not lines:
        raise RunError(
            "S01", f"'{folder}' holds no run; give the folder that `fedmets server run` printed"
        )
    if _closed(lines):
        return summary(folder)
    run = replace(Run.parse(lines[0]["config"]), out=str(folder.resolve()), resume=True)
    return _follow(flower, _started(flower, run), folder, tell)


def stop(flower: SuperLink, folder: Path) -> None:
    """End a run at the SuperLink, so that it is seen to be stopped and can be resumed.

    The ledger is the ServerApp's alone, and Flower ends that process: that somebody stopped the run
    is in a file beside it.
    """
    path = folder / ledger.NAME
    lines = ledger.read(path) if path.exists() else []
    if any(line["kind"] == "close" for line in lines):
        raise RunError("S01", f"the run in '{folder}' is finished; there is nothing to stop")
    try:
        started = int(json.loads((folder / SUPERLINK).read_text())["run"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            "S01",
            f"'{folder}' was not started by `fedmets server run` ({error}); stop it where it was "
            "started: flwr list, flwr stop ID",
        ) from error
    if not flower.status(started)[0].startswith("finished"):
        flower.stop(started)
    state_store.write(folder / STOPPED, json.dumps({"time": time.time()}).encode())


def _started(flower: SuperLink, run: Run) -> int:
    """The run's id at the SuperLink, which `stop` needs."""
    folder = Path(run.out)
    (folder / STOPPED).unlink(missing_ok=True)
    request = requests.ask(flower.home, run)
    try:
        bundle = app_bundle.empty(flower.home)
        started = flower.start(bundle, f'{requests.KEY} = "{request}"\n')
    except FedmetsError:
        requests.withdraw(flower.home, request)
        raise
    state_store.write(folder / SUPERLINK, json.dumps({"run": started}).encode())
    return started


def summary(folder: Path) -> dict[str, object]:
    """What a ledger and the live status say of a run."""
    lines = ledger.read(folder / ledger.NAME) if (folder / ledger.NAME).exists() else []
    if not lines:
        raise RunError(
            "S01", f"'{folder}' holds no run; give the folder that `fedmets server run` printed"
        )
    exchanges = [line for line in lines if line["kind"] == "exchange"]
    closed = next((line for line in lines if line["kind"] == "close"), None)
    try:
        sites = json.loads((folder / heartbeat.NAME).read_text())["sites"]
    except (OSError, ValueError, KeyError):
        sites = {}
    return {
        "folder": str(folder),
        "run": lines[0]["name"],
        "closed": closed is not None,
        "state_hash": closed["state_hash"] if closed else "",
        "scores": closed.get("scores", {}) if closed else {},
        "exchanges": len(exchanges),
        "done": exchanges[-1]["done"] if exchanges else 0,
        "jobs": lines[0]["jobs"],
        "sites": sites or dict.fromkeys(lines[0]["sites"], "registered"),
        "late": [late for line in exchanges for late in line.get("late", [])],
        "joined_later": closed.get("joined_later", []) if closed else [],
    }


def _closed(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Is the run done? A line for its report may follow."""
    return any(line["kind"] == "close" for line in lines)


def _follow(flower: SuperLink, started: int, folder: Path, tell: Tell) -> dict[str, object]:
    """Until the ledger is closed and its report written, or Flower says that the run is over; an
    interrupt leaves the run to go on."""
    asked_at, silent_since = time.monotonic(), 0.0
    while True:
        path = folder / ledger.NAME
        lines = ledger.read(path) if path.exists() else []
        if lines:
            current = summary(folder)
            tell(current)
            if _closed(lines):
                deployment.publish(folder)
                return current
        if time.monotonic() - asked_at > _STATUS_SECONDS:
            asked_at = time.monotonic()
            try:
                (status, why), silent_since = flower.status(started), 0.0
            except FederationError:
                # a SuperLink that was killed is being started again
                silent_since = silent_since or asked_at
                if asked_at - silent_since > _ABSENCE_SECONDS:
                    raise
                continue
            if status.startswith("finished") and not (lines and _closed(ledger.read(path))):
                if (folder / STOPPED).exists():
                    raise FederationError(
                        "R07",
                        f"the run was stopped; take it up again: fedmets server resume {folder}",
                    )
                raise FederationError(
                    "R07",
                    f"the run has ended without a result ({status}: {why or 'no reason given'}). "
                    "When that is mended: "
                    f"fedmets server resume {folder}",
                )
        time.sleep(0.5)
