"""Every command of the documentation is executed: here, or by a named test that is verified to hold
it. Nothing is left out in silence."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import types
from pathlib import Path

import pytest

from client.site.privacy_policy import Policy
from client.table import mapping_file
from common.data.cohort import Fold
from common.federated.learner import fit, local_plan
from common.runtime import settings
from common.study.load import load, names
from common.study.study_file import from_toml
from tests import synthetic
from tests.docs.covered import EXAMPLES, HELD, Here, There
from tests.docs.pages import OTHER, ROOT, SHELL, Block, Command, commands, every_block
from tests.docs.worlds import WORLDS, Fill, environment, run

COMMANDS = commands()


def plain(line: str) -> str:
    """Spaces that only line things up do not count."""
    return re.sub(r" +", " ", line)


LINES = sorted({plain(c.line) for c in COMMANDS})
HERE = [n for n in LINES if isinstance(HELD.get(n), Here)]
SLOW = [n for n in HERE if getattr(HELD[n], "slow", "")]
THERE = [c for c in COMMANDS if isinstance(HELD.get(plain(c.line)), There)]


def test_every_command_is_held() -> None:
    """The list of what holds what is printed: `pytest -s` shows it, and so does a failure."""
    for c in COMMANDS:
        how = HELD.get(plain(c.line))
        told = (
            f"here, in '{how.world}'{' and to its end' * bool(how.slow)}"
            if isinstance(how, Here)
            else how.test
            if how
            else "NOTHING"
        )
        print(f"{c.block.where}: {c.line}\n    {told}")
    open_ = [f"{c.block.where}: {c.line}" for c in COMMANDS if plain(c.line) not in HELD]
    assert not open_, "no test executes these; say how in tests/docs/covered.py"
    assert sorted(HELD.keys() - set(LINES)) == [], "these stand on no page any more"


def test_every_block_says_what_it_is() -> None:
    assert [b.where for b in every_block() if b.language not in (*SHELL, *OTHER)] == []


Done = dict[tuple[str, frozenset[str]], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def done_before() -> Done:
    """Commands that say the same in another order, or on another page, are executed once."""
    return {}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Fill]]:
    return {}


def world(
    name: str, made: dict[str, tuple[Path, Fill]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Fill]:
    """A folder of one's own in which that world lies."""
    if name not in made:
        first = tmp_path_factory.mktemp("world") / "here"
        first.mkdir()
        made[name] = first, WORLDS[name](first)
    first, fill = made[name]
    mine = tmp_path_factory.mktemp("command") / "here"
    shutil.copytree(first, mine, symlinks=True)
    return mine, fill


def filled(line: str, fill: Fill) -> str:
    for placeholder, value in fill.items():
        line = line.replace(placeholder, value)
    return line


