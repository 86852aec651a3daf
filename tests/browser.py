"""A headless Chromium, driven by its own protocol over a pipe: what a page asks for, what it says,
what it looks like."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One page. `asked`: every address it wanted; `said`: what stands on its console, errors and
    broken rules among it."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out, self._rest, self._next, self._session = into, out, b"", 0, ""
        self.asked: list[str] = []
        self.said: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Network", "Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._next += 1
        message = {"id": self._next, "method": method, "params": params} | (
            {"sessionId": self._session} if self._session else {}
        )
        os.write(self._into, json.dumps(message).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") == self._next:
                assert "error" not in told, told
                return dict(told["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._out, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        raw, self._rest = self._rest.split(b"\0", 1)
        told: dict[str, Any] = json.loads(raw)
        params = told.get("params", {})
        if told.get("method") == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        if told.get("method") == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        if told.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(params["exceptionDetails"]))
        return told

    def shape(self, width: int, height: int, dark: bool = False) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        self._call("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        return self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> Any:
        """The first value of the script that is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, (script, self.said, self.run("document.body.innerText"))
            time.sleep(0.1)
        return value

    def picture(self, path: Path) -> None:
        """Of the whole page, however long."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser() -> Iterator[Page]:
    assert CHROMIUM
    down, up = os.pipe(), os.pipe()

    def pipes() -> None:
        # the protocol's ends are file descriptors 3 and 4
        os.dup2(down[0], 103)
        os.dup2(up[1], 104)
        os.dup2(103, 3)
        os.dup2(104, 4)

    with tempfile.TemporaryDirectory(prefix="fedmets-browser", ignore_cleanup_errors=True) as home:
        words = [CHROMIUM, *_QUIET, f"--user-data-dir={home}", "about:blank"]
        process = subprocess.Popen(
            words,
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down[0])
        os.close(up[1])
        try:
            yield Page(down[1], up[0])
        finally:
            process.terminate()
            process.wait(10)
            os.close(down[1])
            os.close(up[0])
