"""Pairwise keys (X25519): the secrets of two sites, for seeds of masks and sealed texts that the
coordinator carries unread.

X25519 (RFC 7748) once a run; what comes of it goes through HKDF-SHA256 (RFC 5869) for each purpose
and each step, so that a seed that is revealed says nothing of another (Flamingo, arXiv 2306.09364,
sec. 4). Texts are sealed with ChaCha20-Poly1305 (RFC 8439).

Public keys come through the coordinator: they are worth what the signatures on them are worth.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import WireError

PLACE = 32
"""Bytes of a place: a hash of the run, the step, the sites and everything asked."""
_NONCE_BYTES = 12


@dataclass(frozen=True)
class Agreer:
    """A site's private key for one run, held in memory."""

    key: X25519PrivateKey

    @property
    def public(self) -> str:
        """32 bytes as 64 hex digits."""
        return self.key.public_key().public_bytes_raw().hex()


@dataclass(frozen=True)
class Pair:
    """What two sites, or one with itself, derive from their keys: the same on both sides."""

    masks: bytes = field(repr=False)
    """The root of the seeds of their masks."""
    texts: bytes = field(repr=False)
    """The key of what they send each other."""


def new() -> Agreer:
    return Agreer(X25519PrivateKey.generate())


def agree(private: Agreer, public: str, site: str, other: str, run: str) -> Pair:
    """What `site`, which holds `private`, has with `other`, whose key is `public`. WireError M02
    where that is not a key."""
    try:
        shared = private.key.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except (TypeError, ValueError) as error:
        raise WireError("M02", f"what came as the key of '{other}' is none") from error
    first, second = sorted((site, other))
    root = _derive(shared, b"fedmets pair", first.encode(), second.encode(), run.encode())
    return Pair(_derive(root, b"masks"), _derive(root, b"texts"))


def seed(pair: Pair, place: bytes) -> bytes:
    """Of the mask that both share at one place: 32 bytes."""
    return _derive(pair.masks, b"seed", _checked(place))


def seal(pair: Pair, place: bytes, sender: str, to: str, text: bytes) -> bytes:
    """`text` for the one other that can open it. The nonce is random: a station started again may
    seal another text for the same place."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(pair.texts).encrypt(
        nonce, text, _associated_data(place, sender, to)
    )


def unseal(pair: Pair, place: bytes, sender: str, to: str, blob: bytes) -> bytes:
    """WireError M02 unless it is what `sender` sealed for `to` at this place."""
    try:
        return ChaCha20Poly1305(pair.texts).decrypt(
            blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], _associated_data(place, sender, to)
        )
    except (InvalidTag, ValueError) as error:
        raise WireError(
            "M02", f"what '{sender}' sealed for '{to}' was altered, or is for another site or step"
        ) from error


def _associated_data(place: bytes, sender: str, to: str) -> bytes:
    return _joined(_checked(place), sender.encode(), to.encode())


def _checked(place: bytes) -> bytes:
    if len(place) != PLACE:
        raise ValueError(f"a place is {PLACE} bytes, this has {len(place)}")
    return place


def _derive(key: bytes, *purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, _joined(*purpose)).derive(key)


def _joined(*parts: bytes) -> bytes:
    """Each with its length: no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)
