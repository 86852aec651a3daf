"""Flower task by the installed ServerApp: `python -m server.task`, which the signer starts for each
run that a SuperLink hands out.

Flower's own `flwr-serverapp` unpacks the bundle that the SuperLink has and imports it, with the run
configuration that the SuperLink has. Here neither is read: the code is this installation's, the
configuration that of the request on this disk (`server.coordinator.requests`). What the SuperLink
can still do is what a courier can: carry messages, or not. The part of Flower 1.41's Runtime API
that a task needs, by Flower's own client.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from common.errors import FedmetsError
from common.runtime.exit_status import leave
from server.app import coordinate
from server.coordinator import requests


@dataclass(frozen=True)
class Task:
    """What the signer says on standard input; a token is nobody else's business."""

    address: str
    """Of the SuperLink's Runtime API, host:port."""
    authority: str
    """PEM file of the authority of its certificate."""
    token: str
    """By which the SuperLink knows the task."""
    home: str
    """Folder with the requests."""
    parent: int
    """Process without which this one ends."""


def run(task: Task) -> int:
    """Drive the run that the task is for, and tell the SuperLink how it ended. Returns the exit
    status."""
    start_parent_process_monitor(task.parent)
    grid = HttpGrid(
        task.address, root_certificates=Path(task.authority).read_bytes(), token=task.token
    )
    runtime = grid._runtime_client
    alive = HeartbeatSender(make_task_heartbeat_fn_http(runtime))
    alive.start()
    status, why = SubStatus.FAILED, "the task ended without a word"
    try:
        given = runtime.PullTaskInput(PullTaskInputRequest())
        flower_run = run_from_proto(given.run)
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, flower_run.run_id
        TaskIdentity.node_id = given.context.node_id
        grid.set_run(flower_run)
        asked = requests.take(Path(task.home), flower_run.override_config.get(requests.KEY))
        coordinate(grid, asked)
        status, why = SubStatus.COMPLETED, ""
    except FedmetsError as error:
        why = str(error)
    except KeyboardInterrupt:
        status, why = SubStatus.STOPPED, "stopped"
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise
    finally:
        # the SuperLink may be gone, and the run's own folder says how it ended
        grid._retry_invoker.max_tries = 1
        with suppress(httpx.HTTPError):
            runtime.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=why))
        if alive.is_running:
            alive.stop()
        grid.close()
    if why:
        print(why, file=sys.stderr, flush=True)
    return int(status != SubStatus.COMPLETED)


def main() -> int:
    return run(Task(**json.loads(sys.stdin.read())))


if __name__ == "__main__":
    leave(main)
