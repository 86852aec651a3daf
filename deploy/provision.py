"""Provisioning: from `federation.toml` to a coordinator's kit and one kit a site; adding, revoking
and renewing later.

Three keys in three places, for three processes or none: `authority/` has `ca.key`, which no process
needs and which is kept offline; `coordinator/signer/` has `plan.key` and who was enrolled
(`sites.toml`), for the process that signs; `coordinator/door/` has `server.key` and the couriers'
public keys (`nodes/`), for the one that listens. A site's kit holds no secret, and every file of it
is in a manifest that the plan key signs.
"""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common import __version__
from common.errors import RunError, UsageError
from common.wire import manifest, signing
from common.wire.signing import Signer
from deploy import kit, pki
from deploy.federation import Federation, load, load_images, slug
from deploy.kit import Enrolment, Kit
from server.config import enrolled_sites
from server.ledger import state_store

TEMPLATES = Path(__file__).parent / "templates"
AUTHORITY, DOOR, SIGNER, NODES, IMAGES = "authority", "door", "signer", "nodes", "images.json"


def provision(file: Path, out: Path, now: datetime.datetime, images: Path | None = None) -> str:
    """Write `authority/`, `coordinator/` and `sites/<name>/` into the new folder `out`, whole or
    not at all. Returns the fingerprint to read out.

    images: the list of images by digest; without it compose files name images by tag.
    """
    federation = load(file)
    if images:
        load_images(images)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(
            "S01",
            f"'{out}' is there already; a kit is never overwritten: choose a new folder, or add "
            "sites with `site kit`",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".kits-", dir=out.parent))
    try:
        home = aside / "coordinator"
        door, authority = home / DOOR, aside / AUTHORITY
        (door / NODES).mkdir(parents=True)
        (home / SIGNER).mkdir()
        authority.mkdir()
        aside.chmod(0o755)
        for folder in (home, door, home / SIGNER, authority):
            folder.chmod(0o700)
        pki.authority(authority, federation.name, now)
        shutil.copyfile(authority / "ca.pem", door / "ca.pem")
        pki.server(door, federation.hosts, now, authority_key=authority / pki.AUTHORITY_KEY)
        signing.ensure(home / SIGNER / enrolled_sites.KEY)
        shutil.copyfile(file, home / "federation.toml")
        if images:
            shutil.copyfile(images, home / IMAGES)
        values = _values(home, federation)
        pki.write(door / "nginx.conf", _render("coordinator/nginx.conf", values))
        for name in ("compose.yaml", "README.md"):
            pki.write(home / name, _render(f"coordinator/{name}", values))
        for site in federation.sites:
            site_kit(home, site, aside / "sites" / slug(site))
        if out.exists():
            out.rmdir()
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return fingerprint(out / "coordinator")


def fingerprint(home: Path) -> str:
    return kit.of(home / DOOR / "ca.pem", _signer(home).public)


def site_kit(home: Path, site: str, out: Path) -> None:
    """One site's kit, from a coordinator's folder."""
    federation = load(home / "federation.toml")
    if site not in federation.sites:
        raise UsageError(
            "C01",
            f"'{home / 'federation.toml'}' names no site '{site}'; it names "
            f"{', '.join(federation.sites)}. Add it there first",
        )
    if out.exists():
        raise RunError("S01", f"'{out}' is there already; choose a new folder for the kit")
    out.mkdir(parents=True)
    signer = _signer(home)
    site_values = Kit(
        federation.name,
        site,
        federation.hosts[0],
        federation.port,
        federation.studies,
        signer.public,
        __version__,
    )
    pki.write(out / kit.KIT, kit.text(site_values))
    shutil.copyfile(home / DOOR / "ca.pem", out / "ca.pem")
    values = {**_values(home, federation), **asdict(site_values), "slug": slug(site)}
    for name in ("site.toml", "compose.yaml", "check.sh", "README.md"):
        pki.write(out / name, _render(f"site/{name}", values))
    pki.write(out / manifest.NAME, manifest.text(manifest.hashes(out), signer))


