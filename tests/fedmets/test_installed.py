"""What pip installs: one top-level package, which a user's own files do not get in the way of, and
the same bits."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from setup import PARTS, inside
from tests.paths import ROOT

FILES = [p for part in (*PARTS, "fedmets") for p in sorted((ROOT / part).rglob("*.py"))]
SMALL = (
    "--phantom-patients=150", "--learners=logistic", "--evaluations=within_site",
    "--bootstraps=100", "--folds=3", "--virtual-sites=2",
    "--partition=even",
)  # fmt: skip
TWICE = """
import collections, os, runpy, sys
sys.argv = ["fedmets", "simulate", *sys.argv[1:]]
try:
    runpy.run_module("fedmets", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert end.code == 0, end.code
files = collections.Counter(
    os.path.realpath(m.__file__) for n, m in list(sys.modules.items()) if n != "__main__" and getattr(m, "__file__", None)
)
assert not [f for f, n in files.items() if n > 1 and "/fedmets/" in f], "loaded under two names"
assert not {n.partition(".")[0] for n in sys.modules} & {"client", "common", "deploy", "simulation"}, "a part by its own name"
"""


def test_every_import_is_one_that_the_build_rewrites() -> None:
    """`from X... import`, at the start of a line; after it no import of a part is left, and every
    line is where it was."""
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        built = inside(source)
        assert built.count("\n") == source.count("\n")
        for node in ast.walk(ast.parse(built)):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
                assert not names & set(PARTS), f"{path}:{node.lineno}"
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno} is relative"
                assert str(node.module).partition(".")[0] not in PARTS, f"{path}:{node.lineno}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's packages, installed from a copy of the tracked files."""
    home = tmp_path_factory.mktemp("installed")
    source = home / "source"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "template_")
    for part in (*PARTS, "fedmets"):
        shutil.copytree(ROOT / part, source / part, ignore=skip)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run(
        [*pip, "--target", str(home / "site"), "."], cwd=source, check=True, capture_output=True
    )
    return home / "site"


def call(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def test_one_package_at_the_top(site: Path) -> None:
    assert {p.name for p in site.iterdir() if p.is_dir() and not p.name.endswith(".dist-info")} == {
        "fedmets",
        "bin",
    }
    data = {
        p.relative_to(ROOT)
        for part in PARTS
        for p in (ROOT / part).rglob("*")
        if p.suffix in {".toml", ".typ", ".html", ".css", ".js"}
    }
    assert {p for p in data if not (site / "fedmets" / p).is_file()} == set()


def test_it_ends_in_the_checkout_s_bits_beside_files_of_the_user_s_own(
    site: Path, tmp_path: Path
) -> None:
    for name in ("server", "common", "client", "simulation", "setup"):
        (tmp_path / f"{name}.py").write_text(
            "raise SystemExit('the user\\'s own file was imported')\n"
        )
    there = call(site, tmp_path, "-c", TWICE, *SMALL, "--json", "--out", "there")
    assert there.returncode == 0, there.stderr
    here = subprocess.run(
        [sys.executable, "-m", "simulation", *SMALL, "--json", "--out", str(tmp_path / "here")],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    hashes = [json.loads(done.stdout)["state_hash"] for done in (there, here)]
    assert hashes[0] == hashes[1]


def test_the_command_knows_its_version_and_a_shell_s_completion(site: Path, tmp_path: Path) -> None:
    assert call(site, tmp_path, "-m", "fedmets", "--version").stdout.startswith("fedmets ")
    script = call(site, tmp_path, "-m", "fedmets", "--print-completion", "bash").stdout
    assert "--virtual-sites" in script
    assert "finetune" in script
    unknown = call(site, tmp_path, "-m", "fedmets", "simulat")
    assert unknown.returncode == 2
    assert "simulate" in unknown.stderr


def test_what_flower_bundles_says_fedmets_too(site: Path, tmp_path: Path) -> None:
    code = (
        "from fedmets.server.coordinator import app_bundle; from pathlib import Path; "
        "print(app_bundle.app(Path.cwd()), app_bundle.empty(Path.cwd()))"
    )
    folder, empty = map(Path, call(site, tmp_path, "-c", code).stdout.split())
    assert sorted(p.name for p in empty.iterdir()) == ["nothing.py", "pyproject.toml"]
    assert (folder / "fedmets" / "server" / "app.py").is_file()
    assert 'serverapp = "fedmets.server.app:app"' in (folder / "pyproject.toml").read_text()
    done = subprocess.run(
        [sys.executable, "-c", "from fedmets.server import app; print(app.__file__)"],
        cwd=folder, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(folder / "fedmets" / "server" / "app.py")
