"""Access control: this machine alone by default; elsewhere whoever knows the token, or whom a proxy
that is named here vouches for."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from common.errors import UsageError
from server.monitor.web.login_brake import Brake

COOKIE = "fedmets_session"
SESSION_SECONDS = 12 * 3600.0
"""Seconds that a login lasts."""
_MOST_SESSIONS = 1000
_SHORTEST_TOKEN = 16
"""Characters of a token."""
_WRONG_LOGIN_SECONDS = 1.0
"""Seconds that a wrong login takes; one is looked at after the other."""

Try = Literal["yes", "no", "slow"]
Answer = Literal[Try, "host", "query"]


@dataclass(frozen=True)
class RequestOrigin:
    """What a request says of where it is from."""

    peer: str
    """Address; '' over a Unix socket."""
    host: str
    bearer: str
    cookie: str
    user: str
    """What the user header holds, whoever wrote it."""
    query: str


@dataclass(frozen=True)
class Access:
    """Who may look, and by what they show it."""

    token: str = ""
    header: str = ""
    proxies: frozenset[str] = frozenset()
    socket: bool = False
    names: frozenset[str] = frozenset()
    """Host names that are answered; empty: all, for a token or a proxy is demanded anyhow."""
    sessions: dict[str, float] = field(default_factory=dict)
    """Session -> until when."""
    slow: asyncio.Lock = field(default_factory=asyncio.Lock)
    brake: Brake = field(default_factory=Brake)

    @staticmethod
    def parse(
        host: str,
        socket: str,
        token_file: str,
        proxies: Sequence[str],
        header: str,
        names: Sequence[str],
    ) -> Access:
        """UsageError C01 for what would let anybody look, C04 for a token that is none."""
        faults = []
        listed = set()
        for proxy in proxies:
            try:
                listed.add(str(ipaddress.ip_address(proxy)))
            except ValueError:
                faults.append(
                    f"--proxy {proxy!r} is no address; give the proxy's IP address, once for each"
                )
        if header and not (socket or listed or proxies):
            faults.append(
                f"--user-header {header} could be written by anybody: give the proxy's address, "
                "--proxy IP, or listen at --socket"
            )
        if proxies and not header:
            faults.append(
                "--proxy says who may vouch for users, and --user-header in which header; give both"
            )
        if socket and host != "127.0.0.1":
            faults.append("--socket and --host exclude each other")
        local = bool(socket) or loopback(host)
        if not local and not token_file and not header:
            faults.append(
                f"--host {host} would show the runs to everybody who reaches it: give "
                "--token-file FILE, or --proxy IP with --user-header "
                "NAME, or listen at 127.0.0.1"
            )
        if faults:
            raise UsageError("C01", *faults)
        token = _token(Path(token_file)) if token_file else ""
        own_names = (
            {"localhost", "127.0.0.1", "::1", host}
            if local and not socket and not token and not header
            else set()
        )
        answered_names = frozenset(n.lower() for n in (*own_names, *names))
        return Access(token, header, frozenset(listed), bool(socket), answered_names)

    @property
    def demanded(self) -> bool:
        """Must whoever looks show anything?"""
        return bool(self.token or self.header)

    def answer(self, origin: RequestOrigin, now: float | None = None) -> Answer:
        if self.names and _bare(origin.host) not in self.names and not self.socket:
            return "host"
        if "token=" in origin.query.lower():
            return "query"
        if not self.demanded:
            return "yes"
        if (
            self.header
            and origin.user
            and (origin.peer == "" if self.socket else _plain(origin.peer) in self.proxies)
        ):
            return "yes"
        if self.token and self._in(origin.cookie, time.time() if now is None else now):
            return "yes"
        if self.token and origin.bearer:
            return self.tried(origin.bearer, origin.peer)
        return "no"

    def tried(self, token: str, peer: str) -> Try:
        """Is it the token? Takes as long for any; a wrong one counts against the address, and none
        is looked at ("slow") where there were too many.

        The brake is asked where the token is compared, and nowhere before: between the two others
        could come by the thousand.
        """
        if not self.brake.allows(peer):
            return "slow"
        shown, own = (hashlib.sha256(t.encode()).digest() for t in (token, self.token))
        right = hmac.compare_digest(shown, own) and bool(self.token)
        if right:
            self.brake.passed(peer)
        else:
            self.brake.failed(peer)
        return "yes" if right else "no"

    async def login(self, token: str, peer: str) -> tuple[Try, str]:
        """What a token has come to, and for the right one a new session; a wrong one takes its
        time."""
        told = self.tried(token, peer)
        if told == "no":
            async with self.slow:
                await asyncio.sleep(_WRONG_LOGIN_SECONDS)
        if told != "yes":
            return told, ""
        now = time.time()
        for old in [s for s, until in self.sessions.items() if until < now]:
            del self.sessions[old]
        while len(self.sessions) >= _MOST_SESSIONS:
            del self.sessions[next(iter(self.sessions))]
        session = secrets.token_urlsafe(32)
        self.sessions[session] = now + SESSION_SECONDS
        return told, session

    def _in(self, cookie: str, now: float) -> bool:
        # a hash table's look-up of 256 random bits tells nobody which of them were right
        return self.sessions.get(cookie, 0.0) > now


def loopback(host: str) -> bool:
    """Does only this machine reach it?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(path: Path) -> str:
    try:
        open_to = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "C04",
            f"--token-file '{path}' cannot be read ({error}); write a token of your own into it",
        ) from error
    if open_to:
        raise UsageError("C04", f"--token-file '{path}' can be read by others; chmod 600 {path}")
    if len(token) < _SHORTEST_TOKEN or any(c.isspace() for c in token):
        raise UsageError(
            "C04",
            f"--token-file '{path}' must hold one word of at least {_SHORTEST_TOKEN} characters: "
            f"openssl rand -hex 24 > {path}",
        )
    return token


def _bare(host: str) -> str:
    """A Host header without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _plain(peer: str) -> str:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
