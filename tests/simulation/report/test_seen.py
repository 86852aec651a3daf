"""A whole run through both apps, seen as its coordinator sees it: at work, failed, interrupted,
taken up, done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import FederationError
from server.app import coordinate
from server.ledger import heartbeat
from server.ledger.ledger import NAME, read
from server.monitor.run_watcher import RunWatcher
from server.monitor.view import View
from simulation.federation import malicious_site
from simulation.federation.in_process_grid import InProcessGrid
from simulation.federation.setting import Setting
from tests.simulation.federation.test_malicious_site import setting


def seen(it: Setting) -> View:
    return RunWatcher(it.folder).look()


def honest(it: Setting) -> InProcessGrid:
    from client.app import app

    return InProcessGrid(app, it.sites)


@pytest.fixture
def it(tmp_path: Path) -> Setting:
    return setting(tmp_path, "--set", "mlp.rounds=3")


def test_while_it_goes_on_and_when_it_is_done(it: Setting) -> None:
    states, steps = list[str](), list[int]()

    def tell(*_: Any) -> None:
        view = seen(it)
        states.append(view.state)
        steps.append(view.step)

    coordinate(honest(it), it.run, tell)
    assert set(states) == {"running"}
    assert steps == list(range(1, len(steps) + 1))
    view = seen(it)
    assert (view.state, view.done) == ("finished", view.jobs)
    assert {s.state for s in view.sites} == {"contributed"}
    assert all(s.seen and isinstance(s.cases, int) for s in view.sites)
    (curve,) = view.curves
    assert (curve.learner, curve.metric, len(curve.all), len(curve.sites)) == ("mlp", "loss", 3, 5)
    status = json.loads((it.folder / heartbeat.NAME).read_text())
    assert set(status["heard"]) == {s.name for s in view.sites}
    assert all(done == asked for done, asked in status["plans"].values())


def test_a_run_that_fails_says_why_in_its_ledger_and_is_taken_up(it: Setting) -> None:
    from client.app import app

    liar = malicious_site.AttackedApp(app, it.sites[1], "nan")
    with pytest.raises(FederationError):
        coordinate(InProcessGrid(liar, it.sites), replace(it.run, quorum=1.0))
    view = seen(it)
    assert (view.state, view.code) == ("failed", "R01")
    assert "P02" in view.said
    assert read(it.folder / NAME)[-1]["kind"] == "failed"
    coordinate(honest(it), replace(it.run, quorum=1.0, resume=True))
    view = seen(it)
    assert (view.state, view.resumed) == ("finished", 1)


def test_an_interrupted_run_is_stopped_and_one_that_never_began_says_why(it: Setting) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinate(honest(it), it.run, interrupt)
    assert seen(it).state == "stopped"
    coordinate(honest(it), replace(it.run, resume=True))
    assert seen(it).state == "finished"
    out = it.folder / "another"
    with pytest.raises(FederationError):
        coordinate(honest(it), replace(it.run, out=str(out), expect=9, deadline=0.5))
    view = RunWatcher(out).look()
    assert (view.state, view.code, view.line_count) == ("failed", "R03", 0)
    assert len(view.sites) == 0 or {s.state for s in view.sites} <= {"registered"}
