"""Network interfaces of this process's namespace: none but loopback, for what must not have a
network."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress

from common.errors import RunError

_UP = 0x1
_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914
"""SIOCGIFFLAGS and SIOCSIFFLAGS, netdevice(7)."""


def alone() -> None:
    """RunError C05 unless loopback is the only interface that is up: neither patient data nor the
    key that signs plans has a network."""
    interfaces = [name for _, name in socket.if_nameindex() if name != "lo" and is_up(name)]
    if interfaces:
        raise RunError(
            "C05",
            f"this process has a network ({', '.join(interfaces)}), and must have none: start its "
            "container with network_mode 'none', a service with PrivateNetwork=yes, or by hand "
            "'unshare --net --map-root-user'",
        )


def is_up(name: str) -> bool:
    """A tunnel that the kernel adds to every namespace is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return bool(_flags(probe, name) & _UP)


def loopback_up() -> None:
    """A new namespace begins with loopback down; a container's engine has set it up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(PermissionError):
        up = _flags(probe, "lo") | _UP
        fcntl.ioctl(probe, _SET_FLAGS, struct.pack("16sH14x", b"lo", up))


def _flags(probe: socket.socket, name: str) -> int:
    reply = fcntl.ioctl(probe, _GET_FLAGS, struct.pack("16sH14x", name.encode()[:15], 0))
    return int(struct.unpack_from("H", reply, 16)[0])
