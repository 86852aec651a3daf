"""Hashed requirements of the images, from the folder of wheels.

    python deploy/containers/hashes.py wheels constraints.txt deploy/containers/constraints-gpu.txt

Writes `full.txt`, `gpu.txt` and `courier.txt` into the folder: each package that an image installs,
in the version that the constraints name (of what they leave out, the newest), with the SHA-256 of
its wheels there, for `pip install --no-deps --require-hashes`. What it holds an image to is the
folder as it was when it was filled, on the kind of machine that filled it (x86_64 or aarch64): an
image that is built from it later, or elsewhere, is of these bytes. What a package index gave out on
that day it cannot judge.
"""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from collections.abc import Collection, Mapping
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

COURIER = (
    "cachetools", "cryptography", "fastapi", "grpcio", "grpcio-health-checking", "httpx",
    "iterators", "numpy", "packaging", "protobuf", "pycryptodome", "pydantic", "requests", "rich",
    "typer",
)  # fmt: skip
"""What the courier imports of what Flower needs; Flower itself comes without the rest."""
_LINE = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def wheels(folder: Path, constraints: str) -> dict[str, list[Path]]:
    """Package -> its wheels in the version that counts. SystemExit where one has none."""
    pinned: dict[str, str] = {}
    for pin, pinned_to in _LINE.findall(constraints):
        pinned[canonicalize_name(pin)] = pinned_to
    every: dict[str, list[tuple[Version, Path]]] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(path.name)
        if name != "fedmets":
            every.setdefault(name, []).append((version, path))
    chosen: dict[str, list[Path]] = {}
    missing = []
    for package, found in every.items():
        if package in pinned:
            # a build of one's own has a local part: 2.13.0+cu130 is 2.13.0
            want = Version(pinned[package])
            right = [v for v, _ in found if v == want or v.public == str(want)]
        else:
            right = [v for v, _ in found]
        if not right:
            missing.append(f"{package} {pinned[package]}")
            continue
        chosen[package] = [p for v, p in found if v == max(right)]
    if missing:
        raise SystemExit(f"'{folder}' lacks {', '.join(missing)}: make wheels")
    return chosen


def needed(listed: Mapping[str, list[Path]], names: Collection[str]) -> list[str]:
    """These packages with what they need here, by what their wheels say."""
    waiting: list[str] = [canonicalize_name(n) for n in names]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in listed:
            raise SystemExit(f"there is no wheel of {name}: make wheels")
        found.add(name)
        for line in _requires(listed[name][0]):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return sorted(found)


def _requires(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as packed:
        (path,) = [n for n in packed.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
        return HeaderParser().parsestr(packed.read(path).decode()).get_all("Requires-Dist") or []


def text(listed: Mapping[str, list[Path]], names: Collection[str]) -> str:
    """A requirements file: name, version and hashes."""
    lines = []
    for name in sorted(names):
        _, version, _, _ = parse_wheel_filename(listed[name][0].name)
        hashes = sorted(_sha256(path) for path in listed[name])
        lines.append(
            " \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{h}" for h in hashes)])
        )
    return "\n".join([*lines, ""])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv: list[str]) -> None:
    folder, every, gpu = Path(argv[0]), Path(argv[1]).read_text(), Path(argv[2]).read_text()
    listed = wheels(folder, f"{every}\n{gpu}")
    instead = {canonicalize_name(name) for name, _ in _LINE.findall(gpu)} & set(listed)
    (folder / "full.txt").write_text(text(listed, set(listed) - instead))
    (folder / "gpu.txt").write_text(text(listed, instead))
    (folder / "courier.txt").write_text(text(listed, {"flwr", *needed(listed, COURIER)}))


if __name__ == "__main__":
    main(sys.argv[1:])
