"""The commands that show runs: what they print, and the exit status by which cron knows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import FederationError, RunError
from server.__main__ import EPILOG, main
from server.coordinator import launch
from server.coordinator.superlink import SuperLink
from server.ledger import ledger
from server.ledger.heartbeat import STOPPED
from server.monitor.terminal import EXIT
from server.monitor.view import RUN_STATES
from tests.paths import ROOT
from tests.server.monitor import ledgers

NAMES = ["North", "South", "West"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a run in each state, named after it."""
    now = time.time()
    open_, first = ledgers.opened(NAMES, began=now - 60), ledgers.exchange(0, NAMES, began=now - 60)
    ledgers.run(tmp_path / "1-finished", 3, names=NAMES)
    ledgers.written(tmp_path / "2-running", [open_, first])
    ledgers.alive(tmp_path / "2-running", sites=dict.fromkeys(NAMES, "working"))
    ledgers.written(tmp_path / "3-waiting", [])
    ledgers.alive(tmp_path / "3-waiting", begun=False, expect=3, sites={})
    ledgers.run(tmp_path / "4-stalled", 3, names=NAMES, close=False)
    ledgers.written(
        tmp_path / "5-failed",
        [open_, first, {"kind": "failed", "time": now, "code": "R01", "said": ["2 of 3"]}],
    )
    ledgers.run(tmp_path / "6-damaged", 3, names=NAMES)
    path = tmp_path / "6-damaged" / ledger.NAME
    path.write_bytes(path.read_bytes().replace(b'"step":1', b'"step":7'))
    ledgers.run(tmp_path / "7-stopped", 3, names=NAMES, close=False)
    (tmp_path / "7-stopped" / STOPPED).write_text(json.dumps({"time": now}))
    return tmp_path


def test_each_state_has_its_exit_status(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(EXIT) == set(RUN_STATES)
    for folder in sorted(place.iterdir()):
        state = folder.name[2:]
        for command in ("status", "show"):
            assert main([command, str(folder), "--json"]) == EXIT[state], folder  # type: ignore[index]
            assert json.loads(capsys.readouterr().out)["state"] == state
        assert main(["status", str(folder)]) == EXIT[state]  # type: ignore[index]
        told = capsys.readouterr()
        assert told.out.strip() == str(folder)
        assert state in told.err
        assert main(["show", str(folder)]) == EXIT[state]  # type: ignore[index]
        assert state in capsys.readouterr().out
    for status, what in (
        (3, "waiting"),
        (4, "no such run"),
        (5, "failed"),
        (6, "damaged"),
        (7, "stopped"),
    ):
        assert f"{status} " in EPILOG
        assert what in EPILOG


def test_a_run_is_found_by_its_folder_its_name_or_a_piece_of_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "1-fin", "--out", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"].endswith("1-finished")
    assert main(["status", "--out", str(place), "--json"]) == 7, "without a word the newest"
    assert json.loads(capsys.readouterr().out)["folder"].endswith("7-stopped")
    assert main(["status", "0123456789abcdef", "--out", str(place)]) == 2
    assert "may be" in capsys.readouterr().err
    assert main(["show", "nothing", "--out", str(place)]) == 4
    assert main(["watch", "nothing", "--out", str(place)]) == 4
    assert main(["status", "--out", str(place / "nowhere")]) == 4
    assert main(["runs", "--out", str(place), "--json"]) == 0
    capsys.readouterr()
    assert main(["runs", "--out", str(place), "--json"]) == 0
    assert [r["state"] for r in json.loads(capsys.readouterr().out)] == [
        p.name[2:] for p in sorted(place.iterdir(), reverse=True)
    ]
    assert main(["runs", "--out", str(place)]) == 0
    assert "6-damaged" in capsys.readouterr().out


def test_status_in_json_has_what_programs_have_always_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["status", "1-", "--out", str(place), "--json"])
    told = json.loads(capsys.readouterr().out)
    old = {
        "folder",
        "run",
        "closed",
        "state_hash",
        "scores",
        "exchanges",
        "done",
        "jobs",
        "sites",
        "late",
        "joined_later",
    }
    assert old <= set(told)
    assert (told["closed"], told["state_hash"], told["sites"]) == (
        True,
        "b" * 64,
        dict.fromkeys(NAMES, "contributed"),
    )


def test_a_hostile_name_does_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J[bold]Nowhere[/bold]"
    ledgers.run(tmp_path / "r", 2, names=[evil, "South"])
    main(["show", str(tmp_path / "r")])
    main(["watch", str(tmp_path / "r")])
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "[bold]Nowhere[/bold]" in told.out


