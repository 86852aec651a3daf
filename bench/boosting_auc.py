"""AUC of federated boosting minus AUC of ordinary pooled XGBoost, on the same patients.

    python -m bench.boosting_auc [--data DIR --study colorectal_metastasis --task preop] [--seeds 20]
        [--smallest-leaf 10]

Without --data: a synthetic table of 20 000 patients x 30 features at 5 sites that differ in size,
prevalence, feature means and missingness; a seed draws the table and the fifth that is tested. With
--data: a study's real table, each institution a site; a seed draws the five folds, every patient is
predicted once by a model that has not seen them, one AUC a seed over all patients. The interval is
the mean +- 2 standard errors over seeds; seeds share the real patients, so there it says how well
the mean over splits is known, not how far it would carry to other patients. Goals: 0.002
(synthetic), 0.005 (real).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort, Fold
from common.data.schema import Label, Number, Schema
from common.federated.learner import fit, local_plan
from common.learners.boosting import Boosting
from common.learners.preprocessing import Preprocessing
from common.types import State

PARTS = 5


def auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """The share of (event, no event) pairs that are ranked rightly; ties count half."""
    from scipy.stats import rankdata

    events = labels == 1
    ranks = rankdata(scores)
    return float(
        (ranks[events].sum() - events.sum() * (events.sum() + 1) / 2)
        / (events.sum() * (~events).sum())
    )


def synthetic(seed: int, patients: int = 20_000, columns: int = 30) -> list[Cohort]:
    """Five non-IID sites: sizes 35 % to 5 %, shifted means and intercepts, a tenth missing (more at
    small sites)."""
    r = np.random.default_rng(seed)
    numbers = [
        Number(f"x{j}", "u", 0.0, 1e4, "now", "log")
        if j % 3 == 0
        else Number(f"x{j}", "u", -30.0, 30.0, "now")
        for j in range(columns)
    ]
    schema = Schema("synthetic", tuple(numbers), Label("y", ("no", "yes")), ("now",))
    slopes = r.normal(size=columns) * (np.arange(columns) < 12) * 0.5
    out = []
    for site, share in enumerate((0.35, 0.30, 0.20, 0.10, 0.05)):
        n = int(patients * share)
        z = r.normal(size=(n, columns)) + r.normal(size=columns) * 0.4
        logit = (
            z @ slopes
            + 0.8 * z[:, 0] * z[:, 1]
            + np.abs(z[:, 2])
            - np.sin(2 * z[:, 3])
            - 2
            + r.normal() * 0.8
        )
        labels = (r.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
        x = z.copy()
        x[:, ::3] = np.minimum(np.exp(x[:, ::3] + 1), 1e4)
        x[r.random(x.shape) < 0.05 + 0.03 * site] = np.nan
        ids = tuple(f"{site}-{i}" for i in range(n))
        out.append(Cohort(f"S{site}", schema, ids, x, labels))
    return out


def real(data: Path, study: str, task: str) -> list[Cohort]:
    from client.cohort.reader import read_table
    from common.study.load import load

    reading = read_table(load(study), task, data)
    where = np.array(reading.institutions)
    out = []
    for name in sorted(set(reading.institutions)):
        part = reading.cohort.where(where == name)
        out.append(Cohort(name, part.schema, part.ids, part.values, part.labels))
    return out


def scores(
    learner: Boosting, state: State, cohorts: list[Cohort], seed: int, part: int
) -> tuple[list[float], list[int]]:
    """Predictions for the labelled patients of one hash part, and their labels."""
    p: list[float] = []
    y: list[int] = []
    for cohort in cohorts:
        test = (cohort.parts(seed, PARTS) == part) & (cohort.labels >= 0)
        p += learner.predict(state, cohort)[test, 1].tolist()
        y += cohort.labels[test].tolist()
    return p, y


def pair(
    learner: Boosting, cohorts: list[Cohort], seed: int, parts: range
) -> tuple[float, float, float, float]:
    """(federated AUC, pooled AUC, federated seconds, pooled seconds) over the out-of-fold
    predictions of `parts`."""
    both: list[list[float]] = [[], []]
    labels: list[int] = []
    seconds = [0.0, 0.0]
    for part in parts:
        fold = Fold(parts=(part,))
        plan = local_plan(fold, seed, PARTS)
        start = time.perf_counter()
        federated = fit(learner, fit(Preprocessing(), {}, cohorts, plan), cohorts, plan)
        middle = time.perf_counter()
        pooled = learner.alone(cohorts, fold, seed, PARTS)
        seconds[0] += middle - start
        seconds[1] += time.perf_counter() - middle
        for i, state in enumerate((federated, pooled)):
            p, y = scores(learner, state, cohorts, seed, part)
            both[i] += p
        labels += y
    y_all = np.array(labels)
    return auc(y_all, np.array(both[0])), auc(y_all, np.array(both[1])), seconds[0], seconds[1]


def report(title: str, rows: list[tuple[float, float, float, float]]) -> None:
    federated, pooled, *seconds = np.array(rows).T
    d = federated - pooled
    half = 2 * d.std(ddof=1) / np.sqrt(len(d)) if len(d) > 1 else float("nan")
    print(
        f"{title}: AUC federated {federated.mean():.4f}, pooled {pooled.mean():.4f}; difference "
        f"{d.mean():+.5f} "
        f"[{d.mean() - half:+.5f}, {d.mean() + half:+.5f}], range {d.min():+.4f} .. "
        f"{d.max():+.4f}, {len(d)} seeds; "
        f"median seconds a seed {np.median(seconds[0]):.2f} / {np.median(seconds[1]):.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of a study's real table; without it the synthetic table is used",
    )
    parser.add_argument("--study", default="colorectal_metastasis")
    parser.add_argument(
        "--task",
        action="append",
        help="a task of the study, may be repeated (default: preop and postresection)",
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--trees", type=int, help="rounds (default: 100 synthetic, the learner's own on real data)"
    )
    parser.add_argument("--depth", type=int, default=Boosting().depth)
    parser.add_argument(
        "--smallest-leaf", type=int, default=0, help="fewest patients of a leaf (default 0: any)"
    )
    given = parser.parse_args()
    leaf = given.smallest_leaf
    if given.data is None:
        learner = Boosting(trees=given.trees or 100, depth=given.depth, smallest_leaf=leaf)
        rows = [pair(learner, synthetic(seed), seed, range(1)) for seed in range(given.seeds)]
        report(f"synthetic 20 000 x 30, {learner.trees} rounds of depth {learner.depth}", rows)
        return
    trees = given.trees or Boosting().trees
    learner = Boosting(trees=trees, depth=given.depth, smallest_leaf=leaf)
    for task in given.task or ["preop", "postresection"]:
        cohorts = real(given.data, given.study, task)
        rows = [pair(learner, cohorts, seed, range(PARTS)) for seed in range(given.seeds)]
        patients = sum(int((c.labels >= 0).sum()) for c in cohorts)
        report(f"{given.study}, {task}, {patients} labelled patients at {len(cohorts)} sites", rows)


if __name__ == "__main__":
    main()