def add(home: Path, file: Path, typed: str, *, instead: bool = False) -> Enrolment:
    """Take a site's public keys in, if the fingerprint that its IT read out is theirs. Another key
    than it had: only `instead` (C04)."""
    enrolment = kit.read(file, Enrolment)
    federation = load(home / "federation.toml")
    listed = sites(home)
    faults = []
    if enrolment.federation != federation.name or enrolment.site not in federation.sites:
        faults.append(
            f"'{file}' is for site '{enrolment.site}' of '{enrolment.federation}'; "
            f"'{federation.name}' has {', '.join(federation.sites)}"
        )
    if not pki.same(typed, enrolment.fingerprint):
        faults.append(
            f"the fingerprint of '{file}' is {enrolment.fingerprint}, {typed} was typed: it is "
            "not the site's file, or a digit is wrong; "
            "ask the site"
        )
    if enrolment.site in listed and listed[enrolment.site] != enrolment.station and not instead:
        faults.append(
            f"site '{enrolment.site}' is enrolled with another key; `site renew` takes the new "
            "one in its place"
        )
    faults += [
        f"the key of '{enrolment.site}' is '{other}''s already; each site makes its own"
        for other, k in listed.items()
        if k == enrolment.station and other != enrolment.site
    ]
    if faults:
        raise UsageError("C04", *faults)
    state_store.write(
        home / DOOR / NODES / f"{slug(enrolment.site)}.pub", (enrolment.courier + "\n").encode()
    )
    state_store.write(
        home / SIGNER / enrolled_sites.SITES,
        enrolled_sites.text({**listed, enrolment.site: enrolment.station}).encode(),
    )
    return enrolment


def revoke(home: Path, site: str) -> None:
    """Take a site's keys out: its next plan is not signed for it, and its courier is not let in
    once the coordinator has restarted."""
    listed = sites(home)
    if site not in listed:
        raise UsageError(
            "C01", f"site '{site}' is not enrolled; enrolled are: {', '.join(listed) or 'none'}"
        )
    (home / DOOR / NODES / f"{slug(site)}.pub").unlink(missing_ok=True)
    remaining = {k: v for k, v in listed.items() if k != site}
    state_store.write(home / SIGNER / enrolled_sites.SITES, enrolled_sites.text(remaining).encode())


def renew(home: Path, authority_key: Path, now: datetime.datetime) -> None:
    """A new TLS certificate by the same authority, for the names in `federation.toml`: sites notice
    nothing. The authority's key is fetched for this from where it is kept."""
    federation, door = load(home / "federation.toml"), home / DOOR
    with tempfile.TemporaryDirectory(dir=door) as name:
        aside = Path(name)
        shutil.copy2(door / "ca.pem", aside / "ca.pem")
        pki.server(aside, federation.hosts, now, authority_key=authority_key)
        for pem in ("server.key", "server.pem"):
            (aside / pem).replace(door / pem)


def renew_authority(home: Path, authority_key: Path, now: datetime.datetime) -> str:
    """A new authority in front of the old one in `ca.pem`: sites that take a new kit's file trust
    both, until the next `renew`. Its key becomes the new file `authority_key`.

    Returns the new fingerprint. The TLS certificate stays the old authority's until every site has
    the new file; `renew` then changes it.
    """
    federation, door = load(home / "federation.toml"), home / DOOR
    if authority_key.exists():
        raise RunError(
            "S01",
            f"'{authority_key}' is there already; a new authority's key goes into a new file",
        )
    authority_key.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=authority_key.parent) as name:
        aside = Path(name)
        pki.authority(aside, federation.name, now)
        both = (aside / "ca.pem").read_bytes() + (door / "ca.pem").read_bytes()
        (aside / pki.AUTHORITY_KEY).replace(authority_key)
        state_store.write(door / "ca.pem", both)
    return fingerprint(home)


def sites(home: Path) -> dict[str, str]:
    """Enrolled site -> station's public key; none before the first."""
    path = home / SIGNER / enrolled_sites.SITES
    return (
        enrolled_sites.sites(path)
        if path.exists() and path.read_text().strip() != "[sites]"
        else {}
    )


def _signer(home: Path) -> Signer:
    return signing.load(home / SIGNER / enrolled_sites.KEY)


def _values(home: Path, federation: Federation) -> dict[str, object]:
    """What the templates say; images by digest where they are known."""
    values = {**asdict(federation), "version": __version__}
    if (home / IMAGES).exists():
        listed = asdict(load_images(home / IMAGES))
        values |= {f"{part}_image": image for part, image in listed.items()}
    return values


def _render(name: str, values: Mapping[str, object]) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(name).render(values).encode()
