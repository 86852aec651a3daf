"""Resume: how far a run had come, from its ledger and the states beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.types import nest
from server.config.jobs import training_sets
from server.config.run_config import Run
from server.ledger import state_store
from server.rounds.driver import Progress

STATES = "state"


WITHHELD = "withheld"
"""Stands in the ledger for a count that sites which mask their sums do not tell."""


def restore(lines: Sequence[Mapping[str, Any]], folder: Path) -> Progress:
    """The states that a ledger ends with, and how far the run had come."""
    last_exchange = next((line for line in reversed(lines) if line["kind"] == "exchange"), None)
    if last_exchange is None:
        return Progress()
    arrays = state_store.load(folder / STATES, last_exchange["step"] + 1, last_exchange["state"])
    head = json.loads(bytes(arrays.pop("")))
    begun = lines[0]
    groups = [tuple(group) for group in begun["groups"]]
    folds = {fold.key: fold for fold in training_sets(Run.parse(begun["config"]), groups)}
    return Progress(
        {folds[key]: nest(flat) for key, flat in nest(arrays).items()},
        {(folds[key], name) for key, name in head["done"]},
        head["step"],
    )
