"""Web service of the monitor: Starlette on uvicorn, at a port or a Unix socket. It reads ledgers,
and has no way to change anything."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import RunError
from server.monitor.json_log import Log
from server.monitor.terminal import brief
from server.monitor.view import View
from server.monitor.web.access import COOKIE, SESSION_SECONDS, Access, RequestOrigin
from server.monitor.web.event_stream import Feed, Feeds
from server.monitor.web.login_brake import WINDOW_SECONDS
from server.monitor.web.prometheus import NEWEST_RUNS, Collected
from server.monitor.web.request_timeout import TimelyProtocol

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
        "data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MOST_WATCHERS = 500
"""Browsers that watch at a time."""
_LOGIN_BYTES = 4096
"""Bytes of a login."""
LOGIN_SECONDS = 10.0
"""Seconds in which a login's body must have come."""
_ASSETS = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "charts.js": "text/javascript",
    "login.css": "text/css",
}


def run(folder: Path, access: Access, host: str, port: int, socket: str, log: Log) -> int:
    """Until SIGTERM or SIGINT; returns the exit status."""
    if not folder.is_dir():
        raise RunError("S01", f"there is no folder '{folder}'; say where the runs are: --out DIR")
    address = (
        f"unix:{socket}" if socket else f"http://{f'[{host}]' if ':' in host else host}:{port}"
    )
    config = uvicorn.Config(
        app(folder, access, log), host=host, port=port, log_config=None, access_log=False,
        proxy_headers=False, http=TimelyProtocol,
        ws="none",  # another protocol would have none of this one's limits
        server_header=False, timeout_graceful_shutdown=2, lifespan="on",
    )  # fmt: skip
    server = uvicorn.Server(config)
    listening = [_socket(socket, group=bool(access.header))] if socket else None
    log.event("info", "monitor_started", at=address, runs=str(folder))
    print(f"{address}  (runs in {folder}; Ctrl-C ends it)", flush=True)
    try:
        # Ctrl-C is how it is ended; uvicorn says by SystemExit that it cannot listen
        with suppress(KeyboardInterrupt, SystemExit):
            server.run(sockets=listening)
    finally:
        if socket:
            Path(socket).unlink(missing_ok=True)
    if not server.started:
        raise RunError(
            "S03", f"cannot listen at {address}; is something else there? choose another --port"
        )
    log.event("info", "monitor_stopped")
    return 0


