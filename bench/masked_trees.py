"""What masks and larger leaves cost boosting: AUC, bytes and time of three runs over one table.

    python -m bench.masked_trees --data DIR [--study colorectal_metastasis] [--task preop]
        [--sites 4] [--trees 8] [--folds 3] [--smallest-leaf 10]

Each row is one `fedmets simulate` of the same virtual sites with `boosting` alone, evaluated within
sites: openly with leaves of any size; openly with leaves of at least so many patients; the same
under masks. Bytes are those that the coordinator received, seconds those of its exchanges, both by
the ledger. Times are of virtual sites that share this machine: their ratio is what to read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from server.ledger import ledger


def simulated(args: argparse.Namespace, out: str, leaf: int, *more: str) -> Path:
    """The folder of a run."""
    words = [
        sys.executable, "-m", "simulation", "--study", args.study, "--task", args.task,
        "--data", args.data, "--virtual-sites", str(args.sites), "--partition", "even",
        "--learners", "boosting", "--set", f"boosting.trees={args.trees}",
        "--set", f"boosting.smallest_leaf={leaf}", "--folds", str(args.folds),
        "--evaluations", "within_site", "--bootstraps", "100", "--out", out, "--json", *more,
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    (folder,) = Path(out).iterdir()
    return folder


def figures(folder: Path) -> dict[str, Any]:
    """AUC of the federated model with its interval; bytes and seconds of all exchanges."""
    report = json.loads((folder / "report.json").read_text())
    row = next(
        r
        for r in report["results"]
        if (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"])
        == ("boosting", "federated", "within_site", "all", "auc")
    )
    exchanges = [line for line in ledger.read(folder / ledger.NAME) if line["kind"] == "exchange"]
    card = (folder / "model" / "README.md").read_text()
    return {
        "auc": row["value"],
        "low": row["low"],
        "high": row["high"],
        "exchanges": len(exchanges),
        "bytes": sum(line["received"] for line in exchanges),
        "seconds": sum(line["seconds"] for line in exchanges),
        "leaves": next(t for t in card.splitlines() if "What the trees tell" in t),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--data", required=True)
    p.add_argument("--study", default="colorectal_metastasis")
    p.add_argument("--task", default="preop")
    p.add_argument("--sites", type=int, default=4)
    p.add_argument("--trees", type=int, default=8)
    p.add_argument("--folds", type=int, default=3)
    p.add_argument("--smallest-leaf", type=int, default=10)
    args = p.parse_args()
    print("run | AUC (95 % interval) | exchanges | MB received | seconds", flush=True)
    for name, leaf, more in (
        ("open, any leaf", 0, ()),
        (f"open, leaves >= {args.smallest_leaf}", args.smallest_leaf, ()),
        (f"masked, leaves >= {args.smallest_leaf}", args.smallest_leaf, ("--secure",)),
    ):
        with tempfile.TemporaryDirectory() as out:
            f = figures(simulated(args, out, leaf, *more))
        print(
            f"{name} | {f['auc']:.3f} ({f['low']:.3f} to {f['high']:.3f}) | {f['exchanges']} | "
            f"{f['bytes'] / 1e6:.2f} | {f['seconds']:.1f}",
            flush=True,
        )
        print(f"  {f['leaves'].removeprefix('- ')}", flush=True)


if __name__ == "__main__":
    main()
