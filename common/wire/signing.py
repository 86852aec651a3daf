"""Ed25519 signatures (RFC 8032): the coordinator signs what it asks, a site signs what it answers;
each has pinned the other's public half.

The keys are fedmets' own, not Flower's: a Flower server that is taken over can carry messages, and
can neither write nor change one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from common.errors import UsageError, WireError
from common.runtime.atomic_files import fresh

PUBLIC = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Signer:
    """A private key, held in memory."""

    key: Ed25519PrivateKey

    @property
    def public(self) -> str:
        """32 bytes as 64 hex digits: what the other side pins, and what is read out over the
        telephone."""
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, message: bytes) -> str:
        """64 bytes as 128 hex digits; the same message gives the same signature."""
        return self.key.sign(message).hex()


def new() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def pem(signer: Signer) -> bytes:
    """The private key as it is kept in a file (PKCS8, unencrypted)."""
    return signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def verify(public: str, message: bytes, signature: str) -> None:
    """WireError P05 unless `signature` is that of `message` by the holder of `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(
            bytes.fromhex(signature), message
        )
    except (InvalidSignature, ValueError) as error:
        raise WireError(
            "P05", f"the signature is not by the key {public[:16]}... that was enrolled"
        ) from error


def load(path: Path) -> Signer:
    """A private key from a PEM file; UsageError C04 where it is missing, is no such key, or can be
    read by others."""
    try:
        mode = path.stat().st_mode
        if mode & 0o077:
            raise UsageError(
                "C04",
                f"key '{path}' can be read by others (mode {mode & 0o777:o}); chmod 600 it, or "
                "make a new key",
            )
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise UsageError(
            "C04", f"key '{path}' cannot be read ({error.strerror}); make one, or check the path"
        ) from error
    except (ValueError, TypeError) as error:
        raise UsageError(
            "C04", f"'{path}' is not an unencrypted private key in PEM form; make a new one"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            "C04",
            f"'{path}' holds a {type(key).__name__}, an Ed25519 key is needed; make a new one",
        )
    return Signer(key)


def ensure(path: Path) -> Signer:
    """The key in `path`, made on first use: readable by its owner alone, and never overwritten."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with fresh(aside) as file:
            file.write(pem(new()))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return load(path)
