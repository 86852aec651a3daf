"""Courier process at a site: Flower's SuperNode with the site's key, for the coordinator that the
site enrolled with and no other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deploy import kit, supernode
from server.coordinator.superlink import environment


def command(folder: Path, socket: Path, port: int) -> list[str]:
    """The SuperNode's command line; C04 where the kit is not the one that was enrolled with.
    `port`: of its own process, on loopback."""
    own_kit = kit.check(folder)
    return [
        "flower-supernode",
        *("--superlink", f"{own_kit.host}:{own_kit.port}"),
        *("--root-certificates", str(folder / "ca.pem")),
        *("--auth-supernode-private-key", str(folder / "courier.key")),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--node-config", f'socket="{socket}"'),
    ]


def run(folder: Path, socket: Path, home: Path, port: int) -> None:
    """Become the SuperNode: this process is replaced by it."""
    words = [sys.executable, "-m", supernode.__name__, *command(folder, socket, port)]
    home.mkdir(parents=True, exist_ok=True)
    os.execvpe(words[0], words, environment(home))
