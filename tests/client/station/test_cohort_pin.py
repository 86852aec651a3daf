"""Which cohorts a site answers from: none that differs by a few patients from any that it has ever
answered from; and which state of its own it starts with: none of which a part went back."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.__main__ import main
from client.site import site_file
from client.site.site_file import Site
from client.station import cohort_pin
from client.station.cohort_pin import NAME, Snapshots
from client.station.durable_state import opened
from client.station.station import Station
from common.data.cohort import UNKNOWN, Cohort
from common.errors import RefusedError, RunError
from common.privacy.mechanism import Privacy
from common.runtime.atomic_files import durable
from common.wire.envelope import Packet
from common.wire.messages import unpack_updates
from tests import hospital, pictures, ring
from tests.synthetic import sites

MINIMUM = 10


def known(cohort: Cohort) -> Cohort:
    """Of whom everything is known, so that a patient is one in every part."""
    values, labels = np.nan_to_num(cohort.values), cohort.labels.clip(0)
    return replace(cohort, values=values, labels=labels, survival=np.ones((len(cohort), 2)))


COHORT = known(sites(90, 3, seed=2)[0])
EVERY = len(COHORT)


def but(n: int) -> Cohort:
    return COHORT.where(np.arange(EVERY) >= n)


def admitted(seen: Snapshots, cohort: Cohort, task: str = "now", study: str = "study") -> bool:
    try:
        seen.admit(study, task, cohort, MINIMUM)
    except RefusedError as error:
        return error.code != "P10"
    return True


def test_a_cohort_is_compared_with_every_one_before_and_not_with_the_last_alone(
    tmp_path: Path,
) -> None:
    """60 patients, 49, 59: of the first and the third the difference is one patient."""
    every = known(sites(180, 3, seed=2)[0])
    assert len(every) >= 60
    with closing(Snapshots(tmp_path)) as seen:
        for n, may in ((60, True), (49, True), (59, False), (60, True), (49, True), (50, False)):
            assert admitted(seen, every.where(np.arange(len(every)) < n)) == may, n


def test_a_cohort_that_differs_by_a_few_patients_is_not_answered_from(tmp_path: Path) -> None:
    with closing(Snapshots(tmp_path)) as seen:
        seen.admit("study", "now", COHORT, MINIMUM)
        seen.admit("study", "now", COHORT, MINIMUM)
    with closing(Snapshots(tmp_path)) as seen:
        for few in (1, 9):
            with pytest.raises(RefusedError, match=f"{few} patients of 'study'"):
                seen.admit("study", "now", but(few), MINIMUM)
            # nor for another task, or study, that sums over the same patients
            assert not admitted(seen, but(few), "later")
            assert not admitted(seen, but(few), study="other")
        assert admitted(seen, COHORT, "later")
        assert admitted(seen, but(10))
        assert not admitted(seen, but(9))
    text = (tmp_path / NAME).read_text()
    assert not any(str(patient) in text for patient in COHORT.ids)
    (tmp_path / NAME).write_text(text.replace('"minimum":10', '"minimum":11', 1))
    with pytest.raises(RunError, match="restore the newest copy"):
        Snapshots(tmp_path)


def altered(cohort: Cohort, n: int, what: str) -> Cohort:
    """Something of the first `n` patients is not what it was."""
    first = np.arange(len(cohort)) < n
    if what == "table row":
        return replace(cohort, values=np.where(first[:, None], cohort.values + 1, cohort.values))
    if what == "label":
        return replace(cohort, labels=np.where(first, 1 - cohort.labels, cohort.labels))
    if what == "label known":
        return replace(cohort, labels=np.where(first, UNKNOWN, cohort.labels))
    if what == "follow-up":
        survival = np.ones((len(cohort), 2))
        survival[first] = np.nan
        return replace(cohort, survival=survival)
    shown = [
        replace(p, key="0" * 64) if p and f else p
        for p, f in zip(cohort.pictures, first, strict=True)
    ]
    return replace(cohort, pictures=tuple(shown))


@pytest.mark.parametrize("what", ["table row", "label", "label known", "follow-up", "picture"])
def test_what_is_known_of_a_patient_counts_part_by_part(what: str, tmp_path: Path) -> None:
    """One corrected label is one patient's, however many rows or pictures changed with it."""
    cohort = pictures.sites(80, 2)[0]
    cohort = known(cohort)
    other = "picture" if what != "picture" else "table row"
    with closing(Snapshots(tmp_path)) as seen:
        assert admitted(seen, cohort)
        assert not admitted(seen, altered(cohort, 1, what))
        assert not admitted(seen, altered(altered(cohort, 20, other), 9, what))
        assert admitted(seen, altered(altered(cohort, 20, other), 10, what))


