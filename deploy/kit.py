"""What is in a site's kit and in its enrolment: two small JSON files, checked whenever they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import UsageError
from common.wire.signing import PUBLIC
from deploy import pki

KIT, ENROLMENT, PINNED = "kit.json", "enrolment.json", "pinned.json"


@dataclass(frozen=True)
class Kit:
    """What the coordinator tells one site. Nothing in it is secret; that it is the coordinator's is shown by the fingerprint."""

    federation: str
    site: str
    host: str
    port: int
    studies: tuple[str, ...]
    coordinator: str
    """Public key by which plans are signed, 64 hex digits."""
    version: str
    """Of fedmets, at the coordinator."""


@dataclass(frozen=True)
class Enrolment:
    """What a site sends back: the public halves of its two keys."""

    federation: str
    site: str
    station: str
    """Ed25519, 64 hex digits: signs updates."""
    courier: str
    """OpenSSH line, P-384: the SuperNode's."""

    @property
    def fingerprint(self) -> str:
        return pki.fingerprint(self.federation.encode(), self.site.encode(), self.station.encode(), self.courier.encode())


_T = TypeVar("_T", Kit, Enrolment)


def read(path: Path, kind: type[_T]) -> _T:
    """A kit or an enrolment; C04 where the file is not exactly that."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name: str(f.type) for f in fields(kind)}
        if not isinstance(raw, dict) or set(raw) != set(known):
            raise ValueError(f"the keys {', '.join(known)} are expected")
        wrong = [k for k, t in known.items() if not _fits(raw[k], t)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} are not of the kind expected")
    except OSError as error:
        raise UsageError("C04", f"'{path}' cannot be read ({error.strerror}); check the path") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError("C04", f"'{path}' is not what it should be ({error}); ask for it again") from error
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    found = kind(**values)
    key = str(raw.get("coordinator", raw.get("station")))
    if not PUBLIC.fullmatch(key):
        raise UsageError("C04", f"'{path}': the key {key!r} is not 64 hex digits; ask for it again")
    if isinstance(found, Enrolment):
        pki.check_node_public(found.courier)
    return found


def _fits(value: Any, told: str) -> bool:
    if told == "str":
        return type(value) is str and bool(value) and not any(ord(c) < 32 for c in value)
    if told == "int":
        return type(value) is int
    return type(value) is list and all(type(v) is str for v in value)


def text(what: Kit | Enrolment) -> bytes:
    return (json.dumps(asdict(what), indent=1) + "\n").encode()


def fingerprint(folder: Path) -> str:
    """Of a kit's authority and plan key: the same for all sites of a federation."""
    kit = read(folder / KIT, Kit)
    return of(folder / "ca.pem", kit.coordinator)


def of(ca: Path, coordinator: str) -> str:
    return pki.fingerprint(pki.newest(ca).public_bytes(Encoding.DER), bytes.fromhex(coordinator))


def pinned(folder: Path) -> Mapping[str, str]:
    """What somebody typed when the site enrolled: the fingerprint, and for which site."""
    try:
        raw = json.loads((folder / PINNED).read_text())
        if not isinstance(raw, dict) or set(raw) != {"site", "federation", "fingerprint"}:
            raise ValueError("it is not what `enroll` wrote")
    except OSError as error:
        raise UsageError("C04", f"'{folder}' has not been enrolled ({error.strerror}: {PINNED}); run python -m deploy enroll") from error
    except ValueError as error:
        raise UsageError("C04", f"'{folder / PINNED}': {error}; enrol again") from error
    return raw


def check(folder: Path) -> Kit:
    """The kit, if it is still the one that was enrolled with: another authority, another plan key or another site is refused (C04)."""
    kit, pin = read(folder / KIT, Kit), pinned(folder)
    faults = []
    if not pki.same(pin["fingerprint"], fingerprint(folder)):
        faults.append(
            f"the kit in '{folder}' has the fingerprint {fingerprint(folder)}, it enrolled with {pin['fingerprint']}: its certificate "
            "or key has been exchanged. Ask the coordinator by telephone, and enrol again if it is right"
        )
    faults += [
        f"the kit in '{folder}' is for {key} '{getattr(kit, key)}', the site enrolled for '{pin[key]}'; take your own kit"
        for key in ("site", "federation")
        if getattr(kit, key) != pin[key]
    ]
    if faults:
        raise UsageError("C04", *faults)
    return kit
