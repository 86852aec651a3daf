"""Documents and code say the same: error codes, run configuration, the report's keys, and no link
that leads nowhere."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from client.__main__ import parser as client_parser
from common.errors import CODES
from common.metrics.definitions import METRICS
from deploy.__main__ import parser as deploy_parser
from server.__main__ import parser as server_parser
from server.config.run_config import Run
from simulation.__main__ import parser
from tests.docs.pages import PAGES, ROOT


def test_every_code_is_used() -> None:
    text = "".join(
        p.read_text()
        for package in ("common", "client", "server", "simulation", "deploy")
        for p in (ROOT / package).rglob("*.py")
        if p.name != "errors.py"
    )
    assert [c for c in CODES if f'"{c}"' not in text and f"{c} " not in text] == []


def test_run_configuration_is_pyprojects() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert config == {f.name: f.default for f in dataclasses.fields(Run)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_options_in_the_readme_exist() -> None:
    known = {o for a in parser()._actions for o in a.option_strings}
    for page in PAGES:
        for line in re.findall(r"fedmets simulate[^\n`]*", page.read_text()):
            for option in re.findall(r"(?<!\w)--[a-z][a-z-]+", line):
                assert option in known, f"{page.name}: {option}"


def subcommands(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> dict[tuple[str, ...], set[str]]:
    """Words of a command -> its options."""
    out = {words: {o for a in parser._actions for o in a.option_strings}}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                out |= subcommands(inner, (*words, name))
    return out


@pytest.mark.parametrize(
    ("module", "made"),
    [("client", client_parser), ("server", server_parser), ("deploy", deploy_parser)],
)
def test_commands_of_the_other_packages_exist(
    module: str, made: Callable[[], argparse.ArgumentParser]
) -> None:
    known = subcommands(made())
    kits = sorted((ROOT / "deploy" / "templates").rglob("README.md"))
    found = 0
    for page in [*PAGES, *kits]:
        for line in re.findall(rf"fedmets {module} ([^\n`#;|]*)", page.read_text()):
            words = tuple(itertools.takewhile(lambda w: re.fullmatch(r"[a-z]+", w), line.split()))
            command = next((words[:n] for n in (2, 1) if words[:n] in known and words[:n]), None)
            if not words or "|" in line:
                continue
            assert command is not None, f"{page.name}: fedmets {module} {line}"
            found += 1
            for option in re.findall(r"(?<!\w)--[a-z][a-z-]+", line):
                assert option in known[command], (
                    f"{page.name}: {option} of fedmets {module} {' '.join(command)}"
                )
    assert found


def test_metrics_are_documented() -> None:
    text = (ROOT / "docs/report.md").read_text()
    assert [m.name for m in METRICS if f"`{m.name}`" not in text] == []


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets


def test_nothing_of_a_run_is_tracked() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert [
        t for t in tracked if t.endswith((".state", ".jsonl", ".dcm", ".nii.gz", ".xlsx", ".tsv"))
    ] == []
