"""What a site can read of its own station: the budget and the record, from the command line; and
which cohort it answers from."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client.__main__ import main
from client.doctor import examine
from client.site import site_file
from client.station import audit_log
from client.station.durable_state import opened
from client.station.station import Station
from common.privacy.mechanism import COUNTS, Privacy, epsilon, gaussian
from common.wire.messages import unpack_hello, unpack_updates
from tests import hospital, ring

ENROLLED = {"North": ring.signer("North").public}
POLICY = "\n[privacy]\nepsilon = 30\ndelta = 1e-3\nanswer_margin = 0\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = hospital.site(tmp_path / "north")
    path.write_text(path.read_text() + POLICY)
    assert main(["budget", "--site", str(path), "--new"]) == 0
    return tmp_path / "north"


@contextmanager
def station(home: Path) -> Iterator[Station]:
    site = site_file.load(home / "site.toml")
    with opened(site) as memory:
        yield Station(site, memory)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(words) == 0
    return json.loads(capsys.readouterr().out)


def test_the_record_has_every_message_and_the_budget_every_release(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = str(home / "site.toml")
    with station(home) as there:
        greeting = hospital.greeting(home)
        hello = there.answer(greeting)
        unpack_hello(hello, ENROLLED, greeting)
        noised = hospital.plan(home, privacy=Privacy(10.0))
        asked = hospital.request(home, [noised])
        answer = there.answer(asked)
        (update,) = unpack_updates(answer, ENROLLED["North"], asked)
        refused = hospital.request(home, [hospital.plan(home, step=1, budget=update.budget)])
        there.answer(refused)
        # while the station has both open
        shown = told(capsys, "audit", "--site", site, "--json")
        account = told(capsys, "budget", "--site", site, "--json")
    assert shown["messages"] == 3
    first, second, third = shown["shown"]
    assert (first["kind"], first["asked"], first["bytes"], first["plans"]) == (
        "greeting",
        greeting.hash,
        hello.size,
        [],
    )
    assert second["plans"] == [["preprocessing", "coarse", "all", 10.0, 0, "sent"]]
    assert (second["run"], second["step"], second["participants"]) == ("run", 0, ["North"])
    assert second["sha256"] == hashlib.sha256(answer.text).hexdigest()
    assert second["budget"] == update.budget != ""
    assert third["plans"] == [["preprocessing", "coarse", "all", 0, 0, "P07"]]
    assert account["spent"] == pytest.approx(epsilon(gaussian(10.0) + gaussian(COUNTS), 1e-3))
    assert account["left"] == pytest.approx(30 - account["spent"])
    assert (account["releases"], account["runs"]) == (2, {"greetings": 1, "run": 1})
    assert main(["budget", "--site", site]) == 0
    assert re.match(
        r"epsilon 0\.\d+ of 30 spent at delta 0\.001, 29\.\d+ left\n  run greetings: 1 releases\n "
        r" run run: 1 releases\nhead [0-9a-f]{64}\n",
        capsys.readouterr().out,
    )
    assert main(["audit", "--site", site, "--last", "1"]) == 0
    out = capsys.readouterr().out
    assert "run step 1: 1 P07" in out
    assert "3 messages, unbroken since the first" in out


def test_a_site_without_an_epsilon_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hospital.site(tmp_path / "north")
    assert main(["budget", "--site", str(path)]) == 0
    assert "sets no epsilon" in capsys.readouterr().out
    assert told(capsys, "budget", "--site", str(path), "--json")["epsilon"] is None


def test_an_altered_record_is_found_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--site", str(home / "site.toml")]) == 6
    assert "there is no record" in capsys.readouterr().err
    with station(home) as there:
        for _ in range(2):
            there.answer(hospital.greeting(home))
    path = home / "state" / audit_log.NAME
    path.write_text(path.read_text().replace('"kind":"greeting"', '"kind":"request"', 1))
    assert main(["audit", "--site", str(home / "site.toml")]) == 6
    assert "line 1 was altered" in capsys.readouterr().err


def test_nothing_leaves_that_cannot_be_put_on_record(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with station(home) as there:
        asked = hospital.request(home, [hospital.plan(home, privacy=Privacy(10.0))])
        sync = os.fsync

        def full(number: int) -> None:
            if os.readlink(f"/proc/self/fd/{number}").endswith(audit_log.NAME):
                raise OSError(28, "No space left on device")
            sync(number)

        monkeypatch.setattr(os, "fsync", full)
        (update,) = unpack_updates(there.answer(asked), ENROLLED["North"], asked)
        assert (update.contribution, update.code) == (None, "S03")
        monkeypatch.undo()
        (update,) = unpack_updates(there.answer(asked), ENROLLED["North"], asked)
        assert update.contribution is not None


def test_a_delta_above_one_in_n_is_refused(home: Path) -> None:
    path = home / "site.toml"
    path.write_text(path.read_text().replace("1e-3", "0.5"))
    with station(home) as there:
        asked = hospital.request(home, [hospital.plan(home, privacy=Privacy(10.0))])
        (update,) = unpack_updates(there.answer(asked), ENROLLED["North"], asked)
    assert update.code == "P07"
    assert "must be below 1 / " in (home / "station.log").read_text()


def test_a_changed_row_counts_as_a_changed_patient(home: Path) -> None:
    greeting = hospital.greeting(home)
    with station(home) as there:
        assert unpack_hello(there.answer(greeting), ENROLLED, greeting).code == ""
    table = home / "table.csv"
    lines = table.read_text().splitlines()
    head, spread, _, smoker = lines[5].split(",")
    lines[5] = ",".join([head, spread, "33", smoker])
    other = home.parent / "other"
    home.rename(other)
    (other / "table.csv").write_text("\n".join(lines) + "\n")
    with station(other) as there:
        greeting = hospital.greeting(other)
        assert unpack_hello(there.answer(greeting), ENROLLED, greeting).code == "P10"
    assert "1 patients" in (other / "station.log").read_text()


def test_the_doctor_says_what_is_left_and_takes_nothing_of_it(home: Path) -> None:
    def said() -> list[tuple[str, str]]:
        return [
            (f.state, f.said)
            for f in examine(home / "site.toml", home / "s" / "station.sock")
            if f.check == "privacy"
        ]

    assert said() == [("ok", "epsilon 0.000 of 30 spent, in 0 releases")]
    with station(home) as there:
        there.answer(hospital.greeting(home))
        (one,) = said()
        assert one[1].endswith("in 1 releases"), "while the station has the account open"
    path = home / "site.toml"
    path.write_text(path.read_text().replace("epsilon = 30", "epsilon = 0.08"))
    ((state, text),) = said()
    assert (state, text.split(" spent")[0][-7:]) == ("warning", "of 0.08")
    path.write_text(path.read_text().replace("1e-3", "0.02"))
    assert (
        "fault",
        "privacy.delta = 0.02 is not below 1 / 60 cases: every plan would be refused (P07)",
    ) in said()
    path.write_text(path.read_text().split("[privacy]")[0])
    assert said() == [
        ("note", "no epsilon is set: sums over at least 5 patients leave as they are")
    ]
    path.write_text(
        path.read_text()
        + f'[privacy]\nrequire = "secagg"\n[privacy.peers]\nB = "{"1" * 64}"\nC = "{"2" * 64}"\n'
    )
    assert said() == [
        (
            "note",
            "no epsilon is set: sums over at least 5 patients leave masked, with those of B, C",
        )
    ]
