"""The doctor: each fault that a site can have is found, named and told apart by what is to be
done."""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import common
from client import doctor as station
from client.site import site_file
from client.site.privacy_policy import Policy
from client.site.site_file import Site
from common.runtime import health_check, network
from common.runtime.health_check import Finding
from common.study.study import Study, Task
from common.trees import model as trees
from common.wire import manifest, signing
from deploy import doctor, enroll, kit, pki, provision
from tests import hospital, pictures, ring
from tests.paths import ROOT

NOW = datetime.datetime.now(datetime.UTC)


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [f for f in findings if f.check.startswith(check)]


def only(findings: list[Finding], check: str) -> Finding:
    (found,) = of(findings, check)
    return found


# ---- findings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ((), 0),
        (("ok", "note"), 0),
        (("ok", "warning"), 1),
        (("fault", "ok"), 3),
        (("warning", "fault"), 3),
    ],
)
def test_the_exit_status_is_that_of_the_worst_line(
    states: tuple[health_check.State, ...], status: int
) -> None:
    assert health_check.status(Finding("x", s, "said") for s in states) == status


def test_a_finding_there_and_back_and_nothing_else() -> None:
    one = Finding("disk", "warning", "2 GB free", "free space")
    assert Finding.of(json.loads(json.dumps(one.row()))) == one
    for bad in (None, {}, {**one.row(), "state": "fine"}, {**one.row(), "patient": "x"}):
        with pytest.raises(ValueError, match="not a finding"):
            Finding.of(bad)


# ---- the station's half --------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As inside the station's container; that there is none elsewhere has a test of its own."""
    monkeypatch.setattr(network, "alone", lambda: None)


def examined(tmp_path: Path, **keys: object) -> list[Finding]:
    return station.examine(hospital.site(tmp_path / "north", **keys), tmp_path / "s" / "s.sock")  # type: ignore[arg-type]


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.usefixtures("alone")
def test_a_masked_site_is_told_how_many_parts_its_patients_carry(
    tmp_path: Path, declared: bool
) -> None:
    path = hospital.site(tmp_path / "north", rows=45, minimum=10)
    keys = "".join(f'{n} = "{ring.signer(n).public}"\n' for n in ("South", "West"))
    patients = "patients = [40, 90]\n" if declared else ""
    policy = f'[privacy]\nrequire = "secagg"\n{patients}[privacy.peers]\n{keys}'
    path.write_text(path.read_text() + policy)
    lines = [f.said for f in station.examine(path, tmp_path / "s" / "s.sock")]
    told = [s for s in lines if "masked run of more than 4 parts" in s]
    assert len(told) == (not declared)


@pytest.mark.parametrize(
    ("installed", "state"),
    [
        ({"xgboost-cpu"}, "ok"),
        ({"xgboost"}, "ok"),
        ({"xgboost", "xgboost-cpu"}, "warning"),
        (set(), "fault"),
    ],
)
@pytest.mark.usefixtures("alone")
def test_one_xgboost_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: set[str], state: str
) -> None:
    def version(distribution: str) -> str:
        if distribution not in installed:
            raise PackageNotFoundError(distribution)
        return "3.2.0"

    monkeypatch.setattr(trees, "version", version)
    found = only(examined(tmp_path), "XGBoost")
    assert found.state == state
    assert all(f"{distribution} 3.2.0" in found.said for distribution in installed)
    assert bool(found.do) == (state != "ok")


@pytest.mark.usefixtures("alone")
def test_a_site_that_is_well(tmp_path: Path) -> None:
    found = examined(tmp_path)
    assert health_check.worst(found) == "note", health_check.text(found)
    assert "60 patients read, 60 kept, 60 with a known label" in of(found, "data")[0].said
    assert "about" in only(found, "forecast").said
    assert only(found, "isolation").state == "ok"


