"""Public key infrastructure: the federation's certificate authority, TLS certificates, couriers'
keys, and fingerprints to read out.

Elliptic curves throughout (P-256 for TLS; P-384 for SuperNodes, whose keys Flower wants on a NIST
curve). Private keys are PEM files of mode 600. Sources: RFC 5280 (certificates), RFC 6125 (names),
CA/Browser Forum baseline (a server's 397 days).
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import UsageError

AUTHORITY_KEY = "ca.key"
CA_DAYS, SERVER_DAYS, WARN_DAYS = 3650, 397, 30
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_CLOCKS = datetime.timedelta(hours=1)
"""A certificate is valid from a little earlier: clocks differ."""


def private(path: Path, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    """A new key in `path`, for its owner alone; a file that is there is an error, never
    overwritten."""
    key = ec.generate_private_key(curve)
    pem = key.private_bytes(
        Encoding.PEM,
        PrivateFormat.OpenSSH if isinstance(curve, ec.SECP384R1) else PrivateFormat.PKCS8,
        NoEncryption(),
    )
    write(path, pem, 0o600)
    return key


def write(path: Path, blob: bytes, mode: int = 0o644) -> None:
    """A new file with its mode from the start."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(blob)


def authority(folder: Path, federation: str, now: datetime.datetime, days: int = CA_DAYS) -> None:
    """`ca.key` and `ca.pem`: what every site trusts, and nothing else."""
    key = private(folder / AUTHORITY_KEY, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedmets {federation}"[:64])])
    builder = _builder(name, name, key.public_key(), now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(
        False,
        False,
        False,
        False,
        False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    write(folder / "ca.pem", builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def server(
    folder: Path,
    names: Sequence[str],
    now: datetime.datetime,
    days: int = SERVER_DAYS,
    authority_key: Path | None = None,
) -> None:
    """`server.key` and `server.pem` for `names` (host names or addresses), signed by the authority
    of the folder's `ca.pem`, whose key lies beside it or where it is kept.

    Raises UsageError C04 where that is not its key.
    """
    ca = newest(folder / "ca.pem")
    ca_key = _authority_key(authority_key or folder / AUTHORITY_KEY, ca)
    key = private(folder / "server.key", ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = _builder(subject, ca.subject, key.public_key(), now, days)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([_name(n) for n in names]), critical=False
    )
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )
    write(folder / "server.pem", builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))


def _authority_key(path: Path, ca: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            "C04",
            f"the authority's key '{path}' cannot be read ({error}); name the file `ca.key` where "
            "it is kept",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise UsageError(
            "C04",
            f"'{path}' is not the key of the newest authority in `ca.pem`; name the right one",
        )
    return key


def newest(path: Path) -> x509.Certificate:
    """The first certificate of a file: of authorities that overlap, the newest stands first."""
    return certificates(path)[0]


def certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise UsageError(
            "C04",
            f"certificate '{path}' cannot be read ({error.strerror}); check the path, or make the "
            "kit again",
        ) from error
    except ValueError as error:
        raise UsageError(
            "C04", f"'{path}' holds no certificate in PEM form; make the kit again"
        ) from error


def newest_der(path: Path) -> bytes:
    """The first certificate's bytes, unread: what a fingerprint is of, before anything in a file
    from elsewhere is believed or parsed."""
    try:
        block = _PEM.search(path.read_bytes())
        if block:
            return base64.b64decode(block[1])
    except OSError as error:
        raise UsageError(
            "C04", f"certificate '{path}' cannot be read ({error.strerror}); make the kit again"
        ) from error
    except ValueError:
        pass
    raise UsageError("C04", f"'{path}' holds no certificate in PEM form; make the kit again")


def days_left(path: Path, now: datetime.datetime) -> float:
    """Days until the first of a file's certificates expires; below 0 where it has."""
    return (newest(path).not_valid_after_utc - now).total_seconds() / 86_400


def node_public(path: Path) -> bytes:
    """The public half of a courier's key, as Flower takes it (OpenSSH, one line)."""
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise UsageError(
            "C04",
            f"'{path}' is no private key in OpenSSH form ({error}); make it again with `fedmets "
            "deploy enroll`",
        ) from error
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def check_node_public(line: str) -> None:
    """C04 unless a line is a public key on a NIST curve."""
    try:
        key = load_ssh_public_key(line.encode())
    except ValueError as error:
        raise UsageError(
            "C04", "the courier's public key cannot be read; ask the site for its enrolment again"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError(
            "C04",
            f"the courier's public key is a {type(key).__name__}, one on a NIST curve is needed; "
            "ask the site to enrol again",
        )


def fingerprint(*parts: bytes) -> str:
    """32 hex digits of SHA-256 over what two people must hold alike, in groups of four, to be read
    out over the telephone."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "little") + part)
    digits = h.hexdigest()[:32]
    return "-".join(digits[i : i + 4] for i in range(0, 32, 4))


def same(typed: str, fingerprint: str) -> bool:
    """Whether somebody typed a fingerprint, whatever the case and the spaces."""
    return "".join(c for c in typed.lower() if c.isalnum()) == fingerprint.replace("-", "")


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _CLOCKS).not_valid_after(
        now + datetime.timedelta(days=days)
    )
