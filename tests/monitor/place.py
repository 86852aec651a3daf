"""A monitor as a process of its own, as it is run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def monitor(runs: Path, *words: str, host: str = "127.0.0.1") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address, once it answers."""
    port = free_port()
    at = ["--host", host, "--port", str(port)] if "--socket" not in words else []
    command = [sys.executable, "-m", "server", "monitor", "--out", str(runs), *at, *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        if "--socket" in words:
            until(lambda: os.path.exists(words[words.index("--socket") + 1]))
        else:
            until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def answers(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def until(what: object, seconds: float = 30) -> None:
    assert callable(what)
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def status(address: str, **more: object) -> int:
    return httpx.get(address, trust_env=False, **more).status_code  # type: ignore[arg-type]
