"""Ledgers of runs that never were, of any size, written as a coordinator writes them."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import common
from common.runtime.hash_chain import GENESIS, _hash
from server.ledger import heartbeat, ledger

START = 1_795_000_000.0
CONFIG = {
    "study": "colorectal_metastasis", "task": "preop", "out": "/state/runs/x", "keys": "/kit",
    "sites": "", "seed": 0, "parts": 5,
    "noise": 0.0, "secure": False, "expect": 3, "deadline": 600.0, "learners": "", "resume": False,
}  # fmt: skip


def chained(bodies: list[dict[str, Any]]) -> bytes:
    """Without the sync of every line to disk: a thousand of them would take minutes."""
    head, out = GENESIS, []
    for n, body in enumerate(bodies):
        line = {"n": n, **body, "prev": head}
        head = _hash(line)
        out.append(json.dumps({**line, "hash": head}, separators=(",", ":")).encode() + b"\n")
    return b"".join(out)


def opened(
    names: list[str], *, began: float = START, jobs: int = 40, **more: Any
) -> dict[str, Any]:
    config = {**CONFIG, "expect": len(names), **more.pop("config", {})}
    counts = (
        dict.fromkeys(names, "withheld")
        if config["secure"]
        else {n: 50 + 3 * k for k, n in enumerate(names)}
    )
    return {
        "kind": "open", "time": began, "run": "0123456789abcdef",
        "name": "0123456789abcdef-01234567", "config": config,
        "schema": "5" * 64, "registered": names, "sites": names, "cases": counts, "imaged": counts,
        "seconds": dict.fromkeys(names, 12.5),
        "modalities": {n: ["table"] for n in names}, "heads": ["logistic", "mlp"], "groups": [],
        "jobs": jobs, "step": 0, "torn": 0,
        "versions": {"flwr": "1.41.0", "numpy": "2", "fedmets": common.__version__}, **more,
    }  # fmt: skip


def exchange(step: int, names: list[str], *, began: float = START, **more: Any) -> dict[str, Any]:
    sites = more.pop("sites", dict.fromkeys(names, "contributed"))
    loss = 0.2 + 0.5 * math.exp(-step / 20)
    each = {
        n: {"loss": round(loss * (0.8 + 0.4 * ((7 * k) % 11) / 11), 6)} for k, n in enumerate(names)
    }
    return {
        "kind": "exchange", "time": began + 10 * (step + 1), "step": step, "sites": sites,
        "asked": dict.fromkeys(names, 6),
        "work": [{
            "learner": "mlp", "phase": "train", "folds": ["all", "part:0"],
            "refused": more.pop("refused", {}), "doubted": [],
            "contributed": [n for n in names if sites[n] == "contributed"],
        }],
        "late": more.pop("late", []), "sent": 1000 * len(names), "received": 900 * len(names),
        "seconds": 4.0 + step % 3, "budgets": {},
        "metrics": more.pop("metrics", [{"learner": "mlp", "folds": 1, "fold": "all",
        "all": {"loss": round(loss, 6)}, "sites": each}]),
        "state": "a" * 64, "done": min(step, 39), **more,
    }  # fmt: skip


def closed(steps: int, *, began: float = START) -> dict[str, Any]:
    return {
        "kind": "close", "time": began + 10 * (steps + 2), "state_hash": "b" * 64,
        "exchanges": steps, "joined_later": [], "scores": {},
    }  # fmt: skip


EVALUATED = {
    "model": "mlp", "evaluation": "within_site", "n": 300, "auc": 0.81, "auc_pooled": 0.8,
    "bound": 0.001, "brier": 0.15, "log_loss": 0.4,
}  # fmt: skip


def run(
    folder: Path,
    steps: int = 12,
    sites: int = 3,
    *,
    names: list[str] | None = None,
    close: bool = True,
    began: float = START,
) -> Path:
    """A run's folder with its ledger; returns the folder."""
    names = names or [f"Hospital {k:03d}" for k in range(sites)]
    bodies = [opened(names, began=began), *(exchange(k, names, began=began) for k in range(steps))]
    if close and steps:
        bodies[-1] |= {"evaluation": [EVALUATED], "done": 40}
        bodies.append(closed(steps, began=began))
    return written(folder, bodies)


def written(folder: Path, bodies: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ledger.NAME).write_bytes(chained(bodies))
    return folder


def alive(folder: Path, **more: Any) -> None:
    """A sign of life of now."""
    (folder / heartbeat.NAME).write_text(
        json.dumps({"time": time.time(), "begun": True, "step": 5, **more})
    )
