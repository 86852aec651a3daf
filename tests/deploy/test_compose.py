"""Compose files and images as they are written down: what each container has, and what it has not."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import provision
from tests.paths import ROOT

FILE = """
name = "colomet"
hosts = ["fl.example.org"]
studies = ["colorectal_metastasis"]
sites = ["North"]
"""
Services = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits")
    (folder / "federation.toml").write_text(FILE)
    now = datetime.datetime.now(datetime.UTC)
    provision.provision(folder / "federation.toml", folder / "kits", now)
    return folder / "kits"


def services(folder: Path) -> Services:
    return dict(yaml.safe_load((folder / "compose.yaml").read_text())["services"])


@pytest.fixture(params=["coordinator", "sites/north"])
def every(request: pytest.FixtureRequest, kits: Path) -> Services:
    return services(kits / request.param)


def test_every_container_is_confined(every: Services) -> None:
    for name, service in every.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"(\$\{[A-Z_]+:-)?\d+g\}?", service["mem_limit"]), name
        assert 0 < service["pids_limit"] <= 4096, name
        assert service["user"].startswith("${FEDMETS_"), f"{name}: never root by default"
        assert service["tmpfs"] == ["/tmp"], name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service), name
        sources = [v.split(":")[0] for v in service["volumes"] if not v.startswith("$")]
        assert not [s for s in sources if s.startswith("/")], f"{name}: nothing of the machine's"


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Source -> where it is mounted, and whether to be read alone."""
    out = {}
    for text in service["volumes"]:
        source, target, *mode = re.sub(r"\$\{[^}]*\}", "data", text).split(":")
        out[source] = (target, mode == ["ro"])
    return out


def test_the_door_has_no_key_that_signs_and_the_signer_no_network(kits: Path) -> None:
    home = kits / "coordinator"
    door, signer, monitor = (services(home)[n] for n in ("door", "signer", "monitor"))
    assert signer["network_mode"] == "none"
    assert "ports" not in signer
    assert mounts(signer) == {
        "./signer": ("/kit", True),
        "state": ("/state", False),
        "link": ("/run/fedmets", True),
    }
    assert mounts(door) == {
        "./door": ("/kit", True),
        "door": ("/state", False),
        "link": ("/run/fedmets", False),
    }
    assert mounts(monitor) == {
        "./monitor.token": ("/kit/monitor.token", True),
        "state": ("/state", True),
    }
    assert door["user"] != signer["user"]
    # what is in the folders that are mounted
    assert sorted(p.name for p in (home / "signer").iterdir()) == ["plan.key"]
    assert sorted(p.name for p in (home / "door").iterdir()) == [
        "ca.pem", "nginx.conf", "nodes", "server.key", "server.pem",
    ]  # fmt: skip
    assert sorted(p.name for p in (kits / "authority").iterdir()) == ["ca.key", "ca.pem"]


def test_a_station_has_the_data_and_no_network_and_a_courier_the_reverse(kits: Path) -> None:
    station, courier = (services(kits / "sites" / "north")[n] for n in ("station", "courier"))
    assert station["network_mode"] == "none"
    assert mounts(station)["data"] == ("/data", True)
    assert mounts(station)["./"] == ("/kit", True)
    assert sorted(target for target, _ in mounts(courier).values()) == [
        "/kit/ca.pem", "/kit/courier.key", "/kit/kit.json", "/kit/manifest.json",
        "/kit/pinned.json", "/run/fedmets",
    ]  # fmt: skip


def test_images_are_installed_from_wheels_by_their_hash() -> None:
    text = (ROOT / "deploy" / "containers" / "Containerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", text)
    for options in installs:
        assert "--no-index" in options
        assert "--no-deps" in options
        assert "--require-hashes -r /wheels/" in options or options.strip().endswith(" .")
    assert len(installs) == 4
    assert not re.search(r"\b(curl|wget|git clone)\b", text)
