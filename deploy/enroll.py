"""Enrolment of a site: pin the coordinator, make the site's own keys, write what goes back. The
private halves never leave the folder."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import UsageError
from common.wire import signing
from deploy import kit, pki
from deploy.kit import ENROLMENT, KIT, PINNED, Enrolment, Kit
from server.ledger import state_store

STATION, COURIER = "station.key", "courier.key"


def enroll(folder: Path, typed: str, *, again: bool = False, new_keys: bool = False) -> Enrolment:
    """Check the kit against the fingerprint that somebody read out, and every file against the
    manifest, then make the site's keys.

    Raises UsageError C04 where they differ, by the file's name: nothing is written then. At first
    nothing else may lie in the folder: keys that came with a kit are somebody else's, too. `again`
    is for a folder that has enrolled: the site's keys, and the files that it edited, stay.
    `new_keys` makes new ones: the site takes no part until the coordinator has taken these in
    (`site renew`).
    """
    own_kit = kit.read(folder / KIT, Kit)
    fingerprint = kit.fingerprint(folder)
    if not pki.same(typed, fingerprint):
        raise UsageError(
            "C04",
            f"the kit's fingerprint (of ca.pem, and of the key in kit.json) is {fingerprint}, "
            f"{typed} was typed: the kit is not the coordinator's, or a digit is wrong. "
            "Ask again by telephone, at a number that you did not get with the kit",
        )
    faults = kit.intact(folder) if again or new_keys else kit.untouched(folder)
    if faults:
        raise UsageError(
            "C04",
            *faults,
            "do not go on: ask for the kit again. Where this site has enrolled with this folder "
            "before, and these files are its own: --again",
        )
    if new_keys:
        for name in (STATION, COURIER):
            (folder / name).unlink(missing_ok=True)
    station = signing.ensure(folder / STATION)
    if not (folder / COURIER).exists():
        pki.private(folder / COURIER, ec.SECP384R1())
    enrolment = Enrolment(
        own_kit.federation,
        own_kit.site,
        station.public,
        pki.node_public(folder / COURIER).decode().strip(),
    )
    pin = {"site": own_kit.site, "federation": own_kit.federation, "fingerprint": fingerprint}
    state_store.write(folder / PINNED, (json.dumps(pin, indent=1) + "\n").encode())
    state_store.write(folder / ENROLMENT, kit.text(enrolment))
    return enrolment
