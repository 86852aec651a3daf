"""Relay between two sockets: bytes are passed on in both directions, unread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

_BUFFER = 1 << 18
MOST = 64
"""Connections of a relay at a time."""
PAUSE = 0.1
"""Seconds until it looks again whether it can take one."""


def join(one: socket.socket, other: socket.socket) -> None:
    """Until either end has closed."""
    back = threading.Thread(target=_pass_on, args=(other, one), daemon=True, name="relay")
    back.start()
    _pass_on(one, other)
    back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    buffer = memoryview(bytearray(_BUFFER))
    with suppress(OSError):
        while size := source.recv_into(buffer):
            target.sendall(buffer[:size])
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Relay:
    """Whoever connects to a listening socket, and is let in, speaks with what `connect` reaches. Use
    as a context; the listening socket is closed at its end.

    It outlives whoever connects too often: of more than `MOST` at a time the last ones are closed
    at once, and where the process has no descriptor or thread left, it waits until one is free.
    """

    def __init__(
        self,
        listening: socket.socket,
        connect: Callable[[], socket.socket],
        lets_in: Callable[[socket.socket], bool] = lambda _: True,
    ) -> None:
        self._listening, self._connect, self._lets_in = listening, connect, lets_in
        self._free, self._closing = threading.BoundedSemaphore(MOST), threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True, name="relay")

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
        self._thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                caller, _ = self._listening.accept()
            except OSError:  # closed, or no descriptor is free
                self._closing.wait(PAUSE)
                continue
            if not self._begun(caller):
                caller.close()

    def _begun(self, caller: socket.socket) -> bool:
        if not self._lets_in(caller) or not self._free.acquire(blocking=False):
            return False
        try:
            threading.Thread(target=self._carry, args=(caller,), daemon=True, name="relay").start()
        except RuntimeError:  # no thread is free
            self._free.release()
            return False
        return True

    def _carry(self, caller: socket.socket) -> None:
        """Where nobody is at the other end, the caller sees its connection closed."""
        try:
            with caller, suppress(OSError, RuntimeError), self._connect() as there:
                join(caller, there)
        finally:
            self._free.release()
