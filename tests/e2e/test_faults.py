"""What hospitals do to a run: each process killed in the middle of a round, the network cut, sites
that leave and come back.

Each ends in the state hash of an undisturbed run, at once or after `fedmets server resume`, or in
the outcome that is documented.
"""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import pki
from deploy.federation import slug
from server.ledger import ledger
from tests.e2e import town as towns
from tests.e2e.town import Town

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(towns.possible()), reason=towns.possible()),
]
some = pytest.mark.slow
every = pytest.mark.faults
SPARE = "Latecomer"
Place = tuple[Town, list[str], str]


def mounted(folder: Path, size: str) -> bool:
    """A small disk; can this machine mount one?"""
    folder.mkdir(parents=True, exist_ok=True)
    return not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    ).returncode


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with towns.town() as there:
        # before the coordinator starts: its namespace sees no mount that comes later
        small = there.folder / "small"
        there_is = mounted(small, "300k")
        try:
            names, want = there.settle(SPARE)
            yield there, names, want
        finally:
            there.close()
            if there_is:
                subprocess.run(["umount", str(small)], check=True)


def ended(process: subprocess.Popen[bytes], seconds: float = 300) -> int:
    return process.wait(seconds)


def resumed(town: Town, folder: Path) -> str:
    # couriers that were cut off try again at ever longer intervals
    town.call(*town.server("resume", str(folder), *town.reached()), inside=True, seconds=700)
    return town.hash(folder)


def back(town: Town, site: str, *before: str) -> None:
    """A courier started again; it waits for a minute where Flower holds the one that was killed for
    online."""
    name = f"courier-{site}"
    before_it = town.log(name).count("signed in") if name in town.logs else 0
    town.courier(site, *before)
    town.until(lambda: town.log(name).count("signed in") > before_it, 120)


@some
def test_the_station_killed_in_mid_round(place: Place) -> None:
    town, names, want = place
    process, folder = town.begin(2, 2)
    assert town.kill("client serve", town.home(names[0]).name) >= 1
    town.station(names[0])
    assert ended(process) == 0, town.log("run")
    assert town.hash(folder) == want


@pytest.mark.parametrize(
    "who",
    [pytest.param("server.task", marks=some), pytest.param("flower-superlink", marks=every)],
)
def test_the_coordinator_killed_in_mid_round(place: Place, who: str) -> None:
    """The SuperLink comes back with its nodes; the run does not, whichever of the two was killed,
    and is resumed."""
    town, _, want = place
    process, folder = town.begin(2, 2)
    town.until(lambda: town.kill(who) >= 1, 30)
    assert ended(process) == 5, town.log("run")
    assert "[R07]" in town.log("run")
    assert resumed(town, folder) == want


@every
def test_the_proxy_killed_in_mid_round(place: Place) -> None:
    town, _, want = place
    process, folder = town.begin(2, 2)
    assert town.kill("nginx") >= 1
    assert ended(process) == 0, town.log("run")
    assert town.hash(folder) == want


@every
def test_a_run_that_is_stopped_by_command(place: Place) -> None:
    town, _, want = place
    process, folder = town.begin(2, 2)
    town.call(*town.server("stop", str(folder), *town.reached()), inside=True)
    assert ended(process) == 5, town.log("run")
    assert "the run was stopped" in town.log("run")
    seen = town.call(*town.server("status", str(folder)), check=False)
    assert (seen.returncode, json.loads(seen.stdout)["state"]) == (7, "stopped")
    assert resumed(town, folder) == want
    assert town.call(*town.server("status", str(folder))).returncode == 0


@every
def test_a_courier_killed_in_mid_round_and_started_again(place: Place) -> None:
    town, names, want = place
    process, folder = town.begin(2, 2)
    assert town.kill("deploy courier", town.home(names[1]).name) >= 1
    back(town, names[1])
    code = ended(process)
    if (
        code
    ):  # Flower calls the node unavailable for a while, and the retries are over before it is back
        assert code == 5
        assert f"{names[1]}: R02" in town.log("run")
        assert resumed(town, folder) == want
    assert town.hash(folder) == want


@every
def test_the_network_is_cut_for_a_minute(place: Place) -> None:
    town, _, want = place
    process, folder = town.begin(2, 2)
    town.call("ip", "-n", town.space, "link", "set", "lo", "down")
    time.sleep(60)
    town.call("ip", "-n", town.space, "link", "set", "lo", "up")
    code = ended(process, 600)
    assert code == 0 or "[R0" in town.log("run")
    assert town.hash(folder) == want or resumed(town, folder) == want


