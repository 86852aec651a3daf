"""What federation costs the fusion, and what the image adds, on synthetic cohorts whose best
possible AUC is known.

    python -m bench.fusion [--studies liver_recurrence brain_primary] [--seeds 5] [--more OPTION ...]

Each seed is a run of `fedmets simulate` on its own cohort; figures are the within-site AUC of
patient pairs. Goals: pooled minus federated at most 0.02, its upper 95 % limit (t, over the seeds)
at most 0.04; federated fusion at least 85 % of the way from 0.5 to the generator's ceiling on that
very cohort; fusion minus clinical, and minus image, with limits over the seeds above 0.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

ROOT = Path(__file__).resolve().parent.parent


def run(study: str, seed: int, folder: Path, more: Sequence[str]) -> tuple[dict[str, Any], Path]:
    command = [
        sys.executable,
        "-m",
        "simulation",
        "--study",
        study,
        "--seed",
        str(seed),
        "--out",
        str(folder),
        "--json",
    ]
    done = subprocess.run(
        [*command, "--bootstraps", "200", "--evaluations", "within_site", "--learners",
        "logistic,image,fusion", *more],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout)
    return report, next(folder.glob("*/data/truth.json"))


def auc(report: dict[str, Any], model: str, arm: str) -> float:
    for r in report["results"]:
        if (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]) == (
            model,
            arm,
            "within_site",
            "all",
            "auc",
        ):
            return float(r["value"])
    raise SystemExit(f"the report has no AUC of {model}, {arm}")


def limits(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", nargs="+", default=["liver_recurrence", "brain_primary"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--more", nargs=argparse.REMAINDER, default=[], help="options for the simulation"
    )
    given = parser.parse_args()
    for study in given.studies:
        rows = []
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as name:
                report, truth = run(study, seed, Path(name), given.more)
                told = json.loads(truth.read_text())
            one = {
                (m, a): auc(report, m, a)
                for m in ("clinical", "image", "fusion")
                for a in ("federated", "pooled")
            }
            ceiling = float(told["cohort_ceilings"]["fusion"])
            reached = (one["fusion", "federated"] - 0.5) / (ceiling - 0.5)
            rows.append((one, reached))
            figures = ", ".join(
                f"{m} {one[m, 'federated']:.3f} ({one[m, 'pooled']:.3f} pooled)"
                for m in ("clinical", "image", "fusion")
            )
            print(
                f"{study} seed {seed}: {figures}; ceiling {ceiling:.3f}, reached {reached:.0%}; "
                f"{report['seconds']:.0f} s",
                flush=True,
            )
        print(f"{study}, {len(rows)} seeds, mean [95 % limits]:")
        print(
            "  fusion, pooled minus federated: "
            f"{limits([o['fusion', 'pooled'] - o['fusion', 'federated'] for o, _ in rows])}"
        )
        for model in ("clinical", "image"):
            print(
                f"  federated fusion minus {model}: "
                f"{limits([o['fusion', 'federated'] - o[model, 'federated'] for o, _ in rows])}"
            )
        print(f"  share of (ceiling - 0.5) reached: {limits([r for _, r in rows])}", flush=True)


if __name__ == "__main__":
    main()