def _socket(path: str, group: bool) -> sockets.socket:
    """Its maker's alone, or, where a proxy is to reach it, its group's, too: uvicorn's own would be
    everybody's."""
    listener = sockets.socket(sockets.AF_UNIX)
    try:
        if listener.connect_ex(path) == 0:
            raise OSError("somebody listens there")
        Path(path).unlink(missing_ok=True)
        listener = sockets.socket(sockets.AF_UNIX)
        before = os.umask(0o117 if group else 0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
    except OSError as error:
        raise RunError(
            "S03", f"cannot listen at unix:{path} ({error}); choose another --socket"
        ) from error
    return listener


def app(folder: Path, access: Access, log: Log | None = None) -> ASGIApp:
    feeds = Feeds(folder)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # long ledgers are read before anybody asks for them
        reading = asyncio.create_task(feeds.read(NEWEST_RUNS))
        yield
        reading.cancel()

    return Guarded(
        Starlette(routes=_Pages(feeds, access).routes(), lifespan=lifespan), access, log or Log()
    )


@dataclass(frozen=True)
class _Pages:
    """What is answered to whoever may look."""

    feeds: Feeds
    access: Access

    def routes(self) -> list[Route]:
        routes = [
            Route("/", self.page),
            Route("/runs/{name}", self.page),
            Route("/assets/{name}", self.asset),
            Route("/api/runs", self.runs),
            Route("/api/runs/{name}", self.run),
            Route("/api/runs/{name}/lines", self.lines),
            Route("/api/runs/{name}/events", self.events),
            Route("/metrics", self.metrics),
        ]
        if self.access.token:
            routes.append(Route("/login", self.login, methods=["GET", "POST"]))
        return routes

    async def page(self, request: Request) -> Response:
        return _asset("page.html", "text/html")

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        return _asset(name, _ASSETS[name]) if name in _ASSETS else _not_found()

    async def newest(self) -> list[tuple[str, View]]:
        """Name and view of the newest runs."""
        views = []
        for name in self.feeds.names()[:NEWEST_RUNS]:
            feed = self.feeds.get(name)
            if feed:
                views.append((name, await feed.look()))
        return views

    async def runs(self, request: Request) -> Response:
        return JSONResponse([brief(view) | {"name": name} for name, view in await self.newest()])

    async def run(self, request: Request) -> Response:
        feed = self._feed(request)
        return JSONResponse((await feed.look()).json()) if feed else _not_found()

    async def lines(self, request: Request) -> Response:
        feed = self._feed(request)
        if feed is None:
            return _not_found()
        before = request.query_params.get("before", "")
        lines = await feed.lines(int(before) if before.isdecimal() and len(before) < 12 else None)
        return JSONResponse([vars(line) for line in lines])

    async def events(self, request: Request) -> Response:
        feed = self._feed(request)
        if feed is None:
            return _not_found()
        if feed.watchers >= MOST_WATCHERS:
            return PlainTextResponse("too many watch this run\n", 503)
        last = request.headers.get("last-event-id", "")
        return StreamingResponse(
            feed.events(last), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def metrics(self, request: Request) -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return Response(
            generate_latest(Collected(await self.newest())), media_type=CONTENT_TYPE_LATEST
        )

    async def login(self, request: Request) -> Response:
        if request.method != "POST":
            return _asset("login.html", "text/html")
        peer = request.client.host if request.client else ""
        body = b""
        try:
            async with asyncio.timeout(LOGIN_SECONDS):
                async for piece in request.stream():
                    body += piece
                    if len(body) > _LOGIN_BYTES:
                        return PlainTextResponse("too long\n", 413, headers={"Connection": "close"})
        except TimeoutError:
            return PlainTextResponse("too slow\n", 408, headers={"Connection": "close"})
        token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        told, session = await self.access.login(token, peer)
        if told == "slow":
            return _slow()
        if told == "no":
            return _asset("login.html", "text/html", 401)
        answer = RedirectResponse("./", 303)
        secure = request.headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(
            COOKIE,
            session,
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return answer

    def _feed(self, request: Request) -> Feed | None:
        return self.feeds.get(request.path_params["name"])


def _asset(name: str, kind: str, status: int = 200) -> Response:
    return Response(files(__package__).joinpath(name).read_bytes(), status, media_type=kind)


def _slow() -> Response:
    return PlainTextResponse(
        "too many wrong tokens; wait\n",
        429,
        headers={"Retry-After": str(int(WINDOW_SECONDS)), "Connection": "close"},
    )


def _not_found() -> Response:
    return JSONResponse({"error": "there is no such run"}, 404)


class Guarded:
    """Before everything else: who asks, by which method; behind it: the headers of every answer."""

    def __init__(self, inner: ASGIApp, access: Access, log: Log) -> None:
        self._inner, self._access, self._log = inner, access, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
        if scope["type"] != "http":
            return
        request = Request(scope, receive)

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {
                    **message,
                    "headers": [
                        *message["headers"],
                        *((k.lower().encode(), v.encode()) for k, v in HEADERS.items()),
                    ],
                }
            await send(message)

        refusal = self._refusal(request)
        with suppress(ClientDisconnect):  # who has gone is owed no answer
            await (refusal or self._inner)(scope, receive, sealed)

    def _refusal(self, request: Request) -> Response | None:
        path = request.url.path
        headers = request.headers
        if request.method != "POST" and (
            headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        ):
            # nobody would read it, and it could come for ever
            return PlainTextResponse("no body\n", 400, headers={"Connection": "close"})
        entering = bool(self._access.token) and path in ("/login", "/assets/login.css")
        if request.method not in ("GET", "HEAD") and not (entering and request.method == "POST"):
            return PlainTextResponse(
                "read only\n", 405, headers={"Allow": "GET, HEAD", "Connection": "close"}
            )
        answer = self._access.answer(_origin(request, self._access.header))
        if answer == "yes" or (answer == "no" and entering):
            return None
        self._log.event(
            "warning",
            "access_refused",
            why=answer,
            path=path,
            peer=request.client.host if request.client else "socket",
        )
        if answer == "slow":
            return _slow()
        if answer == "host":
            return PlainTextResponse("this name is not one of the page's; see --name\n", 421)
        if answer == "query":
            return PlainTextResponse(
                "a token in an address ends up in logs; send it in a header, or use /login\n", 400
            )
        if self._access.token and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        return PlainTextResponse(
            "not allowed without a token or a proxy's word\n",
            401,
            headers={"WWW-Authenticate": "Bearer"},
        )


def _origin(request: Request, header: str) -> RequestOrigin:
    kind, _, bearer = request.headers.get("authorization", "").partition(" ")
    return RequestOrigin(
        peer=request.client.host if request.client else "",
        host=request.headers.get("host", ""),
        bearer=bearer.strip() if kind.lower() == "bearer" else "",
        cookie=request.cookies.get(COOKIE, ""),
        user=request.headers.get(header, "") if header else "",
        query=request.url.query,
    )
