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
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client.site import site_file
from client.station.durable_state import opened
from client.station.socket_client import METHOD, OPTIONS
from client.station.station import Station
from common.errors import RunError, UsageError, WireError
from common.runtime.threads import fix_threads
from common.wire.framing import assemble, frames

SERVICE = METHOD.split("/")[1]
LEASE = 0.8
"""Share of a caller's patience after which the station says what is done by then, and goes on."""
_UP = 0x1
_BUFFER = 1 << 18


def serve(path: Path, at: Path, *, tell: Callable[[str], None]) -> None:
    """Serve the site of `path` at the socket `at` until SIGTERM or SIGINT. All that can be wrong is
    found before the socket exists."""
    check_path(at)
    alone()
    fix_threads()
    site = site_file.load(path)
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


def alone() -> None:
    """RunError C05 unless loopback is the only interface that is up: the data has no network."""
    interfaces = [name for _, name in socket.if_nameindex() if name != "lo" and _is_up(name)]
    if interfaces:
        raise RunError(
            "C05",
            f"this process has a network ({', '.join(interfaces)}), and the station must have "
            "none: start its container with network_mode "
            "'none', a service with PrivateNetwork=yes, or by hand 'unshare --net --map-root-user'",
        )


def _is_up(name: str) -> bool:
    """A tunnel that the kernel adds to every namespace is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        reply = fcntl.ioctl(
            probe, 0x8913, struct.pack("16sH14x", name.encode()[:15], 0)
        )  # SIOCGIFFLAGS
    return bool(struct.unpack_from("H", reply, 16)[0] & _UP)


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
            ThreadPoolExecutor(4, "requests"), options=OPTIONS, maximum_concurrent_rpcs=8
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
        self._opening = threading.Thread(target=self._open, daemon=True, name="gate")

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
        self._opening.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._at.unlink(missing_ok=True)
        self._outer.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
        self._opening.join()
        self._outer.close()
        self._health.enter_graceful_shutdown()
        self._server.stop(None).wait()
        self._inner.cleanup()

    def _answer(self, pieces: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            packet, remaining = assemble(pieces), context.time_remaining()
            # in time for the answer to be carried back
            yield from frames(
                self._station.answer(packet, None if remaining is None else LEASE * remaining)
            )
        except WireError as error:
            # a malformed packet: the text stays in the site's log
            self._station.note(str(error))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.code)

    def _open(self) -> None:
        while True:
            try:
                caller, _ = self._outer.accept()
            except OSError:
                return  # closed
            _, uid, _ = struct.unpack(
                "3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )
            if uid != os.getuid():
                self._station.note(
                    f"a connection of user {uid} was refused: the socket is for user {os.getuid()}"
                )
                caller.close()
            else:
                threading.Thread(
                    target=self._join, args=(caller,), daemon=True, name="gate"
                ).start()

    def _join(self, caller: socket.socket) -> None:
        """One connection: bytes are passed on in both directions until either end has closed."""
        with caller, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inner, suppress(OSError):
            inner.connect(str(self._behind))
            back = threading.Thread(target=_pass_on, args=(inner, caller), daemon=True, name="gate")
            back.start()
            _pass_on(caller, inner)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    buffer = memoryview(bytearray(_BUFFER))
    with suppress(OSError):
        while size := source.recv_into(buffer):
            target.sendall(buffer[:size])
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


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