def test_the_forecast_of_images_is_of_training_and_of_the_cases_that_have_one() -> None:
    cohort, _ = pictures.sites(60, 2)
    asked = Study(
        "made",
        "?",
        cohort.schema,
        {"now": Task("now")},
        ("logistic", "image"),
        hyper={"image": {"grid": [8, 12, 12], "epochs": 1}},
    )
    longest, found = station._forecast(asked, cohort, None, "made")
    told = [f.said for f in found]
    assert [said.partition(":")[0] for said in told] == ["logistic", "image"]
    assert f"of {cohort.imaged.sum()} cases" in told[1]
    # a counting exchange would take no time worth a digit
    assert float(told[1].split("about ")[1].split(" s")[0]) == pytest.approx(longest, abs=0.06)
    assert longest > 0


def test_images_that_a_protected_site_does_not_declare_are_told_of(tmp_path: Path) -> None:
    cohort, _ = pictures.sites(8, 2)
    plain = site_file.load(hospital.site(tmp_path))
    for policy, told in (
        (Policy(), 0),
        (Policy(epsilon=3, delta=1e-3), 1),
        (Policy(epsilon=3, delta=1e-3, modalities=("table", "image")), 0),
        (Policy(epsilon=3, delta=1e-3, modalities=("table",)), 0),
    ):
        found = station._undeclared(dataclasses.replace(plain, privacy=policy), cohort, "s")
        assert len(found) == told
        assert all(f.state == "warning" and "modalities = " in f.do for f in found)


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 40), st.sampled_from([(5, 100), None]))
def test_the_forecast_of_a_protected_site_is_of_made_up_patients(
    n: int, patients: tuple[int, int] | None
) -> None:
    """It is told in the greeting: no patient has a part in it."""
    cohort, _ = pictures.sites(2 * n, 2)
    site = Site(
        "N", Path("t"), ("s",),
        privacy=Policy(epsilon=3, delta=1e-3, patients=patients, answer_margin=2.0),
    )  # fmt: skip
    made, times = station._timed(site, cohort)
    assert not set(made.ids) & set(cohort.ids)
    assert not made.pictures
    assert times == (200 if patients else 2 * (32 if n <= 32 else 64))
    told = station._number(site, cohort, "s")
    assert [f.state for f in told] == ([] if patients else ["note"])
    open_ = dataclasses.replace(site, privacy=Policy())
    assert station._timed(open_, cohort) == (cohort, None)
    assert station._number(open_, cohort, "s") == []


def test_a_network_is_a_fault(tmp_path: Path) -> None:
    if not [n for _, n in socket.if_nameindex() if n != "lo" and network.is_up(n)]:
        pytest.skip("this machine has no network to be refused for")
    found = only(examined(tmp_path), "isolation")
    assert (found.state, "[C05]" in found.said) == ("fault", True)


@pytest.mark.usefixtures("alone")
def test_too_few_patients_is_a_fault_and_one_class_a_note(tmp_path: Path) -> None:
    few = examined(tmp_path / "few", rows=4)
    assert "every sum would be refused" in next(f for f in few if f.state == "fault").said
    one = tmp_path / "one"
    path = hospital.site(one)
    table = one / "table.csv"
    table.write_text(table.read_text().replace(",1,", ",0,"))
    found = station.examine(path, tmp_path / "s" / "s.sock")
    assert any("a second class" in f.said and f.state == "note" for f in found)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("fault", ["missing", "column", "value", "empty"])
def test_a_table_that_cannot_be_used_is_said_with_its_faults(tmp_path: Path, fault: str) -> None:
    path = hospital.site(tmp_path)
    table = tmp_path / "table.csv"
    text = table.read_text()
    if fault == "missing":
        table.unlink()
    else:
        table.write_text(
            {
                "column": text.replace("smoker", "smokes"),
                "value": text.replace(",yes", ",perhaps"),
                "empty": "",
            }[fault]
        )
    found = of(station.examine(path, tmp_path / "s" / "s.sock"), "data")
    assert {f.state for f in found} == {"fault"}
    assert all(f.do for f in found)


@pytest.mark.skipif(os.getuid() == 0, reason="root can read everything")
@pytest.mark.usefixtures("alone")
def test_a_folder_that_may_not_be_read_asks_for_permissions(tmp_path: Path) -> None:
    path = hospital.site(tmp_path)
    (tmp_path / "table.csv").chmod(0)
    assert "fix permissions" in of(station.examine(path, tmp_path / "s" / "s.sock"), "data")[0].do


