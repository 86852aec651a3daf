"""What Flower bundles where fedmets is installed is what it bundles in a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from server.coordinator import app_bundle
from tests.paths import ROOT


def test_a_checkout_is_its_own_bundle(tmp_path: Path) -> None:
    assert app_bundle.app(tmp_path) == ROOT


def test_a_copy_says_the_same_to_flower_and_holds_the_same_code(tmp_path: Path) -> None:
    there = app_bundle.copied(tmp_path / "app")
    assert app_bundle.copied(tmp_path / "app") == there, "a second run finds the first one's"
    mine, theirs = (
        tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
        for folder in (ROOT, there)
    )
    assert {**mine, "fab-include": sorted(mine["fab-include"])} == {
        **theirs,
        "fab-include": sorted(theirs["fab-include"]),
    }
    for pattern in mine["fab-include"]:
        held = {p.relative_to(there): p.read_bytes() for p in there.glob(pattern)}
        assert held == {p.relative_to(ROOT): p.read_bytes() for p in ROOT.glob(pattern)}
        assert held


def test_flower_builds_a_bundle_from_the_copy(tmp_path: Path) -> None:
    there = app_bundle.copied(tmp_path / "app")
    flwr = Path(sys.executable).parent / "flwr"
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(tmp_path / "flwr"),
    }
    subprocess.run(
        [flwr, "build", "--app", there],
        cwd=tmp_path,
        env={**os.environ, **quiet},
        check=True,
        capture_output=True,
    )
    assert list(tmp_path.glob("*.fab"))
