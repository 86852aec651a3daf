"""Envelope of a packet: a signed JSON text and one packed blob of arrays. What may stand in the
text, `common.wire.messages` declares.

The courier and Flower carry packets unread, and can neither write nor change one: what the other
side's pinned key has not signed is refused on arrival (`P05`), and so is a text that is not exactly
what is expected (`W02`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from common.errors import WireError
from common.wire import signing
from common.wire.signing import Signer

_FORMAT = 9

Kind = Literal["greeting", "hello", "request", "updates", "masked", "secure", "secured"]


@dataclass(frozen=True)
class Packet:
    """What a courier carries, unread."""

    kind: Kind
    text: bytes
    """JSON."""
    signature: str = ""
    """Ed25519 by the sender's key, over kind, what is answered, and text; empty where a courier
    itself answers with a code."""
    blob: bytes | memoryview = b""
    """Packed arrays (`common.types.pack`); the text names their hash."""

    @property
    def hash(self) -> str:
        """SHA-256 of the text: what an answer says it answers."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def size(self) -> int:
        """Bytes, headers of the transport excluded."""
        return len(self.text) + len(self.signature) + len(self.blob)


def sign(
    kind: Kind, body: Mapping[str, Any], signer: Signer | None, to: str = "", blob: bytes = b""
) -> Packet:
    """`to`: the hash of the packet that is answered."""
    text = json.dumps({"format": _FORMAT, **body}, separators=(",", ":")).encode()
    return Packet(kind, text, signer.sign(_meant(kind, to, text)) if signer else "", blob)


def verify(packet: Packet, public: str, to: str = "") -> None:
    """WireError P05 unless the key `public` signed it, in answer to the text with the hash `to`."""
    if not public:
        raise WireError("P05", f"no key is enrolled by which to judge a {packet.kind}")
    signing.verify(public, _meant(packet.kind, to, packet.text), packet.signature)


def _meant(kind: str, to: str, text: bytes) -> bytes:
    """What is signed: a text with what it is, and which text it answers, so that it serves nowhere
    else."""
    return f"fedmets {_FORMAT} {kind} {to}\n".encode() + text


def loads(packet: Packet, kind: Kind, wanted: tuple[str, ...]) -> Any:
    """The text's object, which has these keys and no others. Its signature is not looked at."""
    if packet.kind != kind:
        raise WireError("W02", f"a {kind} is expected here, this is a {packet.kind}")
    try:
        body = json.loads(packet.text)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError("W02", "a message is not valid JSON") from error
    if not isinstance(body, dict) or "format" not in body:
        raise WireError("W02", "a message names no format")
    if type(body["format"]) is not int or body["format"] != _FORMAT:
        raise WireError(
            "W02",
            f"a message has format {body['format']!r}, this version reads {_FORMAT}; use the same "
            "fedmets version on both sides",
        )
    demand_keys(body, {"format", *wanted}, "message")
    return body


def listed(value: Any, kind: type, what: str) -> list[Any]:
    if type(value) is not list or any(type(v) is not kind for v in value):
        raise WireError("W02", f"{what}: a list of {kind.__name__} is expected")
    return value


def finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def demand_keys(row: Any, keys: set[str], what: str) -> None:
    if not isinstance(row, dict) or set(row) != keys:
        raise WireError("W02", f"a {what} must have exactly the keys {sorted(keys)}")
