"""Kits, keys and fingerprints: what matches is taken, what was exchanged anywhere on the way is
refused."""

from __future__ import annotations

import datetime
import json
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from client.site import site_file
from common.errors import FedmetsError, RunError, UsageError
from common.wire import signing
from deploy import enroll, federation, kit, pki, provision
from deploy.__main__ import main
from server.config import enrolled_sites

NOW = datetime.datetime.now(datetime.UTC)
FILE = """
name = "colomet"
hosts = ["fl.example.org", "192.0.2.7"]
studies = ["colorectal_metastasis", "liver_recurrence"]
sites = ["North", "St. Mary's \\"New\\" Wing"]
"""
SECRETS = {
    "authority/ca.key",
    "coordinator/door/server.key",
    "coordinator/signer/plan.key",
}
"""Each where one process has it, or none."""


@pytest.fixture
def kits(tmp_path: Path) -> Path:
    (tmp_path / "federation.toml").write_text(FILE)
    provision.provision(tmp_path / "federation.toml", tmp_path / "kits", NOW)
    return tmp_path / "kits"


@pytest.fixture
def home(kits: Path) -> Path:
    return kits / "coordinator"


@pytest.fixture
def north(kits: Path) -> Path:
    return kits / "sites" / "north"


def refused(kind: type[FedmetsError], code: str, action: Any, *given: Any, **named: Any) -> str:
    with pytest.raises(kind) as caught:
        action(*given, **named)
    assert caught.value.code == code
    return str(caught.value)


def test_a_sites_kit_holds_no_secret_and_the_coordinators_are_its_owners_alone(kits: Path) -> None:
    for path in (kits / "sites").rglob("*"):
        assert path.is_dir() or b"PRIVATE KEY" not in path.read_bytes()
    private = {
        str(p.relative_to(kits))
        for p in kits.rglob("*")
        if p.is_file() and b"PRIVATE KEY" in p.read_bytes()
    }
    assert private == SECRETS
    assert {(kits / n).stat().st_mode & 0o777 for n in SECRETS} == {0o600}
    folders = {kits / "coordinator", *((kits / n).parent for n in SECRETS)}
    assert {f.stat().st_mode & 0o777 for f in folders} == {0o700}


