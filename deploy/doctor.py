"""Self-check of a site's network and keys (the courier's half), and how it is joined with the
station's: each runs where its process runs.

The courier's half opens one connection: a GET of the coordinator's health page, which tells its
version. Nothing about data is in it.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from packaging.version import Version

from common import __version__
from common.errors import FedmetsError
from common.runtime.health_check import Finding, faults
from deploy import kit, pki

SKEW = 30.0
"""Seconds by which clocks may differ: Flower's node authentication takes no more."""


def reach(folder: Path, now: datetime.datetime) -> list[Finding]:
    """From a courier: names, proxy, certificate, coordinator, clock, versions."""
    try:
        own_kit = kit.check(folder)
    except FedmetsError as error:
        return faults(
            "kit", error, "enrol again, with the fingerprint that the coordinator reads out"
        )
    out = [
        Finding(
            "kit",
            "ok",
            f"'{own_kit.site}' in '{own_kit.federation}', fingerprint {kit.fingerprint(folder)}",
        )
    ]
    out.append(
        _expiry(
            "authority",
            pki.days_left(folder / "ca.pem", now),
            "ask the coordinator for the new ca.pem",
        )
    )
    try:
        pki.node_public(folder / "courier.key")
    except FedmetsError as error:
        out += faults("kit", error, "make the courier's key again: fedmets deploy enroll")
    proxy = urllib.request.getproxies().get("https", "")
    bypassed = bool(proxy) and bool(urllib.request.proxy_bypass(own_kit.host))
    if proxy and not bypassed:
        out.append(Finding("proxy", "note", f"through {proxy.rpartition('@')[2]}"))
    else:
        try:
            addresses = sorted(
                {
                    str(i[4][0])
                    for i in socket.getaddrinfo(own_kit.host, own_kit.port, type=socket.SOCK_STREAM)
                }
            )
            out.append(Finding("name", "ok", f"{own_kit.host} is {', '.join(addresses)}"))
        except OSError as error:
            do = f"have your name server know {own_kit.host}, or add it to the hosts file"
            return [
                *out,
                Finding(
                    "name", "fault", f"{own_kit.host} cannot be resolved ({error.strerror})", do
                ),
            ]
    return out + _connection(folder, own_kit, now, proxy=proxy if not bypassed else "")


