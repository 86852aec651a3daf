"""The plan key's process beside a SuperLink that has been taken over: no other bundle is run, no other
run is signed for, and the key is not where the open port is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.config.run_config import Run
from server.coordinator import requests
from server.ledger import ledger
from tests.e2e import town as towns
from tests.e2e.town import Town

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(towns.possible()), reason=towns.possible()),
]
PROJECT = """
[project]
name = "fedmets"
version = "9.9"
[tool.flwr.app]
publisher = "fedmets"
[tool.flwr.app.components]
serverapp = "rogue:app"
clientapp = "rogue:client"
[tool.flwr.app.config]
request = ""
out = ""
keys = ""
study = "colorectal_metastasis"
"""
ROGUE = """
from pathlib import Path
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
Path({trace!r}).write_text("this ran beside the plan key")
app = ServerApp()
client = ClientApp()

@app.main()
def main(grid, context):
    Path({trace!r}).write_text(Path(context.run_config["keys"], "plan.key").read_text())
"""
START = """
import sys
from pathlib import Path
from server.coordinator.superlink import SuperLink
home, authority, app, config = sys.argv[1:]
print(SuperLink(Path(home), Path(authority)).start(Path(app), config))
"""


@pytest.fixture
def town() -> Iterator[Town]:
    with towns.town() as there:
        yield there


def rogue(town: Town, **config: object) -> int:
    """Whoever holds the SuperLink starts a run there with a bundle and settings of their own."""
    app = town.folder / "rogue"
    app.mkdir(exist_ok=True)
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "rogue.py").write_text(ROGUE.format(trace=str(town.folder / "trace")))
    settings = "".join(f"{k} = {json.dumps(v)}\n" for k, v in config.items())
    where = (str(town.folder / "rogue-home"), str(town.folder / "link" / "ca.pem"))
    done = town.call(sys.executable, "-c", START, *where, str(app), settings, inside=True)
    return int(done.stdout)


def behind_the_port(town: Town) -> list[Path]:
    """The processes that have the open port or the SuperLink's, and those that started them."""
    wanted = ("nginx", "flower-superlink", "deploy coordinator")
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            line = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environ = (proc / "environ").read_bytes()
        except OSError:
            continue
        named = any(w in line for w in wanted)
        if named and (f"FEDMETS_TEST={town.folder}".encode() in environ or "nginx" in line):
            found.append(proc)
    return found


def test_a_superlink_that_was_taken_over_gets_no_plan_signed(town: Town) -> None:
    names, want = town.settle()
    keys = town.coordinator / "signer"

    # ---- the key and the requests are not where the open port is, and the port not where they are
    processes = behind_the_port(town)
    assert len(processes) >= 3
    for process in processes:
        assert (process / "root" / str(town.door)[1:] / "server.key").exists()
        for hidden in (keys / "plan.key", town.authority, town.folder / "state" / "flwr"):
            assert not (process / "root" / str(hidden)[1:]).exists(), hidden
    signer = next(p for p in town.started if "deploy signer" in " ".join(map(str, p.args)))
    assert signer.poll() is None
    spaces = {os.readlink(p / "ns" / "net") for p in processes}
    assert os.readlink(f"/proc/{signer.pid}/ns/net") not in spaces
    inside = ["nsenter", f"--net=/proc/{signer.pid}/ns/net", "ip", "-j", "link", "show", "up"]
    links = json.loads(subprocess.run(inside, capture_output=True, check=True).stdout)
    assert [link["ifname"] for link in links] == ["lo"]

    # ---- runs that nobody asked for
    out = town.folder / "stolen"
    given = {"out": str(out), "keys": str(keys), "study": "colorectal_metastasis"}
    for request in ("", "0" * 32, "../../prepared"):
        rogue(town, **given, request=request)
    trace = town.folder / "trace"
    town.until(lambda: town.log("signer").count("[R12]") >= 3 or trace.exists(), 120)
    assert not trace.exists()
    assert not out.exists()
    stations = [town.log(f"station-{name}") for name in names]
    assert not any("greeting" in log for log in stations)

    # ---- one that was asked for, under another bundle and other settings: it is as it was asked for
    home = town.folder / "state" / "flwr"
    asked = Run.parse({
        "study": "colorectal_metastasis", "learners": "logistic", "evaluations": "within_site",
        "expect": 2, "out": str(town.folder / "runs" / "asked"), "keys": str(keys),
    })  # fmt: skip
    request = requests.ask(home, asked)
    rogue(town, **given, request=request)
    done = town.folder / "runs" / "asked"
    town.until(lambda: (done / ledger.NAME).exists() and town.hash(done), 300)
    assert town.hash(done) == want
    # ---- and not a second time
    before = town.log("signer").count("[R12]")
    rogue(town, **given, request=request)
    town.until(lambda: town.log("signer").count("[R12]") > before, 120)

    assert not trace.exists()
    assert not out.exists()


def test_the_door_does_not_start_beside_a_key_that_signs(town: Town) -> None:
    town.provision(["North"], "colorectal_metastasis")
    (town.door / "plan.key").write_bytes((town.coordinator / "signer" / "plan.key").read_bytes())
    words = ("-m", "deploy", "coordinator", str(town.door), "--state", str(town.folder / "state"))
    link = ("--link", str(town.folder / "link"))
    done = town.call(sys.executable, *words, *link, inside=True, check=False)
    assert (done.returncode, "plan.key" in done.stderr) == (2, True), done.stderr
    # nor the signer where there is a network
    keys, state = str(town.coordinator / "signer"), str(town.folder / "state")
    signer = (sys.executable, "-m", "deploy", "signer", keys, "--state", state, *link)
    done = town.call(*signer, inside=True, check=False)
    assert "C05" in done.stderr, done.stderr
