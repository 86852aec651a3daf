"""The courier without a network: whatever comes, goes and comes again, each message is answered once
and none is lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from hypothesis import given, settings
from hypothesis import strategies as st

from client.courier import courier
from client.courier import fleet as fleet_module
from client.courier.carrier import answered
from client.courier.courier import AT_ONCE, Courier
from client.courier.fleet import Away, Delivery, Patient, RunOver, Shut
from common.errors import CODES, FederationError, WireError
from common.wire.envelope import Packet
from common.wire.flower_records import HELLO, NUDGE, SECURE, WORK, content, packet
from tests import courier as grid

ASK = Packet("request", b'{"plans": []}', "", b"blob")


class Station:
    """Answers after `work`, and counts."""

    def __init__(self, work: threading.Event | None = None) -> None:
        self.work, self.asked, self.most, self._now = work, 0, 0, 0
        self._lock = threading.Lock()

    def __call__(self, seconds: float) -> Station:
        return self

    def answer(self, asked: Packet) -> Packet:
        with self._lock:
            self.asked += 1
            self._now += 1
            self.most = max(self.most, self._now)
        if self.work is not None:
            assert self.work.wait(60)
        with self._lock:
            self._now -= 1
        return Packet("updates", asked.text, "", asked.blob)


class Fleet:
    """A SuperLink that is away when its next event says so, and hands out the others."""

    def __init__(self, events: list[Any]) -> None:
        self.events = list(events)
        self.replies: list[str] = []
        self.joined = self.left = self.beats = 0
        self._lock = threading.Lock()

    def _fails(self) -> None:
        with self._lock:
            if self.events and isinstance(self.events[0], Exception):
                raise self.events.pop(0)

    def join(self) -> None:
        self._fails()
        self.joined += 1

    def leave(self) -> None:
        self.left += 1

    def beat(self) -> None:
        self.beats += 1

    def pull(self) -> Delivery | None:
        self._fails()
        with self._lock:
            return self.events.pop(0) if self.events else None

    def content(self, delivery: Delivery, patient: Patient) -> Message:
        patient(self._fails)
        return delivery.message

    def received(self, delivery: Delivery) -> None:
        self._fails()

    def push(self, reply: Message, seconds: float, patient: Patient) -> None:
        patient(self._fails)
        with self._lock:
            self.replies.append(reply.metadata.reply_to_message_id)


def delivery(name: str, kind: str = WORK, ttl: float = 60.0) -> Delivery:
    message = grid.message(content(ASK), kind=kind)
    message.metadata.__dict__["_message_id"] = name
    message.metadata.ttl = ttl
    return Delivery(message, ObjectTree(object_id=name))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_PAUSES", (0.001, 0.01))
    monkeypatch.setattr(courier, "_SOON", 0.001)
    monkeypatch.setattr(courier, "_IDLE", 0.01)


def until(what: Any) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.002)


def running(fleet: Fleet, station: Station, told: list[str]) -> tuple[Courier, threading.Thread]:
    there = Courier(fleet, station, told.append)  # type: ignore[arg-type]
    thread = threading.Thread(target=there.run, daemon=True)
    thread.start()
    return there, thread


EVENT = st.one_of(
    st.integers(0, 5),
    st.sampled_from([Away("no connection"), Away("no answer in time"), Shut("x")]),
)


@settings(deadline=None, max_examples=40)
@given(events=st.lists(EVENT, max_size=25))
def test_whatever_comes_goes_and_comes_again_every_message_is_answered(events: list[Any]) -> None:
    """A message handed out again is one of the same name: it is answered again, unless its first
    answer is still on the way."""
    fleet = Fleet([delivery(str(e)) if isinstance(e, int) else e for e in events])
    there, thread = running(fleet, Station(), [])
    try:
        until(lambda: fleet.joined and not fleet.events and not there._carried)
    finally:
        there.stop()
        thread.join(10)
    names = [str(e) for e in events if isinstance(e, int)]
    assert set(fleet.replies) == set(names)
    assert len(fleet.replies) <= len(names)
    assert fleet.left == 1


def test_a_message_that_is_handed_out_twice_while_it_is_worked_is_worked_once() -> None:
    work = threading.Event()
    fleet, station = Fleet([delivery("a"), delivery("a"), delivery("b")]), Station(work)
    there, thread = running(fleet, station, [])
    until(lambda: station.asked == 2 and not fleet.events)
    work.set()
    until(lambda: len(fleet.replies) == 2)
    there.stop()
    thread.join(10)
    assert sorted(fleet.replies) == ["a", "b"]


def test_no_more_messages_are_taken_than_the_station_listens_to_and_heartbeats_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(courier, "_BEAT", 0.0)
    work = threading.Event()
    fleet, station = Fleet([delivery(str(i)) for i in range(3 * AT_ONCE)]), Station(work)
    there, thread = running(fleet, station, [])
    until(lambda: station.asked == AT_ONCE)
    beats = fleet.beats
    until(lambda: fleet.beats > beats + 10)
    assert len(fleet.events) == 2 * AT_ONCE
    work.set()
    until(lambda: len(fleet.replies) == 3 * AT_ONCE)
    there.stop()
    thread.join(10)
    assert station.most == AT_ONCE


def test_a_coordinator_that_is_away_is_told_once_a_change() -> None:
    away = [Away("no connection") for _ in range(30)]
    other = [Away("no answer in time") for _ in range(5)]
    told: list[str] = []
    there, thread = running(fleet := Fleet([*away, *other]), Station(), told)
    until(lambda: fleet.joined)
    there.stop()
    thread.join(10)
    assert len([line for line in told if "out of reach" in line]) == 2
    assert len([line for line in told if "reached again" in line]) == 1


def test_pauses_grow_to_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(courier, "_PAUSES", (0.5, 20.0))
    monkeypatch.setattr(Courier, "_pause", lambda self, seconds: pauses.append(seconds))
    there, thread = running(fleet := Fleet([Away("x") for _ in range(40)]), Station(), [])
    until(lambda: fleet.joined)
    there.stop()
    thread.join(10)
    assert all(0 < p <= 20.0 for p in pauses)
    assert pauses[0] <= 0.5
    assert max(pauses) >= 10.0


def test_an_answer_waits_for_the_coordinator_but_no_longer_than_its_message_lives() -> None:
    told: list[str] = []
    work = threading.Event()
    fleet = Fleet([delivery("short", ttl=0.2), delivery("long")])
    there, thread = running(fleet, Station(work), told)
    until(lambda: len(there._carried) == 2)
    with fleet._lock:
        fleet.events = [Away("no connection") for _ in range(200)]
    work.set()
    until(lambda: fleet.replies == ["long"])
    there.stop()
    thread.join(10)
    assert any("could not be delivered in its time" in line for line in told)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Away("its certificate is not accepted: certificate has expired", True), "R08"),
        (FederationError("R11", "another protocol"), "R11"),
    ],
)
def test_what_no_patience_mends_ends_the_courier(failure: Exception, code: str) -> None:
    there = Courier(Fleet([failure]), Station(), lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(FederationError) as error:
        there.run()
    assert error.value.code == code


def test_a_certificate_that_expires_later_is_waited_for() -> None:
    told: list[str] = []
    expired = Away("its certificate is not accepted: certificate has expired", True)
    fleet = Fleet([delivery("a"), expired, expired, delivery("b")])
    there, thread = running(fleet, Station(), told)
    until(lambda: sorted(fleet.replies) == ["a", "b"])
    there.stop()
    thread.join(10)
    assert any("certificate has expired" in line for line in told)


def test_a_courier_that_is_not_let_in_gives_up_after_its_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(courier, "PATIENCE", 0.05)
    monkeypatch.setattr(Courier, "_pause", lambda self, seconds: time.sleep(0.01))
    told: list[str] = []
    there = Courier(Fleet([Shut("no")] * 1000), Station(), told.append)  # type: ignore[arg-type]
    with pytest.raises(FederationError) as error:
        there.run()
    assert error.value.code == "R10"
    assert len([line for line in told if "not let in yet" in line]) == 1


def test_a_run_that_is_over_costs_nothing() -> None:
    told: list[str] = []
    fleet = Fleet([delivery("a")])
    fleet.content = lambda *_: (_ for _ in ()).throw(RunOver())  # type: ignore[method-assign]
    there, thread = running(fleet, Station(), told)
    until(lambda: any("it is over" in line for line in told))
    there.stop()
    thread.join(10)
    assert fleet.replies == []


def test_a_courier_speaks_the_protocol_of_one_flower_and_starts_with_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert fleet_module.package_version.startswith(f"{fleet_module.FLOWER}.")
    monkeypatch.setattr(fleet_module, "package_version", "1.42.0")
    with pytest.raises(FederationError, match=r"Flower 1\.42\.0 is installed") as error:
        fleet_module.Fleet("127.0.0.1:1", tmp_path / "ca.pem", tmp_path / "courier.key")
    assert error.value.code == "R11"


# ---- what a message is answered with -------------------------------------------------------------


@given(
    kind=st.from_regex(r"(train|evaluate|query)(\.[a-z_]{1,9})?", fullmatch=True),
    blob=st.binary(max_size=20),
)
def test_whatever_a_message_says_the_reply_holds_a_packet_of_the_station_s_or_a_code(
    kind: str, blob: bytes
) -> None:
    def station(_: float) -> Any:
        raise RuntimeError("a patient's name")

    for asked in (kind, HELLO, WORK, SECURE):
        for inside in (content(Packet("request", blob, "", blob)), RecordDict()):
            reply = answered(grid.message(inside, kind=asked), station)
            if asked == NUDGE:
                assert not reply.content
                continue
            told = packet(reply, "updates", "hello", "secured")
            assert b"patient" not in told.text + told.blob
            assert told.signature == ""
            assert any(f'"{code}"'.encode() in told.text for code in ("W02", "X01"))
    assert {"W02", "X01"} <= CODES.keys()


def test_a_message_that_cannot_be_answered_is_passed_over() -> None:
    fleet, told = Fleet([delivery("a"), WireError("W02", "no address"), delivery("b")]), list[str]()
    there, thread = running(fleet, Station(), told)
    until(lambda: sorted(fleet.replies) == ["a", "b"])
    there.stop()
    thread.join(10)
    assert any("no address" in line for line in told)


def test_a_message_that_is_not_whole_is_refused_with_its_code() -> None:
    class Broken(Fleet):
        def content(self, delivery: Delivery, patient: Patient) -> Message:
            raise WireError("W02", "not whole")

        def push(self, reply: Message, seconds: float, patient: Patient) -> None:
            assert b'"W02"' in packet(reply, "updates").text
            super().push(reply, seconds, patient)

    fleet, station, told = Broken([delivery("a")]), Station(), list[str]()
    there, thread = running(fleet, station, told)
    until(lambda: fleet.replies == ["a"])
    there.stop()
    thread.join(10)
    assert station.asked == 0