@pytest.mark.usefixtures("alone")
def test_keys_and_site_file(tmp_path: Path) -> None:
    path = hospital.site(tmp_path)
    (tmp_path / "North.key").chmod(0o644)
    assert "chmod 600" in only(station.examine(path, tmp_path / "s" / "s.sock"), "keys").do
    path.write_text(path.read_text() + "\nunheard = 1\n")
    (found,) = station.examine(path, tmp_path / "s" / "s.sock")
    assert (found.check, found.state, "unheard" in found.said) == ("site file", "fault", True)


def test_the_command_of_the_stations_half(tmp_path: Path) -> None:
    path = hospital.site(tmp_path)
    command = [
        sys.executable,
        "-m",
        "client",
        "check",
        "--site",
        str(path),
        "--socket",
        str(tmp_path / "s" / "s.sock"),
        "--json",
    ]
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 1 and "unshare" in done.stderr:
        pytest.skip("this machine lets nobody make a network namespace")
    assert done.returncode == 0, done.stderr
    assert {row["state"] for row in json.loads(done.stdout)["findings"]} <= {"ok", "note"}


# ---- the courier's half --------------------------------------------------------------------------

Answer = Callable[[], tuple[int, dict[str, str], bytes]]


def healthy(**changes: str) -> Answer:
    told = {"federation": "town", "fedmets": common.__version__, **changes}
    return lambda: (200, {}, json.dumps(told).encode())


