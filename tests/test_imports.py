"""The dependency direction, and where heavy imports live.

`common <- client`, `common <- server`, `{client, server} <- simulation, deploy`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY = {
    "common": {"common"},
    "client": {"common", "client"},
    "server": {"common", "server"},
    "simulation": {"common", "client", "server", "simulation"},
    "deploy": {"common", "client", "server", "deploy"},
}
HEAVY = ("torch", "xgboost", "shap", "pandas", "sklearn", "matplotlib", "ray", "monai", "opacus")


def imports(path: Path) -> set[str]:
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            out.add(node.module.partition(".")[0])
    return out


FILES = [p for package in MAY for p in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_direction(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert imports(path) & set(MAY) <= MAY[package]


def test_the_server_never_names_a_cohort() -> None:
    for path in sorted((ROOT / "server").rglob("*.py")):
        named = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        assert "Cohort" not in named, path


@pytest.mark.parametrize(
    "module", ["simulation.__main__", "server.app", "client.app", "simulation.run", "server.report.model", "client.finetune"]
)
def test_no_heavy_import(module: str) -> None:
    code = f"import sys, {module}; print(','.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_help_imports_neither_numpy_nor_flower() -> None:
    code = (
        "import sys, simulation.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', [x for x in ('numpy', 'flwr', 'rich') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
