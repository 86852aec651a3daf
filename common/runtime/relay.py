"""Relay between two sockets: bytes are passed on in both directions, unread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

_BUFFER = 1 << 18


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
    """Whoever connects to a listening socket speaks with what `connect` reaches. Use as a
    context; the listening socket is closed at its end."""

    def __init__(self, listening: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self._listening, self._connect = listening, connect
        self._thread = threading.Thread(target=self._accept, daemon=True, name="relay")

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
        self._thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._carry, args=(caller,), daemon=True, name="relay").start()

    def _carry(self, caller: socket.socket) -> None:
        """Where nobody is at the other end, the caller sees its connection closed."""
        with caller, suppress(OSError), self._connect() as there:
            join(caller, there)
