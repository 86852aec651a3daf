"""A hospital for tests: a small table, its study, its key, a site file, and the coordinator's
messages to it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.site.privacy_policy import Policy
from client.station import privacy_budget
from client.station.privacy_budget import Budget
from common.data.cohort import Fold
from common.federated.learner import Plan, hyper_of, load
from common.study import load as studies
from common.wire.envelope import Packet
from common.wire.messages import Greeting, pack_greeting, pack_request
from common.wire.state_transfer import Packed, pack_states
from tests import ring

STUDY = """
name = "spread"
id = "patient"
nulls = ["NA"]
[label]
column = "spread"
values = ["0", "1"]
[[feature]]
name = "age"
unit = "years"
low = 18
high = 110
[[feature]]
name = "smoker"
values = ["no", "yes"]
"""


def site(folder: Path, name: str = "North", rows: int = 60, **more: object) -> Path:
    """`site.toml` of a hospital in `folder`; `more`: keys of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    r = np.random.default_rng(sum(map(ord, name)))
    lines = [
        f"{name}{i},{int(r.random() < 0.4)},{r.integers(20, 90)},{r.choice(['no', 'yes', 'NA'])}"
        for i in range(rows)
    ]
    (folder / "table.csv").write_text("\n".join(["patient,spread,age,smoker", *lines]) + "\n")
    (folder / "spread.toml").write_text(STUDY)
    key = ring.key_file(folder, name)
    keys: dict[str, object] = {
        "name": name, "data": "table.csv", "studies": ["spread.toml"],
        "coordinator": ring.COORDINATOR.public, "key": key.name,
        "minimum": 5, **more,
    }  # fmt: skip
    text = "".join(f"{k} = {v if isinstance(v, int) else repr(v)}\n" for k, v in keys.items())
    (folder / "site.toml").write_text(text.replace("'", '"'))
    return folder / "site.toml"


def account(folder: Path, policy: Policy) -> Budget:
    """A site's account, begun as its owner begins it, opened."""
    privacy_budget.begin(folder)
    return Budget(folder, policy)


def greeting(folder: Path, seconds: float = 600) -> Packet:
    schema = studies.load(str(folder / "spread.toml")).schema
    return pack_greeting(
        Greeting("run", "spread.toml", "baseline", schema.hash, time.time() + seconds),
        ring.COORDINATOR,
    )


def plan(folder: Path, name: str = "North", **changes: Any) -> Plan:
    """The first plan of a run: means of everybody."""
    schema = studies.load(str(folder / "spread.toml")).schema
    learner = load("preprocessing")
    fields: dict[str, Any] = {
        "run": "run", "site": name, "study": "spread.toml", "task": "baseline",
        "schema": schema.hash, "step": 0,
        "learner": learner.name, "phase": learner.phase(learner.start(schema, 0)), "fold": Fold(),
        "reads": (Fold(),),
        "state_hash": state(folder).hash, "participants": (name,), "expires": time.time() + 600,
        "hyper": hyper_of(learner), "seed": 0,
        "parts": 3,
    }  # fmt: skip
    return Plan(**{**fields, **changes})


def state(folder: Path) -> Packed:
    learner = load("preprocessing")
    schema = studies.load(str(folder / "spread.toml")).schema
    return pack_states({Fold(): {learner.name: learner.start(schema, 0)}})


def request(folder: Path, plans: Sequence[Plan]) -> Packet:
    return pack_request(plans, state(folder), ring.COORDINATOR)
