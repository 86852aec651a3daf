"""A federation of real processes on one machine, for tests: proxy, SuperLink, couriers and
stations, each where it would be.

The coordinator and the couriers are in a network namespace of their own, the stations in ones
without a network.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.wire import signing
from deploy import kit
from deploy.federation import slug
from server.ledger import ledger
from tests.paths import ROOT

PYTHON = sys.executable


def possible() -> str:
    """Why such a federation cannot be built here; '' where it can."""
    if os.getuid() != 0:
        return "only root can make network namespaces"
    lacking = [c for c in ("ip", "unshare", "nginx") if shutil.which(c) is None]
    if lacking:
        return (
            f"{', '.join(lacking)} is not installed (apt-get install iproute2 util-linux "
            "nginx-light)"
        )
    return ""


SMALL = (
    "--learners",
    "logistic",
    "--partition",
    "even",
    "--bootstraps",
    "100",
    "--evaluations",
    "within_site",
    "--virtual-sites",
)


class Town:
    """One coordinator and its sites, from `fedmets deploy provision` on."""

    def __init__(self, folder: Path, space: str) -> None:
        self.folder, self.space = folder, space
        self.started: list[subprocess.Popen[bytes]] = []
        self.logs: dict[str, Path] = {}
        self.couriers: dict[str, list[subprocess.Popen[bytes]]] = {}

    def call(
        self, *words: str, inside: bool = False, check: bool = True, seconds: float = 300
    ) -> subprocess.CompletedProcess[str]:
        command = [*(["ip", "netns", "exec", self.space] if inside else []), *words]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, env=self.env()
        )
        told = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self.logs)
        assert not check or done.returncode == 0, (
            f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}\n{told}"
        )
        return done

    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "FEDMETS_TEST": str(self.folder),
            "PATH": f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, name: str, *words: str, inside: bool) -> subprocess.Popen[bytes]:
        self.logs[name] = self.folder / f"{name}.log"
        command = [
            *(["ip", "netns", "exec", self.space] if inside else ["unshare", "--net"]),
            *words,
        ]
        with open(self.logs[name], "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env(),
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def deploy(self, *words: str) -> dict[str, Any]:
        return dict(json.loads(self.call(PYTHON, "-m", "deploy", *words, "--json").stdout))

    def provision(self, sites: Sequence[str], study: str, host: str = "127.0.0.1") -> None:
        text = (
            f'name = "town"\nhosts = ["{host}"]\nport = 8443\nstudies = ["{study}"]\nsites = '
            f"{json.dumps(list(sites))}\n"
        )
        (self.folder / "federation.toml").write_text(text)
        told = self.deploy(
            "provision", str(self.folder / "federation.toml"), "--out", str(self.folder / "kits")
        )
        for name in sites:
            home = self.home(name)
            back = self.deploy(
                "enroll", str(home), "--fingerprint", told["fingerprint to read out to each site"]
            )
            self.deploy(
                "site",
                "add",
                str(self.coordinator),
                str(home / kit.ENROLMENT),
                "--fingerprint",
                back["fingerprint to read out"],
            )

    @property
    def coordinator(self) -> Path:
        return self.folder / "kits" / "coordinator"

    @property
    def door(self) -> Path:
        return self.coordinator / "door"

    @property
    def authority(self) -> Path:
        return self.folder / "kits" / "authority" / "ca.key"

    def home(self, site: str) -> Path:
        return self.folder / "kits" / "sites" / slug(site)

    def socket(self, site: str) -> Path:
        return self.folder / "s" / slug(site) / "s.sock"

    def open(self) -> None:
        """The door in the town's network, the signer without one."""
        link = str(self.folder / "link")
        door = (str(self.door), "--state", str(self.folder / "door-state"), "--link", link)
        # as in a container: what is not mounted there is not there
        hidden = [self.coordinator / "signer", self.authority.parent, self.folder / "state"]
        hidden[-1].mkdir()
        mounts = "".join(f"mount -t tmpfs none {shlex.quote(str(p))} && " for p in hidden)
        command = f'{mounts}exec "$@"'
        words = ("sh", "-c", command, "door", PYTHON, "-m", "deploy", "coordinator", *door)
        self.start("coordinator", *words, inside=True)
        self.signer()
        # a node that comes before it is let in gives up at once
        nodes = len(list((self.door / "nodes").iterdir()))
        self.until(lambda: self.log("coordinator").count("may join") >= nodes, 120)

    def signer(self) -> subprocess.Popen[bytes]:
        keys, state = str(self.coordinator / "signer"), str(self.folder / "state")
        words = ("deploy", "signer", keys, "--state", state, "--link", str(self.folder / "link"))
        return self.start("signer", PYTHON, "-m", *words, inside=False)

    def station(self, site: str, *before: str) -> subprocess.Popen[bytes]:
        """`before`: what is run in place of `fedmets client serve`, with the same options."""
        name = f"station-{site}"
        said = self.log(name).count("listens") if name in self.logs else 0
        words = before or (PYTHON, "-m", "client", "serve")
        process = self.start(
            name,
            *words,
            "--site",
            str(self.home(site) / "site.toml"),
            "--socket",
            str(self.socket(site)),
            inside=False,
        )
        self.until(lambda: self.log(name).count("listens") > said, 60)
        return process

    def end_station(self, site: str) -> None:
        """kill -9, and wait until it is gone."""
        while self.kill("--site", str(self.home(site))):
            time.sleep(0.1)

    def courier(self, site: str, *before: str) -> subprocess.Popen[bytes]:
        """`before`: words before the command, such as `env HTTPS_PROXY=...`."""
        courier = self.start(
            f"courier-{site}",
            *before,
            *(
                PYTHON,
                "-m",
                "deploy",
                "courier",
                str(self.home(site)),
                "--socket",
                str(self.socket(site)),
            ),
            inside=True,
        )
        self.couriers.setdefault(site, []).append(courier)
        return courier

    def settle(
        self,
        spare: str = "",
        count: int = 2,
        secure: bool = False,
        policy: str = "",
        more: Sequence[str] = (),
    ) -> tuple[list[str], str]:
        """Hospitals with a virtual cohort each, all of them up; their names, and the state hash
        that a simulation of them has.

        spare: the name of one more, enrolled and not up. secure: they mask their sums. policy: what
        else stands in each site file. more: options of the simulation.
        """
        small = (*SMALL, str(count), *(["--secure"] if secure else []), *more)
        out = self.call(
            PYTHON, "-m", "simulation", *small, "--prepare", "--out", str(self.folder / "prepared")
        ).stdout
        prepared = sorted((Path(out.strip().splitlines()[-1]) / "sites").iterdir())
        told = self.call(
            PYTHON, "-m", "simulation", *small, "--out", str(self.folder / "simulated"), "--json"
        ).stdout
        names = [tomllib.loads((p / "site.toml").read_text())["name"] for p in prepared]
        self.provision([*names, *([spare] if spare else [])], "colorectal_metastasis")
        for name, home in zip([*names, spare], [*prepared, prepared[0]], strict=False):
            if name:
                self.furnish(name, home)
                with open(self.home(name) / "site.toml", "a") as file:
                    file.write(policy)
                if "epsilon" in policy:
                    account = ("budget", "--site", str(self.home(name) / "site.toml"), "--new")
                    self.call(PYTHON, "-m", "client", *account)
        if secure:
            self.introduce(names)
        self.open()
        for name in names:
            self.station(name)
            self.courier(name)
        return names, str(json.loads(told)["state_hash"])

    def furnish(self, name: str, home: Path) -> None:
        """A site of a prepared simulation becomes a hospital: its table, its patients, its
        mapping."""
        told = tomllib.loads((home / "site.toml").read_text())
        path = self.home(name) / "site.toml"
        shutil.copyfile(home / "patients.txt", self.home(name) / "patients.txt")
        state = self.folder / "site-state" / slug(name)
        state.mkdir(parents=True)
        kept = {
            "log": str(state / "station.log"),
            "state": str(state / "station"),
            "cache": str(state / "cache"),
        }
        lines = {
            **tomllib.loads(path.read_text()),
            **kept,
            **{k: told[k] for k in ("data", "source", "minimum")},
            "patients": "patients.txt",
        }
        path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in lines.items()))

    def introduce(self, names: Sequence[str]) -> None:
        """Each site learns the others' public keys, as its people have told one another, and
        demands that sums are masked."""
        public = {}
        for name in names:
            home = self.home(name)
            public[name] = signing.load(
                home / tomllib.loads((home / "site.toml").read_text())["key"]
            ).public
        for name in names:
            peers = "".join(
                f"{json.dumps(n)} = {json.dumps(k)}\n" for n, k in public.items() if n != name
            )
            with open(self.home(name) / "site.toml", "a") as file:
                file.write(
                    f'[privacy]\nrequire = "secagg"\nanswer_margin = 0\n[privacy.peers]\n{peers}'
                )

    def server(self, *words: str) -> list[str]:
        return [PYTHON, "-m", "server", *words, "--state", str(self.folder / "state"), "--json"]

    def reached(self) -> tuple[str, str]:
        """Where those commands that start, resume or stop a run find the SuperLink."""
        return ("--link", str(self.folder / "link"))

    def asked(self, sites: int, *more: str) -> list[str]:
        words = [
            "run",
            "--study",
            "colorectal_metastasis",
            "--expect",
            str(sites),
            "--out",
            str(self.folder / "runs"),
        ]
        settings = ("--set", "learners=logistic", "--set", "evaluations=within_site")
        return self.server(
            *words, "--keys", str(self.coordinator / "signer"), *self.reached(), *settings, *more
        )

    def run(self, sites: int, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.call(*self.asked(sites, *more), inside=True, check=check)

    def begin(self, sites: int, exchanges: int, *more: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a run, and wait until so many exchanges are in its ledger; the process that follows
        it, and its folder."""
        before = set((self.folder / "runs").glob("*"))
        if "run" in self.logs:
            self.logs["run"].unlink()  # what an earlier one said is not this one's
        process = self.start("run", *self.asked(sites, *more), inside=True)
        self.until(
            lambda: set((self.folder / "runs").glob("*")) - before or process.poll() is not None,
            120,
        )
        (folder,) = set((self.folder / "runs").glob("*")) - before
        self.until(lambda: self.exchanges(folder) >= exchanges or process.poll() is not None, 120)
        return process, folder

    def exchanges(self, folder: Path) -> int:
        path = folder / ledger.NAME
        return sum(line["kind"] == "exchange" for line in ledger.read(path)) if path.exists() else 0

    def hash(self, folder: Path) -> str:
        """In the closing line of a run's ledger; '' before there is one."""
        lines = ledger.read(folder / ledger.NAME)
        return next((str(line["state_hash"]) for line in lines if line["kind"] == "close"), "")

    def kill(self, *words: str) -> int:
        """kill -9 of every process of this town with all these words in its command line; how
        many."""
        killed = 0
        told = subprocess.run(
            ["ip", "netns", "pids", self.space], capture_output=True, text=True
        ).stdout
        inside = set(told.split())  # nginx writes its title over its environment
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                mine = (
                    proc.name in inside
                    or f"FEDMETS_TEST={self.folder}".encode() in (proc / "environ").read_bytes()
                )
                line = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if mine and all(w in line for w in words) and int(proc.name) != os.getpid():
                    os.kill(int(proc.name), signal.SIGKILL)
                    killed += 1
            except OSError:
                continue
        return killed

    def has_ended(self, site: str) -> bool:
        """Its courier, which gives up on some errors."""
        return all(p.poll() is not None for p in self.couriers[site])

    def log(self, name: str) -> str:
        path = self.logs[name]
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, what: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, {name: self.log(name)[-1500:] for name in self.logs}
            time.sleep(0.1)

    def outside(self) -> int:
        """Packets that a process of the coordinator or of a courier has sent to anywhere else: a
        look-up, a greeting to its maker."""
        told = json.loads(
            self.call("ip", "-n", self.space, "-j", "-s", "link", "show", "sink").stdout
        )
        return int(told[0]["stats64"]["tx"]["packets"])

    def close(self) -> None:
        while self.kill():
            time.sleep(0.2)
        for process in self.started:
            process.wait()


@contextmanager
def town() -> Iterator[Town]:
    """A new one, taken down at the end whatever happened in it."""
    with tempfile.TemporaryDirectory(prefix="fm") as name:
        space = Path(name).name
        subprocess.run(["ip", "netns", "add", space], check=True)

        def ip(*words: str) -> None:
            subprocess.run(["ip", "-n", space, *words], check=True)

        ip("link", "set", "lo", "up")
        # what is for nobody here goes where it is counted
        ip("link", "add", "sink", "type", "veth", "peer", "name", "hole")
        silent = "for i in sink hole; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done"
        subprocess.run(["ip", "netns", "exec", space, "sh", "-c", silent], check=False)
        ip("link", "set", "sink", "arp", "off")
        ip("addr", "add", "192.0.2.1/24", "dev", "sink")
        ip("link", "set", "hole", "up")
        ip("link", "set", "sink", "up")
        ip("route", "add", "default", "dev", "sink")
        there = Town(Path(name), space)
        try:
            yield there
        finally:
            there.close()
            subprocess.run(["ip", "netns", "del", space], check=False)
