"""Coordinator's open door: a TLS proxy in front, Flower's SuperLink behind it, and the list of
enrolled nodes kept in step. No key that signs anything is here: `deploy.signer` has the plan key.

The SuperLink listens on loopback alone; sites reach what `nginx.conf` lets through, and the signer
reaches it over a Unix socket. What dies is started again: the SuperLink finds its nodes and runs in
its database, and `fedmets server resume` takes a run up.
"""

from __future__ import annotations

import datetime
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from common.errors import FederationError, FedmetsError, RunError, UsageError
from common.runtime.relay import Relay
from deploy import pki
from deploy.provision import NODES
from server.config import enrolled_sites
from server.coordinator.superlink import ADDRESS, LOOPBACK, SuperLink, environment
from server.ledger import state_store

REGISTERED = "nodes.json"
SOCKET, AUTHORITY = "superlink.sock", "ca.pem"
"""In the folder that it shares with the signer: the SuperLink, and by whom its certificate is."""
_BACK_OFF = (0.5, 30.0)
_LOOK_SECONDS = 5.0
"""Seconds between looks at who is enrolled, and at the certificates."""
_DAY = 86400.0


def run(kit: Path, state: Path, link: Path, tell: Callable[[str], None]) -> None:
    """Until SIGTERM or SIGINT. All that can be wrong with the kit is said before a port is open.

    kit: the folder `door` of the coordinator's. link: the folder that it shares with the signer.
    """
    check(kit, datetime.datetime.now(datetime.UTC), tell)
    home = state / "flwr"
    home.mkdir(parents=True, exist_ok=True)
    loopback_folder = loopback(state / LOOPBACK, datetime.datetime.now(datetime.UTC))
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    host, port = ADDRESS.split(":")
    commands = {
        "SuperLink": [
            "flower-superlink", "--ssl-certfile", str(loopback_folder / "server.pem"),
            "--ssl-keyfile", str(loopback_folder / "server.key"),
            "--ssl-ca-certfile", str(loopback_folder / "ca.pem"), "--host", host, "--port", port,
            "--database", str(state / "superlink.db"), "--isolation", "process",
            "--enable-supernode-auth", "--disable-runtime-dependency-installation",
        ],
        "proxy": ["nginx", "-e", "stderr", "-c", str((kit / "nginx.conf").resolve())],
    }  # fmt: skip
    children = _Children(commands, environment(home), tell)
    flower, last_look = SuperLink(home, loopback_folder / "ca.pem"), 0.0
    last_stamp, last_warning = _stamp(kit), time.monotonic()
    opened = Relay(
        _listening(link, loopback_folder), lambda: socket.create_connection((host, int(port)))
    )
    with opened:
        try:
            while not stopping:
                children.look()
                if time.monotonic() - last_look > _LOOK_SECONDS and _listens(host, int(port)):
                    last_look = time.monotonic()
                    renewed, due = _stamp(kit) != last_stamp, last_look - last_warning > _DAY
                    try:
                        sync(flower, kit, state / REGISTERED, tell)
                        if renewed or due:
                            last_stamp, last_warning = _stamp(kit), last_look
                            check(kit, datetime.datetime.now(datetime.UTC), tell)
                        if renewed:
                            children.reload("proxy")
                    except FedmetsError as error:
                        tell(str(error))
                time.sleep(0.2)
        finally:
            tell("coordinator stops")
            children.stop()


def _listening(link: Path, loopback_folder: Path) -> socket.socket:
    """The socket for the signer, who may be another user; who may enter the folder is the
    machine's, or the containers' volumes, to say."""
    link.mkdir(parents=True, exist_ok=True)
    state_store.write(link / AUTHORITY, (loopback_folder / "ca.pem").read_bytes())
    path = link / SOCKET
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o666)
    listening.listen(64)
    return listening


def loopback(folder: Path, now: datetime.datetime) -> Path:
    """A certificate for the way from proxy to SuperLink inside the container, made when there is
    none for long: Flower lets no node sign in without TLS."""
    if (
        not (folder / "server.pem").exists()
        or pki.days_left(folder / "server.pem", now) < pki.WARN_DAYS
    ):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        pki.authority(folder, "loopback", now)
        pki.server(folder, ["127.0.0.1", "localhost"], now)
    return folder


