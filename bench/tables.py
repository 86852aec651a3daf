"""Reading a table of 200 000 rows and 60 columns: the fast way against the strict reader, a draft
of a study for it, and its cohort.

    python -m bench.tables [--rows 200000] [--repeats 3]

Each measurement is a process of its own, the ways take turns, and the imports count neither for
time nor for memory (the peak above what the process held before). Goals: reading below 5 s and 1
GB, a draft below 20 s.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
NUMBERS, CHOICES = 45, 12
WAYS = ("strict", "fast", "draft", "cohort")


def write(path: Path, rows: int) -> None:
    """A table as a registry exports it: an id, a hospital, a label, numbers of which one in twenty
    is missing, and grades."""
    draw = random.Random(1)
    names = [
        "patient_id",
        "hospital",
        "metastasis",
        *(f"value_{n}" for n in range(NUMBERS)),
        *(f"grade_{n}" for n in range(CHOICES)),
    ]
    with path.open("w") as file:
        file.write(",".join(names) + "\n")
        for row in range(rows):
            cells = [f"P{row:07d}", f"hospital {row % 50}", draw.choice(("M0", "M1"))]
            for _ in range(NUMBERS):
                cells.append(f"{draw.gauss(50, 12):.4f}" if draw.random() > 0.05 else "")
            cells += draw.choices(("low", "mid", "high"), k=CHOICES)
            file.write(",".join(cells) + "\n")


def measured(way: str, path: Path) -> None:
    """Do one thing in this process and print its seconds, CPU seconds and megabytes."""
    import pyarrow.csv  # noqa: F401

    from client.cohort.reader import read_table
    from client.table import delimited_text, readers
    from client.table.draft.study_draft import draft
    from client.table.part import Layout
    from common.study.load import load

    study = path.with_suffix(".toml")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    if way == "draft":
        study.write_text(draft(path))
    elif way == "cohort":
        loaded = load(str(study))
        read_table(loaded, next(iter(loaded.tasks)), path)
    else:
        plain = (
            mock.patch.object(delimited_text, "plainly_read", return_value=None)
            if way == "strict"
            else mock.MagicMock()
        )
        with plain:
            part = readers.read(path, Layout(), [])
        assert part is not None
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(seconds, cpu, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        measured(given.way, given.table)
        return
    figures: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        write(table, given.rows)
        for _ in range(given.repeats):
            for way in WAYS:
                command = [
                    sys.executable,
                    "-m",
                    "bench.tables",
                    "--way",
                    way,
                    "--table",
                    str(table),
                ]
                output = subprocess.run(
                    command, cwd=ROOT, check=True, capture_output=True, text=True
                ).stdout
                figures[way].append(tuple(map(float, output.split())))
        size = table.stat().st_size / 2**20
    print(
        f"{given.rows} rows x {3 + NUMBERS + CHOICES} columns, {size:.0f} MB; {given.repeats} turns"
    )
    for way, turns in figures.items():
        seconds, cpu, memory = (list(values) for values in zip(*turns, strict=True))
        print(f"{way}: {spread(seconds)} s, {spread(cpu)} CPU s, {spread(memory)} MB")
    for what, column in (("time", 0), ("memory", 2)):
        ratios = [
            fast[column] / strict[column]
            for fast, strict in zip(figures["fast"], figures["strict"], strict=True)
        ]
        print(f"fast / strict, {what}: {spread(ratios)}")


if __name__ == "__main__":
    main()
