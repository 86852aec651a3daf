"""Who may look at the page and the metrics: every way in, and every way that is none, over real
processes."""

from __future__ import annotations

import re
import socket
import stat
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from common.errors import UsageError
from server.__main__ import main
from server.monitor.web.access import COOKIE, Access, RequestOrigin
from server.monitor.web.service import HEADERS
from tests.server.monitor import ledgers
from tests.server.monitor.web.place import monitor, status

TOKEN = "correct-horse-battery-staple"
PATHS = (
    "/",
    "/runs/r",
    "/api/runs",
    "/api/runs/r",
    "/api/runs/r/lines",
    "/metrics",
    "/assets/page.js",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    ledgers.run(folder / "r", 3)
    return folder


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


def get(address: str, path: str = "/api/runs", **headers: str) -> httpx.Response:
    return httpx.get(address + path, headers=headers, trust_env=False)


def test_on_this_machine_nothing_is_needed_and_nothing_can_be_changed(runs: Path) -> None:
    with monitor(runs) as (at, _):
        for path in PATHS:
            answer = get(at, path)
            assert answer.status_code == 200
            assert {k: answer.headers[k] for k in HEADERS} == HEADERS
        assert "unsafe" not in HEADERS["Content-Security-Policy"]
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for path in ("/", "/api/runs/r", "/login"):
                assert httpx.request(method, at + path, trust_env=False).status_code == 405
        assert httpx.head(at + "/metrics", trust_env=False).status_code == 200
        for path in (
            "/api/runs/nope",
            "/api/runs/..%2f..%2fetc",
            "/api/runs/../../etc/passwd",
            "/assets/serve.py",
            "/login",
            "/runs/r/x",
        ):
            assert get(at, path).status_code == 404
        # a page of somebody else's whose name has been pointed at this machine
        for host in ("evil.example", "evil.example:8090", "127.0.0.1.evil.example", ""):
            assert get(at, host=host).status_code == 421
        assert get(at, host="localhost:1").status_code == 200
    with monitor(runs, "--name", "coordinator.example") as (at, _):
        assert get(at, host="coordinator.example").status_code == 200
        assert get(at, host="evil.example").status_code == 421


def test_elsewhere_a_token_is_demanded_and_never_in_an_address(
    runs: Path, token_file: Path
) -> None:
    with monitor(runs, "--token-file", str(token_file), host="0.0.0.0") as (at, process):
        for path in PATHS:
            assert get(at, path).status_code == 401
            assert get(at, path, authorization=f"Bearer {TOKEN}x").status_code == 401
            assert get(at, path, authorization=f"Basic {TOKEN}").status_code == 401
            assert get(at, path, authorization=f"Bearer {TOKEN}").status_code == 200
            assert get(at, f"{path}?token={TOKEN}").status_code == 400
            assert get(at, path, cookie=f"{COOKIE}={TOKEN}").status_code == 401
        assert get(at, "/", accept="text/html").headers["location"] == "/login"
        page = get(at, "/login")
        assert page.status_code == 200
        assert "<script" not in page.text
        with httpx.Client(base_url=at, trust_env=False) as browser:
            began = time.monotonic()
            assert browser.post("/login", data={"token": "wrong"}).status_code == 401
            assert time.monotonic() - began >= 1, "guessing is slow"
            assert browser.post("/login", content=b"token=" + b"x" * 9999).status_code == 413
            answer = browser.post("/login", data={"token": TOKEN})
            cookie = answer.headers["set-cookie"]
            assert answer.status_code == 303
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert TOKEN not in cookie
            assert browser.get("/api/runs").status_code == 200
            assert browser.post("/api/runs").status_code == 405
        assert process.poll() is None


def test_a_proxys_word_counts_from_its_own_address_alone(runs: Path) -> None:
    words = ("--proxy", "127.0.0.1", "--user-header", "X-Remote-User")
    with monitor(runs, *words, host="0.0.0.0") as (at, _):
        assert get(at, **{"X-Remote-User": "anna"}).status_code == 200
        assert get(at, **{"X-Remote-User": ""}).status_code == 401
        assert get(at).status_code == 401, "the proxy itself is nobody"
        # the same header from an address that is not listed
        port = int(at.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)) as s:
            s.sendall(
                b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\nX-Remote-User: anna\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
            )
            assert b" 401 " in s.recv(100)


