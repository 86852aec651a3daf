"""Who sends slowly, guesses, or goes away in the middle: over real sockets to a real monitor."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.monitor.web.login_brake import (
    MOST_ADDRESSES,
    MOST_BY_ADDRESS,
    MOST_IN_ALL,
    WINDOW_SECONDS,
    Brake,
)
from server.monitor.web.request_timeout import HEAD_SECONDS
from server.monitor.web.service import LOGIN_SECONDS
from tests.server.monitor import ledgers
from tests.server.monitor.web.place import events, monitor

TOKEN = "correct-horse-battery-staple"
LOGIN = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    ledgers.run(tmp_path / "runs" / "r", 3)
    return tmp_path / "runs"


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return "--token-file", str(path)


def connected(at: str, source: str = "127.0.0.1") -> socket.socket:
    port = int(at.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), 30, source_address=(source, 0))


def answer(s: socket.socket) -> bytes:
    """All that comes until the other end closes; b'' also where it resets."""
    out = b""
    try:
        while piece := s.recv(1 << 16):
            out += piece
    except ConnectionError:
        pass
    return out


def test_a_head_or_a_login_that_comes_byte_by_byte_is_not_waited_for(
    runs: Path, words: tuple[str, str]
) -> None:
    began = time.monotonic()
    with monitor(runs, *words, host="0.0.0.0") as (at, process):
        bearer = f"Authorization: Bearer {TOKEN}\r\n".encode()
        whole = b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\n" + bearer + b"\r\n"
        cases = {
            "nothing": b"",
            "head": b"GET / HTTP/1.1\r\nHost: localhost\r\n",
            "second head": whole + b"GET / HTTP/1.1\r\nX-A: ",
            "login": LOGIN + b"Content-Length: 1000\r\n\r\ntoken=",
            "chunked login": LOGIN + b"Transfer-Encoding: chunked\r\n\r\n5\r\ntoken\r\n",
        }
        sockets = {name: connected(at) for name in cases}
        for name, s in sockets.items():
            s.sendall(cases[name])
        open_, got = dict(sockets), dict.fromkeys(cases, b"")
        end = time.monotonic() + 6 * max(HEAD_SECONDS, LOGIN_SECONDS)
        while open_:
            assert time.monotonic() < end, f"still open: {sorted(open_)}"
            for name, s in list(open_.items()):
                s.settimeout(0.1)
                try:
                    if name != "nothing":
                        s.sendall(b"1\r\nx\r\n" if name == "chunked login" else b"x")
                    piece = s.recv(1 << 16)
                except TimeoutError:
                    continue
                except ConnectionError:
                    piece = b""
                got[name] += piece
                if not piece:
                    open_.pop(name).close()
        assert time.monotonic() - began >= min(HEAD_SECONDS, LOGIN_SECONDS)
        assert b" 200 " in got["second head"]
        assert b" 408 " in got["login"]
        assert b" 408 " in got["chunked login"]
        assert got["nothing"] == got["head"] == b""
        # a body that nobody would read is not waited for either
        for head in (b"Content-Length: 9", b"Transfer-Encoding: chunked"):
            with connected(at) as s:
                s.sendall(b"GET /login HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
                assert b" 400 " in answer(s)
        # and who is served is: a stream goes on for longer than a head may take
        assert process.poll() is None


def test_guesses_that_come_at_once_are_braked_like_others(
    runs: Path, words: tuple[str, str]
) -> None:
    """Their heads have all passed before the first token is there."""
    with monitor(runs, *words, host="0.0.0.0") as (at, _):
        sockets = [connected(at) for _ in range(2 * MOST_BY_ADDRESS)]
        for s in sockets:
            s.sendall(LOGIN + b"Content-Length: 40\r\n\r\n")
        time.sleep(0.5)
        for s in sockets[:-1]:
            s.sendall(b"token=a-wrong-one".ljust(40))
        time.sleep(0.5)
        # not even the right one is looked at before the window is over
        sockets[-1].sendall(f"token={TOKEN}".encode().ljust(40))
        assert b" 429 " in sockets[-1].recv(1 << 16)
        for s in sockets:
            s.close()


def test_no_other_protocol_is_spoken(runs: Path) -> None:
    upgrade = (
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\n\r\n"
    )
    with monitor(runs) as (at, process):
        with connected(at) as s:
            s.sendall(b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\n" + upgrade)
            got = s.recv(1 << 16)
        assert b" 101 " not in got
        assert b" 500 " not in got
        process.terminate()
        assert "ASGI" not in process.communicate(timeout=20)[0]


def test_a_stream_lasts_longer_than_a_head_may_take(runs: Path) -> None:
    with monitor(runs) as (at, _), events(at, "r"):
        time.sleep(HEAD_SECONDS + 1)
        with events(at, "r") as second:
            assert next(second)[1] == "full"


def test_who_goes_away_in_the_middle_is_no_traceback(runs: Path, words: tuple[str, str]) -> None:
    with monitor(runs, *words, host="0.0.0.0") as (at, process):
        bearer = f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        for text in (
            b"GET / HT",
            LOGIN + b"Content-Length: 1000\r\n\r\ntoken=",
            LOGIN + b"Content-Length: 11\r\n\r\ntoken=wrong",
            b"GET /api/runs/r/events HTTP/1.1\r\nHost: localhost\r\n" + bearer,
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + bearer,
            b"\x16\x03\x01\x02\x00\x01\x00",
        ):
            for linger in (False, True):
                with connected(at) as s:
                    s.sendall(text)
                    time.sleep(0.2)
                    if linger:  # closes with a reset
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        time.sleep(1.5)  # a wrong login takes its time
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"{at}/api/runs", headers=headers, trust_env=False).status_code == 200
        process.terminate()
        said, _ = process.communicate(timeout=20)
    assert "Traceback" not in said
    assert "Error" not in said


def asked(at: str, source: str, token: str) -> int:
    with connected(at, source) as s:
        s.sendall(
            f"GET /api/runs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        return int(answer(s).split()[1])


def test_wrong_tokens_are_braked_by_address_and_over_all(
    runs: Path, words: tuple[str, str]
) -> None:
    with monitor(runs, *words, host="0.0.0.0") as (at, _):
        assert asked(at, "127.0.0.9", TOKEN) == 200
        codes = [asked(at, "127.0.0.2", f"wrong-{n}") for n in range(MOST_BY_ADDRESS + 2)]
        assert codes == [401] * MOST_BY_ADDRESS + [429] * 2
        assert asked(at, "127.0.0.2", TOKEN) == 429, "not looked at"
        with connected(at, "127.0.0.2") as s:
            s.sendall(LOGIN + b"Content-Length: 11\r\n\r\ntoken=wrong")
            refused = answer(s)
        assert b" 429 " in refused
        assert b"retry-after" in refused.lower()
        assert asked(at, "127.0.0.3", TOKEN) == 200, "another address"
        for n in range(MOST_IN_ALL):
            asked(at, f"127.0.1.{n}", "wrong")
        assert asked(at, "127.0.0.4", TOKEN) == 429
        assert asked(at, "127.0.0.9", TOKEN) == 200, "whoever has shown it is not shut out"


ATTEMPTS = st.lists(st.tuples(st.integers(0, 25), st.floats(0, 20)), min_size=1, max_size=400)


@given(ATTEMPTS)
def test_however_guesses_are_spread_no_window_holds_more(attempts: list[tuple[int, float]]) -> None:
    brake, now, looked = Brake(), 0.0, list[tuple[float, int]]()
    for who, wait in attempts:
        now += wait / 10
        if brake.allows(f"10.0.0.{who}", now):
            brake.failed(f"10.0.0.{who}", now)
            looked.append((now, who))
    for at, who in looked:
        window = [w for t, w in looked if at <= t < at + WINDOW_SECONDS]
        assert len(window) <= MOST_IN_ALL
        assert window.count(who) <= MOST_BY_ADDRESS
    assert brake.allows("10.0.0.1", now + WINDOW_SECONDS)


def test_a_network_is_one_address_and_the_memory_is_bounded() -> None:
    brake = Brake()
    for n in range(MOST_BY_ADDRESS):
        brake.failed(f"2001:db8::{n}", 0)
    assert not brake.allows("2001:db8::ffff", 1)
    assert brake.allows("2001:db8:1::1", 1)
    for n in range(MOST_BY_ADDRESS):
        brake.failed("::ffff:10.0.0.1", n)
    assert not brake.allows("10.0.0.1", 11)
    for n in range(MOST_ADDRESSES + 50):
        brake.failed(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 20)
        brake.passed(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(brake.failed_at) == len(brake.welcome) == MOST_ADDRESSES
    assert len(brake.all_failed_at) == MOST_IN_ALL
