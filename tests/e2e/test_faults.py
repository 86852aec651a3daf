"""What hospitals do to a run: each process killed in the middle of a round, the network cut, sites that leave and come back.

Each ends in the state hash of an undisturbed run, at once or after `python -m server resume`, or in the outcome that is documented.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import town as towns
from tests.e2e.town import Town

pytestmark = [pytest.mark.timeout(900), pytest.mark.skipif(bool(towns.possible()), reason=towns.possible())]
some = pytest.mark.slow
every = pytest.mark.faults
Place = tuple[Town, list[str], str]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with towns.town() as there:
        names, want = there.settle()
        yield there, names, want


def ended(process: subprocess.Popen[bytes], seconds: float = 300) -> int:
    return process.wait(seconds)


def resumed(town: Town, folder: Path) -> str:
    town.call(*town.server("resume", str(folder)), inside=True)
    return town.hash(folder)


@some
def test_the_station_killed_in_mid_round(place: Place) -> None:
    town, names, want = place
    process, folder = town.begin(2, 2)
    assert town.kill("client serve", town.home(names[0]).name) >= 1
    town.station(names[0])
    assert ended(process) == 0, town.log("run")
    assert town.hash(folder) == want


@some
def test_the_serverapp_killed_in_mid_round(place: Place) -> None:
    town, _, want = place
    process, folder = town.begin(2, 2)
    town.until(lambda: town.kill("flwr-serverapp") >= 1, 30)
    assert ended(process) == 5, town.log("run")
    assert "[R07]" in town.log("run")
    assert resumed(town, folder) == want


@some
def test_the_superlink_killed_in_mid_round(place: Place) -> None:
    """It comes back with its nodes; the run does not, and is resumed."""
    town, _, want = place
    process, folder = town.begin(2, 2)
    assert town.kill("flower-superlink") >= 1
    assert ended(process) == 5, town.log("run")
    assert "[R07]" in town.log("run")
    assert resumed(town, folder) == want


@some
def test_the_proxy_killed_in_mid_round(place: Place) -> None:
    town, _, want = place
    process, folder = town.begin(2, 2)
    assert town.kill("nginx") >= 1
    assert ended(process) == 0, town.log("run")
    assert town.hash(folder) == want


@every
def test_the_clientapp_killed_in_mid_round(place: Place) -> None:
    town, _, want = place
    process, folder = town.begin(2, 2)
    town.until(lambda: town.kill("flwr-clientapp") >= 1, 60)
    assert ended(process) == 0, town.log("run")
    assert town.hash(folder) == want


@every
def test_a_supernode_killed_in_mid_round_and_started_again(place: Place) -> None:
    town, names, want = place
    process, folder = town.begin(2, 2)
    assert town.kill("flower-supernode", town.home(names[1]).name) >= 1
    time.sleep(5)
    again = town.courier(names[1])
    code = ended(process)
    if code:  # Flower calls the node unavailable for a while, and the retries are over before it is back
        assert code == 5
        assert f"{names[1]}: R02" in town.log("run")
        if again.poll() is not None:
            town.courier(names[1])
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
    assert town.kill("flower-supernode", town.home(names[1]).name) >= 1
    town.kill("client serve", town.home(names[1]).name)
    assert ended(process) == 5, town.log("run")
    assert f"{names[1]}: R02" in town.log("run")
    town.station(names[1])
    town.courier(names[1])
    assert resumed(town, folder) == want