def test_the_certificate_serves_its_names_and_no_others(
    kits: Path, home: Path, tmp_path: Path
) -> None:
    """A real handshake in memory, by Python's own TLS."""
    server, door = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), home / "door"
    server.load_cert_chain(door / "server.pem", door / "server.key")

    def shake(trusted: Path, name: str) -> None:
        client = ssl.create_default_context(cafile=trusted)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        a = client.wrap_bio(to_client, to_server, server_hostname=name)
        b = server.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(6):
            for end in (a, b):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue

    for name in ("fl.example.org", "192.0.2.7"):
        shake(door / "ca.pem", name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(door / "ca.pem", "fl.example.com")
    other = tmp_path / "other"
    other.mkdir()
    pki.authority(other, "colomet", NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(other / "ca.pem", "fl.example.org")
    # the old authority's certificate is still trusted beside a new one, and the new one's then, too
    first, second = kits / "authority" / "ca.key", tmp_path / "second" / "ca.key"
    refused(RunError, "S01", provision.renew_authority, home, first, NOW)
    provision.renew_authority(home, second, NOW)
    assert second.stat().st_mode & 0o777 == 0o600
    shake(door / "ca.pem", "fl.example.org")
    before = (door / "server.pem").read_bytes()
    for wrong in (first, tmp_path / "nowhere", home / "signer" / "plan.key"):
        assert str(wrong) in refused(UsageError, "C04", provision.renew, home, wrong, NOW)
        assert (door / "server.pem").read_bytes() == before
    provision.renew(home, second, NOW)
    server.load_cert_chain(door / "server.pem", door / "server.key")
    shake(door / "ca.pem", "fl.example.org")


def test_a_kit_is_never_overwritten(kits: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in kits.rglob("*") if p.is_file()}
    refused(RunError, "S01", provision.provision, tmp_path / "federation.toml", kits, NOW)
    refused(
        RunError, "S01", provision.site_kit, kits / "coordinator", "North", kits / "sites" / "north"
    )
    assert {p: p.read_bytes() for p in kits.rglob("*") if p.is_file()} == before


def test_enrolment_there_and_back(home: Path, north: Path) -> None:
    told = provision.fingerprint(home)
    assert kit.fingerprint(north) == told
    back = enroll.enroll(north, told.replace("-", " ").upper())
    assert {(north / n).stat().st_mode & 0o777 for n in (enroll.STATION, enroll.COURIER)} == {0o600}
    added = provision.add(home, north / kit.ENROLMENT, back.fingerprint)
    assert added == back
    assert enrolled_sites.load(str(home / "signer")).sites == {
        "North": signing.load(north / enroll.STATION).public
    }
    assert (home / "door" / "nodes" / "north.pub").read_text().startswith("ecdsa-sha2-nistp384 ")
    # the site file as it is in the kit is one that the station reads
    site = site_file.load(north / "site.toml")
    assert (site.name, site.coordinator, site.key) == (
        "North",
        signing.load(home / "signer" / "plan.key").public,
        north / enroll.STATION,
    )
    assert site.studies == ("colorectal_metastasis", "liver_recurrence")
    assert kit.check(north).site == "North"
    # a second time nothing changes, and has to be meant
    assert "--again" in refused(UsageError, "C04", enroll.enroll, north, told)
    (north / "site.toml").write_text((north / "site.toml").read_text() + "\n# ours\n")
    assert enroll.enroll(north, told, again=True) == back
    assert provision.add(home, north / kit.ENROLMENT, back.fingerprint) == back


def test_a_name_with_quotes_is_one_name_everywhere(kits: Path, home: Path) -> None:
    (folder,) = [p for p in (kits / "sites").iterdir() if p.name != "north"]
    back = enroll.enroll(folder, provision.fingerprint(home))
    provision.add(home, folder / kit.ENROLMENT, back.fingerprint)
    assert site_file.load(folder / "site.toml").name == back.site == 'St. Mary\'s "New" Wing'
    assert list(provision.sites(home)) == [back.site]


@pytest.mark.parametrize("what", ["authority", "plan key", "a digit", "nothing typed"])
def test_a_kit_that_was_exchanged_on_its_way_makes_no_keys(
    home: Path, north: Path, what: str, tmp_path: Path
) -> None:
    told = provision.fingerprint(home)
    if what == "authority":
        rogue = tmp_path / "rogue"
        rogue.mkdir()
        pki.authority(rogue, "colomet", NOW)
        shutil.copyfile(rogue / "ca.pem", north / "ca.pem")
    if what == "plan key":
        raw = json.loads((north / kit.KIT).read_text())
        (north / kit.KIT).write_text(json.dumps({**raw, "coordinator": signing.new().public}))
    if what == "a digit":
        told = ("0" if told[0] != "0" else "1") + told[1:]
    before = sorted(p.name for p in north.iterdir())
    assert "by telephone" in refused(
        UsageError, "C04", enroll.enroll, north, "" if what == "nothing typed" else told
    )
    assert sorted(p.name for p in north.iterdir()) == before


@pytest.mark.parametrize("what", ["authority", "plan key", "site", "not enrolled"])
def test_a_kit_that_is_exchanged_later_is_refused_at_the_next_start(
    kits: Path, home: Path, north: Path, what: str
) -> None:
    if what != "not enrolled":
        enroll.enroll(north, provision.fingerprint(home))
        assert kit.check(north)
    if what == "authority":
        provision.renew_authority(home, kits / "new.key", NOW)
        shutil.copyfile(home / "door" / "ca.pem", north / "ca.pem")
    raw = json.loads((north / kit.KIT).read_text())
    if what == "plan key":
        (north / kit.KIT).write_text(json.dumps({**raw, "coordinator": signing.new().public}))
    if what == "site":
        (north / kit.KIT).write_text(json.dumps({**raw, "site": "South"}))
    refused(UsageError, "C04", kit.check, north)


@pytest.mark.parametrize(
    "what",
    [
        "another site's",
        "another federation's",
        "an altered key",
        "a wrong digit",
        "a key twice",
        "changed key",
    ],
)
def test_an_enrolment_that_is_not_the_sites_is_refused(home: Path, north: Path, what: str) -> None:
    back = enroll.enroll(north, provision.fingerprint(home))
    file, typed = north / kit.ENROLMENT, back.fingerprint
    raw = json.loads(file.read_text())
    changed = {
        "another site's": {"site": "Elsewhere"},
        "another federation's": {"federation": "other"},
        "an altered key": {"station": signing.new().public},
    }.get(what, {})
    file.write_text(json.dumps({**raw, **changed}))
    if what == "a wrong digit":
        typed = typed[:-1] + ("0" if typed[-1] != "0" else "1")
    if what == "a key twice":
        provision.add(home, file, typed)
        file.write_text(json.dumps({**raw, "site": 'St. Mary\'s "New" Wing'}))
        typed = kit.read(file, kit.Enrolment).fingerprint
    if what == "changed key":
        provision.add(home, file, typed)
        typed = enroll.enroll(north, provision.fingerprint(home), new_keys=True).fingerprint
    before = provision.sites(home)
    refused(UsageError, "C04", provision.add, home, file, typed)
    assert provision.sites(home) == before
    if what == "changed key":
        provision.add(home, file, typed, instead=True)
        assert provision.sites(home) != before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"federation": 1}',
        "\xff",
        '{"federation":"a","site":"b\\n","station":"' + "0" * 64 + '","courier":"x"}',
    ],
)
def test_an_enrolment_that_cannot_be_read(home: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "e.json").write_text(text, encoding="latin-1")
    refused(UsageError, "C04", provision.add, home, tmp_path / "e.json", "0")


