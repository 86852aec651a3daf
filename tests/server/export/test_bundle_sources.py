"""The sources that a bundle brings: the network's file and what it imports, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from server.export.bundle_sources import sources
from setup import inside
from tests.paths import ROOT

MODULE = "common.networks.classifiers.compact3d"
CODE = (
    "import json\nfrom fedmets.server.export.bundle_sources import sources\n"
    f"print(json.dumps({{p: s.decode() for p, s in sources({MODULE!r}, 'scripts').items()}}))"
)


def test_they_are_what_the_network_imports() -> None:
    found = sources(MODULE, "scripts")
    assert sorted(found) == [
        "common/__init__.py",
        "common/networks/__init__.py",
        "common/networks/architectures.py",
        "common/networks/classifier.py",
        "common/networks/classifiers/__init__.py",
        "common/networks/classifiers/compact3d.py",
    ]
    text = b"".join(found.values())
    assert b"from scripts.common.networks.classifier import" in text
    assert b"from common." not in text


def test_they_are_the_same_from_what_pip_installs(tmp_path: Path) -> None:
    """There `common` is `fedmets.common`."""
    for file in (*(ROOT / "common").rglob("*.py"), *(ROOT / "server/export").rglob("*.py")):
        path = tmp_path / "fedmets" / file.relative_to(ROOT)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(inside(file.read_text(encoding="utf-8")), encoding="utf-8")
    front = "from fedmets.common.federated.learner import Plan\n"
    (tmp_path / "fedmets/__init__.py").write_text(front, encoding="utf-8")
    (tmp_path / "fedmets/server/__init__.py").write_text("", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    here = {path: source.decode() for path, source in sources(MODULE, "scripts").items()}
    assert json.loads(done.stdout) == here