def _connection(
    folder: Path, own_kit: kit.Kit, now: datetime.datetime, proxy: str
) -> list[Finding]:
    import ssl

    import httpx

    address = f"{own_kit.host}:{own_kit.port}"
    way = f"let {address} out through the firewall" + (
        f", or mend the proxy {proxy.rpartition('@')[2]}" if proxy else ""
    )
    try:
        trusted = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        with (
            httpx.Client(verify=trusted, timeout=15) as client,
            client.stream("GET", f"https://{address}/health") as answer,
        ):
            until = (
                answer.extensions["network_stream"]
                .get_extra_info("ssl_object")
                .getpeercert()["notAfter"]
            )
            answer.read()
    except httpx.ProxyError as error:
        return [
            Finding("proxy", "fault", f"the proxy does not pass on to {address} ({error})", way)
        ]
    except httpx.ConnectError as error:
        if (
            isinstance(error.__cause__, ssl.SSLError)
            or "CERTIFICATE" in str(error).upper()
            or "SSL" in str(error).upper()
        ):
            do = (
                "do not go on: somebody stands between (an inspecting proxy?), or the "
                "certificate has expired; ask by telephone"
            )
            return [
                Finding(
                    "certificate",
                    "fault",
                    f"{address} does not show a certificate by the kit's authority ({error})",
                    do,
                )
            ]
        return [Finding("connection", "fault", f"{address} cannot be reached ({error})", way)]
    except httpx.HTTPError as error:
        return [
            Finding(
                "connection",
                "fault",
                f"{address} cannot be reached ({type(error).__name__}: {error})",
                way,
            )
        ]
    out = [Finding("connection", "ok", f"{address} answers over TLS by the kit's authority")]
    expires = datetime.datetime.strptime(until, "%b %d %H:%M:%S %Y %Z").replace(tzinfo=datetime.UTC)
    out.append(
        _expiry(
            "certificate",
            (expires - now).total_seconds() / 86_400,
            "the coordinator must renew it: fedmets deploy renew",
        )
    )
    try:
        declared = answer.json()
        version, federation = Version(str(declared["fedmets"])), str(declared["federation"])
    except (ValueError, KeyError, TypeError):
        return [
            *out,
            Finding(
                "coordinator",
                "fault",
                f"{address} answers, but not as a coordinator (status {answer.status_code})",
                "ask the coordinator",
            ),
        ]
    if federation != own_kit.federation:
        out.append(
            Finding(
                "coordinator",
                "fault",
                f"{address} serves '{federation}', the kit is for '{own_kit.federation}'",
                "ask the coordinator",
            )
        )
    own_version = Version(__version__)
    same = version == own_version
    do = ""
    if not same:
        do = (
            f"update to {version}"
            if version > own_version
            else "the coordinator must update, or you take its version"
        )
    out.append(
        Finding(
            "version", "ok" if same else "fault", f"fedmets {__version__} here, {version} there", do
        )
    )
    date = (
        email.utils.parsedate_to_datetime(answer.headers["date"])
        if "date" in answer.headers
        else now
    )
    skew = (now - date).total_seconds()
    do = (
        ""
        if abs(skew) <= SKEW
        else "set this machine's clock (NTP): sign-in fails with a wrong one"
    )
    out.append(
        Finding(
            "clock",
            "ok" if abs(skew) <= SKEW else "fault",
            f"{skew:+.0f} s against the coordinator's",
            do,
        )
    )
    return out


def _expiry(check: str, days: float, do: str) -> Finding:
    if days < 0:
        return Finding(check, "fault", f"expired {-days:.0f} days ago", do)
    if days <= pki.WARN_DAYS:
        return Finding(check, "warning", f"valid for {days:.0f} days", do)
    return Finding(check, "ok", f"valid for {days:.0f} days")


def joined(folder: Path, socket: Path, compose: str) -> list[Finding]:
    """Both halves, each in the place of its process: by compose, or as processes of this machine
    (the station's without a network)."""
    if compose:
        run = [*compose.split(), "run", "--rm", "-T", "--no-deps"]
        station = [
            *run,
            "--entrypoint",
            "fedmets",
            "station",
            "client",
            "check",
            "--site",
            "/kit/site.toml",
            "--json",
        ]
        courier = [*run, "--entrypoint", "fedmets", "courier", "deploy", "reach", "/kit", "--json"]
    else:
        python = [sys.executable, "-m", "fedmets"]
        isolated = ["unshare", "--net", "--map-root-user"] if shutil.which("unshare") else []
        station = [
            *isolated,
            *python,
            "client",
            "check",
            "--site",
            str(folder / "site.toml"),
            "--socket",
            str(socket),
            "--json",
        ]
        courier = [*python, "deploy", "reach", str(folder), "--json"]
    return [
        *half("station", station, folder if compose else None),
        *half("courier", courier, folder if compose else None),
    ]


def half(name: str, command: Sequence[str], cwd: Path | None) -> list[Finding]:
    """What one half says; a half that cannot be run is a fault, not a gap."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=1800, env=os.environ
        )
        rows = json.loads(done.stdout.strip().splitlines()[-1])["findings"]
        return [Finding.of(row) for row in rows]
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        subprocess.TimeoutExpired,
    ) as error:
        text = (
            done.stderr.strip()[-400:]
            if "done" in locals() and not isinstance(error, subprocess.TimeoutExpired)
            else str(error)
        )
        return [
            Finding(
                name,
                "fault",
                f"its half could not be run: {text}",
                f"run it by hand: {' '.join(command)}",
            )
        ]
