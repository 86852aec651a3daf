"""Socket server of the station: `fedmets client serve --site site.toml --socket
/run/fedmets/station.sock`.

The station holds patient data and has no network: it looks, and refuses to start where there is an
interface but loopback. Its socket lies in a folder that is its user's alone, and whoever connects
is asked of the kernel (SO_PEERCRED): only the same user gets through to the gRPC server behind,
which takes packets and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client.site import site_file
from client.station.durable_state import opened
from client.station.socket_client import METHOD, OPTIONS
from client.station.station import Station
from common.errors import RunError, UsageError, WireError
from common.runtime import network, relay
from common.runtime.threads import fix_threads
from common.wire import manifest
from common.wire.framing import assemble, frames

SERVICE = METHOD.split("/")[1]
LEASE = 0.8
"""Share of a caller's patience after which the station says what is done by then, and goes on."""
MOST_PATIENCE = 24 * 3600.0
"""Seconds that a caller waits at most, whatever it says."""
HANDOVER = 30.0
"""Seconds in which a packet must have come whole, and its answer must have been taken."""
_LIMITS = (
    # seconds that a connection may be open without a call, or without having become one
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 5_000),
)


def serve(path: Path, at: Path, *, tell: Callable[[str], None]) -> None:
    """Serve the site of `path` at the socket `at` until SIGTERM or SIGINT. All that can be wrong is
    found before the socket exists."""
    check_path(at)
    network.alone()
    fix_threads()
    site = site_file.load(path)
    check_kit(path.parent, site.coordinator)
    with _locked(site.state), opened(site) as memory, ThreadPoolExecutor(1, "work") as at_work:
        station = Station(site, memory, at_work)
        station.check()
        with Gate(station, at):
            tell(f"station of '{site.name}' listens at {at}")
            stop = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            stop.wait()
            tell("station stops: no more plans are begun, one that is being worked on is finished")
            station.stop()


def check_kit(folder: Path, coordinator: str) -> None:
    """C04 where a file of the kit that the site file came with is not as the pinned coordinator
    signed it; the files that IT edits are its own. A site file of another origin has no kit."""
    if not (folder / manifest.NAME).exists():
        return
    faults = manifest.in_use(folder, coordinator)
    if faults:
        raise UsageError("C04", *(f"{fault}; take the kit's file again" for fault in faults))


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """An exclusive lock on the site's state: two stations would answer a plan twice (C05)."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(state / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError as error:
        raise RunError(
            "S03", f"'{state}' cannot be written ({error.strerror}); mend `state` in the site file"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                "C05",
                f"another station is at work on '{state}'; stop it first, or give this site a "
                "state of its own",
            ) from error
        yield
    finally:
        os.close(handle)


class Gate:
    """The socket, who may pass it, and the gRPC server behind it. Use as a context."""

    def __init__(self, station: Station, at: Path) -> None:
        self._station, self._at = station, at
        self._inner = tempfile.TemporaryDirectory(prefix="fedmets-")
        self._behind = Path(self._inner.name) / "grpc.sock"
        self._server = grpc.server(
            ThreadPoolExecutor(4, "requests"),
            options=(*OPTIONS, *_LIMITS),
            maximum_concurrent_rpcs=8,
        )
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self._answer
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE, {METHOD.split("/")[2]: handler})]
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._outer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._relay = relay.Relay(self._outer, self._inside, self._lets_in)

    def __enter__(self) -> Gate:
        own(self._at.parent)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(self._at)) == 0:
                self._inner.cleanup()
                self._outer.close()
                raise RunError(
                    "C05",
                    f"another station listens at '{self._at}'; stop it first, or choose another "
                    "--socket",
                )
        self._server.add_insecure_port(f"unix:{self._behind}")
        self._server.start()
        for name in ("", SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._at.unlink(missing_ok=True)
        self._outer.bind(str(self._at))
        self._at.chmod(0o600)
        self._outer.listen(8)
        self._relay.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._at.unlink(missing_ok=True)
        self._relay.__exit__()
        self._health.enter_graceful_shutdown()
        self._server.stop(None).wait()
        self._inner.cleanup()

    def _answer(self, pieces: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            patience = min(context.time_remaining() or MOST_PATIENCE, MOST_PATIENCE)
            with self._in_time(context, "a packet came"):
                packet = assemble(pieces)
            # in time for the answer to be carried back
            answer = self._station.answer(packet, LEASE * patience)
        except WireError as error:
            # a malformed packet: the text stays in the site's log
            self._station.note(str(error))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.code)
        with self._in_time(context, "an answer was taken"):
            yield from frames(answer)

    @contextmanager
    def _in_time(self, context: grpc.ServicerContext, what: str) -> Iterator[None]:
        """Whoever hangs half-way gives back the thread that others wait for."""

        def late() -> None:
            self._station.note(
                f"{what} by halves only: {HANDOVER:g} s are over, and the call is ended. Does the "
                "courier hang?"
            )
            context.cancel()

        timer = threading.Timer(HANDOVER, late)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _lets_in(self, caller: socket.socket) -> bool:
        _, uid, _ = struct.unpack(
            "3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        if uid != os.getuid():
            self._station.note(
                f"a connection of user {uid} was refused: the socket is for user {os.getuid()}"
            )
        return bool(uid == os.getuid())

    def _inside(self) -> socket.socket:
        """A connection to the gRPC server behind."""
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        inner.connect(str(self._behind))
        return inner


def own(folder: Path) -> None:
    """Make the folder of the socket, or see that it is ours alone (C05)."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as error:
        raise RunError(
            "C05",
            f"the socket's folder '{folder}' cannot be made ({error.strerror}); mount the shared "
            "volume there",
        ) from error
    if status.st_uid != os.getuid():
        raise RunError(
            "C05",
            f"'{folder}' belongs to user {status.st_uid}, the station runs as {os.getuid()}; chown "
            "it, or choose another --socket",
        )
    if status.st_mode & 0o077:
        raise RunError(
            "C05", f"'{folder}' is open to others (mode {status.st_mode & 0o777:o}); chmod 700 it"
        )


def check_path(at: Path) -> None:
    """A Unix socket's path has at most 107 bytes (C01)."""
    if len(os.fsencode(at)) > 107:
        raise UsageError(
            "C01",
            f"--socket {at}: a socket's path may have 107 bytes, this has {len(os.fsencode(at))}; "
            "choose a shorter one",
        )
