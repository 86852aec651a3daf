"""Signature of a model folder: by the coordinator's plan key, the one that sites have pinned, over
the folder's SHA256SUMS; and by a site's own key over what it made for itself.

The sums name every file, so one signature covers them all. What is signed begins with a line of its
own: a signature of a folder is none of a packet (`common.wire.envelope`), nor the other way round.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import WireError
from common.wire import signing
from common.wire.signing import Signer

SUMS, SIGNATURE = "SHA256SUMS", "SIGNATURE"
_SIGNED = b"fedmets model folder 1\n"


@dataclass(frozen=True)
class Signed:
    """What the file `SIGNATURE` says."""

    key: str
    """The signer's public key, 64 hex digits."""
    signature: str


def sealed(files: Mapping[str, bytes], signer: Signer | None) -> dict[str, bytes]:
    """SHA256SUMS over these files, as `sha256sum -c` reads it, and the SIGNATURE of who makes
    them."""
    lines = [
        f"{hashlib.sha256(blob).hexdigest()}  {name}\n" for name, blob in sorted(files.items())
    ]
    sums = "".join(lines).encode()
    return {SUMS: sums} | ({} if signer is None else {SIGNATURE: signature(sums, signer)})


def signature(sums: bytes, signer: Signer) -> bytes:
    """The file `SIGNATURE` of a folder with these SHA256SUMS."""
    told = {"key": signer.public, "signature": signer.sign(_SIGNED + sums)}
    return json.dumps(told, indent=1).encode() + b"\n"


def verified(sums: bytes, blob: bytes) -> Signed:
    """What the file says, if its key has signed these sums; WireError P05 where it has not. Whose
    key it is, whoever has pinned one knows."""
    try:
        told = json.loads(blob)
        if not isinstance(told, dict) or set(told) != {"key", "signature"}:
            raise ValueError("the keys `key` and `signature` are expected")
        if not all(isinstance(value, str) for value in told.values()):
            raise ValueError("two texts are expected")
        if not signing.PUBLIC.fullmatch(told["key"]):
            raise ValueError(f"key {told['key'][:80]!r} is no public key of 64 hex digits")
    except (ValueError, RecursionError) as error:
        raise WireError("P05", f"not a signature of a model folder ({error})") from error
    signing.verify(told["key"], _SIGNED + sums, told["signature"])
    return Signed(**told)
