"""The coordinator's page at its largest: a thousand exchanges of two hundred sites. How soon it is
there, and what it takes to be watched.

    python -m bench.monitor [--exchanges 1000] [--sites 200] [--watchers 40]

A made ledger, a real process, HTTP over loopback. `cold`: a look at the very moment when the
process has started, which then waits until the whole ledger is read and verified; `warm`: every
later one. Goals: below 1 s, and memory that does not grow with rounds or watchers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import httpx

from server.ledger import ledger
from tests.server.monitor import ledgers
from tests.server.monitor.web.place import events, monitor

NEW = 100


def resident(pid: int) -> float:
    """MB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1000


def looked(client: httpx.Client) -> tuple[float, int]:
    """Seconds for the page and what it shows; bytes of that."""
    start = time.perf_counter()
    client.get("/runs/large").raise_for_status()
    whole = client.get("/api/runs/large").raise_for_status()
    return time.perf_counter() - start, len(whole.content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exchanges", type=int, default=1000)
    parser.add_argument("--sites", type=int, default=200)
    parser.add_argument("--watchers", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = ledgers.run(Path(folder) / "large", args.exchanges + NEW, args.sites, close=False)
        path = run / ledger.NAME
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-NEW]))
        with (
            monitor(Path(folder)) as (at, process),
            httpx.Client(base_url=at, trust_env=False, timeout=60) as client,
        ):
            cold, size = looked(client)
            warm = [looked(client)[0] for _ in range(9)]
            before, seen = resident(process.pid), list[int]()

            def watch() -> None:
                with events(at, "large") as told:
                    for _, _, view in told:
                        if view["run"]["step"] == args.exchanges + NEW:
                            seen.append(1)
                            return

            threads = [threading.Thread(target=watch) for _ in range(args.watchers)]
            for t in threads:
                t.start()
            with open(path, "ab", buffering=0) as file:
                for line in lines[-NEW:]:
                    file.write(line)
                    time.sleep(0.02)
            for t in threads:
                t.join(60)
            after = resident(process.pid)
        print(
            f"{args.exchanges} exchanges of {args.sites} sites, a ledger of "
            f"{sum(map(len, lines)) / 1e6:.0f} MB, {size / 1000:.0f} kB seen"
        )
        print(
            f"  cold {cold:.2f} s, warm {statistics.median(warm):.3f} s [{min(warm):.3f}, "
            f"{max(warm):.3f}] (goal 1 s)"
        )
        print(
            f"  {len(seen)} of {args.watchers} watchers saw {NEW} more exchanges; memory "
            f"{before:.0f} MB, then {after:.0f} MB"
        )


if __name__ == "__main__":
    main()