def check(kit: Path, now: datetime.datetime, tell: Callable[[str], None]) -> None:
    """The door's certificates are there, fit together and are valid, and no key lies beside them
    that signs plans or certificates; C04, C05. What expires soon is told."""
    astray = [name for name in (enrolled_sites.KEY, pki.AUTHORITY_KEY) if (kit / name).exists()]
    if astray:
        raise UsageError(
            "C04",
            f"{', '.join(repr(str(kit / name)) for name in astray)} must not lie where the open "
            "port is: give the folder 'door' alone, and keep keys out of it",
        )
    for name in ("ca.pem", "server.pem"):
        days = pki.days_left(kit / name, now)
        if days < 0:
            raise FederationError(
                "R08", f"'{kit / name}' expired {-days:.0f} days ago: fedmets deploy renew"
            )
        if days <= pki.WARN_DAYS:
            tell(f"'{kit / name}' expires in {days:.0f} days: fedmets deploy renew")
    server = pki.newest(kit / "server.pem")
    if not any(_issued(server, ca) for ca in pki.certificates(kit / "ca.pem")):
        raise FederationError(
            "R08",
            f"'{kit / 'server.pem'}' is not by the authority in '{kit / 'ca.pem'}': fedmets "
            "deploy renew",
        )
    if shutil.which("nginx") is None:
        raise RunError(
            "C05",
            "the proxy 'nginx' is not installed; without it Flower's Control API would be open to "
            "every site",
        )


def _issued(server: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        server.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def sync(flower: SuperLink, kit: Path, file: Path, tell: Callable[[str], None]) -> None:
    """Those and only those whose keys lie in `nodes/` may join. A node is named by its key, so that
    a new key is a new node.

    file: what was registered as what, for Flower's list gives no names.
    """
    wanted = {f"{p.stem}-{_short(p)}": p for p in sorted((kit / NODES).glob("*.pub"))}
    listed: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    if listed.keys() == wanted.keys():
        return
    registered = flower.nodes()
    nodes = {name: node for name, node in listed.items() if node in registered}
    for name in sorted(nodes.keys() - wanted.keys()):
        flower.unregister(nodes.pop(name))
        tell(f"node {name} may no longer join")
        state_store.write(file, json.dumps(nodes).encode())
    for name in sorted(wanted.keys() - nodes.keys()):
        nodes[name] = flower.register(wanted[name], name)
        tell(f"node {name} may join")
        state_store.write(file, json.dumps(nodes).encode())


def _short(path: Path) -> str:
    return pki.fingerprint(path.read_bytes()).replace("-", "")[:8]


def _stamp(kit: Path) -> tuple[int, ...]:
    """Changes when a certificate is renewed."""
    return tuple(
        (kit / name).stat().st_mtime_ns
        for name in ("server.pem", "server.key")
        if (kit / name).exists()
    )


def _listens(host: str, port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex((host, port)) == 0


class _Children:
    """Processes that are started again when they die, after ever longer pauses while they die at
    once."""

    def __init__(
        self, commands: Mapping[str, list[str]], env: Mapping[str, str], tell: Callable[[str], None]
    ) -> None:
        self._commands, self._env, self._tell = commands, env, tell
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._since: dict[str, float] = {}
        self._pause: dict[str, float] = {}

    def look(self) -> None:
        for name, command in self._commands.items():
            child = self._running.get(name)
            if child is not None and child.poll() is not None:
                del self._running[name]
                lasted = time.monotonic() - self._since[name]
                self._pause[name] = (
                    _BACK_OFF[0]
                    if lasted > 60
                    else min(2 * self._pause.get(name, _BACK_OFF[0]), _BACK_OFF[1])
                )
                self._tell(
                    f"the {name} has ended with status {child.returncode}; started again in "
                    f"{self._pause[name]:g} s"
                )
                self._since[name] = time.monotonic()
            elif child is None and time.monotonic() - self._since.get(
                name, -1e9
            ) >= self._pause.get(name, 0.0):
                self._running[name] = subprocess.Popen(command, env=self._env)
                self._since[name] = time.monotonic()

    def reload(self, name: str) -> None:
        """Let a process read its files anew, without a pause for whoever is connected."""
        if name in self._running:
            self._running[name].send_signal(signal.SIGHUP)
            self._tell(f"the {name} shows the new certificate")

    def stop(self) -> None:
        for child in self._running.values():
            child.terminate()
        for child in self._running.values():
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
