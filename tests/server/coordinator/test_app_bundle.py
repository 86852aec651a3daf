"""What Flower bundles where fedmets is installed is what it bundles in a checkout; and what a
coordinator ships is empty."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.supercore.object_ref import load_app

from client.courier.carrier import KINDS
from common.wire.flower_records import NUDGE
from server.coordinator import app_bundle
from tests.courier import message as message_of
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


def test_the_bundle_that_a_coordinator_ships_has_no_code(tmp_path: Path) -> None:
    there = app_bundle.empty(tmp_path)
    stale = there / "client" / "app.py"  # whatever else lies in the coordinator's folder
    stale.parent.mkdir()
    stale.write_text("raise SystemExit('this ran')")
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
    (bundle,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(bundle) as packed:
        names = [n for n in packed.namelist() if not n.startswith(".info")]
    assert sorted(names) == ["nothing.py", "pyproject.toml"]


def test_the_clientapp_that_a_coordinator_ships_answers_no_type_of_message(tmp_path: Path) -> None:
    there = app_bundle.empty(tmp_path)
    app = load_app("nothing:client", ValueError, there)
    for kind in ("train", "evaluate", *KINDS, NUDGE):
        message = message_of(RecordDict(), kind=kind)
        with pytest.raises(ValueError, match="No"):
            app(message, Context(1, 1, {}, RecordDict(), {}))
