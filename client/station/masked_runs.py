"""Masked runs as a station remembers them: its key, the sites, and for the latest steps what was
masked and for whom it was unmasked. On disk before anything leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.errors import RunError
from common.runtime.atomic_files import durable
from common.secure_aggregation import pairwise_keys
from common.secure_aggregation.pairwise_keys import Agreer

FORMAT = 3
KEPT = 2
"""Steps of a run that are remembered; older ones are refused, as their plans are."""


@dataclass(frozen=True)
class MaskedStep:
    """What has left in one step, so that nothing else ever does."""

    place: str
    digest: str = ""
    """SHA-256 of the vector before its masks; empty: the site could not make one, and says so
    again."""
    seed: str = ""
    """Of the mask of its own, as hex digits: the same vector leaves again."""
    absent: Mapping[int, str] = field(default_factory=dict)
    """Number of a plan -> the code of why zeros stand for it."""
    online: tuple[str, ...] = ()
    """The sites that it was signed for; none as long as none were told."""


@dataclass
class MaskedRun:
    key: Agreer
    fewest: int
    """What this site vouched for in the run."""
    publics: dict[str, str] = field(default_factory=dict)
    """Site -> its key, once the group is known."""
    vouched: dict[str, int] = field(default_factory=dict)
    """Site -> the fewest sites of a sum that it has a part in."""
    steps: dict[int, MaskedStep] = field(default_factory=dict)
    online: tuple[str, ...] = ()
    """The sites of the run's latest sum: a later one is over no others."""
    few: frozenset[str] = frozenset()
    """Study, task and learner for which this site has too few patients on the whole."""


class MaskedRuns:
    """Of one station. `folder` None: in memory only."""

    def __init__(self, folder: Path | None, written: MutableMapping[str, str]) -> None:
        """`written`: file -> SHA-256 of what was last written into it; taken by who records it."""
        self._folder, self._written = folder, written
        self._runs: dict[str, MaskedRun] = {}

    def of(self, name: str, fewest: int) -> MaskedRun:
        """A run by its name; begun, with what the site allows now, where it is new."""
        if name not in self._runs:
            path = self._path(name)
            self._runs[name] = (
                _read(path) if path and path.exists() else MaskedRun(pairwise_keys.new(), fewest)
            )
        return self._runs[name]

    def save(self, name: str, run: MaskedRun) -> None:
        if path := self._path(name):
            row = {
                "format": FORMAT,
                "key": run.key.key.private_bytes_raw().hex(),
                "fewest": run.fewest,
                "publics": run.publics,
                "vouched": run.vouched,
                "steps": [[number, asdict(step)] for number, step in run.steps.items()],
                "online": run.online,
                "few": sorted(run.few),
            }
            blob = json.dumps(row).encode()
            durable(path, blob, "free space at the site; nothing leaves until it is on disk")
            self._written[path.name] = hashlib.sha256(blob).hexdigest()

    def _path(self, name: str) -> Path | None:
        # a run's name comes from outside: it must not be a path
        short = hashlib.sha256(name.encode()).hexdigest()[:32]
        return self._folder / f"{short}.json" if self._folder else None


def _read(path: Path) -> MaskedRun:
    try:
        row = json.loads(path.read_text())
        if row.get("format") != FORMAT:
            raise RunError(
                "S02",
                f"'{path}' is of a run that an older version began, which kept less than this one "
                "must know; start a new run",
            )
        return MaskedRun(
            Agreer(X25519PrivateKey.from_private_bytes(bytes.fromhex(row["key"]))),
            int(row["fewest"]),
            dict(row["publics"]),
            dict(row["vouched"]),
            {int(number): _step(step) for number, step in row["steps"]},
            tuple(row["online"]),
            frozenset(row["few"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            "S02", f"'{path}' is damaged ({error}); start a new run: the keys of this one are lost"
        ) from error


def _step(row: Mapping[str, object]) -> MaskedStep:
    step = MaskedStep(**row)  # type: ignore[arg-type]
    return MaskedStep(
        step.place,
        step.digest,
        step.seed,
        {int(number): code for number, code in step.absent.items()},
        tuple(step.online),
    )
