"""`deploy/README.md` and the README of a kit, word for word: their commands are run in containers
that have fedmets and nothing else."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.federation import slug
from tests.containers.test_hospital import COMPOSE, ENGINE, ROOT, SMALL, call

pytestmark = [pytest.mark.hospital, pytest.mark.timeout(900)]
RUNBOOK = (ROOT / "deploy" / "README.md").read_text()
NETWORK, HOST = "fm-runbook", "fl.example.org"
IMAGE = "localhost/fedmets-coordinator"
"""The one with all of fedmets: on a bare machine it would be in a virtual environment."""


def block(text: str, heading: str, which: int, language: str = "") -> list[str]:
    """The lines of the `which`-th code block under a heading, comments taken off."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = [
        body
        for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        if kind == language
    ]
    lines = found[which].splitlines()
    return [re.sub(r"\s+# .*", "", line) for line in lines]


class Machine:
    """A clean machine: a container that sleeps, with a shell."""

    def __init__(self, name: str, *more: str) -> None:
        self.name = f"fm-runbook-{name}"
        words = [
            ENGINE,
            "run",
            "-d",
            "--rm",
            "--name",
            self.name,
            "--network",
            NETWORK,
            "--user",
            "0:0",
            "-w",
            "/root",
            *more,
        ]
        call(*words, "--entrypoint", "sleep", IMAGE, "infinity")

    def does(self, line: str) -> str:
        return call(ENGINE, "exec", self.name, "sh", "-c", line).stdout

    def begins(self, line: str, log: str) -> None:
        call(ENGINE, "exec", "-d", self.name, "sh", "-c", f"{line} > /tmp/{log}.log 2>&1")

    def waits(self, log: str, *texts: str) -> None:
        end = time.monotonic() + 120
        while not all(
            t
            in (
                said := call(
                    ENGINE, "exec", self.name, "cat", f"/tmp/{log}.log", check=False
                ).stdout
            )
            for t in texts
        ):
            assert time.monotonic() < end, said[-3000:]
            time.sleep(0.5)

    def takes(self, path: Path | str, there: str) -> None:
        call(ENGINE, "cp", str(path), f"{self.name}:{there}")

    def gives(self, there: str, path: Path) -> None:
        call(ENGINE, "cp", f"{self.name}:{there}", str(path))


def read_out(told: str) -> str:
    """A fingerprint, as somebody would read it from the screen."""
    return re.findall(r"[0-9a-f]{4}(?:-[0-9a-f]{4})+", told)[-1]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fm-runbook-") as name:
        Path(name).chmod(0o755)
        call(ENGINE, "network", "create", NETWORK)
        try:
            yield Path(name)
        finally:
            listed = call(ENGINE, "ps", "-a", "--format", "{{.Names}}").stdout.split()
            call(
                ENGINE, "rm", "-f", *[n for n in listed if n.startswith("fm-runbook-")], check=False
            )
            call(ENGINE, "network", "rm", NETWORK, check=False)