@every
def test_a_site_that_leaves_for_good_is_named(place: Place) -> None:
    town, names, want = place
    process, folder = town.begin(2, 2, "--set", "deadline=20", "--set", "retries=0")
    assert town.kill("deploy courier", town.home(names[1]).name) >= 1
    town.end_station(names[1])
    assert ended(process) == 5, town.log("run")
    assert f"{names[1]}: R02" in town.log("run")
    town.station(names[1])
    back(town, names[1])
    assert resumed(town, folder) == want


# ---- disks ---------------------------------------------------------------------------------------


@every
def test_a_full_disk_at_a_site(place: Place) -> None:
    town, names, want = place
    town.end_station(names[0])
    state = town.folder / "site-state" / slug(names[0]) / "station"
    assert mounted(state, "100k")
    try:
        town.station(names[0])
        process, folder = town.begin(2, 0, "--set", "retries=0")
        assert ended(process) == 5, town.log("run")
        assert f"{names[0]}: S03" in town.log("run")
        assert "free space at the site" in (state.parent / "station.log").read_text()
        subprocess.run(["mount", "-o", "remount,size=1g", str(state)], check=True)
        assert resumed(town, folder) == want
    finally:
        town.end_station(names[0])
        subprocess.run(["umount", str(state)], check=True)
        town.station(names[0])


@every
def test_a_full_disk_at_the_coordinator(place: Place) -> None:
    town, _, want = place
    out = town.folder / "small"
    assert out.is_mount()
    process = town.start("small", *town.asked(2, "--out", str(out)), inside=True)
    assert ended(process) == 5, town.log("small")
    assert "[R07]" in town.log("small")
    assert "[S03]" in town.log("small")
    (folder,) = out.iterdir()
    subprocess.run(["mount", "-o", "remount,size=1g", str(out)], check=True)
    assert resumed(town, folder) == want


# ---- clocks and certificates ---------------------------------------------------------------------

CLOCK = """
import sys, time, types
from client.station import guard, station
# not the module's own: gRPC waits by the machine's clock
ahead = types.SimpleNamespace(**{**vars(time), "time": lambda: time.time() + 86400.0})
guard.time = station.time = ahead
from client.__main__ import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


@every
def test_a_site_whose_clock_is_a_day_ahead_is_named(place: Place) -> None:
    town, names, want = place
    town.end_station(names[0])
    town.station(names[0], towns.PYTHON, "-c", CLOCK)
    done = town.run(2, check=False)
    assert done.returncode == 5
    assert "R03" in done.stderr
    assert f"'{names[0]}' cannot take part: P04" in done.stderr
    assert (
        "check the clocks"
        in (town.folder / "site-state" / slug(names[0]) / "station.log").read_text()
    )
    town.end_station(names[0])
    town.station(names[0])
    process, folder = town.begin(2, 0)
    assert ended(process) == 0
    assert town.hash(folder) == want


@every
def test_a_certificate_that_expires_in_mid_round_is_renewed_and_the_run_goes_on(
    place: Place,
) -> None:
    town, names, want = place
    process, folder = town.begin(2, 2)
    for name in ("server.key", "server.pem"):
        (town.door / name).unlink()
    pki.server(
        town.door,
        ["127.0.0.1"],
        datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=500),
        authority_key=town.authority,
    )
    town.until(lambda: "[R08]" in town.log("coordinator"), 30)
    town.kill("nginx")  # it comes back with what is expired, and every courier is cut off
    time.sleep(20)
    assert "expires in -" in town.deploy("site", "list", str(town.coordinator))["warnings"]
    shown = town.log("coordinator").count("shows the new certificate")
    town.deploy("renew", str(town.coordinator), "--key", str(town.authority))
    town.until(lambda: town.log("coordinator").count("shows the new certificate") > shown, 30)
    for site in filter(town.has_ended, names):
        back(town, site)
    code = ended(process, 600)
    assert code == 0 or "[R0" in town.log("run")
    for site in filter(town.has_ended, names):
        back(town, site)
    assert town.hash(folder) == want or resumed(town, folder) == want


# ---- a site behind an HTTPS proxy ----------------------------------------------------------------

PROXY = """
import asyncio, sys

