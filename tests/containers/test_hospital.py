"""Three hospitals and a coordinator as containers, from the kits as they are sent out. `make
test-hospital` prepares the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import kit
from deploy.federation import slug
from tests.paths import ROOT

PORT = 18443
USER = "10001:10001"
ENGINE = os.environ.get("FEDMETS_ENGINE", "podman")
"""Or `docker`."""
COMPOSE = (
    str(Path(sys.executable).parent / "podman-compose") if ENGINE == "podman" else "docker-compose"
)
"""Debian's podman-compose is too old: it gives a service without a network one all the same."""
HOST = "host.containers.internal" if ENGINE == "podman" else "172.17.0.1"
"""By which containers reach this machine."""
SMALL = (
    "--learners",
    "logistic",
    "--partition",
    "even",
    "--virtual-sites",
    "3",
    "--bootstraps",
    "100",
    "--evaluations",
    "within_site",
)
pytestmark = [pytest.mark.hospital, pytest.mark.timeout(1500)]


def call(
    *words: str, cwd: Path = ROOT, check: bool = True, seconds: float = 600, **env: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, timeout=seconds, env={**os.environ, **env}
    )
    assert not check or done.returncode == 0, (
        f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done


def deploy(*words: str) -> dict[str, str]:
    return dict(json.loads(call(sys.executable, "-m", "deploy", *words, "--json").stdout))


class Hospitals:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.up: list[Path] = []
        out = call(
            sys.executable,
            "-m",
            "simulation",
            *SMALL,
            "--prepare",
            "--out",
            str(folder / "prepared"),
        ).stdout
        self.prepared = sorted((Path(out.strip().splitlines()[-1]) / "sites").iterdir())
        self.names = [tomllib.loads((p / "site.toml").read_text())["name"] for p in self.prepared]

    @property
    def coordinator(self) -> Path:
        return self.folder / "kits" / "coordinator"

    def home(self, name: str) -> Path:
        return self.folder / "kits" / "sites" / slug(name)

    def provision(self) -> None:
        lines = [
            'name = "town"',
            f"hosts = [{json.dumps(HOST)}]",
            f"port = {PORT}",
            'studies = ["colorectal_metastasis"]',
        ]
        (self.folder / "federation.toml").write_text(
            "\n".join([*lines, f"sites = {json.dumps(self.names)}"])
        )
        told = deploy(
            "provision", str(self.folder / "federation.toml"), "--out", str(self.folder / "kits")
        )
        for name, mine in zip(self.names, self.prepared, strict=True):
            back = deploy(
                "enroll",
                str(self.home(name)),
                "--fingerprint",
                told["fingerprint to read out to each site"],
            )
            file = str(self.home(name) / kit.ENROLMENT)
            deploy(
                "site",
                "add",
                str(self.coordinator),
                file,
                "--fingerprint",
                back["fingerprint to read out"],
            )
            shutil.copyfile(mine / "patients.txt", self.home(name) / "patients.txt")
            site = self.home(name) / "site.toml"
            site.write_text(site.read_text() + '\npatients = "patients.txt"\n')
        # each kit is its owner's alone, as on a hospital's machine
        call("chown", "-R", USER, str(self.folder / "kits"))

    def start(self, home: Path, data: str = "") -> None:
        self.up.append(home)
        call(
            COMPOSE,
            "-p",
            self.project(home),
            "up",
            "-d",
            cwd=home,
            FEDMETS_DATA=data,
            FEDMETS_USER=USER,
            FEDMETS_SIGNER=USER,
        )

    def project(self, home: Path) -> str:
        return f"fm-{home.name}"

    def container(self, home: Path, service: str) -> str:
        listed = call(ENGINE, "ps", "-a", "--format", "{{.Names}}").stdout.split()
        (found,) = [n for n in listed if n.startswith(self.project(home)) and service in n]
        return found

    def filtered(self, container: str, *words: str) -> str:
        """iptables in a container's network namespace."""
        pid = call(ENGINE, "inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
        return call("nsenter", "-t", pid, "-n", "iptables", *words).stdout

    def counted(self, container: str, *allowed: str) -> None:
        """From now on the packets that leave a container are counted: those to loopback, those that
        are allowed, and all others."""
        for rule in ("-o lo", *allowed, ""):
            self.filtered(container, "-A", "OUTPUT", *rule.split(), "-j", "ACCEPT")

    def packets(self, container: str) -> list[int]:
        """By rule, the last one for all others."""
        told = self.filtered(container, "-L", "OUTPUT", "-v", "-x", "-n").splitlines()[2:]
        return [int(line.split()[0]) for line in told]

    def stop(self) -> None:
        """Containers and volumes of this town, by name: the machine has others."""
        for home in self.up:
            down = ["-p", self.project(home), "down", "-v", "-t", "1"]
            call(COMPOSE, *down, cwd=home, check=False, FEDMETS_DATA="/", FEDMETS_USER=USER)
            left = call(ENGINE, "volume", "ls", "-q").stdout.split()
            for volume in left:
                if volume.startswith(f"{self.project(home)}_"):
                    call(ENGINE, "volume", "rm", volume, check=False)

    def logs(self) -> str:
        listed = call(ENGINE, "ps", "-a", "--format", "{{.Names}}").stdout.split()
        return "\n".join(
            f"--- {n}\n{(d := call(ENGINE, 'logs', '--tail', '30', n, check=False)).stdout}{d.stderr}"
            for n in listed
        )


@pytest.fixture(scope="module")
def town() -> Iterator[Hospitals]:
    if (
        shutil.which(ENGINE) is None
        or call(ENGINE, "image", "inspect", "localhost/fedmets-station", check=False).returncode
    ):
        pytest.fail("this machine has no images of fedmets: make test-hospital makes it ready")
    with tempfile.TemporaryDirectory(prefix="fm-town-") as name:
        Path(name).chmod(0o755)
        there = Hospitals(Path(name))
        there.provision()
        try:
            there.start(there.coordinator)
            data = str((there.prepared[0] / ".." / ".." / "data").resolve())
            for site in there.names:
                there.start(there.home(site), data)
            yield there
        finally:
            there.stop()


def test_a_whole_study_over_containers_gives_the_bits_of_the_simulation(town: Hospitals) -> None:
    # in the same image: which kernels a BLAS takes, and so the last bits, depends on the processor
    # and on its environment
    alone = [
        ENGINE,
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        USER,
        "--tmpfs",
        "/tmp",
        "--entrypoint",
        "fedmets",
    ]
    told = call(
        *alone, "localhost/fedmets-station", "simulate", *SMALL, "--out", "/tmp/simulated", "--json"
    )
    want = json.loads(told.stdout)
    door = town.container(town.coordinator, "door")
    signer = town.container(town.coordinator, "signer")
    end = time.monotonic() + 120
    while call(ENGINE, "logs", door).stderr.count("may join") < 3:
        assert time.monotonic() < end, town.logs()
        time.sleep(1)
    couriers = [town.container(town.home(n), "courier") for n in town.names]
    for courier in couriers:
        town.counted(courier, f"-p tcp --dport {PORT}", "-p udp --dport 53", "-p tcp --dport 53")
    town.counted(door, "-p tcp --sport 8443")
    words = [
        "fedmets",
        "server",
        "run",
        "--study",
        "colorectal_metastasis",
        "--expect",
        "3",
        "--json",
    ]
    done = call(
        ENGINE,
        "exec",
        signer,
        *words,
        "--set",
        "learners=logistic",
        "--set",
        "evaluations=within_site",
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr[-2000:]}\n{town.logs()}"
    told = json.loads(done.stdout)
    assert told["closed"]
    assert told["state_hash"] == want["state_hash"]
    assert sorted(told["sites"]) == sorted(town.names)
    # nothing has left for anywhere but the coordinator's port, and nothing the coordinator but
    # answers
    for one in (*couriers, door):
        _, wanted, *_, others = town.packets(one)
        assert (wanted > 0, others) == (True, 0), (
            one,
            town.filtered(one, "-L", "OUTPUT", "-v", "-n"),
        )


def test_the_station_has_no_network_and_the_courier_no_data(town: Hospitals) -> None:
    home = town.home(town.names[0])
    station, courier = town.container(home, "station"), town.container(home, "courier")
    look = "import socket; print([n for _, n in socket.if_nameindex()])"
    assert call(ENGINE, "exec", station, "python", "-c", look).stdout.strip() == "['lo']"
    for there, folder in (
        (station, "/data"),
        (station, "/kit"),
        (courier, "/kit"),
        (courier, "/app"),
        (station, "/opt"),
    ):
        done = call(ENGINE, "exec", there, "touch", f"{folder}/x", check=False)
        assert "Read-only file system" in done.stderr, (there, folder, done.stderr)
    look = "import os; print(sorted(os.listdir('/kit')), os.listdir('/data'))"
    held = call(ENGINE, "exec", courier, "python", "-c", look).stdout.strip()
    assert held == "['ca.pem', 'courier.key', 'kit.json', 'manifest.json', 'pinned.json'] []"
    assert (
        call(ENGINE, "exec", courier, "python", "-c", "import torch", check=False).returncode == 1
    )
    for there in (station, courier):
        assert call(ENGINE, "exec", there, "id", "-u").stdout.strip() == "10001"
        caps = call(ENGINE, "exec", there, "grep", "CapEff", "/proc/self/status").stdout.split()[1]
        assert int(caps, 16) == 0


def test_nothing_but_the_proxy_can_be_reached(town: Hospitals) -> None:
    ca = str(town.coordinator / "door" / "ca.pem")

    def status(path: str, *more: str) -> str:
        words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", ca, *more]
        at = f"https://{HOST}:{PORT}"
        return call(
            *words, "--resolve", f"{HOST}:{PORT}:127.0.0.1", f"{at}{path}", check=False
        ).stdout

    assert status("/health") == "200"
    for path in (
        "/v1/control/start-run",
        "/v1/control/list-runs",
        "/v1/fleet/register-node",
        "/v1/runtime/pull-object",
        "/docs",
    ):
        assert status(path, "-X", "POST", "--data-binary", "") == "404"
    # from a site's own courier: the ports inside the coordinator's container
    courier = town.container(town.home(town.names[0]), "courier")
    look = f"""
import socket
for port in (8000, 8443, 9094):
    with socket.socket() as s:
        s.settimeout(2)
        print(port, s.connect_ex((socket.gethostbyname('{HOST}'), port)) == 0)
with socket.socket() as s:
    print({PORT}, s.connect_ex((socket.gethostbyname('{HOST}'), {PORT})) == 0)
"""
    told = call(ENGINE, "exec", courier, "python", "-c", look).stdout.split("\n")
    assert told[:4] == ["8000 False", "8443 False", "9094 False", f"{PORT} True"]


HOSTILE_CLIENT = """
from flwr.clientapp import ClientApp
open("/tmp/trace", "w").write("this ran at the hospital")
app = ClientApp()
"""
HOSTILE_SERVER = """
import json, time
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 3:
        time.sleep(0.5)
    replies = grid.send_and_receive([Message(RecordDict(), n, "query") for n in nodes], timeout=120)
    found = [json.loads(r.content["updates"]["json"]) if r.has_content() else None for r in replies]
    open("/state/hostile.json", "w").write(json.dumps(found))
"""
HOSTILE_PROJECT = """
[project]
name = "hostile"
version = "1.0"
[tool.flwr.app]
publisher = "rogue"
[tool.flwr.app.components]
serverapp = "evil_server:app"
clientapp = "evil_client:app"
"""


def test_a_hostile_bundle_never_comes_to_a_hospital(town: Hospitals) -> None:
    """A coordinator that has gone over, or whose SuperLink was taken: what it ships stays there."""
    coordinator = town.container(town.coordinator, "door")
    # what runs it is Flower's own executor, in the container that was taken; the signer would not
    signer = town.container(town.coordinator, "signer")
    call(ENGINE, "stop", "-t", "30", signer)
    executor = (
        *("flower-superexec", "--runtime-api-address", "127.0.0.1:8000"),
        *("--root-certificates", "/state/loopback/ca.pem"),
    )
    call(ENGINE, "exec", "-d", "-e", "FLWR_HOME=/state/flwr", coordinator, *executor)
    bundle = town.folder / "hostile"
    bundle.mkdir()
    for name, text in (
        ("evil_client.py", HOSTILE_CLIENT),
        ("evil_server.py", HOSTILE_SERVER),
        ("pyproject.toml", HOSTILE_PROJECT),
    ):
        (bundle / name).write_text(text)
    call(ENGINE, "cp", str(bundle), f"{coordinator}:/state/hostile")
    call(
        ENGINE,
        "exec",
        "-e",
        "FLWR_HOME=/state/flwr",
        coordinator,
        "flwr",
        "run",
        "/state/hostile",
        "coordinator",
    )
    end = time.monotonic() + 180
    while (
        found := call(ENGINE, "exec", coordinator, "cat", "/state/hostile.json", check=False)
    ).returncode:
        assert time.monotonic() < end, town.logs()
        time.sleep(2)
    refused = {"plan": "0" * 64, "cases": 0, "code": "W02", "budget": ""}
    assert [one["updates"] for one in json.loads(found.stdout)] == [[refused]] * 3
    for name in town.names:
        courier = town.container(town.home(name), "courier")
        look = "import os; print(os.listdir('/tmp'))"
        assert call(ENGINE, "exec", courier, "python", "-c", look).stdout.strip() == "[]", name
    call(ENGINE, "start", signer)


def test_the_key_that_signs_is_not_where_the_port_is(town: Hospitals) -> None:
    door, signer = (town.container(town.coordinator, n) for n in ("door", "signer"))
    look = "import socket; print([n for _, n in socket.if_nameindex()])"
    assert call(ENGINE, "exec", signer, "python", "-c", look).stdout.strip() == "['lo']"
    look = "import os; print(sorted(os.listdir('/kit')))"
    held = call(ENGINE, "exec", door, "python", "-c", look).stdout.strip()
    assert held == "['ca.pem', 'nginx.conf', 'nodes', 'server.key', 'server.pem']"
    held = call(ENGINE, "exec", signer, "python", "-c", look).stdout.strip()
    assert held == "['plan.key', 'sites.toml']"


def test_the_live_page_is_a_service_that_asks_for_its_token_and_can_write_nothing(
    town: Hospitals,
) -> None:
    home, secret = town.coordinator, "0123456789abcdef0123456789abcdef"
    coordinator = town.container(home, "signer")
    token = home / "monitor.token"
    token.write_text(secret)
    token.chmod(0o600)
    call("chown", USER, str(token))
    call(
        COMPOSE,
        "-p",
        town.project(home),
        "--profile",
        "monitor",
        "up",
        "-d",
        "monitor",
        cwd=home,
        FEDMETS_USER=USER,
        FEDMETS_SIGNER=USER,
    )
    monitor = town.container(home, "monitor")

    def get(path: str, *more: str) -> tuple[str, str]:
        told = call(
            "curl", "-s", "-w", "\n%{http_code}", *more, f"http://127.0.0.1:8090{path}", check=False
        ).stdout
        text, _, status = told.rpartition("\n")
        return status, text

    try:
        end = time.monotonic() + 60
        while get("/metrics")[0] == "000":
            assert time.monotonic() < end, call(ENGINE, "logs", monitor, check=False).stderr
            time.sleep(0.5)
        known = ("-H", f"Authorization: Bearer {secret}")
        assert (
            get("/metrics")[0] == get("/metrics", "-H", "Authorization: Bearer wrong")[0] == "401"
        )
        assert get(f"/metrics?token={secret}")[0] == "400", "a token in an address ends up in logs"
        status, text = get("/metrics", *known)
        assert status == "200"
        assert "fedmets_run" in text
        status, runs = get("/api/runs", *known)
        assert status == "200"
        held = call(
            ENGINE, "exec", coordinator, "sh", "-c", "ls /state/runs 2>/dev/null || true"
        ).stdout.split()
        assert all(name in runs for name in held)
        for folder in ("/state", "/kit", "/opt"):
            assert call(ENGINE, "exec", monitor, "touch", f"{folder}/x", check=False).returncode
    finally:
        call(ENGINE, "rm", "-f", "-t", "1", monitor, check=False)


@pytest.mark.skipif(ENGINE != "podman", reason="images are built and saved by buildah")
def test_the_images_as_files_come_with_checksums_and_a_bill_of_materials(town: Hospitals) -> None:
    out = town.folder / "archive"
    call(sys.executable, "deploy/containers/archive.py", "--only", "courier", "--out", str(out))
    assert "fedmets-courier.tar: OK" in call("sha256sum", "-c", "SHA256SUMS", cwd=out).stdout
    bill = json.loads((out / "fedmets-courier.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    held = {c["name"].lower(): c["version"] for c in bill["components"]}
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert held["flwr"] == pinned["flwr"]
    assert {"libc6", "grpcio", "cryptography"} <= set(held)
    assert not {"torch", "monai", "xgboost-cpu", "xgboost", "pip"} & set(held)
    # as a site without a network takes it in
    assert "fedmets-courier" in call(ENGINE, "load", "-i", str(out / "fedmets-courier.tar")).stdout
    look = [
        ENGINE,
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "python",
        "localhost/fedmets-courier",
        "-c",
    ]
    call(*look, "import deploy.courier")
