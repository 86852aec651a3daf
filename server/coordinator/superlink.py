"""SuperLink control by Flower's own command line: start a run, look at it, say which nodes may
join."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.errors import FederationError

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
}
"""No telemetry, no update check, no installs at run time; and no half second between a task and its
process."""
ADDRESS = "127.0.0.1:8000"
LOOPBACK = "loopback"
"""Folder, in the coordinator's state, of the certificate that the SuperLink shows on loopback."""
_NAME = "coordinator"


def environment(home: Path) -> dict[str, str]:
    """For every process of Flower's: quiet, with its files in `home`, and with the commands beside
    this Python found first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **QUIET, "FLWR_HOME": str(home), "PATH": path}


class SuperLink:
    """A SuperLink at `address`, which answers on this machine alone: its Control API asks nobody
    who they are."""

    def __init__(self, home: Path, ca: Path, address: str = ADDRESS) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{_NAME}"\n[superlink.{_NAME}]\naddress = '
            f'"{address}"\nroot-certificates = "{ca.resolve()}"\n'
        )

    def start(self, app: Path, config: str) -> int:
        """Start a run of the app with this run configuration (TOML); its id at the SuperLink."""
        path = self.home / "run.toml"
        path.write_text(config)
        return int(self._ask("run", str(app), _NAME, "--run-config", str(path))["run-id"])

    def status(self, run: int) -> tuple[str, str]:
        """As Flower has it: 'pending', 'starting', 'running' or 'finished:completed' and the like;
        and what it says of it."""
        rows = self._ask("list", _NAME, "--run-id", str(run)).get("runs", [])
        return (
            (str(rows[0]["status"]), str(rows[0].get("status-details", "")))
            if rows
            else ("unknown", "")
        )

    def stop(self, run: int) -> None:
        """End a run. FederationError R06 where it is over already."""
        self._ask("stop", str(run), _NAME)

    def nodes(self) -> frozenset[int]:
        """The nodes that may join."""
        return frozenset(
            int(r["node-id"]) for r in self._ask("supernode", "list", _NAME).get("nodes", [])
        )

    def register(self, public: Path, name: str) -> int:
        """Let the holder of a key join; the id that its node has from now on."""
        return int(
            self._ask("supernode", "register", str(public), _NAME, "--name", name)["node-id"]
        )

    def unregister(self, node: int) -> None:
        self._ask("supernode", "unregister", str(node), _NAME)

    def _ask(self, *words: str) -> dict[str, Any]:
        command = ["flwr", *words, "--format", "json"]
        try:
            result = subprocess.run(
                command, env=environment(self.home), capture_output=True, text=True, timeout=120
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FederationError(
                "R06",
                f"'flwr {' '.join(words[:2])}' gave no answer ({error}). Is the coordinator "
                "running?",
            ) from error
        try:
            answer = json.loads(result.stdout)
        except ValueError:
            answer = {}
        if result.returncode or not answer.get("success", False):
            message = str(
                answer.get("error-message") or result.stderr.strip() or result.stdout.strip()
            )[-500:]
            raise FederationError(
                "R06",
                f"Flower's SuperLink did not do 'flwr {' '.join(words[:2])}': {message}. Is the "
                "coordinator running?",
            )
        return dict(answer)
