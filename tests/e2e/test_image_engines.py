"""A run with images gives the same bits on every engine, and after a kill in the middle of its
networks' training."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from server.ledger import ledger
from tests.paths import ROOT

SMALL = (
    *(
        "--study",
        "liver_recurrence",
        "--phantom-patients",
        "120",
        "--virtual-sites",
        "2",
        "--bootstraps",
        "100",
    ),
    *(
        "--learners",
        "logistic,image,fusion",
        "--evaluations",
        "within_site",
        "--set",
        "segmentation.rounds=1",
    ),
    *(
        "--set",
        "segmentation.epochs=1",
        "--set",
        "autoencoder.rounds=1",
        "--set",
        "autoencoder.epochs=1",
    ),
    *("--set", "image.rounds=3", "--set", "image.epochs=1"),
)
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
pytestmark = pytest.mark.slow


def options(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "simulation", *SMALL, "--out", str(out), *more]


def run(command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def closing(folder: Path) -> dict[str, Any]:
    lines = ledger.read(folder / "ledger.jsonl") if (folder / "ledger.jsonl").exists() else []
    return next((dict(line) for line in lines if line["kind"] == "close"), {})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """State hash of the in-process engine, and the cache that it filled."""
    out = tmp_path_factory.mktemp("inprocess")
    return str(json.loads(run(options(out, "--json")))["state_hash"]), out / "cache"


def test_ray(expected: tuple[str, Path], tmp_path: Path) -> None:
    told = run(options(tmp_path, "--cache", str(expected[1]), "--engine", "ray", "--json"))
    assert json.loads(told)["state_hash"] == expected[0]


def test_flwr_run_by_the_line_that_prepare_prints(
    expected: tuple[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "flwr").mkdir()
    ports = {
        f"FLWR_LOCAL_{name}_PORT": str(free()) for name in ("SUPERLINK_HTTP_API", "CONTROL_API")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {
        **os.environ,
        **QUIET,
        **ports,
        "PATH": path,
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FEDMETS_TEST": str(tmp_path),
    }
    env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
    line, folder = (
        run(options(tmp_path, "--cache", str(expected[1]), "--prepare")).strip().splitlines()[-2:]
    )
    words = [word for word in shlex.split(line) if word != "--stream"]
    try:
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        end = time.monotonic() + 300
        while not closing(Path(folder) / "flower"):
            assert time.monotonic() < end, "no closing line"
            time.sleep(0.5)
        assert closing(Path(folder) / "flower")["state_hash"] == expected[0]
    finally:
        for proc in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"FEDMETS_TEST={tmp_path}".encode() in (proc / "environ").read_bytes():
                    os.kill(int(proc.name), signal.SIGKILL)


def free() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_killed_among_the_networks_rounds_and_resumed(
    expected: tuple[str, Path], tmp_path: Path
) -> None:
    started = subprocess.Popen(
        options(tmp_path, "--cache", str(expected[1])),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 300
    folder: Path | None = None
    while time.monotonic() < end and started.poll() is None:
        folder = next((p.parent for p in tmp_path.glob("*/ledger.jsonl")), None)
        lines = ledger.read(folder / "ledger.jsonl") if folder else []
        if any(
            w["learner"] == "image" and w["phase"] == "train"
            for line in lines
            for w in line.get("work", ())
        ):
            break
        time.sleep(0.02)
    assert started.poll() is None, "the run ended before it was killed"
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert folder is not None
    assert not closing(folder)
    told = json.loads(run([sys.executable, "-m", "simulation", "--resume", str(folder), "--json"]))
    assert told["state_hash"] == expected[0]
