"""A federation of real processes on one machine: proxy, SuperLink, couriers and stations, each where it would be at a hospital.

The coordinator and the couriers are in a network namespace of their own, the stations in ones without a network.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy import kit
from deploy.federation import slug

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def possible() -> str:
    """Why such a federation cannot be built here; '' where it can."""
    if os.getuid() != 0:
        return "only root can make network namespaces"
    lacking = [c for c in ("ip", "unshare", "nginx") if shutil.which(c) is None]
    if lacking:
        return f"{', '.join(lacking)} is not installed (apt-get install iproute2 util-linux nginx-light)"
    return ""


if possible():
    pytestmark.append(pytest.mark.skip(reason=possible()))


class Town:
    """One coordinator and its sites, from `python -m deploy provision` on."""

    def __init__(self, folder: Path, space: str) -> None:
        self.folder, self.space = folder, space
        self.started: list[subprocess.Popen[bytes]] = []
        self.logs: dict[str, Path] = {}

    def call(self, *words: str, inside: bool = False, check: bool = True, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        command = [*(["ip", "netns", "exec", self.space] if inside else []), *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, env=self.env())
        told = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self.logs)
        assert not check or done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}\n{told}"
        return done

    def env(self) -> dict[str, str]:
        return {**os.environ, "FEDMETS_TEST": str(self.folder), "PATH": f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}"}

    def start(self, name: str, *words: str, inside: bool) -> subprocess.Popen[bytes]:
        self.logs[name] = self.folder / f"{name}.log"
        command = [*(["ip", "netns", "exec", self.space] if inside else ["unshare", "--net"]), *words]
        with open(self.logs[name], "ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=self.env(), start_new_session=True)
        self.started.append(process)
        return process

    def deploy(self, *words: str) -> dict[str, Any]:
        return dict(json.loads(self.call(PYTHON, "-m", "deploy", *words, "--json").stdout))

    def provision(self, sites: Sequence[str], study: str, host: str = "127.0.0.1") -> None:
        text = f'name = "town"\nhosts = ["{host}"]\nport = 8443\nstudies = ["{study}"]\nsites = {json.dumps(list(sites))}\n'
        (self.folder / "federation.toml").write_text(text)
        told = self.deploy("provision", str(self.folder / "federation.toml"), "--out", str(self.folder / "kits"))
        for name in sites:
            home = self.home(name)
            back = self.deploy("enroll", str(home), "--fingerprint", told["fingerprint to read out to each site"])
            self.deploy("site", "add", str(self.coordinator), str(home / kit.ENROLMENT), "--fingerprint", back["fingerprint to read out"])

    @property
    def coordinator(self) -> Path:
        return self.folder / "kits" / "coordinator"

    def home(self, site: str) -> Path:
        return self.folder / "kits" / "sites" / slug(site)

    def socket(self, site: str) -> Path:
        return self.folder / "s" / slug(site) / "s.sock"

    def open(self) -> None:
        self.start(
            "coordinator", PYTHON, "-m", "deploy", "coordinator", str(self.coordinator), "--state", str(self.folder / "state"), inside=True
        )
        self.until(lambda: "may join" in self.log("coordinator") or not list((self.coordinator / "nodes").iterdir()), 60)

    def station(self, site: str) -> subprocess.Popen[bytes]:
        home = self.home(site)
        process = self.start(
            f"station-{site}",
            PYTHON,
            "-m",
            "client",
            "serve",
            "--site",
            str(home / "site.toml"),
            "--socket",
            str(self.socket(site)),
            inside=False,
        )
        self.until(lambda: "listens" in self.log(f"station-{site}"), 60)
        return process

    def courier(self, site: str) -> subprocess.Popen[bytes]:
        state = str(self.folder / f"flwr-{site}")
        return self.start(
            f"courier-{site}", PYTHON, "-m", "deploy", "courier", str(self.home(site)), "--socket", str(self.socket(site)), "--state", state,
            "--port", str(9100 + len(self.started)), inside=True,
        )  # fmt: skip

    def run(self, study: str, sites: int, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        words = ["run", "--study", study, "--expect", str(sites), "--out", str(self.folder / "runs"), "--keys", str(self.coordinator)]
        return self.call(PYTHON, "-m", "server", *words, "--state", str(self.folder / "state"), "--json", *more, inside=True, check=check)

    def log(self, name: str) -> str:
        path = self.logs[name]
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, what: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, {name: self.log(name)[-1500:] for name in self.logs}
            time.sleep(0.1)

    def close(self) -> None:
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if f"FEDMETS_TEST={self.folder}".encode() in (proc / "environ").read_bytes():
                    os.kill(int(proc.name), signal.SIGKILL)
            except OSError:
                continue
        for process in self.started:
            process.wait()


@pytest.fixture
def town() -> Iterator[Town]:
    with tempfile.TemporaryDirectory(prefix="fm") as name:
        space = Path(name).name
        subprocess.run(["ip", "netns", "add", space], check=True)
        subprocess.run(["ip", "-n", space, "link", "set", "lo", "up"], check=True)
        there = Town(Path(name), space)
        try:
            yield there
        finally:
            there.close()
            subprocess.run(["ip", "netns", "del", space], check=False)


def furnish(town: Town, names: Sequence[str], prepared: Path) -> None:
    """The sites of a prepared simulation become the hospitals: their tables, their patients, their mapping."""
    for name, home in zip(names, sorted((prepared / "sites").iterdir()), strict=True):
        told = tomllib.loads((home / "site.toml").read_text())
        path = town.home(name) / "site.toml"
        mine = tomllib.loads(path.read_text())
        shutil.copyfile(home / "patients.txt", town.home(name) / "patients.txt")
        state = town.folder / "site-state" / name
        state.mkdir(parents=True)
        kept = {"log": str(state / "station.log"), "state": str(state / "station"), "cache": str(state / "cache")}
        keys = {**mine, **kept, **{k: told[k] for k in ("data", "source", "minimum")}, "patients": "patients.txt"}
        path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items()))


CLOSED = (
    *("/v1/control/start-run", "/v1/control/list-runs", "/v1/control/stop-run", "/v1/control/register-node"),
    *("/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/runtime/pull-object", "/docs", "/openapi.json", "/"),
    *("/v1/fleet/../control/list-runs", "/v1/fleet/%2e%2e/control/list-runs", "//v1/control/list-runs"),
)
SMALL = ("--learners", "logistic", "--partition", "even", "--virtual-sites", "2", "--bootstraps", "100", "--evaluations", "within_site")


def test_two_hospitals_and_a_coordinator_give_the_bits_of_the_simulation(town: Town) -> None:
    out = town.call(PYTHON, "-m", "simulation", *SMALL, "--prepare", "--out", str(town.folder / "prepared")).stdout
    prepared = Path(out.strip().splitlines()[-1])
    want = json.loads(town.call(PYTHON, "-m", "simulation", *SMALL, "--out", str(town.folder / "simulated"), "--json").stdout)["state_hash"]
    names = [tomllib.loads((p / "site.toml").read_text())["name"] for p in sorted((prepared / "sites").iterdir())]
    town.provision(names, "colorectal_metastasis")
    furnish(town, names, prepared)
    town.open()
    for name in names:
        town.station(name)
        town.courier(name)
    done = json.loads(town.run("colorectal_metastasis", 2, "--set", "learners=logistic", "--set", "evaluations=within_site").stdout)
    assert done["closed"]
    assert done["state_hash"] == want
    assert set(done["sites"]) == set(names)

    # ---- the front door, from where the couriers are: the same certificate, and nothing but what a courier needs ----
    ca = str(town.coordinator / "ca.pem")

    def status(path: str, *more: str) -> str:
        words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", ca, *more, f"https://127.0.0.1:8443{path}"]
        return town.call(*words, inside=True, check=False).stdout

    assert status("/health") == "200"
    for path in CLOSED:
        assert status(path, "-X", "POST", "--path-as-is", "--data-binary", "") == "404", path
    assert status("/v1/fleet/pull-messages") == "403"
    # a Fleet route without a node's signature
    assert status("/v1/fleet/pull-messages", "-X", "POST", "--data-binary", "") in ("400", "401", "415")
    (town.folder / "large").write_bytes(bytes(9_000_000))
    assert status("/v1/fleet/pull-messages", "-X", "POST", "--data-binary", f"@{town.folder / 'large'}") == "413"
    listening = town.call("ss", "-Hltn", inside=True).stdout
    outside = [line for line in listening.splitlines() if "127.0.0.1:" not in line.split()[3]]
    assert [line.split()[3].rpartition(":")[2] for line in outside] == ["8443"], listening
