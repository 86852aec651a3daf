"""Socket client of the courier: carries a packet to the site's station and brings its answer back.
No torch, no learners."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc

from common.errors import WireError
from common.wire.envelope import Packet
from common.wire.framing import CHUNK, assemble, frames

METHOD = "/fedmets.Station/Answer"
OPTIONS = (
    ("grpc.max_receive_message_length", CHUNK + 65536),
    ("grpc.max_send_message_length", CHUNK + 65536),
    # a Unix socket has no host name to look up, and no proxy between its ends
    ("grpc.enable_http_proxy", 0),
)
PATIENCE = 20.0
"""Seconds that a station which is being restarted has to come back."""


class Link:
    """`seconds`: how long the station may work before the coordinator has given the answer up."""

    def __init__(self, socket: Path, seconds: float) -> None:
        self._socket, self._seconds = socket, seconds

    def answer(self, packet: Packet) -> Packet:
        """The station's answer. WireError R05: nobody is there, or it is not our station; R02: it
        has not answered in time."""
        with grpc.insecure_channel(f"unix:{self._socket}", OPTIONS) as channel:
            self._reach(channel)
            call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
            try:
                pieces: Iterator[bytes] = call(frames(packet), timeout=self._seconds)
                return assemble(pieces)
            except grpc.RpcError as error:
                code = error.code()
                if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise WireError(
                        "R02",
                        f"the station has not answered within {self._seconds:.0f} s; it goes on, "
                        "and keeps its answer",
                    ) from error
                raise WireError(
                    "R05", f"the station at '{self._socket}' broke off ({code.name}); see its log"
                ) from error

    def _reach(self, channel: grpc.Channel) -> None:
        try:
            grpc.channel_ready_future(channel).result(PATIENCE)
        except grpc.FutureTimeoutError as error:
            raise WireError(
                "R05",
                f"no station listens at '{self._socket}'; start it, or check the shared volume",
            ) from error
        # after it is reached: a station that is being restarted makes its socket anew
        for path, kind in ((self._socket, stat.S_ISSOCK), (self._socket.parent, stat.S_ISDIR)):
            status = path.stat()
            if not kind(status.st_mode) or status.st_uid != os.getuid():
                raise WireError(
                    "R05",
                    f"'{path}' belongs to user {status.st_uid}, this is {os.getuid()}: it is not "
                    "our station's",
                )
        if status.st_mode & 0o077:
            raise WireError(
                "R05",
                f"'{self._socket.parent}' is open to others (mode {status.st_mode & 0o777:o}); "
                "chmod 700 it",
            )