def test_patients_who_came_do_not_hide_the_one_who_is_known(tmp_path: Path) -> None:
    """Twenty came, and of one of them the label is known: sums over those of known label differ by
    that one."""
    for labelled, may in ((1, False), (0, True)):
        labels = np.where(np.arange(EVERY) < 20 - labelled, UNKNOWN, COHORT.labels)
        with closing(Snapshots(tmp_path / str(labelled))) as seen:
            assert admitted(seen, but(20))
            assert admitted(seen, replace(COHORT, labels=labels)) == may


SIZES = st.lists(st.sets(st.integers(0, EVERY - 1), min_size=1), min_size=1, max_size=8)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asked=SIZES, tasks=st.lists(st.sampled_from(["now", "later"]), min_size=8, max_size=8))
def test_no_two_cohorts_that_were_answered_from_differ_by_a_few(
    asked: Sequence[set[int]], tasks: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is asked in which order, for which task, with a restart before each: what is
    admitted differs from all that was by nobody or by enough, and what does is admitted."""
    folder, before = tmp_path_factory.mktemp("c"), list[set[int]]()
    # near the whole cohort, where a few make the difference
    for task, chosen in zip(tasks, [set(range(EVERY)) - c for c in asked] + [*asked], strict=False):
        if not chosen:
            continue
        cohort = COHORT.where(np.isin(np.arange(EVERY), list(chosen)))
        with closing(Snapshots(folder)) as seen:
            may = admitted(seen, cohort, task)
        assert may == all(not 0 < len(chosen ^ b) < MINIMUM for b in before)
        if may:
            before.append(chosen)


def test_the_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort_pin, "MOST_ROWS", EVERY + 10)
    with closing(Snapshots(tmp_path)) as seen:
        assert admitted(seen, COHORT)
        assert (tmp_path / NAME).stat().st_size < 60 * EVERY + 600
        assert admitted(seen, but(10))
        with pytest.raises(RefusedError, match="remembers no more than"):
            seen.admit("study", "now", but(25), MINIMUM)
        assert admitted(seen, COHORT), "one of them is answered from for ever"


# ---- the whole state of a station ----------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = hospital.site(tmp_path / "north")
    path.write_text(
        path.read_text() + "\n[privacy]\nepsilon = 30\ndelta = 1e-3\nanswer_margin = 0\n"
    )
    return tmp_path / "north"


def answered(home: Path, step: int, budget: str) -> tuple[str, str]:
    """Code and head of the answer to a plan, by a station that starts and stops."""
    site = site_file.load(home / "site.toml")
    with opened(site) as memory:
        plan = hospital.plan(home, step=step, budget=budget, privacy=Privacy(10.0))
        asked = hospital.request(home, [plan])
        answer = Station(site, memory).answer(asked)
        (update,) = unpack_updates(answer, ring.signer("North").public, asked)
    return update.code, update.budget


def begin(home: Path) -> None:
    assert main(["budget", "--site", str(home / "site.toml"), "--new"]) == 0


def copied(home: Path, to: str) -> Path:
    return Path(shutil.copytree(home / "state", home / to))


def forget(home: Path) -> None:
    """The mark in the cache: as where a whole volume was put back, or the cache was deleted."""
    (mark,) = (home / "cache").glob("state-*.end")
    mark.unlink()


def put_back(home: Path, copy: Path, part: str = "") -> None:
    names = [p for p in sorted(copy.iterdir()) if p.name.startswith(part)]
    assert names
    for path in names:
        target = home / "state" / path.name
        if path.is_dir():
            shutil.rmtree(target)
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)


def test_a_station_with_an_epsilon_and_no_account_does_not_start(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match="--new") as caught:
        answered(home, 0, "")
    assert caught.value.code == "S05"
    assert main(["budget", "--site", str(home / "site.toml")]) == 0
    assert "has no account yet" in capsys.readouterr().out
    begin(home)
    assert answered(home, 0, "")[0] == ""
    assert main(["budget", "--site", str(home / "site.toml"), "--new"]) == 6
    assert "[S01]" in capsys.readouterr().err
    (home / "site.toml").write_text((home / "site.toml").read_text().split("[privacy]")[0])
    assert main(["budget", "--site", str(home / "site.toml"), "--new"]) == 2


def test_an_earlier_copy_of_the_whole_state_answers_no_plan_that_names_a_later_head_or_none(
    home: Path,
) -> None:
    begin(home)
    code, first = answered(home, 0, "")
    assert code == ""
    old = copied(home, "old")
    code, second = answered(home, 1, first)
    assert code == ""
    assert second not in ("", first)
    put_back(home, old)
    with pytest.raises(RunError, match="delete that mark") as caught:
        answered(home, 2, second)
    assert caught.value.code == "S05"
    forget(home)
    # and the old copy's head, which a coordinator would take for the newest, is not told
    assert answered(home, 2, second) == ("P10", "")
    assert answered(home, 2, "") == ("P10", "")
    assert answered(home, 1, second) == ("P10", ""), "the very plan that was answered"
    assert "has told one" in (home / "station.log").read_text()


def test_a_stored_answer_does_not_tell_an_old_head(home: Path) -> None:
    begin(home)
    _, first = answered(home, 0, "")
    old = copied(home, "old")
    _, second = answered(home, 1, first)
    for part in ("budget", "audit"):
        put_back(home, old, part)
    forget(home)
    assert answered(home, 1, second) == ("", ""), "the answer that was given, and no head"
    # a coordinator that lost the first answer gets it, and the head, by asking again
    assert answered(home, 1, "") == ("", first)
    assert answered(home, 0, "") == ("P06", ""), "and by asking anything else it does not"


@pytest.mark.parametrize("part", ["budget", "cohorts"])
def test_a_part_that_is_older_than_the_rest_keeps_the_station_from_starting(
    part: str, home: Path
) -> None:
    begin(home)
    new = copied(home, "new") if part == "budget" else None
    _, first = answered(home, 0, "")
    old = copied(home, "old")
    table = home / "table.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-20]) + "\n")
    moved = home.parent / "moved"  # a table is read once a process, by its path
    home.rename(moved)
    _, second = answered(moved, 1, first)
    assert second
    copies = [moved / old.name, *([moved / new.name] if new else [])]
    for copy in copies:
        put_back(moved, copy, part)
        with pytest.raises(RunError, match="restore the newest copy of") as caught:
            answered(moved, 2, second)
        assert caught.value.code == "S05"
    # without the record of what left the account itself still remembers the cohorts
    for path in (moved / "state").glob("audit*"):
        path.unlink()
    if part == "cohorts":
        with pytest.raises(RunError, match="record of cohorts"):
            answered(moved, 2, second)


# ---- and without an account ----------------------------------------------------------------------


def started(site: Site) -> None:
    with opened(site):
        pass


def code_of(site: Site) -> str:
    try:
        started(site)
    except RunError as error:
        return error.code
    return ""


def lived(site: Site, messages: Sequence[int], masks: Sequence[int] = ()) -> None:
    """A station that answers so many messages, and writes into some of what masks need."""
    with opened(site) as memory:
        assert memory.audit is not None
        assert memory.masks is not None
        packet = Packet("greeting", b"{}")
        for n in messages:
            written: dict[str, str] = {}
            if n in masks:
                blob = f"{n}".encode()
                durable(memory.masks / "run.json", blob, "")
                written["run.json"] = hashlib.sha256(blob).hexdigest()
            memory.audit.left(packet, (), (), replace(packet, text=b"%d" % n), masks=written)


@settings(max_examples=40)
@given(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans())
def test_an_open_site_notices_that_its_state_went_back(
    before: int, after: int, whole: bool, remembers: bool
) -> None:
    """Whatever was copied, and whenever: older than the mark is refused, the newest is not; and
    nobody is stopped for good."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "site"
        home.mkdir()
        site = Site("North", home / "data", ("x",), state=home / "state", cache=home / "cache")
        lived(site, range(before))
        copy = copied(home, "old")
        lived(site, range(before, before + after))
        shutil.rmtree(home / "state")
        if whole:
            shutil.copytree(copy, home / "state")
        if not remembers and before + after:
            forget(home)
        lost = before + after if not whole else after
        assert code_of(site) == ("S05" if remembers and lost else "")
        if remembers and lost:
            forget(home)
            assert code_of(site) == ""
        lived(site, [9])
        assert code_of(site) == ""


@settings(max_examples=25)
@given(st.lists(st.sampled_from(range(5)), unique=True, min_size=2, max_size=5), st.data())
def test_what_masks_need_is_not_older_than_the_record(masks: list[int], data: Any) -> None:
    """Of the file alone: as it was at any earlier write, or gone, it is refused; as it is, or newer
    by a write that nobody recorded, it is not."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        site = Site("North", home / "data", ("x",), state=home / "state", cache=home / "cache")
        lived(site, range(5), masks)
        path, last = home / "state" / "secure" / "run.json", max(masks)
        other = data.draw(st.sampled_from(["", "newer", *map(str, masks)]))
        if other:
            path.write_text(other)
        else:
            path.unlink()
        assert code_of(site) == ("" if other in ("newer", str(last)) else "S05")
