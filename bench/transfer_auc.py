"""What rounding the changes of a network costs its AUC: runs of the simulation that send int8
changes against runs that send parameters.

    python -m bench.transfer_auc [--study liver_recurrence] [--seeds 5] [--first 0] [--transfer int8 ...] [--patients 180] [--more ...]

All runs of a seed have the same synthetic cohort, sites and seeds; figures are the image network's
within-site AUC of patient pairs, and the bytes between coordinator and sites. Goal: the mean AUC
within 0.005.

A third run sends parameters as they are and trains with a learning rate that is a
hundred-thousandth higher: nothing that could cost or gain anything, so what it differs by is what
any rounding at all differs by, the chance of training. After +-: the standard error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common.learners.image import Image

CONTROL = "whole, another rate"
RATE = Image().training.learning_rate
ROOT = Path(__file__).resolve().parent.parent


def run(
    study: str, seed: int, transfer: str, patients: int, more: list[str]
) -> tuple[float, float]:
    """AUC, and MB that crossed."""
    with tempfile.TemporaryDirectory() as name:
        command = [
            sys.executable,
            "-m",
            "simulation",
            "--study",
            study,
            "--seed",
            str(seed),
            "--out",
            name,
            "--json",
        ]
        command += ["--transfer", "whole" if transfer == CONTROL else transfer]
        command += [
            "--set",
            f"image.learning_rate={RATE * (1 + 1e-5 if transfer == CONTROL else 1)!r}",
        ]
        command += [
            "--bootstraps",
            "100",
            "--evaluations",
            "within_site",
            "--learners",
            "image",
            "--phantom-patients",
            str(patients),
        ]
        done = subprocess.run(
            [*command, *more],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        lines = [
            json.loads(line)
            for line in next(Path(name).glob("*/ledger.jsonl")).read_text().splitlines()
        ]
    wanted = ("image", "federated", "within_site", "all", "auc")
    rows = json.loads(done.stdout)["results"]
    auc = next(
        float(r["value"])
        for r in rows
        if (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]) == wanted
    )
    return auc, sum(
        line["sent"] + line["received"] for line in lines if line["kind"] == "exchange"
    ) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="liver_recurrence")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--transfer", nargs="+", default=["int8"])
    parser.add_argument("--patients", type=int, default=180)
    parser.add_argument(
        "--more", nargs=argparse.REMAINDER, default=[], help="options for the simulation"
    )
    given = parser.parse_args()
    rows = []
    for seed in range(given.first, given.first + given.seeds):
        one = {
            how: run(given.study, seed, how, given.patients, given.more)
            for how in ("whole", *given.transfer, CONTROL)
        }
        rows.append({how: auc for how, (auc, _) in one.items()})
        print(
            f"seed {seed}: "
            + "; ".join(f"{how} {auc:.4f}, {size:.0f} MB" for how, (auc, size) in one.items()),
            flush=True,
        )
    print(f"{len(rows)} seeds: mean AUC whole {statistics.fmean(r['whole'] for r in rows):.4f}")
    for how in (*given.transfer, CONTROL):
        off = [r[how] - r["whole"] for r in rows]
        error = statistics.stdev(off) / len(off) ** 0.5 if len(off) > 1 else float("nan")
        print(
            f"  {how} {statistics.fmean(off):+.4f} (goal within 0.005) +- {error:.4f}, by seed "
            f"{min(off):+.4f} to {max(off):+.4f}"
        )


if __name__ == "__main__":
    main()
