"""Audit log, a site's own record of its station: who asked what, when, and what left. A chain of
lines, one for each message, kept at the site."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.errors import RunError
from common.federated.learner import Plan
from common.runtime.hash_chain import Chain
from common.wire.envelope import Packet
from common.wire.messages import Update

NAME = "audit.jsonl"


class Audit(Chain):
    room = "free space at the site; nothing leaves that is not on record"
    mend = (
        "the record is the site's own proof: move it and the .end beside it elsewhere, keep "
        "both, and begin another"
    )

    def __init__(self, path: Path, mark: Path | None = None) -> None:
        super().__init__(path, mark)
        self.budget, self.cohorts = self._last("budget"), self._last("cohorts")
        """Heads of the account and of the record of cohorts, when they were last put down here."""
        self.masks: dict[str, list[str]] = {}
        """File of what secure aggregation must not forget -> its SHA-256, one after the other."""
        for line in self.lines:
            for name, sha in line.get("masks", {}).items():
                self.masks.setdefault(name, []).append(sha)
        self.forget()  # years of lines are for the file

    def _last(self, key: str) -> str:
        return next((str(line[key]) for line in reversed(self.lines) if line.get(key)), "")

    def left(
        self,
        packet: Packet,
        plans: Sequence[Plan],
        updates: Sequence[Update],
        answer: Packet,
        *,
        cohorts: str = "",
        masks: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """What was asked in a message, and the answer that is about to leave; of each plan learner,
        phase, fold, noise, the shares that this is divided into (0: it is not) and what came of it.
        RunError S03 where the disk is full."""
        codes = {u.plan_hash: u.code or "sent" for u in updates}
        self.append(
            packet.kind,
            time=time.time(),
            run=plans[0].run if plans else "",
            study=plans[0].study if plans else "",
            task=plans[0].task if plans else "",
            step=plans[0].step if plans else -1,
            participants=list(plans[0].participants) if plans else [],
            plans=[
                [
                    p.learner,
                    p.phase,
                    p.fold.key,
                    p.privacy.noise if p.privacy else 0,
                    p.privacy.shared if p.privacy else 0,
                    codes.get(p.hash, ""),
                ]
                for p in plans
            ],
            asked=packet.hash,
            bytes=answer.size,
            sha256=hashlib.sha256(answer.text).hexdigest(),
            budget=next((u.budget for u in updates if u.budget), ""),
            cohorts=cohorts,
            **({"masks": dict(masks)} if masks else {}),
        )


def read(folder: Path) -> list[dict[str, Any]]:
    """All lines, verified. RunError S02 where there are none, or one was altered."""
    path = folder / NAME
    if not path.is_file():
        raise RunError(
            "S02", f"there is no record at '{path}'; is `state` in the site file the station's?"
        )
    return Audit.contents(path).lines
