"""The house's plan as data: which package may import which, in which order the rooms of each stand,
and where heavy imports live.

`common <- client`, `common <- server`, `{client, server} <- simulation, deploy`; and inside a
package a file imports from its own room and from those that stand before it in `ROOMS`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT

MAY = {
    "common": {"common"},
    "client": {"common", "client"},
    "server": {"common", "server"},
    "simulation": {"common", "client", "server", "simulation"},
    "deploy": {"common", "client", "server", "deploy"},
}
ROOMS = {
    "common": (
        ".", "runtime", "data", "privacy", "federated", "study", "trees", "metrics", "networks",
        "networks/classifiers", "learners", "studies",
        "secure_aggregation", "wire",
    ),
    "client": (
        "imaging/geometry", "imaging/dicom", "table", "table/draft", "imaging/selection", "imaging/formats",
        "imaging/pipeline", "cohort", "site",
        "local_model", "station", "courier", ".",
    ),
    "server": (
        "config", "ledger", "rounds", "report/content", "report/checklists", "report/charts",
        "report/page", "export", "report/pdf",
        "report", "coordinator", "monitor", "monitor/web", ".",
    ),
    "simulation": (
        "phantom/shared", "phantom/brain", "phantom/liver", "phantom/colorectal", "phantom/faults",
        "federation", "evaluation", "attack",
        "report", ".",
    ),
    "deploy": (".", "containers"),
}  # fmt: skip
"""Package -> its rooms from the ground up. `.` is the package's own floor: errors and types below
all, a package's doors above all."""
MOST_FILES = 18
HEAVY = ("torch", "xgboost", "shap", "pandas", "sklearn", "matplotlib", "ray", "monai", "opacus")

FILES = [p.relative_to(ROOT) for package in MAY for p in sorted((ROOT / package).rglob("*.py"))]
NAMES = {".".join(p.with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}


@cache
def imported(path: Path) -> frozenset[str]:
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, wherever in it; a module of ours that is imported by
    name is named whole."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in NAMES else node.module


def room(path: Path) -> str:
    return Path(*path.parts[1:-1]).as_posix()


def test_direction_of_packages() -> None:
    for path in FILES:
        packages = {name.partition(".")[0] for name in imported(path)} & set(MAY)
        assert packages <= MAY[path.parts[0]], path


def test_no_arrow_goes_back_up() -> None:
    for path in FILES:
        package, order = path.parts[0], ROOMS[path.parts[0]]
        if path.name == "__init__.py":
            continue
        allowed = set(order[: order.index(room(path)) + 1])
        for name in imported(path):
            target = NAMES.get(name)
            if target and target.parts[0] == package and target.name != "__init__.py":
                assert room(target) in allowed, f"{path} imports {target}, whose room stands above"


@pytest.mark.parametrize("package", sorted(ROOMS))
def test_every_room_has_its_place(package: str) -> None:
    """None is missing from the order, none holds more files than one looks through at a glance."""
    rooms = Counter(room(p) for p in FILES if p.parts[0] == package and p.name != "__init__.py")
    assert set(rooms) == set(ROOMS[package])
    assert {r: n for r, n in rooms.items() if n > MOST_FILES} == {}


def test_files_import_each_other_in_no_circle() -> None:
    arrows = {p: {NAMES[name] for name in imported(p) if name in NAMES} - {p} for p in FILES}
    left = dict(arrows)
    while ground := [p for p, targets in left.items() if not targets & set(left)]:
        for path in ground:
            del left[path]
    assert sorted(map(str, left)) == []


def test_the_server_never_names_a_cohort() -> None:
    for path in sorted((ROOT / "server").rglob("*.py")):
        named = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        assert "Cohort" not in named, path


@pytest.mark.parametrize(
    "module",
    [
        "simulation.__main__", "server.app", "client.app", "client.courier.courier",
        "deploy.courier", "simulation.run", "server.export.model_folder", "client.local_model.finetune",
    ],
)  # fmt: skip
def test_no_heavy_import(module: str) -> None:
    code = f"import sys, {module}; print(','.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("package", ["simulation", "client", "server", "deploy"])
def test_help_imports_neither_numpy_nor_flower_nor_pydantic(package: str) -> None:
    code = (
        f"import sys, {package}.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', [x for x in ('numpy', 'flwr', 'rich', 'pydantic') if x in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "LOADED []" in done.stdout
