"""Two hospitals and a coordinator as real processes: the bits of the simulation, and a closed front
door."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.federation import slug
from server.ledger import ledger
from tests.e2e import town as towns
from tests.e2e.town import PYTHON, Town

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(towns.possible()), reason=towns.possible()),
]


@pytest.fixture
def town() -> Iterator[Town]:
    with towns.town() as there:
        yield there


PYTHON_M = (PYTHON, "-m")
CLOSED = (
    *(
        "/v1/control/start-run",
        "/v1/control/list-runs",
        "/v1/control/stop-run",
        "/v1/control/register-node",
    ),
    *(
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/get-run",
        "/v1/fleet/get-fab",
        "/v1/runtime/pull-object",
        "/docs",
        "/openapi.json",
        "/",
    ),
    *(
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "//v1/control/list-runs",
    ),
)


def test_two_hospitals_and_a_coordinator_give_the_bits_of_the_simulation(town: Town) -> None:
    names, want = town.settle()
    done = json.loads(town.run(2).stdout)
    assert done["closed"]
    assert done["state_hash"] == want
    assert set(done["sites"]) == set(names)
    assert town.outside() == 0
    folder = Path(done["folder"])
    report = json.loads((folder / "report.json").read_text())
    assert report["setting"] == "deployment"
    assert [s["name"] for s in report["sites"]] == sorted(names)
    assert any(d["b"].endswith(" local") for d in report["differences"])
    assert (folder / "model" / "coefficients.csv").exists()
    assert (
        ledger.read(folder / ledger.NAME)[-1]["sha256"]
        == hashlib.sha256((folder / "report.json").read_bytes()).hexdigest()
    )

    # ---- the front door, from where the couriers are: the same certificate, and nothing but what a
    ca = str(town.door / "ca.pem")

    def status(path: str, *more: str) -> str:
        words = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--cacert",
            ca,
            *more,
            f"https://127.0.0.1:8443{path}",
        ]
        return town.call(*words, inside=True, check=False).stdout

    assert status("/health") == "200"
    for path in CLOSED:
        assert status(path, "-X", "POST", "--path-as-is", "--data-binary", "") == "404", path
    assert status("/v1/fleet/pull-messages") == "403"
    # a Fleet route without a node's signature
    assert status("/v1/fleet/pull-messages", "-X", "POST", "--data-binary", "") in (
        "400",
        "401",
        "415",
    )
    (town.folder / "large").write_bytes(bytes(9_000_000))
    assert (
        status(
            "/v1/fleet/pull-messages", "-X", "POST", "--data-binary", f"@{town.folder / 'large'}"
        )
        == "413"
    )
    listening = town.call("ss", "-Hltn", inside=True).stdout
    outside = [line for line in listening.splitlines() if "127.0.0.1:" not in line.split()[3]]
    assert [line.split()[3].rpartition(":")[2] for line in outside] == ["8443"], listening


def test_three_hospitals_that_mask_their_sums_give_the_bits_of_the_simulation(town: Town) -> None:
    # a step is three messages, and Flower's nodes look for one every three seconds
    names, want = town.settle(count=3, secure=True, more=("--set", "logistic.rounds=1"))
    refused = town.run(3, check=False)
    assert "P07" in refused.stderr, "a run of open sums"
    done = json.loads(
        town.run(3, "--set", "secure=true", "--set", 'hyper={"logistic":{"rounds":1}}').stdout
    )
    assert done["closed"]
    assert done["state_hash"] == want
    for name in names:
        log = (town.folder / "site-state" / slug(name) / "station.log").read_text()
        assert log.count("secure:") > 3, "keys, who is online, shares"
    folder = Path(done["folder"])
    assert set(ledger.read(folder / ledger.NAME)[0]["cases"].values()) == {"withheld"}, (
        "no site tells its counts"
    )
    report = json.loads((folder / "report.json").read_text())
    assert {r["site"] for r in report["results"]} == {"all"}, "figures over all sites alone"
    assert {s["n"] for s in report["sites"]} == {None}
    assert report["totals"]["labelled"] > 0


def test_two_hospitals_with_an_epsilon_are_asked_with_noise_and_keep_account(town: Town) -> None:
    names, _ = town.settle(policy="[privacy]\nepsilon = 20.0\ndelta = 1e-4\n")
    refused = town.run(2, check=False)
    assert "P07" in refused.stderr, "a run without noise"
    noise = town.call(
        *PYTHON_M,
        "server",
        "noise",
        "--study",
        "colorectal_metastasis",
        "--learners",
        "private_logistic",
        "--epsilon",
        "15",
        "--delta",
        "1e-4",
    )
    settings = (
        "--set",
        f"noise={noise.stdout.strip()}",
        "--set",
        "learners=private_logistic",
        "--set",
        "evaluations=holdout",
    )
    done = json.loads(town.run(2, *settings).stdout)
    assert done["closed"]
    assert set(done["scores"]) == {"private_logistic"}
    report = json.loads((Path(done["folder"]) / "report.json").read_text())
    assert not report["results"]
    assert report["noisy_scores"][0]["model"] == "private_logistic"

    def account(name: str) -> dict[str, float]:
        told = town.call(
            *PYTHON_M, "client", "budget", "--site", str(town.home(name) / "site.toml"), "--json"
        ).stdout
        return dict(json.loads(told))

    spent = {name: account(name)["spent"] for name in names}
    assert all(14 < s < 20 for s in spent.values())
    # what is left is too little for as much again
    again = town.run(2, *settings, check=False)
    assert "P09" in again.stderr
    assert all(account(n)["spent"] <= 20 for n in names)