@pytest.mark.parametrize("line", HERE)
def test_it_does_what_is_written(
    line: str,
    made: dict[str, tuple[Path, Fill]],
    done_before: Done,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    how = HELD[line]
    assert isinstance(how, Here)
    folder, fill = world(how.world, made, tmp_path_factory)
    asked = filled(f"{line} {how.more}".strip(), fill)
    if how.until:
        return waits(asked, folder, how.until)
    same = how.world, frozenset(asked.split())
    done = (
        done_before[same]
        if same in done_before
        else done_before.setdefault(same, run(asked, folder))
    )
    assert done.returncode in how.status, f"{asked}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return None


def waits(asked: str, folder: Path, until: str) -> None:
    """A command that serves: it says so, and ends when it is told to."""
    log = folder / "said"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {asked}"],
            cwd=folder,
            env=environment(folder),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            end = time.monotonic() + 300
            while until not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


@pytest.mark.slow
@pytest.mark.parametrize("line", SLOW)
def test_it_does_so_to_the_end(
    line: str, made: dict[str, tuple[Path, Fill]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    how = HELD[line]
    assert isinstance(how, Here)
    folder, fill = world(how.world, made, tmp_path_factory)
    done = run(filled(f"{line} {how.slow}", fill), folder)
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    report = json.loads((folder / done.stdout.strip().splitlines()[-1] / "report.json").read_text())
    assert report["results"]


@pytest.mark.parametrize("command", THERE, ids=lambda c: f"{c.block.where} {c.line[:60]}")
def test_who_holds_it_elsewhere_does(command: Command) -> None:
    how = HELD[plain(command.line)]
    assert isinstance(how, There)
    name, _, test = how.test.partition("::")
    text = (ROOT / name).read_text()
    tree = ast.parse(text)
    tests = {
        n.name
        for n in ast.walk(tree)
        if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")
    }
    assert test in tests if test else tests, f"{name} has no test '{test}'"
    if how.block:
        # the test takes the lines from the page by heading and number of the block
        block = command.block
        same = [
            b
            for b in every_block()
            if (b.page, b.heading, b.language) == (block.page, block.heading, block.language)
        ]
        assert f'block(RUNBOOK, "{block.heading}", {same.index(block)})' in text
        return
    texts = {
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }
    spoken = {word for t in texts for word in t.split()}
    words = [
        w for w in shlex.split(command.line) if w.startswith(("--", "fedmets[")) or w in names()
    ]
    after = shlex.split(command.line)
    if "-m" in after:
        at = after.index("-m")
        words += [w for w in after[at + 2 : at + 3] if not w.startswith("-")]
    assert [w for w in words if w not in spoken and w != "--out"] == [], (
        f"{name} does not hold these words of: {command.line}"
    )


def test_extras_that_pages_name_are_declared() -> None:
    """`pip install 'fedmets[mlflow]'`, say."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = {m for b in every_block() for m in re.findall(r"fedmets\[([a-z,]+)\]", b.body)}
    assert "mlflow" in named, "fedmets[mlflow]"
    assert {n for m in named for n in m.split(",")} <= declared.keys()


def examples(language: str) -> list[Block]:
    return [b for b in every_block() if b.language == language]


@pytest.mark.parametrize("block", examples("toml"), ids=lambda b: b.where)
def test_toml_examples_are_read(block: Block) -> None:
    raw = tomllib.loads(block.body)
    if {"label", "feature"} <= raw.keys():
        assert from_toml(raw, block.where).schema.features
    if "privacy" in raw:
        settings.checked(Policy, raw["privacy"], block.where, "C01")
    if "images" in raw:
        whole = {
            "name": "x",
            "tables": {"t": {"files": ["x"], "key": "id"}},
            "label": {"column": "y"},
            **raw,
        }
        assert mapping_file.parse(whole, block.where).images.channels


def test_the_study_in_code_is_one(tmp_path: Path) -> None:
    (block,) = [b for b in examples("python") if "STUDY = Study(" in b.body]
    (tmp_path / "study.py").write_text(block.body)
    study = load(str(tmp_path / "study.py"))
    assert study.source is not None
    source = mapping_file.parse(study.source, block.where)
    assert set(source.features) == {f.name for f in study.schema.features}


@pytest.mark.slow
def test_the_readme_s_python_runs(
    made: dict[str, tuple[Path, Fill]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (block,) = [b for b in examples("python") if b.page == "README.md"]
    folder, _ = world("drafted", made, tmp_path_factory)
    code = f"{block.body}\nprint(len(run.results), len(run.predictions))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert all(int(n) > 0 for n in done.stdout.split())


def test_the_learner_learns() -> None:
    (block,) = [b for b in examples("python") if "LEARNER = " in b.body]
    module = types.ModuleType("example")
    sys.modules["example"] = module
    try:
        exec(compile(block.body, block.where, "exec"), module.__dict__)
    finally:
        del sys.modules["example"]
    learner = module.LEARNER
    cohorts = synthetic.sites(90)
    whole = fit(learner, {}, cohorts, local_plan(Fold(), 0, 3))
    counts = sum(len(c) for c in cohorts)
    assert counts == 90
    shares = learner.predict(whole, cohorts[0])
    assert shares.shape == (len(cohorts[0]), 2)
    assert abs(shares.sum(axis=1) - 1).max() < 1e-12


def test_the_learner_passes_the_contract_where_the_page_saves_it(tmp_path: Path) -> None:
    contract("LEARNER", "common/learners", "tests/common/federated", tmp_path)


def test_the_network_passes_the_contract_where_the_page_saves_it(tmp_path: Path) -> None:
    tests = "tests/common/networks/test_classifier_contract.py"
    contract("CLASSIFIER", "common/networks/classifiers", tests, tmp_path)


def contract(value: str, room: str, tests: str, tmp_path: Path) -> None:
    """Run a room's contract tests on the page's example, as if it lay in the room."""
    (block,) = [b for b in examples("python") if f"{value} = " in b.body]
    (name,) = re.findall(rf"`{room}/(\w+)\.py`", (ROOT / block.page).read_text(encoding="utf-8"))
    folder, package = tmp_path / "room", room.replace("/", ".")
    folder.mkdir()
    (folder / f"{name}.py").write_text(block.body, encoding="utf-8")
    (tmp_path / "one_more_file.py").write_text(
        f"import {package}\n{package}.__path__.append({str(folder)!r})\n"
    )
    words = ("-p", "one_more_file", "-k", name, "-q", "-ra", tests)
    searched = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": searched},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_the_report_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = [b for b in examples("python") if "report.json" in b.body]
    row = {
        "metric": "auc",
        "site": "all",
        "estimable": True,
        "model": "logistic",
        "arm": "federated",
        "evaluation": "within_site",
    }
    (tmp_path / "report.json").write_text(
        json.dumps({"results": [{**row, "value": 0.81, "low": 0.7, "high": 0.9}]})
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(block.body, block.where, "exec"), {})
    assert capsys.readouterr().out == "logistic federated within_site 0.81 0.7 0.9\n"


def test_every_python_example_is_executed() -> None:
    """By tests that take them from their page."""
    assert {b.page for b in examples("python")} == EXAMPLES.keys(), (
        "say in tests/docs/covered.py which test runs these"
    )
    for page, tests in EXAMPLES.items():
        for test in tests:
            name, _, function = test.partition("::")
            text = (ROOT / name).read_text()
            assert f"def {function}(" in text, test
            assert 'examples("python")' in text or Path(page).name in text, (
                f"{name} does not read {page}"
            )
