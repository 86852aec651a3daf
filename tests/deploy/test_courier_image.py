"""The courier's image: the files and the packages that its Containerfile names are enough, and there is
nothing among them by which Flower starts an app."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.containers import hashes
from tests.paths import ROOT

TEXT = (ROOT / "deploy" / "containers" / "Containerfile").read_text().replace("\\\n", " ")
ALONE = """
import importlib.metadata as metadata, sys
allowed = set({allowed!r})
lacking = {{
    name for name, owners in metadata.packages_distributions().items()
    if not any(o.lower().replace("_", "-").replace(".", "-") in allowed for o in owners)
}}

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in lacking:
            raise ModuleNotFoundError(f"{{name}} is not in the image", name=name)

sys.meta_path.insert(0, Wall())
"""


def stage(name: str) -> str:
    return re.split(rf"^FROM \S+ AS {name}$", TEXT, flags=re.MULTILINE)[1].split("\nFROM ")[0]


def installed() -> set[str]:
    """The packages of the courier's image: Flower bare, and the others with all that they need."""
    assert "-r /wheels/courier.txt" in stage("build-courier")
    names, waiting = {"flwr"}, [canonicalize_name(n) for n in hashes.COURIER]
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        names.add(name)
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(needed.name))
    return names


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """/app of the courier's image."""
    for line in re.findall(r"^COPY (?!--)(.*)$", stage("courier"), re.MULTILINE):
        *sources, target = line.split()
        if not target.startswith("/app/"):
            continue
        there = tmp_path / target[1:]
        for source in sources:
            for path in sorted(ROOT.glob(source)):
                if path.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(path, there, dirs_exist_ok=True, ignore=ignored)
                else:
                    there.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, there)
    return tmp_path / "app"


def ran(image: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ALONE.format(allowed=sorted(installed())) + code],
        cwd=image, env={"PYTHONPATH": str(image), "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_image_is_enough_for_a_courier_and_its_half_of_the_doctor(image: Path) -> None:
    done = ran(image, "import deploy.courier, deploy.doctor, httpx, client.courier.courier as c\n"
                      "print(c.__file__)")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(image / "client" / "courier" / "courier.py")
    for command in ("courier", "reach"):
        words = f"['{command}', '/nowhere']"
        done = ran(image, f"from deploy.__main__ import main; sys.exit(main({words}))")
        assert "C04" in done.stdout + done.stderr, done.stderr
    lacking = ran(image, "import sqlalchemy")
    assert "is not in the image" in lacking.stderr, "the wall holds"


def test_nothing_in_the_image_starts_an_app_or_installs_a_package(image: Path) -> None:
    assert not {"uv", "uvicorn", "sqlalchemy", "torch"} & installed()
    assert not (image / "client" / "app.py").exists()
    assert not (image / "client" / "table").exists()
    done = ran(image, "import flwr.supercore.superexec.run_superexec")
    assert done.returncode != 0


def test_the_courier_imports_nothing_by_which_flower_runs_an_app() -> None:
    code = (
        "import sys, deploy.courier\n"
        "print([m for m in sys.modules if m.startswith(('flwr.supernode.runtime', "
        "'flwr.supernode.start', 'flwr.supercore.superexec', 'flwr.cli.', 'client.app'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
