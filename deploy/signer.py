"""Signer of the coordinator: the process that holds the plan key, and has no network.

It asks the SuperLink for tasks over a socket, and starts a process of the installed package for
each (`server.task`). What a SuperLink sends is a task's token and its messages; the code is this
installation's, the configuration that of a request on this side's disk. The SuperLink, behind the
open port, has neither the key nor a way to this process but the answers to what it is asked.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from common.runtime import network
from common.runtime.relay import Relay
from common.wire import signing
from deploy.coordinator import AUTHORITY, SOCKET
from server.config import enrolled_sites
from server.coordinator.app_bundle import IMPORT_PREFIX
from server.coordinator.superlink import ADDRESS, environment
from server.task import Task

_LOOK_SECONDS = 0.25
"""Seconds between questions whether there is a task."""
_AWAY_SECONDS = 2.0
"""Seconds until a SuperLink that is away is asked again."""


def run(keys: Path, state: Path, link: Path, tell: Callable[[str], None]) -> None:
    """Until SIGTERM or SIGINT. C04 where the plan key is not there, C05 where there is a
    network."""
    signer = signing.load(keys / enrolled_sites.KEY)
    network.alone()
    network.loopback_up()
    home = state / "flwr"
    for folder in (home, state / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    host, port = ADDRESS.split(":")
    tasks: list[subprocess.Popen[bytes]] = []
    with Relay(socket.create_server((host, int(port))), lambda: _connected(link / SOCKET)):
        tell(f"signer of {signer.public[:16]}... asks at {link / SOCKET}")
        try:
            away = False
            while not stopping:
                try:
                    _serve(link / AUTHORITY, home, tasks, lambda: stopping, tell)
                except (httpx.HTTPError, OSError, ValueError) as error:
                    if not away:
                        tell(f"the SuperLink is away ({type(error).__name__}); asked again")
                    away = True
                    time.sleep(_AWAY_SECONDS)
                else:
                    away = False
        finally:
            tell("signer stops")
            _end(tasks)


def _serve(
    authority: Path,
    home: Path,
    tasks: list[subprocess.Popen[bytes]],
    stopping: Callable[[], bool],
    tell: Callable[[str], None],
) -> None:
    """One connection's worth of questions; raises what ends it."""
    client = RuntimeHttpClient.from_server_address(
        ADDRESS,
        insecure=False,
        root_certificates=authority.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    )
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    try:
        while not stopping():
            answer = client.AcquireTask(wanted)
            if answer.HasField("task") and answer.token:
                task = Task(ADDRESS, str(authority), answer.token, str(home), os.getpid())
                tasks.append(_started(task, home))
            for ended in [t for t in tasks if t.poll() is not None]:
                tasks.remove(ended)
                tell(f"a run's process has ended with status {ended.returncode}")
            time.sleep(_LOOK_SECONDS)
    finally:
        client.close()


def _started(task: Task, home: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"{IMPORT_PREFIX}server.task"]
    process = subprocess.Popen(command, env=environment(home), stdin=subprocess.PIPE)
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as told:
        told.write(json.dumps(asdict(task)).encode())
    return process


def _end(tasks: list[subprocess.Popen[bytes]]) -> None:
    for task in tasks:
        task.send_signal(signal.SIGINT)
    for task in tasks:
        try:
            task.wait(20)
        except subprocess.TimeoutExpired:
            task.kill()
            task.wait()


def _connected(path: Path) -> socket.socket:
    there = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        there.connect(str(path))
    except OSError:
        there.close()
        raise
    return there
