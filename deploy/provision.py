"""Provisioning: from `federation.toml` to a coordinator's kit and one kit a site; adding, revoking
and renewing later.

The coordinator's folder holds secrets (`ca.key`, `server.key`, `plan.key`, mode 600) and what was
enrolled (`sites.toml`, `nodes/`). A site's kit holds none.
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
from common.wire import signing
from deploy import kit, pki
from deploy.federation import Federation, load, slug
from deploy.kit import Enrolment, Kit
from server.config import enrolled_sites
from server.ledger import state_store

TEMPLATES = Path(__file__).parent / "templates"
NODES = "nodes"


def provision(file: Path, out: Path, now: datetime.datetime) -> str:
    """Write `coordinator/` and `sites/<name>/` into the new folder `out`, whole or not at all.
    Returns the fingerprint to read out."""
    federation = load(file)
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
        (home / NODES).mkdir(parents=True)
        aside.chmod(0o755)
        home.chmod(0o700)
        pki.authority(home, federation.name, now)
        pki.server(home, federation.hosts, now)
        signing.ensure(home / enrolled_sites.KEY)
        shutil.copyfile(file, home / "federation.toml")
        values = _values(federation)
        for name in ("compose.yaml", "nginx.conf", "README.md"):
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
    return kit.of(home / "ca.pem", signing.load(home / enrolled_sites.KEY).public)


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
    public = signing.load(home / enrolled_sites.KEY).public
    site_values = Kit(
        federation.name,
        site,
        federation.hosts[0],
        federation.port,
        federation.studies,
        public,
        __version__,
    )
    pki.write(out / kit.KIT, kit.text(site_values))
    shutil.copyfile(home / "ca.pem", out / "ca.pem")
    values = {**_values(federation), **asdict(site_values), "slug": slug(site)}
    for name in ("site.toml", "compose.yaml", "check.sh", "README.md"):
        pki.write(out / name, _render(f"site/{name}", values))


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
        home / NODES / f"{slug(enrolment.site)}.pub", (enrolment.courier + "\n").encode()
    )
    state_store.write(
        home / enrolled_sites.SITES,
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
    (home / NODES / f"{slug(site)}.pub").unlink(missing_ok=True)
    remaining = {k: v for k, v in listed.items() if k != site}
    state_store.write(home / enrolled_sites.SITES, enrolled_sites.text(remaining).encode())


def renew(home: Path, now: datetime.datetime) -> None:
    """A new TLS certificate by the same authority, for the names in `federation.toml`: sites notice
    nothing."""
    federation = load(home / "federation.toml")
    with tempfile.TemporaryDirectory(dir=home) as name:
        aside = Path(name)
        for needed in ("ca.key", "ca.pem"):
            shutil.copy2(home / needed, aside / needed)
        pki.server(aside, federation.hosts, now)
        for pem in ("server.key", "server.pem"):
            (aside / pem).replace(home / pem)


def renew_authority(home: Path, now: datetime.datetime) -> str:
    """A new authority in front of the old one in `ca.pem`: sites that take the new file trust both,
    until the next `renew`.

    Returns the new fingerprint. The TLS certificate stays the old authority's until every site has
    the new file; `renew` then changes it.
    """
    federation = load(home / "federation.toml")
    with tempfile.TemporaryDirectory(dir=home) as name:
        aside = Path(name)
        pki.authority(aside, federation.name, now)
        both = (aside / "ca.pem").read_bytes() + (home / "ca.pem").read_bytes()
        state_store.write(home / "ca.pem", both)
        (aside / "ca.key").replace(home / "ca.key")
    return fingerprint(home)


def sites(home: Path) -> dict[str, str]:
    """Enrolled site -> station's public key; none before the first."""
    path = home / enrolled_sites.SITES
    return (
        enrolled_sites.sites(path)
        if path.exists() and path.read_text().strip() != "[sites]"
        else {}
    )


def _values(federation: Federation) -> dict[str, object]:
    return {**asdict(federation), "version": __version__}


def _render(name: str, values: Mapping[str, object]) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(name).render(values).encode()