def test_a_federation_is_set_up_run_and_renewed_by_the_runbook_alone(folder: Path) -> None:
    text = "\n".join(block(RUNBOOK, "Coordinator", 0, "toml"))
    sites = re.findall(r'"([^"]*Hospital)"', text)
    two = [w if w != "3" else str(len(sites)) for w in SMALL]
    out = call(
        sys.executable, "-m", "simulation", *two, "--prepare", "--out", str(folder / "prepared")
    ).stdout
    prepared = Path(out.strip().splitlines()[-1])
    namespaces = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    there = Machine("coordinator", "--network-alias", HOST, *namespaces)
    (folder / "federation.toml").write_text(text)
    there.takes(folder / "federation.toml", "/root/federation.toml")

    provision, fingerprint, add, listing, start, sign, run = block(RUNBOOK, "Coordinator", 0)
    assert "kits" in there.does(provision)
    key = read_out(there.does(fingerprint))
    enroll, aloud = block(RUNBOOK, "Site IT", 0)
    serve, connect = block(RUNBOOK, "Site IT", 1)
    hospitals = {}
    for site, mine in zip(sites, sorted((prepared / "sites").iterdir()), strict=True):
        at = Machine(
            slug(site),
            "--cap-add",
            "SYS_ADMIN",
            "--security-opt",
            "seccomp=unconfined",
            "-v",
            f"{prepared / 'data'}:/data:ro",
        )
        hospitals[site] = at
        there.gives(f"/root/kits/sites/{slug(site)}", folder / site)
        at.takes(folder / site, "/root/KIT")
        at.does(enroll.replace("XXXX-...", key))
        back = read_out(at.does(aloud))
        at.gives("/root/KIT/enrolment.json", folder / "enrolment.json")
        there.takes(folder / "enrolment.json", "/root/enrolment.json")
        assert site in there.does(add.replace("XXXX-...", back))
        at.takes(mine / "patients.txt", "/root/KIT/patients.txt")
        at.does(
            "printf '\\npatients = \"patients.txt\"\\n' >> KIT/site.toml; mkdir -m 700 "
            "/run/fedmets/mine"
        )
    assert "not enrolled: none" in there.does(listing)
    there.begins(start, "coordinator")
    there.begins(sign, "signer")
    there.waits("coordinator", *(slug(s) for s in sites))
    for at in hospitals.values():
        # a folder that is the station's alone; the image's own is everybody's
        at.begins(serve.replace("/run/fedmets/", "/run/fedmets/mine/"), "station")
        at.begins(connect.replace("/run/fedmets/", "/run/fedmets/mine/"), "courier")
    told = json.loads(there.does(f"{run} --set evaluations=within_site --json"))
    assert (told["closed"], sorted(told["sites"])) == (True, sorted(sites))
    assert told["state_hash"] in there.does(
        f"fedmets server status {shlex.quote(told['folder'])} --json"
    )
    assert "397" in there.does("fedmets deploy renew kits/coordinator --key kits/authority/ca.key")


def test_a_site_needs_its_kit_and_a_container_engine_alone(folder: Path) -> None:
    """Its README's commands, on a machine without fedmets."""
    out = call(
        sys.executable, "-m", "simulation", *SMALL, "--prepare", "--out", str(folder / "prepared")
    ).stdout
    prepared = Path(out.strip().splitlines()[-1])
    (folder / "federation.toml").write_text(
        f'name = "t"\nhosts = ["{HOST}"]\nport = 8443\nstudies = ["colorectal_metastasis"]\nsites '
        '= ["A"]'
    )
    made = json.loads(
        call(
            sys.executable,
            "-m",
            "deploy",
            "provision",
            str(folder / "federation.toml"),
            "--out",
            str(folder / "kits"),
            "--json",
        ).stdout
    )
    home = folder / "kits" / "sites" / "a"
    readme = (home / "README.md").read_text()
    (enroll,) = [
        line.strip() for line in readme.splitlines() if line.strip().startswith("docker run")
    ]
    (where,) = re.findall(r"`(printf .*?)`", readme)
    for line in (
        enroll.replace("docker", ENGINE).replace(
            "....-....", made["fingerprint to read out to each site"]
        ),
        where.replace("/path/to/data", str(prepared / "data")),
    ):
        call("sh", "-c", line, cwd=home)
    assert (home / "enrolment.json").exists()
    assert not (home / "station.key").stat().st_mode & 0o077
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "COMPOSE": COMPOSE}
    done = call("sh", "check.sh", "--json", cwd=home, check=False, **env)
    # an engine may say what it has made for the first time
    told = [
        json.loads(line)["findings"] for line in done.stdout.splitlines() if line.startswith("{")
    ]
    station, courier = ([(f["check"], f["state"]) for f in findings] for findings in told)
    assert done.returncode == 3, "there is no coordinator at that name"
    assert ("kit", "ok") in courier
    assert ("name", "fault") in courier
    assert "fault" not in [state for _, state in station], done.stdout
    call(COMPOSE, "down", "-v", cwd=home, check=False)