def test_a_unix_socket_is_its_owners(runs: Path, tmp_path: Path) -> None:
    at = tmp_path / "room.sock"
    with monitor(runs, "--socket", str(at)):
        assert stat.S_IMODE(at.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(at))) as client:
            assert client.get("http://room/api/runs").status_code == 200
    with monitor(
        runs, "--socket", str(tmp_path / "proxied.sock"), "--user-header", "X-Remote-User"
    ):
        assert stat.S_IMODE((tmp_path / "proxied.sock").stat().st_mode) == 0o660
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(tmp_path / "proxied.sock"))
        ) as client:
            assert client.get("http://room/api/runs").status_code == 401
            assert (
                client.get("http://room/api/runs", headers={"X-Remote-User": "anna"}).status_code
                == 200
            )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "would show the runs to everybody"),
        (["--host", "192.168.1.5"], "would show the runs to everybody"),
        (["--host", "::"], "would show the runs to everybody"),
        (["--host", "room.example"], "would show the runs to everybody"),
        (["--user-header", "X-Remote-User"], "could be written by anybody"),
        (["--proxy", "10.0.0.1"], "give both"),
        (["--proxy", "proxy.example", "--user-header", "X-Remote-User"], "is no address"),
        (["--socket", "/tmp/x", "--host", "0.0.0.0"], "exclude each other"),
    ],
)
def test_it_does_not_start_where_anybody_could_look(
    words: list[str], said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["monitor", "--out", str(runs), *words]) == 2
    told = capsys.readouterr().err
    assert "[C01]" in told
    assert said in told


def test_a_token_must_be_one_and_be_secret(
    token_file: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> str:
        assert main(["monitor", "--out", str(runs), "--token-file", str(token_file)]) == 2
        return capsys.readouterr().err

    token_file.chmod(0o644)
    assert "can be read by others" in refused()
    token_file.chmod(0o600)
    token_file.write_text("short")
    assert "at least 16 characters" in refused()
    token_file.unlink()
    assert "[C04]" in refused()


def test_what_is_in_the_way_is_said(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["monitor", "--out", str(tmp_path / "nothing")]) == 6
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = [
            ".venv/bin/python",
            "-m",
            "server",
            "monitor",
            "--out",
            str(runs),
            "--port",
            str(taken.getsockname()[1]),
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 6
    assert "cannot listen at" in done.stderr


def test_sessions_end_and_are_not_endless_in_number() -> None:
    import asyncio

    access = Access(TOKEN)
    _, first = asyncio.run(access.login(TOKEN, "10.0.0.9"))
    asked = RequestOrigin("10.0.0.9", "room.example", "", first, "", "")
    assert access.answer(asked) == "yes"
    assert access.answer(asked, time.time() + 13 * 3600) == "no"
    for _ in range(1100):
        asyncio.run(access.login(TOKEN, "10.0.0.9"))
    assert len(access.sessions) <= 1000
    with pytest.raises(UsageError):
        Access.parse("0.0.0.0", "", "", (), "", ())


def test_the_log_has_no_token(runs: Path, token_file: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with monitor(runs, "--token-file", str(token_file), "--log", str(log), host="0.0.0.0") as (
        at,
        _,
    ):
        status(f"{at}/api/runs?token={TOKEN}")
        status(f"{at}/api/runs", headers={"authorization": "Bearer wrong"})
    text = log.read_text()
    assert text.count("access_refused") == 2
    assert not re.search(f"{TOKEN}|wrong", text)