async def passed(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def met(reader, writer):
    asked = (await reader.readuntil(b"\\r\\n\\r\\n")).split(b"\\r\\n")[0].decode()
    print(asked, flush=True)
    verb, where, _ = asked.split()
    assert verb == "CONNECT", asked
    host, port = where.split(":")
    there, back = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 Connection established\\r\\n\\r\\n")
    await asyncio.gather(passed(reader, back), passed(there, writer), return_exceptions=True)

async def main():
    async with await asyncio.start_server(met, "127.0.0.1", 3128) as server:
        print("proxy is up", flush=True)
        await server.serve_forever()

asyncio.run(main())
"""


@every
def test_a_courier_and_the_doctor_go_through_a_proxy_where_there_is_one(place: Place) -> None:
    town, names, want = place
    town.start("https-proxy", towns.PYTHON, "-c", PROXY, inside=True)
    town.until(lambda: "proxy is up" in town.log("https-proxy"), 30)
    through = (
        "env",
        "HTTPS_PROXY=http://127.0.0.1:3128",
        "https_proxy=http://127.0.0.1:3128",
        "NO_PROXY=",
        "no_proxy=",
    )
    told = town.call(
        *through,
        towns.PYTHON,
        "-m",
        "deploy",
        "reach",
        str(town.home(names[1])),
        "--json",
        inside=True,
        check=False,
    )
    rows = {r["check"]: r for r in json.loads(told.stdout)["findings"]}
    assert (rows["connection"]["state"], rows["proxy"]["said"]) == (
        "ok",
        "through http://127.0.0.1:3128",
    ), rows
    assert "CONNECT 127.0.0.1:8443" in town.log("https-proxy")
    before = town.log("https-proxy").count("CONNECT")
    for name in names:
        town.kill("deploy courier", town.home(name).name)
        back(town, name, *through)
    process, folder = town.begin(2, 0)
    assert ended(process) == 0, town.log("run")
    assert town.hash(folder) == want
    assert town.log("https-proxy").count("CONNECT 127.0.0.1:8443") > before


# ---- sites that lie, with their own key ----------------------------------------------------------

LIAR = """
import sys
from dataclasses import replace
import numpy as np
from client.station import socket_server as service, station
how = sys.argv.pop(1)

def spoilt(contribution):
    if how == "nan":
        return replace(contribution, sums={k: np.full_like(v, np.nan) for k, v in contribution.sums.items()})
    name = sorted(contribution.sums)[0]
    other = np.zeros((3, 7)) if how == "shape" else np.zeros(8_000_000)
    return replace(contribution, sums={**contribution.sums, name: other})

class Liar(station.Station):
    first = None

    def _work(self, plan, states):
        good = super()._work(plan, states)
        return good if how == "replay" or plan.step < 2 else spoilt(good)

    def answer(self, packet, seconds=None):
        mine = super().answer(packet, seconds)
        if how == "replay" and packet.kind == "request":
            Liar.first = Liar.first or mine
            return Liar.first
        return mine

service.Station = Liar
from client.__main__ import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


@every
@pytest.mark.parametrize(
    ("how", "code"), [("nan", "P02"), ("shape", "P02"), ("large", "P02"), ("replay", "P05")]
)
def test_a_site_that_lies_is_named_and_the_run_goes_on_when_it_is_honest_again(
    place: Place, how: str, code: str
) -> None:
    town, names, want = place
    town.end_station(names[0])
    state = town.folder / "site-state" / slug(names[0]) / "station"
    town.station(names[0], towns.PYTHON, "-c", LIAR, how)
    process, folder = town.begin(2, 0, "--set", "retries=0")
    assert ended(process) == 5, town.log("run")
    assert f"{names[0]}: {code}" in town.log("run")
    town.end_station(names[0])
    # what it has signed once it signs again: an honest site begins with an empty memory
    shutil.rmtree(state / "answers")
    town.station(names[0])
    assert resumed(town, folder) == want


# ---- last, for Flower calls a node that was killed online for a while ----------------------------


@every
def test_a_site_that_joins_late_takes_no_part_and_is_named(place: Place) -> None:
    town, _, want = place
    process, folder = town.begin(2, 2)
    town.station(SPARE)
    back(town, SPARE)
    assert ended(process) == 0, town.log("run")
    assert town.hash(folder) == want
    (closed,) = [line for line in ledger.read(folder / ledger.NAME) if line["kind"] == "close"]
    assert closed["joined_later"] == [SPARE]
