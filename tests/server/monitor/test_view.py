"""A run seen from its ledger alone: whole, cut off, altered, of another version, and large."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CODES
from server.ledger import ledger
from server.ledger.heartbeat import STOPPED
from server.monitor.curve_thinning import ThinnedCurve
from server.monitor.ledger_summary import HELD_LINES
from server.monitor.run_watcher import RunWatcher
from server.monitor.view import View
from tests.server.monitor import ledgers

NAMES = ["North", "South", "West"]


def seen(folder: Path, now: float | None = None) -> View:
    return RunWatcher(folder).look(now)


# ---- what a ledger says --------------------------------------------------------------------------


def test_a_finished_run(tmp_path: Path) -> None:
    view = seen(ledgers.run(tmp_path / "r", 12, names=NAMES))
    assert (view.state, view.step, view.jobs, view.done, view.verified, view.line_count) == (
        "finished",
        12,
        40,
        40,
        14,
        14,
    )
    assert [s.name for s in view.sites] == NAMES
    assert {s.state for s in view.sites} == {"contributed"}
    assert (view.sites[0].cases, view.sites[0].contributed, view.sites[0].forecast) == (
        50,
        12,
        12.5,
    )
    (curve,) = view.curves
    assert (curve.learner, curve.metric, len(curve.all), set(curve.sites)) == (
        "mlp",
        "loss",
        12,
        set(NAMES),
    )
    assert view.evaluation[0]["auc"] == 0.81
    assert (view.sent, view.received) == (36000, 32400)
    assert view.head == ledger.read(tmp_path / "r" / ledger.NAME)[-1]["hash"]
    assert view.seconds["mean"] == pytest.approx(5.0)
    assert json.loads(json.dumps(view.json()))["state"] == "finished"
    assert "keys" not in view.configuration


def test_from_registering_to_its_end_a_run_says_where_it_stands(tmp_path: Path) -> None:
    folder, now = tmp_path / "r", time.time()
    folder.mkdir()
    (folder / ledger.NAME).touch()
    assert seen(folder).state == "waiting"
    ledgers.alive(
        folder,
        begun=False,
        expect=3,
        sites={"North": "registered", "South": "D08"},
        run="a-run",
        study="liver_recurrence",
    )
    view = seen(folder)
    assert (view.state, view.said, view.study) == (
        "waiting",
        "waiting for sites: 2 of 3 have come",
        "liver_recurrence",
    )
    assert [(s.name, s.state, s.code) for s in view.sites] == [
        ("North", "registered", ""),
        ("South", "D08", "D08"),
    ]
    (folder / "status.json").write_text(
        json.dumps(
            {"time": now, "begun": False, "failed": {"code": "R03", "said": ["1 of 3 sites"]}}
        )
    )
    assert (seen(folder).state, seen(folder).code) == ("failed", "R03")
    began = now - 30
    ledgers.run(folder, 2, names=NAMES, close=False, began=began)
    ledgers.alive(
        folder,
        step=2,
        sites=dict.fromkeys(NAMES, "working"),
        heard={"North": now - 3},
        plans={n: [1, 6] for n in NAMES},
    )
    view = seen(folder)
    assert (
        view.state,
        view.sites[0].state,
        view.sites[0].plans_done,
        view.sites[0].plans_asked,
    ) == ("running", "working", 1, 6)
    assert view.sites[0].seen == pytest.approx(now - 3)
    later = seen(folder, now + 3600)
    assert (later.state, later.code) == ("stalled", "R07")
    assert "fedmets server resume" in later.said
    assert later.sites[0].state == "contributed", "what is stale is not shown as if it were of now"
    (folder / STOPPED).write_text(json.dumps({"time": now}))
    assert seen(folder).state == "stopped"
    resumed = [
        ledgers.opened(NAMES, began=began),
        {**ledgers.opened(NAMES, began=now + 1), "kind": "resume", "step": 2},
    ]
    ledgers.written(folder, resumed)
    assert seen(folder, now + 2).state == "running", "a run that goes on is not stopped any more"
    ledgers.written(
        folder,
        [*resumed, {"kind": "failed", "time": now + 2, "code": "R01", "said": ["2 of 3 sites"]}],
    )
    view = seen(folder)
    assert (view.state, view.code, view.resumed) == ("failed", "R01", 1)
    assert "2 of 3 sites" in view.said
    assert CODES["R01"].way_out in view.said
    ledgers.written(folder, [*resumed, {"kind": "stopped", "time": now + 2}])
    assert seen(folder, now + 3).state == "stopped"


def test_refusals_have_their_meaning_and_a_way_out(tmp_path: Path) -> None:
    bodies = [ledgers.opened(NAMES), *(ledgers.exchange(k, NAMES) for k in range(4))]
    bodies[2] |= {"sites": {"North": "R02", "South": "contributed", "West": "refused"}}
    bodies[2]["work"][0]["refused"] = {"North": "R02", "West": "P09"}
    bodies[3]["work"][0]["refused"] = {"South": "P01"}
    bodies[4]["sites"]["North"] = "R02"
    bodies[4]["late"] = [{"site": "North", "step": "1"}]
    view = seen(ledgers.written(tmp_path / "r", bodies))
    assert [(r.site, r.code, r.times, r.step) for r in view.refusals] == [
        ("North", "R02", 2, 3), ("South", "P01", 1, 2), ("West", "P09", 1, 1),
    ]  # fmt: skip
    assert all((r.meaning, r.way_out) == CODES[r.code] for r in view.refusals)
    assert {s.name: s.state for s in view.sites} == {
        "North": "late",
        "South": "contributed",
        "West": "contributed",
    }
    assert [line.text for line in view.lines if "late and not used: North (step 1)" in line.text]


def test_every_code_has_a_way_out() -> None:
    assert all(
        code.meaning and code.way_out and code.way_out[0].islower() for code in CODES.values()
    )


def test_what_sites_withhold_is_said_to_be_withheld(tmp_path: Path) -> None:
    rows = [{"learner": "mlp", "folds": 1, "fold": "all", "all": {"loss": 0.5}, "sites": {}}]
    masked = [
        ledgers.opened(NAMES, config={"secure": True}),
        ledgers.exchange(0, NAMES, metrics=rows),
    ]
    view = seen(ledgers.written(tmp_path / "m", masked))
    assert view.withheld
    assert {s.cases for s in view.sites} == {"withheld"}
    assert view.curves[0].all
    assert not view.curves[0].sites
    spent = {n: {"epsilon": 0.4, "learners": {"mlp": 0.3}} for n in NAMES}
    noised = [
        ledgers.opened(NAMES, config={"noise": 5.0}, planned=3.0, delta=1e-5),
        ledgers.exchange(0, NAMES, metrics=[], spent=spent),
    ]
    view = seen(ledgers.written(tmp_path / "n", noised))
    assert view.privacy == {"noise": 5.0, "delta": 1e-5, "planned": 3.0, "allowed": "withheld"}
    assert {s.epsilon for s in view.sites} == {0.4}


# ---- damage --------------------------------------------------------------------------------------


def small(folder: Path) -> tuple[Path, bytes]:
    ledgers.run(folder, 4, names=["North", "Zürich"])
    return folder, (folder / ledger.NAME).read_bytes()


def line_of(raw: bytes, at: int) -> int:
    return raw[:at].count(b"\n") + 1


@settings(max_examples=150)
@given(data=st.data())
def test_one_altered_byte_is_shown_with_its_line_and_the_lines_before_it_are_verified(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, raw = small(tmp_path_factory.mktemp("altered"))
    at = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != raw[at]))
    (folder / ledger.NAME).write_bytes(raw[:at] + bytes([byte]) + raw[at + 1 :])
    view, number, last = seen(folder), line_of(raw, at), raw.count(b"\n")
    assert view.verified == number - 1
    if at == len(raw) - 1:  # the newline of the last line: it is incomplete
        assert any(f"line {last} is not complete" in n for n in view.notes)
        return
    assert (view.state, view.fault_line, view.code) == ("damaged", number, "S02")
    assert f"line {number}" in view.said
    assert view.step == max(min(number - 2, 4), 0)
    shown = {line.number: line.verified for line in view.lines}
    assert all(ok == (n < number) for n, ok in shown.items())
    assert number in shown


@settings(max_examples=80)
@given(data=st.data())
def test_a_ledger_that_was_cut_off_shows_what_is_left_and_never_looks_finished(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, raw = small(tmp_path_factory.mktemp("cut"))
    cut = data.draw(st.integers(0, len(raw) - 1))
    (folder / ledger.NAME).write_bytes(raw[:cut])
    view, whole = seen(folder), raw[:cut].count(b"\n")
    assert view.verified == view.line_count == whole
    assert view.state != "finished"
    assert view.fault_line is None
    torn = cut - (raw[:cut].rfind(b"\n") + 1)
    assert any(f"line {whole + 1} is not complete ({torn} bytes)" in n for n in view.notes) == bool(
        torn
    )


def test_whole_lines_cut_off_the_end_are_missed_until_they_are_back(tmp_path: Path) -> None:
    """What is left is a ledger without a fault; how long it was stands beside it."""
    bodies = [json.loads(line) for line in small(tmp_path / "r")[1].splitlines()]
    (tmp_path / "mine").mkdir()
    written = ledger.Ledger(tmp_path / "mine" / ledger.NAME)
    for body in bodies:
        written.append(**{k: v for k, v in body.items() if k not in ("n", "prev", "hash")})
    written.close()
    path = tmp_path / "mine" / ledger.NAME
    raw, told = path.read_bytes(), RunWatcher(tmp_path / "mine")
    assert told.look().state == "finished"
    path.write_bytes(b"".join(raw.splitlines(keepends=True)[:-2]))
    for view in (told.look(), seen(tmp_path / "mine")):
        assert (view.state, view.fault_line, view.code) == ("damaged", len(bodies) - 1, "S02")
        assert f"2 lines at its end were cut off: it had {len(bodies)}" in view.said
        assert view.verified == len(bodies) - 2
    path.write_bytes(raw)
    assert told.look().state == "finished"
    path.write_bytes(b"".join(raw.splitlines(keepends=True)[:-2]))
    again = ledger.Ledger(path)
    again.append("stopped", time=ledgers.START + 1e6)
    again.close()
    view = told.look()
    assert (view.state, view.fault) == ("stopped", "")
    assert view.lines[-1].text.endswith("2 lines at the end of what stands above were cut off"), (
        "it is never forgotten"
    )


def test_a_line_taken_out_put_in_or_exchanged_is_found(tmp_path: Path) -> None:
    folder, raw = small(tmp_path / "r")
    lines = raw.splitlines(keepends=True)
    for changed, number in (
        (lines[:2] + lines[3:], 3),
        (lines[:2] + lines[1:], 3),
        ([lines[0], lines[2], lines[1], *lines[3:]], 2),
    ):
        (folder / ledger.NAME).write_bytes(b"".join(changed))
        assert seen(folder).fault_line == number


def test_a_run_of_another_version_is_shown_and_says_so(tmp_path: Path) -> None:
    bodies = [
        ledgers.opened(NAMES),
        ledgers.exchange(0, NAMES),
        {"kind": "novelty", "time": 1.0},
        {"kind": "exchange", "time": 2.0, "step": "one"},
    ]
    bodies[0]["versions"] = {"fedmets": "9.0"}
    del bodies[0]["seconds"]
    del bodies[1]["metrics"]
    view = seen(ledgers.written(tmp_path / "r", bodies))
    assert (view.verified, view.step, view.fault_line) == (4, 1, None)
    assert "written by fedmets 9.0" in view.notes[0]
    assert any("line 4: not of a form" in n for n in view.notes)
    assert "'novelty', which this version of fedmets does not know" in view.lines[2].text


# ---- following -----------------------------------------------------------------------------------


def test_a_follower_takes_new_lines_only_and_starts_again_when_the_file_is_another(
    tmp_path: Path,
) -> None:
    whole = ledgers.run(tmp_path / "w", 6, names=NAMES) / ledger.NAME
    raw = whole.read_bytes()
    lines, folder = raw.splitlines(keepends=True), tmp_path / "r"
    folder.mkdir()
    path, taken = folder / ledger.NAME, list[int]()
    watched = RunWatcher(folder, lambda line: taken.append(line["n"]))
    assert watched.look().line_count == 0
    with open(path, "ab", buffering=0) as file:
        for k, line in enumerate(lines):
            file.write(line[:20])
            assert watched.look().verified == k
            file.write(line[20:])
            assert watched.look().verified == k + 1
    assert taken == list(range(len(lines)))
    # altered where it had been read already: the same length, and not the same file any more
    changed = bytearray(raw)
    changed[len(lines[0]) + 30] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(1, 1))
    view = watched.look()
    assert (view.state, view.fault_line) == ("damaged", 2)
    path.write_bytes(b"".join(lines[:3]))
    assert (watched.look().state, watched.look().verified) == ("stalled", 3)


def test_older_lines_come_by_page_from_disk(tmp_path: Path) -> None:
    watched = RunWatcher(ledgers.run(tmp_path / "r", 100, names=NAMES))
    view = watched.look()
    assert [line.number for line in view.lines] == list(range(102 - HELD_LINES + 1, 103))
    assert [line.number for line in watched.lines(before=view.lines[0].number, count=30)] == list(
        range(33, 63)
    )
    assert [line.number for line in watched.lines(before=3)] == [1, 2]
    assert watched.lines(before=1) == ()


@settings(max_examples=50)
@given(count=st.integers(0, 500), most=st.integers(4, 40))
def test_a_thinned_curve_keeps_its_ends_and_its_order(count: int, most: int) -> None:
    thin = ThinnedCurve(most)
    for k in range(count):
        thin.add(k, 2.0 * k)
    xs = [x for x, _ in thin.points]
    assert xs == sorted(set(xs))
    assert len(xs) <= most + 1
    assert count == 0 or (xs[0], xs[-1]) == (0, count - 1)
    assert len(xs) >= min(count, most // 2)


def test_a_thousand_rounds_of_two_hundred_sites_are_held_in_little_room(tmp_path: Path) -> None:
    folder = ledgers.run(tmp_path / "r", 1000, 200, close=False)
    lines = (folder / ledger.NAME).read_bytes().splitlines(keepends=True)
    (folder / ledger.NAME).write_bytes(b"".join(lines[:901]))
    watched = RunWatcher(folder)
    watched.look()
    tracemalloc.start()
    watched.look()
    base = tracemalloc.get_traced_memory()[0]
    with open(folder / ledger.NAME, "ab") as file:
        for line in lines[901:]:
            file.write(line)
    view = watched.look()
    grown = tracemalloc.get_traced_memory()[0] - base
    tracemalloc.stop()
    assert view.step == 1000
    assert grown < 1_000_000, "what is held does not grow with the rounds"
    assert len(json.dumps(view.json())) < 1_000_000
