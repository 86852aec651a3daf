"""Keys: what is signed is verified, and a key that others can read is not used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError, WireError
from common.wire import signing

MINE, OTHER = signing.new(), signing.new()


@given(st.binary(max_size=100))
def test_what_is_signed_is_verified_and_nothing_else(message: bytes) -> None:
    signature = MINE.sign(message)
    signing.verify(MINE.public, message, signature)
    for public, text, sign in (
        (OTHER.public, message, signature),
        (MINE.public, message + b"x", signature),
        (MINE.public, message, ""),
    ):
        with pytest.raises(WireError) as caught:
            signing.verify(public, text, sign)
        assert caught.value.code == "P05"


def test_a_known_signature() -> None:
    """RFC 8032, 7.1, test 2."""
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    signing.verify(public, b"\x72", signature)


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.key"
    first = signing.ensure(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing.ensure(path).public == first.public
    assert [p.name for p in path.parent.iterdir()] == ["a.key"]


@pytest.mark.parametrize(
    "fault", ["missing", "open to others", "garbage", "encrypted", "of another kind"]
)
def test_a_key_that_cannot_be_used_is_named_with_the_reason(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    if fault != "missing":
        signing.ensure(path)
    if fault == "open to others":
        path.chmod(0o640)
    if fault == "garbage":
        path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    if fault == "encrypted":
        path.write_bytes(
            MINE.key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
            )
        )
    if fault == "of another kind":
        other = ec.generate_private_key(ec.SECP384R1())
        path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UsageError, match="a\\.key") as caught:
        signing.load(path)
    assert caught.value.code == "C04"
    assert ("chmod 600" in str(caught.value)) == (fault == "open to others")


def test_two_processes_make_one_key(tmp_path: Path) -> None:
    """What is there already wins, whoever comes second."""
    path = tmp_path / "a.key"
    path.write_bytes(signing.pem(MINE))
    os.chmod(path, 0o600)
    assert signing.ensure(path).public == MINE.public
