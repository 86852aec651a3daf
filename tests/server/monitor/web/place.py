"""A monitor as a process of its own, as it is run."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.paths import ROOT

Event = tuple[str, str, dict[str, Any]]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def monitor(
    runs: Path, *words: str, host: str = "127.0.0.1"
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address, once it answers."""
    port = free_port()
    at = ["--host", host, "--port", str(port)] if "--socket" not in words else []
    command = [sys.executable, "-m", "server", "monitor", "--out", str(runs), *at, *words]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        if "--socket" in words:
            until(lambda: listens(words[words.index("--socket") + 1]))
        else:
            until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def answers(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(path) == 0


def until(what: object, seconds: float = 30) -> None:
    assert callable(what)
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def status(address: str, **more: object) -> int:
    return httpx.get(address, trust_env=False, **more).status_code  # type: ignore[arg-type]


@contextmanager
def events(at: str, run: str, last: str = "") -> Iterator[Iterator[Event]]:
    """Id, kind and content of each."""
    headers = {"Last-Event-ID": last} if last else {}
    with httpx.stream(
        "GET", f"{at}/api/runs/{run}/events", headers=headers, trust_env=False, timeout=30
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        def told() -> Iterator[Event]:
            row: dict[str, str] = {}
            for line in answer.iter_lines():
                if line.startswith(("id:", "event:", "data:")):
                    key, _, value = line.partition(": ")
                    row[key] = value
                elif not line and row:
                    yield row["id"], row["event"], json.loads(row["data"])
                    row = {}

        yield told()
