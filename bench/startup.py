"""How soon a simulation is on its way: `--help`, the first exchange in the ledger, the whole
default run, and its peak memory.

    python -m bench.startup [--repeats 5] [-- options of fedmets simulate]

Each repeat is a new process in a new folder. The first exchange is found by watching the ledger
from outside, every 5 ms. Goals: `--help` below 1 s, the first exchange below 5 s after the launch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def helped() -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "simulation", "--help"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def launched(options: list[str]) -> tuple[float, float, float]:
    """Seconds to the first exchange, seconds to the end, peak resident megabytes of the process."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "output", "w+b") as output:
        start = time.perf_counter()
        command = [sys.executable, "-m", "simulation", "--out", folder, *options]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        first = None
        while first is None and process.poll() is None:
            time.sleep(0.005)
            if any(
                b'"kind":"exchange"' in path.read_bytes()
                for path in Path(folder).glob("*/ledger.jsonl")
            ):
                first = time.perf_counter() - start
        # wait4 tells the peak memory of this one child
        _, status, usage = (
            os.wait4(process.pid, 0)
            if process.returncode is None
            else (0, process.returncode, None)
        )
        if status or first is None or usage is None:
            output.seek(0)
            raise SystemExit(
                "the simulation failed: "
                f"{' '.join(command)}\n{output.read().decode(errors='replace')[-2000:]}"
            )
        return first, time.perf_counter() - start, usage.ru_maxrss / 1024


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("options", nargs="*", help="options of fedmets simulate, after --")
    given = parser.parse_args()
    print(
        f"--help: {spread([helped() for _ in range(given.repeats)])} s, {given.repeats} runs",
        flush=True,
    )
    first, whole, memory = (
        list(v) for v in zip(*(launched(given.options) for _ in range(given.repeats)), strict=True)
    )
    print(
        f"first exchange: {spread(first)} s; whole run: {spread(whole)} s; peak memory: "
        f"{spread(memory)} MB; {given.repeats} runs"
    )


if __name__ == "__main__":
    main()