def test_watch_prints_a_line_an_exchange_and_ends_with_the_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "room.log"
    assert main(["watch", "1-", "--out", str(place), "--log", str(log)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert "step 2: mlp; 3 of 3 sites contributed" in lines[3]
    assert lines[-1].endswith("finished: all 40 jobs are done, after 3 exchanges")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["event"] for r in rows] == [
        "run_opened",
        "exchange",
        "exchange",
        "exchange",
        "run_finished",
    ]
    assert all({"time", "level", "event", "run"} <= set(r) for r in rows)
    assert rows[1]["time"].startswith("2026-11-18T")
    assert main(["watch", "1-", "--out", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "finished"
    assert main(["watch", "6-", "--out", str(place)]) == 6
    assert "NOT VERIFIED" in capsys.readouterr().out


def test_the_log_names_site_step_and_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = [
        ledgers.opened(NAMES),
        ledgers.exchange(0, NAMES, refused={"South": "P01"}, late=[{"site": "West", "step": "0"}]),
    ]
    bodies.append(
        {"kind": "failed", "time": ledgers.START + 99, "code": "R01", "said": ["too few"]}
    )
    ledgers.written(tmp_path / "r", bodies)
    assert main(["watch", str(tmp_path / "r"), "--log-json"]) == 5
    rows = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {
        "level": "warning",
        "event": "refused",
        "step": 0,
        "site": "South",
        "code": "P01",
    }.items() <= rows[2].items()
    assert {"event": "late", "site": "West", "of_step": "0"}.items() <= rows[3].items()
    assert {"level": "error", "event": "run_failed", "code": "R01"}.items() <= rows[4].items()
    assert main(["watch", str(tmp_path / "r"), "--log", str(tmp_path / "no" / "log")]) == 6


@pytest.mark.parametrize("words", [["show", "--json"], ["status"], ["runs", "--json"], ["--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(words: list[str], tmp_path: Path) -> None:
    """`fedmets server show RUN --json | head -c 10`."""
    folder = ledgers.run(tmp_path / "r", 300, names=NAMES)
    more = (
        [str(folder)]
        if words[0] in ("show", "status")
        else ["--out", str(tmp_path)]
        if words[0] == "runs"
        else []
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "server", *words, *more],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr


def test_watch_follows_while_lines_come_and_an_interrupt_leaves_the_run(tmp_path: Path) -> None:
    folder = ledgers.run(tmp_path / "r", 8, names=NAMES)
    raw = (folder / ledger.NAME).read_bytes().splitlines(keepends=True)
    (folder / ledger.NAME).write_bytes(b"".join(raw[:3]))
    words = [sys.executable, "-m", "server", "watch", str(folder)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(4)]
    assert "stalled" in first[-1]
    with open(folder / ledger.NAME, "ab") as file:
        file.write(b"".join(raw[3:]))
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(rest.splitlines()) == len(raw) - 3 + 1
    (folder / ledger.NAME).write_bytes(b"".join(raw[:3]))
    restored = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **restored
    )  # type: ignore[call-overload]
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the run goes on" in said


def test_looking_needs_neither_flower_nor_a_learner(place: Path) -> None:
    code = (
        "import sys, server.__main__ as m\n"
        f"m.main(['status', '1-', '--out', {str(place)!r}])\n"
        "print('LOADED', [x for x in ('flwr', 'torch', 'pandas', 'starlette', 'mlflow') if x in "
        "sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "LOADED []" in done.stdout


# ---- stopping ------------------------------------------------------------------------------------


class AnsweringSuperLink(SuperLink):
    """Flower's commands, answered here."""

    def __init__(self, status: str) -> None:
        self.now, self.stopped, self.home = status, list[int](), Path("/nowhere")

    def status(self, run: int) -> tuple[str, str]:
        return self.now, ""

    def stop(self, run: int) -> None:
        self.stopped.append(run)


def test_a_stopped_run_is_stopped_at_flower_and_seen_to_be(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, flower = place / "2-running", AnsweringSuperLink("running")
    with pytest.raises(RunError, match="was not started by"):
        launch.stop(flower, folder)
    (folder / launch.SUPERLINK).write_text('{"run": 77}')
    before = (folder / ledger.NAME).read_bytes()
    launch.stop(flower, folder)
    assert flower.stopped == [77]
    assert (folder / ledger.NAME).read_bytes() == before, "the ledger is the run's own"
    assert main(["status", str(folder)]) == 7
    assert "fedmets server resume" in capsys.readouterr().err
    with pytest.raises(RunError, match="is finished"):
        launch.stop(flower, place / "1-finished")


def test_stopping_needs_no_superlink_that_has_the_run_no_more(place: Path) -> None:
    folder, flower = place / "4-stalled", AnsweringSuperLink("finished:failed")
    (folder / launch.SUPERLINK).write_text('{"run": 5}')
    launch.stop(flower, folder)
    assert flower.stopped == []
    assert (folder / STOPPED).exists()


def test_a_command_that_no_superlink_answers_says_so(place: Path) -> None:
    (place / "2-running" / launch.SUPERLINK).write_text('{"run": 77}')
    os.environ.pop("FLWR_HOME", None)
    with pytest.raises(FederationError, match="Is the coordinator running"):
        launch.stop(SuperLink(place / "flwr", place / "ca.pem", "127.0.0.1:1"), place / "2-running")
    assert not (place / "2-running" / STOPPED).exists()
