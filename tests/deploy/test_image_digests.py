"""What goes into images and archives: hashes of wheels, digests, signed checksums."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from common.wire import signing
from deploy.containers import archive, digests, hashes


def wheel(folder: Path, name: str, version: str, *needs: str, tag: str = "py3-none-any") -> Path:
    path = folder / f"{name}-{version}-{tag}.whl"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\n")
        packed.writestr("content", tag)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in hashes.COURIER:
        wheel(tmp_path, name.replace("-", "_"), "1.0")
    wheel(tmp_path, "flwr", "1.41.0", "sqlalchemy>=2")
    wheel(tmp_path, "sqlalchemy", "2.1")
    (tmp_path / "pins.txt").write_text("torch==2.0\nflwr==1.41.0\nhttpx==1.0\nsqlalchemy==2.1\n")
    (tmp_path / "gpu.pins").write_text("xgboost==3.2\n")
    return tmp_path


def written(folder: Path) -> dict[str, str]:
    hashes.main([str(folder), str(folder / "pins.txt"), str(folder / "gpu.pins")])
    return {n: (folder / f"{n}.txt").read_text() for n in ("full", "courier", "gpu")}


def test_every_package_has_its_version_and_the_hash_of_each_of_its_wheels(folder: Path) -> None:
    wheel(folder, "torch", "2.0", tag="cp311-cp311-manylinux_2_28_x86_64")
    wheel(folder, "torch", "2.0", tag="cp311-cp311-manylinux_2_28_aarch64")
    wheel(folder, "torch", "1.9", tag="cp311-cp311-manylinux_2_28_x86_64")
    wheel(folder, "setuptools", "80.0")
    wheel(folder, "xgboost", "3.2")
    full = written(folder)["full"].replace("\\\n", "")
    lines = {Requirement(s.split("--hash")[0]).name: s for s in full.splitlines()}
    assert "torch==2.0" in lines["torch"]
    for path in folder.glob("torch-*.whl"):
        held = hashlib.sha256(path.read_bytes()).hexdigest() in lines["torch"]
        assert held == ("-2.0-" in path.name)
    assert lines["torch"].count("--hash=sha256:") == 2
    assert {"setuptools", "sqlalchemy", "flwr"} <= set(lines)
    assert "xgboost" not in lines, "it is installed in another's place, or not at all"
    assert written(folder)["gpu"].startswith("xgboost==3.2")
    # torch with CUDA is the same version with a local part
    wheel(folder, "torch", "2.0+cu130")
    assert "torch==2.0+cu130 " in written(folder)["full"]


def test_the_courier_has_flower_bare_and_what_it_imports_with_all_that_it_needs(
    folder: Path,
) -> None:
    wheel(folder, "httpx", "1.0", "certifi", 'brotli; extra == "br"')
    wheel(folder, "certifi", "2026.1")
    courier = written(folder)["courier"]
    assert "flwr==1.41.0" in courier
    assert "certifi==2026.1" in courier
    assert "sqlalchemy" not in courier
    assert "brotli" not in courier


def test_a_folder_without_the_pinned_version_is_refused(folder: Path) -> None:
    wheel(folder, "torch", "1.9")
    with pytest.raises(SystemExit, match=r"torch 2\.0"):
        written(folder)
    (folder / "torch-1.9-py3-none-any.whl").unlink()
    (folder / "typer-1.0-py3-none-any.whl").unlink()
    with pytest.raises(SystemExit, match="typer"):
        written(folder)


def test_images_are_listed_by_the_digest_that_the_engine_knows() -> None:
    asked = []

    def ask(command: list[str]) -> str:
        asked.append(command)
        return f"sha256:{len(asked):064x}\n"

    listed = digests.listed("podman", "localhost/", "v1", ask)
    assert listed["station"] == f"localhost/fedmets-station@sha256:{3:064x}"
    assert asked[0][-1] == "localhost/fedmets-coordinator:v1"
    with pytest.raises(SystemExit, match="knows no digest"):
        digests.listed("docker", "localhost/", "v1", lambda _: "\n")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_checksums_are_signed_so_that_openssl_alone_can_tell(tmp_path: Path) -> None:
    sums, key = tmp_path / "SHA256SUMS", tmp_path / "plan.key"
    sums.write_text("0" * 64 + "  fedmets-station.tar\n")
    signing.ensure(key)
    archive.sign(sums, key)
    command = [
        *("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "signed-by.pem", "-rawin"),
        *("-in", "SHA256SUMS", "-sigfile", "SHA256SUMS.sig"),
    ]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    sums.write_text("1" * 64 + "  fedmets-station.tar\n")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0
