"""The same two apps on Flower's own engines: Ray in process, `flwr run` on the simulation engine, a
SuperLink with two SuperNodes.

All of them must give the bits that the in-process Grid gives.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.ledger import ledger
from tests.paths import ROOT

BIN = Path(sys.executable).parent
TABLE = [
    "--learners",
    "logistic",
    "--partition",
    "even",
    "--virtual-sites",
    "2",
    "--bootstraps",
    "100",
    "--evaluations",
    "within_site",
]
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

pytestmark = pytest.mark.slow


def simulation(cwd: Path, *options: str) -> str:
    env = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "simulation", *TABLE, *options],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The state hash of the in-process engine."""
    return str(json.loads(simulation(tmp_path_factory.mktemp("inprocess"), "--json"))["state_hash"])


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with its own FLWR_HOME; every process started in it is killed at the end."""
    env = {
        **os.environ,
        **QUIET,
        "FLWR_HOME": str(tmp_path / "flwr"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FEDMETS_TEST": str(tmp_path),
    }
    env |= {
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(port()),
    }
    (tmp_path / "flwr").mkdir()
    yield env
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"FEDMETS_TEST={tmp_path}".encode() in (proc / "environ").read_bytes()
        except OSError:
            continue
        if mine:
            os.kill(int(proc.name), signal.SIGKILL)


def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def prepared(tmp_path: Path) -> Path:
    out = simulation(tmp_path, "--prepare", "--out", str(tmp_path / "prepared"))
    return Path(out.strip().splitlines()[-1])


def finished(out: Path, seconds: float) -> str:
    """The state hash in the closing line of a run's ledger."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lines = ledger.read(out / "ledger.jsonl") if (out / "ledger.jsonl").exists() else []
        if lines and lines[-1]["kind"] == "close":
            return str(lines[-1]["state_hash"])
        time.sleep(0.5)
    raise AssertionError(f"no closing line within {seconds} s: {[line['kind'] for line in lines]}")


def config(folder: Path, out: Path, sites: bool) -> str:
    keys = {
        "study": "colorectal_metastasis",
        "task": "postresection",
        "learners": "logistic",
        "evaluations": "within_site",
        "out": str(out),
        "keys": str(folder / "coordinator"),
        "expect": 2,
    }
    return " ".join(
        f"{k}={json.dumps(v)}"
        for k, v in {**keys, **({"sites": str(folder / "sites")} if sites else {})}.items()
    )


def test_ray(expected: str, tmp_path: Path) -> None:
    assert json.loads(simulation(tmp_path, "--engine", "ray", "--json"))["state_hash"] == expected


def test_flwr_run_on_the_simulation_engine(
    expected: str, tmp_path: Path, flower: dict[str, str]
) -> None:
    folder = prepared(tmp_path)
    (tmp_path / "flwr" / "config.toml").write_text(
        '[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\n'
    )
    started = subprocess.run(
        [
            "flwr",
            "run",
            str(ROOT),
            "local",
            "--run-config",
            config(folder, tmp_path / "out", True),
            "--federation-config",
            "num-supernodes=2",
        ],
        env=flower,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert started.returncode == 0, started.stdout + started.stderr
    assert finished(tmp_path / "out", 180) == expected


def test_superlink_and_two_supernodes(
    expected: str, tmp_path: Path, flower: dict[str, str]
) -> None:
    folder = prepared(tmp_path)
    at = port()
    (tmp_path / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{at}"\ninsecure = '
        "true\n"
    )
    env = {**flower, "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05"}

    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        with open(tmp_path / f"{name}.log", "w") as log:
            started.append(
                subprocess.Popen(
                    [str(BIN / arguments[0]), *arguments[1:]],
                    env=env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    start("superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(at))
    wait(at)
    for i, site in enumerate(sorted((folder / "sites").glob("*/site.toml"))):
        start(
            f"supernode{i}",
            "flower-supernode",
            "--insecure",
            "--superlink",
            f"127.0.0.1:{at}",
            "--port",
            str(port()),
            "--node-config",
            f'site="{site}"',
        )
    asked = subprocess.run(
        ["flwr", "run", str(ROOT), "here", "--run-config", config(folder, tmp_path / "out", False)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    try:
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert finished(tmp_path / "out", 300) == expected
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait(at: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", at)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {at}")


def test_the_commands_exist() -> None:
    assert shutil.which("flwr", path=str(BIN))
