"""Courier of a site: carries messages from the coordinator to the station and the answers back, until
it is stopped.

One thread looks for messages and sends heartbeats; each message has a thread of its own, so that
heartbeats and other messages go on while the station works, for hours if it must. What the
coordinator ships beside messages is never fetched (`client.courier.fleet`). Where the SuperLink is
away, every request is made again, after pauses that grow to a bound: an answer that is ready waits
until it can be delivered, or nobody waits for it any more.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

from flwr.app import Message

from client.courier.carrier import KINDS, Station, answered, refused
from client.courier.fleet import ONLINE, Away, Delivery, Fleet, Patient, RunOver, Shut
from common.errors import FederationError, WireError
from common.wire.flower_records import NUDGE

AT_ONCE = 4
"""Messages that are carried at a time: as many as the station listens to."""
PATIENCE = ONLINE + 15.0
"""Seconds for which a courier that is not let in asks again: a node whose process was killed is held
for online so long."""
_BEAT = 20.0
"""Seconds between heartbeats, of the 30 that are promised."""
_SOON, _IDLE, _GROWS = 0.05, 3.0, 1.25
"""Seconds until the next look for a message: after one that came or was answered; at most; and by
what it grows."""
_PAUSES = (0.5, 20.0)
"""Seconds between tries while the SuperLink is away: the first, and the longest."""
_FAREWELL = 3.0

T = TypeVar("T")


class Stopped(Exception):
    """The courier is being stopped."""


class Courier:
    """station: opens the site's station, given the seconds for which its answer is waited for.
    tell: takes a line for the site's IT."""

    def __init__(
        self, fleet: Fleet, station: Callable[[float], Station], tell: Callable[[str], None]
    ) -> None:
        self._fleet, self._station, self._tell = fleet, station, tell
        self._line = _Line(tell)
        self._over = threading.Event()
        self._wake = threading.Event()
        self._failure: BaseException | None = None
        self._free = threading.Semaphore(AT_ONCE)
        self._carried: set[str] = set()
        self._joined = False

    def run(self) -> None:
        """Until `stop`. FederationError R08, R10 or R11 where it is of no use to go on."""
        threading.Thread(target=self._work, daemon=True, name="fleet").start()
        # a thread that only waits: signals are handled at once, whatever a request waits for
        self._over.wait()
        if self._failure is not None:
            raise self._failure
        self._tell("courier stops: what is under way at the station is finished and kept there")
        if self._joined:
            leave = threading.Thread(target=self._leave, daemon=True, name="farewell")
            leave.start()
            leave.join(_FAREWELL)

    def stop(self) -> None:
        self._over.set()
        self._wake.set()

    def _leave(self) -> None:
        try:
            self._fleet.leave()
        except (Away, Shut, RunOver, FederationError):
            return  # the SuperLink notices by the heartbeats that no longer come

    def _work(self) -> None:
        try:
            self._join()
            self._look()
        except Stopped:
            return
        except BaseException as error:
            self._failure = error
        finally:
            self.stop()

    def _join(self) -> None:
        end, refusal = time.monotonic() + PATIENCE, ""
        while True:
            try:
                self._patiently(self._fleet.join)
                break
            except Shut as shut:
                if time.monotonic() > end:
                    raise FederationError(
                        "R10",
                        f"the coordinator does not let this courier in: {shut}. Ask it whether "
                        "this site is enrolled (fedmets deploy site list), and whether another "
                        "courier runs with this kit",
                    ) from shut
                if str(shut) != refusal:
                    refusal = str(shut)
                    self._tell(f"not let in yet: {shut}; asking again for {PATIENCE:.0f} s")
            self._pause(3.0)
        self._joined = True
        self._tell("courier is signed in at the coordinator")

    def _look(self) -> None:
        wait, beat = _SOON, 0.0
        while True:
            try:
                if time.monotonic() >= beat:
                    self._patiently(self._fleet.beat)
                    beat = time.monotonic() + _BEAT
                came = self._free.acquire(blocking=False) and self._next()
            except Shut as shut:
                self._tell(f"signed out by the coordinator: {shut}")
                self._join()
                continue
            wait = _SOON if came else min(wait * _GROWS, _IDLE)
            if self._wake.wait(wait):
                self._wake.clear()
                wait = _SOON
            if self._over.is_set():
                raise Stopped

    def _next(self) -> bool:
        """Begin with the next message, if there is one; give the place back if not."""
        begun = False
        try:
            delivery = self._patiently(self._fleet.pull)
            # one that is handed out twice is answered by the thread that has it
            if delivery is not None and delivery.name not in self._carried:
                self._carried.add(delivery.name)
                threading.Thread(
                    target=self._carry, args=(delivery,), daemon=True, name="message"
                ).start()
                begun = True
            return delivery is not None
        except WireError as error:
            self._tell(str(error))
            return True
        finally:
            if not begun:
                self._free.release()

    def _carry(self, delivery: Delivery) -> None:
        begun = time.monotonic()
        until = begun + delivery.message.metadata.ttl

        def patient(request: Callable[[], T]) -> T:
            return self._patiently(lambda: _when_let_in(request), until)

        told = f"run {delivery.run}: "
        try:
            reply = self._reply(delivery, patient)
            self._fleet.push(reply, time.monotonic() - begun, patient)
            kind = KINDS.get(delivery.message.metadata.message_type)
            if kind is not None:
                self._tell(f"{told}{kind} answered in {time.monotonic() - begun:.2f} s")
        except RunOver:
            self._tell(f"{told}it is over, nobody waits for this answer")
        except Away as error:
            self._tell(f"{told}an answer could not be delivered in its time: {error}")
        except Stopped:
            return
        except FederationError as error:
            self._tell(f"{told}{error}")
        except Exception as error:  # of this message alone: the others go on
            traceback.print_exception(error)
        finally:
            self._carried.discard(delivery.name)
            self._free.release()
            self._wake.set()

    def _reply(self, delivery: Delivery, patient: Patient) -> Message:
        """Only a message that has come whole is told to be received: its sender may still be at
        work on the objects of any other, and would find them gone."""
        message = delivery.message
        kind = message.metadata.message_type
        if kind not in KINDS:
            if kind != NUDGE:
                self._tell("[W02] a message of a type that no courier carries was refused")
            return answered(message, self._station)
        try:
            message = self._fleet.content(delivery, patient)
        except WireError as error:
            self._tell(str(error))
            return refused(message, error.code)
        patient(lambda: self._fleet.received(delivery))
        return answered(message, self._station)

    def _patiently(self, request: Callable[[], T], until: float = float("inf")) -> T:
        """What is asked for, however long the SuperLink is away, but no longer than `until`."""
        pause, longest = _PAUSES
        while True:
            if self._over.is_set():
                raise Stopped
            try:
                answer = request()
            except Away as away:
                if away.certificate and not self._joined:
                    raise FederationError(
                        "R08", f"the coordinator cannot be trusted: {away}"
                    ) from away
                if time.monotonic() > until:
                    raise
                self._line.down(str(away))
            else:
                self._line.up()
                return answer
            # not all couriers at once
            self._pause(min(random.uniform(0.5, 1.0) * pause, max(0.0, until - time.monotonic())))
            pause = min(2 * pause, longest)

    def _pause(self, seconds: float) -> None:
        if self._over.wait(seconds):
            raise Stopped


def _when_let_in(request: Callable[[], T]) -> T:
    """Signing in again is the other thread's: for a message the SuperLink is away meanwhile."""
    try:
        return request()
    except Shut as shut:
        raise Away(str(shut)) from shut


class _Line:
    """Whether the SuperLink is reached, told once a change."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._lock = tell, threading.Lock()
        self._why, self._since = "", 0.0

    def down(self, why: str) -> None:
        with self._lock:
            if not self._why:
                self._since = time.monotonic()
            if why != self._why:
                self._why = why
                self._tell(
                    f"the coordinator is out of reach: {why}; trying again, every "
                    f"{_PAUSES[1]:.0f} s at the latest"
                )

    def up(self) -> None:
        with self._lock:
            if self._why:
                self._why = ""
                self._tell(
                    f"the coordinator is reached again, after {time.monotonic() - self._since:.0f} s"
                )
