"""What is in a site's kit and in its enrolment: two small JSON files, checked whenever they are
read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from common.errors import UsageError
from common.runtime import settings
from common.runtime.settings import Listed, Name, Settings
from common.wire import manifest
from deploy import pki
from server.config.enrolled_sites import PublicKey

KIT, ENROLMENT, PINNED = "kit.json", "enrolment.json", "pinned.json"


@dataclass(frozen=True)
class Kit(Settings):
    """What the coordinator tells one site. Nothing in it is secret; that it is the coordinator's is
    shown by the fingerprint."""

    federation: Name
    site: Name
    host: Name
    port: int
    studies: Listed[str]
    coordinator: PublicKey
    """Public key by which plans are signed, 64 hex digits."""
    version: Name
    """Of fedmets, at the coordinator."""


@dataclass(frozen=True)
class Enrolment(Settings):
    """What a site sends back: the public halves of its two keys."""

    federation: Name
    site: Name
    station: PublicKey
    """Ed25519, 64 hex digits: signs updates."""
    courier: Name
    """OpenSSH line, P-384: the SuperNode's."""

    @property
    def fingerprint(self) -> str:
        return pki.fingerprint(
            self.federation.encode(),
            self.site.encode(),
            self.station.encode(),
            self.courier.encode(),
        )


@dataclass(frozen=True)
class Pinned(Settings):
    """What somebody typed when the site enrolled: the fingerprint, and for which site."""

    site: str
    federation: str
    fingerprint: str


_T = TypeVar("_T", Kit, Enrolment, Pinned)


def read(path: Path, kind: type[_T], way_out: str = "ask for it again") -> _T:
    """A kit, an enrolment or what was pinned; C04 where the file is not exactly that, with every
    fault of it."""
    content = settings.document(path, kind.__name__.lower(), "C04", way_out, json.loads)
    letter = settings.checked(
        kind, content, f"'{path}' is not what it should be ({way_out})", "C04"
    )
    if isinstance(letter, Enrolment):
        pki.check_node_public(letter.courier)
    return letter


def text(what: Kit | Enrolment) -> bytes:
    return (json.dumps(asdict(what), indent=1) + "\n").encode()


def fingerprint(folder: Path) -> str:
    """Of a kit's authority and plan key: the same for all sites of a federation. The plan key signs
    the manifest, so that it stands for every file."""
    kit = read(folder / KIT, Kit)
    return of(folder / "ca.pem", kit.coordinator)


def untouched(folder: Path) -> list[str]:
    """What is in a kit other than what its coordinator put there, by name; nothing may be before a
    site enrols. UsageError C04 where the manifest is not the coordinator's."""
    files = manifest.read(folder, read(folder / KIT, Kit).coordinator)
    added = [
        f"'{folder / name}' is not the coordinator's" for name in manifest.added(folder, files)
    ]
    return [*_incomplete(folder, files), *manifest.faults(folder, files), *added]


def intact(folder: Path) -> list[str]:
    """The same, of a kit in use: the site has files of its own beside it, and edits some."""
    public = read(folder / KIT, Kit).coordinator
    files = manifest.read(folder, public)
    return [*_incomplete(folder, files), *manifest.in_use(folder, public)]


def _incomplete(folder: Path, files: Mapping[str, str]) -> list[str]:
    return [
        f"'{folder / manifest.NAME}' does not name {name}"
        for name in (KIT, "ca.pem")
        if name not in files
    ]


def of(ca: Path, coordinator: str) -> str:
    return pki.fingerprint(pki.newest_der(ca), bytes.fromhex(coordinator))


def check(folder: Path) -> Kit:
    """The kit, if it is still the one that was enrolled with: another authority, another plan key,
    another site or an altered file is refused (C04)."""
    kit, pin = read(folder / KIT, Kit), read(folder / PINNED, Pinned, "run fedmets deploy enroll")
    faults = []
    if not pki.same(pin.fingerprint, fingerprint(folder)):
        faults.append(
            f"the kit in '{folder}' has the fingerprint {fingerprint(folder)}, it enrolled with "
            f"{pin.fingerprint}: its certificate "
            "or key has been exchanged. Ask the coordinator by telephone, and enrol again if it "
            "is right"
        )
    faults += [
        f"the kit in '{folder}' is for {key} '{getattr(kit, key)}', the site enrolled for "
        f"'{getattr(pin, key)}'; take your own kit"
        for key in ("site", "federation")
        if getattr(kit, key) != getattr(pin, key)
    ]
    faults = faults or [f"{fault}; take the kit's file again" for fault in intact(folder)]
    if faults:
        raise UsageError("C04", *faults)
    return kit
