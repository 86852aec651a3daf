"""Courier process at a site: signs in with the site's key at the coordinator that the site enrolled
with and no other, and carries messages to the station at a socket."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from client.courier.courier import Courier
from client.courier.fleet import Fleet
from client.station.socket_client import Link
from common.runtime.exit_status import ended
from deploy import kit


def run(folder: Path, socket: Path, tell: Callable[[str], None]) -> NoReturn:
    """Until SIGTERM or SIGINT; then the process ends, with the status of the error if there was
    one."""
    status = ended(lambda: _carry(folder, socket, tell))
    sys.stdout.flush()
    sys.stderr.flush()
    # without waiting for its threads: a station may be at work for hours
    os._exit(status)


def _carry(folder: Path, socket: Path, tell: Callable[[str], None]) -> int:
    """C04 where the kit is not the one that was enrolled with; what `Courier.run` raises."""
    own_kit = kit.check(folder)
    fleet = Fleet(f"{own_kit.host}:{own_kit.port}", folder / "ca.pem", folder / "courier.key")
    courier = Courier(fleet, lambda seconds: Link(socket, seconds), tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: courier.stop())
    tell(f"courier of '{own_kit.site}' connects to {own_kit.host}:{own_kit.port}")
    courier.run()
    return 0
