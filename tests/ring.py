"""Keys for tests: a coordinator's, and one a site, made once a process."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from common.wire import signing
from common.wire.signing import Signer
from server.config.enrolled_sites import Enrolled

COORDINATOR = signing.new()


@cache
def signer(site: str) -> Signer:
    return signing.new()


def enrolled(names: Iterable[str]) -> Enrolled:
    return Enrolled(COORDINATOR, {name: signer(name).public for name in names})


def key_file(folder: Path, site: str) -> Path:
    """The site's key on disk, as a station reads it."""
    path = folder / f"{site}.key"
    if not path.exists():
        path.write_bytes(signing.pem(signer(site)))
        path.chmod(0o600)
    return path
