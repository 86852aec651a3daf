"""What rounding the changes of a network costs its AUC: runs of the simulation that send int8 changes against runs that send parameters.

    python -m bench.transfer_auc [--study liver_recurrence] [--seeds 5] [--transfer int8] [--patients 180] [--more OPTION ...]

Both runs of a seed have the same synthetic cohort, sites and seeds; figures are the image network's within-site AUC of patient pairs, and
the bytes between coordinator and sites. Goal: the mean AUC within 0.005.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(study: str, seed: int, transfer: str, patients: int, more: list[str]) -> tuple[float, float]:
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
            "--transfer",
            transfer,
            "--json",
        ]
        settings = ["--bootstraps", "100", "--evaluations", "within_site", "--learners", "image", "--phantom-patients", str(patients)]
        done = subprocess.run(
            [*command, *settings, *more], cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        lines = [json.loads(line) for line in next(Path(name).glob("*/ledger.jsonl")).read_text().splitlines()]
    wanted = ("image", "federated", "within_site", "all", "auc")
    rows = json.loads(done.stdout)["results"]
    auc = next(float(r["value"]) for r in rows if (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]) == wanted)
    return auc, sum(line["sent"] + line["received"] for line in lines if line["kind"] == "exchange") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="liver_recurrence")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--transfer", default="int8")
    parser.add_argument("--patients", type=int, default=180)
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="options for the simulation")
    given = parser.parse_args()
    rows = []
    for seed in range(given.seeds):
        one = {how: run(given.study, seed, how, given.patients, given.more) for how in ("whole", given.transfer)}
        (whole, all_of_it), (near, less) = one["whole"], one[given.transfer]
        rows.append((whole, near))
        print(f"seed {seed}: whole {whole:.4f}, {all_of_it:.0f} MB; {given.transfer} {near:.4f}, {less:.0f} MB", flush=True)
    means = [statistics.fmean(x) for x in zip(*rows, strict=True)]
    off = [near - whole for whole, near in rows]
    print(
        f"{len(rows)} seeds: mean AUC whole {means[0]:.4f}, {given.transfer} {means[1]:.4f}: {means[1] - means[0]:+.4f} (goal within 0.005)"
    )
    print(f"  by seed {min(off):+.4f} to {max(off):+.4f}")


if __name__ == "__main__":
    main()