class Coordinator:
    """A real TLS server with the kit's certificate."""

    def __init__(self, tmp_path: Path) -> None:
        self.answer: Answer = healthy()
        self.asked: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(
                    (
                        self.path,
                        self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(),
                    )
                )
                status, headers, body = outer.answer()
                self.send_response_only(status)
                for key, value in {
                    "Date": email.utils.format_datetime(datetime.datetime.now(datetime.UTC)),
                    **headers,
                }.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        (tmp_path / "federation.toml").write_text(
            f'name = "town"\nhosts = ["127.0.0.1"]\nport = {self.port}\nstudies = '
            '["colorectal_metastasis"]\nsites = ["North"]\n'
        )
        provision.provision(tmp_path / "federation.toml", tmp_path / "kits", NOW)
        self.home = tmp_path / "kits" / "coordinator"
        self.door = self.home / "door"
        self.kit = tmp_path / "kits" / "sites" / "north"
        enroll.enroll(self.kit, provision.fingerprint(self.home))

    def serve(self, folder: Path | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        home = folder or self.door
        context.load_cert_chain(home / "server.pem", home / "server.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    one = Coordinator(tmp_path)
    yield one
    if one.server.socket.fileno() >= 0:
        threading.Thread(target=one.server.shutdown, daemon=True).start()
    one.server.server_close()


def reached(there: Coordinator) -> list[Finding]:
    return doctor.reach(there.kit, datetime.datetime.now(datetime.UTC))


def test_a_way_that_is_well_and_what_is_asked(there: Coordinator) -> None:
    there.serve()
    found = reached(there)
    assert health_check.worst(found) == "ok", health_check.text(found)
    assert {"kit", "authority", "name", "connection", "certificate", "version", "clock"} == {
        f.check for f in found
    }
    assert there.asked == [("/health", "")]


def test_nobody_there(there: Coordinator) -> None:
    there.server.server_close()
    found = only(reached(there), "connection")
    assert (found.state, "firewall" in found.do) == ("fault", True)


def test_a_name_that_nobody_knows(there: Coordinator) -> None:
    raw = json.loads((there.kit / kit.KIT).read_text())
    (there.kit / kit.KIT).write_text(json.dumps({**raw, "host": "no-such-host.invalid"}))
    assert "kit.json" in only(reached(there), "kit").said, "not what the coordinator signed"
    signer = signing.load(there.home / "signer" / "plan.key")
    files = manifest.read(there.kit, signer.public)
    held = manifest.hashes(there.kit)
    signed = manifest.text({name: held[name] for name in files}, signer)
    (there.kit / manifest.NAME).write_bytes(signed)
    assert "name server" in only(reached(there), "name").do


def test_a_certificate_by_somebody_else_stops_everything(
    there: Coordinator, tmp_path: Path
) -> None:
    rogue = tmp_path / "rogue"
    rogue.mkdir()
    pki.authority(rogue, "town", NOW)
    pki.server(rogue, ["127.0.0.1"], NOW)
    there.serve(rogue)
    found = only(reached(there), "certificate")
    assert (found.state, "do not go on" in found.do) == ("fault", True)
    assert there.asked == []


@pytest.mark.parametrize(("days", "state"), [(-1, "fault"), (10, "warning"), (60, "ok")])
def test_a_certificates_end_is_seen_coming(there: Coordinator, days: int, state: str) -> None:
    for name in ("server.key", "server.pem"):
        (there.door / name).unlink()
    key = there.home.parent / "authority" / "ca.key"
    then = NOW - datetime.timedelta(days=50)
    pki.server(there.door, ["127.0.0.1"], then, 50 + days, authority_key=key)
    there.serve()
    assert only(reached(there), "certificate").state == state


@pytest.mark.parametrize(
    ("answer", "check", "part"),
    [
        (healthy(fedmets="9.9"), "version", "update to 9.9"),
        (healthy(fedmets="0.10"), "version", "update to 0.10"),
        (healthy(fedmets="0.0.1"), "version", "take its version"),
        (healthy(fedmets="<script>"), "coordinator", "ask the coordinator"),
        (healthy(federation="other"), "coordinator", "ask the coordinator"),
        (lambda: (502, {}, b"<html>"), "coordinator", "ask the coordinator"),
        (lambda: (200, {}, b"[]"), "coordinator", "ask the coordinator"),
        (
            lambda: (
                200,
                {"Date": email.utils.format_datetime(NOW - datetime.timedelta(minutes=5))},
                healthy()()[2],
            ),
            "clock",
            "NTP",
        ),
    ],
    ids=[
        "newer",
        "newer in numbers",
        "older",
        "no version",
        "another federation",
        "an error page",
        "no object",
        "a wrong clock",
    ],
)
def test_what_the_coordinator_says(
    there: Coordinator, answer: Answer, check: str, part: str
) -> None:
    there.answer = answer
    there.serve()
    found = only(reached(there), check)
    assert (found.state, part in found.do) == ("fault", True), found


def test_a_kit_that_was_exchanged_is_not_connected_with(there: Coordinator) -> None:
    there.serve()
    provision.renew_authority(there.home, there.home / "new.key", NOW)
    (there.kit / "ca.pem").write_bytes((there.door / "ca.pem").read_bytes())
    found = only(reached(there), "kit")
    assert (found.state, there.asked) == ("fault", [])


def test_a_proxy_that_is_not_there_is_named_without_its_password(
    there: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://someone:secret@127.0.0.1:{port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    there.serve()
    found = reached(there)
    assert health_check.worst(found) == "fault"
    assert "secret" not in health_check.text(found)
    assert f"127.0.0.1:{port}" in health_check.text(found)
    assert there.asked == []


def test_both_halves_joined(there: Coordinator, tmp_path: Path) -> None:
    """As the command runs them: two processes; a half that does not run is a fault."""
    there.serve()
    site = there.kit / "site.toml"
    site.write_text(
        site.read_text()
        .replace('"/data"', json.dumps(str(tmp_path)))
        .replace('"/state', json.dumps(str(tmp_path))[:-1] + "/state")
    )
    command = [
        sys.executable,
        "-m",
        "deploy",
        "doctor",
        str(there.kit),
        "--socket",
        str(tmp_path / "s" / "s.sock"),
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    rows = [Finding.of(r) for r in json.loads(done.stdout)["findings"]]
    assert done.returncode == 3
    assert any(
        f.check.startswith("data, colorectal_metastasis") and f.state == "fault" for f in rows
    )
    assert only(rows, "version").state == "ok"
    (broken,) = doctor.half("station", ["false"], None)
    assert (broken.check, broken.state) == ("station", "fault")
