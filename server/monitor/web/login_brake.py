"""Rate limit of wrong tokens, by address and over all: guessing is slow wherever it comes from, and
does not shut out who has shown the right one.
"""

from __future__ import annotations

import ipaddress
import time
from collections import deque
from dataclasses import dataclass, field

WINDOW_SECONDS = 60.0
MOST_BY_ADDRESS = 10
"""Wrong tokens of one address (of IPv6 a /64) in a window; then none of it is looked at."""
MOST_IN_ALL = 100
"""Wrong tokens of all addresses in a window; then none is looked at but of addresses that have
shown the right one."""
MOST_ADDRESSES = 10_000
"""Remembered, the last ones to come."""


@dataclass(frozen=True)
class Brake:
    failed_at: dict[str, deque[float]] = field(default_factory=dict)
    """Address -> when it was wrong, the newest last."""
    all_failed_at: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_IN_ALL))
    welcome: dict[str, None] = field(default_factory=dict)
    """Addresses that have shown the right token."""

    def allows(self, peer: str, now: float | None = None) -> bool:
        """May a token of this address be looked at?"""
        now, address = time.monotonic() if now is None else now, _block(peer)
        if _full(self.failed_at.get(address, deque()), MOST_BY_ADDRESS, now):
            return False
        return address in self.welcome or not _full(self.all_failed_at, MOST_IN_ALL, now)

    def failed(self, peer: str, now: float | None = None) -> None:
        now, address = time.monotonic() if now is None else now, _block(peer)
        times = self.failed_at.pop(address, deque[float](maxlen=MOST_BY_ADDRESS))
        times.append(now)
        self.all_failed_at.append(now)
        self.failed_at[address] = times
        if len(self.failed_at) > MOST_ADDRESSES:
            del self.failed_at[next(iter(self.failed_at))]

    def passed(self, peer: str) -> None:
        address = _block(peer)
        self.welcome.pop(address, None)
        self.welcome[address] = None
        if len(self.welcome) > MOST_ADDRESSES:
            del self.welcome[next(iter(self.welcome))]


def _full(times: deque[float], most: int, now: float) -> bool:
    """Were the last `most` within a window?"""
    return len(times) >= most and now - times[-most] < WINDOW_SECONDS


def _block(peer: str) -> str:
    """An address, of IPv6 the network that one subscriber has; '' over a Unix socket."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