def test_a_couriers_key_of_another_kind_is_refused(home: Path, north: Path) -> None:
    back = enroll.enroll(north, provision.fingerprint(home))
    raw = json.loads((north / kit.ENROLMENT).read_text())
    raw["courier"] = (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHD0ZHZQSNyFJ0ZMGN3pf8xzSGWQUYS7Bn5pQ2Sx7jHf"
    )
    (north / kit.ENROLMENT).write_text(json.dumps(raw))
    assert "P" in refused(
        UsageError, "C04", provision.add, home, north / kit.ENROLMENT, back.fingerprint
    )


def test_revoking_and_enrolling_again(home: Path, north: Path) -> None:
    told = provision.fingerprint(home)
    back = enroll.enroll(north, told)
    provision.add(home, north / kit.ENROLMENT, back.fingerprint)
    provision.revoke(home, "North")
    assert provision.sites(home) == {}
    assert not list((home / "door" / "nodes").iterdir())
    refused(UsageError, "C04", enrolled_sites.load, str(home / "signer"))
    refused(UsageError, "C01", provision.revoke, home, "North")
    provision.add(home, north / kit.ENROLMENT, back.fingerprint)
    assert list(provision.sites(home)) == ["North"]


def test_every_fault_of_a_federation_file_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(
        'name = "A B"\nhosts = []\nstudys = ["x"]\nsites = ["a", "A", "a"]\nport = 0\nstudies = '
        '["unheard"]\n'
    )
    said = refused(UsageError, "C01", federation.load, tmp_path / "f.toml")
    for part in (
        "did you mean 'studies'",
        "name = 'A B'",
        "hosts = []",
        "names one twice",
        "would share the folder 'a'",
        "port = 0",
        "unheard",
    ):
        assert part in said


def test_expiry_is_warned_about_thirty_days_ahead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "federation.toml").write_text(FILE)
    for days, warned in (
        (pki.SERVER_DAYS - 31, False),
        (pki.SERVER_DAYS - 30, True),
        (pki.SERVER_DAYS + 1, True),
    ):
        out = tmp_path / str(days)
        provision.provision(tmp_path / "federation.toml", out, NOW - datetime.timedelta(days=days))
        assert main(["site", "list", str(out / "coordinator"), "--json"]) == 0
        assert ("server.pem expires" in json.loads(capsys.readouterr().out)["warnings"]) == warned


def test_the_authority_signs_servers_and_nothing_below(home: Path) -> None:
    ca, server = pki.newest(home / "door" / "ca.pem"), pki.newest(home / "door" / "server.pem")
    server.verify_directly_issued_by(ca)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (basic.ca, basic.path_length) == (True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(server.public_key(), ec.EllipticCurvePublicKey)


def test_the_commands(tmp_path: Path) -> None:
    """As the README of the kits has it, from a shell."""
    (tmp_path / "federation.toml").write_text(FILE)

    def deploy(*words: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "deploy", *words, "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    told = deploy("provision", "federation.toml")["fingerprint to read out to each site"]
    assert (
        deploy("fingerprint", "kits/coordinator")
        == deploy("fingerprint", "kits/sites/north")
        == {"fingerprint": told}
    )
    back = deploy("enroll", "kits/sites/north", "--fingerprint", told)["fingerprint to read out"]
    assert deploy("fingerprint", "kits/sites/north/enrolment.json") == {"fingerprint": back}
    assert deploy(
        "site", "add", "kits/coordinator", "kits/sites/north/enrolment.json", "--fingerprint", back
    ) == {"enrolled": "North"}
    assert [r["site"] for r in deploy("site", "list", "kits/coordinator")["enrolled"]] == ["North"]
    assert (
        deploy("renew", "kits/coordinator", "--key", "kits/authority/ca.key")["days left"]
        == pki.SERVER_DAYS
    )
    deploy("site", "revoke", "kits/coordinator", "North")
    done = subprocess.run(
        [sys.executable, "-m", "deploy", "enroll", "kits/sites/north", "--fingerprint", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr[:11]) == (2, "error [C04]")
