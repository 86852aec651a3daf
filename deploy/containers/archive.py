"""Images as files, for sites without a registry or a network: each with its bill of materials, all
with their checksums.

    python deploy/containers/archive.py [--engine podman] [--tag latest] [--out archive] [--only courier ...] [--key plan.key] [--oci]

Writes `fedmets-<image>.tar` (for `podman load -i` or `docker load -i`), `fedmets-<image>.cdx.json`
(CycloneDX 1.6: every Python and every Debian package in the image, with its version and the licence
it names) and `SHA256SUMS` (for `sha256sum -c SHA256SUMS`). With `--key` also `SHA256SUMS.sig`, an
Ed25519 signature, and `signed-by.pem`, the public key that it is by, for

    openssl pkeyutl -verify -pubin -inkey signed-by.pem -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig

With `--oci` (Podman) an image keeps its digest, which kits may name; Docker loads such a file from
version 25 on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

IMAGES = ("coordinator", "courier", "station")
LOOK = r"""
import importlib.metadata, json, re
def licence(m):
    named = [c.split(" :: ")[-1] for c in m.get_all("Classifier") or [] if c.startswith("License ::")]
    return m.get("License-Expression") or (named or [""])[0]
python = sorted({(d.metadata["Name"], d.version, licence(d.metadata)) for d in importlib.metadata.distributions()})
try:
    text = open("/var/lib/dpkg/status", encoding="utf-8").read()
except OSError:
    text = ""
debian = []
for block in text.split("\n\n"):
    field = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", block, re.M))
    if field.get("Status", "").endswith(" installed"):
        debian.append((field["Package"], field["Version"], field["Architecture"]))
print(json.dumps({"python": python, "debian": sorted(debian)}))
"""


def contents(engine: str, image: str) -> dict[str, Any]:
    """What is installed in an image, as Python and dpkg have written it down there."""
    command = [
        engine,
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "python",
        image,
        "-c",
        LOOK,
    ]
    return dict(
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    )


def bill(image: str, tag: str, found: dict[str, Any]) -> str:
    """CycloneDX, validated against its schema."""
    bom = Bom()
    bom.metadata.component = Component(
        name=image, version=tag, type=ComponentType.CONTAINER, bom_ref=image
    )
    for name, version, licence in found["python"]:
        said = [DisjunctiveLicense(name=licence)] if licence else []
        url = PackageURL("pypi", name=name.lower().replace("_", "-"), version=version)
        bom.components.add(
            Component(name=name, version=version, purl=url, bom_ref=str(url), licenses=said)
        )
    for name, version, architecture in found["debian"]:
        url = PackageURL("deb", "debian", name, version, qualifiers={"arch": architecture})
        bom.components.add(Component(name=name, version=version, purl=url, bom_ref=str(url)))
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault:
        raise SystemExit(f"the bill of materials of {image} is not CycloneDX 1.6: {fault}")
    return text


def checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sign(sums: Path, key: Path) -> None:
    """Beside the checksums: a signature by a PEM key (Ed25519), and its public half."""
    private = load_pem_private_key(key.read_bytes(), None)
    if not isinstance(private, Ed25519PrivateKey):
        raise SystemExit(f"'{key}' is no Ed25519 key")
    sums.with_name("SHA256SUMS.sig").write_bytes(private.sign(sums.read_bytes()))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    sums.with_name("signed-by.pem").write_bytes(public)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("podman", "docker"), default="podman")
    parser.add_argument("--tag", default="latest")
    parser.add_argument("--out", default="archive", metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=IMAGES, default=IMAGES)
    parser.add_argument("--oci", action="store_true", help="OCI archives, which keep the digest")
    parser.add_argument("--key", default="", metavar="FILE", help="signs the checksums")
    given = parser.parse_args()
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in given.only:
        image = f"localhost/fedmets-{name}:{given.tag}"
        print(f"{image} ...", file=sys.stderr, flush=True)
        if subprocess.run(
            [given.engine, "image", "inspect", image],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode:
            raise SystemExit(f"there is no image {image}: make images builds it")
        tar, text = out / f"fedmets-{name}.tar", out / f"fedmets-{name}.cdx.json"
        text.write_text(bill(f"fedmets-{name}", given.tag, contents(given.engine, image)))
        tar.unlink(missing_ok=True)  # podman adds to an archive that is there
        subprocess.run(
            [
                given.engine,
                "save",
                *(["--format", "oci-archive"] if given.oci else []),
                "-o",
                str(tar),
                image,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        written += [tar, text]
    sums = out / "SHA256SUMS"
    sums.write_text("".join(f"{checksum(p)}  {p.name}\n" for p in written))
    if given.key:
        sign(sums, Path(given.key))
    print(sums)


if __name__ == "__main__":
    main()
